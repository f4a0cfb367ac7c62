"""Whether a report.json is of the run that it lies beside."""

import json
from collections.abc import Mapping
from typing import Any

REPORT_VERSION = 1


def report_contradiction(report: Any, manifest: Mapping[str, Any]) -> str | None:
    """Return in what a report.json and the manifest beside it differ; None where it is of that run.

    Args:
        report: What the file holds.
        manifest: Of the published run, or what a refusal says of its run; what it does not say contradicts nothing.
    """
    if not isinstance(report, dict) or report.get("report_version") != REPORT_VERSION:
        return f"it is no report of version {REPORT_VERSION}"
    outcome = report.get("outcome")
    times = outcome if isinstance(outcome, dict) else {}
    said = {
        "run_id": report.get("run_id"),
        "started_at": times.get("started_at"),
        "published_at": times.get("published_at"),
        "ledger": report.get("ledger"),
    }
    for name, value in said.items():
        if value != manifest.get(name, value):
            return f"it says {name} {json.dumps(value)[:80]}, the manifest {json.dumps(manifest.get(name))[:80]}"
    return None
