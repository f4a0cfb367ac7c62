"""A run as a job of an engine elsewhere: its name there, and how to follow it."""

import hashlib
import re
from typing import Any, NamedTuple
from urllib.parse import quote

from pipeline.profiles import Runner
from transforms.layout import RunLayout

_LONGEST = 63  # Dataflow's limit


class Job(NamedTuple):
    """A job that was submitted."""

    runner: Runner | None
    """Whose engine it runs on."""
    name: str | None
    """The name that it has there."""
    job_id: str | None
    """The engine's own; None where the job was written as a template, for another service to create."""
    project: str | None = None
    """Dataflow: whose it is."""
    region: str | None = None
    """Dataflow: where it runs."""
    address: str | None = None
    """Flink: host and port of the JobManager; Dataflow: where the template lies."""


def job_name(layout: RunLayout) -> str:
    """Return the name of a run's job: the same run has the same, so that an engine sees when it is there already.

    Dataflow refuses a second active job of one name: two launchers cannot score one run at a time.

    >>> job_name(RunLayout("gs://bucket/scores", "2026-11-22"))
    'score-images-2026-11-22-2c2a7d0c'
    """
    digest = hashlib.sha256(f"{layout.output}\n{layout.run_id}".encode()).hexdigest()[:8]
    words = re.sub(r"[^a-z0-9]+", "-", layout.run_id.lower()).strip("-")
    start = f"score-images-{words}"[: _LONGEST - len(digest) - 1].rstrip("-")
    return f"{start}-{digest}"


def console_url(job: Job) -> str:
    """Return the page on which a Dataflow job is followed."""
    place = f"{quote(job.region or '', safe='')}/{quote(job.job_id or '', safe='')}"
    return f"https://console.cloud.google.com/dataflow/jobs/{place}?project={quote(job.project or '', safe='')}"


def following(job: Job, layout: RunLayout) -> list[tuple[str, str]]:
    """Return how to follow a job and how to learn its end: pairs of a word and what to open, read or call."""
    lines = []
    if job.runner == "dataflow" and job.job_id:
        place = f"{job.job_id} --region={job.region} --project={job.project}"
        lines += [
            ("follow", console_url(job)),
            ("state", f"gcloud dataflow jobs describe {place}"),
            ("cancel", f"gcloud dataflow jobs cancel {place}"),
        ]
    elif job.runner == "dataflow":
        lines.append(("template", str(job.address)))
    elif job.runner == "flink" and job.job_id:
        lines.append(("follow", f"http://{str(job.address).removeprefix('http://')}/#/job/running/{job.job_id}"))
    return [*lines, ("published", layout.success), ("refused", layout.refused)]


def job_json(job: Job) -> dict[str, Any]:
    """Return a job without what it does not have."""
    return {key: value for key, value in job._asdict().items() if value is not None}
