"""Threads for work that may hang: their number stays, and neither closing nor the end of a process waits for ever."""

import queue
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from transforms import threads as threads_module
from transforms.threads import LoadThreads

ROOT = Path(__file__).parent.parent


class Hanging:
    """A task that hangs until it may go on."""

    def __init__(self) -> None:
        self.threads: queue.SimpleQueue[threading.Thread] = queue.SimpleQueue()
        self.may_go = threading.Event()

    def __call__(self) -> None:
        self.threads.put(threading.current_thread())
        assert self.may_go.wait(60)


def meet(pool: LoadThreads, count: int) -> list[threading.Thread]:
    """Have so many tasks done at a time; return their threads."""
    barrier = threading.Barrier(count + 1)
    met: list[threading.Thread] = []

    def come() -> None:
        met.append(threading.current_thread())
        barrier.wait(60)

    for _ in range(count):
        pool.submit(come)
    barrier.wait(60)
    return met


def test_so_many_tasks_are_done_at_a_time() -> None:
    """Each by a thread of its own, and all of them once."""
    with LoadThreads(3) as pool:
        assert len(set(meet(pool, 3))) == 3
        done: queue.SimpleQueue[int] = queue.SimpleQueue()
        for number in range(100):
            pool.submit(lambda number=number: done.put(number))  # type: ignore[misc]
        assert sorted(done.get(timeout=60) for _ in range(100)) == list(range(100))


def test_thread_that_hangs_is_replaced_and_ends_when_it_comes_back() -> None:
    """The width of the pool stays, before and after."""
    hanging = Hanging()
    with LoadThreads(2) as pool:
        pool.submit(hanging)
        stuck = hanging.threads.get(timeout=60)
        assert pool.replace(stuck) == 1
        assert pool.replace(stuck) == 2  # it has its successor; its task was another one
        met = meet(pool, 2)
        assert stuck not in met
        hanging.may_go.set()
        stuck.join(60)
        assert not stuck.is_alive()
        assert set(meet(pool, 2)) == set(met)


def test_closing_drops_what_has_not_begun_and_does_not_wait_for_who_was_replaced() -> None:
    """Neither hangs with a thread that hangs."""
    hanging = Hanging()
    done: list[int] = []
    pool = LoadThreads(1)
    pool.submit(hanging)
    stuck = hanging.threads.get(timeout=60)
    behind = Hanging()
    pool.submit(behind)
    pool.submit(lambda: done.append(1))
    pool.replace(stuck)
    successor = behind.threads.get(timeout=60)
    threading.Timer(0.1, behind.may_go.set).start()
    started = time.monotonic()
    pool.close()
    assert not successor.is_alive(), "what has begun is waited for"
    assert time.monotonic() - started < 4
    assert done == []
    assert stuck.is_alive()
    hanging.may_go.set()
    stuck.join(60)
    assert not stuck.is_alive()
    with pytest.raises(RuntimeError, match="threads take no tasks after their shutdown"):
        pool.submit(lambda: None)


def test_waiting_for_a_thread_that_nobody_has_given_up_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Closing takes some seconds at most."""
    monkeypatch.setattr(threads_module, "_END_SECONDS", 0.1)
    hanging = Hanging()
    with LoadThreads(1) as pool:
        pool.submit(hanging)
        stuck = hanging.threads.get(timeout=60)
    assert stuck.is_alive()
    hanging.may_go.set()
    stuck.join(60)


def test_threads_end_when_nobody_holds_them() -> None:
    """Without being told."""
    pool = LoadThreads(2, "forgotten")
    meet(pool, 2)
    threads = [thread for thread in threading.enumerate() if thread.name == "forgotten"]
    assert len(threads) == 2
    del pool
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()


@pytest.mark.parametrize("given_up", [True, False])
def test_process_ends_with_a_thread_that_hangs(given_up: bool) -> None:
    """A script of one's own has no os._exit: Python would join the threads of a ThreadPoolExecutor for ever."""
    script = (
        "import queue, threading, time\n"
        "from transforms import threads\n"
        "threads._END_SECONDS = 0.5\n"
        "found = queue.SimpleQueue()\n"
        "pool = threads.LoadThreads(2)\n"
        "pool.submit(lambda: (found.put(threading.current_thread()), time.sleep(600)))\n"
        "thread = found.get()\n"
        f"{'pool.replace(thread)' if given_up else ''}\n"
        "print('done')\n"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "done\n", "")
