"""Scoring beside the host's work: how far it runs ahead, in which order rows come, and what an error leaves behind."""

import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pytest
from apache_beam.utils.shared import Shared
from apache_beam.utils.windowed_value import WindowedValue

from transforms.contest import Contest
from transforms.errors import FailureCode, Stage
from transforms.predicting import Answers
from transforms.records import Failure, ImageBatch, ImageInfo, ImageRef, now_us
from transforms.score_batches import FAILURES, ScoreBatches, _ScoreDoFn
from transforms.scoring import ScoredBatch
from transforms.sifting import PredictedBatch

_PATIENCE = 30.0


class Model:
    """Stands for a Scorer: one row a batch, its name; the device's part does what a test wants."""

    def __init__(self, calls_in_flight: int, work: Callable[[str], None] = lambda _: None) -> None:
        self.calls_in_flight = calls_in_flight
        self.classifier = SimpleNamespace(fingerprint="f")
        self._work = work
        self._lock = threading.Lock()
        self.in_flight = 0
        self.most_in_flight = 0
        self.threads: set[str] = set()
        self.finished: dict[str, threading.Event] = {name: threading.Event() for name in "abcdefgh"}

    def submitted(self, count: int = 1) -> None:
        with self._lock:
            self.in_flight += count
            self.most_in_flight = max(self.most_in_flight, self.in_flight)

    def predict(self, batch: ImageBatch) -> PredictedBatch:
        self.threads.add(threading.current_thread().name)
        self._work(batch.refs[0].path)
        return PredictedBatch(batch, Answers([], 0), 1.0)

    def finish(self, predicted: PredictedBatch) -> ScoredBatch:
        assert threading.current_thread() is threading.main_thread()  # Beam counts there only
        self.submitted(-1)
        name = predicted.batch.refs[0].path
        self.finished[name].set()
        failures = [Failure(predicted.batch.refs[0], Stage.SCORE, FailureCode.MODEL_ERROR, "h", now_us())]
        rows = pa.RecordBatch.from_pydict({"name": [] if name == "h" else [name]})
        return ScoredBatch(rows, failures if name == "h" else [], 1.0, 0)


def batch(name: str) -> ImageBatch:
    """A batch of one image."""
    return ImageBatch(
        (ImageRef(name, 1, None),), np.zeros((1, 1, 1, 3), np.uint8), (ImageInfo(1, 1, "png", 1, "pillow"),)
    )


@pytest.fixture
def start() -> Iterator[Callable[[Model], _ScoreDoFn]]:
    """Set a DoFn up around a model, and tear it down after the test."""
    started: list[Any] = []

    def make(model: Model) -> _ScoreDoFn:
        shared = Shared()
        contest = Contest.of(model)  # type: ignore[arg-type]
        started.append((shared, shared.acquire(lambda: contest)))
        do_fn = _ScoreDoFn(SimpleNamespace(), ("f", None), shared)  # type: ignore[arg-type]
        do_fn.setup()
        started.append(do_fn)
        return do_fn

    yield make
    for do_fn in started[1::2]:
        do_fn.teardown()


def give(do_fn: _ScoreDoFn, model: Model, name: str) -> list[str]:
    """Process a batch; return the names of the rows that come out."""
    model.submitted()
    return [out["name"][0].as_py() for out in do_fn.process(batch(name))]


def end(do_fn: _ScoreDoFn) -> list[Any]:
    """End the bundle; return the names of the rows, and failures as they are."""
    outs = []
    for out in do_fn.finish_bundle():
        tagged = isinstance(out, beam.pvalue.TaggedOutput)
        value = out.value if tagged else out
        assert isinstance(value, WindowedValue)
        outs.append((out.tag, value.value.code) if tagged else value.value["name"][0].as_py())
    return outs


def test_rows_are_made_while_the_next_batch_is_on_the_device(start: Callable[[Model], _ScoreDoFn]) -> None:
    """A batch is handed over before the device has it; b ends only after the host's part of a, and both end."""
    a_is_given = threading.Event()

    def work(name: str) -> None:
        assert (a_is_given if name == "a" else model.finished["a"]).wait(_PATIENCE)

    model = Model(1, work)
    do_fn = start(model)
    do_fn.start_bundle()
    assert give(do_fn, model, "a") == []
    a_is_given.set()
    given = give(do_fn, model, "b")
    assert given[:1] == ["a"]
    assert given + end(do_fn) == ["a", "b"]


