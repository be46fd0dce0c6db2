"""Errors a person can mend, each with the exit code of the command line."""

from __future__ import annotations


class CellvisionError(Exception):
    """Something the user can mend: one line saying what happened, what was expected and what to do."""

    exit_code = 1


class RejectedInput(CellvisionError):  # noqa: N818 - says what happened
    """Some inputs were rejected and `--strict` was given."""

    exit_code = 2


class NoUsableInput(CellvisionError):  # noqa: N818 - says what happened
    """Nothing is left to work on."""

    exit_code = 3


class ConfigError(CellvisionError):
    """A bad option, config file or combination of inputs."""

    exit_code = 4


class UnsafeInput(CellvisionError):  # noqa: N818 - says what happened
    """A file that could run code or reach outside its folder."""

    exit_code = 5


class DiskFull(OSError):  # noqa: N818 - says what happened
    """A disk is full: `filename` is what could not be written, `strerror` says how much it needs."""

    exit_code = 28


class LeakError(ConfigError):
    """Something fitted has seen units of the fold it would be tested on."""


class StrategyRefused(ConfigError):  # noqa: N818 - says what happened
    """A strategy cannot be used on these data; ablations show the arm as refused."""
