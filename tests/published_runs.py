"""Published runs of given probabilities, written by the house's own functions, without a model or a pipeline."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from transforms import tables
from transforms.baselines import open_baseline
from transforms.errors import FailureCode, Stage
from transforms.health import HealthPlan
from transforms.layout import RunLayout
from transforms.ledger import Ledger
from transforms.outcomes import Outcome
from transforms.part_files import PartWriter
from transforms.probabilities import summarise
from transforms.publishing import RunFacts, publish
from transforms.records import Failure, ImageInfo, ImageRef
from transforms.settings import CalibrationSettings, HealthSettings, LimitSettings, WriteSettings


def publish_scores(
    output: Path | str,
    paths: Sequence[str],
    probabilities: npt.ArrayLike,
    *,
    labels: Sequence[str] | None = None,
    activation: str = "softmax",
    returns: str = "logits",
    num_units: int | None = None,
    raw: npt.ArrayLike | None = None,
    threshold: float = 0.5,
    calibration: CalibrationSettings | None = None,
    failed: Sequence[str] | Mapping[str, FailureCode] = (),
    run_id: str = "night",
    group_rows: int = 2,
    top_k: int = 1,
    max_failure_rate: float = 1.0,
    health: HealthSettings | None = None,
    publish_anyway: bool = False,
    overwrite: bool = False,
    since_run: dict[str, Any] | None = None,
    versions: Sequence[str] | None = None,
    model_id: str = "toy@1",
    with_distributions: bool = True,
    scored_at: datetime = datetime(1970, 1, 1, tzinfo=UTC),
    infos: Sequence[ImageInfo] | None = None,
) -> Outcome:
    """Publish a run, or refuse it.

    Args:
        output: Folder or URL of all runs.
        paths: Of the scored images, N.
        probabilities: float[N, C].
        labels: C names; None numbers the classes.
        activation: softmax, sigmoid or none.
        returns: logits or probabilities: what the model is said to return.
        num_units: Of the model; None for C.
        raw: float[N, num_units], the column of logits; None for none.
        threshold: Of positive_labels, for sigmoid.
        calibration: What is said to have been applied.
        failed: Paths of failed images, not_found where no codes are given.
        run_id: Of the run.
        group_rows: Rows of a row group.
        top_k: Entries of the column top_k.
        max_failure_rate: Over it the run is refused.
        health: What its answers are compared with; None for nothing.
        publish_anyway: As --publish-anyway.
        overwrite: Replace the published run of that id.
        since_run: What the manifest says of the runs that it follows.
        versions: Of the images, N; None for the same for all.
        model_id: What is said to have scored it.
        with_distributions: As of today; without, as manifests of older runs are.
        scored_at: When each image was scored.
        infos: Of the scored images, N; None for images of one pixel.
    """
    p = np.asarray(probabilities, np.float32)
    names = tuple(labels) if labels is not None else tuple(map(str, range(p.shape[1])))
    layout = RunLayout(str(output), run_id)
    schema = tables.scores_schema(p.shape[1], with_logits=raw is not None)
    metadata = tables.file_metadata(
        {
            "model_id": model_id,
            "labels": json.dumps(names),
            "output": returns,
            "activation": activation,
            "num_units": str(num_units or p.shape[1]),
            "calibration": (calibration or CalibrationSettings()).model_dump_json(),
            **({"thresholds": json.dumps([threshold] * p.shape[1])} if activation == "sigmoid" else {}),
        }
    )
    independent = activation == "sigmoid" and num_units != 1
    positive = None
    if activation == "sigmoid":
        positive = p >= np.float32(threshold)
        if num_units == 1:
            positive[:, 0] = ~positive[:, 1]
    write = WriteSettings()
    # Settings do not allow row groups as small as a test wants them.
    small = write.model_copy(update={"row_group_bytes": 1})
    writer = PartWriter(layout.staged_table("scores"), "scores", schema, metadata, small)
    files = []
    for start in range(0, len(p), group_rows):
        part = slice(start, start + group_rows)
        files += writer.write(
            tables.scores_batch(
                schema,
                [
                    ImageRef(path, 1, version)
                    for path, version in zip(paths[part], (versions or ["v"] * len(p))[part], strict=True)
                ],
                list(infos[part]) if infos else [ImageInfo(1, 1, "png", 1, "pillow")] * len(p[part]),
                p[part],
                summarise(p[part], top_k, independent=independent),
                pa.array(names, pa.string()),
                model_id,
                round(scored_at.timestamp() * 1_000_000),
                None if positive is None else positive[part],
                np.asarray(raw if raw is not None else p, np.float32)[part],
            )
        )
    codes = failed if isinstance(failed, Mapping) else dict.fromkeys(failed, FailureCode.NOT_FOUND)
    failures = [Failure(ImageRef(path, None, None), Stage.READ, code, "gone", 0) for path, code in codes.items()]
    failures_writer = PartWriter(layout.staged_table("failures"), "failures", tables.FAILURES_SCHEMA, {}, write)
    failures_writer.write(tables.failures_batch(failures))
    files += [*writer.close(), *failures_writer.close()]
    manifest: dict[str, Any] = {
        "started_at": datetime(2026, 11, 22, tzinfo=UTC).isoformat(),
        "model_id": model_id,
        "versions": {"score-images": "0.1.0"},
        "fingerprints": {},
        **({"since_run": since_run} if since_run else {}),
    }
    settings = health or HealthSettings()
    baseline, without = open_baseline(layout, settings)
    plan = HealthPlan(settings, names, independent, model_id, {}, baseline, without)
    facts = RunFacts(
        layout,
        LimitSettings(max_failure_rate=max_failure_rate),
        write,
        {"scores": schema, "failures": tables.FAILURES_SCHEMA},
        metadata,
        manifest,
        publish_anyway=publish_anyway,
        overwrite=overwrite,
        health=plan if with_distributions else None,
    )
    count = len(p) + len(failed)
    return publish(facts, files, Ledger(count, 0, count, len(p), len(failed), 0))
