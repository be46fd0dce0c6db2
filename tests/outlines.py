"""Outlines and label maps with known shapes."""

from __future__ import annotations

import numpy as np

RING = np.array([[1, 1, 1, 1], [1, 0, 0, 1], [1, 0, 2, 1], [1, 1, 1, 1]])  # a hole, and another cell in it
