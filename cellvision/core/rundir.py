"""Run directories: claimed by one process, resumed, reused when finished, refused when made by another config.

`run.json` says what the directory is made of. The fingerprint hashes stage, revision, the config without runtime
keys, and the content of the inputs; the content hash covers every file the stage wrote, each of which contents.json
names with its own hash: both are verified before a finished run is reused or read. A run holds files and folders alone.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from cellvision import __version__
from cellvision.core import files
from cellvision.core.config import StageConfig, fingerprint, result_keys, to_yaml
from cellvision.core.errors import ConfigError, UnsafeInput
from cellvision.core.progress import say

SCHEMA = 1
LOCK = ".lock"
CLAIM = ("run.json", "config.yaml")  # what a claim writes
CONTENTS = "contents.json"  # relative name -> SHA-256 of every file that counts
BOOKKEEPING = frozenset({"run.json", "log.jsonl", "config.yaml", "runs", "report.html", CONTENTS})
LIBRARIES = ("torch", "timm", "lightly", "cellpose", "albumentations", "numpy", "scikit-learn", "pandas")


class RunDir:
    """One claimed run directory; use it as a context manager. `done` tells that a finished twin was found."""

    def __init__(self, path: Path, record: dict[str, Any], done: bool, lock: TextIO) -> None:
        self.path = path
        self.record = record
        self.done = done
        self._lock = lock

    @classmethod
    def claim(
        cls, out: Path, stage: str, cfg: StageConfig, inputs: Mapping[str, str] | None = None, revision: int = 1
    ) -> RunDir:
        """Take `out` for this stage, config and inputs. ConfigError when another process or another config has it."""
        what = {"stage": stage, "revision": revision, "config": result_keys(cfg), "inputs": dict(inputs or {})}
        lock = _lock(out)
        record = read_record(out)
        expected = fingerprint(what)
        if record and record.get("fingerprint") != expected:
            lock.close()
            raise ConfigError(
                f"{out} was made by another configuration ({'; '.join(_differences(record, what))}); "
                "give another --out, or delete the folder to start again"
            )
        if not record and not all(entry.name.startswith((".lock", ".run.json.")) for entry in out.iterdir()):
            lock.close()
            raise ConfigError(f"{out} is not empty and is no run directory; give a new or empty --out")
        done = bool(record) and record["status"] == "done"
        if done and (fault := fault_of(out, record)):
            say(f"{stage}: {out} was finished, but {fault}; it is made again")
            done = False
        if not done:
            remove_temporaries(out)
            record = {
                "schema": SCHEMA, **what, "status": "running", "fingerprint": expected, "command": sys.argv[:],
                "seed": cfg.seed, "versions": {**_versions()}, "git": _git(), "started": record.get("started", _now()),
            }  # fmt: skip
            files.write_json(out / "run.json", record)  # first: the sign that the directory is ours
            files.write_text(out / "config.yaml", to_yaml(cfg))
        return cls(out, record, done, lock)

    def __enter__(self) -> RunDir:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and issubclass(kind, ConfigError) and not self.done and self._only_claimed():
            for name in CLAIM:  # a refusal leaves nothing behind that the corrected command would trip over
                (self.path / name).unlink(missing_ok=True)
        elif kind is not None and issubclass(kind, Exception) and not self.done:
            files.write_json(
                self.path / "run.json", self.record | {"status": "broken", "error": f"{kind.__name__}: {error}"}
            )
        _HELD.discard(self._lock)
        self._lock.close()

    def _only_claimed(self) -> bool:
        """Whether nothing was made yet."""
        return all(entry.name in CLAIM or entry.name.startswith(".") for entry in self.path.iterdir())

    def note(self, **facts: Any) -> None:
        """Add facts to run.json (device, threads, stamps); kept even when the run breaks later."""
        self.record |= facts
        files.write_json(self.path / "run.json", self.record)

    def log(self, event: str, **facts: Any) -> None:
        """Append one line to log.jsonl."""
        line = json.dumps(files.plain({"time": _now(), "event": event, **facts}), ensure_ascii=False)
        with (self.path / "log.jsonl").open("a", encoding="utf-8", errors="backslashreplace") as handle:
            handle.write(line + "\n")

    def finish(self, metrics: Mapping[str, Any]) -> None:
        """Write the flat metrics, hash what was made, and only then say done."""
        files.write_json(self.path / "metrics.json", dict(metrics))
        self.record |= {"content": seal(self.path), "finished": _now(), "status": "done"}
        files.write_json(self.path / "run.json", self.record)
        self.done = True


def seal(path: Path) -> str:
    """Write the list of what lies in a run now; -> its content hash."""
    hashes = files.hashes_below(path, BOOKKEEPING)
    files.write_json(path / CONTENTS, hashes)
    return files.hash_of(hashes)


def content_of(path: Path) -> str:
    """The content hash of a finished run, verified, or of any file; ConfigError for an unfinished or damaged run."""
    if path.is_file():
        return files.sha256_file(path)[:32]
    if not path.exists():
        raise ConfigError(f"nothing at {path}; expected a run directory or a file")
    record = read_record(path)
    if not record:
        raise ConfigError(f"{path} is no run directory (it has no run.json)")
    if record["status"] != "done":
        raise ConfigError(f"the run in {path} is {record['status']}; repeat its command to finish it")
    verify(path)
    return str(record["content"])


def verify(path: Path) -> None:
    """ConfigError where a finished run is not as it was finished, UnsafeInput for one that points outside of itself."""
    record = read_record(path)
    refuse_links(path)
    if record.get("status") == "done" and (fault := fault_of(path, record)):
        raise ConfigError(f"the run in {path} cannot be relied on: {fault}; repeat its command to make it again")


def refuse_links(path: Path) -> None:
    """UnsafeInput for a link, pipe or device in a run, which holds files and folders alone; of runs/ only the names."""
    for folder, folders, names in os.walk(path):
        for name in (*folders, *names):
            place = Path(folder, name)
            with contextlib.suppress(FileNotFoundError):  # a temporary that is gone by now
                mode = place.lstat().st_mode
                if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                    raise UnsafeInput(
                        f"{place} is a link, pipe or device; a run holds files of its own: copy them there"
                    )
        if Path(folder) == path / "runs":
            folders.clear()


def fault_of(path: Path, record: Mapping[str, Any]) -> str:
    """Which file of a finished run is gone or has changed; empty where none has."""
    if not (path / CONTENTS).is_file():  # written by an older version, which kept no list
        return "" if files.hash_tree(path, BOOKKEEPING) == record["content"] else "its files have changed"
    hashes = files.read_json(path / CONTENTS)
    if not isinstance(hashes, dict) or files.hash_of(dict(sorted(hashes.items(), key=_as_listed))) != record["content"]:
        return f"{CONTENTS} is not the list it was finished with"
    for name, sha256 in hashes.items():
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise UnsafeInput(f"{path / CONTENTS} names a file outside of the run: {name}")
        if not (path / name).is_file():
            return f"{name} is gone"
        if files.known_hash(path / name) != sha256:
            return f"{name} has changed"
    return ""


def _as_listed(entry: tuple[str, str]) -> Path:
    return Path(entry[0])


def is_run(path: Path, stage: str | None = None) -> bool:
    record = read_record(path) if path.is_dir() else {}
    return bool(record) and (stage is None or record["stage"] == stage)


def read_record(out: Path) -> dict[str, Any]:
    """run.json of a folder, empty where there is none. ConfigError for one that is damaged or of another schema."""
    path = out / "run.json"
    if not path.exists():
        return {}
    try:
        record: dict[str, Any] = files.read_json(path)
    except ConfigError:
        record = {}
    if not isinstance(record, dict) or not record:
        raise ConfigError(f"{path} is damaged; delete the folder {out} and run again")
    if record.get("schema") != SCHEMA:
        versions = record.get("versions")
        writer = versions.get("cellvision", "unknown") if isinstance(versions, dict) else "unknown"
        raise ConfigError(
            f"{out} has run schema {record.get('schema')} (cellvision {writer}); this is {__version__}, schema {SCHEMA}"
        )
    must = ("stage", "status", *(("content",) if record.get("status") == "done" else ()))
    if missing := [key for key in must if not isinstance(record.get(key), str)]:
        raise ConfigError(f"{path} does not say its {', '.join(missing)}; delete the folder {out} and run again")
    return record


def _differences(record: dict[str, Any], what: dict[str, Any]) -> list[str]:
    """`key: old -> new` for everything that differs, dotted."""
    old, new = (_flat({key: side.get(key) for key in what}) for side in (record, files.plain(what)))
    changed = [key for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
    return [f"{key.removeprefix('config.')}: {old.get(key)!r} there, {new.get(key)!r} now" for key in changed[:6]]


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {prefix: tree}
    return {
        key: leaf for name, inner in tree.items() for key, leaf in _flat(inner, f"{prefix}.{name}".lstrip(".")).items()
    }


def remove_temporaries(out: Path) -> None:
    """What a killed process was writing; children in runs/ have their own lock and tidy up themselves."""
    for folder, folders, names in os.walk(out):
        if Path(folder) == out and "runs" in folders:
            folders.remove("runs")
        for name in names:
            if files.is_temporary(name):
                Path(folder, name).unlink(missing_ok=True)


def _lock(out: Path) -> TextIO:
    """The folder, made where it is missing, and its lock. ConfigError where it cannot be had."""
    files.refuse_special(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
        handle = (out / LOCK).open("a+", encoding="utf-8")
    except OSError as error:
        if error.errno in files.FULL:
            raise
        raise ConfigError(f"{out} cannot be written ({error.strerror}); give another --out") from None
    try:
        _lock_file(handle)
        if os.fstat(handle.fileno()).st_ino != (out / LOCK).stat().st_ino:  # who held it has removed it meanwhile
            raise BlockingIOError
    except OSError:
        handle.seek(0)
        holder = handle.read().strip() or "unknown"
        handle.close()
        raise ConfigError(f"{out} is in use by process {holder}; wait for it or give another --out") from None
    handle.seek(0)
    handle.truncate()
    handle.write(str(os.getpid()))
    handle.flush()
    _HELD.add(handle)
    return handle


@contextlib.contextmanager
def locked(out: Path) -> Iterator[None]:
    """A folder that is no run, for one process alone; the lock goes with it. ConfigError where another one has it."""
    lock = _lock(out)
    try:
        yield
    finally:
        (out / LOCK).unlink(missing_ok=True)
        _HELD.discard(lock)
        lock.close()


def is_own(name: str) -> bool:
    """Whether a file is a lock, or what a killed process was writing."""
    return name == LOCK or files.is_temporary(name)


def _let_go() -> None:
    """A forked child must not hold its parent's locks, or they would outlive a killed parent."""
    while _HELD:
        _HELD.pop().close()


_HELD: set[TextIO] = set()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


def _lock_file(handle: TextIO) -> None:
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(handle.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(handle.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)


@functools.cache
def _versions() -> dict[str, str]:
    import importlib.metadata

    versions = {"cellvision": __version__, "python": sys.version.split()[0]}
    for library in LIBRARIES:
        try:
            versions[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            versions[library] = "missing"
    return versions


def _git() -> str | None:
    """The commit of the working folder, with a plus when it has changes; None outside git."""
    command = ["git", "describe", "--always", "--dirty=+", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
