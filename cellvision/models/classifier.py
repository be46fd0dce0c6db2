"""A classifier: encoder, standardised features, head. As a bundle on disk it predicts on its own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from cellvision.core import files, rundir
from cellvision.core.errors import ConfigError
from cellvision.io import tensorfiles
from cellvision.models import encoders

if TYPE_CHECKING:
    from cellvision.branches import State
    from cellvision.evidence.seen import Seen
    from cellvision.strategies import Strategy

HEAD = "head."
LEAST_STD = 1e-4  # a feature that varies less is not blown up
MOST_CLASSES, LONGEST = 10_000, 1000  # of a bundle; characters of a class


class Head(nn.Module):
    """A strategy's head on features that are standardised with training statistics."""

    mean: Tensor
    std: Tensor

    def __init__(self, inner: nn.Module, num_features: int) -> None:
        super().__init__()
        self.inner = inner
        self.register_buffer("mean", torch.zeros(num_features))
        self.register_buffer("std", torch.ones(num_features))

    def standardise(self, features: NDArray[np.float32]) -> None:
        """Fit on the (n, d) training features."""
        self.mean.copy_(torch.from_numpy(features.mean(0)))
        self.std.copy_(torch.from_numpy(np.maximum(features.std(0), LEAST_STD)))

    def forward(self, features: Tensor) -> Tensor:
        """(n, d) -> (n, d) float32, standardised."""
        return (features.float() - self.mean) / self.std


class Classifier(nn.Module):
    """Encoder and head, trained together."""

    def __init__(self, encoder: nn.Module, head: Head) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head


def head_probabilities(
    strategy: Strategy, head: Head, features: NDArray[np.float32], bag: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(n, d) features, (n,) bags from 0 -> item (n, k) and bag (b, k) probabilities."""
    head.eval()
    device = head.mean.device
    with torch.inference_mode():
        normal = head(torch.from_numpy(features).to(device))
        item, pooled = strategy.predict(head.inner, normal, torch.from_numpy(bag).to(device))
    return item.double().cpu().numpy(), pooled.double().cpu().numpy()


def save(
    folder: Path, model: Classifier, state: State, facts: dict[str, Any], seen: Seen, bundle: dict[str, Any]
) -> None:
    """Write the bundle: encoder files with the head's tensors, and bundle.json (classes, strategy, branch)."""
    head = {f"{HEAD}{key}": value for key, value in model.head.state_dict().items()}
    encoders.save(folder, model.encoder, state, facts, seen, head)
    files.write_json(folder / "bundle.json", bundle)


def load_head(folder: Path, strategy: Strategy, num_features: int, classes: int) -> Head:
    tensors = tensorfiles.read(folder / "weights.safetensors")[0]
    head_tensors = {key.removeprefix(HEAD): value for key, value in tensors.items() if key.startswith(HEAD)}
    head = tensorfiles.load_built(
        lambda: Head(strategy.head(num_features, classes), num_features), head_tensors, str(folder)
    )
    assert isinstance(head, Head)
    return head


class Bundle(BaseModel):
    """What bundle.json must say; it may come from a stranger."""

    model_config = ConfigDict(extra="allow", strict=True)

    classes: list[Annotated[str, Field(max_length=LONGEST)]] = Field(min_length=1, max_length=MOST_CLASSES)
    target: str
    strategy: dict[str, Any]
    branch: dict[str, Any]
    segment: dict[str, Any] | None


def read_bundle(folder: Path) -> dict[str, Any]:
    """bundle.json, checked. ConfigError for a folder without one or a damaged one, UnsafeInput for one with links."""
    if not (folder / "bundle.json").is_file():
        raise ConfigError(f"no bundle in {folder}; finetune leaves one in OUT/model with --fold none or one fold")
    rundir.refuse_links(folder)
    bundle = files.read_json(folder / "bundle.json")
    try:
        Bundle.model_validate(bundle)
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"]))
        raise ConfigError(f"{folder / 'bundle.json'} is damaged: {where}: {fault['msg']}") from None
    return dict(bundle)
