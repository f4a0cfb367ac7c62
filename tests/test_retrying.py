"""Trying again: when, how long, and what is said when it was for nothing."""

import threading
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms.retrying import Backoff, LeftBehindError, call_with_retries, call_within
from transforms.settings import LoadSettings

LOAD_THREADS = 512  # the most that load.threads allows


class Clock:
    """Time that passes only by sleeping, and by what an attempt takes."""

    def __init__(self, attempt_seconds: float = 0.0) -> None:
        self.now = 1000.0
        self.slept: list[float] = []
        self.left: list[float] = []
        self._attempt_seconds = attempt_seconds

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.slept.append(seconds)
        self.now += seconds

    def failing(self, times: int, error: Exception) -> Callable[[float], str]:
        """Return an operation that fails a number of times, and then succeeds."""

        def operation(seconds_left: float) -> str:
            self.left.append(seconds_left)
            self.now += self._attempt_seconds
            if len(self.left) <= times:
                raise error
            return "done"

        return operation


def call(clock: Clock, operation: Callable[[float], str], backoff: Backoff, draw: float = 1.0) -> str:
    """Try with this clock, drawing always the same share of the longest wait."""
    return call_with_retries(
        operation,
        lambda error: isinstance(error, ConnectionError),
        backoff,
        clock=lambda: clock.now,
        sleep=clock.sleep,
        uniform=lambda low, high: low + (high - low) * draw,
    )


def test_success_is_returned_at_once() -> None:
    """One attempt, no wait, and the whole deadline to it."""
    clock = Clock()
    assert call(clock, clock.failing(0, ConnectionError()), Backoff(deadline_seconds=7)) == "done"
    assert (clock.slept, clock.left) == ([], [7.0])


def test_waits_double_up_to_the_largest() -> None:
    """As the two numbers say, and each attempt hears what is left."""
    clock = Clock(attempt_seconds=1.0)
    backoff = Backoff(first_seconds=1.0, largest_seconds=4.0, deadline_seconds=100.0)
    assert call(clock, clock.failing(5, ConnectionError()), backoff) == "done"
    assert clock.slept == [1.0, 2.0, 4.0, 4.0, 4.0]
    assert clock.left == [100.0, 98.0, 95.0, 90.0, 85.0, 80.0]


@given(st.floats(0.0, 1.0), st.integers(0, 60))
def test_every_wait_is_drawn_from_nothing_to_the_limit(draw: float, failures: int) -> None:
    """Full jitter: the draw decides, the limit is that of the attempt."""
    clock = Clock()
    backoff = Backoff(first_seconds=0.5, largest_seconds=8.0, deadline_seconds=1e6)
    call(clock, clock.failing(failures, ConnectionError()), backoff, draw)
    assert clock.slept == [draw * min(8.0, 0.5 * 2**attempt) for attempt in range(failures)]


@given(st.floats(0.01, 5.0), st.floats(0.0, 3.0), st.floats(0.01, 1.0))
def test_no_attempt_begins_after_the_deadline(deadline: float, attempt_seconds: float, draw: float) -> None:
    """However long attempts take: what is over is given up, with the reason."""
    clock = Clock(attempt_seconds)
    with pytest.raises(TimeoutError, match=r"tried (once|\d+ times) in \d+\.\d s, the last error: no route"):
        call(clock, clock.failing(10**9, ConnectionError("no route")), Backoff(deadline_seconds=deadline), draw)
    assert all(left > 0 for left in clock.left)
    assert sum(clock.slept) < deadline


def test_lasting_error_is_raised_as_it_is() -> None:
    """At once, also after passing ones."""
    clock = Clock()
    lasting = PermissionError("closed")
    with pytest.raises(PermissionError) as caught:
        call(clock, clock.failing(1, lasting), Backoff())
    assert caught.value is lasting
    assert clock.slept == []

    def turn(_: float) -> str:
        clock.left.append(0.0)
        raise ConnectionError if len(clock.left) < 4 else lasting

    with pytest.raises(PermissionError):
        call(clock, turn, Backoff())
    assert len(clock.slept) == 2


