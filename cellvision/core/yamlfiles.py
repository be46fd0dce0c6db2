"""YAML from people: the scalars of YAML 1.2, and nothing that stands for more than what is written.

A key that stands twice, anchors that unfold without end, a file that extends itself and a number of a thousand digits
are errors with the place of the fault; so is anything that could be an object of Python.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from types import NoneType
from typing import Any

from cellvision.core.errors import ConfigError

LARGEST = 1 << 20  # bytes of a file
DEPTH = 50  # mappings and lists inside each other
VALUES = 100_000  # that a file stands for, once its aliases are written out
DIGITS = 300  # of a whole number
TAG = "tag:yaml.org,2002:"
OLDER = ("bool", "float", "int", "timestamp")  # whose rules YAML 1.2 has changed, or has not
RULES = (  # tag, pattern, first characters
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    ("float", r"^[-+]?(?:\d+\.\d*|\.\d+|\d+(?=[eE]))(?:[eE][-+]?\d+)?$|^[-+]?\.(?:inf|Inf|INF)$|^\.(?:nan|NaN|NAN)$",
     "-+.0123456789"),
    ("int", r"^[-+]?\d+$|^0o[0-7]+$|^0x[0-9a-fA-F]+$", "-+0123456789"),
)  # fmt: skip


def parse_yaml(text: str) -> Any:
    """YAML with the 1.2 idea of scalars: 1e-3 is a number, `no` is a word. yaml.YAMLError, ValueError for a number."""
    import yaml

    loader = _loader()(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _check(node, {}, 0)
        return loader.construct_document(node)
    except RecursionError:
        raise yaml.YAMLError(f"values lie more than {DEPTH} deep inside each other") from None
    finally:
        loader.dispose()


def dump_yaml(values: Any) -> str:
    """Text that reads back as the same values, here and by the rules of YAML 1.1."""
    import yaml

    return yaml.dump(values, Dumper=_dumper(), sort_keys=False, allow_unicode=True)


def read_yaml(path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The keys and values of a YAML file, on top of those of the file it `extends`; ConfigError says what is wrong."""
    import yaml

    try:
        with path.open("rb") as handle:
            raw = handle.read(LARGEST + 1)
        if len(raw) > LARGEST:
            raise ConfigError(f"{path} has more than {LARGEST} bytes and is no config file")
        data = parse_yaml(raw.decode("utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"no config file at {path}") from None
    except (yaml.YAMLError, ValueError, OSError) as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict | NoneType):
        raise ConfigError(f"{path} must hold keys and values, not a {type(data).__name__}")
    data = data or {}
    base = data.pop("extends", None)
    if base is None:
        return data
    if not isinstance(base, str):
        raise ConfigError(f"{path}: extends names one file, not {base!r:.80}")
    below = path.parent / base
    if below.resolve() in (path.resolve(), *above):
        raise ConfigError(f"{path} extends {base}, which extends it: a circle")
    if not below.is_file():
        raise ConfigError(f"{path} extends {base}, which is no file")
    return merge(read_yaml(below, (*above, path.resolve())), data)


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`over` on top of `base`, mapping by mapping."""
    nested = {
        key: merge(base[key], over[key])
        for key in over
        if isinstance(base.get(key), dict) and isinstance(over[key], dict)
    }
    return base | over | nested


def _check(node: Any, weights: dict[int, int], depth: int) -> int:
    """How many values a node stands for once its aliases are written out. yaml.YAMLError with the place of a fault."""
    import yaml

    if id(node) in weights:
        weight = weights[id(node)]
    elif isinstance(node, yaml.ScalarNode):
        return 1
    elif depth > DEPTH:
        raise _fault(node, f"values lie more than {DEPTH} deep inside each other")
    else:
        weights[id(node)] = VALUES + 1  # met again below itself: a circle, which stands for more than any number
        pairs = isinstance(node, yaml.MappingNode)
        if pairs:
            _refuse_repeated(node)
        inner = [part for pair in node.value for part in pair] if pairs else node.value
        weight = 1
        for part in inner:
            weight += _check(part, weights, depth + 1)
        weights[id(node)] = weight
    if weight > VALUES:
        raise _fault(node, f"its anchors unfold to more than {VALUES} values")
    return weight


def _refuse_repeated(node: Any) -> None:
    seen: set[str] = set()
    for key, _ in node.value:
        name = key.value if isinstance(key.value, str) else ""
        if name in seen and name != "<<":
            raise _fault(key, f"the key {name!r} stands twice")
        seen |= {name} - {""}


def _fault(node: Any, problem: str) -> Exception:
    import yaml

    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


def _whole(loader: Any, node: Any) -> int:
    """A whole number: 010 is ten. ValueError for one that nothing here could count to."""
    text = str(loader.construct_scalar(node))
    if len(text) > DIGITS:
        raise ValueError(f"a whole number of {len(text)} digits, {text[:20]}…")
    return int(text, 0) if text[:2] in ("0o", "0x") else int(text)


@cache
def _loader() -> Any:
    import yaml

    class Loader(yaml.SafeLoader):
        """A safe loader with the scalars of YAML 1.2."""

    Loader.yaml_implicit_resolvers = {
        first: [rule for rule in rules if rule[0].removeprefix(TAG) not in OLDER]
        for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    _add_rules(Loader)
    Loader.add_constructor(f"{TAG}int", _whole)
    return Loader


@cache
def _dumper() -> Any:
    import yaml

    class Dumper(yaml.SafeDumper):
        """Quotes words that would be numbers by either version's rules."""

    _add_rules(Dumper)
    return Dumper


def _add_rules(kind: Any) -> None:
    for tag, pattern, first in RULES:
        kind.add_implicit_resolver(f"{TAG}{tag}", re.compile(pattern), list(first))
