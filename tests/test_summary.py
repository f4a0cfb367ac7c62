"""What is printed when a run is over, to the letter."""

import shlex
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.run_records import RunResult
from pipeline.summary import summary
from transforms.errors import ExitCode
from transforms.layout import RunLayout
from transforms.ledger import Ledger
from transforms.outcomes import Outcome

LEDGER = Ledger(listed=205, duplicates=1, unique=204, scored=200, failed=4, skipped=0)
COUNTS = {"read_ms": 1499, "decode_ms": 12_340, "model_ms": 60_000, "write_ms": 40, "scored_images": 200}


def result(
    exit_code: ExitCode = ExitCode.PUBLISHED,
    message: str = "run n1 is published in /out",
    codes: dict[str, int] | None = None,
    output: str = "/out",
    adopted: int = 0,
    seconds: float = 51.0,
    found: str | None = None,
) -> RunResult:
    """Return a run's result."""
    outcome = Outcome(exit_code, message, LEDGER, codes or {})
    return RunResult(RunLayout(output, "n1"), outcome, found, adopted, 4.26, seconds, COUNTS)


def test_published_run_is_summed_up() -> None:
    """Ledger, reasons, time, places and a query."""
    assert summary(result(codes={"empty_file": 3, "not_found": 1})) == "\n".join(
        [
            "run n1 is published in /out",
            "  listed    205 = 204 unique + 1 duplicates",
            "  unique    204 = 200 scored + 4 failed + 0 skipped",
            "  failures  3 empty_file, 1 not_found",
            "  time      4.3 s start-up, 51.0 s for 204 images: 4.0 images/s",
            "  spent in  read 1.5 s, decode 12.3 s, model 60.0 s, write 0.0 s (summed over threads, they overlap)",
            "  scores    /out/scores/run_id=n1",
            "  failures  /out/failures/run_id=n1",
            "  manifest  /out/runs/n1/manifest.json",
            "  ask       duckdb -c 'SELECT predicted_label, count(*) AS images, avg(predicted_probability) "
            'AS confidence FROM "/out/scores/run_id=n1/*.parquet" GROUP BY ALL ORDER BY images DESC LIMIT 10\'',
        ]
    )


def test_refused_run_names_no_places() -> None:
    """Nothing lies there."""
    message = "4 of 204 images failed (1.96%), limits.max_failure_rate allows 1.00%: 4 not_found"
    assert summary(result(ExitCode.TOO_MANY_FAILURES, message, {"not_found": 4})) == "\n".join(
        [
            message,
            "  listed    205 = 204 unique + 1 duplicates",
            "  unique    204 = 200 scored + 4 failed + 0 skipped",
            "  failures  4 not_found",
            "  time      4.3 s start-up, 51.0 s for 204 images: 4.0 images/s",
            "  spent in  read 1.5 s, decode 12.3 s, model 60.0 s, write 0.0 s (summed over threads, they overlap)",
        ]
    )


def test_resumed_run_counts_only_its_own_images() -> None:
    """What an earlier attempt has scored took none of this one's time."""
    lines = summary(result(adopted=102)).splitlines()
    assert lines[3] == "  resumed   102 of the scored images come from an earlier attempt"
    assert lines[4] == "  time      4.3 s start-up, 51.0 s for 102 images: 2.0 images/s"


def test_delta_says_which_run_it_follows() -> None:
    """What it has skipped took none of its time."""
    outcome = Outcome(ExitCode.PUBLISHED, "done", Ledger(205, 1, 204, 5, 4, 195), {})
    lines = summary(result()._replace(outcome=outcome, since="n0")).splitlines()
    assert lines[2] == "  unique    204 = 5 scored + 4 failed + 195 skipped"
    assert lines[3] == "  skipped   195 are as run n0, or one that it relies on, has scored them"
    assert lines[4] == "  time      4.3 s start-up, 51.0 s for 9 images: 0.2 images/s"


def test_a_challenger_has_its_own_time() -> None:
    """What a second model costs is seen beside the first one's."""
    ledger = Ledger(205, 1, 204, 200, 4, 0, challenger_scored=199, challenger_failed=1)
    outcome = Outcome(ExitCode.PUBLISHED, "done", ledger, {}, challenger_failures_by_code={"model_error": 1})
    counts = {**COUNTS, "challenge_model_ms": 70_000}
    lines = summary(result()._replace(outcome=outcome, counts=counts)).splitlines()
    assert "  challenger  of 200: 199 scored + 1 failed (1 model_error)" in lines
    spent = "read 1.5 s, decode 12.3 s, model 60.0 s, write 0.0 s, challenger 70.0 s"
    assert f"  spent in  {spent} (summed over threads, they overlap)" in lines


def test_run_that_took_no_time_has_no_rate() -> None:
    """And no division by zero."""
    assert "51.0" not in summary(result(seconds=0.0))
    assert "0.0 s for 204 images: 0.0 images/s" in summary(result(seconds=0.0))


def test_run_that_was_found_is_one_line() -> None:
    """Nothing was done, nothing is summed up."""
    assert summary(result(found="why nothing was done")) == "why nothing was done"


def test_names_cannot_write_lines_of_a_summary() -> None:
    """Nor clear the screen above it; secrets of an address are left out."""
    message = "run n1 is published in /out\n  failures  none\x1b[2J"
    lines = summary(result(message=message, output="/o\x1b[2J\nut")).splitlines()
    assert lines[:2] == ["run n1 is published in /out", "  failures  none\\x1b[2J"]
    assert lines[6] == "  scores    /o\\x1b[2J\\nut/scores/run_id=n1"
    assert len(lines) == 10
    assert summary(result(found="found in https://me:pw@host/x?sig=1\x07")) == "found in https://***@host/x?***"


@pytest.mark.parametrize("name", ["plain", "a b", "it's", 'q"q', "[1]", "st*r", "wh?t", "$HOME`x`!", "50%", "ñ🍏"])
def test_query_can_be_pasted(tmp_path: Path, name: str) -> None:
    """Into a shell, which hands DuckDB one argument, which reads this run and no other."""
    layout = RunLayout(str(tmp_path / name), "n1")
    table = pa.table({"predicted_label": ["cat", "dog", "dog"], "predicted_probability": [0.5, 0.25, 0.75]})
    Path(layout.published_table("scores")).mkdir(parents=True)
    pq.write_table(table, layout.part("scores", 0, 1))
    line = summary(result(output=str(tmp_path / name))).splitlines()[-1]
    words = shlex.split(line.removeprefix("  ask "))
    assert words[:2] == ["duckdb", "-c"]
    assert duckdb.sql(words[2]).fetchall() == [("dog", 2, 0.5), ("cat", 1, 0.5)]
    assert len(words) == 3
