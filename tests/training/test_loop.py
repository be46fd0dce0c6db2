"""The training loop: known learning rates, the same bits after an interruption, and what must not move."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cellvision.core import signals
from cellvision.core.errors import CellvisionError, ConfigError
from cellvision.core.rng import torch_seed
from cellvision.training import loop
from cellvision.training.device import pick_device
from cellvision.training.loop import Batch, LoopConfig

STEPS, STOP = 12, 7  # steps of a training, and the step at which it is interrupted


def network() -> nn.Module:
    """Convolution, batch norm and dropout: weights, statistics and random numbers."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5), nn.Linear(144, 2)
    )


class Batches:
    """The batch of a step; `stop_at` ends the training there, in one of the ways a training ends."""

    def __init__(self, stop_at: int = -1, stop: Callable[[], None] | None = None) -> None:
        self.stop_at, self.stop = stop_at, stop

    def __call__(self, step: int) -> Batch:
        if step == self.stop_at and self.stop:
            self.stop()
        generator = torch.Generator().manual_seed(torch_seed(0, "batch", step))
        items = torch.randn(16, 1, 8, 8, generator=generator)
        return {"items": items, "label": (items.mean((1, 2, 3)) > 0).long()}


def loss(module: nn.Module, batch: Batch) -> Tensor:
    return nn.functional.cross_entropy(module(batch["items"]).float(), batch["label"])


def config(**options: Any) -> LoopConfig:
    return LoopConfig(**{"steps": STEPS, "batch": 16, "lr": 0.01, "precision": "fp32", "checkpoint_s": 0} | options)


def train(
    folder: Path, make: Batches | None = None, **options: Any
) -> tuple[dict[str, Tensor], list[dict[str, float]]]:
    """Final weights and history."""
    workers, module = options.pop("workers", 0), options.pop("module", None) or network()
    history = loop.train(
        module, loss, make or Batches(), config(**options), seed=0, folder=folder, what="test", workers=workers,
        probe=lambda step: {"probe": step / 3}, probe_every=5,
    )  # fmt: skip
    return module.state_dict(), history


def assert_same(one: Any, other: Any) -> None:
    assert [list(row.items()) for row in one[1]] == [list(row.items()) for row in other[1]]  # in the same order, too
    assert one[0].keys() == other[0].keys()
    for key in one[0]:
        assert torch.equal(one[0][key], other[0][key]), key


def test_the_name_a_person_reads_changes_no_random_number(tmp_path: Path) -> None:
    def with_name(shown: str | None) -> tuple[dict[str, Tensor], list[dict[str, float]]]:
        module = network()
        folder = tmp_path / str(shown)
        history = loop.train(module, loss, Batches(), config(), seed=0, folder=folder, what="test", shown=shown)
        return module.state_dict(), history

    assert_same(with_name(None), with_name("finetune: fold 1"))


class CrashError(Exception):
    pass


def crash() -> None:
    raise CrashError


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


# -- schedule --


def test_learning_rate_warms_up_and_decays_to_zero() -> None:
    cfg = LoopConfig(steps=110, lr=1.0, warmup=10 / 110)
    rates = [loop.learning_rate(cfg, step) for step in range(110)]
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert rates[10] == pytest.approx(1.0)
    assert rates[60] == pytest.approx(0.5)
    assert rates[35] == pytest.approx(0.5 * (1 + 2**-0.5))
    assert 0 < rates[-1] < 0.001
    assert rates[10:] == sorted(rates[10:], reverse=True)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_the_shortest_trainings_have_a_learning_rate(steps: int) -> None:
    assert loop.learning_rate(LoopConfig(steps=steps, lr=0.5), 0) == 0.5


# -- what is learned --


def test_training_lowers_the_loss_and_keeps_a_row_a_step(tmp_path: Path) -> None:
    _, history = train(tmp_path, steps=60)
    assert [row["step"] for row in history] == list(range(60))
    assert sum(row["loss"] for row in history[-10:]) < sum(row["loss"] for row in history[:10])
    assert [row["step"] for row in history if "probe" in row] == [*range(0, 60, 5), 59]


def test_the_same_seed_gives_the_same_bits(tmp_path: Path) -> None:
    first = train(tmp_path / "a")
    torch.rand(5)
    assert_same(first, train(tmp_path / "b"))


def test_a_process_that_prepares_batches_changes_no_bit(tmp_path: Path) -> None:
    assert_same(train(tmp_path / "a", workers=0), train(tmp_path / "b", workers=1))


def test_averaged_weights_are_the_ones_kept(tmp_path: Path) -> None:
    last, _ = train(tmp_path / "last")
    average, _ = train(tmp_path / "average", ema=0.9)
    assert not torch.equal(last["0.weight"], average["0.weight"])
    assert average["1.num_batches_tracked"] == STEPS