@pytest.mark.parametrize("calls", [1, 2])
def test_no_more_batches_are_under_way_than_calls_and_one(start: Callable[[Model], _ScoreDoFn], calls: int) -> None:
    """However slow the device is: their pixels lie in memory. Each runs in a thread of the pool, one a call."""
    may_go = threading.Semaphore(0)
    model = Model(calls, lambda _: may_go.acquire(timeout=_PATIENCE) and None)
    do_fn = start(model)
    do_fn.start_bundle()
    out = []
    for name in "abcdefg":
        may_go.release()
        out += give(do_fn, model, name)
    out += end(do_fn)
    assert out == list("abcdefg")
    assert model.most_in_flight <= calls + 1
    assert len(model.threads) <= calls


def test_rows_keep_the_order_of_their_batches(start: Callable[[Model], _ScoreDoFn]) -> None:
    """A second device that is done first waits: the same inputs give the same files."""
    a_may_end, b_has_ended = threading.Event(), threading.Event()

    def work(name: str) -> None:
        if name == "a":
            assert a_may_end.wait(_PATIENCE)
        elif name == "b":
            b_has_ended.set()

    model = Model(2, work)
    do_fn = start(model)
    do_fn.start_bundle()
    assert give(do_fn, model, "a") + give(do_fn, model, "b") == []
    assert b_has_ended.wait(_PATIENCE)
    a_may_end.set()
    assert end(do_fn) == ["a", "b"]


def test_failures_at_the_end_of_a_bundle_have_their_tag(start: Callable[[Model], _ScoreDoFn]) -> None:
    """And their window: nothing gives them one there."""
    model = Model(2)
    do_fn = start(model)
    do_fn.start_bundle()
    hold = threading.Event()
    model._work = lambda _: hold.wait(_PATIENCE) and None
    assert give(do_fn, model, "a") + give(do_fn, model, "h") == []
    hold.set()
    assert end(do_fn) == ["a", (FAILURES, FailureCode.MODEL_ERROR)]


def test_error_of_a_call_stops_its_bundle_and_no_other(start: Callable[[Model], _ScoreDoFn]) -> None:
    """It is raised where the batch is taken up, at the latest when the bundle ends; the next bundle starts clean."""

    def work(name: str) -> None:
        if name in "bf":
            raise RuntimeError(f"the device is gone at {name}")

    model = Model(1, work)
    do_fn = start(model)
    do_fn.start_bundle()
    with pytest.raises(RuntimeError, match="gone at b"):
        for name in "abcd":
            give(do_fn, model, name)
    do_fn.start_bundle()
    assert [name for given in "de" for name in give(do_fn, model, given)] + end(do_fn) == ["d", "e"]
    do_fn.start_bundle()
    hold = threading.Event()
    model._work = lambda name: hold.wait(_PATIENCE) and work(name)  # type: ignore[func-returns-value]
    assert give(do_fn, model, "f") == []
    hold.set()
    with pytest.raises(RuntimeError, match="gone at f"):
        end(do_fn)


def test_teardown_ends_the_threads(start: Callable[[Model], _ScoreDoFn]) -> None:
    """A worker that is torn down and set up again gathers none."""
    model = Model(2)
    do_fn = start(model)
    do_fn.start_bundle()
    give(do_fn, model, "a")
    end(do_fn)
    threads = list(do_fn._pool._threads)
    assert threads
    do_fn.teardown()
    for thread in threads:
        thread.join(_PATIENCE)
    assert not any(thread.is_alive() for thread in threads)


def test_other_windows_are_refused() -> None:
    """Rows come out with a later batch, whose window may be another."""
    pipeline = beam.Pipeline()
    batches = pipeline | beam.Create([0]) | beam.WindowInto(beam.window.FixedWindows(1))
    with pytest.raises(ValueError, match=r"ScoreBatches needs globally windowed batches.*WindowInto"):
        _ = batches | ScoreBatches(SimpleNamespace())  # type: ignore[arg-type]
