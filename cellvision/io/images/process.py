"""Decoding in a process of its own, so that a file that hangs, crashes or fills the memory costs a row and not the run.

The bytes go in through a pipe and pixels come back: one line of JSON, then raw samples. The process is started when it
is first needed, serves one picture after the other, and ends with the one that started it. The system counts the
seconds of its processor time, so that a busy machine refuses no picture, and code that hangs need not cooperate; a
second clock ends what waits for nothing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import faulthandler
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO, Any

import numpy as np

from cellvision.core.errors import CellvisionError
from cellvision.io.images.pixels import Channels, Decoded, Frames, ImageError, Limits, Reason

LIBRARIES = ("PIL.Image", "tifffile", "imagecodecs")  # loaded before the clock runs
IDLE_FACTOR = 50 if hasattr(signal, "setitimer") else 5  # times the seconds of work, what may pass on the wall
MEMORY_FACTOR = 4  # times max_decoded_mb, what the process may take above what its libraries need
NO_MEMORY = "more memory is needed to decode it than there is; use fewer --workers, or cut it into tiles"

OUT_OF_TIME = -getattr(signal, "SIGPROF", 0) or None  # exit code

_lock = threading.Lock()
_running: subprocess.Popen[bytes] | None = None


class _Ended(Exception):  # noqa: N818 - says what happened
    """The process ended before it answered."""


def decode(
    data: bytes, kind: str, frames: Frames, channels: Channels | None, limits: Limits, labels: bool = False
) -> Decoded:
    """Bytes of a `kind` -> (H, W, C) pixels, or an ImageError within `limits.seconds(len(data))`."""
    request = {
        "kind": kind, "frames": frames, "channels": channels, "limits": dataclasses.asdict(limits), "size": len(data),
        "labels": labels,
    }  # fmt: skip
    for _ in range(2):  # a process that somebody else ended is no fault of the picture: it is tried again
        with _lock:
            process = _process()
            begun = time.monotonic()
            try:
                return _ask(process, request, data)
            except _Ended:
                code = _stop(patience_s=1)
            except ImageError:
                raise
            except BaseException:  # an answer may be on its way, which the next picture must not get
                _stop()
                raise
        seconds = limits.seconds(len(data))
        if code == OUT_OF_TIME or time.monotonic() - begun >= seconds * IDLE_FACTOR:
            raise ImageError(
                Reason.E_TOO_LARGE, f"decoding was stopped after {seconds:.0f} s; open it in ImageJ and export it again"
            )
    raise ImageError(
        Reason.E_TOO_LARGE if code == -signal.SIGKILL else Reason.E_CORRUPT,
        f"its decoder ended with code {code} (out of memory, or a damaged file); open it in ImageJ and export it again",
    )


def _ask(process: subprocess.Popen[bytes], request: dict[str, Any], data: bytes) -> Decoded:
    source, sink = process.stdout, process.stdin
    assert source is not None
    assert sink is not None
    try:
        sink.write(json.dumps(request).encode() + b"\n")
        sink.write(data)
        sink.flush()
    except OSError:
        raise _Ended from None
    line = source.readline()
    if not line.endswith(b"\n"):
        raise _Ended
    answer = json.loads(line)
    if "reason" in answer:
        raise ImageError(Reason(answer["reason"]), answer["message"])
    pixels = np.empty(answer["shape"], answer["dtype"])
    if source.readinto(pixels.reshape(-1).view(np.uint8).data) != pixels.nbytes:  # type: ignore[attr-defined]
        raise _Ended
    return Decoded(pixels, **answer["facts"])


def _process() -> subprocess.Popen[bytes]:
    global _running
    if _running is None or _running.poll() is not None:
        package = str(Path(__file__).parents[3])
        search_path = os.environ.get("PYTHONPATH")
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([package, *([search_path] if search_path else [])])}
        statement = "from cellvision.io.images.process import serve; serve()"
        try:
            _running = subprocess.Popen(
                [sys.executable, "-P", "-c", statement], env=environment,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            )  # fmt: skip
        except OSError as error:
            raise CellvisionError(
                f"cannot start a process that decodes images ({error.strerror}); close other programs, or raise ulimit"
            ) from None
        if _running.stdout is None or _running.stdout.readline() != b"ready\n":
            raise CellvisionError(
                f"the process that decodes images ended at once (code {_stop(patience_s=1)}); run cellvision doctor"
            )
    return _running


def _stop(patience_s: float = 0) -> int:
    """End the process, after a moment in which it may end by itself; -> its exit code."""
    global _running
    process, _running = _running, None
    assert process is not None
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(patience_s)
    process.kill()
    for stream in (process.stdin, process.stdout):
        with contextlib.suppress(OSError):
            if stream is not None:
                stream.close()
    return process.wait()


def _forget() -> None:
    """A forked child must not talk to its parent's decoder."""
    global _running, _lock
    _running, _lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


# -- in the process that decodes ----------------------------------------------------------------------------------


def serve() -> None:
    """Answer requests from stdin on stdout until the parent is gone; whatever a library prints goes nowhere."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the parent decides, and this process ends with it
    source = sys.stdin.buffer
    with os.fdopen(os.dup(1), "wb") as sink, Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        for name in LIBRARIES:
            importlib.import_module(name)
        base = _address_space()
        sink.write(b"ready\n")
        sink.flush()
        with contextlib.suppress(BrokenPipeError):
            while line := source.readline():
                _answer(json.loads(line), source, sink, nowhere, base)


def _answer(request: dict[str, Any], source: IO[bytes], sink: IO[bytes], nowhere: IO[str], base: int) -> None:
    from cellvision.io.images.decode import decode_bytes

    data = source.read(request["size"])
    limits = Limits(**request["limits"])
    seconds = limits.seconds(len(data))
    _count(seconds)
    faulthandler.dump_traceback_later(seconds * IDLE_FACTOR, exit=True, file=nowhere)
    pixels = None
    try:
        _cap_memory(base + int(limits.max_decoded_mb * 1e6) * MEMORY_FACTOR)
        how = {name: request[name] for name in ("kind", "frames", "channels", "labels")}
        decoded = decode_bytes(data, limits=limits, **how)
        pixels = decoded.pixels
        facts = {field.name: getattr(decoded, field.name) for field in dataclasses.fields(decoded)}
        del facts["pixels"]
        answer: dict[str, Any] = {"shape": pixels.shape, "dtype": pixels.dtype.str, "facts": facts}
    except ImageError as error:
        answer = {"reason": error.reason, "message": str(error)}
    except MemoryError:
        answer = {"reason": Reason.E_TOO_LARGE, "message": NO_MEMORY}
    _count(0)
    faulthandler.cancel_dump_traceback_later()
    sink.write(json.dumps(answer).encode() + b"\n")
    if pixels is not None:
        sink.write(pixels.reshape(-1).view(np.uint8).data)
    sink.flush()


def _count(seconds: float) -> None:
    """From now on, end this process when it has worked for so long; 0 stops counting."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, seconds)


def _address_space() -> int:
    """Bytes this process has mapped, 0 where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def _cap_memory(size: int) -> None:
    if sys.platform == "win32":
        return
    import resource

    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    with contextlib.suppress(OSError, ValueError):  # not every system knows this limit
        resource.setrlimit(resource.RLIMIT_AS, (size if hard == resource.RLIM_INFINITY else min(size, hard), hard))
