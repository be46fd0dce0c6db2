"""Command: is this installation sound? Checks the torch pair, OpenCV, the packages, the device and the free disk."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from cellvision import __version__
from cellvision.core.config import StageConfig
from cellvision.core.errors import CellvisionError
from cellvision.runs.calls import command

HAS_OUT = False
FREE_GB = 5  # below this a study may fill the disk
EXTRAS = (("umap-learn", "rna", "--projections umap of cluster"), ("igraph", "leiden", "--method leiden of cluster"))


class Config(StageConfig):
    """Options of `doctor`."""

    uses: ClassVar[tuple[str, ...]] = ()


@command
def run(cfg: Config) -> None:
    """Print one line a check; CellvisionError when something has to be mended."""
    faults = 0
    for good, line in checks():
        print(f"{'ok  ' if good else 'BAD '} {line}")
        faults += not good
    if faults:
        raise CellvisionError(f"{faults} of the checks above failed; each says how to mend it")


def checks() -> Iterator[tuple[bool, str]]:
    yield sys.version_info >= (3, 11), f"Python {platform.python_version()} (3.11 or newer is needed)"
    yield True, f"cellvision {__version__}"
    yield from requirements()
    yield from extras()
    yield torch_pair()
    yield one_opencv()
    yield device()
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    yield (
        free >= FREE_GB,
        f"{free:.0f} GB free here" + ("" if free >= FREE_GB else f"; a study wants {FREE_GB} GB or more"),
    )


def requirements() -> Iterator[tuple[bool, str]]:
    """Every direct requirement: installed, and not older than its floor."""
    try:
        needed = importlib.metadata.requires("cellvision") or []
    except importlib.metadata.PackageNotFoundError:
        yield False, "cellvision is not installed here; run make setup, or pip install -e ."
        return
    for text in needed:
        if "extra ==" in text:
            continue
        name, operator, floor = re.match(r"([\w.-]+)\s*(?:([<>=!~]+)\s*([\w.]+))?", text).groups()  # type: ignore[union-attr]
        try:
            have = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield False, f"{name} is missing; pip install '{text}'"
            continue
        good = _numbers(have) == _numbers(floor) if operator == "==" else _numbers(have) >= _numbers(floor or "0")
        yield good, f"{name} {have}" + ("" if good else f"; pip install '{text}'")


def extras() -> Iterator[tuple[bool, str]]:
    """What is not installed unless asked for; nothing is wrong without it."""
    for package, extra, use in EXTRAS:
        try:
            yield True, f"{package} {importlib.metadata.version(package)} ({use})"
        except importlib.metadata.PackageNotFoundError:
            yield True, f"{package} is not installed, nor needed but for {use}; pip install 'cellvision[{extra}]'"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(digits) for digits in re.findall(r"\d+", version.partition("+")[0])[:3])


def torch_pair() -> tuple[bool, str]:
    """torch and torchvision from different builds fail at import or at the first operator."""
    try:
        import torch
        import torchvision

        torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    except (ImportError, RuntimeError, AttributeError, OSError) as error:
        return (
            False,
            f"torch and torchvision do not match ({' '.join(str(error).split()):.50}); install the pair the lock names",
        )
    return True, f"torch {torch.__version__} and torchvision {torchvision.__version__} match"


def one_opencv() -> tuple[bool, str]:
    names = {
        str(distribution.name)
        for distribution in importlib.metadata.distributions()
        if str(distribution.name).startswith("opencv-")
    }
    good = len(names) == 1
    advice = (
        ""
        if good
        else "; keep one: pip uninstall the others, then pip install --force-reinstall opencv-python-headless"
    )
    return good, f"OpenCV from {', '.join(sorted(names)) or 'nowhere'}{advice}"


def device() -> tuple[bool, str]:
    try:
        import torch

        from cellvision.executors.local import cores
    except (ImportError, OSError):
        return True, "device unknown, since torch cannot be imported"
    if torch.cuda.is_available():
        return True, f"CUDA device {torch.cuda.get_device_name(0)}"
    bf16 = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    return (
        True,
        f"no CUDA device; {cores()} CPU cores, {'with' if bf16 else 'without'} bf16: everything runs on the CPU",
    )


if __name__ == "__main__":
    from cellvision.commandline.cli import main
    from cellvision.core.signals import leave

    leave(main("doctor"))
