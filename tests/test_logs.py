"""The log as JSON: one valid object a line, whatever is logged, redacted as the plain log is."""

import json
import logging
import subprocess
import sys
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import logs
from pipeline.logs import JsonFormatter, PlainFormatter, find_form
from pipeline.progress import ShowProgress
from tests.model_zoo import pooled_model
from tests.runs import make_photos, small_config, write_config

ROOT = Path(__file__).parent.parent
RECORD = {"time", "level", "logger", "message"}


def record_of(name: str, message: str, *args: object, error: Exception | None = None) -> logging.LogRecord:
    """A record of a logger."""
    about = (type(error), error, error.__traceback__) if error is not None else None
    return logging.getLogger(name).makeRecord(name, logging.WARNING, __file__, 1, message, args, about)


def json_of(record: logging.LogRecord, run_id: str | None = None) -> dict[str, Any]:
    """What a collector of logs reads."""
    formatter = JsonFormatter()
    formatter.run_id = run_id
    line = formatter.format(record)
    assert line.isascii()
    assert "\n" not in line
    return dict(json.loads(line))


def command(*arguments: object) -> tuple[int, list[dict[str, Any]], str]:
    """Run the command: exit code, what is on standard error, and standard output."""
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", *map(str, arguments)], capture_output=True, text=True, cwd=ROOT
    )
    return done.returncode, [json.loads(line) for line in done.stderr.splitlines()], done.stdout


@pytest.mark.parametrize(
    ("arguments", "form"),
    [
        ([], "text"),
        (["run"], "text"),
        (["--log-format", "json", "run"], "json"),
        (["run", "--log-format=json"], "json"),
        (["run", "--log-format", "json", "--log-format", "text"], "text"),
        (["run", "--", "--log-format=json"], "text"),  # Beam's
        (["run", "--log-format"], "text"),
        (["run", "--log-format", "xml"], "text"),
    ],
)
def test_the_form_is_known_before_arguments_are_parsed(arguments: list[str], form: str) -> None:
    """So that errors of parsing have it, too."""
    assert find_form(arguments) == form


@given(st.sampled_from(["transforms.x", "apache_beam.x"]), st.text(st.characters(), max_size=50), st.text(max_size=20))
def test_any_record_is_one_valid_line_that_says_what_the_plain_log_says(name: str, text: str, run_id: str) -> None:
    """Lone surrogates, line ends, escapes, quotes."""
    record = record_of(name, "%s", text + "\ud800\udfff\udcff")
    said = json_of(record, run_id)
    assert said["message"] == PlainFormatter("%(message)s").format(record)
    json.dumps(said, ensure_ascii=False).encode()  # no surrogate is left
    assert set(said) == {*RECORD, "run_id"}


def test_fields_of_a_record_have_their_types() -> None:
    """The time is RFC 3339 in UTC; numbers are numbers; there is no run without one."""
    record = record_of("pipeline.x", "at %d", 3)
    record.created = datetime(2026, 11, 22, 2, 15, 7, 412_000, UTC).timestamp()
    record.fields = {"listed": 3, "rate": 1.5}
    assert json_of(record) == {
        "time": "2026-11-22T02:15:07.412Z", "level": "WARNING", "logger": "pipeline.x", "message": "at 3", "listed": 3,
        "rate": 1.5,
    }  # fmt: skip


def test_secrets_are_left_out_of_messages_and_tracebacks() -> None:
    """As they are from the plain log."""
    said = json_of(record_of("x", "read https://me:pw@h/?sig=1", error=OSError("https://me:pw@h/?sig=1\nERROR no")))
    assert said["message"] == "read https://***@h/?***"
    assert said["exception"] == "OSError: https://***@h/?***\n  ERROR no"


def test_progress_has_numbers(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """A dashboard needs no pattern for a text."""
    monkeypatch.setattr("pipeline.progress._LOG_SECONDS", 0.01)
    with caplog.at_level(logging.INFO), ShowProgress(lambda: {"listed_images": 8, "load_failed_images": 1}):
        while not caplog.records:
            pass
    said = json_of(caplog.records[0])
    numbers = {"listed": 8, "skipped": 0, "scored": 0, "failed": 1, "images_per_second": 0.0, "seconds_left": None}
    assert {key: said[key] for key in numbers} == numbers


def test_what_goes_wrong_before_a_run_is_json() -> None:
    """A typo in the command line, and one in a file's name."""
    code, said, out = command("--log-format", "json", "run", "--confg", "x")
    assert (code, out) == (2, "")
    assert [entry["message"] for entry in said] == ["the following arguments are required: --config, --input, --output"]
    code, said, _ = command("run", "--config", "gone\n.yaml", "--input", "i", "--output", "o", "--log-format", "json",
                            "--run-id", "n1")  # fmt: skip
    (entry,) = said
    assert (code, entry["exit_code"], entry["level"], entry["run_id"]) == (2, 2, "ERROR", "n1")
    assert entry["message"] == "config gone\\n.yaml cannot be read: No such file or directory"


def test_crashes_and_warnings_are_json() -> None:
    """What nobody foresaw, and what Python itself would print."""
    program = (
        "import sys, warnings; from pipeline import cli, logs\n"
        "logs.log_to_stderr('json'); logs.name_run('n1')\n"
        "def main(): warnings.warn('old\\nthing'); raise OSError('no https://me:pw@h/')\n"
        "cli.main = main\n"
        "cli.entry_point()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1
    warned, crashed = map(json.loads, done.stderr.splitlines())
    assert (warned["logger"], warned["level"]) == ("py.warnings", "WARNING")
    assert (crashed["message"], crashed["level"], crashed["run_id"]) == ("a crash: OSError", "CRITICAL", "n1")
    assert crashed["exception"].startswith("Traceback (most recent call last):\n  ")
    assert crashed["exception"].endswith("OSError: no https://***@h/")


def test_a_whole_run_is_json_and_so_is_its_summary(tmp_path: Path) -> None:
    """Names that are no text among the images; the run's id in every record; one object on standard output."""
    make_photos(tmp_path / "photos", 3)
    Path(f"{tmp_path}/photos/bad\udcff\n.jpg").write_text("no picture")
    write_config(small_config(pooled_model(tmp_path / "model"), limits={"max_failure_rate": 0.5}), tmp_path / "c.yaml")
    code, said, out = command(
        "run", "--config", tmp_path / "c.yaml", "--input", tmp_path / "photos", "--output", tmp_path / "out",
        "--run-id", "n1", "--log-format", "json"
    )  # fmt: skip
    assert code == 0
    assert len(said) > 3
    assert all(set(entry) == {*RECORD, "run_id"} and entry["run_id"] == "n1" for entry in said)
    (line,) = out.splitlines()
    outcome = json.loads(line)
    assert (outcome["run_id"], outcome["exit_code"], outcome["found"]) == ("n1", 0, False)
    assert outcome["ledger"] == {"listed": 4, "duplicates": 0, "unique": 4, "scored": 3, "failed": 1, "skipped": 0}
    assert sum(outcome["failures_by_code"].values()) == 1
    assert Path(outcome["manifest"]).is_file()


def test_a_process_that_logs_already_is_left_as_it_is() -> None:
    """Who calls main() in a program of their own keeps their handlers."""
    before = list(logging.getLogger().handlers)
    assert before
    with warnings.catch_warnings():
        logs.log_to_stderr("text")
    assert logging.getLogger().handlers == before
    assert not logs.is_json()
