"""What a row of numbers is known by, whatever else changes: 64-bit signatures of parts of it, for all branches.

A signature covers few values, coarsely, so that a copy of the row with one more column, rounded, or in another order
of rows or columns keeps most of its signatures, and another row shares next to none. 0 is no signature.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Marks = dict[str, NDArray[np.uint64]]  # kind -> (n, k), 0 where a row has none
COLUMNS = (4, 4, 4, 4, 8, 8, 8, 8, 16, 16, 16, 16)  # in each signature of a row: the more, the coarser values may be
SORTED, WIDTH = 4, 4  # signatures of a row without the names of its columns, and values in each
FEWEST = 3  # columns; rows of fewer are alike by chance
WINDOWS = 8  # signatures of a trace
POINTS = 6  # of a trace in a signature
DISTINCT = 4  # values among them, so that silence is no signature
GENES = (128, 128, 128, 128, 512, 512, 512, 512, 2048, 2048, 2048, 2048)  # whose silence makes up a cell's signatures
CHUNK = 4096  # rows at once
SORTED_VALUES = 20_000_000  # of a larger table, rows have signatures by the names of their columns alone


def hash_texts(texts: Iterable[Any]) -> NDArray[np.uint64]:
    """(n,) texts -> (n,) 64-bit hashes, the same on every machine; none is 0."""
    digests = [hashlib.blake2b(str(text).encode("utf-8", "surrogatepass"), digest_size=8).digest() for text in texts]
    return np.frombuffer(b"".join(digests), "<u8").astype(np.uint64) | np.uint64(1)


def mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """(n, …) 64-bit numbers -> (n, …), each another one that looks random (splitmix64: Steele et al. 2014)."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def two_digits(values: NDArray[Any]) -> NDArray[np.int64]:
    """(n, …) -> (n, …) whole numbers that keep sign, size and two digits, in their order; 0 for 0 and gaps."""
    size = np.abs(np.where(np.isfinite(values), values, 0).astype(np.float64))
    exponent = np.floor(np.log10(np.where(size > 0, size, 1)))
    digits = np.rint(size / 10.0 ** (exponent - 1))
    exponent += digits >= 100
    digits = np.where(digits >= 100, 10, digits)
    whole = (1000 * (exponent + 400) + digits).astype(np.int64)
    return np.where(size > 0, np.sign(values) * whole, 0).astype(np.int64)


def of_columns(values: NDArray[np.float32], names: Sequence[str]) -> NDArray[np.uint64]:
    """(n, d) values of named columns -> (n, 16): twelve of some COLUMNS, four of values whatever they are called.

    Columns are chosen by a hash of their names, so that an added column takes the place of few.
    """
    out = np.zeros((len(values), len(COLUMNS) + SORTED), np.uint64)
    if len(names) < FEWEST:
        return out
    name_hash = hash_texts(name.strip().casefold() for name in names)
    chosen = [
        np.argsort(mixed(name_hash ^ np.uint64(slot)), kind="stable")[:width] for slot, width in enumerate(COLUMNS)
    ]
    used = np.arange(len(names)) if values.size <= SORTED_VALUES else np.unique(np.concatenate(chosen))
    for rows in _chunks(len(values)):
        tokens = two_digits(values[rows][:, used])
        keys = mixed(tokens.astype(np.uint64) ^ mixed(name_hash[used]))
        for slot, columns in enumerate(chosen):
            place = np.searchsorted(used, columns)
            key = mixed(keys[:, place].sum(1, dtype=np.uint64) + np.uint64(slot))
            out[rows, slot] = np.where(tokens[:, place].any(1), key, 0)
        if len(used) == len(names) > WIDTH:
            out[rows, len(COLUMNS) :] = smallest(windows(np.sort(tokens, axis=1), WIDTH, 2), SORTED)
    return out


def of_traces(take: Callable[[NDArray[np.int64]], NDArray[np.float32]], count: int) -> NDArray[np.uint64]:
    """Traces by row, (n,) -> (n, channels, time) -> (count, 8): of a few points in a row, wherever they lie.

    A trace that is cut, moved in time, or lacks a channel keeps most of them; one that is sampled anew does not.
    """
    out = np.zeros((count, WINDOWS), np.uint64)
    for rows in _chunks(count):
        tokens = two_digits(take(rows))
        keys = [windows(tokens[:, channel], POINTS, DISTINCT) for channel in range(tokens.shape[1])]
        out[rows] = smallest(np.concatenate(keys, axis=1), WINDOWS)
    return out


def of_detected(take: Callable[[NDArray[np.int64]], Any], count: int, genes: Sequence[str]) -> NDArray[np.uint64]:
    """Sparse values by row, (n,) -> (n, genes) -> (count, 12): which of some genes are detected.

    Scaling counts changes nothing, and leaving genes out little.
    """
    from scipy.sparse import csr_matrix

    gene_hash = hash_texts(gene.strip().casefold() for gene in genes)
    weight = np.zeros((len(genes), len(GENES)), np.uint64)
    for slot, width in enumerate(GENES):
        chosen = np.argsort(mixed(gene_hash ^ np.uint64(slot)), kind="stable")[:width]
        weight[chosen, slot] = mixed(gene_hash[chosen] + np.uint64(slot))
    out = np.zeros((count, len(GENES)), np.uint64)
    for rows in _chunks(count):
        values = take(rows)
        detected = csr_matrix((np.ones(len(values.data), np.uint64), values.indices, values.indptr), values.shape)
        out[rows] = detected @ weight
    return out


def windows(tokens: NDArray[np.int64], width: int, distinct: int) -> NDArray[np.uint64]:
    """(n, d) whole numbers -> (n, d - width + 1): of each run of them, 0 where it holds fewer distinct ones."""
    if tokens.shape[1] < width:
        return np.zeros((len(tokens), 0), np.uint64)
    runs = np.lib.stride_tricks.sliding_window_view(tokens, width, axis=1)
    key = np.zeros(runs.shape[:2], np.uint64)
    for place in range(width):
        key = mixed(key ^ runs[..., place].astype(np.uint64))
    different = 1 + (np.diff(np.sort(runs, axis=2), axis=2) != 0).sum(2)
    return np.where(different >= distinct, key, 0).astype(np.uint64)


def smallest(keys: NDArray[np.uint64], count: int) -> NDArray[np.uint64]:
    """(n, m) -> (n, count): each row's smallest that are not 0, shared with a near copy; 0 for no more."""
    last = np.uint64(2**64 - 1)
    ordered = np.sort(np.where(keys == 0, last, keys), axis=1)
    ordered[:, 1:][ordered[:, 1:] == ordered[:, :-1]] = last
    ordered = np.sort(ordered, axis=1)[:, :count]
    out = np.zeros((len(keys), count), np.uint64)
    out[:, : ordered.shape[1]] = np.where(ordered == last, 0, ordered)
    return out


def _chunks(count: int) -> Iterator[NDArray[np.int64]]:
    return (np.arange(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK))
