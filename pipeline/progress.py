"""How far a local run is: a live view on a terminal, else one log line a minute, whose numbers are fields of JSON."""

import logging
import sys
import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import NamedTuple, Self

from rich.console import Console
from rich.live import Live

from pipeline import logs
from pipeline.live_view import Look, draw, duration
from transforms.errors import FailureCode
from transforms.layout import RunLayout

_LOG = logging.getLogger(__name__)
_VIEW_SECONDS = 0.25
_LOG_SECONDS = 60.0
# The rate is that of the last minute: the first batches wait for threads to start, and nights change their pace.
_WINDOW_SECONDS = 60.0
_STEPS = ("read", "decode", "model", "write")

Counts = Mapping[str, int]


class _Moment(NamedTuple):
    """What had been done at a time."""

    at: float
    """Of the clock."""
    done: int
    """Images scored or failed."""
    spent_ms: dict[str, int]
    """Time of threads by step."""


def look_at(
    counts: Counts, adopted: int, rate: float, spent_ms: Mapping[str, int] | None = None, seconds: float = 0.0
) -> Look:
    """Return how far a run is.

    Args:
        counts: `<verb>_<unit>` sums of this process.
        adopted: Images scored by an earlier attempt.
        rate: Images a second, lately; 0 where it is not known.
        spent_ms: Time of threads lately, by step.
        seconds: Since the run began.
    """
    listed, skipped = counts.get("listed_images", 0), counts.get("skipped_images", 0)
    scored, failed = counts.get("scored_images", 0) + adopted, failed_images(counts)
    codes = {code.value: counts.get(f"failed_{code.value}_images", 0) for code in FailureCode}
    spent = sum((spent_ms or {}).values())
    return Look(
        listed=listed,
        skipped=skipped,
        scored=scored,
        failed=failed,
        rate=rate,
        seconds_left=max(listed - skipped - scored - failed, 0) / rate if rate > 0 else None,
        codes={code: count for code, count in sorted(codes.items(), key=lambda item: -item[1]) if count},
        shares={step: ms / spent for step, ms in (spent_ms or {}).items()} if spent else {},
        seconds=seconds,
    )


def progress_line(look: Look) -> str:
    """Say how far a run is in one line.

    >>> progress_line(look_at({"listed_images": 200, "scored_images": 90, "load_failed_images": 10}, 0, 50.0))
    'listed 200, scored 90, failed 10, 50.0 images/s, 2 s left'
    """
    skipped = f"skipped {look.skipped}, " if look.skipped else ""
    line = f"listed {look.listed}, {skipped}scored {look.scored}, failed {look.failed}"
    if look.seconds_left is None:
        return line
    return f"{line}, {look.rate:.1f} images/s, {duration(look.seconds_left)} left"


def progress_fields(look: Look) -> dict[str, int | float | None]:
    """Return the numbers of a line, for programs."""
    return {
        "listed": look.listed,
        "skipped": look.skipped,
        "scored": look.scored,
        "failed": look.failed,
        "images_per_second": round(look.rate, 3),
        "seconds_left": None if look.seconds_left is None else round(look.seconds_left),
    }


def failed_images(counts: Counts) -> int:
    """Return how many images have failed so far."""
    return sum(counts.get(f"{verb}_failed_images", 0) for verb in ("list", "load", "score"))


class ShowProgress:
    """Shows the counts of this process while a block runs.

    Args:
        counts: Returns the sums so far.
        adopted: Images scored by an earlier attempt.
        layout: The run, whose name stands above the view.
        console: Where the view goes; a console that is no terminal gets log lines.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        counts: Callable[[], Counts],
        adopted: int = 0,
        layout: RunLayout | None = None,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._counts = counts
        self._adopted = adopted
        self._layout = layout
        self._console = console or Console(file=sys.stderr)
        self._clock = clock
        self._started = clock()
        self._stop = threading.Event()
        self._history: list[_Moment] = []
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        if self._console.is_terminal and not self._console.is_dumb_terminal and not logs.is_json():
            self._view()
            return
        while not self._stop.wait(_LOG_SECONDS):
            look = self.look()
            _LOG.info("%s", progress_line(look), extra={"fields": progress_fields(look)})

    def _view(self) -> None:
        # What is logged meanwhile appears above the view.
        with Live(console=self._console, transient=True, auto_refresh=False, redirect_stdout=False) as live:
            while True:
                live.update(draw(self.look(), self._layout), refresh=True)
                if self._stop.wait(_VIEW_SECONDS):
                    return

    def line(self) -> str:
        """Return the line of this moment."""
        return progress_line(self.look())

    def look(self) -> Look:
        """Return how far the run is at this moment."""
        counts = self._counts()
        now = self._clock()
        done = counts.get("scored_images", 0) + failed_images(counts)
        spent = {step: counts.get(f"{step}_ms", 0) for step in _STEPS}
        seconds = now - self._started
        if not done:
            return look_at(counts, self._adopted, 0.0, spent, seconds)
        self._history.append(_Moment(now, done, spent))
        # The newest entry of a window ago or more is kept: log lines are a minute apart, too.
        while len(self._history) > 1 and now - self._history[1].at >= _WINDOW_SECONDS:
            del self._history[0]
        then = self._history[0]
        rate = (done - then.done) / (now - then.at) if now > then.at else 0.0
        lately = {step: spent[step] - then.spent_ms[step] for step in _STEPS}
        return look_at(counts, self._adopted, rate, lately if sum(lately.values()) else spent, seconds)
