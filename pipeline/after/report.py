"""The report of a run: report.json for programs and report.html for people, in the folder of its manifest.

A refused attempt has its own, refused_report.json and refused_report.html, beside refused.json: what is published
under the same id keeps its report.
"""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar

import pyarrow as pa
from pydantic import ValidationError

from pipeline.after.ended import EndedRun
from pipeline.after.report_advice import Spent
from pipeline.after.report_contradiction import report_contradiction
from pipeline.after.report_data import collect, pictured, time_of
from pipeline.after.report_page import report_html
from pipeline.pages.thumbnails import thumbnails as make_thumbnails
from transforms import storage
from transforms.errors import ConfigError
from transforms.settings import DecodeSettings, ReportSettings, Settings

S = TypeVar("S", bound=Settings)


def write_report(run: EndedRun, spent: Spent | None = None, thumbnails: int | None = None) -> str:
    """Make the report of a run that has ended, and put it beside its manifest or refusal.

    Args:
        run: The run.
        spent: What its launcher has counted; None takes it from the report that is there, if it is of this run, and
            else the section says that it is not known.
        thumbnails: How many pictures; None takes as many as the run's configuration says.

    Returns:
        Where the page lies.

    Raises:
        ConfigError: The run's files cannot be read, or the report cannot be written.
    """
    layout = run.layout
    count = _settings(run.facts, "report", ReportSettings).thumbnails if thumbnails is None else thumbnails
    try:
        time = time_of(spent) if spent is not None else (_read_report(run) or {}).get("time")
        report = collect(run, time, count, datetime.now(UTC))
        uncertain, failed = pictured(report, count)
        paths = [*uncertain, *(row.image_path for row in failed)]
        page = report_html(report, make_thumbnails(paths, _settings(run.facts, "decode", DecodeSettings)), count)
        said = json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        # The page last: whoever finds it finds the other, too.
        storage.write_bytes(layout.report("json", refused=run.refused), said.encode())
        storage.write_bytes(layout.report("html", refused=run.refused), page.encode())
    except (OSError, pa.ArrowException, ValueError) as error:
        reason = str(error).split("\n")[0]
        raise ConfigError(
            f"the report of run {layout.run_id} cannot be made: {reason}; score-images verify tells whether the run is "
            "whole, and score-images report makes it again"
        ) from error
    return layout.report("html", refused=run.refused)


def has_report(run: EndedRun) -> bool:
    """Tell whether a run has its report, both files, and of itself, not of a run that it has replaced."""
    page = storage.stat(run.layout.report("html", refused=run.refused))
    return page is not None and _read_report(run) is not None


def _read_report(run: EndedRun) -> dict[str, Any] | None:
    """Return the report.json of a run; None where there is none of this very run."""
    path = run.layout.report("json", refused=run.refused)
    if storage.stat(path) is None:
        return None
    try:
        report = json.loads(storage.read_bytes(path))
    except ValueError:
        return None  # damaged: it is made anew
    of_it = report_contradiction(report, {**run.facts, "ledger": run.ledger}) is None
    return dict(report) if of_it else None


def _settings(facts: Mapping[str, Any], section: str, kind: type[S]) -> S:
    """Return a section of the configuration that a run had; the defaults where it tells none that is known here."""
    try:
        return kind.model_validate(facts["config"][section])
    except (KeyError, TypeError, ValidationError):
        return kind()
