"""A rehearsal: a whole run over a few images of a sample, into a temporary folder that goes again.

It proves that the pipeline runs on this machine, and measures what a run costs however few images it has.
"""

import logging
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config import RunConfig
from pipeline.run import run
from pipeline.run_records import RunRequest
from transforms.contest import Contest
from transforms.inputs import DEFAULT_PATH_COLUMN
from transforms.settings import GoldenSettings, HealthSettings, LimitSettings

_LOG = logging.getLogger(__name__)


class Rehearsed(NamedTuple):
    """What a rehearsal took."""

    images: int
    """That it scored."""
    seconds: float
    """From its first check to its report."""


def rehearse(config: RunConfig, contest: Contest, paths: Sequence[str]) -> Rehearsed:
    """Carry a small run out, on this machine.

    Args:
        config: As of the night. Golden images are checked before, and limits and baseline judge no sample.
        contest: Of this configuration, loaded.
        paths: Absolute paths or URLs.

    Raises:
        RunError: It did not come to its end.
    """
    started = time.monotonic()
    config = config.model_copy(
        update={
            "golden": GoldenSettings(),
            "health": HealthSettings(),
            "limits": LimitSettings(max_failure_rate=1.0),
        }
    )
    _LOG.info("rehearsing a run of %d images", len(paths))
    with tempfile.TemporaryDirectory(prefix="score-images-") as folder:
        # Parquet, because a name may hold a line end.
        manifest = Path(folder) / "sample.parquet"
        pq.write_table(pa.table({DEFAULT_PATH_COLUMN: list(paths)}), manifest)
        result = run(
            RunRequest(
                config=config,
                inputs=[f"@{manifest}"],
                output=str(Path(folder) / "output"),
                run_id="rehearsal",
                show_progress=False,
                loading=lambda: contest,
            )
        )
        ledger = result.outcome.ledger
        return Rehearsed(ledger.scored + ledger.failed, time.monotonic() - started)
