"""The calcium simulator: waves, noise, exchange, files."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from trace_items import opened

from cellvision import simulate
from cellvision.core.config import build
from cellvision.core.errors import ConfigError
from cellvision.simulators import calcium


def test_a_wave_reaches_far_cells_later_and_lower() -> None:
    tissue = calcium.Tissue(5, 12, 0.5, 0.1, 0.2, 0.0)
    found = calcium.simulate(tissue, 4, 301, np.random.default_rng(0))
    assert found.shape == (4, 25, 301)
    distance = tissue.distance()
    assert distance.reshape(5, 5)[2].tolist() == [2, 1, 0, 1, 2]
    assert distance[0] == 4
    rise = found - found[:, :, :8].mean(2, keepdims=True)
    high = [rise[:, distance == d].max(2).mean() for d in range(4)]
    assert high == sorted(high, reverse=True)
    assert high[0] > 1.5 * high[3]
    late = [rise[:, distance == d].argmax(2).mean() for d in range(3)]
    assert late == sorted(late)


def test_without_a_stimulus_nothing_travels_and_noise_is_what_it_says() -> None:
    quiet = calcium.Tissue(3, 4, 0.0, 0.05, 0.2, 0.0)
    found = calcium.simulate(quiet, 3, 101, np.random.default_rng(0))
    assert np.ptp(found[:, :, 20:], axis=2).max() < 0.05
    loud = calcium.simulate(calcium.Tissue(3, 4, 0.0, 0.05, 0.2, 0.05), 3, 101, np.random.default_rng(0))
    assert np.diff(loud, axis=2).std() / np.sqrt(2) == pytest.approx(0.05, rel=0.1)


def test_exchange_keeps_the_sum_and_flows_between_neighbours_only() -> None:
    ip3 = np.zeros((1, 9))
    ip3[0, 4] = 1.0
    flow = calcium._exchange(np.ones((1, 9)), ip3, 3).reshape(3, 3)
    assert flow.sum() == pytest.approx(0)
    assert flow.tolist() == [[0, 1, 0], [1, -4, 1], [0, 1, 0]]


def test_simulate_writes_files_as_matlab_does_and_resumes(tmp_path: Path) -> None:
    some = {"noise": [0.01, 0.05], "samples": 2, "side": 3, "points": 31}
    cfg = build(simulate.Config, {"kind": "calcium", "calcium": some, "workers": 0})
    simulate.run(cfg, tmp_path / "a")
    simulate.run(cfg, tmp_path / "b")
    first, second = (sorted((tmp_path / run / "raw").iterdir()) for run in "ab")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    with h5py.File(first[0]) as file:
        assert file["timeTraces/1"].shape == (31, 9)
        assert file["tissue/stimCell"][()] == 5
    table = opened(tmp_path / "a").items.table
    assert sorted(table["noise"].unique()) == [0.01, 0.05]
    assert table["unit"].nunique() == 4
    assert set(table["distance"]) == {0, 1, 2}
    wrong = build(simulate.Config, {"kind": "calcium", "calcium": some | {"stim": 9}})
    with pytest.raises(ConfigError, match="0 to 8, got 9"):
        simulate.run(wrong, tmp_path / "c")
