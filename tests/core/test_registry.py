"""Registries load what is asked for and name the nearest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cellvision.core.errors import ConfigError
from cellvision.core.registry import Registry


def test_registry_loads_only_what_is_asked_for() -> None:
    registry: Registry[Any] = Registry("thing", {"path": "pathlib:Path", "broken": "no.such.module:Thing"})
    assert registry.load("path") is Path
    with pytest.raises(ConfigError, match="no thing named 'pat'; did you mean 'path'"):
        registry.load("pat")
    with pytest.raises(ConfigError, match="by name or as a mapping"):
        registry.config(3)
