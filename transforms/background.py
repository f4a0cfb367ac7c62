"""Work that its caller need not wait for: one thread, in order, so much of it at most, and no error lost."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

_T = TypeVar("_T")


class Background:
    """Runs tasks one after the other in a thread of its own.

    After a task that raised none is run, and every later call raises its exception. Whoever lets go of an object
    of this class loses nothing that was put, and its thread ends with the last task; so does the process.

    Args:
        name: Of the thread.
        capacity: How much may be put and not done, in the unit of `put`'s size; one task may always be.
    """

    def __init__(self, name: str, capacity: int) -> None:
        # Its threads end when it is collected, and at the end of the process are waited for: a daemon that is
        # stopped inside of C++ takes the process down.
        self._executor = ThreadPoolExecutor(1, name)
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
        future = self._executor.submit(_run, task, self._errors)
        self._under_way.append((future, size))
        self._size += size
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


def _run(task: Callable[[], _T], errors: list[BaseException]) -> _T:
    if errors:
        raise errors[0]
    try:
        return task()
    except BaseException as error:
        errors.append(error)
        raise
