"""The second road: the same nouns in a plain loop, without Beam, threads or files.

For a notebook, for a debugger, and for the test that holds both roads equal. An image that takes too long to be read or
decoded fails as in a run, but only when it is done: no other thread gives it up. With decode.quarantine, images are
decoded in a worker process as in a run, which ends those that hang, too.
"""

import contextlib
from collections.abc import Iterable
from typing import NamedTuple

import pyarrow as pa

from pipeline.config import RunConfig
from transforms.inputs import BadName, resolve
from transforms.loading import LoadedImage, LoadPlan, load_one, to_batch
from transforms.quarantine import Quarantine
from transforms.records import Failure
from transforms.scoring import Scorer
from transforms.tables import failures_batch


class InMemoryResult(NamedTuple):
    """Both tables of a run."""

    scores: pa.Table
    """As published, in the order of the paths."""
    failures: pa.Table
    """As published."""


def score_in_memory(paths: Iterable[str], config: RunConfig, scorer: Scorer | None = None) -> InMemoryResult:
    """Score images one after the other.

    Args:
        paths: Local paths or URLs; one that comes twice is scored once.
        config: As in a run.
        scorer: A loaded scorer of the same config, to save loading it again.

    Raises:
        ConfigError: Model, labels and configuration do not fit.
        RunError: The worker process of decode.quarantine does not start.
    """
    scorer = scorer or Scorer(config.scorer_plan())
    classifier = scorer.classifier
    plan = config.load_plan(classifier.height, classifier.width, encoded=classifier.takes_bytes)
    rows, failures, waiting = [], [], []
    listed = {found.path: found for found in map(resolve, paths)}
    with contextlib.ExitStack() as stack:
        quarantine = stack.enter_context(Quarantine(plan)) if plan.decode.quarantine else None
        for found in listed.values():
            if isinstance(found, BadName):
                failures.append(found.failure())
                continue
            image = load_one(found, plan, prepare_with=quarantine.prepare if quarantine else None)
            if image.failure is not None:
                failures.append(image.failure)
                continue
            waiting.append(image)
            if len(waiting) == plan.batch_size:
                rows.append(_score(scorer, waiting, plan, failures))
                waiting = []
    if waiting:
        rows.append(_score(scorer, waiting, plan, failures))
    return InMemoryResult(
        pa.Table.from_batches(rows, schema=scorer.schema), pa.Table.from_batches([failures_batch(failures)])
    )


def _score(scorer: Scorer, images: list[LoadedImage], plan: LoadPlan, failures: list[Failure]) -> pa.RecordBatch:
    scored = scorer.score(to_batch(images, plan))
    failures.extend(scored.failures)
    return scored.rows
