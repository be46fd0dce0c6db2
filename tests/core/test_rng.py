"""Seeds derived from names."""

from __future__ import annotations

from cellvision.core import rng


def test_derived_seeds_are_the_same_everywhere_and_for_ever() -> None:
    assert rng.derive(0) == 8493733112532773764
    assert rng.derive(7, "segment", 3, "view") == 975232102146761632
    assert rng.derive(1, 23) != rng.derive(12, 3)
    assert rng.generator(0, "a").integers(1_000_000) == 776960
    assert 0 <= rng.torch_seed(0, "x") < 2**63
