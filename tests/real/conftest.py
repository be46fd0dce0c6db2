"""Real data: the folder that CELLVISION_REALDATA names, or ../shared/data beside the checkout; skipped where absent."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def realdata() -> Path:
    beside = Path(__file__).parents[3] / "shared" / "data"
    folder = Path(os.environ.get("CELLVISION_REALDATA", beside))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set CELLVISION_REALDATA")
    return folder
