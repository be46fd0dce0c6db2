"""YAML from people: what it says or where it is wrong, never a hang, a flood or a traceback."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from example_stage import Example

from cellvision.commandline.cli import main
from cellvision.core import config, yamlfiles
from cellvision.core.errors import ConfigError

ANCHORS = "".join(
    f"a{number}: &a{number} [{', '.join([f'*a{number - 1}'] * 9)}]\n" if number else "a0: &a0 [lol]\n"
    for number in range(20)
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: " + "[" * 5000 + "]" * 5000, "deep inside each other"),
        ("a: " + "{b: " * 80 + "1" + "}" * 80, "deep inside each other"),
        ("- " * 3000 + "a", "deep inside each other"),
        (ANCHORS, "anchors unfold to more than"),
        ("a: &a [*a]", "anchors unfold to more than"),
        ("a: &a {b: *a}", "anchors unfold to more than"),
        ("seed: 1\nseed: 2", "'seed' stands twice.*line 2"),
        ("loop: {steps: 1, steps: 2}", "'steps' stands twice"),
        ("seed: " + "9" * 5000, "a whole number of 5000 digits"),
        ("extends: self.yaml", "a circle"),
        ("extends: [self.yaml]", "names one file"),
        ("extends: folder", "which is no file"),
        ("extends: none.yaml", "which is no file"),
        ("a: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
        ("a: !!timestamp 2001-13-45", "not valid YAML"),
        ("a: !!int x", "not valid YAML"),
        ("? [a]\n: 1", "not valid YAML"),
        ("\xff", "not valid YAML"),
        ("a: " + "x" * (1 << 20), "more than"),
    ],
)
def test_what_no_person_means_is_one_line_with_its_place(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "folder").mkdir()
    file = tmp_path / "self.yaml"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=words) as error:
        yamlfiles.read_yaml(file)
    assert "self.yaml" in str(error.value)
    assert len(str(error.value)) < 1000


def test_two_files_that_extend_each_other_are_a_circle(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("extends: b.yaml")
    (tmp_path / "b.yaml").write_text("extends: ./a.yaml")
    with pytest.raises(ConfigError, match="circle"):
        yamlfiles.read_yaml(tmp_path / "a.yaml")


@pytest.mark.parametrize(
    ("text", "value"),
    [("010", 10), ("0o10", 8), ("0x1F", 31), ("1:30", "1:30"), ("2001-01-01", "2001-01-01"), ("1_000", "1_000"),
     ("{<<: {a: 1}, a: 2}", {"a": 2}), ("[&x {a: 1}, *x]", [{"a": 1}, {"a": 1}]), ("", None)],
)  # fmt: skip
def test_scalars_are_those_of_yaml_1_2(text: str, value: Any) -> None:
    assert yamlfiles.parse_yaml(text) == value


@pytest.mark.parametrize("word", ["1e5", "010", "0o17", "1:30", "no", "2001-01-01", "~", "<<", "true", "1_000"])
def test_a_word_that_looks_like_a_number_is_written_as_a_word(word: str) -> None:
    assert yamlfiles.parse_yaml(yamlfiles.dump_yaml({"word": word})) == {"word": word}


@pytest.mark.parametrize(
    ("data", "words"),
    [({"steps": 10**12}, "steps is at most 1e"), ({"seed": 10**400}, "seed"),
     ({"inner": {"rate": float("nan")}}, "rate"), ({"inner": {"rate": float("inf")}}, "rate")],
)  # fmt: skip
def test_absurd_numbers_are_refused_before_anything_is_tried(data: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        config.build(Example, data)


@pytest.mark.parametrize(
    "options",
    [["--size", "100000000"], ["--batch", "1000000000000"], ["--steps", "1000000000"], ["--set", f"seed={'9' * 6000}"],
     ["--set", "loop.lr=.nan"], ["--set", "loop.steps=" + "[" * 2000]],
)  # fmt: skip
def test_absurd_options_of_a_stage_end_with_4(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main("finetune", ["--items", str(tmp_path), *options, "--out", str(tmp_path / "out")]) == 4
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not (tmp_path / "out").exists()
