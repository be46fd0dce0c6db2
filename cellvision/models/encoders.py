"""Encoders: timm networks behind a fixed normalisation, their files, and what each of them has seen.

An encoder on disk is a folder with weights.safetensors (network, fitted state, the hashes of what it saw, so that a
copy of the file alone tells them, too) and encoder.json (network, branch, schema, licence). Nothing pickled is read.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cellvision.branches.image.networks import Normalised
from cellvision.branches.names import parse
from cellvision.core import files, rundir
from cellvision.core.errors import ConfigError, UnsafeInput
from cellvision.evidence import seen as histories
from cellvision.evidence.seen import Seen
from cellvision.executors import local
from cellvision.io import tensorfiles
from cellvision.training.device import autocast, device_of

if TYPE_CHECKING:
    from cellvision.branches import Augment, Branch, State

SCHEMA = 2  # of encoder.json
WEIGHTS = Path(__file__).parents[1] / "weights"
CHUNK = 256  # items embedded at once
WEIGHTS_OF, STATE = "network.", "state."  # prefixes of tensors: weights, fitted preprocessing
NOT_ENCODER = ("fc.", "head.", "classifier.", tensorfiles.HISTORY)  # tensors of a plain file that are left
COPIES = 4  # of the weights that a training holds: gradients and two averages beside
NETWORK = re.compile(r"[A-Za-z0-9][\w.:=+-]{0,300}", re.ASCII)  # no @, which asks for a download, and no path


@dataclass(frozen=True)
class Trained:
    """A network ready for items, and where its weights come from."""

    module: nn.Module
    name: str
    state: State
    origin: str
    seen: Seen = field(default_factory=Seen)
    facts: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()  # what aligning the items with it has changed or taken as unknown

    @property
    def width(self) -> int:
        """Number of features."""
        return int(self.module.num_features)  # type: ignore[arg-type]

    def checksum(self) -> list[Any]:
        """What tells these weights and this fitted preprocessing from others."""
        weights = {key: value.detach().cpu().numpy() for key, value in self.module.state_dict().items()}
        return [self.name, hash_arrays(weights), hash_arrays(self.state)]


def content_hash(spec: str) -> str:
    """The hash of what an --encoder text stands for, its weights and what is said of them, or a network's name."""
    folder = find(spec)
    if folder:
        return files.hash_of(
            {name: files.known_hash(folder / name) for name in ("encoder.json", "weights.safetensors")}
        )
    name = parse(spec)
    if not name.source and os.sep in spec and not Path(spec).suffix:
        raise ConfigError(f"no encoder at {spec}; give a pretrain run, an encoder's folder, or the name of a network")
    return f"{name.name}@{files.sha256_file(Path(name.source))[:32]}" if name.is_file() else spec


def hash_arrays(arrays: Mapping[str, NDArray]) -> str:
    """name -> (...,) array of any shape; one hash over names, types, shapes and values."""
    total = hashlib.sha256()
    for key, value in sorted(arrays.items()):
        array = np.ascontiguousarray(value)
        total.update(f"{key} {array.dtype} {array.shape}\n".encode() + array.tobytes())
    return total.hexdigest()


def find(spec: str) -> Path | None:
    """The folder behind the name of an embedded encoder, a run or an encoder folder; None for other texts."""
    for folder in (WEIGHTS / spec, Path(spec), Path(spec) / "encoder", Path(spec) / "model"):
        if (folder / "encoder.json").is_file():
            return folder
    return None


def resolve(spec: str, branch: Branch, rows: NDArray[np.int64], seed: int) -> Trained:
    """`--encoder`: a network's name (random weights), NAME@imagenet, NAME@FILE, an embedded name, or a run.

    rows: (n,) positions of the training rows, for preprocessing that is fitted; a trained encoder brings its own.
    """
    folder = find(spec)
    if folder:
        return load(folder, branch)
    parsed = parse(spec)
    name, source = parsed.name, parsed.source
    if Path(spec).suffix in files.PICKLED | {".safetensors"} and not source:
        files.refuse_pickled(Path(spec), "convert it to safetensors")
        raise ConfigError(f"say which network the weights in {spec} belong to: NAME@{spec}")
    state = branch.fit(rows)
    if parsed.sizes() or parsed.sizes("x"):
        refuse_too_large(name, lambda: branch.network(name, state))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = branch.network(spec if source == "imagenet" else name, state)
    if source in ("", "imagenet"):
        return Trained(module, name, state, "ImageNet weights from timm" if source else "random weights")
    files.refuse_pickled(Path(source), "convert it to safetensors")
    return from_file(Path(source), Trained(module, name, state, f"weights from {Path(source).name}"))


def from_file(path: Path, untrained: Trained) -> Trained:
    """A network with the weights of a plain file, and the history that the file tells.

    A file that `save` wrote tells it, and brings the preprocessing; of others nothing is known.
    """
    tensors = tensorfiles.read(path)[0]
    weights, state, history = parts_of(tensors)
    module = untrained.module
    if weights and not isinstance(module, Normalised):
        raise ConfigError(f"{path} lay in an encoder's folder, which says the names of its inputs; give the folder")
    if weights:
        tensorfiles.load_into(module, weights, str(path))
        return replace(untrained, state=state, seen=history or unknown(path))
    weights = {key: value for key, value in tensors.items() if not key.startswith(NOT_ENCODER)}
    tensorfiles.load_into(module.backbone if isinstance(module, Normalised) else module, weights, str(path))
    return replace(untrained, seen=history or unknown(path))


