"""Architecture: imports point one way, every library has one home, and importing is cheap."""

from __future__ import annotations

import ast
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import cellvision
from cellvision.core.cli import COMMANDS

PACKAGE = Path(cellvision.__file__).parent
FAMILIES = {"segmenters", "selfsup", "strategies", "branches", "painters"}
STAGES = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "__main__"}
RUN_OTHERS = {"ablate", "study", "predict"}
MODULES = sorted(PACKAGE.rglob("*.py"))

HOMES = {  # library -> the files and folders that may import it
    "albumentations": {"branches/image.py"},
    "anndata": {"embed.py", "core/counts.py", "core/tables.py"},
    "cellpose": {"segmenters/cellpose.py", "segmenters/dynamics.py"},
    "imagecodecs": {"core/raster.py"},
    "jinja2": {"report.py"},
    "lightly": {"selfsup"},
    "matplotlib": {"core/plots.py"},
    "safetensors": {"core/tensorfiles.py"},
    "sklearn": {"core/baselines.py", "core/metrics.py", "core/neighbours.py"},
    "tifffile": {"core/tiff.py", "core/masks.py"},
    "timm": {"core/encoders.py", "segmenters/nano_network.py"},
    "torchvision": {"doctor.py"},
    "yaml": {"core/config.py"},
}
HEAVY = {"torch", "pandas", "scipy", "skimage", "cv2", "PIL", "pyarrow", "h5py", *HOMES} - {"yaml"}
AT_TOP = {  # what does nothing without the library, and is itself imported only where it is needed
    "torch": {
        "core/classifier.py",
        "core/encoders.py",
        "branches/trace_networks.py",
        "core/feature_nets.py",
        "core/late_fusion.py",
        "core/loop.py",
        "core/small_maps.py",
        "core/tensorfiles.py",
        "branches/rna_networks.py",
        "segmenters/cellpose.py",
        "segmenters/dynamics.py",
        "segmenters/nano_network.py",
        "segmenters/nano_training.py",
        "selfsup",
        "strategies",
    },
    "scipy": {"segmenters/dynamics.py"},
}
HELP_S = 1.5  # s, generous, for a machine at work; the bound of 0.5 s is measured in experiments/bench


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def lives_in(path: Path, homes: set[str]) -> bool:
    return name_of(path) in homes or name_of(path).split("/")[0] in homes


def imports(path: Path, *, top: bool = False) -> Iterator[str]:
    """Dotted names a module imports when it runs; with `top`, only what importing it loads."""
    yield from _imports(ast.parse(path.read_text("utf-8")), top)


def _imports(node: ast.AST, top: bool) -> Iterator[str]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        if top and isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom) and child.module:
            yield from (f"{child.module}.{alias.name}" for alias in child.names)
        yield from _imports(child, top)


def parts_used(path: Path) -> set[str]:
    """The top-level parts of cellvision a module imports: core, a family, or a stage."""
    return {name.split(".")[1] for name in imports(path) if name.startswith("cellvision.")} - {"__version__"}


def test_the_walk_sees_what_it_should() -> None:
    assert {"pretrain", "segment", "study"} <= STAGES
    assert parts_used(PACKAGE / "study.py") >= {"ablate", "core", "segmenters"}
    assert "torch" in set(imports(PACKAGE / "core/loop.py", top=True))


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_point_one_way(path: Path) -> None:
    here, used = name_of(path).split("/")[0], parts_used(path)
    if here == "core":
        # the command line imports a stage by the name it was given, and no module of core imports one
        assert used <= {"core"}
    elif here in FAMILIES:
        assert used <= {"core", here}
    elif path.stem in STAGES - RUN_OTHERS:
        assert not used & (STAGES - {path.stem})


@pytest.mark.parametrize("library", HOMES)
def test_a_library_has_one_home(library: str) -> None:
    users = [path for path in MODULES if any(name.split(".")[0] == library for name in imports(path))]
    assert not [name_of(path) for path in users if not lives_in(path, HOMES[library])]
    assert users, f"nothing imports {library}; take it out of this table"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_heavy_libraries_are_imported_at_the_point_of_use(path: Path) -> None:
    loaded = {name.split(".")[0] for name in imports(path, top=True)} & HEAVY
    assert not [library for library in loaded if not lives_in(path, AT_TOP.get(library, set()))]


def modules_after(statement: str) -> set[str]:
    code = f"{statement}; import sys; print(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


@pytest.mark.parametrize(
    "statement",
    [
        "import cellvision.core.cli",
        *(f"from cellvision import {name} as m; from cellvision.core import cli; cli.stage_parser({name!r}, m)"
          for name in COMMANDS),
    ],
    ids=["cli", *COMMANDS],
)  # fmt: skip
def test_the_command_line_loads_no_heavy_library(statement: str) -> None:
    assert not modules_after(statement) & HEAVY


def seconds_of(*arguments: str) -> float:
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-m", "cellvision", *arguments], capture_output=True, check=True)
    return time.perf_counter() - begun


@pytest.mark.parametrize(
    "arguments", [("--help",), *((name, "--help") for name in ("segment", "finetune"))], ids=" ".join
)
def test_help_answers_at_once(arguments: tuple[str, ...]) -> None:
    assert statistics.median(seconds_of(*arguments) for _ in range(3)) < HELP_S


def test_every_command_is_a_module_with_config_and_run() -> None:
    for name in COMMANDS:
        defined = {
            node.name
            for node in ast.parse((PACKAGE / f"{name}.py").read_text("utf-8")).body
            if isinstance(node, (ast.ClassDef, ast.FunctionDef))
        }
        assert {"Config", "run"} <= defined, name
