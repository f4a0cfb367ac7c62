"""How a command is stopped, and the command line that goes on."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.stopping import _shell_word, command_to_continue

ROOT = Path(__file__).parent.parent
PROGRAM = """
import time
from pipeline import logs
from pipeline.broken_off import Interrupts
from pipeline.stopping import StopOnSignals
logs.log_to_stderr("{form}")
StopOnSignals().install()
with Interrupts():
    try:
        print("ready", flush=True)
        time.sleep(60)
    except KeyboardInterrupt:
        print("stopping", flush=True)
        time.sleep(60)
"""


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_second_signal_ends_a_process_that_is_still_stopping(number: signal.Signals, form: str) -> None:
    """The first is told to the program, the second waits for nothing."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(form=form)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        cwd=ROOT,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    assert process.stdout.readline() == "stopping\n"
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors == ("" if form == "json" else "\nscore-images: stopped at once; finished files are kept\n")


def test_a_signal_that_was_to_be_ignored_stops_nothing() -> None:
    """A script that puts a run into the background ignores SIGINT for it: only SIGTERM reaches it then."""
    ignored = f"import signal; signal.signal(signal.SIGINT, signal.SIG_IGN){PROGRAM.format(form='text')}"
    process = subprocess.Popen([sys.executable, "-c", ignored], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.5)
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "stopping\n"
    process.kill()
    process.communicate()


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (["run", "--output", "o"], "score-images run --output o --run-id n1"),
        (["run", "--run-id", "n1", "--output", "o"], "score-images run --run-id n1 --output o"),
        (["run", "--run-id=n1"], "score-images run --run-id=n1"),
        # Beam's flags stay at the end; one of the same name is Beam's
        (["run", "--", "--run-id=x"], "score-images run --run-id n1 -- --run-id=x"),
        (["run", "--input", "my photos/*.jpg"], "score-images run --input 'my photos/*.jpg' --run-id n1"),
        (
            ["run", "--", "--s3_secret_access_key=abc"],
            "score-images run --run-id n1 -- '--s3_secret_access_key=***'  (put back what *** stands for)",
        ),
    ],
)
def test_the_command_that_goes_on_is_the_same_with_the_run_id(arguments: list[str], command: str) -> None:
    """Whatever was given stays; secrets are not told."""
    assert command_to_continue(arguments, "n1", "score-images") == command


@given(st.lists(st.binary(min_size=1, max_size=12).filter(lambda word: b"\0" not in word), min_size=1, max_size=20))
@settings(max_examples=20, deadline=None)
def test_what_is_told_is_what_bash_reads(words: list[bytes]) -> None:
    """Quotes, dollars, line ends, escapes, names that are no text: each word arrives as it was, and prints safely."""
    told = " ".join(_shell_word(os.fsdecode(word)) for word in words)
    assert told.isprintable()
    done = subprocess.run(["bash", "-c", f"printf '%s\\0' {told}"], capture_output=True, check=True)
    assert done.stdout == b"".join(word + b"\0" for word in words)
