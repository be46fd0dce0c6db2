"""Stages and commands called by hand: paths may be text, options a mapping, and a stage returns its run."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from cellvision.core import config
from cellvision.core.config import StageConfig
from cellvision.core.errors import ConfigError
from cellvision.runs.opened import Run

Options = TypeVar("Options", bound=StageConfig)
Returned = TypeVar("Returned")


def stage(run: Callable[[Options, Path], None]) -> Callable[[Options | Mapping[str, Any], Path | str], Run]:
    """`run(cfg, out)` of a stage, which then returns the run in `out`."""

    @functools.wraps(run)
    def called(cfg: Options | Mapping[str, Any], out: Path | str) -> Run:
        run(options_for(run, cfg), Path(out))
        return Run(out)

    return called


def command(run: Callable[..., Returned]) -> Callable[..., Returned]:
    """`run(cfg)` or `run(cfg, out)` of a command that leaves no run, and returns what it wrote."""

    @functools.wraps(run)
    def called(cfg: StageConfig | Mapping[str, Any], *out: Path | str) -> Returned:
        return run(options_for(run, cfg), *map(Path, out))

    return called


def options_for(run: Callable[..., Any], cfg: Any) -> Any:
    """The Config of the module that `run` stands in. ConfigError for options of another stage."""
    model, name = run.__globals__["Config"], run.__module__.rpartition(".")[2]
    if isinstance(cfg, Mapping):
        return config.build(model, cfg)
    if not isinstance(cfg, model):
        raise ConfigError(f"{name}.run wants {name}.Config or a mapping of its options, not {type(cfg).__qualname__}")
    return cfg
