"""Run a command and say what it and everything that it started took: wall time, processor time, memory.

A tool may start servers that outlive the process that started them, or workers that nobody waits for. So this process
adopts orphans (Linux), waits for each of them, and looks at the living tree a few times a second besides; where the
two disagree the larger figure counts, for both can only miss something.
"""

import contextlib
import ctypes
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import psutil

_PR_SET_CHILD_SUBREAPER = 36
_LOOK_SECONDS = (0.01, 0.25)  # the first pause, which doubles up to the second: short commands are seen, too
_GRACE_SECONDS = 20.0


class Measured(NamedTuple):
    """What a command took from its start to its end."""

    wall_s: float
    """Until the command itself ended, in seconds."""
    cpu_s: float
    """User and system time of the command and of everything that it started, in seconds."""
    peak_mb: float
    """Largest memory at one moment, in MiB: private memory of all processes, and the shared memory of the one that
    has most. Shared memory is counted once, which is too little rather than too much."""
    processes: int
    """Most processes at one moment."""


class CommandFailed(Exception):  # noqa: N818  it says what happened
    """A command did not end well; the text is the end of what it said."""


def measure(
    command: Sequence[str], log: Path, *, timeout_s: float, environment: Mapping[str, str] | None = None
) -> Measured:
    """Run a command to its end.

    Args:
        command: Program and arguments.
        log: Where its output goes.
        timeout_s: When it is ended.
        environment: Added to this process's.

    Raises:
        CommandFailed: It ended with another code than 0, or did not end in time.
    """
    _adopt_orphans()
    strangers = {child.pid for child in psutil.Process().children(recursive=True)}
    with log.open("wb") as said:
        started = time.perf_counter()
        process = subprocess.Popen(
            command,
            stdout=said,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )
        watcher = _Watcher(strangers, timeout_s)
        watcher.start()
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        watcher.stop()
    reaped_cpu, reaped_peak = _reap(strangers)
    if watcher.timed_out:
        raise CommandFailed(f"did not end within {timeout_s:.0f} s\n{_end_of(log)}")
    if process.returncode != 0:
        raise CommandFailed(f"ended with code {process.returncode}\n{_end_of(log)}")
    cpu = usage.ru_utime + usage.ru_stime + reaped_cpu
    # Linux begins a child's largest size with that of its parent, us, so that only what is larger is the child's.
    own_peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    largest = max(usage.ru_maxrss * 1024, reaped_peak)
    peak = max(watcher.peak_bytes, largest if largest > own_peak else 0)
    return Measured(wall, max(cpu, watcher.cpu_seconds), peak / 2**20, watcher.most_processes)


class _Watcher(threading.Thread):
    """Looks at the tree of processes until it is stopped."""

    def __init__(self, strangers: set[int], timeout_s: float) -> None:
        super().__init__(daemon=True)
        self._strangers = strangers
        self._until = time.monotonic() + timeout_s
        self._ended = threading.Event()
        self._cpu: dict[tuple[int, float], float] = {}
        self.peak_bytes = 0
        self.most_processes = 0
        self.timed_out = False

    @property
    def cpu_seconds(self) -> float:
        """The sum of what each process had used when it was last seen."""
        return sum(self._cpu.values())

    def stop(self) -> None:
        """Look no more."""
        self._ended.set()
        self.join()

    def run(self) -> None:
        pause, longest = _LOOK_SECONDS
        while not self._ended.wait(pause):
            pause = min(2 * pause, longest)
            tree = _tree(self._strangers)
            self._look(tree)
            if time.monotonic() > self._until:
                self.timed_out = True
                _kill(tree)

    def _look(self, tree: list[psutil.Process]) -> None:
        private, shared, alive = 0, 0, 0
        for process in tree:
            with contextlib.suppress(psutil.Error), process.oneshot():
                spent, memory = process.cpu_times(), process.memory_info()
                self._cpu[process.pid, process.create_time()] = spent.user + spent.system
                share = getattr(memory, "shared", 0)
                private += memory.rss - share
                shared = max(shared, share)
                alive += memory.rss > 0  # a dead one that nobody has waited for has no memory
        self.peak_bytes = max(self.peak_bytes, private + shared)
        self.most_processes = max(self.most_processes, alive)


def _adopt_orphans() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _tree(strangers: set[int]) -> list[psutil.Process]:
    return [child for child in psutil.Process().children(recursive=True) if child.pid not in strangers]


def _kill(tree: list[psutil.Process]) -> None:
    for process in tree:
        with contextlib.suppress(psutil.Error):
            process.kill()


def _reap(strangers: set[int]) -> tuple[float, int]:
    """Wait for orphans; return their processor seconds and the largest resident size of one, in bytes."""
    until = time.monotonic() + _GRACE_SECONDS
    cpu, peak = 0.0, 0
    while tree := _tree(strangers):
        for process in tree:
            with contextlib.suppress(ChildProcessError):  # not ours yet: its parent still lives
                pid, _, usage = os.wait4(process.pid, os.WNOHANG)
                if pid:
                    cpu += usage.ru_utime + usage.ru_stime
                    peak = max(peak, usage.ru_maxrss * 1024)
        if time.monotonic() > until:
            _kill(tree)
        time.sleep(0.05)
    return cpu, peak


def _end_of(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")[-2000:]
