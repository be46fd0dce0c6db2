"""What a person types works without `if __name__ == "__main__"`: from a file, piped into Python, as `python -c`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cellvision import simulate
from cellvision.core.rundir import content_of

SCRIPT = """
import sys
from pathlib import Path
from cellvision import simulate
print("started")
simulate.run(simulate.Config(images=1, height=96, width=128, workers=2), Path(sys.argv[-1]) / "simulated")
"""
OWN_FUNCTION = """
from cellvision.executors import local
def square(number):
    return number * number
print(list(local.ordered_map(square, range(4), 2)))
"""
BATCHES = """
import functools, multiprocessing, torch
multiprocessing.set_start_method("spawn")
from cellvision.training import loop
print("started", [int(batch[0]) for batch in loop.batches(functools.partial(torch.full, (1,)), 3, 6, 1)])
"""


def output_of(*arguments: str, stdin: str | None = None) -> tuple[str, str]:
    process = subprocess.run([sys.executable, *arguments], input=stdin, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    return process.stdout.strip(), process.stderr.strip()


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The content of the run, made in one process."""
    out = tmp_path_factory.mktemp("alone") / "simulated"
    simulate.run(simulate.Config(images=1, height=96, width=128, workers=1), out)
    return content_of(out)


@pytest.mark.parametrize("way", ["file", "stdin", "command"])
def test_a_script_without_a_guard_uses_processes(way: str, tmp_path: Path, alone: str) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    arguments = {"file": [str(tmp_path / "script.py")], "stdin": ["-"], "command": ["-c", SCRIPT]}[way]
    said, _ = output_of(*arguments, str(tmp_path), stdin=SCRIPT if way == "stdin" else None)
    assert said == "started"  # once: the script does not begin again in the other processes
    assert content_of(tmp_path / "simulated") == alone


def test_a_function_of_the_script_runs_in_its_process_and_one_line_says_so(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(OWN_FUNCTION)
    said, notes = output_of(str(tmp_path / "script.py"))
    assert said == "[0, 1, 4, 9]"
    assert notes.startswith("in one process: a function of the script itself")
    assert len(notes.splitlines()) == 1


def test_batches_are_prepared_without_the_script_where_the_system_does_not_fork(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(BATCHES)
    assert output_of(str(tmp_path / "script.py"))[0] == "started [3, 4, 5]"
