"""Tensors in safetensors files: nothing in them is run, damage is told, the same tensors are the same bytes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cellvision.core import files
from cellvision.core.errors import ConfigError

COUNTER = "num_batches_tracked"
HISTORY = "seen."  # before the names of tensors that say what weights have seen: evidence/seen


def write(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Tensors of any shape, (...,), by name -> a safetensors file.

    One metadata key at most: of several the library writes the order by chance, and bytes would differ.
    """
    from safetensors.torch import save

    plain = {key: value.detach().to("cpu").contiguous().clone() for key, value in tensors.items()}
    files.write_bytes(path, save(plain, dict(metadata or {})))


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors and the metadata of a safetensors file. ConfigError when it is missing, damaged or padded."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise ConfigError(f"no weights at {path}")
    _check_length(path)
    try:
        with safe_open(path, "pt") as handle:
            return {key: handle.get_tensor(key) for key in handle.keys()}, dict(handle.metadata() or {})  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ConfigError(f"{path} is no sound safetensors file ({error})") from None


def history(tensors: Mapping[str, Tensor]) -> dict[str, NDArray]:
    """The arrays (n,) among the tensors that say what the weights have seen, by name."""
    return {key.removeprefix(HISTORY): value.numpy() for key, value in tensors.items() if key.startswith(HISTORY)}


def history_tensors(arrays: Mapping[str, NDArray]) -> dict[str, Tensor]:
    """Arrays (n,) that say what weights have seen, as tensors to lie beside them."""
    return {f"{HISTORY}{key}": torch.from_numpy(value) for key, value in arrays.items()}


def _check_length(path: Path) -> None:
    """The header's length and its last offset must add up to the file's size exactly."""
    size = path.stat().st_size
    with path.open("rb") as handle:
        length = int.from_bytes(handle.read(8), "little")
        if length + 8 > size or length > 100_000_000:
            raise ConfigError(f"{path} is no sound safetensors file (a header of {length} bytes in a file of {size})")
        try:
            header = json.loads(handle.read(length))
            end = max(
                (int(entry["data_offsets"][1]) for key, entry in header.items() if key != "__metadata__"), default=0
            )
        except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError):
            raise ConfigError(f"{path} is no sound safetensors file (its header cannot be read)") from None
    if 8 + length + end != size:
        raise ConfigError(f"{path} holds {size - 8 - length - end} bytes more than its header says")


def load_into(module: nn.Module, weights: Mapping[str, Tensor], what: str) -> None:
    """Copy weights, of any shape (...,), by name into a module; ConfigError names the first tensor that does not fit.

    Files converted from old ones lack the counters of batch normalisation, which no network here reads: the module's
    own stay.
    """
    weights = {**refuse_misfit(module, weights, what), **weights}
    for key, value in weights.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise ConfigError(f"{what} holds values that are not finite in tensor {key!r}")
    module.load_state_dict(dict(weights))


def refuse_misfit(module: nn.Module, weights: Mapping[str, Tensor], what: str) -> dict[str, Tensor]:
    """ConfigError names the first tensor, of any shape (...,), that does not fit; -> counters that weights may lack."""
    expected = module.state_dict()
    counters = {key: value for key, value in expected.items() if key.endswith(COUNTER) and key not in weights}
    for key in sorted({*expected, *weights} - {*counters}):
        if key not in weights or key not in expected or expected[key].shape != weights[key].shape:
            raise ConfigError(
                f"{what} does not fit the network: tensor {key!r} is missing, unknown or of another shape"
            )
    return counters


def load_built(build: Callable[[], nn.Module], weights: Mapping[str, Tensor], what: str) -> nn.Module:
    """A module with these weights (...,) by name. It is built without memory first; ConfigError on misfit."""
    with torch.device("meta"):
        refuse_misfit(build(), weights, what)
    module = build()
    load_into(module, weights, what)
    return module
