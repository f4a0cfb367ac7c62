"""What a run leaves says how it ended, to whoever asks later."""

import json
from pathlib import Path

import pytest

from transforms import storage
from transforms.errors import ExitCode, RunError
from transforms.layout import RunLayout
from transforms.ledger import Ledger
from transforms.outcomes import Outcome, read_attempt, read_outcome


def test_a_run_that_did_not_end_says_how_to_go_on(tmp_path: Path) -> None:
    """Neither published nor refused: interrupted."""
    with pytest.raises(RunError, match="run again with --run-id night to continue it") as caught:
        read_outcome(RunLayout(str(tmp_path), "night"))
    assert caught.value.exit_code == ExitCode.INTERRUPTED


def test_a_refusal_is_read_as_it_was_told(tmp_path: Path) -> None:
    """Nothing of an outcome is lost between the step that refuses and the launcher that asks."""
    layout = RunLayout(str(tmp_path), "night")
    ledger = Ledger(3, 0, 3, 1, 2, 0)
    told = Outcome(ExitCode.TOO_MANY_FAILURES, "too many", ledger, {"missing": 2}, "no drift", True, {"model_error": 1})
    storage.write_bytes(layout.refused, json.dumps({"outcome": told.to_json()}).encode())
    assert read_attempt(layout) == told
