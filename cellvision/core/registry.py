"""Registries: a family's plugins by name, each imported when it is first asked for."""

from __future__ import annotations

import ast
import difflib
import importlib
import re
import sys
from collections.abc import Callable, Mapping
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from cellvision.core.config import PluginConfig, build
from cellvision.core.errors import ConfigError


class HasConfig(Protocol):
    """What every plugin has, whatever its family."""

    Config: type[PluginConfig]


Plugin = TypeVar("Plugin", bound=HasConfig)  # the family's contract


class Registry(Generic[Plugin]):
    """Name -> "module:Class". A plugin is a class with a nested `Config` whose `name` is the registered one.

    It inherits from its family's contract, so that mypy compares every method with it.
    """

    def __init__(self, family: str, entries: Mapping[str, str], auto: str | None = None) -> None:
        """`auto` is the plugin whose options are shown where the choice is left to the machine."""
        self.family = family
        self.entries = dict(entries)
        self.auto = auto

    def names(self) -> list[str]:
        return list(self.entries)

    def load(self, name: str) -> type[Plugin]:
        """The plugin class. ConfigError names the nearest known one."""
        module, attribute = self._place(name)
        plugin: type[Plugin] = getattr(importlib.import_module(module), attribute)
        return plugin

    def options(self, name: str) -> type[PluginConfig]:
        """The plugin's `Config`, read from its source, so that nothing the plugin computes with is imported."""
        module, attribute = self._place(name)
        if module in sys.modules:
            return self.load(name).Config
        tree = _source(module)
        config = next((node for node in _class(tree, attribute).body if getattr(node, "name", "") == "Config"), None)
        return self.load(name).Config if config is None else _evaluated(tree, config, module)

    def about(self, name: str) -> str:
        """The first sentence of the plugin's module, without the family's name before it."""
        first = re.match(r'"""(.*?)(?:"""|\n\n)', _text(self._place(name)[0]), re.DOTALL)
        text = " ".join(first[1].split()) if first else ""
        return re.sub(r"^(?:Branch|Segmenter)\b[^:]*: ", "", re.split(r"\.(?= [A-Z]|$)", text)[0])

    def _place(self, name: str) -> tuple[str, str]:
        """(module, class) of a plugin."""
        if name not in self.entries:
            close = difflib.get_close_matches(name, self.entries, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(self.entries)}"
            raise ConfigError(f"no {self.family} named {name!r}{hint}")
        module, _, attribute = self.entries[name].partition(":")
        return module, attribute

    def config(self, value: Any) -> PluginConfig:
        """A name, a mapping with a name, or a ready config -> the plugin's own validated config."""
        if isinstance(value, PluginConfig):
            return value
        if isinstance(value, str):
            value = {"name": value}
        if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
            raise ConfigError(f"a {self.family} is given by name or as a mapping with a name, got {value!r}")
        return build(self.load(value["name"]).Config, value)

    def build(self, value: Any, **extra: Any) -> Plugin:
        """The plugin itself, made from its config; `extra` goes to its constructor."""
        cfg = self.config(value)
        make: Callable[..., Plugin] = self.load(cfg.name)
        return make(cfg, **extra)


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
