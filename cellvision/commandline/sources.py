"""The options of a plugin, read from its source, so that a help imports nothing the plugin computes with."""

from __future__ import annotations

import ast
import re
import sys
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cellvision.core.config import PluginConfig
from cellvision.core.registry import Registry


def options(registry: Registry, name: str) -> type[PluginConfig]:
    """The plugin's `Config`: that of its class where the module is loaded, else its source alone."""
    module, attribute = registry.place(name)
    if module in sys.modules:
        return registry.load(name).Config
    tree = _source(module)
    config = next((node for node in _class(tree, attribute).body if getattr(node, "name", "") == "Config"), None)
    return registry.load(name).Config if config is None else _evaluated(tree, config, module)


def about(registry: Registry, name: str) -> str:
    """The first sentence of the plugin's module, without the family's name before it."""
    first = re.match(r'"""(.*?)(?:"""|\n\n)', _text(registry.place(name)[0]), re.DOTALL)
    text = " ".join(first[1].split()) if first else ""
    return re.sub(r"^(?:Branch|Segmenter)\b[^:]*: ", "", re.split(r"\.(?= [A-Z]|$)", text)[0])


def _text(module: str) -> str:
    spec = find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).read_text("utf-8")


@lru_cache(maxsize=32)
def _source(module: str) -> ast.Module:
    return ast.parse(_text(module))


def _class(tree: ast.Module, name: str) -> ast.ClassDef:
    return next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)


def _evaluated(tree: ast.Module, config: ast.stmt, module: str) -> Any:
    """A class of a module, evaluated with the module's statements that it needs and with no others."""
    needed, body = _names(config), [config]
    for node in reversed(tree.body):
        if isinstance(node, ast.ImportFrom) and node.module == "__future__":
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            used = [alias for alias in node.names if (alias.asname or alias.name).partition(".")[0] in needed]
            if used:
                body.insert(0, _importing(node, used))
        elif _defined(node) & needed:
            needed |= _names(node)
            body.insert(0, node)
    namespace: dict[str, Any] = {"__name__": module}
    exec(compile(ast.Module(body, []), module, "exec", dont_inherit=True), namespace)
    return namespace["Config"]


def _names(node: ast.AST) -> set[str]:
    return {child.id for child in ast.walk(node) if isinstance(child, ast.Name)}


def _defined(node: ast.stmt) -> set[str]:
    if isinstance(node, ast.ClassDef | ast.FunctionDef):
        return {node.name}
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return {
        name.id for target in targets if target is not None for name in ast.walk(target) if isinstance(name, ast.Name)
    }


def _importing(node: ast.Import | ast.ImportFrom, names: list[ast.alias]) -> ast.stmt:
    """The same import of fewer names."""
    if isinstance(node, ast.Import):
        return ast.copy_location(ast.Import(names), node)
    return ast.copy_location(ast.ImportFrom(node.module, names, node.level), node)
