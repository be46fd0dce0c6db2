"""The one training loop: a budget in steps, bf16 where it is fast, EMA, resume at any step with the same bits.

The batch and every random number are functions of (seed, step), so a resumed run repeats the uninterrupted one. Two
checkpoints are kept, each with its checksum.
"""

from __future__ import annotations

import contextlib
import copy
import math
import shutil
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cellvision.core import files, signals
from cellvision.core.errors import CellvisionError, ConfigError
from cellvision.core.progress import say, track
from cellvision.core.rng import torch_seed
from cellvision.executors import local
from cellvision.io import tensorfiles
from cellvision.training.device import autocast, device_of, reseed
from cellvision.training.schedule import LoopConfig, learning_rate

Batch = dict[str, Tensor]


class _Steps(torch.utils.data.Dataset):
    """The batch of each step, made wherever the loader runs it."""

    def __init__(self, make: Callable[[int], Batch], start: int, stop: int) -> None:
        self.make, self.start, self.stop = make, start, stop

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, index: int) -> Batch:
        return self.make(self.start + index)


def _worker(_: int) -> None:
    import signal

    import cv2

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    cv2.setNumThreads(0)


def batches(make: Callable[[int], Batch], start: int, stop: int, workers: int) -> Generator[Batch]:
    """Batches of the steps start..stop-1, prepared ahead by `workers` processes."""
    loader = torch.utils.data.DataLoader(
        _Steps(make, start, stop), batch_size=None, shuffle=False, num_workers=workers, worker_init_fn=_worker,
        multiprocessing_context=local.loader_context(workers),
    )  # fmt: skip
    try:
        yield from loader
    except RuntimeError as error:
        if "DataLoader worker" in str(error):
            signals.await_request(local.SIGNAL_S)
            raise CellvisionError("a process that prepares batches died (out of memory?); try --workers 0") from None
        raise


def train(
    module: nn.Module,
    loss: Callable[[nn.Module, Batch], Tensor],
    make: Callable[[int], Batch],
    cfg: LoopConfig,
    *,
    seed: int,
    folder: Path,
    what: str,  # names the random streams
    shown: str | None = None,  # what the person reads, where that says more
    workers: int = 0,
    probe: Callable[[int], dict[str, float]] | None = None,
    probe_every: int = 0,
    after_step: Callable[[int], None] | None = None,
    frozen_statistics: bool = True,
) -> list[dict[str, float]]:
    """Train `module` in place and return the history, one row a step with its loss and what the probe found.

    Parameters that need no gradient stay as they are, unless `after_step`, called with the step's number behind the
    optimiser, moves them; with `frozen_statistics` norms whose parameters are all such keep their statistics too.
    Batches are tensors (n, ...) by name. Raises Interrupted after a checkpoint when a signal asks for it.
    """
    trainer = _Trainer(module, cfg, folder, shown or what)
    device = device_of(module)
    context = autocast(module, cfg.precision)
    saved = time.monotonic()
    source = batches(make, trainer.step, cfg.steps, workers)
    with signals.deferred(), contextlib.closing(source):
        for batch in track(source, shown or what, cfg.steps, "steps", trainer.step):
            step = trainer.step
            reseed(torch_seed(seed, what, step), device)
            module.train()
            if frozen_statistics:
                freeze_norms(module)
            with context:
                value = loss(module, {key: tensor.to(device, non_blocking=True) for key, tensor in batch.items()})
            row = {"step": step, "loss": trainer.update(value)}
            if after_step:
                after_step(step)
            trainer.follow()
            if probe and probe_every and (step % probe_every == 0 or step == cfg.steps - 1):
                row |= probe(step)
            trainer.history.append(dict(sorted(row.items())))  # the order a checkpoint gives back
            if signals.requested() or time.monotonic() - saved >= cfg.checkpoint_s:
                trainer.save()
                saved = time.monotonic()
            if signals.requested():
                raise signals.Interrupted(signals.requested())
    trainer.use_average()
    return trainer.history


def freeze_norms(module: nn.Module) -> None:
    """Layers whose parameters are all frozen run in evaluation mode, so that their statistics stay as they are."""
    for layer in module.modules():
        parameters = list(layer.parameters(recurse=False))
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            layer.eval()


