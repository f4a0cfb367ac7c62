"""How far a local run is: a bar on a terminal, else one log line a minute."""

import logging
import sys
import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

_LOG = logging.getLogger(__name__)
_BAR_SECONDS = 0.5
_LOG_SECONDS = 60.0
# The rate is that of the last minute: the first batches wait for threads to start, and nights change their pace.
_WINDOW_SECONDS = 60.0

Counts = Mapping[str, int]


def progress_line(counts: Counts, adopted: int, rate: float) -> str:
    """Say how far a run is.

    Args:
        counts: `<verb>_<unit>` sums of this process.
        adopted: Images scored by an earlier attempt.
        rate: Images a second, lately; 0 where it is not known.

    >>> progress_line({"listed_images": 200, "scored_images": 90, "load_failed_images": 10}, 0, 50.0)
    'listed 200, scored 90, failed 10, 50.0 images/s, 2 s left'
    """
    listed = counts.get("listed_images", 0)
    skipped = counts.get("skipped_images", 0)
    scored = counts.get("scored_images", 0) + adopted
    failed = failed_images(counts)
    line = f"listed {listed}, " + (f"skipped {skipped}, " if skipped else "") + f"scored {scored}, failed {failed}"
    if rate <= 0:
        return line
    return f"{line}, {rate:.1f} images/s, {_duration(max(listed - skipped - scored - failed, 0) / rate)} left"


def failed_images(counts: Counts) -> int:
    """Return how many images have failed so far."""
    return sum(counts.get(f"{verb}_failed_images", 0) for verb in ("list", "load", "score"))


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


class ShowProgress:
    """Shows the counts of this process while a block runs.

    Args:
        counts: Returns the sums so far.
        adopted: Images scored by an earlier attempt.
        console: Where the bar goes; a console that is no terminal gets log lines.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        counts: Callable[[], Counts],
        adopted: int = 0,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._counts = counts
        self._adopted = adopted
        self._console = console or Console(file=sys.stderr)
        self._clock = clock
        self._stop = threading.Event()
        self._history: list[tuple[float, int]] = []
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
        if self._console.is_terminal:
            self._bar()
            return
        while not self._stop.wait(_LOG_SECONDS):
            _LOG.info("%s", self.line())

    def line(self) -> str:
        """Return the line of this moment."""
        counts = self._counts()
        return progress_line(counts, self._adopted, self._rate(counts))

    def _rate(self, counts: Counts) -> float:
        done = counts.get("scored_images", 0) + failed_images(counts)
        now = self._clock()
        if not done:
            return 0.0
        self._history.append((now, done))
        # The newest entry of a window ago or more is kept: log lines are a minute apart, too.
        while len(self._history) > 1 and now - self._history[1][0] >= _WINDOW_SECONDS:
            del self._history[0]
        then, before = self._history[0]
        return (done - before) / (now - then) if now > then else 0.0

    def _bar(self) -> None:
        columns = (BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        with Progress(*columns, console=self._console, transient=True) as bar:
            task = bar.add_task("starting", total=None)
            while not self._stop.wait(_BAR_SECONDS):
                counts = self._counts()
                done = sum(counts.get(f"{verb}_images", 0) for verb in ("scored", "skipped"))
                done += failed_images(counts) + self._adopted
                listed = counts.get("listed_images", 0)
                line = progress_line(counts, self._adopted, self._rate(counts))
                # Duplicates are listed and never scored, so the bar may end a little early; it never overshoots.
                bar.update(task, completed=done, total=max(listed, done) or None, description=line)
