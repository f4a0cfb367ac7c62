"""Try again what fails in passing, and give up in time: exponential back-off with full jitter, within a deadline.

Every wait is drawn between nothing and a limit that doubles with each attempt ("full jitter" of the AWS Architecture
Blog's "Exponential Backoff And Jitter"): a thousand workers that one outage has stopped do not come back as one wave.
"""

import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Backoff:
    """How long to wait between attempts, and for how long to go on."""

    first_seconds: float = 0.1
    """Longest wait after the first attempt: most troubles of a store concern one request and are gone at once. The
    AWS client begins with 0.05 s; Google's guide says 1 s, and its client has waited as long before it reports."""
    largest_seconds: float = 20.0
    """No wait is longer: the limit of the AWS SDKs' standard mode. Google's guide allows up to 64 s, but with a
    deadline of two minutes that leaves too few attempts."""
    deadline_seconds: float = 120.0
    """From the first attempt on: what load.read_timeout_seconds gives one image. Throttling that a store answers by
    splitting a prefix is over sooner."""

    def longest_wait(self, attempts: int) -> float:
        """Return the limit of the wait after so many attempts.

        >>> [Backoff().longest_wait(attempts) for attempts in (1, 2, 8, 9, 5000)]
        [0.1, 0.2, 12.8, 20.0, 20.0]
        """
        return min(self.largest_seconds, self.first_seconds * 2.0 ** min(attempts - 1, 64))


class LeftBehindError(TimeoutError):
    """An operation has not returned in time; it goes on, and nobody waits for it."""


def call_with_retries(
    operation: Callable[[float], T],
    is_passing: Callable[[Exception], bool],
    backoff: Backoff,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
    uniform: Callable[[float, float], float] = random.uniform,
) -> T:
    """Call an operation until it succeeds, fails for good, or the deadline is over.

    Args:
        operation: Gets the seconds that are left; may be called any number of times.
        is_passing: Whether an error may be gone at the next attempt.
        backoff: When to try again, and how long.
        clock: Seconds, monotonic.
        sleep: Waits for seconds.
        uniform: Draws a number between two.

    Raises:
        TimeoutError: The deadline is over; the message tells the number of attempts and the last error.
        Exception: What the operation raised, where it does not pass.
    """
    started = clock()
    attempts = 0
    answered = ""
    while True:
        attempts += 1
        try:
            return operation(max(0.0, backoff.deadline_seconds - (clock() - started)))
        except Exception as error:
            if not is_passing(error):
                raise
            last = str(error).split("\n")[0]
            # What was left of the deadline may have been too short for any answer: the one before says more.
            if not isinstance(error, LeftBehindError):
                answered = last
            elif answered:
                last = f"{answered}, then {last}"
            wait = uniform(0.0, backoff.longest_wait(attempts))
            # A wait that ends after the deadline is not begun: its attempt would not be made.
            if clock() - started + wait >= backoff.deadline_seconds:
                spent = clock() - started
                times = "once" if attempts == 1 else f"{attempts} times"
                raise TimeoutError(f"tried {times} in {spent:.1f} s, the last error: {last}") from error
        sleep(wait)


def call_within(seconds: float, operation: Callable[[], T]) -> T:
    """Call an operation in a thread, and leave it behind when it takes too long.

    For clients that cannot be told how long they may take. What is left behind ends when the client itself gives up.
    Each call has a thread of its own, a daemon: neither another call nor Python's end waits for one left behind.

    Raises:
        LeftBehindError: It has not returned.
        Exception: What the operation raised.
    """
    future: Future[T] = Future()

    def attempt() -> None:
        try:
            future.set_result(operation())
        except BaseException as error:  # noqa: BLE001  the caller raises it
            future.set_exception(error)

    threading.Thread(target=attempt, name="attempt", daemon=True).start()
    try:
        return future.result(seconds)
    except TimeoutError:
        if future.done():
            return future.result()
        raise LeftBehindError(f"no answer in {seconds:.1f} s") from None
