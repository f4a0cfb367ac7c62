"""The command as users run it: exit codes, one clear line an error, and answers without delay."""

import json
import logging
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline import cli
from pipeline.broken_off import Interrupts
from pipeline.cli import main
from pipeline.logs import PlainFormatter
from tests.model_zoo import pooled_model
from tests.runs import make_photo, make_photos

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SavedModel of four classes."""
    return pooled_model(tmp_path_factory.mktemp("model") / "pooled")


@pytest.fixture
def config(model: Path, tmp_path: Path) -> Path:
    """A configuration file for it."""
    path = tmp_path / "config.yaml"
    path.write_text(
        f"model: {{path: {model}, output: logits, activation: softmax}}\n"
        "preprocess: {value_range: 0_1, resize: exact}\n"
        "results: {top_k: 2}\n"
    )
    return path


def command(*arguments: object, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "pipeline", *map(str, arguments)],
        capture_output=True, text=True, timeout=timeout, cwd=ROOT, check=False,
    )  # fmt: skip


def test_run_publishes_and_prints_a_summary(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 0; the ledger, the time, the places and a query stand on the standard output."""
    make_photos(tmp_path / "photos", 5)
    done = command("run", "--config", config, "--input", tmp_path / "photos", "--output", tmp_path / "out",
                   "--run-id", "night", "--", "--direct_num_workers=1")  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == f"run night is published in {tmp_path}/out"
    assert "  listed    5 = 5 unique + 0 duplicates" in lines
    assert "  unique    5 = 5 scored + 0 failed + 0 skipped" in lines
    query = re.search(r"duckdb -c '(.*)'", done.stdout)
    assert query is not None
    import duckdb

    assert sum(row[1] for row in duckdb.sql(query[1]).fetchall()) == 5
    again = ["run", "--config", config, "--input", tmp_path / "photos", "--output", tmp_path / "out"]
    assert main([*map(str, again), "--run-id", "night"]) == 0
    assert capsys.readouterr().out == (
        f"run night is already published in {tmp_path}/out: nothing was done\n"
        f"  report    {tmp_path}/out/runs/night/report.html\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "preproces.value_range=0_1"], "preproces is not a setting; did you mean preprocess?"),
        (["--set", "preprocess.crop_pct=1.2"], "crop_pct must be over 0 and at most 1, got 1.2"),
        (["--set", "results.top_k=9"], "results.top_k must be at most the number of classes, got 9 for 4 classes"),
        (["--set", "model.path=missing-model"], "missing-model"),
        (["--set", "labels.path=labels.txt"], "labels.txt"),
        (["--input", "nowhere/*.jpg"], "input nowhere/*.jpg matches nothing"),
        (["--run-id", "a b"], "run id 'a b' is not allowed"),
        (["--path-column", "file", "--input", "@list.csv"], "manifest @list.csv has no column file; it has image_path"),
    ],
)
def test_what_the_user_can_mend_is_one_line_and_exit_2(
    config: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    """No traceback, the value and the way out in the message, nothing written."""
    make_photos(tmp_path / "photos", 1)
    (tmp_path / "list.csv").write_text("image_path\nphotos/000.png\n")
    monkeypatch.chdir(tmp_path)
    code = main(["run", "--config", str(config), "--input", "photos", "--output", "out", *arguments])
    said = capsys.readouterr().err.strip().splitlines()
    assert code == 2
    assert message in said[-1]
    assert said[-1].startswith("score-images: ")
    assert not any("Traceback" in line for line in said)
    assert not (tmp_path / "out").exists()


def test_too_many_failures_is_exit_3(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The summary says so, and no table is made."""
    make_photos(tmp_path / "photos", 3)
    (tmp_path / "photos" / "bad.jpg").write_text("no picture")
    code = main(["run", "--config", str(config), "--input", str(tmp_path / "photos"), "--output",
                 str(tmp_path / "out"), "--set", "limits.max_failure_rate=0.01"])  # fmt: skip
    assert code == 3
    out = capsys.readouterr().out
    assert out.startswith("1 of 4 images failed (25.00%), limits.max_failure_rate allows 1.00%: 1 unsupported_format;")
    assert "  scores " not in out
    assert not (tmp_path / "out" / "scores").exists()


def test_publish_anyway_is_exit_0_and_says_in_spite_of_what(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The way out that the refusal names, taken."""
    make_photos(tmp_path / "photos", 3)
    (tmp_path / "photos" / "bad.jpg").write_text("no picture")
    arguments = ["run", "--config", str(config), "--input", str(tmp_path / "photos"), "--output",
                 str(tmp_path / "out"), "--run-id", "night"]  # fmt: skip
    assert main(arguments) == 3
    refused = capsys.readouterr().out
    assert "with --publish-anyway besides, the run is published in spite of its limits" in refused
    assert refused.splitlines()[-1] == f"  report    {tmp_path}/out/runs/night/refused_report.html"
    assert main([*arguments, "--publish-anyway"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == (
        f"run night is published in {tmp_path}/out in spite of its limits: 1 of 4 images failed (25.00%), "
        "limits.max_failure_rate allows 5.00%"
    )
    assert "  resumed   3 of the scored images come from an earlier attempt" in lines
    assert not (tmp_path / "out" / "runs" / "night" / "refused_report.html").exists()
    assert main(arguments) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"run night is already published in {tmp_path}/out: nothing was done",
        f"  report    {tmp_path}/out/runs/night/report.html",
    ]


def test_config_check_and_schema(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The schema is JSON Schema, the check names the file."""
    assert main(["config", "--schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert schema["required"] == ["model", "preprocess"]
    assert main(["config", "--check", str(config)]) == 0
    assert capsys.readouterr().out == f"{config} is valid\n"
    assert main(["config", "--check", str(config), "--set", "batch.size=0"]) == 2
    assert "batch.size must be 'auto' or at least 1, got 0" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--help"], ["config", "--schema"]])
def test_light_commands_import_no_heavy_package(arguments: list[str]) -> None:
    """The command line answers at once: neither TensorFlow nor Beam is loaded for it."""
    probe = (
        "import sys; from pipeline.cli import main\n"
        f"try: main({arguments!r})\n"
        "except SystemExit: pass\n"
        "heavy = {'tensorflow', 'apache_beam', 'keras'} & set(sys.modules)\n"
        "print(heavy, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stderr.strip() == "set()"


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_a_schedulers_stop_are_told_from_failures(stop: signal.Signals) -> None:
    """A runner makes the exception of an interrupt a text among others: the signal itself is remembered."""
    before = signal.getsignal(stop)
    with Interrupts() as interrupts:
        assert not interrupts.seen
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(stop)
        assert interrupts.seen
    assert signal.getsignal(stop) == before


def test_an_interrupted_run_exits_130_and_can_be_continued(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Stopped in the middle: nothing published, and the same command finishes the run."""
    for number in range(200):
        make_photo(tmp_path / "photos" / f"{number:04}.jpg", number, (250, 250))
    arguments = ["run", "--config", str(config), "--input", str(tmp_path / "photos"), "--output",
                 str(tmp_path / "out"), "--run-id", "night", "--set", "write.rows_per_file=8",
                 "--set", "load.threads=1"]  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT
    )
    staged = tmp_path / "out" / "runs" / "night" / "_staging" / "scores"
    deadline = time.monotonic() + 100
    while not list(staged.glob("*.parquet")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert b"interrupted" in errors
    assert b"--run-id night" in errors
    assert not (tmp_path / "out" / "scores").exists()

    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert "  unique    200 = 200 scored + 0 failed + 0 skipped" in out
    resumed = re.search(r"resumed +(\d+) of", out)
    assert resumed is not None
    assert int(resumed[1]) >= 8


def test_errors_are_one_line_without_secrets_whatever_they_quote(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A name with a line end, an escape and a signed URL in it forges nothing and tells nothing."""
    assert main(["verify", f"{tmp_path}/a\n2026-11-26 ERROR \x1b[31mb"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"score-images: run {tmp_path}/a\\n2026-11-26 ERROR \\x1b[31mb: there is no run at ")
    assert said.count("\n") == 1
    assert main(["verify", "https://me:pw@host/out?sig=f00"]) == 2
    assert capsys.readouterr().err == (
        "score-images: storage scheme https:// of https://***@host/out?*** is not supported; use local, s3:// or gs://\n"
    )


@pytest.mark.parametrize("flags", [["--s3_secret_access_key=abc"], ["--s3_secret_access_key", "abc"]])
def test_flags_given_in_the_wrong_place_are_refused_without_their_secrets(
    flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Beam's flags stand after --; who forgets that must not find a key in the scheduler's log."""
    with pytest.raises(SystemExit) as raised:
        main(["run", "--config", "c", "--input", "i", "--output", "o", *flags])
    assert raised.value.code == 2
    told = " ".join(flags).replace("abc", "***")
    assert capsys.readouterr().err.endswith(f"score-images: error: unrecognized arguments: {told}\n")


def log_of(name: str, *message: object, error: Exception | None = None) -> list[str]:
    """Return the lines that the command's log has of a record."""
    formatter = PlainFormatter("%(levelname)s %(message)s")
    logger = logging.getLogger(name)
    about = (type(error), error, error.__traceback__) if error is not None else None
    record = logger.makeRecord(name, logging.ERROR, __file__, 1, message[0], message[1:], about)
    return formatter.format(record).split("\n")


@pytest.mark.parametrize("arguments", [["--verbose", "config", "--schema"], ["config", "--schema", "--verbose"], []])
def test_verbose_is_taken_before_a_command_and_behind_it(arguments: list[str]) -> None:
    """Where people put it: at the end of the line that has failed."""
    assert cli._parser().parse_args(arguments or ["config", "--schema"]).verbose is bool(arguments)


def test_names_cannot_write_lines_of_the_log() -> None:
    """A record of ours is one line, without secrets."""
    lines = log_of("transforms.loading", "loading %s failed", "cat\nERROR \x1b[31mall https://me:pw@host/x?sig=f00")
    assert lines == ["ERROR loading cat\\nERROR \\x1b[31mall https://***@host/x?*** failed"]


def test_what_others_log_in_several_lines_is_indented_below_the_first() -> None:
    """Beam's and TensorFlow's texts stay readable, and none of their lines looks like a record."""
    lines = log_of("apache_beam.runners", "failed:\nERROR not a record\x07\n  deeper %s", "https://h/?key=1")
    assert lines == ["ERROR failed:", "  ERROR not a record\\x07", "    deeper https://h/?***"]


def test_tracebacks_are_indented_and_without_secrets() -> None:
    """Their last line quotes what was read."""
    lines = log_of("transforms.loading", "it failed", error=ValueError("cat\nERROR all is\x9b lost https://h/?key=1"))
    assert lines == ["ERROR it failed", "  ValueError: cat", "  ERROR all is\\x9b lost https://h/?***"]


def test_a_crash_is_told_without_secrets() -> None:
    """What nobody foresaw ends in Python's own traceback, on the same standard error."""
    program = (
        "from pipeline import cli\n"
        "def main(): raise OSError('cat\\nscore-images: all is well \\x1b[2J https://me:pw@host/x?sig=f00')\n"
        "cli.main = main\n"
        "cli.entry_point()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-2:] == [
        "  OSError: cat",
        "  score-images: all is well \\x1b[2J https://***@host/x?***",
    ]
