"""Measure what an image costs in the middle of a run: loading threads, model and writer at work beside each other.

Costs of single steps do not add up to the pace of a run: threads decode while the model computes, on the same
processors. So a sample goes round and round on the road of a run, without Beam, and the time between its first and its
last finished batch counts, while new images are still being loaded.
"""

import functools
import itertools
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import NamedTuple

from transforms.contest import AnsweredBatch, Contest
from transforms.load_plan import LoadPlan, thread_count
from transforms.loading import BatchLoader, load_one
from transforms.part_files import PartWriter
from transforms.quarantine import Quarantine
from transforms.records import Failure, ImageRef
from transforms.settings import WriteSettings
from transforms.storage import is_remote
from transforms.threads import LoadThreads

SECONDS = 10.0
"""For how long the pace is measured, if nothing else is asked for."""
_FILLING = 2
"""Batches until loading is as far ahead of the model as it gets."""
_FEWEST_BATCHES = 4
_PATIENCE = 6.0


class Pace(NamedTuple):
    """What an image costs."""

    seconds: float
    """Wall time an image, in the middle of a run."""
    error: float
    """Two standard errors of it, from the batches' own times; in seconds."""
    images: int
    """How many were timed."""
    read_ms: float
    """Thread time of reading an image again: its file is in the system's memory, where it is a local one."""
    decode_ms: float
    """Thread time of decoding and resizing an image."""
    model_ms: float
    """Wall time of the model an image, beside the other steps; of both models, where there is a challenger."""
    cpu_ms: float
    """Processor time an image, of all threads: it does not depend on what else the machine is doing."""
    batch: int
    """Images that were loaded together."""


def measure_pace(
    refs: Sequence[ImageRef],
    plan: LoadPlan,
    contest: Contest,
    write: WriteSettings,
    guess: float,
    seconds: float = SECONDS,
    clock: Callable[[], float] = time.perf_counter,
) -> Pace:
    """Load, score and write images again and again.

    Args:
        refs: At least one.
        plan: As of a run. Where a batch of it takes long, smaller ones are loaded together, so that enough of them are
            finished in time; the model's calls stay as large as they are.
        contest: Loaded, and its batch size measured.
        write: As of a run; the files are temporary ones.
        guess: Seconds an image, roughly.
        seconds: For how long, once loading is ahead of the model; up to six times as long where batches take longer.
        clock: In seconds, always forward.

    Raises:
        RunError: What the model returns contradicts what it is declared to return.
        OSError: There is no room for temporary files.
    """
    in_time = int(seconds / _FEWEST_BATCHES / max(guess, 1e-6))
    plan = replace(plan, batch_size=min(plan.batch_size, max(contest.champion.batch_choice.size, in_time)))
    marks: list[tuple[float, int]] = []
    spent: list[float] = []
    failed, model_ms, scored = 0, 0.0, 0
    under_way: deque[Future[AnsweredBatch]] = deque()
    with ExitStack() as closing:
        folder = closing.enter_context(tempfile.TemporaryDirectory(prefix="score-images-"))
        loader = closing.enter_context(open_loader(refs, plan))
        calls = closing.enter_context(ThreadPoolExecutor(contest.calls_in_flight, thread_name_prefix="model"))
        writers = [
            PartWriter(folder, "scores", scorer.schema, scorer.file_metadata(), write)
            for scorer in (contest.champion, contest.challenger)
            if scorer is not None
        ]
        started, spent_before = clock(), time.process_time()
        for ref in itertools.cycle(refs):
            for loaded in loader.add(ref):
                if isinstance(loaded, Failure):
                    failed += 1
                    continue
                under_way.append(calls.submit(contest.predict, loaded))
                while len(under_way) > contest.calls_in_flight or (under_way and under_way[0].done()):
                    done = contest.finish(under_way.popleft().result())
                    for writer, one in zip(writers, filter(None, done), strict=True):
                        writer.write(one.rows)
                        model_ms += one.model_ms
                    scored += done.champion.rows.num_rows + len(done.champion.failures)
                    marks.append((clock(), scored + failed))
                    spent.append(time.process_time())
            if _is_enough(marks, started, seconds, clock()):
                break
        marks, spent = marks[_FILLING:], spent[_FILLING:]
        if not scored:
            marks, spent = [(started, 0), (clock(), failed)], [spent_before, time.process_time()]
        tally = loader.take_tally()
        for _ in loader.finish():
            pass  # what is under way is no part of the middle
        for future in under_way:
            future.cancel()
        for writer in writers:
            writer.close()
    took = marks[-1][0] - marks[0][0]
    images = marks[-1][1] - marks[0][1]
    return Pace(
        seconds=took / max(1, images),
        error=_error(marks),
        images=images,
        read_ms=tally.read_ms / max(1, tally.images),
        decode_ms=tally.decode_ms / max(1, tally.images),
        model_ms=model_ms / max(1, scored),
        cpu_ms=(spent[-1] - spent[0]) * 1e3 / max(1, images),
        batch=plan.batch_size,
    )


def _is_enough(marks: Sequence[tuple[float, int]], started: float, seconds: float, now: float) -> bool:
    if not marks:
        return now - started > _PATIENCE * seconds  # every image has failed so far
    marks = marks[_FILLING:]
    if len(marks) < 2:
        return False
    is_late = now - started > _PATIENCE * seconds
    return is_late or (marks[-1][0] - marks[0][0] >= seconds and len(marks) > _FEWEST_BATCHES)


def _error(marks: Sequence[tuple[float, int]]) -> float:
    """Return two standard errors of the mean time an image.

    Neighbouring batches depend on each other, so the times of eighths of the whole are compared.
    """
    parts = min(8, len(marks) - 1)
    if parts < 2:
        return 0.0
    edges = [marks[round(part * (len(marks) - 1) / parts)] for part in range(parts + 1)]
    times = [(b[0] - a[0]) / max(1, b[1] - a[1]) for a, b in itertools.pairwise(edges)]
    return 2 * statistics.stdev(times) / parts**0.5


@contextmanager
def open_loader(refs: Sequence[ImageRef], plan: LoadPlan) -> Iterator[BatchLoader]:
    """Open a loader with threads, memory and quarantine of its own, as a worker of a run has them.

    Args:
        refs: What will be loaded, at least one: where it lies decides how many threads there are.
        plan: As of a run.
    """
    threads = thread_count(plan.load, is_remote(refs[0].path))
    with ExitStack() as closing:
        pool = closing.enter_context(LoadThreads(threads))
        quarantine = closing.enter_context(Quarantine(plan)) if plan.decode.quarantine else None
        load = functools.partial(load_one, prepare_with=quarantine.prepare if quarantine else None)
        yield BatchLoader(plan, pool, threads, load, abandon=quarantine.abandon if quarantine else None)
