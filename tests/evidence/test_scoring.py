"""From predictions to numbers: known answers."""

from __future__ import annotations

import pandas as pd
import pytest

from cellvision.evidence import scoring


def test_absolute_error_counts_steps() -> None:
    rows = pd.DataFrame(
        {"unit": ["a", "a", "b", "b"], "truth": ["0", "2", "10", "1"], "predicted": ["0", "1", "2", ""]}
    )
    found = scoring.absolute_error(rows)
    assert found.value == pytest.approx(3.0)
    assert found.units == 2
