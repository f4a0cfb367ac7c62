"""LoadBatches under fire: deadlines, the quarantine, and runs with images that crash, hang and swell a decoder."""

import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow.parquet as pq
import pytest
from apache_beam.metrics import MetricsFilter
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.util import assert_that

from pipeline.config import load_config
from pipeline.in_memory import score_in_memory
from tests.model_zoo import pooled_model
from tests.poisoned_site import poison, write_site
from tests.runs import SIZE, make_photo, make_photos, run_quietly, small_config
from transforms import loading, quarantine
from transforms.errors import ExitCode, FailureCode, RunError, Stage
from transforms.load_batches import LoadBatches
from transforms.records import Failure, ImageBatch, ImageRef

ROOT = Path(__file__).parent.parent
_found: list[ImageBatch | Failure] = []


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SavedModel of four classes."""
    return pooled_model(tmp_path_factory.mktemp("model") / "pooled")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that poisons workers when it is on their path."""
    return write_site(tmp_path_factory.mktemp("site"))


def keep(found: list[ImageBatch | Failure]) -> None:
    """Take what a pipeline of this process has made; Beam pickles a function by its name."""
    _found.extend(found)


def load_all(plan: loading.LoadPlan, paths: list[Path]) -> tuple[list[ImageBatch], list[Failure], dict[str, int]]:
    """Load images on the local runner; return batches, failures and counters."""
    _found.clear()
    pipeline = beam.Pipeline(options=PipelineOptions(["--runner=FnApiRunner", "--direct_num_workers=1"]))
    out = pipeline | beam.Create([ImageRef(str(path), None, None) for path in paths]) | LoadBatches(plan)
    assert_that(out.batches, keep, "batches")
    assert_that(out.failures, keep, "failures")
    result = pipeline.run()
    result.wait_until_finish()
    counters = result.metrics().query(MetricsFilter())["counters"]
    batches = [found for found in _found if isinstance(found, ImageBatch)]
    failures = [found for found in _found if isinstance(found, Failure)]
    return batches, failures, {counter.key.metric.name: counter.result for counter in counters}


def plan_of(model: Path, **decode: Any) -> loading.LoadPlan:
    """Return the plan of a small configuration."""
    return small_config(model, decode=decode, load={"threads": 2}, batch={"size": 3}).load_plan(**SIZE)


def names(batches: list[ImageBatch]) -> list[str]:
    """Return the names of all images in batches, sorted."""
    return sorted(Path(ref.path).name for batch in batches for ref in batch.refs)