def test_an_average_over_one_step_is_the_slow_one(tmp_path: Path) -> None:
    start = network().state_dict()["5.weight"].clone()
    last, average = (train(tmp_path / str(ema), steps=1, ema=ema)[0]["5.weight"] for ema in (0.0, 0.9))
    torch.testing.assert_close(average, start / 11 + last * 10 / 11)  # after one step the decay is 1/11


# -- interruption --


@pytest.mark.parametrize("ema", [0.0, 0.9], ids=["last", "average"])
def test_a_crashed_training_resumes_with_the_same_bits(tmp_path: Path, ema: float) -> None:
    whole = train(tmp_path / "whole", ema=ema)
    with pytest.raises(CrashError):
        train(tmp_path / "parts", Batches(STOP, crash), ema=ema)
    assert_same(whole, train(tmp_path / "parts", Batches(STOP - 1, crash), ema=ema))  # steps done are not made again


@pytest.mark.parametrize("ema", [0.0, 0.9], ids=["last", "average"])
def test_a_training_stopped_by_a_signal_resumes_with_the_same_bits(tmp_path: Path, ema: float, handlers: Any) -> None:
    whole = train(tmp_path / "whole", ema=ema)
    rare: dict[str, Any] = {"ema": ema, "checkpoint_s": 1e9}
    with pytest.raises(signals.Interrupted, match="SIGTERM") as stop:
        train(tmp_path / "parts", Batches(STOP, terminate), **rare)
    assert stop.value.exit_code == 143
    assert [path.name for path in sorted((tmp_path / "parts").glob("*.json"))] == [f"checkpoint-{STOP + 1:08d}.json"]
    signals.install()
    assert_same(whole, train(tmp_path / "parts", **rare))


def test_resume_keeps_the_memory_format(tmp_path: Path) -> None:
    with pytest.raises(CrashError):
        train(tmp_path, Batches(STOP, crash), module=network().to(memory_format=torch.channels_last))
    module = network().to(memory_format=torch.channels_last)
    train(tmp_path, module=module)
    weight: Any = module[0].weight  # type: ignore[index]
    assert weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("damage", ["truncated", "changed", "gone", "no record"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = train(tmp_path / "whole")
    with pytest.raises(CrashError):
        train(tmp_path / "parts", Batches(STOP, crash))
    before, newest = sorted((tmp_path / "parts").glob("*.safetensors"))
    content = bytearray(newest.read_bytes())
    if damage == "truncated":
        newest.write_bytes(content[: len(content) // 2])
    elif damage == "changed":
        content[-3] ^= 1
        newest.write_bytes(content)
    elif damage == "gone":
        newest.unlink()
    else:
        newest.with_suffix(".json").write_text('{"step": ')
    capsys.readouterr()
    assert_same(whole, train(tmp_path / "parts"))
    messages = capsys.readouterr().err
    assert f"{newest.stem} is damaged" in messages
    assert f"resuming at step {int(before.stem.split('-')[1])} of {STEPS}" in messages


def test_two_checkpoints_are_kept_and_forgotten_in_the_end(tmp_path: Path) -> None:
    train(tmp_path / "a")
    assert len(list((tmp_path / "a").iterdir())) == 4
    loop.forget(tmp_path)
    assert not tmp_path.exists()


# -- what must not move --


def test_frozen_parameters_and_their_norms_stay(tmp_path: Path) -> None:
    module = network()
    for parameter in [*module[0].parameters(), *module[1].parameters()]:  # type: ignore[index]
        parameter.requires_grad_(False)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    after, _ = train(tmp_path, module=module, weight_decay=0.5)
    for key in before:
        assert torch.equal(before[key], after[key]) == key.startswith(("0.", "1.")), key


def test_weight_decay_spares_biases_and_norms(tmp_path: Path) -> None:
    trainer = loop._Trainer(network(), config(weight_decay=0.3), tmp_path)
    decays = {id(p): group["weight_decay"] for group in trainer.optimiser.param_groups for p in group["params"]}
    assert {name: decays[id(value)] for name, value in trainer.parameters.items()} == {
        "0.weight": 0.3, "0.bias": 0.0, "1.weight": 0.0, "1.bias": 0.0, "5.weight": 0.3, "5.bias": 0.0,
    }  # fmt: skip


# -- errors --


def test_a_loss_that_is_not_finite_is_one_clear_line(tmp_path: Path) -> None:
    def infinite(module: nn.Module, batch: Batch) -> Tensor:
        return loss(module, batch) * float("inf")

    with pytest.raises(CellvisionError, match=r"the loss became inf at step 0; lower --lr") as error:
        loop.train(network(), infinite, Batches(), config(), seed=0, folder=tmp_path, what="test")
    assert "\n" not in str(error.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_a_missing_cuda_device_is_one_clear_line() -> None:
    with pytest.raises(ConfigError, match="finds no CUDA device; use --device cpu"):
        pick_device("cuda")


def test_auto_precision_is_a_context_that_trains(tmp_path: Path) -> None:
    _, history = train(tmp_path, precision="auto", steps=2)
    assert len(history) == 2
