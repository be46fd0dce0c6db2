"""Randomness with an owner: every generator is derived from the root seed and the names of what it is for."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np


def derive(seed: int, *names: Any) -> int:
    """A 64-bit seed that depends on the root seed and every name, and on nothing else."""
    text = "\x1f".join(str(name) for name in (seed, *names))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def generator(seed: int, *names: Any) -> np.random.Generator:
    """A numpy generator for one purpose, such as (stage, sample, epoch, view)."""
    return np.random.default_rng(derive(seed, *names))


def torch_seed(seed: int, *names: Any) -> int:
    """A seed torch accepts (63 bits)."""
    return derive(seed, *names) >> 1
