"""Configs: layers of defaults, files and flags, clear refusals, what counts for the result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from example_stage import Example, Inner

from cellvision.core import config, yamlfiles
from cellvision.core.errors import ConfigError


def test_defaults_then_file_then_flags_then_set(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("steps: 2\nword: file\ninner: {rate: 0.2}\nseed: 5\n")
    flags = {"steps": 3, "inner.rate": 0.3}
    assert config.load(Example, None, {}, []) == Example()
    assert config.load(Example, file, {}, []) == Example(steps=2, word="file", inner=Inner(rate=0.2), seed=5)
    assert config.load(Example, file, flags, []) == Example(steps=3, word="file", inner=Inner(rate=0.3), seed=5)
    assert config.load(Example, file, flags, ["steps=4"]).model_dump()["steps"] == 4


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 0.001), ("2E5", 2e5), (".5", 0.5), ("-1.", -1.0), ("no", "no"), ("off", "off"), ("y", "y"),
     ("true", True), ("7", 7), ("[1, 2]", [1, 2]), ("null", None), ("1.2.3", "1.2.3")],
)  # fmt: skip
def test_yaml_scalars_are_what_they_look_like(text: str, value: Any) -> None:
    read = yamlfiles.parse_yaml(text)
    assert read == value
    assert type(read) is type(value)


def test_unknown_keys_name_the_nearest_at_every_depth() -> None:
    with pytest.raises(ConfigError, match="unknown key 'stepz'; did you mean 'steps'"):
        config.build(Example, {"stepz": 3})
    with pytest.raises(ConfigError, match=r"unknown key 'inner\.rats'; did you mean 'rate'"):
        config.build(Example, {"inner": {"rats": 3}})


@pytest.mark.parametrize(("data", "words"), [({"steps": 0}, "steps.*got 0"), ({"steps": "many"}, "steps.*'many'")])
def test_a_bad_value_is_named_with_what_was_given(data: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        config.build(Example, data)


@pytest.mark.parametrize("text", ["- a\n- b\n", "a: [1\n", "\x00"])
def test_a_bad_config_file_is_named(tmp_path: Path, text: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"bad\.yaml"):
        yamlfiles.read_yaml(file)


def test_runtime_keys_do_not_change_the_result() -> None:
    plain = config.result_keys(Example())
    assert plain == config.result_keys(Example(workers=3, device="cpu", strict=True, inner=Inner(hidden=9)))
    assert "workers" not in plain
    assert "hidden" not in plain["inner"]
    assert plain != config.result_keys(Example(inner=Inner(rate=0.2)))


def test_fingerprint_does_not_depend_on_the_order_of_keys() -> None:
    assert config.fingerprint({"a": 1, "b": [2, None]}) == config.fingerprint({"b": [2, None], "a": 1})
    assert config.fingerprint({"a": 1}) == "015abd7f5cc57a2d"


def test_written_config_reads_back_the_same(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    made = Example(steps=4, word="no", inner=Inner(rate=1e-9))
    file.write_text(config.to_yaml(made))
    assert config.load(Example, file, {}, []) == made


def test_set_wants_key_and_value() -> None:
    with pytest.raises(ConfigError, match="key=value"):
        config.parse_set("steps")


def test_a_file_that_extends_another_lies_on_top_of_it(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("seed: 1\nloop: {steps: 5, lr: 1e-3}\n")
    (tmp_path / "top.yaml").write_text("extends: base.yaml\nloop: {steps: 7}\n")
    assert yamlfiles.read_yaml(tmp_path / "top.yaml") == {"seed": 1, "loop": {"steps": 7, "lr": 1e-3}}
