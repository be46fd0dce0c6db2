"""Architecture: imports point one way, every library has one home, and importing is cheap."""

from __future__ import annotations

import ast
import functools
import graphlib
import json
import resource
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import cellvision
from cellvision.__main__ import COMMANDS

PACKAGE = Path(cellvision.__file__).parent
FLOORS = (  # rooms from the ground up; a room imports what lies below it, and itself
    "core",
    "commandline",
    "executors",
    "io",
    "simulators",
    "cells",
    "training",
    "segmenters",
    "branches",
    "selfsup",
    "strategies",
    "evidence",
    "models",
    "plots",
    "runs",
    "stages",
    "apps",
)
TOP = "stages"  # the floor of the modules at the top of the package: what a person runs
STAGES = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "__main__"}
RUN_OTHERS = {"ablate", "study", "predict", "completion"}  # the last reads the options of all
MODULES = sorted(PACKAGE.rglob("*.py"))
CORE_LINES = 1300  # what a command is made of is read in one sitting
FILE_LINES, FUNCTION_LINES = 450, 50

HOMES = {  # library -> the files and folders that may import it
    "albumentations": {"branches/image/branch.py"},
    "anndata": {"branches/rna/sample.py", "embed.py", "io/h5ad.py", "runs/opened.py"},
    "cellpose": {"segmenters/cellpose.py", "segmenters/nano/dynamics.py"},
    "imagecodecs": {"io/images/raster.py"},
    "jinja2": {"report.py"},
    "lightly": {"selfsup"},
    "matplotlib": {"plots/base.py"},
    "roifile": {"io/imagejrois.py"},
    "safetensors": {"io/tensorfiles.py"},
    "sklearn": {"evidence/baselines.py", "evidence/metrics.py", "models/neighbours.py"},
    "tifffile": {"io/images/tiff.py", "io/labelmaps.py"},
    "timm": {"branches/image/networks.py", "models/encoders.py", "segmenters/nano/network.py"},
    "torchvision": {"doctor.py"},
    "yaml": {"core/config.py", "core/yamlfiles.py"},
}
HEAVY = {"torch", "pandas", "scipy", "skimage", "cv2", "PIL", "pyarrow", "h5py", *HOMES} - {"yaml"}
AT_TOP = {  # what does nothing without the library, and is itself imported only where it is needed
    "torch": {
        "branches/fusion/network.py",
        "branches/image/networks.py",
        "branches/image/small_maps.py",
        "branches/perceptron.py",
        "branches/rna/networks.py",
        "branches/tabular/networks.py",
        "branches/trace/networks.py",
        "io/tensorfiles.py",
        "models/classifier.py",
        "models/encoders.py",
        "segmenters/cellpose.py",
        "segmenters/nano/dynamics.py",
        "segmenters/nano/network.py",
        "segmenters/nano/training.py",
        "selfsup",
        "strategies",
        "training/device.py",
        "training/loop.py",
    },
    "scipy": {"segmenters/nano/dynamics.py"},
}
HELP_S = 1.5  # s, generous, for a slow machine; the bound of 0.5 s is measured in experiments/bench


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def lives_in(path: Path, homes: set[str]) -> bool:
    return name_of(path) in homes or name_of(path).split("/")[0] in homes


@functools.cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


@functools.cache
def imports(path: Path, *, top: bool = False) -> tuple[str, ...]:
    """Dotted names a module imports, for type checking too; with `top`, only what importing it loads."""
    return tuple(_imports(parsed(path), top))


def _imports(node: ast.AST, top: bool) -> Iterator[str]:
    for child in ast.iter_child_nodes(node):
        if top and isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        if top and isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom) and child.module:
            yield from (f"{child.module}.{alias.name}" for alias in child.names)
        yield from _imports(child, top)


@functools.cache
def own_modules() -> dict[str, Path]:
    """Dotted name -> file of every module of the package."""
    dotted = {path: ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in MODULES}
    return {name.removesuffix(".__init__"): path for path, name in dotted.items()}


@functools.cache
def used_modules(path: Path) -> set[Path]:
    """The modules of this package that a module imports, whenever that is."""
    modules = own_modules()
    used = set()
    for name in imports(path):
        if name.split(".")[0] == "cellvision":
            used.add(modules[name] if name in modules else modules[name.rpartition(".")[0]])
    return used - {path, PACKAGE / "__init__.py"}


def floor_of(path: Path) -> int:
    room = name_of(path).split("/")[0]
    return FLOORS.index(room if room in FLOORS else TOP)


