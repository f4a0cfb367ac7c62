"""Work that its caller need not wait for: one thread, in order, so much of it at most, and no error lost."""

import atexit
import queue
import threading
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeVar

_T = TypeVar("_T")
_Tasks = queue.SimpleQueue[Callable[[], None] | None]


class Background:
    """Runs tasks one after the other in a thread of its own.

    After a task that raised none is run, and every later call raises its exception. Whoever lets go of an object
    of this class loses nothing that was put, and its thread ends with the last task; so does the process.

    A task may be put wherever Python is, inside of a garbage collection too, which runs the destructors of writers that
    nobody holds: a ThreadPoolExecutor takes a lock that the very thread may be holding then, and stood still for ever.

    Args:
        name: Of the thread.
        capacity: How much may be put and not done, in the unit of `put`'s size; one task may always be.
    """

    def __init__(self, name: str, capacity: int) -> None:
        self._tasks: _Tasks = queue.SimpleQueue()  # its put may be interrupted by another put of the same thread
        _start(name, self._tasks)
        weakref.finalize(self, self._tasks.put, None).atexit = False
        self._capacity = capacity
        self._under_way: deque[tuple[Future[Any], int]] = deque()
        self._size = 0
        # The thread holds this list and not the object, which would otherwise never be let go of.
        self._errors: list[BaseException] = []

    def put(self, size: int, task: Callable[[], _T]) -> "Future[_T]":
        """Have a task done, once there is room for it.

        Args:
            size: How much the task counts; 0 never waits.
            task: Without arguments.

        Raises:
            Exception: What an earlier task raised.
        """
        while size and self._under_way and self._size + size > self._capacity:
            self._settle_one()
        self.check()
        future: Future[_T] = Future()
        self._under_way.append((future, size))
        self._size += size
        self._tasks.put(partial(_run, task, future, self._errors))
        return future

    def settle(self) -> None:
        """Wait for every task.

        Raises:
            Exception: What a task raised.
        """
        while self._under_way:
            self._settle_one()

    def check(self) -> None:
        """Raise what a task raised, without waiting."""
        if self._errors:
            raise self._errors[0]

    def _settle_one(self) -> None:
        future, size = self._under_way[0]
        future.result()
        self._under_way.popleft()
        self._size -= size


def _run(task: Callable[[], _T], future: "Future[_T]", errors: list[BaseException]) -> None:
    if not errors:
        try:
            future.set_result(task())
        except BaseException as error:  # noqa: BLE001  whoever put it learns of it
            errors.append(error)
        else:
            return
    future.set_exception(errors[0])


_at_work: weakref.WeakKeyDictionary[threading.Thread, _Tasks] = weakref.WeakKeyDictionary()


def _start(name: str, tasks: _Tasks) -> None:
    # Python would wait for others than daemons for ever, and stop daemons inside of C++, which takes the process down:
    # so they are told to end, and waited for, before that.
    thread = threading.Thread(target=_work, args=(tasks,), name=name, daemon=True)
    _at_work[thread] = tasks
    thread.start()


def _work(tasks: _Tasks) -> None:
    while (task := tasks.get()) is not None:
        task()
        del task  # what it holds must not stay until the next one comes


@atexit.register
def _end() -> None:
    for thread, tasks in list(_at_work.items()):
        tasks.put(None)
        thread.join()
