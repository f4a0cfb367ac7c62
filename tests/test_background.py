"""Background: order, bounds, errors, and the end of its thread."""

import subprocess
import sys
import threading
import time

import pytest

from transforms import background as background_module
from transforms.background import Background


def test_tasks_are_done_in_order_and_answer() -> None:
    """Each future holds the result of its task."""
    done: list[int] = []
    background = Background("test", 1000)
    futures = [background.put(1, lambda n=n: done.append(n) or n * n) for n in range(100)]  # type: ignore[misc]
    background.settle()
    assert done == list(range(100))
    assert [future.result() for future in futures] == [n * n for n in range(100)]


@pytest.mark.parametrize(
    ("sizes", "taken"),
    [
        ([4, 4, 4], 2),  # 8 of 10, and 12 are too many
        ([5, 5, 1], 2),  # 10 of 10
        ([99, 1], 1),  # one is taken whatever its size, and then none
        ([4, 6, 0, 0], 4),  # what has no size never waits
    ],
)
def test_so_much_is_taken_and_no_more(sizes: list[int], taken: int) -> None:
    """Whoever puts more than the capacity waits until there is room."""
    go, put = threading.Event(), threading.Semaphore(0)
    background = Background("test", 10)

    def feed() -> None:
        for size in sizes:
            background.put(size, lambda: go.wait(60))
            put.release()

    feeder = threading.Thread(target=feed)
    feeder.start()
    for _ in range(taken):
        assert put.acquire(timeout=60)
    if taken < len(sizes):
        assert not put.acquire(timeout=0.1)
    go.set()
    feeder.join(60)
    background.settle()


def test_after_an_error_nothing_is_done_and_every_call_raises_it() -> None:
    """The very exception, also where tasks wait behind the one that failed."""
    go, done = threading.Event(), []
    error = ValueError("spoilt")

    def fail() -> None:
        go.wait(60)
        raise error

    background = Background("test", 1)
    background.put(1, fail)
    behind = background.put(0, lambda: done.append(1))
    go.set()
    assert behind.exception(60) is error
    for call in (background.settle, background.check, lambda: background.put(1, lambda: done.append(2))):
        with pytest.raises(ValueError, match="spoilt") as raised:
            call()
        assert raised.value is error
    assert done == []


def test_thread_ends_when_nobody_holds_it() -> None:
    """After the tasks that were put, without being told."""
    done: list[int] = []
    background = Background("forgotten", 10)
    for n in range(3):
        background.put(1, lambda n=n: done.append(n))  # type: ignore[misc]
    (thread,) = (thread for thread in threading.enumerate() if thread.name.startswith("forgotten"))
    del background
    thread.join(60)
    assert not thread.is_alive()
    assert done == [0, 1, 2]


def test_checking_does_not_wait() -> None:
    """An error is known as soon as it has happened, without settling."""
    background = Background("test", 10)
    background.put(1, lambda: 1 / 0)
    deadline = time.monotonic() + 60
    with pytest.raises(ZeroDivisionError):
        while time.monotonic() < deadline:
            background.check()
            time.sleep(0.001)


def test_task_may_be_put_while_another_is_being_put(monkeypatch: pytest.MonkeyPatch) -> None:
    """A garbage collection inside of put runs destructors that put, too: neither waits for the other."""
    background, other = Background("test", 10), Background("other", 10)
    done: list[str] = []
    real = background_module.Future

    class Collecting(real):  # type: ignore[misc, valid-type]
        """A future whose making collects garbage, and with it a writer that nobody holds."""

        def __init__(self) -> None:
            super().__init__()
            monkeypatch.setattr(background_module, "Future", real)
            other.put(1, lambda: done.append("destructor, elsewhere"))
            background.put(1, lambda: done.append("destructor"))

    monkeypatch.setattr(background_module, "Future", Collecting)
    putting = threading.Thread(target=lambda: background.put(1, lambda: done.append("task")), daemon=True)
    putting.start()
    putting.join(30)
    assert not putting.is_alive()
    background.settle()
    other.settle()
    assert sorted(done) == ["destructor", "destructor, elsewhere", "task"]


def test_process_waits_for_what_was_put() -> None:
    """At its end, whoever still holds the object."""
    script = (
        "import time\n"
        "from transforms.background import Background\n"
        "background = Background('test', 10)\n"
        "background.put(1, lambda: time.sleep(0.5))\n"
        "background.put(1, lambda: print('done', flush=True))\n"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=60)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"done\n", b"")
