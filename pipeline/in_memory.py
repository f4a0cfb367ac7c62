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
from transforms.contest import Contest
from transforms.errors import ConfigError
from transforms.inputs import BadName, resolve
from transforms.loading import load_one, to_batch
from transforms.quarantine import Quarantine
from transforms.records import Failure
from transforms.scoring import ScoredBatch, Scorer
from transforms.tables import failures_batch


class InMemoryResult(NamedTuple):
    """The tables of a run."""

    scores: pa.Table
    """As published, in the order of the paths."""
    failures: pa.Table
    """As published."""
    scores_challenger: pa.Table | None = None
    """As published, in the order of the paths; None without a challenger."""
    failures_challenger: pa.Table | None = None
    """As published; None without a challenger."""


def score_in_memory(paths: Iterable[str], config: RunConfig, scorer: Scorer | Contest | None = None) -> InMemoryResult:
    """Score images one after the other.

    Args:
        paths: Local paths or URLs; one that comes twice is scored once.
        config: As in a run.
        scorer: A loaded scorer of the same config, to save loading it again; with a challenger, the contest of both.

    Raises:
        ConfigError: Model, labels and configuration do not fit.
        RunError: The worker process of decode.quarantine does not start.
    """
    contest = _contest(config, scorer)
    classifier = contest.champion.classifier
    plan = config.load_plan(
        classifier.height, classifier.width, encoded=classifier.takes_bytes, second=contest.second_input
    )
    contested, failures, waiting = [], [], []
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
                contested.append(contest.score(to_batch(waiting, plan)))
                waiting = []
    if waiting:
        contested.append(contest.score(to_batch(waiting, plan)))
    failures += [failure for batch in contested for failure in batch.champion.failures]
    first = _tables(contest.champion, [batch.champion for batch in contested], failures)
    if contest.challenger is None:
        return InMemoryResult(*first)
    rivals = [batch.challenger for batch in contested if batch.challenger is not None]
    rival_failures = [failure for batch in rivals for failure in batch.failures]
    return InMemoryResult(*first, *_tables(contest.challenger, rivals, rival_failures))


def _contest(config: RunConfig, scorer: Scorer | Contest | None) -> Contest:
    if isinstance(scorer, Contest):
        return scorer
    if scorer is None:
        return Contest(config.contest_plan())
    if config.challenger is not None:
        raise ConfigError("the configuration has a challenger: give a Contest of both models, or none")
    return Contest.of(scorer)


def _tables(scorer: Scorer, scored: list[ScoredBatch], failures: list[Failure]) -> tuple[pa.Table, pa.Table]:
    rows = [batch.rows for batch in scored]
    return pa.Table.from_batches(rows, schema=scorer.schema), pa.Table.from_batches([failures_batch(failures)])