def test_giving_up_tells_attempts_and_the_last_error() -> None:
    """One line, though the error has several, and the error itself as its cause."""
    clock = Clock(attempt_seconds=0.5)
    error = ConnectionError("reset by peer\nbacktrace")
    with pytest.raises(TimeoutError) as caught:
        call(clock, clock.failing(99, error), Backoff(first_seconds=1.0, deadline_seconds=6.0))
    assert str(caught.value) == "tried 3 times in 4.5 s, the last error: reset by peer"
    assert caught.value.__cause__ is error


def test_an_attempt_that_had_no_time_does_not_hide_the_answer_before_it() -> None:
    """The last part of a deadline may be too short for any answer."""
    clock = Clock(attempt_seconds=0.5)
    answers = iter([ConnectionError("503"), ConnectionError("504"), LeftBehindError("no answer in 0.0 s")])

    def operation(seconds_left: float) -> str:  # noqa: ARG001  as call_with_retries gives it
        clock.now += 0.5
        raise next(answers)

    with pytest.raises(TimeoutError) as caught:
        call_with_retries(
            operation, lambda _: True, Backoff(deadline_seconds=1.2), clock=lambda: clock.now, sleep=clock.sleep,
            uniform=lambda low, high: low,  # noqa: ARG005  the shortest wait
        )  # fmt: skip
    assert str(caught.value) == "tried 3 times in 1.5 s, the last error: 504, then no answer in 0.0 s"


def test_draws_differ_by_default() -> None:
    """A thousand workers do not come back as one wave."""
    clocks = [Clock() for _ in range(20)]
    for clock in clocks:
        call_with_retries(
            clock.failing(1, ConnectionError()), lambda _: True, Backoff(), clock=lambda: 0.0, sleep=clock.sleep
        )
    waits = {clock.slept[0] for clock in clocks}
    assert len(waits) == 20
    assert all(0 <= wait <= Backoff().first_seconds for wait in waits)


def test_deadline_is_that_of_one_image() -> None:
    """The setting and what the storage does without it are one number."""
    assert Backoff().deadline_seconds == LoadSettings().read_timeout_seconds


class TestCallWithin:
    def test_result_and_error_are_the_operations_own(self) -> None:
        """As if it had been called."""
        assert call_within(10, lambda: "done") == "done"
        own = TimeoutError("its own")

        def fail() -> None:
            raise own

        with pytest.raises(TimeoutError) as caught:
            call_within(10, fail)
        assert caught.value is own

    def test_operation_that_takes_too_long_is_left_behind(self) -> None:
        """The caller goes on; so do others, whose threads are not those that wait."""
        stop = threading.Event()
        started = time.monotonic()
        try:
            with pytest.raises(LeftBehindError, match=r"no answer in 0\.1 s"):
                call_within(0.1, stop.wait)
            assert call_within(10, lambda: "done") == "done"
            assert time.monotonic() - started < 5
        finally:
            stop.set()

    def test_however_many_are_left_behind_the_next_is_called_at_once(self) -> None:
        """More than a run may have threads; each ends when its operation does."""
        before = threading.active_count()
        stop = threading.Event()
        try:
            for _ in range(LOAD_THREADS + 8):
                with pytest.raises(LeftBehindError):
                    call_within(0.0, stop.wait)
            assert call_within(10, lambda: "done") == "done"
        finally:
            stop.set()
        deadline = time.monotonic() + 20
        while threading.active_count() > before:
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def test_errors_of_every_kind_reach_the_caller(self) -> None:
        """A thread that ended with one and said nothing would be taken for one that hangs."""

        def leave() -> None:
            raise SystemExit(3)

        with pytest.raises(SystemExit):
            call_within(10, leave)
