"""Where a network runs, with how many threads, and in which precision."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from cellvision.core.errors import ConfigError
from cellvision.executors import local


def pick_device(name: str, threads: int | None = None) -> torch.device:
    """`auto` is CUDA where there is one; also sets the threads. ConfigError for a CUDA that is not there."""
    torch.set_num_threads(threads or max(1, local.cores() - 1))
    return device_named(name)


def device_named(name: str) -> torch.device:
    """`auto` is CUDA where there is one. ConfigError for a CUDA that is not there."""
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda, but torch finds no CUDA device; use --device cpu, or see cellvision doctor")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def device_of(module: nn.Module) -> torch.device:
    return next(module.parameters()).device


def reseed(seed: int, device: torch.device) -> None:
    """`torch.manual_seed` for the processor and the network's device, which is all that a step draws from.

    torch's own notes the calling stack for each kind of device that is not there, and keeps the notes: a millisecond.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed_all(seed)


def fast_bf16(module: nn.Module) -> bool:
    """bf16 pays where the processor multiplies it and the network has no depthwise convolutions (measured: slower)."""
    if device_of(module).type == "cuda":
        return torch.cuda.is_bf16_supported()
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    depthwise = any(isinstance(layer, nn.Conv2d) and layer.groups > 1 for layer in module.modules())
    return bool(supported) and not depthwise


def autocast(module: nn.Module, precision: str) -> Any:
    use = precision == "bf16" or (precision == "auto" and fast_bf16(module))
    return torch.autocast(device_of(module).type, torch.bfloat16, enabled=use)
