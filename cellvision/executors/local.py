"""Work spread over processes, results in order, memory bounded; the same bits with any number of workers."""

from __future__ import annotations

import contextlib
import copy
import functools
import multiprocessing
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection
from pathlib import Path
from typing import Any, TypeVar

from cellvision.core import signals
from cellvision.core.errors import CellvisionError
from cellvision.core.progress import say

Task = TypeVar("Task")
Result = TypeVar("Result")
AHEAD = 4  # tasks in flight per worker
GRACE_S = 4.0  # that worker processes get to stop by themselves
SIGNAL_S = 0.5  # after the death of a worker in which a signal to all processes may reach this one
UNKNOWN_MEMORY = 8e9  # bytes taken as free where the system does not say
_START: Any = multiprocessing.get_context("spawn" if sys.platform == "win32" else "forkserver")


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_memory() -> float:
    """Bytes that are free on this machine, or at most the limit of the container it is."""
    bounds = []
    with contextlib.suppress(OSError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        bounds += [1024.0 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    with contextlib.suppress(OSError, ValueError):  # "max" is no limit
        bounds.append(float(Path("/sys/fs/cgroup/memory.max").read_text()))
    return min(bounds, default=UNKNOWN_MEMORY)


def ordered_map(work: Callable[[Task], Result], tasks: Iterable[Task], workers: int) -> Iterator[Result]:
    """`map` over processes of one thread each; workers <= 1 runs here. A worker that dies is an error, not a hang.

    A function of the script that runs (`__main__`) is called here too: no other process can import it.
    """
    if workers > 1 and _of_script(work):
        say("in one process: a function of the script itself cannot travel to others; import it from a module")
        workers = 1
    if workers <= 1:
        one_thread()
        yield from map(work, tasks)
        return
    pool = ProcessPoolExecutor(workers, mp_context=_CONTEXT, initializer=_start_worker)
    waiting: deque[Future[Result]] = deque()
    try:
        for task in tasks:
            waiting.append(pool.submit(_with_one_thread, work, task))
            if len(waiting) >= AHEAD * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool:
        signals.await_request(SIGNAL_S)
        raise CellvisionError(
            "a worker process died (out of memory?); repeat the command with fewer --workers"
        ) from None
    except GeneratorExit:
        raise
    except BaseException:
        _stop(multiprocessing.active_children())
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _of_script(work: Callable[..., Any]) -> bool:
    while isinstance(work, functools.partial):
        work = work.func
    return getattr(work, "__module__", None) == "__main__"


@contextlib.contextmanager
def _script_hidden() -> Iterator[None]:
    """`multiprocessing` tells a new process to import what `__main__` says it is: here it says nothing."""
    script = sys.modules["__main__"]
    names: set[str] = {"__spec__", "__file__"} & set(vars(script))
    kept = {name: vars(script)[name] for name in names}
    script.__spec__ = None
    vars(script).pop("__file__", None)
    try:
        yield
    finally:
        vars(script).update(kept)


class _Worker(_START.Process):
    """A clean process, which imports what it works with, but not the script that runs.

    A script without `if __name__ == "__main__"` would begin again in each of them, and one that was piped into Python
    has no file to import.
    """

    def start(self) -> None:
        with _script_hidden():
            super().start()


_CONTEXT: Any = copy.copy(_START)
_CONTEXT.Process = _Worker


def loader_context(workers: int) -> Any:
    """How torch's DataLoader starts processes: as here, but where the system forks, which is quick, it may."""
    return None if workers == 0 or multiprocessing.get_start_method() == "fork" else _CONTEXT


def _stop(children: list[multiprocessing.process.BaseProcess]) -> None:
    """Ask first, so that a training inside saves its checkpoint; end what is still deep in a C call after `GRACE_S`."""
    for child in children:
        child.terminate()
    until = time.monotonic() + GRACE_S
    for child in children:
        child.join(max(0.0, until - time.monotonic()))
        child.kill()


def one_thread() -> None:
    """One thread for OpenCV and torch: the processes are the parallelism, and sums keep their order."""
    import cv2

    cv2.setNumThreads(0)
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(1)


def _with_one_thread(work: Callable[[Any], Result], task: Any) -> Result:
    one_thread()
    return work(task)


def _start_worker() -> None:
    """The parent decides about Ctrl-C; a worker whose parent is gone must not go on holding a run directory."""
    os.environ["OMP_NUM_THREADS"] = "1"  # for libraries that are imported later
    signals.install(interactive=False)
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
