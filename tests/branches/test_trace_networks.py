"""trace: batches, networks and features."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from trace_items import opened, table_of, wide_text

from cellvision.branches import Augment
from cellvision.branches.trace import branch as branch_module
from cellvision.branches.trace.features import ends, summary
from cellvision.branches.trace.networks import RandomKernels, network, pooled
from cellvision.core.errors import ConfigError

# -- batches --


def test_scaling_knows_the_training_rows_only(traces: Path) -> None:
    branch = opened(traces, scale="train")
    rows = np.arange(20)
    state = branch.fit(rows)
    values = branch.batch(rows, state)[:, 0]
    assert values.mean() == pytest.approx(0, abs=1e-4)
    assert values.std() == pytest.approx(1, abs=1e-3)
    known = branch.traces.take(rows)
    np.testing.assert_allclose(state["mean"], known.mean(), rtol=1e-4)
    np.testing.assert_allclose(state["std"], known.std(), rtol=1e-4)


def test_unknown_points_are_zero_and_masked(tmp_path: Path) -> None:
    rows = ["a,x," + ",".join([""] * 3 + ["1"] * 2 + ["5"] * 3 + ["2", "3"] * 4), "b,y," + ",".join(["3", "1"] * 8)]
    branch = opened(table_of(tmp_path, wide_text(rows)))
    batch = branch.batch(np.arange(2), branch.fit(np.arange(2)))
    assert batch.shape == (2, 8, 8)  # two scales of two channels, and their masks
    assert (batch[0, [0, 2], :3] == 0).all()
    assert np.array_equal(batch[0, 4], [0, 0, 0, 1, 1, 1, 1, 1])
    assert (batch[1, 4:] == 1).all()


def test_bins_are_means_of_what_is_known() -> None:
    values = np.array([[[1, 3, np.nan, 5, np.nan, np.nan, 7]]], np.float32)
    assert branch_module.bins(7, 4) == (4, 2)
    np.testing.assert_array_equal(branch_module.binned(values, 4)[0, 0], [2, 5, np.nan, 7])
    assert branch_module.binned(values, 7) is values


def test_weak_views_keep_time_and_hide_at_most_the_crop(traces: Path) -> None:
    branch = opened(traces, scale="train", crop=0.3)
    rows = np.arange(60)
    state = branch.fit(rows)
    plain, weak = branch.batch(rows, state), branch.batch(rows, state, Augment("weak", (0, 1)))
    shown = weak[:, 1] > 0
    assert shown.mean(1).min() >= 0.69
    assert shown.mean(1).max() > 0.95
    same = [np.corrcoef(a[s], b[s])[0, 1] for a, b, s in zip(plain[:, 0], weak[:, 0], shown, strict=True)]
    assert np.median(same) > 0.95
    assert np.array_equal(branch.batch(rows, state, Augment("pose", (3,))), plain)


def test_traces_of_other_length_and_channels_are_aligned_by_name(tmp_path: Path) -> None:
    def write(name: str, channels: list[str], points: int) -> Path:
        columns = {f"{c}_{t}": np.arange(3) + t + 100 * ord(c[0]) for c in channels for t in range(points)}
        pd.DataFrame({"ID": ["a", "b", "c"], **columns}).to_csv(tmp_path / name, index=False)
        return tmp_path / name

    five = ["A", "B", "C", "D", "E"]
    old, new = opened(write("old.csv", five, 12)), opened(write("new.csv", ["E", "D", "B", "A"], 20))
    state = old.fit(np.arange(3))
    notes = new.align(old.schema())
    assert notes == ["missing channels, taken as unknown: C", "traces of 20 points are cut to the model's 12"]
    before, after = old.batch(np.arange(3), state), new.batch(np.arange(3), state)
    present = [0, 1, 3, 4]
    np.testing.assert_allclose(before[:, present], after[:, present])
    assert (after[:, 10 + 2] == 0).all()
    with pytest.raises(ConfigError, match="2 of the model's 5 channels are missing, such as 'A'"):
        opened(write("few.csv", ["B", "C", "D"], 12)).align(old.schema())


# -- networks and features --


@pytest.mark.parametrize("name", ["mlp-16-8", "cnn-8-16", "inception-4-2", "resnet-8-2", "kernels-20", "joint-20-8-16"])
@pytest.mark.parametrize("points", [8, 61])
def test_every_network_gives_finite_features_even_of_nothing(name: str, points: int) -> None:
    torch.manual_seed(0)
    made = network(name, 2, points).eval()
    traces = torch.randn(3, 4, points)
    traces[:, 2:] = 1
    traces[2] = 0
    features = made(traces)
    assert features.shape == (3, made.num_features)
    assert torch.isfinite(features).all()
    assert not torch.equal(features[0], features[1])


def test_an_unknown_network_names_the_known_ones(traces: Path) -> None:
    branch = opened(traces)
    for name in ("lstm-3", "mlp", "inception-4", "cnn-a"):
        with pytest.raises(ConfigError, match="encoders such as mlp-256-128"):
            branch.network(name, branch.fit(np.arange(9)))


def test_pooling_looks_at_known_points_only() -> None:
    features, known = torch.arange(12.0).reshape(1, 2, 6), torch.tensor([[[0, 1.0, 1, 0, 0, 0]]])
    assert pooled(features, known).tolist() == [[1.5, 7.5, 2.0, 8.0]]


def test_random_kernels_ignore_level_scale_and_what_is_hidden() -> None:
    kernels = RandomKernels(1, 60, 50).eval()
    torch.manual_seed(0)
    values, known = torch.randn(4, 1, 60), torch.ones(4, 1, 60)
    known[:, :, 40:] = 0
    plain = kernels(torch.cat([values * known, known], 1))[:, 2:]
    moved = kernels(torch.cat([(3 * values + 5) * known, known], 1))[:, 2:]
    torch.testing.assert_close(plain, moved, rtol=1e-3, atol=1e-3)
    share = plain[:, : kernels.get_parameter("bias_1").numel()]
    assert ((share >= 0) & (share <= 1.0001)).all()
    other = values.clone()
    other[:, :, 40:] = 99
    torch.testing.assert_close(plain, kernels(torch.cat([other * known, known], 1))[:, 2:])


def test_random_kernels_equal_slow_ones() -> None:
    kernels = RandomKernels(1, 30, 6).eval()
    torch.manual_seed(0)
    values = torch.randn(1, 1, 30)
    found = kernels(torch.cat([values, torch.ones_like(values)], 1))[0]
    flat = (values[0, 0] - values.mean()) / values.std(correction=0)
    expected = [values.mean(), values.std(correction=0)]
    for dilation in kernels.dilations:
        weight, bias = getattr(kernels, f"weight_{dilation}"), getattr(kernels, f"bias_{dilation}")
        outputs = []
        for number in range(len(bias)):
            row = []
            for time in range(30):
                reach = [time + dilation * (tap - 5) for tap in range(11)]
                row.append(
                    bias[number]
                    + sum(weight[number, 0, tap] * flat[at] for tap, at in enumerate(reach) if 0 <= at < 30)
                )
            outputs.append(torch.stack(row))
        expected += [(row > 0).float().mean() for row in outputs] + [row.max() for row in outputs]
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-4, atol=1e-4)


def test_summary_statistics_have_known_answers() -> None:
    trace = np.full((1, 1, 20), np.nan, np.float32)
    trace[0, 0, 5:15] = [0, 0, 0, 0, 4, 4, 0, 0, 0, 2]
    found = summary(trace)
    assert found.shape == (1, 24)
    assert found[0, 0] == pytest.approx(1.0)
    assert found[0, 7] == 4
    assert found[0, 11] == 9  # time of the maximum
    assert ends(trace).tolist() == [[5, 15, 10]]
    both = summary(np.concatenate([trace, trace + 1], 1))
    assert np.array_equal(both[:, :24], found, equal_nan=True)
