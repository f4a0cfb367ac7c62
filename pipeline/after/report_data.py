"""What report.json holds: everything that is told of a run that has ended, counted from its files.

docs/report.md says what each key means; a test holds the two equal.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from pipeline.after.ended import EndedRun
from pipeline.after.report_advice import Spent, advise, use_of
from pipeline.after.report_challenger import Answers, challenge
from pipeline.after.report_contradiction import REPORT_VERSION
from pipeline.after.report_rows import (
    FailedRow,
    Scan,
    Ticks,
    UncertainRow,
    read_places,
    scan_failures,
    scan_scores,
)
from transforms import distributions

_EXAMPLES = 4
"""Rows of each failure code that are told."""
_MOST_STEPS = 60
"""Of the timeline."""
_TICKS_A_STEP = 2
"""Batches come in one by one: fewer than this a step would draw them, and not the pace."""
_LEAST_CERTAIN = 24
"""Images that are told where no pictures are asked for."""
_FACTS = (
    "model_id", "num_classes", "output", "activation", "activation_reason", "inputs", "fingerprints", "execution",
    "since_run", "limits_overridden", "versions", "beam_flags", "config",
)  # fmt: skip
"""What is taken from the manifest as it is."""


def collect(run: EndedRun, time: Mapping[str, Any] | None, least_certain: int, now: datetime) -> dict[str, Any]:
    """Gather what is told of a run.

    Args:
        run: It has ended.
        time: From time_of; None where what its launcher has counted is gone.
        least_certain: How many of the least certain images are told; 0 for as many as usual.
        now: The time of the report, UTC.

    Returns:
        What json.dumps takes.

    Raises:
        InputError: A file does not say what it is of.
        OSError: A file is missing, or the storage does not give it.
        pa.ArrowException: A file is no Parquet file, or lacks a column.
        ValueError: A file holds what no table holds.
    """
    described = run.description()
    labels = described.labels if described else ()
    independent = described.independent if described else False
    scores = run.paths("scores")
    scan = scan_scores(scores, labels, independent=independent, keep=least_certain or _LEAST_CERTAIN)
    rows = read_places(scores, scan.least_certain)
    stages, failed = scan_failures(run.paths("failures"), _EXAMPLES)
    codes = [code for (_, code), _ in stages.most_common()]
    return {
        "report_version": REPORT_VERSION,
        "run_id": run.layout.run_id,
        "output": run.layout.output,
        "outcome": {
            "published": not run.refused,
            "exit_code": int(run.exit_code),
            "message": run.message,
            "started_at": run.facts.get("started_at"),
            "published_at": run.facts.get("published_at"),
        },
        "made_at": now.astimezone(UTC).isoformat(timespec="seconds"),
        "ledger": run.ledger,
        "time": time,
        "throughput": throughput(scan.ticks),
        "health": run.facts.get("health"),
        "failures": {
            "by_code": run.failures_by_code,
            "by_stage": [
                {"stage": stage, "code": code, "images": count} for (stage, code), count in stages.most_common()
            ],
            "examples": [row._asdict() for row in sorted(failed, key=lambda row: codes.index(row.code))],
        },
        "distributions": scan.distributions.to_json(),
        "means": scan.means,
        "least_certain": {"by": "entropy" if independent else "margin", "images": _uncertain(rows)},
        "images": _images(scan),
        "challenger": _challenger(run, Answers(scores, tuple(labels), run.rows("scores"))),
        "run": {name: run.facts.get(name) for name in _FACTS},
    }


def _challenger(run: EndedRun, model: Answers) -> dict[str, Any] | None:
    """Return what is told of a second model that has scored the same images; None where there was none."""
    described = run.description("scores_challenger")
    if described is None:
        return None
    told = run.facts.get("challenger") or {}
    return challenge(
        model,
        Answers(run.paths("scores_challenger"), described.labels, run.rows("scores_challenger")),
        independent=described.independent,
        model_id=(described.schema.metadata or {}).get(b"score_images.model_id", b"").decode() or None,
        failures_by_code=told.get("failures_by_code", {}),
    )


def time_of(spent: Spent) -> dict[str, Any]:
    """Return what is told of where the time went."""
    advice = advise(spent)
    return {
        "startup_seconds": spent.startup_seconds,
        "pipeline_seconds": spent.pipeline_seconds,
        "images": spent.images,
        "adopted_images": spent.adopted,
        "images_per_second": spent.images / spent.pipeline_seconds if spent.pipeline_seconds > 0 else None,
        "thread_seconds": spent.thread_seconds,
        "busy": use_of(spent)._asdict(),
        "limit": advice.limit,
        "advice": advice.text,
        "counters": dict(sorted(spent.counts.items())),
    }


def throughput(ticks: Ticks) -> dict[str, Any] | None:
    """Return the pace from one scored batch to the last; None where all were scored at once.

    The first batch is where counting begins: nobody knows here how long it took.
    """
    if ticks.first_us is None or ticks.last_us is None:
        return None
    first, last = min(ticks.counts), max(ticks.counts)
    if first == last:
        return None
    seconds = (ticks.last_us - ticks.first_us) / 1e6
    after = {tick: count for tick, count in ticks.counts.items() if tick > first}
    steps = max(1, min(_MOST_STEPS, len(after) // _TICKS_A_STEP))
    images = [0] * steps
    for tick, count in after.items():
        # What was done at the end of a step was worked on in it.
        images[-(-(tick - first) * steps // (last - first)) - 1] += count
    return {
        "first_scored_at": _moment(ticks.first_us),
        "last_scored_at": _moment(ticks.last_us),
        "seconds": seconds,
        "images": sum(images),
        "images_per_second": sum(images) / seconds,
        "step_seconds": seconds / steps,
        "images_by_step": images,
    }


def _moment(microseconds: int) -> str:
    return datetime.fromtimestamp(microseconds / 1e6, UTC).isoformat(timespec="milliseconds")


def _uncertain(rows: Sequence[UncertainRow]) -> list[dict[str, Any]]:
    return [
        {**row._asdict(), "top": [{"label": label, "probability": value} for label, value in row.top]} for row in rows
    ]


def _images(scan: Scan) -> dict[str, Any]:
    return {
        "formats": dict(scan.formats.most_common()),
        "decoders": dict(scan.decoders.most_common()),
        "bytes": scan.sizes.to_json(),
        "pixels": scan.pixels.to_json(),
    }


def pictured(report: Mapping[str, Any], thumbnails: int) -> tuple[list[str], list[FailedRow]]:
    """Choose what is shown as pictures: the least certain images, and of each failure code in turn.

    Args:
        report: From collect.
        thumbnails: How many; a fifth of them for failures, as far as there are any.

    Returns:
        Paths of scored images, and rows of failures.
    """
    failed = [FailedRow(**row) for row in report["failures"]["examples"]]
    by_code: dict[str, list[FailedRow]] = {}
    for row in failed:
        by_code.setdefault(row.code, []).append(row)
    turns = [rows[turn] for turn in range(_EXAMPLES) for rows in by_code.values() if turn < len(rows)]
    shown = [row["image_path"] for row in report["least_certain"]["images"]]
    return shown[:thumbnails], turns[: (thumbnails + 3) // 4]


def class_mix(report: Mapping[str, Any]) -> dict[str, int]:
    """Return the images of every label that has any, the most first."""
    counted = distributions.Distributions.from_json(report["distributions"]).by_label()
    return {label: count for label, count in sorted(counted.items(), key=lambda item: -item[1]) if count}
