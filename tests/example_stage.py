"""A stage's config for tests of the frame."""

from __future__ import annotations

from cellvision.core.config import StageConfig, StageModel, option


class Inner(StageModel):
    name: str = "plain"
    rate: float = option(0.1, "a share", gt=0)
    hidden: int = option(1, "not for the result", runtime=True)


class Example(StageConfig):
    steps: int = option(1, "steps", ge=1)
    word: str = option("a", "any word")
    inner: Inner = option(Inner(), "nested")
