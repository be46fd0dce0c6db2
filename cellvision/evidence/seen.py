"""What weights have seen, and the leak guard: nothing is tested on what it was fitted to without saying so.

A source is known by its content, by its look (images) or signatures of its values (rows, cells, traces), by its name
where that is nobody else's, and by its unit. Histories are arrays of 64-bit hashes, of sources, not of items.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cellvision.branches.signatures import hash_texts
from cellvision.core.errors import ConfigError, LeakError
from cellvision.io.images import prints
from cellvision.io.spelling import spelling

if TYPE_CHECKING:
    from cellvision.branches.items import Items

CONTENT, VALUES, NAMES, UNITS, PRINTS = "content", "values", "names", "units", "prints"
KINDS = (CONTENT, VALUES, NAMES, UNITS)  # of hashes; prints are texts
SAID = {CONTENT: "content", PRINTS: "look", VALUES: "values", NAMES: "name", UNITS: "unit"}
MOST_PRINTS = 2**16  # of a history; of more those whose hashes are the smallest
KIND_OF_SIGNATURES, AGREEING = 4, 2  # signatures of a row that cover as many values; how many of them have to be known
SIGNATURES = 2**18  # kept of a history at least; of more rows one each, the smallest, so that copies keep the same
ALIKE = 0.3  # share of rows that agree by chance; three times as many are told apart from it
SHARE_OF_NAMES = 0.1  # of the tested sources: fewer share a name by chance
SAME_DATA = 0.1  # share of all sources known, from where on a unit's name means the same in both
BARCODE = re.compile(r"[ACGTN]{12,}")
DATE = re.compile(r"(19|20)\d\d[-_.]?(0[1-9]|1[0-2])[-_.]?(0[1-9]|[12]\d|3[01])")
MIXED = re.compile(r"(?=[^\W_]{8})(?:[a-z]*\d+[a-z]+){2}", re.IGNORECASE)  # such as a hash
LONG_NUMBER, NUMBERS = 8, 7  # digits, zeros in front aside, of one number or several in a name that is nobody else's
Known = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Seen:
    """The history of some weights: sorted hashes by kind, the number of sources, and why some of it is not known.

    prints: of images, see io/images/prints.
    """

    marks: dict[str, NDArray[np.uint64]] = field(default_factory=dict)
    sources: int = 0
    unknown: tuple[str, ...] = ()
    prints: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self.sources > 0

    def __or__(self, other: Seen) -> Seen:
        marks = {kind: np.union1d(self.of(kind), other.of(kind)) for kind in KINDS}
        count = max(self.sources, other.sources, len(marks[CONTENT]))
        looks = tuple(sorted({*self.prints, *other.prints}))
        return Seen(marks, count, tuple(dict.fromkeys((*self.unknown, *other.unknown))), looks)

    def of(self, kind: str) -> NDArray[np.uint64]:
        return self.marks.get(kind, np.zeros(0, np.uint64))


@dataclass(frozen=True)
class Common:
    """What a history and tested sources share: how many of how many, by what, and what may be shared."""

    count: int
    tested: int
    by: tuple[str, ...]
    doubts: tuple[str, ...] = ()
    names: tuple[str, ...] = field(default=(), compare=False)  # of the sources in common


def of(items: Items, unit: NDArray[np.str_], rows: NDArray[np.int64]) -> Seen:
    """The history of weights that are fitted to (n,) rows of the items; unit: (items,) of every item."""
    sources = _Sources(items, unit)
    chosen = np.unique(sources.code[rows])
    signatures = single(sources.signatures, sources.unit)[chosen]
    kept = np.unique(signatures[signatures > 0])[: max(SIGNATURES, len(chosen))]
    marks = {
        CONTENT: np.unique(sources.content[chosen]),
        VALUES: kept,
        NAMES: np.unique(hash_texts(map(core, sources.names[chosen]))) if sources.named else np.zeros(0, np.uint64),
        UNITS: np.unique(hash_texts(map(spelling, np.unique(unit[rows])))),
    }
    looks = np.unique([text for text in sources.prints[chosen] if text])
    if len(looks) > MOST_PRINTS:
        looks = np.sort(looks[np.argsort(hash_texts(looks), kind="stable")[:MOST_PRINTS]])
    hashes = {kind: of_kind[of_kind > 0] for kind, of_kind in marks.items()}
    return Seen(hashes, len(chosen), prints=tuple(map(str, looks)))


def guard(
    seen: Seen, items: Items, unit: NDArray[np.str_], rows: NDArray[np.int64], what: str, transductive: bool
) -> list[str]:
    """Refuse what was fitted on sources it is now tested on; stamps, where that was asked for or cannot be known.

    rows: (n,) tested ones; unit: (items,) of every item. LeakError counts the sources in common.
    """
    common = overlap(seen, items, unit, rows)
    stamps = doubtful(seen, common)
    if not common.count:
        return stamps
    told = f"{common.count} of {{}}{common.tested} test sources, known by their {' and '.join(common.by)}"
    if not transductive:
        raise LeakError(
            f"{what} has seen {told.format('the ')}; "
            "pretrain it with this fold held out, or give --transductive, which stamps the result"
        )
    return [f"transductive: {what} has seen {told.format('')}", *stamps]


def doubtful(seen: Seen, common: Common) -> list[str]:
    """The stamps of what nobody can know."""
    return [f"history unknown: {reason}" for reason in (*seen.unknown, *common.doubts)]


def of_children(stamps: Mapping[str, Sequence[Sequence[str]]]) -> list[str]:
    """Child -> the stamps of each of its runs -> those of all, told once a kind (what stands before the colon)."""
    told = []
    for child, of_runs in stamps.items():
        kinds: dict[str, set[str]] = {}
        for stamp in (stamp for of_run in of_runs for stamp in of_run):
            kinds.setdefault(stamp.partition(":")[0], set()).add(stamp)
        for alike in kinds.values():
            more = f" (and {len(alike) - 1} more like it)" if len(alike) > 1 else ""
            told.append(f"{child}: {min(alike)}{more}")
    return told


def overlap(seen: Seen, items: Items, unit: NDArray[np.str_] | None, rows: NDArray[np.int64]) -> Common:
    """What the (n,) rows share with a history; unit: (items,) of every item, None where units are not asked for."""
    if not len(rows):
        return Common(0, 0, ())
    sources = _Sources(items, unit)
    tested = np.zeros(len(sources.names), bool)
    tested[sources.code[rows]] = True
    if not seen:
        return Common(0, int(tested.sum()), ())
    by_itself = {kind: find(seen, sources, tested) for kind, find in FINDERS.items()}
    known = np.any(list(by_itself.values()), axis=0)
    doubts = [] if known.any() else list(too_alike(seen, sources))
    if unit is not None:
        by_itself[UNITS], unsure = _by_unit(seen, sources, known, tested)
        doubts += unsure
    left, by = tested.copy(), []
    for kind, found in by_itself.items():
        by += [SAID[kind]] if (found & left).any() else []
        left &= ~found
    names = sources.names[tested & ~left]
    return Common(len(names), int(tested.sum()), tuple(by), tuple(doubts), tuple(map(str, names)))


class _Sources:
    """The sources of items: code (items,), and by source name, unit, print, content (n, k) and signatures (n, k)."""

    def __init__(self, items: Items, unit: NDArray[np.str_] | None) -> None:
        table = items.table
        names, first, self.code = np.unique(table["source_id"].to_numpy(str), return_index=True, return_inverse=True)
        self.names = names
        self.unit = names if unit is None else unit[first]
        given = table["source_print"].iloc[first].fillna("") if "source_print" in table else [""] * len(names)
        self.prints = np.array(given, dtype=object)
        marks = items.marks
        # an image is known by its look, and files are called alike everywhere
        self.named = not items.numbered and "path" not in table and len(names) == len(table)
        own = hash_texts(table["source_hash"].iloc[first])[:, None]
        self.content = np.concatenate([own, marks[CONTENT][first]], axis=1) if CONTENT in marks else own
        self.signatures = marks[VALUES][first] if VALUES in marks else np.zeros((len(names), 0), np.uint64)


def _by_content(seen: Seen, sources: _Sources, tested: Known) -> Known:
    return np.asarray(np.isin(sources.content, seen.of(CONTENT)).any(1))


def _by_look(seen: Seen, sources: _Sources, tested: Known) -> Known:
    return prints.near(list(sources.prints), seen.prints)


def _by_values(seen: Seen, sources: _Sources, tested: Known) -> Known:
    """Rows with AGREEING known signatures of a kind, where that are more than rows of other units have by chance."""
    known = np.zeros(len(tested), bool)
    every = sources.signatures
    for start in range(0, every.shape[1], KIND_OF_SIGNATURES):
        of_kind = every[:, start : start + KIND_OF_SIGNATURES]
        agree = agreeing(single(of_kind, sources.unit), seen.of(VALUES)) >= AGREEING
        chance = len(agree) * by_chance(of_kind, sources.unit, seen.sources)
        if agree.sum() > 3 * (chance + np.sqrt(chance)):
            known |= agree
    return known


def too_alike(seen: Seen, sources: _Sources) -> Iterator[str]:
    """Says so where rows of different units agree so often that a copy would not stand out."""
    every = sources.signatures
    shares = []
    for start in range(0, every.shape[1], KIND_OF_SIGNATURES):
        of_kind = every[:, start : start + KIND_OF_SIGNATURES]
        telling = ((single(of_kind, sources.unit) > 0).sum(1) >= AGREEING).mean()
        shares.append(0 if by_chance(of_kind, sources.unit, seen.sources) > ALIKE else telling)
    if shares and max(shares) < 1 - ALIKE:
        yield "rows of different units are so alike that a changed copy of them would not be known"


def agreeing(signatures: NDArray[np.uint64], known: NDArray[np.uint64]) -> NDArray[np.int64]:
    """(n, k) signatures -> (n,) how many of a row are among the known ones."""
    return np.asarray((np.isin(signatures, known) & (signatures > 0)).sum(1))


def single(signatures: NDArray[np.uint64], unit: NDArray[np.str_]) -> NDArray[np.uint64]:
    """(n, k) signatures, (n,) units -> the same, 0 where another unit shares one: it tells nobody apart."""
    if not signatures.size:
        return signatures
    number = np.unique(unit, return_inverse=True)[1]
    _, code = np.unique(signatures, return_inverse=True)
    code = code.reshape(signatures.shape)
    lowest, highest = np.full(int(code.max()) + 1, len(number)), np.full(int(code.max()) + 1, -1)
    owner = np.broadcast_to(number[:, None], code.shape)
    np.minimum.at(lowest, code, owner)
    np.maximum.at(highest, code, owner)
    return np.where((lowest == highest)[code], signatures, 0).astype(np.uint64)


def by_chance(signatures: NDArray[np.uint64], unit: NDArray[np.str_], sources: int) -> float:
    """(n, d) signatures, (n,) units -> share of rows that would agree with as many sources of other units, at most.

    Half of the units are looked up in the other half, signature by signature and row by row.
    """
    number = np.unique(unit, return_inverse=True)[1]
    first, second = (single(signatures[number % 2 == half], unit[number % 2 == half]) for half in (0, 1))
    if not len(first) or not len(second):
        return 0.0
    hits = agreeing(second, first)
    per_pair = (hits.sum() + 1) / (len(first) * len(second) * signatures.shape[1])
    expected = sources * signatures.shape[1] * per_pair
    together = (hits >= AGREEING).mean() * sources / len(first)
    return float(min(1.0, max(1 - np.exp(-expected) * (1 + expected), together)))


def _by_name(seen: Seen, sources: _Sources, tested: Known) -> Known:
    """Sources of names that nobody else gives, where more than a few agree."""
    if not sources.named:
        return np.zeros(len(tested), bool)
    found = np.isin(hash_texts(map(core, sources.names)), seen.of(NAMES))
    found &= np.array([specific(name) for name in sources.names], bool)
    return found if (found & tested).sum() > SHARE_OF_NAMES * tested.sum() else np.zeros(len(found), bool)


FINDERS = {CONTENT: _by_content, PRINTS: _by_look, VALUES: _by_values, NAMES: _by_name}


def _by_unit(seen: Seen, sources: _Sources, known: Known, tested: Known) -> tuple[Known, list[str]]:
    """Sources of units that hold a known source, or whose name is known and means the same here; and doubts."""
    touched = np.isin(sources.unit, sources.unit[known]) & ~known
    if (sources.unit == sources.names).all():  # a unit for each source says no more than the source itself
        return touched, []
    named = np.isin(hash_texts(map(spelling, sources.unit)), seen.of(UNITS))
    same_data = known.mean() >= SAME_DATA
    meant = named if same_data else named & np.array([specific(name) for name in sources.unit], bool)
    doubtful_units = sorted(map(str, set(sources.unit[named & ~meant & ~known & tested])))
    doubts = [
        f"{len(doubtful_units)} test units are named as training units were, such as {name!r}; they may be others"
        for name in doubtful_units[:1]
    ]
    return (touched | meant) & ~known, doubts


def core(name: str) -> str:
    """A barcode without what was put around it; other names without spaces around them."""
    barcode = BARCODE.search(name)
    return barcode[0] if barcode else name.strip()


def specific(name: str) -> bool:
    """A name that nobody else gives: a barcode, a hash, a long number; not `7`, `B02`, `donor 12`, or a date."""
    if BARCODE.search(name):
        return True
    name = DATE.sub("", name)
    numbers = [number.lstrip("0") for number in re.findall(r"\d+", name)]
    digits = sum(map(len, numbers))
    return digits >= (LONG_NUMBER if len(numbers) == 1 else NUMBERS) or bool(MIXED.search(name))


def told(seen: Seen) -> dict[str, Any]:
    """What encoder.json says of a history; the hashes lie beside the weights."""
    return {"sources": seen.sources, "units": len(seen.of(UNITS)), "unknown": list(seen.unknown)}


def packed(seen: Seen) -> dict[str, NDArray[Any]]:
    """A history as arrays of numbers that any file of tensors takes: int64 hashes by kind, and its facts as UTF-8."""
    text = json.dumps({"sources": seen.sources, "unknown": seen.unknown, "prints": seen.prints})
    hashes = {kind: seen.of(kind).view(np.int64) for kind in KINDS}
    return {**hashes, "facts": np.frombuffer(text.encode(), np.uint8).copy()}


def unpacked(arrays: dict[str, NDArray[Any]]) -> Seen:
    """(n,) arrays by name, as `packed` made them -> what they tell; ConfigError for others."""
    try:
        facts = json.loads(arrays["facts"].astype(np.uint8).tobytes())
        marks = {kind: np.sort(arrays[kind].astype(np.int64).view(np.uint64).ravel()) for kind in KINDS}
        looks = tuple(map(str, facts["prints"]))
        prints.near(looks[:1], looks)  # ValueError for what is no print
        return Seen(marks, int(facts["sources"]), tuple(map(str, facts["unknown"])), looks)
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"weights whose history cannot be read ({error}); train them again") from None
