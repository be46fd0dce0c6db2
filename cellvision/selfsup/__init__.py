"""Self-supervision: what to learn from items without labels. A method is one file and one line in `METHODS`.

    class Nearest(Method):                                 # cellvision/selfsup/nearest.py
        class Config(PluginConfig):
            name: Literal["nearest"] = "nearest"

        def __init__(self, cfg: Config) -> None:
            self.cfg = cfg

        def learner(self, encoder: Any) -> nn.Module:
            return nn.ModuleDict({"encoder": encoder, "head": nn.Linear(encoder.num_features, 64)})

        def step(self, learner: Any, views: list[Tensor]) -> Tensor:
            first, second = (learner.head(learner.encoder(view)) for view in views)
            return (first - second).square().mean()

and the line `"nearest": "cellvision.selfsup.nearest:Nearest"` below. tests/selfsup/test_method_contract.py finds it: at
chance where views have nothing in common, the same bits after an interruption, no collapse, better features than
random ones (which this example, where nothing keeps different items apart, does not reach). Losses, heads and momentum
updates are lightly's, imported where used.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, Protocol

from pydantic import BeforeValidator, SerializeAsAny

from cellvision.core.config import PluginConfig
from cellvision.core.registry import Registry

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from cellvision.branches import Branch, State

METHODS: Registry[Method] = Registry(
    "self-supervision method",
    {
        "barlow": "cellvision.selfsup.barlow:BarlowTwins",
        "byol": "cellvision.selfsup.byol:BYOL",
        "dino": "cellvision.selfsup.dino:DINO",
        "masked": "cellvision.selfsup.masked:Masked",
        "simclr": "cellvision.selfsup.simclr:SimCLR",
    },
)
MethodConfig = Annotated[SerializeAsAny[PluginConfig], BeforeValidator(METHODS.config), METHODS]
METHOD_HELP = "how it learns"


class Method(Protocol):
    """Made as `Method(cfg)`; inherit from it: what has a body here need not be written."""

    Config: type[PluginConfig]
    views: int = 2  # variations of each item in a step
    augment: bool = True  # whether the branch varies the items, or they come as they are
    tried_on: tuple[str, str | None] = ("image", None)  # branch and encoder of the tests; None: the branch's small one

    def learner(self, encoder: nn.Module) -> nn.Module:
        """All modules of the training, random ones drawn from torch's generator, which is seeded.

        `learner.encoder` is saved and measured; the rest (heads, momentum copies, queues in buffers) is thrown away
        after pretraining, and is in the checkpoints until then. `encoder.num_features` is the width of its features.
        A copy that follows by momentum has parameters that need no gradient; all modules are in training mode.
        """
        ...

    def step(self, learner: Any, views: list[Tensor]) -> Tensor:
        """`views` batches (n, ...) of the branch, row i of each a variation of the same item -> the loss, a scalar."""
        ...

    def after_step(self, learner: Any, step: int, steps: int) -> None:
        """After the optimiser's step number `step` of `steps`: momentum copies follow, queues move on."""
        return None

    def chance(self, batch: int) -> float:
        """The loss where a view tells nothing of the other, for `batch` items; NaN where it has no closed form."""
        return math.nan

    def validate(
        self, encoder: nn.Module, branch: Branch, state: State, train: NDArray[np.int64], test: NDArray[np.int64]
    ) -> dict[str, float]:
        """(n,) training and (m,) test rows -> what the method itself measures on rows it did not train on.

        A key `chance` replaces `chance()`.
        """
        return {}
