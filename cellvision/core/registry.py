"""Registries: a family's plugins by name, each imported when it is first asked for."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Mapping
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
        """The plugin class."""
        module, attribute = self.place(name)
        plugin: type[Plugin] = getattr(importlib.import_module(module), attribute)
        return plugin

    def place(self, name: str) -> tuple[str, str]:
        """(module, class) of a plugin. ConfigError names the nearest known one."""
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
