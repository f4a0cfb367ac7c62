"""A run as a job of an engine elsewhere, and how it is followed."""

from typing import NamedTuple
from urllib.parse import quote

from pipeline.profiles import Runner
from transforms.layout import RunLayout


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
    """Flink: the URL of the JobManager; Dataflow: where the template lies."""

    def __str__(self) -> str:
        return " ".join(filter(None, (self.name, self.job_id)))


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
        lines += [
            ("follow", f"{job.address}/#/job/running/{job.job_id}"),
            ("cancel", f"curl -X PATCH '{job.address}/jobs/{job.job_id}?mode=cancel'"),
        ]
    return [*lines, ("published", layout.success), ("refused", layout.refused)]


def cancelling(job: Job) -> str:
    """Return how a job is ended."""
    command = dict(following(job, RunLayout("", ""))).get("cancel")
    return f"cancel it: {command}" if command else "cancel the job where it runs"
