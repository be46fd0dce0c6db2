"""Command: fetch official weights, once and on demand, checked against a hash that stands here or is given.

Nothing else in the project downloads. A part that was interrupted is gone on with; a file gets its name only when every
byte is right.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import os
import re
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from cellvision.core import files
from cellvision.core.config import StageModel, option
from cellvision.core.errors import CellvisionError, ConfigError, UnsafeInput
from cellvision.core.progress import say, track
from cellvision.runs.calls import command
from cellvision.segmenters import DINOV3

POSITIONAL = "name"
HAS_OUT = False
BLOCK = 1 << 22  # bytes read at once
TIMEOUT_S = 30


@dataclasses.dataclass(frozen=True)
class Weights:
    """A file that may be fetched: where it is, and what it must be."""

    url: str
    sha256: str | None  # None: not known here, so that somebody has to give it
    size: int | None  # bytes; None: what the server says
    licence: str


SOURCE = "https://huggingface.co/mouseland/cellpose-sam/resolve/main"
OFFICIAL = {
    "cpsam_v2": Weights(
        f"{SOURCE}/cpsam_v2", "0f1cc3f7ecdd8a037a57c6c48d9d8921391be4cbce3fa9f13c3e3a2e1253c667", 1_233_586_851,
        "CC BY-NC 4.0",
    ),
    "cpsam": Weights(
        f"{SOURCE}/cpsam", "e1440429eb384f95afe32bcba6510f90d518eaedc917ede549bed6804004abe2", 1_233_587_898,
        "CC BY-NC 4.0",
    ),
    **{
        name: Weights(f"{SOURCE}/{name}", None, None, "that of its repository, and DINOv3's")
        for name in ("cpdino", "cpdino-vitb")
    },
}  # fmt: skip


class Config(StageModel):
    """Options of `fetch`."""

    name: str = option(..., f"one of {', '.join(OFFICIAL)}")
    folder: Path | None = option(None, "where to put it; Cellpose's own folder when absent")
    sha256: str | None = option(None, "hash the file must have, where none stands here: that of cpdino and cpdino-vitb")
    short: ClassVar[dict[str, str]] = {}


@command
def run(cfg: Config) -> Path:
    """Fetch the file, or find that it is there; -> its path."""
    if cfg.name not in OFFICIAL:
        raise ConfigError(f"no weights named {cfg.name!r}; known: {', '.join(OFFICIAL)}")
    weights = with_hash(cfg.name, cfg.sha256)
    path = (cfg.folder or models_folder()) / cfg.name
    if cfg.name.startswith("cpdino") and not importlib.util.find_spec("dinov3"):
        say(f"fetch: {cfg.name} runs only with the library dinov3: {DINOV3}")
    if path.is_file() and files.sha256_file(path) == weights.sha256:
        say(f"fetch: {path} is there and sound")
        return path
    size = f"{weights.size / 1e9:.2f} GB, " if weights.size else ""
    say(f"fetch: {cfg.name}, {size}licence: {weights.licence}")
    download(weights, path, urllib.request.urlopen)
    say(f"fetch: {path}")
    return path


def with_hash(name: str, given: str | None) -> Weights:
    """What to fetch; ConfigError without a hash that it must have: nothing is trusted because it came first."""
    weights = OFFICIAL[name]
    wanted = (given or weights.sha256 or "").strip().lower()
    if not wanted:
        page = weights.url.replace("/resolve/", "/blob/")
        raise ConfigError(f"the sha256 of {name} is not known here; give the one that {page} shows, with --sha256")
    if not re.fullmatch("[0-9a-f]{64}", wanted):
        raise ConfigError(f"--sha256 is 64 hexadecimal digits, got {given!r}")
    if weights.sha256 not in (None, wanted):
        raise ConfigError(f"{name} has the sha256 {weights.sha256}, not {wanted}; leave --sha256 out")
    return dataclasses.replace(weights, sha256=wanted)


def models_folder() -> Path:
    """Where Cellpose keeps its models."""
    return Path(os.environ.get("CELLPOSE_LOCAL_MODELS_PATH") or "~/.cellpose/models").expanduser()


def download(weights: Weights, path: Path, opener: Callable[..., Any]) -> None:
    """Fetch into `path`.part and rename; a part goes on where the size is known.

    CellvisionError without a network, UnsafeInput when the content is another.
    """
    partial = path.with_name(f"{path.name}.part")
    partial.parent.mkdir(parents=True, exist_ok=True)
    have = partial.stat().st_size if partial.exists() and weights.size else 0
    if not weights.size or have < weights.size:
        request = urllib.request.Request(weights.url, headers={"Range": f"bytes={have}-"} if have else {})
        try:
            with opener(request, timeout=TIMEOUT_S) as answer:
                if not answer.geturl().startswith("https://"):
                    raise UnsafeInput(
                        f"{weights.url} was redirected to a connection without encryption; nothing fetched"
                    )
                resumed = have and answer.status == 206
                if not weights.size:
                    weights = dataclasses.replace(weights, size=int(answer.headers.get("Content-Length") or 0))
                left = (weights.size or 0) - (have if resumed else 0)
                blocks = (left + BLOCK - 1) // BLOCK
                with partial.open("ab" if resumed else "wb") as handle:
                    for _ in track(range(blocks), "fetch", blocks, "blocks of 4 MB"):
                        handle.write(answer.read(BLOCK))
        except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
            reason = getattr(error, "reason", error)
            raise CellvisionError(
                f"{weights.url} could not be fetched ({reason}); repeat the command to go on, or copy it to {path}"
            ) from None
    check(partial, weights)
    partial.replace(path)


def check(part: Path, weights: Weights) -> None:
    """UnsafeInput, and the part is removed, unless it is exactly the file that is wanted."""
    size = part.stat().st_size
    if size < (weights.size or 0):
        raise CellvisionError(f"{part} ended after {size} of {weights.size} bytes; run the command again to go on")
    digest = hashlib.sha256()
    with part.open("rb") as handle:
        while block := handle.read(BLOCK):
            digest.update(block)
    if digest.hexdigest() != weights.sha256:
        part.unlink()
        raise UnsafeInput(f"{weights.url} is not the file it should be (sha256 {digest.hexdigest()}); it was not kept")


if __name__ == "__main__":
    from cellvision.commandline.cli import main
    from cellvision.core.signals import leave

    leave(main("fetch"))
