"""Style that can be counted: locals that say what they hold, docstrings that state the shapes of arrays.

Both bars only come down. `python tests/test_style.py` lists the files.
"""

from __future__ import annotations

import ast
import functools
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cellvision

PACKAGE = Path(cellvision.__file__).parent
VAGUE = {  # names that fit anything; the first line is what has been counted since the rooms were drawn
    "found", "made", "some", "own", "part", "known",
    "one", "both", "held", "mine", "theirs", "told", "stuff", "thing", "tmp",
}  # fmt: skip
VAGUE_SHARE = 0.02  # of the functions may have such a local
WITHOUT_SHAPES = 0  # public functions with array arguments
ARRAYS = {"NDArray", "ndarray", "Tensor"}
SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
_AXIS = r"(?:\w+(?: ?[-+*/ ] ?\w+){0,2}|\.\.\.|…)"
SHAPE = re.compile(rf"\({_AXIS}(?:, {_AXIS})+,?\)|\({_AXIS},\)|\b\w+ x \w+\b")  # (n, S, S, C + 1), (n,), H x W


class Function(NamedTuple):
    file: str
    node: ast.FunctionDef | ast.AsyncFunctionDef
    public: bool  # neither it nor what it stands in is private or a function

    @property
    def name(self) -> str:
        return f"{self.file}:{self.node.lineno} {self.node.name}"


def functions_in(tree: ast.AST, file: str, public: bool = True) -> Iterator[Function]:
    """Every function and method, nested ones too."""
    for node in ast.iter_child_nodes(tree):
        visible = public and not getattr(node, "name", "").startswith("_")
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield Function(file, node, visible)
            yield from functions_in(node, file, public=False)
        else:
            yield from functions_in(node, file, visible)


@functools.cache
def functions() -> list[Function]:
    files = [(path, path.relative_to(PACKAGE).as_posix()) for path in sorted(PACKAGE.rglob("*.py"))]
    return [function for path, name in files for function in functions_in(ast.parse(path.read_text("utf-8")), name)]


def locals_of(node: ast.AST) -> set[str]:
    """Names assigned in a function itself: by =, for, with, :=, in comprehensions; not its parameters."""
    names = set()
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Name) and isinstance(child.ctx, ast.Store):
            names.add(child.id)
        if not isinstance(child, SCOPES):
            names |= locals_of(child)
    return names


def takes_arrays(function: Function) -> bool:
    arguments = function.node.args
    annotations = [given.annotation for given in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    words = {word for given in annotations if given for word in re.findall(r"\w+", ast.unparse(given))}
    return bool(words & ARRAYS)


def vague() -> list[Function]:
    return [function for function in functions() if locals_of(function.node) & VAGUE]


def without_shapes() -> list[Function]:
    public = [function for function in functions() if function.public and takes_arrays(function)]
    return [function for function in public if not SHAPE.search(ast.get_docstring(function.node) or "")]


def example(text: str) -> Function:
    return next(functions_in(ast.parse(text), "example.py"))


def test_the_counts_see_what_they_should() -> None:
    everywhere = "def f(known):\n    a, b = c = 1\n    for d in [e for e in c]: g = (h := 2)\n    with x as i: pass\n"
    assert locals_of(example(everywhere).node) == set("abcdeghi")
    assert not locals_of(example("def f():\n    def g():\n        found = 1\n").node)
    assert takes_arrays(example("def f(x: NDArray[np.int32] | None): ..."))
    assert not takes_arrays(example("def f(x: Path) -> Tensor: ..."))
    for stated in ("(n, S, S, C + 1) uint8", "(n,) of labels", "H x W pixels", "(..., 3)"):
        assert SHAPE.search(stated), stated
    for unstated in ("the masks", "f(x)", "(as in the paper)", "(px)"):
        assert not SHAPE.search(unstated), unstated


def test_locals_say_what_they_hold() -> None:
    share = len(vague()) / len(functions())
    print(f"{share:.1%} of {len(functions())} functions have a vague local")
    assert share <= VAGUE_SHARE, "\n".join(function.name for function in vague())


def test_public_functions_state_the_shapes_of_their_arrays() -> None:
    missing = without_shapes()
    print(f"{len(missing)} public functions with array arguments state no shapes")
    assert len(missing) <= WITHOUT_SHAPES, "\n".join(function.name for function in missing)


if __name__ == "__main__":
    for functions_of, what in ((vague(), "vague locals"), (without_shapes(), "no shapes")):
        print(f"{len(functions_of)} functions with {what}")
        for file, count in Counter(function.file for function in functions_of).most_common(20):
            print(f"{count:5} {file}")
