"""Threads for work that may hang: one that does is replaced, and no process waits for it at its end."""

import contextlib
import queue
import threading
import time
import weakref
from collections.abc import Callable
from typing import Self

# What is at work when the process ends is waited for: a thread that Python stops inside of C++ takes the process down.
# One that hangs for good, and that nobody has given up so far, is not worth more than this.
_END_SECONDS = 5.0


class LoadThreads:
    """A number of threads that take tasks in order.

    Unlike those of a ThreadPoolExecutor, the end of a process joins them for a few seconds only, and those that were
    replaced not at all. They end when nobody holds this object any more.

    Args:
        count: How many.
        name: Of the threads.
    """

    def __init__(self, count: int, name: str = "load") -> None:
        # The threads hold the crew and not this object, which would otherwise never be let go of.
        self._crew = _Crew(name)
        self._crew.grow(count)
        self._end = weakref.finalize(self, self._crew.end)

    def submit(self, task: Callable[[], None]) -> None:
        """Have a task done by one of the threads; it must not raise.

        Raises:
            RuntimeError: They were closed.
        """
        self._crew.submit(task)

    def replace(self, thread: threading.Thread) -> int:
        """Start another thread for one that hangs; it ends with its task, should that ever end.

        Returns:
            How many tasks have hung so far.
        """
        return self._crew.replace(thread)

    def close(self) -> None:
        """Drop what has not begun, and wait a few seconds for what has, but not for threads that were replaced."""
        self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Crew:
    def __init__(self, name: str) -> None:
        self._name = name
        self._tasks: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._members: set[threading.Thread] = set()
        self._ended = False
        self._hung = 0
        self._lock = threading.Lock()

    def grow(self, count: int) -> None:
        # Daemons: Python would wait for others for ever.
        started = [threading.Thread(target=self._work, name=self._name, daemon=True) for _ in range(count)]
        self._members.update(started)
        for thread in started:
            thread.start()

    def submit(self, task: Callable[[], None]) -> None:
        with self._lock:
            if self._ended:
                raise RuntimeError("threads take no tasks after their shutdown")
            self._tasks.put(task)

    def replace(self, thread: threading.Thread) -> int:
        with self._lock:
            self._hung += 1
            # It may have come back and have begun another task, which hangs as well: it has its successor already.
            if thread in self._members and not self._ended:
                self._members.remove(thread)
                self.grow(1)
            return self._hung

    def end(self) -> None:
        with self._lock:
            self._ended = True
            members = self._members - {threading.current_thread()}
        with contextlib.suppress(queue.Empty):
            while True:
                self._tasks.get_nowait()
        for _ in members:
            self._tasks.put(None)
        until = time.monotonic() + _END_SECONDS
        for thread in members:
            thread.join(max(0.0, until - time.monotonic()))

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            task()
            del task  # what it holds must not stay until the next one comes
            if threading.current_thread() not in self._members:
                return