def test_the_walk_sees_what_it_should() -> None:
    assert {"pretrain", "segment", "study"} <= STAGES
    assert {name_of(path) for path in used_modules(PACKAGE / "study.py")} >= {"ablate.py", "core/rundir.py"}
    assert "torch" in set(imports(PACKAGE / "training/loop.py", top=True))


def test_every_folder_is_a_room() -> None:
    rooms = {path.name for path in PACKAGE.iterdir() if path.is_dir() and any(path.glob("*.py"))}
    assert rooms <= set(FLOORS)
    assert all((path / "__init__.py").is_file() for path in PACKAGE.iterdir() if path.name in rooms)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_point_down(path: Path) -> None:
    if path.stem != "__main__":  # it hands over to the stages by name
        assert not [name_of(other) for other in used_modules(path) if floor_of(other) > floor_of(path)]
    if path.stem in STAGES - RUN_OTHERS and path.parent == PACKAGE:
        assert not [name_of(other) for other in used_modules(path) if other.parent == PACKAGE]


READERS = {"read_csv", "read_table", "read_fwf", "read_excel", "read_pickle", "DictReader", "open_csv"}
OWN_READER = ("files", "read_csv")  # of what the project wrote itself


@pytest.mark.parametrize("path", [path for path in MODULES if floor_of(path) != FLOORS.index("io")], ids=name_of)
def test_tables_come_in_through_io_alone(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    methods = [(ast.unparse(call.value), call.attr) for call in calls if isinstance(call, ast.Attribute)]
    if name_of(path) != "core/files.py":
        assert not [method for method in methods if method[1] in READERS and method != OWN_READER]
        assert ("csv", "reader") not in methods
    assert not [name for name in imports(path) if name.startswith("pyarrow.csv") or name.startswith("csv.reader")]


def test_no_modules_import_each_other() -> None:
    order = graphlib.TopologicalSorter({name_of(path): {name_of(p) for p in used_modules(path)} for path in MODULES})
    order.prepare()  # raises CycleError, which names the circle


def test_the_house_is_small_enough_to_read() -> None:
    lines = {path: len(path.read_text("utf-8").splitlines()) for path in MODULES}
    assert sum(count for path, count in lines.items() if name_of(path).startswith("core/")) <= CORE_LINES
    assert not [name_of(path) for path, count in lines.items() if count > FILE_LINES]
    assert not [
        f"{name_of(path)}:{node.name}"
        for path in MODULES
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.FunctionDef) and (node.end_lineno or 0) - node.lineno + 1 > FUNCTION_LINES
    ]


@pytest.mark.parametrize("library", HOMES)
def test_a_library_has_one_home(library: str) -> None:
    users = [path for path in MODULES if any(name.split(".")[0] == library for name in imports(path))]
    assert not [name_of(path) for path in users if not lives_in(path, HOMES[library])]
    assert users, f"nothing imports {library}; take it out of this table"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_heavy_libraries_are_imported_at_the_point_of_use(path: Path) -> None:
    loaded = {name.split(".")[0] for name in imports(path, top=True)} & HEAVY
    assert not [library for library in loaded if not lives_in(path, AT_TOP.get(library, set()))]


LOADED = """
import importlib, json, sys
from cellvision import __main__
from cellvision.commandline import cli
loaded = {"cli": list(sys.modules)}
for name in sys.argv[1:]:
    before = set(sys.modules)
    cli.stage_parser(name, importlib.import_module(f"cellvision.{name}"))
    loaded[name] = sorted(set(sys.modules) - before)
print(json.dumps(loaded))
"""


@functools.cache
def modules_loaded() -> dict[str, list[str]]:
    """What each command line loads that those before it have not loaded, in one process for all."""
    command = [sys.executable, "-c", LOADED, *COMMANDS]
    return dict(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))


@pytest.mark.parametrize("command", ["cli", *COMMANDS])
def test_the_command_line_loads_no_heavy_library(command: str) -> None:
    assert not set(modules_loaded()[command]) & HEAVY


def seconds_of(*arguments: str) -> float:
    """Processor time, which other work on the machine does not lengthen."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "cellvision", *arguments], capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.parametrize(
    "arguments", [("--help",), *((name, "--help") for name in ("segment", "finetune"))], ids=" ".join
)
def test_help_answers_at_once(arguments: tuple[str, ...]) -> None:
    assert statistics.median(seconds_of(*arguments) for _ in range(3)) < HELP_S


def test_every_command_is_a_module_with_config_and_run() -> None:
    for name in COMMANDS:
        defined = {
            node.name
            for node in parsed(PACKAGE / f"{name}.py").body
            if isinstance(node, (ast.ClassDef, ast.FunctionDef))
        }
        assert {"Config", "run"} <= defined, name
