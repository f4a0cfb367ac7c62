"""What a run tells the monitoring of its nights: one table of metrics, filled in when a run has ended, however it has.

All are gauges of the last run: a batch job is gone before anybody could ask it for a counter. A run that is refused,
interrupted or never begins tells its exit code and its time; alerts stand on those and on the age of the last success.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, NamedTuple

from transforms.errors import ExitCode, FailureCode
from transforms.redaction import tell

if TYPE_CHECKING:
    from pipeline.run_records import RunResult


class Metric(NamedTuple):
    """One metric, as Prometheus names it."""

    name: str
    """With its unit at the end."""
    help: str
    """What it says, for people."""
    unit: str = ""
    """As OpenTelemetry writes units: s, By; empty for numbers of things."""
    label: str = ""
    """The label that it has besides those of all metrics; empty for none."""


METRICS = {
    metric.name.removeprefix("score_images_"): metric
    for metric in (
        Metric("score_images_run_exit_code", "Exit code of the last run: 0 is published, now or before."),
        Metric("score_images_run_ended_timestamp_seconds", "When the last run ended, however it did.", "s"),
        Metric("score_images_run_duration_seconds", "From start to end of the last run.", "s"),
        Metric("score_images_last_success_timestamp_seconds", "When a run last ended with exit code 0.", "s"),
        Metric("score_images_run_published_timestamp_seconds", "When what the last run names was published.", "s"),
        Metric("score_images_run_listed_images", "Entries of all inputs."),
        Metric("score_images_run_duplicate_images", "Entries beyond the first of a path."),
        Metric("score_images_run_unique_images", "Different paths: scored, failed and skipped ones."),
        Metric("score_images_run_scored_images", "Rows of the scores table."),
        Metric("score_images_run_failed_images", "Rows of the failures table."),
        Metric("score_images_run_skipped_images", "Images that an earlier run has scored as they are."),
        Metric("score_images_run_challenger_scored_images", "Rows of the challenger's scores, where there is one."),
        Metric("score_images_run_challenger_failed_images", "Scored images that the challenger could not score."),
        Metric("score_images_run_failed_images_by_code", "Rows of the failures table by code.", "", "code"),
        Metric("score_images_run_startup_seconds", "Libraries, model and checks, until the pipeline starts.", "s"),
        Metric("score_images_run_pipeline_seconds", "From the start of the pipeline to its end.", "s"),
        Metric("score_images_run_images_per_second", "Images scored or failed by this attempt, over pipeline_seconds."),
        Metric("score_images_run_thread_seconds", "Time of threads by step, summed; they overlap.", "s", "step"),
        Metric("score_images_run_read_bytes", "Bytes of images that were read.", "By"),
        Metric("score_images_run_written_bytes", "Bytes of Parquet that were written.", "By"),
        Metric("score_images_run_drifted", "1 where the health gate found a limit passed, else 0."),
        Metric("score_images_run_drift_psi", "Population stability index without sampling's part.", "", "of"),
        Metric("score_images_run_info", "1; its labels say what ran.", "", "model"),
    )
}
"""By name without the prefix."""


class Value(NamedTuple):
    """One value of a metric."""

    metric: Metric
    """Of what."""
    value: float
    """In the metric's unit."""
    labels: dict[str, str]
    """Names and values, in which nothing can forge a line and nothing is secret."""


@dataclass(frozen=True)
class Ended:
    """What is known when a run has ended."""

    config: str
    """The configuration as it was named on the command line."""
    output: str
    """Where the runs lie."""
    exit_code: int
    """What the command returns."""
    started: float
    """Unix time."""
    ended: float
    """Unix time."""
    result: "RunResult | None" = None
    """None where the run has not come to its end."""
    facts: Mapping[str, Any] | None = None
    """The manifest, or what the refusal says of the run; None where there is none."""

    def values(self) -> list[Value]:
        """Return all that can be said."""
        common = {"config": tell(PurePath(self.config).stem), "output": tell(self.output)}
        return [
            Value(METRICS[name], float(value), {**common, **({METRICS[name].label: tell(label)} if label else {})})
            for name, label, value in self._all()
        ]

    def _all(self) -> Iterator[tuple[str, str, float]]:
        yield "run_exit_code", "", self.exit_code
        yield "run_ended_timestamp_seconds", "", self.ended
        yield "run_duration_seconds", "", max(self.ended - self.started, 0.0)
        if self.exit_code == ExitCode.PUBLISHED:
            yield "last_success_timestamp_seconds", "", self.ended
        if self.result is None:
            return
        yield from _images(self.result)
        if self.result.found is None:
            yield from _pace(self.result)
        if self.facts is not None:
            yield from _of_facts(self.facts)


def _images(result: "RunResult") -> Iterator[tuple[str, str, float]]:
    outcome = result.outcome
    for name, count in outcome.ledger._asdict().items():
        if count is None:
            continue  # no challenger
        yield f"run_{'duplicate' if name == 'duplicates' else name}_images", "", count
    for code in FailureCode:
        yield "run_failed_images_by_code", code.value, outcome.failures_by_code.get(code, 0)
    yield "run_drifted", "", outcome.drifted


def _pace(result: "RunResult") -> Iterator[tuple[str, str, float]]:
    yield "run_startup_seconds", "", result.startup_seconds
    yield "run_pipeline_seconds", "", result.pipeline_seconds
    done = result.outcome.ledger.scored + result.outcome.ledger.failed - result.adopted
    yield "run_images_per_second", "", done / result.pipeline_seconds if result.pipeline_seconds else 0.0
    if not result.counts:
        return  # a cluster may have forgotten its counters, which is not a count of 0
    for step in ("read", "decode", "model", "write"):
        yield "run_thread_seconds", step, result.counts.get(f"{step}_ms", 0) / 1e3
    if result.outcome.ledger.challenger_scored is not None:
        yield "run_thread_seconds", "challenger", result.counts.get("challenge_model_ms", 0) / 1e3
    yield "run_read_bytes", "", result.counts.get("read_bytes", 0)
    yield "run_written_bytes", "", result.counts.get("write_bytes", 0)


def _of_facts(facts: Mapping[str, Any]) -> Iterator[tuple[str, str, float]]:
    yield "run_info", str(facts["model_id"]), 1.0
    if "published_at" in facts:
        yield "run_published_timestamp_seconds", "", datetime.fromisoformat(facts["published_at"]).timestamp()
    health = facts.get("health") or {}
    for figure in ("class_mix", "confidence"):
        if health.get(figure):
            yield "run_drift_psi", figure, health[figure]["corrected_psi"]
