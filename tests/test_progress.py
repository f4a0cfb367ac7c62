"""How far a run is: the line, the rate, the time left; the view and the log."""

import io
import logging
import threading
import time
from collections import Counter
from itertools import pairwise

import pytest
from rich.console import Console
from rich.text import Text

from pipeline import progress
from pipeline.live_view import duration
from pipeline.progress import ShowProgress, failed_images, look_at, progress_line


class Clock:
    """A clock that is set."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def console(terminal: bool) -> Console:
    """Return a console that writes into memory."""
    return Console(file=io.StringIO(), force_terminal=terminal, width=120)


@pytest.mark.parametrize(
    ("counts", "adopted", "rate", "line"),
    [
        ({}, 0, 0.0, "listed 0, scored 0, failed 0"),  # nothing is known yet
        ({"listed_images": 5}, 0, 0.0, "listed 5, scored 0, failed 0"),
        (
            {"listed_images": 200, "scored_images": 90, "load_failed_images": 8, "score_failed_images": 2},
            0,
            50.0,
            "listed 200, scored 90, failed 10, 50.0 images/s, 2 s left",
        ),
        (
            {"listed_images": 200, "scored_images": 50},
            100,
            0.25,
            "listed 200, scored 150, failed 0, 0.2 images/s, 3 min 20 s left",
        ),
        (
            {"listed_images": 200, "skipped_images": 150, "scored_images": 40},
            0,
            5.0,
            "listed 200, skipped 150, scored 40, failed 0, 5.0 images/s, 2 s left",
        ),
        ({"listed_images": 10, "scored_images": 12}, 0, 3.0, "listed 10, scored 12, failed 0, 3.0 images/s, 0 s left"),
    ],
)  # fmt: skip
def test_line_says_how_far_a_run_is(counts: dict[str, int], adopted: int, rate: float, line: str) -> None:
    """Listed, scored with what was adopted, failed anywhere, and the time that is left."""
    assert progress_line(look_at(counts, adopted, rate)) == line


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"), (0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (61, "1 min 01 s"), (3599.7, "1 h 00 min"),
        (3600, "1 h 00 min"), (86_400 + 120, "24 h 02 min"),
    ],
)  # fmt: skip
def test_durations_read_well(seconds: float, text: str) -> None:
    """Never 60 s, never 60 min."""
    assert duration(seconds) == text


def test_failures_of_every_step_count() -> None:
    """Loading and scoring."""
    assert failed_images({"load_failed_images": 2, "score_failed_images": 3, "scored_images": 9}) == 5


class TestRate:
    def test_rate_is_that_of_the_last_minute(self) -> None:
        """A slow start is forgotten, a change of pace is seen."""
        clock, counts = Clock(), Counter({"listed_images": 10_000})
        show = ShowProgress(lambda: counts, console=console(False), clock=clock)
        assert "images/s" not in show.line()
        counts["scored_images"] = 10
        assert "images/s" not in show.line()  # one moment is no rate
        for _ in range(20):  # 1 image/s for 100 s
            clock.now += 5
            counts["scored_images"] += 5
            show.line()
        assert ", 1.0 images/s, " in show.line()
        for _ in range(12):  # 10 images/s for 60 s
            clock.now += 5
            counts["scored_images"] += 50
            show.line()
        assert ", 10.0 images/s, " in show.line()

    @pytest.mark.parametrize("pause", [60.0, 60.01, 300.0])
    def test_lines_a_minute_apart_have_a_rate(self, pause: float) -> None:
        """The log is written once a minute: a window of one minute must not be empty."""
        clock, counts = Clock(), Counter({"listed_images": 100_000})
        show = ShowProgress(lambda: counts, console=console(False), clock=clock)
        for number in range(4):
            clock.now += pause
            counts["scored_images"] += round(7 * pause)
            assert (", 7.0 images/s, " in show.line()) == (number > 0)

    def test_history_stays_short(self) -> None:
        """A night of half-second looks is not kept."""
        clock, counts = Clock(), Counter({"scored_images": 1})
        show = ShowProgress(lambda: counts, console=console(False), clock=clock)
        for _ in range(2000):
            clock.now += 0.5
            show.line()
        assert len(show._history) <= 122
        assert all(earlier.at < later.at for earlier, later in pairwise(show._history))


class TestShowing:
    def test_terminal_gets_a_view(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """It moves, shows the counts, and is gone at the end."""
        monkeypatch.setattr(progress, "_VIEW_SECONDS", 0.01)
        seen = threading.Event()

        def counts() -> dict[str, int]:
            seen.set()
            return {"listed_images": 8, "scored_images": 4}

        screen = console(True)
        with ShowProgress(counts, console=screen):
            assert seen.wait(10)
        text = screen.file.getvalue()  # type: ignore[attr-defined]
        assert "4 scored, 0 failed, 0 skipped of 8 listed" in Text.from_ansi(text).plain
        assert text.rstrip().endswith("\x1b[2K")  # the line is wiped

    def test_log_gets_lines(self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
        """Where there is no terminal: one INFO line a minute, and nothing on the console."""
        assert progress._LOG_SECONDS == 60
        monkeypatch.setattr(progress, "_LOG_SECONDS", 0.01)
        screen = console(False)
        with caplog.at_level(logging.INFO), ShowProgress(lambda: {"listed_images": 8}, adopted=3, console=screen):
            deadline = time.monotonic() + 10
            while not caplog.records and time.monotonic() < deadline:
                time.sleep(0.005)
        assert caplog.records[0].getMessage() == "listed 8, scored 3, failed 0"
        assert screen.file.getvalue() == ""  # type: ignore[attr-defined]

    def test_it_ends_with_the_block_at_once(self) -> None:
        """After an error too: the error goes on, the thread does not."""
        started = time.monotonic()
        show = ShowProgress(dict, console=console(False))
        with pytest.raises(ZeroDivisionError), show:
            raise ZeroDivisionError
        assert not show._thread.is_alive()
        assert time.monotonic() - started < 5