def unknown(path: Path) -> Seen:
    """The history of weights that tell nothing."""
    return Seen(unknown=(f"the weights in {path.name} do not say what they have seen",))


def parts_of(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], State, Seen | None]:
    """Tensors (n, …) of a file by name -> weights of the network, fitted state, what was seen, if told."""
    weights = {key.removeprefix(WEIGHTS_OF): value for key, value in tensors.items() if key.startswith(WEIGHTS_OF)}
    state = {key.removeprefix(STATE): value.numpy() for key, value in tensors.items() if key.startswith(STATE)}
    history = tensorfiles.history(tensors)
    return weights, state, histories.unpacked(history) if history else None


def refuse_too_large(name: str, build: Callable[[], nn.Module]) -> None:
    """ConfigError for a network that cannot be trained in the memory that is free, before any is taken."""
    with torch.device("meta"):
        size = sum(value.numel() * value.element_size() for value in build().parameters())
    if COPIES * size > (free := local.free_memory()):
        raise ConfigError(
            f"training {name} takes about {COPIES * size / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are free; "
            "name a smaller network"
        )


def save(
    folder: Path,
    module: nn.Module,
    state: State,
    facts: Mapping[str, Any],
    seen: Seen,
    extra: Mapping[str, Tensor] | None = None,
) -> None:
    """Write weights.safetensors (network, fitted state, history, extra tensors) and encoder.json."""
    tensors = {f"{WEIGHTS_OF}{key}": value for key, value in module.state_dict().items()}
    tensors |= {f"{STATE}{key}": torch.as_tensor(np.asarray(value)) for key, value in state.items()}
    tensors |= tensorfiles.history_tensors(histories.packed(seen))
    tensorfiles.write(folder / "weights.safetensors", {**tensors, **(extra or {})})
    files.write_json(folder / "encoder.json", {"schema_version": SCHEMA, **facts, "seen": histories.told(seen)})


def load(folder: Path, branch: Branch) -> Trained:
    """Read what `save` wrote and check it against the branch's items."""
    facts = read_facts(folder)
    if facts["branch"] != branch.cfg.name:
        raise ConfigError(f"{folder} is an encoder for the branch {facts['branch']!r}, not {branch.cfg.name!r}")
    try:
        return _loaded(folder, facts, branch)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:  # of what a stranger says
        what = f"{type(error).__name__}: {files.one_line(error)}"
        raise ConfigError(f"{folder} is no encoder of this branch ({what}); train it again") from None


def read_facts(folder: Path) -> dict[str, Any]:
    """encoder.json, which may come from a stranger. ConfigError: damaged. UnsafeInput: a name that is none."""
    rundir.refuse_links(folder)
    facts = files.read_json(folder / "encoder.json")
    version = facts.get("schema_version") if isinstance(facts, dict) else None
    if version != SCHEMA:
        raise ConfigError(
            f"{folder} was written by another version of cellvision (schema {version}, not {SCHEMA}); train it again"
        )
    kinds = {"network": str, "branch": str, "schema": dict, "origin": str}
    if wrong := [key for key, kind in kinds.items() if not isinstance(facts.get(key), kind)]:
        raise ConfigError(f"{folder / 'encoder.json'} is damaged: it does not say {', '.join(wrong)}")
    if not NETWORK.fullmatch(facts["network"]):
        raise UnsafeInput(f"{folder / 'encoder.json'} names the network {facts['network']!r:.80}, which is no name")
    return dict(facts)


def _loaded(folder: Path, facts: dict[str, Any], branch: Branch) -> Trained:
    notes = tuple(branch.align(facts["schema"]))
    weights, state, history = parts_of(tensorfiles.read(folder / "weights.safetensors")[0])
    module = tensorfiles.load_built(lambda: branch.network(facts["network"], state), weights, str(folder))
    seen = history or unknown(folder / "weights.safetensors")
    return Trained(module, facts["network"], state, facts["origin"], seen, facts, notes)


def last_layer(module: nn.Module) -> set[str]:
    """Names of the parameters of the last block: what `--tune last` trains."""
    backbone, prefix = (module.backbone, "backbone.") if isinstance(module, Normalised) else (module, "")
    if hasattr(backbone, "group_matcher"):
        from timm.models import group_parameters

        layers = group_parameters(backbone, backbone.group_matcher(coarse=True), reverse=True)  # type: ignore[operator]
        return {prefix + name for name, layer in layers.items() if layer == max(layers.values())}
    names = [name for name, _ in module.named_parameters()]
    last = names[-1].rsplit(".", 1)[0]
    return {name for name in names if name.rsplit(".", 1)[0] == last}


def embed(
    module: nn.Module, branch: Branch, state: State, rows: NDArray[np.int64], augment: Augment | None = None
) -> NDArray[np.float32]:
    """(n,) rows -> (n, num_features) float32, in evaluation mode, so that no item depends on its batch mates."""
    module.eval()
    device = device_of(module)
    out = np.empty((len(rows), int(module.num_features)), np.float32)  # type: ignore[arg-type]
    with torch.inference_mode(), autocast(module, "auto"):
        for start in range(0, len(rows), CHUNK):
            chunk = torch.from_numpy(branch.batch(rows[start : start + CHUNK], state, augment)).to(device)
            out[start : start + CHUNK] = module(chunk).float().cpu().numpy()
    return out
