"""How long an image may take: what it is doing and since when, and whose it is once that is too long.

A thread that hangs in native code, or on a network disk that is gone, cannot be stopped. So it is watched by another:
an image that is over its time is given up, and its thread, should it ever come back, throws away what it has.
"""

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from transforms.errors import FailureCode, ImageError, Stage
from transforms.records import ImageRef
from transforms.settings import DecodeSettings, LoadSettings

START_SECONDS = 60.0
"""In this time a worker process of the quarantine is ready, or the run stops."""
# The read ends itself in time where it can, and knows better what went wrong: it is given up only after that. Where it
# may take less than this, no longer than it may take.
_READ_GRACE = 5.0


@dataclass(frozen=True)
class Deadlines:
    """The time that the stages of an image may take."""

    decode: DecodeSettings
    """timeout_seconds, and whether worker processes see to it."""
    load: LoadSettings
    """read_timeout_seconds."""

    def allowed(self, stage: Stage) -> float:
        """Return after how many seconds in a stage an image is given up."""
        if stage is Stage.READ:
            return self.load.read_timeout_seconds + min(_READ_GRACE, self.load.read_timeout_seconds)
        # A worker process starts in this time, too, and the thread that waits for one that is over its time kills it.
        return self.decode.timeout_seconds + (START_SECONDS + _READ_GRACE if self.decode.quarantine else 0.0)

    def error(self, stage: Stage) -> ImageError:
        """Say that an image has taken too long."""
        if stage is Stage.READ:
            return ImageError(
                FailureCode.READ_TIMEOUT,
                f"reading did not end within the {self.load.read_timeout_seconds:g} s that load.read_timeout_seconds "
                "allows: look at the storage, or raise it",
            )
        return ImageError(
            FailureCode.DECODE_TIMEOUT,
            f"decoding and resizing did not end within the {self.decode.timeout_seconds:g} s that "
            "decode.timeout_seconds allows: look at the image, or raise it",
        )


class GivenUp(Exception):  # noqa: N818  it is no error, and reaches nobody but the thread of the image
    """Raised in the thread of an image that was given up: what it has is nobody's."""


class Progress:
    """What one image is doing and since when: told by its thread, watched by another.

    Reading and decoding may take so long; waiting, for a thread or for memory, is no work and has no limit. An image is
    given up while it is read or decoded, or not at all: a lock puts giving up before or after the end of the stage. So
    an image is given up, or goes on, and never both.

    Args:
        ref: The image.
        deadlines: How long it may take.
        clock: In seconds, always forward.
    """

    def __init__(self, ref: ImageRef, deadlines: Deadlines, clock: Callable[[], float]) -> None:
        self.ref = ref
        """With size and version once it is read."""
        self.stage: Stage | None = None
        """READ or DECODE; None while it waits. That of giving up, once it was given up."""
        self.held = 0
        """Bytes of the budget that the stage holds."""
        self.given_up = False
        """Somebody has made a failure of it."""
        self.spent = {Stage.READ: 0.0, Stage.DECODE: 0.0}
        """Seconds in each stage."""
        self.thread = threading.current_thread()
        """Whose the image is."""
        self._deadlines = deadlines
        self._clock = clock
        self._since = 0.0
        self._lock = threading.Lock()

    def at(self, stage: Stage, held: int = 0) -> Self:
        """Be in a stage while the block of a `with` lasts.

        Args:
            stage: READ or DECODE.
            held: Bytes of the budget that are held meanwhile.

        Raises:
            GivenUp: At the end: it took too long, and somebody has noticed.
            ImageError: At the end: it took too long, and nobody was looking; the rule is the same.
        """
        with self._lock:
            self.stage, self.held, self._since = stage, held, self._clock()
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._lock:
            stage = self.stage
            if self.given_up or stage is None:
                raise GivenUp
            spent = self.spent[stage] = self._clock() - self._since
            self.stage = None
        if kind is None and spent > self._deadlines.allowed(stage):
            raise self._deadlines.error(stage)

    def ends_at(self) -> float:
        """Return when it will be over its time if it goes on with what it does; never, while it waits."""
        with self._lock:
            return math.inf if self.stage is None else self._since + self._deadlines.allowed(self.stage)

    def give_up(self, now: float) -> ImageError | None:
        """Take the image from its thread if it is over its time; return why, or None where it is not."""
        with self._lock:
            if self.stage is None or self.given_up or now - self._since <= self._deadlines.allowed(self.stage):
                return None
            self.given_up = True
            self.spent[self.stage] = now - self._since
            return self._deadlines.error(self.stage)
