"""Every plugin of every registry: its name, its config, its family's contract; found by the registry line."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from cellvision.branches import BRANCHES, Branch
from cellvision.core.config import StageModel
from cellvision.core.errors import ConfigError
from cellvision.core.registry import Registry
from cellvision.segmenters import SEGMENTERS, Segmenter
from cellvision.selfsup import METHODS, Method
from cellvision.simulators import PAINTERS, Painter
from cellvision.strategies import STRATEGIES, Strategy

CONTRACTS: tuple[tuple[Registry[Any], type], ...] = (
    (PAINTERS, Painter), (SEGMENTERS, Segmenter), (METHODS, Method), (STRATEGIES, Strategy), (BRANCHES, Branch),
)  # fmt: skip
PLUGINS = [pytest.param(registry, name, id=name) for registry, _ in CONTRACTS for name in registry.names()]


@pytest.mark.parametrize(
    ("registry", "name", "contract"),
    [pytest.param(registry, name, contract, id=name) for registry, contract in CONTRACTS for name in registry.names()],
)
def test_plugin_inherits_its_contract_so_that_mypy_compares_them(
    registry: Registry[Any], name: str, contract: type
) -> None:
    assert contract in registry.load(name).__mro__


@pytest.mark.parametrize(("registry", "name"), PLUGINS)
def test_plugin_loads_under_its_own_name(registry: Registry[Any], name: str) -> None:
    assert registry.load(name).Config().model_dump()["name"] == name
    assert registry.config(name) == registry.config({"name": name})


@pytest.mark.parametrize(("registry", "name"), PLUGINS)
def test_plugin_config_is_frozen(registry: Registry[Any], name: str) -> None:
    assert isinstance(registry.config(name), StageModel)
    config: Any = registry.load(name).Config()
    with pytest.raises(ValidationError, match="frozen"):
        config.name = "other"


@pytest.mark.parametrize(("registry", "name"), PLUGINS)
def test_unknown_key_names_the_nearest_one(registry: Registry[Any], name: str) -> None:
    known = [key for key in registry.load(name).Config.model_fields if key != "name"]
    wrong = f"{known[0]}s" if known else "nam"
    with pytest.raises(ConfigError, match=f"did you mean '{known[0] if known else 'name'}'"):
        registry.build({"name": name, wrong: 1})


@pytest.mark.parametrize(("registry", "name"), PLUGINS)
def test_unknown_name_names_the_nearest_one(registry: Registry[Any], name: str) -> None:
    with pytest.raises(ConfigError, match=f"did you mean '{name}'"):
        registry.load(f"{name}x")
