"""What the package imports is what it declares."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

from test_architecture import MODULES, imports

ROOT = Path(__file__).parents[1]
DISTRIBUTIONS = {  # module -> distribution, where the names differ
    "PIL": "pillow",
    "cv2": "opencv-python-headless",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "umap": "umap-learn",
    "yaml": "pyyaml",
}


def declared() -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = [line for name, lines in project["optional-dependencies"].items() if name != "dev" for line in lines]
    return {re.split(r"[<>=!~\[ ]", line)[0].lower() for line in [*project["dependencies"], *extras]}


def imported() -> set[str]:
    roots = {name.split(".")[0] for path in MODULES for name in imports(path)}
    outside = roots - set(sys.stdlib_module_names) - {"cellvision"}
    return {DISTRIBUTIONS.get(name, name) for name in outside}


def test_every_import_is_declared() -> None:
    assert imported() - declared() == set()


def test_every_declared_library_is_imported() -> None:
    assert declared() - imported() == set()


def test_the_lock_holds_every_dependency_and_no_address() -> None:
    lock = (ROOT / "requirements.lock").read_text("utf-8")
    locked = set(re.findall(r"^([a-z0-9._-]+)==", lock, re.MULTILINE))
    extras = {"umap-learn", "igraph"}
    assert declared() - extras <= locked
    assert not re.search(r"https?://|--index-url|--find-links", lock)
