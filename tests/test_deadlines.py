"""Deadlines: who may take how long, what is said of it, and that an image goes on or is given up, never both."""

import math
import threading
import time

import pytest

from transforms.deadlines import START_SECONDS, Deadlines, GivenUp, Progress
from transforms.errors import FailureCode, ImageError, Stage
from transforms.records import ImageRef
from transforms.settings import DecodeSettings, LoadSettings

REF = ImageRef("x.png", None, None)
READ_TEXT = (
    "reading did not end within the 20 s that load.read_timeout_seconds allows: look at the storage, or raise it"
)
DECODE_TEXT = (
    "decoding and resizing did not end within the 10.5 s that decode.timeout_seconds allows: look at the image, or "
    "raise it"
)


class Clock:
    """A clock that goes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def deadlines(*, quarantine: bool = False) -> Deadlines:
    """Return deadlines of 20 seconds for the read and 10.5 for decoding."""
    return Deadlines(DecodeSettings(timeout_seconds=10.5, quarantine=quarantine), LoadSettings(read_timeout_seconds=20))


def test_time_is_that_of_the_settings_and_a_grace_for_who_ends_by_himself() -> None:
    """The read and a worker process know better what went wrong, and are given up only where that fails."""
    assert deadlines().allowed(Stage.READ) == 25
    assert deadlines().allowed(Stage.DECODE) == 10.5
    assert deadlines(quarantine=True).allowed(Stage.DECODE) == 10.5 + START_SECONDS + 5


def test_grace_is_no_longer_than_the_read_may_take() -> None:
    """Who allows half a second does not wait for six."""
    for allowed, given_up in ((0.5, 1.0), (5.0, 10.0), (6.0, 11.0)):
        limits = Deadlines(DecodeSettings(), LoadSettings(read_timeout_seconds=allowed))
        assert limits.allowed(Stage.READ) == given_up


@pytest.mark.parametrize(
    ("stage", "seconds", "code", "message"),
    [
        (Stage.READ, 25.0, FailureCode.READ_TIMEOUT, READ_TEXT),
        (Stage.DECODE, 10.5, FailureCode.DECODE_TIMEOUT, DECODE_TEXT),
    ],
)
class TestStage:
    def test_image_over_its_time_is_given_up_once(
        self, stage: Stage, seconds: float, code: FailureCode, message: str
    ) -> None:
        """Not at its last moment, but after it; with seconds and setting; its thread learns of it when it is back."""
        clock = Clock()
        progress = Progress(REF, deadlines(), clock)
        with pytest.raises(GivenUp), progress.at(stage, held=7):
            assert progress.ends_at() == 1000 + seconds
            assert progress.give_up(1000 + seconds) is None
            error = progress.give_up(1000.5 + seconds)
            assert error is not None
            assert (error.code, error.message) == (code, message)
            assert progress.give_up(2000) is None
            clock.now = 3000
        assert progress.given_up
        assert (progress.stage, progress.held, progress.spent[stage]) == (stage, 7, seconds + 0.5)

    def test_image_that_nobody_watches_fails_by_the_same_rule(
        self, stage: Stage, seconds: float, code: FailureCode, message: str
    ) -> None:
        """Whether an image is scored must not hang on whether somebody was looking."""
        clock = Clock()
        progress = Progress(REF, deadlines(), clock)
        with progress.at(stage):
            clock.now += seconds
        with pytest.raises(ImageError) as raised, progress.at(stage):
            clock.now += seconds + 0.5
        assert (raised.value.code, raised.value.message) == (code, message)

    def test_reason_of_its_own_is_kept(self, stage: Stage, seconds: float, code: FailureCode, message: str) -> None:
        """An image that is found to be bad late is bad."""
        clock = Clock()
        progress = Progress(REF, deadlines(), clock)
        with pytest.raises(ImageError, match="no picture"), progress.at(stage):
            clock.now += seconds + 1
            raise ImageError(FailureCode.CORRUPT_IMAGE, "no picture")
        assert progress.stage is None
        assert str(deadlines().error(stage)) == f"{code}: {message}"


def test_waiting_has_no_end() -> None:
    """For a thread or for memory: before, between and after the stages."""
    progress = Progress(REF, deadlines(), Clock())
    assert progress.ends_at() == math.inf
    assert progress.give_up(math.inf) is None
    with progress.at(Stage.READ):
        pass
    assert progress.ends_at() == math.inf
    assert progress.give_up(math.inf) is None


def test_image_that_ends_as_it_is_given_up_is_one_or_the_other() -> None:
    """Threads that leave a stage in the very moment in which another one gives them up: exactly one of them has it."""
    limits = Deadlines(DecodeSettings(timeout_seconds=0.0005), LoadSettings())
    goes_on = given_up = 0
    for _ in range(300):
        progress = Progress(REF, limits, time.perf_counter)
        inside = threading.Event()
        ends: list[str] = []

        def decode(progress: Progress = progress, inside: threading.Event = inside, ends: list[str] = ends) -> None:
            try:
                with progress.at(Stage.DECODE):
                    inside.set()
                    time.sleep(0.0004)
                ends.append("goes on")
            except ImageError:
                ends.append("goes on")  # as a failure of its own
            except GivenUp:
                ends.append("given up")

        thread = threading.Thread(target=decode)
        thread.start()
        inside.wait(60)
        error = None
        while thread.is_alive() and error is None:
            error = progress.give_up(time.perf_counter())
        thread.join(60)
        assert ends == ["goes on" if error is None else "given up"]
        goes_on += error is None
        given_up += error is not None
    assert goes_on + given_up == 300
