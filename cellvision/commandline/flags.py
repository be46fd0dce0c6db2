"""What a config can be told on the command line: every key with its flags, values, default and one line of help.

The parser, the help, and the completions of shells are made of this one list.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from cellvision.commandline import sources
from cellvision.core import config
from cellvision.core.config import StageModel
from cellvision.core.registry import Registry

NO_DEFAULT: tuple[Any, ...] = (None, "", (), [], {})
WORDS = {int: "N", float: "X", Path: "PATH", str: "TEXT"}


@dataclass(frozen=True)
class Key:
    """One key of a config. `group` is the nested key it stands under, "" for the stage's own."""

    dotted: str
    group: str
    field: FieldInfo
    default: Any
    short: str | None = None  # a flag of its own for a nested key
    choices: tuple[str, ...] = ()
    flag: bool = True  # False: only by --set and files

    @property
    def flags(self) -> list[str]:
        """--steps and --loop.steps."""
        names = [self.short, self.dotted] if self.short else [self.dotted]
        return [f"--{name.replace('_', '-')}" for name in names]

    @property
    def is_list(self) -> bool:
        return any(get_origin(leaf) is tuple for leaf in members(self.field.annotation))

    @property
    def value(self) -> str:
        """What stands for the value in the help: {a,b}, N, PATH."""
        kinds = [WORDS[leaf] for leaf in leaves(self.field.annotation) if leaf in WORDS]
        listed = f"{{{','.join(self.choices)}}}" if self.choices else ""
        word = "|".join(dict.fromkeys([*kinds, *([listed] if listed else [])])) or "VALUE"
        return f"{word},…" if self.is_list else word

    @property
    def help(self) -> str:
        text = self.field.description or ""
        return text if self.field.is_required() or self.default in NO_DEFAULT else f"{text} [{shown(self.default)}]"


def shown(default: Any) -> str:
    """A default as one would type it."""
    if isinstance(default, bool):
        return "yes" if default else "no"
    return ",".join(map(str, default)) if isinstance(default, tuple) else str(default)


def members(annotation: Any) -> Iterator[Any]:
    """The alternatives of a union, a tuple being one of them."""
    if get_origin(annotation) in (None, Literal, tuple, dict):
        yield annotation
    else:
        for member in get_args(annotation):
            yield from members(member)


def leaves(annotation: Any) -> Iterator[Any]:
    """The plain types and words in an annotation, at every depth."""
    if get_origin(annotation) is None:
        yield annotation
    else:
        for inner in get_args(annotation):
            yield from leaves(inner)


def choices_of(annotation: Any) -> tuple[str, ...]:
    """The words an annotation allows, inside tuples and unions too."""
    if get_origin(annotation) is Literal:
        return tuple(str(word) for word in get_args(annotation) if word is not None)
    if annotation == bool | None:
        return ("true", "false")
    words = (word for inner in get_args(annotation) for word in choices_of(inner))
    return tuple(dict.fromkeys(words))


def registry_of(field: FieldInfo) -> Registry | None:
    """The family whose plugins a key chooses from."""
    return next((entry for entry in field.metadata if isinstance(entry, Registry)), None)


def registries(model: type[BaseModel]) -> dict[str, Registry]:
    """The keys of a config that choose a plugin."""
    by_key = {key: registry_of(field) for key, field in model.model_fields.items()}
    return {key: registry for key, registry in by_key.items() if registry}


def chosen_plugins(model: type[StageModel], data: Mapping[str, Any]) -> dict[str, str]:
    """The plugin that each such key names in `data`, or that the data tell, or by default."""
    chosen, guessed = {}, model.guess(data)
    for key, registry in registries(model).items():
        usual = guessed.get(key, model.model_fields[key].default)
        value = data.get(key, usual)
        name = value.get("name", usual) if isinstance(value, Mapping) else value
        chosen[key] = registry.auto if registry.auto and name == "auto" else str(name)
    return chosen


def keys(model: type[StageModel], chosen: Mapping[str, str]) -> Iterator[Key]:
    """Every key of a config: its own, then those of nested configs and of the chosen plugins."""
    short = {dotted: flag for flag, dotted in model.short.items()}
    for name, field in model.model_fields.items():
        registry = registry_of(field)
        words = choices_of(field.annotation)
        if registry:
            words = (*(("auto",) if registry.auto else ()), *registry.names())
        inner = inner_model(name, field, chosen)
        if inner is None or registry:
            flag = bool(config.field_traits(model, name).get("flag", True))
            yield Key(name, "", field, field.default, choices=words, flag=flag)
        for option, below in inner.model_fields.items() if inner else ():
            if not (registry and option == "name"):
                default = below.default if registry else getattr(field.default, option)
                flag = bool(config.field_traits(inner, option).get("flag", True)) if inner else True
                dotted = f"{name}.{option}"
                yield Key(dotted, name, below, default, short.get(dotted), choices_of(below.annotation), flag)


def inner_model(name: str, field: FieldInfo, chosen: Mapping[str, str]) -> type[BaseModel] | None:
    """The config that stands under a key."""
    registry = registry_of(field)
    if registry:
        return sources.options(registry, chosen[name])
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def owners(model: type[StageModel], name: str) -> str:
    """`--branch rna or fusion` for a key of plugins that are not chosen; empty where no plugin has it."""
    key, _, option = model.short.get(name, name).partition(".")
    registry = registries(model).get(key)
    if registry is None:
        return ""
    have = [plugin for plugin in registry.names() if option in sources.options(registry, plugin).model_fields]
    return f"--{key} {' or '.join(have)}" if have and option != "name" else ""