class _Trainer:
    """Optimiser, average and history of one training, and their checkpoints."""

    def __init__(self, module: nn.Module, cfg: LoopConfig, folder: Path, shown: str = "training") -> None:
        self.module, self.cfg, self.folder, self.shown = module, cfg, folder, shown
        self.step = 0
        self.history: list[dict[str, float]] = []
        self.parameters = {name: value for name, value in module.named_parameters() if value.requires_grad}
        flat = [value for value in self.parameters.values() if value.ndim <= 1]
        deep = [value for value in self.parameters.values() if value.ndim > 1]
        groups = [{"params": deep, "weight_decay": cfg.weight_decay}, {"params": flat, "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW([group for group in groups if group["params"]], lr=cfg.lr, fused=True)
        self.average = copy.deepcopy(module) if cfg.ema else None
        self._resume()

    def update(self, value: Tensor) -> float:
        """One optimiser step; returns the loss. CellvisionError when it is not finite."""
        number = float(value.detach())
        if not math.isfinite(number):
            raise CellvisionError(
                f"the loss became {number} at step {self.step}; lower --lr, or use --set loop.precision=fp32"
            )
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.cfg, self.step)
        self.optimiser.zero_grad(set_to_none=True)
        value.backward()
        nn.utils.clip_grad_norm_(self.parameters.values(), self.cfg.clip)
        self.optimiser.step()
        self.step += 1
        return number

    def follow(self) -> None:
        """Move the average towards the module."""
        if self.average is not None:
            keep = min(self.cfg.ema, self.step / (self.step + 10))  # a young average forgets faster
            for old, new in zip(self.average.state_dict().values(), self.module.state_dict().values(), strict=True):
                if old.is_floating_point():
                    old.lerp_(new.detach(), 1 - keep)
                else:
                    old.copy_(new)

    def use_average(self) -> None:
        if self.average is not None:
            self.module.load_state_dict(self.average.state_dict())

    # -- checkpoints --

    def save(self) -> None:
        tensors = {f"module.{key}": value for key, value in self.module.state_dict().items()}
        if self.average is not None:
            tensors |= {f"average.{key}": value for key, value in self.average.state_dict().items()}
        for name, parameter in self.parameters.items():
            tensors |= {f"optimiser.{name}.{key}": value for key, value in self.optimiser.state[parameter].items()}
        path = self.folder / f"checkpoint-{self.step:08d}.safetensors"
        tensorfiles.write(path, tensors)
        record = {"step": self.step, "sha256": files.sha256_file(path), "history": self.history}
        files.write_json(path.with_suffix(".json"), record)
        for old in sorted(self.folder.glob("checkpoint-*.json"))[:-2]:
            old.unlink()
            old.with_suffix(".safetensors").unlink(missing_ok=True)

    def _resume(self) -> None:
        for path in sorted(self.folder.glob("checkpoint-*.json"), reverse=True):
            weights = path.with_suffix(".safetensors")
            try:
                record = files.read_json(path)
                sound = weights.is_file() and files.sha256_file(weights) == record["sha256"]
            except (ConfigError, KeyError, TypeError):
                sound = False
            if sound:
                return self._restore(tensorfiles.read(weights)[0], record)
            say(f"{self.shown}: checkpoint {path.stem} is damaged; using the one before it")
        return None

    def _restore(self, tensors: dict[str, Tensor], record: dict[str, Any]) -> None:
        self.step, self.history = record["step"], record["history"]
        for prefix, module in (("module.", self.module), ("average.", self.average)):
            if module is not None:
                weights = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
                module.load_state_dict(weights)  # copies in place, so channels_last stays
        for name, parameter in self.parameters.items():
            prefix = f"optimiser.{name}."
            state = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
            self.optimiser.state[parameter] = {
                key: torch.empty_like(parameter).copy_(value)
                if value.shape == parameter.shape
                else value.to(parameter.device)
                for key, value in state.items()
            }
        say(f"{self.shown}: resuming at step {self.step} of {self.cfg.steps}")


def forget(folder: Path) -> None:
    """Remove the checkpoints of finished trainings, so that a run that was interrupted ends with the same files."""
    shutil.rmtree(folder, ignore_errors=True)
