"""Names of encoders mean the same in every branch."""

from __future__ import annotations

from pathlib import Path

import pytest

from cellvision.branches.names import parse


@pytest.mark.parametrize(
    ("text", "kind", "sizes"),
    [
        ("mlp-64-32", "mlp", (64, 32)), ("linear", "linear", ()), ("mlp", "mlp", ()), ("mlp-", "mlp", ()),
        ("mlp-0-8", "mlp", ()), ("mlp-8-x", "mlp", ()), ("mlp-8--8", "mlp", ()), ("resnet18", "resnet18", ()),
    ],
)  # fmt: skip
def test_numbers_stand_behind_the_kind_or_there_are_none(text: str, kind: str, sizes: tuple[int, ...]) -> None:
    assert (parse(text).kind, parse(text).sizes()) == (kind, sizes)


def test_a_transformer_has_three_numbers() -> None:
    assert parse("transformer-3x64x4").sizes("x") == (3, 64, 4)
    assert parse("transformer-3x64x4").sizes() == ()
    assert parse("mlp-8-4").sizes("x") == ()


def test_the_source_is_no_part_of_the_name(tmp_path: Path) -> None:
    weights = tmp_path / "own.safetensors"
    assert (parse("resnet18@imagenet").name, parse("resnet18@imagenet").source) == ("resnet18", "imagenet")
    assert not parse(f"resnet18@{weights}").is_file()
    weights.touch()
    assert parse(f"resnet18@{weights}").is_file()
    assert parse("resnet18").source == ""


def test_fusion_names_an_encoder_for_a_part() -> None:
    parsed = parse("late:image=test_resnet+table=mlp-16-8")
    assert (parsed.kind, parsed.parts()) == ("late", {"image": "test_resnet", "table": "mlp-16-8"})
    assert parse("late").parts() == {}