def test_decoder_that_hangs_costs_its_image_and_not_the_bundle(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a quarantine its thread is left alone; the bundle ends, and so does the pipeline."""
    photos = make_photos(tmp_path, 7)
    stuck = make_photo(tmp_path / "stuck.png", 1, (30, 20))
    may_go = threading.Event()
    load_image = loading.load_image

    def hang(data: bytes, *rest: Any) -> Any:
        if data == stuck.read_bytes():
            assert may_go.wait(100)
        return load_image(data, *rest)

    monkeypatch.setattr(loading, "load_image", hang)
    batches, failures, counts = load_all(plan_of(model, timeout_seconds=0.8), [stuck, *photos])
    may_go.set()
    assert names(batches) == [photo.name for photo in photos]
    assert [failure.ref.path for failure in failures] == [str(stuck)]
    assert failures[0][1:3] == (Stage.DECODE, FailureCode.DECODE_TIMEOUT)
    assert "0.8 s that decode.timeout_seconds allows" in failures[0].message
    assert (counts["loaded_images"], counts["load_failed_images"]) == (8, 1)
    assert counts["decode_ms"] >= 800


def test_quarantine_loads_what_threads_load_and_counts_its_restarts(
    model: Path, site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same pixels and infos; a crash is a failure and a counter, and its neighbours come through."""
    photos = [*make_photos(tmp_path, 4, ".jpg"), *make_photos(tmp_path, 3)]
    plain, failed, counts = load_all(plan_of(model), photos)
    assert (failed, counts.get("decode_worker_restarts", 0)) == ([], 0)
    monkeypatch.syspath_prepend(site)
    crash = poison(tmp_path / "crash.jpg", "segfault")
    batches, failures, counts = load_all(plan_of(model, quarantine=True), [crash, *photos])
    assert pixels(batches) == pixels(plain)
    assert [failure.ref.path for failure in failures] == [str(crash)]
    assert failures[0][1:3] == (Stage.DECODE, FailureCode.CORRUPT_IMAGE)
    assert "the decoder crashed (SIGSEGV) on this image" in failures[0].message
    assert counts["decode_worker_restarts"] in (1, 2)  # 2 where the worker was not fresh: a fresh one is asked, too


def pixels(batches: list[ImageBatch]) -> dict[str, tuple[bytes, Any]]:
    """Return what is known of each image."""
    return {
        ref.path: (row.tobytes(), info)
        for batch in batches
        for ref, row, info in zip(batch.refs, batch.pixels, batch.infos, strict=True)
    }


def test_quarantine_that_cannot_start_stops_the_run(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No image fails for what is wrong with the installation."""
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(Exception, match="a worker process of decode.quarantine does not start: ") as raised:
        load_all(plan_of(model, quarantine=True), make_photos(tmp_path, 3))
    assert RunError.__name__ in str(raised.value) or isinstance(raised.value, RunError)


def test_reads_that_hang_leave_no_idle_workers(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker of a thread that was replaced ends with it: there are never more of them than threads."""
    photos = make_photos(tmp_path, 5)
    stuck = {f"{tmp_path}/stuck{number}": threading.Event() for number in range(3)}
    read = loading.reading.read_image_bytes
    workers: list[int] = []

    def hang(path: str, *rest: Any) -> Any:
        if path in stuck:
            assert stuck[path].wait(100)
        workers.append(len(live_workers()))
        return read(path, *rest)

    monkeypatch.setattr(loading.reading, "read_image_bytes", hang)
    config = small_config(
        model, decode={"quarantine": True}, load={"threads": 1, "read_timeout_seconds": 0.7}, batch={"size": 2}
    )
    mixed = [photos[0], *(path for pair in zip(map(Path, stuck), photos[1:4], strict=True) for path in pair), photos[4]]
    batches, failures, _ = load_all(config.load_plan(**SIZE), mixed)
    for may_go in stuck.values():
        may_go.set()
    assert names(batches) == [photo.name for photo in photos]
    assert {failure.code for failure in failures} == {FailureCode.READ_TIMEOUT}
    assert [failure.ref.path for failure in failures] == list(stuck)
    assert workers[0] == 0
    assert max(workers[:5]) == workers[4] == 1
    assert live_workers() == []


def live_workers() -> list[int]:
    """Return the worker processes of this process that have not ended."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
            command = (stat.parent / "cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended meanwhile
        if state != "Z" and int(parent) == os.getpid() and b"transforms.quarantined" in command:
            found.append(int(stat.parent.name))
    return found


def test_run_whose_workers_are_killed_while_they_start_may_be_continued(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 130 and one line, for the input is not to blame; the same run goes on when there is memory again."""
    kill = tmp_path / "kill"
    kill.touch()
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal, sys\n"
        f"if 'transforms.quarantined' in sys.orig_argv and os.path.exists({str(kill)!r}):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(quarantine, "START_SECONDS", 4.0)
    make_photos(tmp_path / "photos", 5)
    config = small_config(model, decode={"quarantine": True}, load={"threads": 2})
    with pytest.raises(RunError) as raised:
        run_quietly(config, [tmp_path / "photos"], tmp_path / "out", run_id="night")
    assert raised.value.exit_code is ExitCode.INTERRUPTED
    assert re.fullmatch(
        r"run night broke off: worker processes of decode.quarantine are killed while they start \(tried .* in "
        r"\d\.\d s, the last error: SIGKILL\): look whether the machine is out of memory, give it more or lower "
        r"load\.threads; finished files are kept, run again with --run-id night to continue",
        str(raised.value),
    )
    kill.unlink()
    run_quietly(config, [tmp_path / "photos"], tmp_path / "out", run_id="night")
    assert pq.read_table(tmp_path / "out" / "scores" / "run_id=night").num_rows == 5


def test_run_in_memory_is_the_same_in_quarantine(
    model: Path, site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows equal those of threads; an image that crashes and one that hangs are failures there, too."""
    paths = [*map(str, make_photos(tmp_path, 5, ".jpg")), str(tmp_path / "none.jpg")]
    plain = score_in_memory(paths, small_config(model))
    monkeypatch.syspath_prepend(site)
    bad = [str(poison(tmp_path / f"{marker}.jpg", marker)) for marker in ("segfault", "hang")]
    config = small_config(model, decode={"quarantine": True, "timeout_seconds": 2})
    found = score_in_memory([*bad, *paths], config)
    assert found.scores.drop(["scored_at"]).equals(plain.scores.drop(["scored_at"]))
    assert list(zip(*found.failures.select(["image_path", "code"]).to_pydict().values(), strict=True)) == [
        (bad[0], "corrupt_image"),
        (bad[1], "decode_timeout"),
        (paths[-1], "not_found"),
    ]


@pytest.mark.heavy
def test_whole_run_with_poison_is_published_without_a_scratch(model: Path, site: Path, tmp_path: Path) -> None:
    """37 photos and three that crash, hang and swell: three rows in the failures table, all others scored as ever."""
    photos = make_photos(tmp_path / "photos", 37, ".jpg")
    config = tmp_path / "config.yaml"
    config.write_text(
        f"model: {{path: {model}, output: logits, activation: softmax}}\n"
        "preprocess: {value_range: 0_1, resize: exact}\n"
        "results: {top_k: 2}\n"
        "limits: {max_failure_rate: 0.1}\n"
    )
    expected = score_in_memory(map(str, photos), load_config(config)).scores
    for marker in ("segfault", "hang", "swell"):
        poison(tmp_path / "photos" / f"{marker}.jpg", marker)
    settings = ("decode.quarantine=true", "decode.timeout_seconds=3", "decode.max_decode_bytes=33554432")
    scores = pq.read_table(run_command(config, tmp_path, site, *settings)).sort_by("image_path")
    assert scores["image_path"].to_pylist() == [str(photo) for photo in photos]
    assert scores.drop(["scored_at"]).equals(expected.drop(["scored_at"]))
    failures = pq.read_table(tmp_path / "out" / "failures" / "run_id=poisoned").sort_by("image_path")
    assert [tuple(row.values()) for row in failures.select(["image_path", "stage", "code"]).to_pylist()] == [
        (f"{tmp_path}/photos/hang.jpg", "decode", "decode_timeout"),
        (f"{tmp_path}/photos/segfault.jpg", "decode", "corrupt_image"),
        (f"{tmp_path}/photos/swell.jpg", "decode", "too_many_pixels"),
    ]


def run_command(config: Path, folder: Path, site: Path, *settings: str) -> Path:
    """Score the photos of a folder by the command; return where the scores lie."""
    arguments = [argument for setting in settings for argument in ("--set", setting)]
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "run", "--config", config, "--input", folder / "photos", "--output",
         folder / "out", "--run-id", "poisoned", *arguments, "--", "--runner=FnApiRunner", "--direct_num_workers=1"],
        capture_output=True, text=True, timeout=150, cwd=ROOT, check=False,
        env={**os.environ, "PYTHONPATH": f"{site}{os.pathsep}{ROOT}"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder / "out" / "scores" / "run_id=poisoned"
