"""Configs: strict frozen models, read from YAML, flags and `--set`; keys marked runtime never change a result.

Order: defaults < file < flags < set. Unknown keys are errors that name the nearest key.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from cellvision.core.errors import ConfigError
from cellvision.core.yamlfiles import dump_yaml, parse_yaml, read_yaml

Model = TypeVar("Model", bound=BaseModel)
MOST = 10**7  # of a whole number whose option has no bound of its own: more is tried in vain
SEEDS = 2**63 - 1


class Only(NamedTuple):
    """Keys that have an effect only in some combinations: which, when, and how one says that."""

    keys: tuple[str, ...]
    when: Callable[[Any], bool]
    said: str  # completes "has an effect only …"


class StageModel(BaseModel):
    """Base of every config: frozen, no unknown keys, defaults validated; a value without effect is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)
    short: ClassVar[dict[str, str]] = {}  # flags for nested keys: {"steps": "loop.steps"}
    mark: ClassVar[str] = "--"  # before a key that is named to a person
    rules: ClassVar[tuple[Only, ...]] = ()  # of this class; those of its bases hold as well
    guessed_from: ClassVar[tuple[str, ...]] = ()  # keys that `guess` looks at

    @classmethod
    def guess(cls, data: Mapping[str, Any]) -> dict[str, str]:
        """Plugins that `data` leaves open and that something else in it tells."""
        return {}

    def __init__(self, **options: Any) -> None:
        try:
            super().__init__(**options)
        except ValidationError as error:
            raise ConfigError("; ".join(_faults(type(self), error))) from None

    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]  # so that nested ones keep their place in a fault

    @model_validator(mode="before")
    @classmethod
    def _name_default_plugins(cls, data: Any) -> Any:
        """`segmenter: {diameter: 30}` means the default segmenter with that diameter."""
        if not isinstance(data, dict):
            return data
        guessed = cls.guess(data)
        usual = {key: field.default for key, field in cls.model_fields.items() if isinstance(field.default, str)}
        named = {
            key: {"name": (usual | guessed)[key]} | value
            for key, value in data.items()
            if key in usual and isinstance(value, dict)
        }
        return guessed | data | named

    @model_validator(mode="after")
    def _refuse_what_is_absurd(self) -> Self:
        """Before anything is tried with it. Numbers in lists are names, as those of channels and seeds are."""
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            numbers = value if isinstance(value, tuple | list) else (value,)
            bounded = any(hasattr(bound, "le") or hasattr(bound, "lt") for bound in field.metadata)
            most = SEEDS if numbers is value else MOST
            if not bounded and any(isinstance(number, int) and abs(number) > most for number in numbers):
                raise ValueError(f"{self.mark}{name.replace('_', '-')} is at most {most:g}, got {value!r:.80}")
        return self

    @model_validator(mode="after")
    def _refuse_what_is_ignored(self) -> Self:
        """A file that a run has written holds every key, so a default value is always accepted."""
        if ignored := next(self.ignored(set(changed(self))), None):
            raise ValueError(ignored)
        return self

    def ignored(self, given: Collection[str]) -> Iterator[str]:
        """A line for each of these keys that has no effect here; a key stands for all below it."""
        for base in type(self).__mro__:
            for rule in base.__dict__.get("rules", ()):
                for key in rule.keys:
                    below = [name for name in given if f"{name}.".startswith(f"{key}.")]
                    if below and not rule.when(self):
                        yield f"{self.mark}{min(below).replace('_', '-')} has an effect only {rule.said}"


def changed(cfg: BaseModel, usual: Any = None) -> Iterator[str]:
    """Keys, dotted, that were given and differ from their defaults, which are those in `usual` where it has any."""
    for name in cfg.model_fields_set:
        value = getattr(cfg, name)
        default = getattr(usual, name) if isinstance(usual, type(cfg)) else type(cfg).model_fields[name].get_default()
        if isinstance(value, BaseModel):
            yield from (f"{name}.{key}" for key in changed(value, default))
        elif value != default:
            yield name


def option(default: Any = ..., text: str = "", *, runtime: bool = False, flag: bool = True, **bounds: Any) -> Any:
    """A config field: its default, one line of help with units; `flag=False` leaves it to `--set` and files."""
    return Field(default, description=text, json_schema_extra={"runtime": runtime, "flag": flag}, **bounds)


class PluginConfig(StageModel):
    """Base of a plugin's config; `name` is the name it is registered under."""

    name: str
    mark: ClassVar[str] = ""


class StageConfig(StageModel):
    """What every stage understands."""

    seed: int = option(0, "root of every random stream", ge=0, le=SEEDS)
    workers: int | None = option(
        None, "processes that prepare data; 0 uses none, absent the stage decides", runtime=True, ge=0
    )
    threads: int | None = option(
        None, "threads of torch; absent means all cores but one, which prepares data", runtime=True, ge=1
    )
    device: Literal["auto", "cpu", "cuda"] = option("auto", "where networks run", runtime=True)
    strict: bool = option(False, "exit with code 2 when an input was rejected", runtime=True)
    uses: ClassVar[tuple[str, ...]] = ("seed", "workers", "threads", "device", "strict")  # those with an effect

    def ignored(self, given: Collection[str]) -> Iterator[str]:
        yield from super().ignored(given)
        for key in StageConfig.model_fields:
            obeyed = (key, getattr(self, key)) in (("workers", 0), ("device", "cpu"))  # it does so anyway
            if key in given and key not in self.uses and not obeyed:
                yield f"--{key} has no effect in this command"


def field_traits(model: type[BaseModel], name: str) -> dict[str, Any]:
    extra = model.model_fields[name].json_schema_extra
    return extra if isinstance(extra, dict) else {}


def result_keys(cfg: BaseModel) -> dict[str, Any]:
    """The part of a config that can change a result, as plain values (runtime fields left out, at every depth)."""
    kept = {}
    for name in type(cfg).model_fields:
        if field_traits(type(cfg), name).get("runtime"):
            continue
        value = getattr(cfg, name)
        kept[name] = result_keys(value) if isinstance(value, BaseModel) else json.loads(json.dumps(value, default=str))
    return kept


def fingerprint(payload: Any) -> str:
    """16 hex digits of the canonical JSON of `payload`."""
    text = json.dumps(payload, sort_keys=True, separators=(",", ":"), ensure_ascii=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def to_yaml(cfg: BaseModel) -> str:
    return dump_yaml(cfg.model_dump(mode="json"))


def assign(target: dict[str, Any], dotted: str, value: Any) -> None:
    """Set `a.b.c` in nested mappings; a plugin given by name alone becomes a mapping that keeps the name."""
    *parents, last = dotted.split(".")
    for key in parents:
        inner = target.get(key)
        if isinstance(inner, str):
            inner = {"name": inner}
        target[key] = inner if isinstance(inner, dict) else {}
        target = target[key]
    previous = target.get(last)
    if isinstance(previous, dict) and "name" in previous and isinstance(value, str):
        value = {"name": value}
    target[last] = value


def parse_set(text: str) -> tuple[str, Any]:
    """`key=value` -> (key, value), the value read as YAML."""
    import yaml

    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set wants key=value, got {text!r}")
    try:
        return key.strip(), parse_yaml(value)
    except yaml.YAMLError:
        return key.strip(), value
    except ValueError as error:
        raise ConfigError(f"--set {key.strip()}: {error}") from None


def build(model: type[Model], data: Mapping[str, Any]) -> Model:
    """Validate `data`; every fault in one line of plain words."""
    try:
        return model.model_validate(dict(data))
    except ValidationError as error:
        raise ConfigError("; ".join(_faults(model, error))) from None


def _faults(model: type[BaseModel], error: ValidationError) -> Iterator[str]:
    for fault in error.errors():
        where = ".".join(str(key) for key in fault["loc"])
        if fault["type"] == "extra_forbidden":
            yield unknown_key(where, keys_beside(model, fault["loc"]))
        elif fault["type"] == "missing":
            yield f"{where} is required"
        elif fault["type"] == "value_error" and isinstance(fault["input"], Mapping):  # about a whole mapping
            yield fault["msg"].removeprefix("Value error, ")
        else:
            yield f"{where}: {fault['msg'].removeprefix('Value error, ')} (got {fault['input']!r:.80})"


def keys_beside(model: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    """The keys that would have been valid where an unknown one stood."""
    for key in loc[:-1]:
        field = model.model_fields.get(str(key))
        if field is None or not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            return []
        model = field.annotation
    return list(model.model_fields)


def unknown_key(key: str, known: list[str]) -> str:
    close = difflib.get_close_matches(key.rsplit(".", 1)[-1], known, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else f"; known keys: {', '.join(sorted(known))}" if known else ""
    return f"unknown key {key!r}{hint}"


def gather(file: Path | None, flags: Mapping[str, Any], sets: list[str]) -> dict[str, Any]:
    """What file, flags and sets say, each over the one before."""
    data = read_yaml(file) if file else {}
    for key, value in flags.items():
        assign(data, key, value)
    for text in sets:
        assign(data, *parse_set(text))
    return data


def load(model: type[StageModel], file: Path | None, flags: Mapping[str, Any], sets: list[str]) -> StageModel:
    """Merge file, flags and sets, in that order, and validate. What was typed and has no effect is an error."""
    cfg = build(model, gather(file, flags, sets))
    if ignored := next(cfg.ignored({*flags, *(parse_set(text)[0] for text in sets)}), None):
        raise ConfigError(ignored)
    return cfg
