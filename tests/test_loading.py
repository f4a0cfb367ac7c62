"""Loading: every image once, in threads, within its budget; every trouble has its stage and code."""

import dataclasses
import functools
import io
import logging
import os
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from transforms import loading, storage
from transforms.errors import FailureCode, ImageError, Stage
from transforms.images import decode_cost, load_image
from transforms.load_plan import LoadPlan, thread_count
from transforms.loading import BatchLoader, LoadedImage, LoadTally, load_one, prepare
from transforms.memory import ByteBudget
from transforms.reading import FileContent
from transforms.records import Failure, ImageBatch, ImageInfo, ImageRef
from transforms.settings import DecodeSettings, LoadSettings, PreprocessSettings
from transforms.threads import LoadThreads

MIB = 1024**2


def plan(batch_size: int = 4, size: int = 2, **decode: int) -> LoadPlan:
    """Return a plan for small square inputs."""
    return LoadPlan(
        decode=DecodeSettings(**decode),
        preprocess=PreprocessSettings(value_range="0_255", resize="exact"),
        height=size,
        width=size,
        load=LoadSettings(),
        batch_size=batch_size,
    )


def photo(file: Path, width: int = 8, height: int = 6, colour: tuple[int, int, int] = (200, 10, 30)) -> ImageRef:
    """Write a PNG of one colour; return it as a manifest names it."""
    Image.new("RGB", (width, height), colour).save(file, "PNG")
    return ImageRef(str(file), None, None)


class TestLoadOne:
    def test_image_comes_with_all_that_is_known(self, tmp_path: Path) -> None:
        """Pixels of the model's size, the image's own size and format, the bytes and version that were read."""
        ref = photo(tmp_path / "x.dat", 8, 6)
        found = storage.stat(ref.path)
        assert found is not None
        loaded = load_one(ref, plan())
        assert loaded.ref == ImageRef(*found)
        assert loaded.info is not None
        assert loaded.info[:4] == (8, 6, "png", found.size_bytes)
        assert loaded.failure is None
        assert isinstance(loaded.pixels, np.ndarray)
        assert loaded.pixels.tolist() == [[[200, 10, 30]] * 2] * 2

    @pytest.mark.parametrize(
        ("name", "content", "limits", "stage", "code"),
        [
            ("none", None, {}, Stage.READ, FailureCode.NOT_FOUND),
            ("empty", b"", {}, Stage.READ, FailureCode.EMPTY_FILE),
            ("large", b"x" * 100, {"max_file_bytes": 99}, Stage.READ, FailureCode.TOO_LARGE_FILE),
            ("text", b"no image at all", {}, Stage.DECODE, FailureCode.UNSUPPORTED_FORMAT),
            ("cut", "half", {}, Stage.DECODE, FailureCode.TRUNCATED_IMAGE),
            ("wide", "whole", {"max_decode_bytes": 10}, Stage.DECODE, FailureCode.TOO_MANY_PIXELS),
        ],
    )
    def test_every_trouble_has_stage_and_code(
        self, tmp_path: Path, name: str, content: Any, limits: dict[str, int], stage: Stage, code: FailureCode
    ) -> None:
        """And the size and version where the read got so far; the budget is given back."""
        if isinstance(content, str):
            noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
            buffer = io.BytesIO()
            Image.fromarray(noise).save(buffer, "JPEG")
            content = buffer.getvalue()[: len(buffer.getvalue()) // (2 if content == "half" else 1)]
        if content is not None:
            (tmp_path / name).write_bytes(content)
        budget = Recorder(MIB)
        before = time.time_ns() // 1000
        loaded = load_one(ImageRef(f"{tmp_path}/{name}", None, None), plan(**limits), budget)
        assert loaded.pixels is None
        assert loaded.info is None
        failure = loaded.failure
        assert failure is not None
        assert (failure.stage, failure.code) == (stage, code)
        assert before <= failure.failed_at_us <= time.time_ns() // 1000
        known = storage.stat(f"{tmp_path}/{name}") if stage is Stage.DECODE else None
        assert failure.ref == loaded.ref == ImageRef(*(known or (f"{tmp_path}/{name}", None, None)))
        assert budget.held == 0

    def test_failed_read_keeps_what_the_listing_said(self, tmp_path: Path) -> None:
        """The failures table can say how large the missing file was."""
        ref = ImageRef(f"{tmp_path}/gone.jpg", 123, "7-123")
        assert load_one(ref, plan()).ref == ref

    @pytest.mark.parametrize(
        ("place", "stage", "code"),
        [
            ("reading.read_image_bytes", Stage.READ, FailureCode.READ_ERROR),
            ("probe", Stage.DECODE, FailureCode.CORRUPT_IMAGE),
            ("load_image", Stage.DECODE, FailureCode.CORRUPT_IMAGE),
        ],
    )
    def test_unexpected_exception_is_logged_and_costs_one_image(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        place: str,
        stage: Stage,
        code: FailureCode,
    ) -> None:
        """Decoders are foreign code: what they throw is a failures row and a line of the log; where, a detail."""

        def fail(*_: Any, **__: Any) -> None:
            raise ZeroDivisionError("no such\nthing")

        ref = photo(tmp_path / "x.png")
        monkeypatch.setattr(f"transforms.loading.{place}", fail)
        budget = Recorder(MIB)
        with caplog.at_level(logging.DEBUG, "transforms.loading"):
            loaded = load_one(ref, plan(), budget)
        assert loaded.failure is not None
        assert loaded.failure[1:4] == (stage, code, "loading failed unexpectedly: ZeroDivisionError: no such")
        warning, detail = caplog.records
        assert (warning.levelno, warning.exc_info, warning.getMessage()) == (
            logging.WARNING,
            None,
            f"loading {ref.path} failed in a way that the decoders do not announce: ZeroDivisionError: no such",
        )
        assert detail.levelno == logging.DEBUG
        assert detail.exc_info is not None
        assert budget.held == 0

    def test_time_is_told_apart(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Read and decode, and neither holds the wait for memory; a read that fails has decoded nothing."""
        ref = photo(tmp_path / "x.png")
        now = [0.0]

        def spend(seconds: float, function: Callable[..., Any]) -> Callable[..., Any]:
            def spent(*arguments: Any) -> Any:
                now[0] += seconds
                return function(*arguments)

            return spent

        monkeypatch.setattr(time, "perf_counter", lambda: now[0])
        monkeypatch.setattr(loading.reading, "read_image_bytes", spend(1, loading.reading.read_image_bytes))
        monkeypatch.setattr(loading, "load_image", spend(10, load_image))
        budget = ByteBudget(MIB)
        monkeypatch.setattr(budget, "acquire", spend(100, budget.acquire))
        loaded = load_one(ref, plan(), budget)
        assert (loaded.read_ms, loaded.decode_ms) == (1000, 10_000)
        (tmp_path / "text").write_bytes(b"no image")
        assert load_one(ImageRef(f"{tmp_path}/text", None, None), plan())[4:6] == (1000, 10_000)
        assert load_one(ImageRef(f"{tmp_path}/none", None, None), plan())[4:6] == (1000, 0)

    def test_memory_is_reckoned_from_the_header(self, tmp_path: Path) -> None:
        """Encoded bytes and what decoding needs; an image over the limit asks for no more than the limit."""
        ref = photo(tmp_path / "x.png", 400, 300)
        data = (tmp_path / "x.png").read_bytes()
        budget = Recorder(10**9)
        load_one(ref, plan(), budget)
        load_one(ref, plan(max_decode_bytes=1000), budget)
        assert budget.asked == [len(data) + decode_cost(loading.probe(data), len(data)), len(data) + 1000]


class Recorder(ByteBudget):
    """A budget that remembers what was asked of it."""

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self.asked: list[int] = []
        self.held = 0
        self._recording = threading.Lock()

    def acquire(self, amount: int) -> None:
        super().acquire(amount)
        with self._recording:
            self.asked.append(amount)
            self.held += amount

    def release(self, amount: int, *, stuck: bool = False) -> None:
        with self._recording:
            self.held -= amount
        super().release(amount, stuck=stuck)


INFO = ImageInfo(10, 10, "jpeg", 5, "pillow")


def pixels_of(number: int) -> np.ndarray:
    """Return pixels that only this image has."""
    return np.full((2, 2, 3), number % 251, np.uint8)


def good(number: int) -> LoadedImage:
    """Return an image as load_one would."""
    return LoadedImage(ImageRef(str(number), 5, "v"), pixels_of(number), INFO, None, 1.0, 2.0)


def bad(number: int) -> LoadedImage:
    """Return a failure as load_one would."""
    ref = ImageRef(str(number), None, None)
    failure = Failure(ref, Stage.READ, FailureCode.NOT_FOUND, "there is no such file", 0)
    return LoadedImage(ref, None, None, failure, 1.0, 0.0)


def run(
    numbers: Iterable[int], load: Callable[..., LoadedImage], threads: int = 3, batch_size: int = 4
) -> Iterator[ImageBatch | Failure]:
    """Load numbers with a fake; yield what comes out."""
    with LoadThreads(threads) as pool:
        loader = BatchLoader(plan(batch_size), pool, threads, load)
        for number in numbers:
            yield from loader.add(ImageRef(str(number), None, None))
        yield from loader.finish()


class TestBatchLoader:
    @settings(deadline=None, max_examples=40)
    @given(
        fates=st.lists(st.sampled_from(["good", "slow", "bad", "slow bad"]), max_size=40),
        threads=st.integers(1, 5),
        batch_size=st.integers(1, 7),
    )
    def test_every_image_comes_out_once(self, fates: list[str], threads: int, batch_size: int) -> None:
        """In a batch with its own pixels, or as a failure; all batches but the last are full."""

        def load(ref: ImageRef, *_: Any) -> LoadedImage:
            number = int(ref.path)
            if "slow" in fates[number]:
                time.sleep(random.random() * 0.002)  # noqa: S311
            return bad(number) if "bad" in fates[number] else good(number)

        batches, failed = [], []
        for found in run(range(len(fates)), load, threads, batch_size):
            (failed if isinstance(found, Failure) else batches).append(found)
        loaded = []
        for batch in batches:
            assert isinstance(batch, ImageBatch)
            assert batch.infos == (INFO,) * len(batch)
            for ref, row in zip(batch.refs, batch.pixels, strict=True):
                assert (row == pixels_of(int(ref.path))).all()
                assert ref[1:] == (5, "v")
                loaded.append(int(ref.path))
        assert sorted(loaded) == [n for n, fate in enumerate(fates) if "bad" not in fate]
        assert sorted(int(failure.ref.path) for failure in failed) == [n for n, f in enumerate(fates) if "bad" in f]
        assert [len(batch) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)
        assert not batches or 0 < len(batches[-1]) <= batch_size

    def test_batches_fill_in_order_of_completion(self) -> None:
        """A slow image delays itself only."""
        last_has_begun = threading.Event()

        def load(ref: ImageRef, *_: Any) -> LoadedImage:
            if ref.path == "0":
                assert last_has_begun.wait(10)
                time.sleep(0.02)
            if ref.path == "4":
                last_has_begun.set()
            return good(int(ref.path))

        found = run(range(5), load, threads=2, batch_size=2)
        paths = [[ref.path for ref in batch.refs] for batch in found if isinstance(batch, ImageBatch)]
        assert paths == [["1", "2"], ["3", "4"], ["0"]]

    def test_batches_do_not_share_memory(self) -> None:
        """The next batch is filled while the model still reads the last."""
        batches = [
            batch for batch in run(range(12), lambda ref, *_: good(int(ref.path))) if isinstance(batch, ImageBatch)
        ]
        for number, batch in enumerate(batches):
            assert not any(np.shares_memory(batch.pixels, other.pixels) for other in batches[number + 1 :])

    def test_only_so_many_images_are_under_way(self) -> None:
        """Two batches and one image a thread: a slow model does not fill the memory with pixels."""
        threads, batch_size = 3, 4
        started, taken = [], [0]
        lock = threading.Lock()
        most = [0]

        def load(ref: ImageRef, *_: Any) -> LoadedImage:
            with lock:
                started.append(ref.path)
                most[0] = max(most[0], len(started) - taken[0])
            return good(int(ref.path))

        for found in run(range(60), load, threads, batch_size):
            assert isinstance(found, ImageBatch)
            time.sleep(0.002)  # the model
            with lock:
                taken[0] += len(found)
        assert taken[0] == 60
        # One batch more is handed out but not yet counted by this test.
        assert most[0] <= 2 * batch_size + threads + batch_size

    def test_adding_waits_when_too_many_are_under_way(self) -> None:
        """The caller is held up, so that listing runs no faster than loading."""
        gate = threading.Semaphore(0)

        def load(ref: ImageRef, *_: Any) -> LoadedImage:
            assert gate.acquire(timeout=10)
            return good(int(ref.path))

        with LoadThreads(2) as pool:
            loader = BatchLoader(plan(3), pool, 2, load)
            for number in range(8):  # 2 x 3 + 2
                assert list(loader.add(ImageRef(str(number), None, None))) == []
            late = threading.Thread(target=lambda: list(loader.add(ImageRef("8", None, None))))
            late.start()
            late.join(0.05)
            assert late.is_alive()
            gate.release()
            late.join(10)
            assert not late.is_alive()
            for _ in range(8):
                gate.release()
            assert sum(len(batch) for batch in loader.finish() if isinstance(batch, ImageBatch)) == 9

    @pytest.mark.parametrize("error", [RuntimeError("boom"), MemoryError(), SystemExit(3), KeyboardInterrupt()])
    def test_exception_in_a_thread_reaches_the_caller(self, error: BaseException) -> None:
        """Whatever it is: nothing waits for an image that never comes."""

        def load(ref: ImageRef, *_: Any) -> LoadedImage:
            if ref.path == "5":
                raise error
            return good(int(ref.path))

        with pytest.raises(type(error)):
            list(run(range(10), load))

    def test_pool_that_is_closed_is_an_error_at_once(self) -> None:
        """And finishing does not wait for what was never begun."""
        has_begun = threading.Event()

        def load(ref: ImageRef, *_: Any) -> LoadedImage:
            has_begun.set()
            return good(int(ref.path))

        pool = LoadThreads(1)
        loader = BatchLoader(plan(), pool, 1, load)
        assert list(loader.add(ImageRef("0", None, None))) in ([], [None])
        assert has_begun.wait(10)
        pool.close()
        with pytest.raises(RuntimeError, match="shutdown"):
            list(loader.add(ImageRef("1", None, None)))
        assert [len(batch) for batch in loader.finish() if isinstance(batch, ImageBatch)] == [1]

    def test_nothing_in_nothing_out(self) -> None:
        """An empty bundle makes no empty batch."""
        assert list(run([], lambda ref, *_: good(int(ref.path)))) == []

    def test_tally_counts_failed_images_too_and_starts_again(self) -> None:
        """What loading has cost since the last call."""
        with LoadThreads(1) as pool:
            loader = BatchLoader(plan(), pool, 1, lambda ref, *_: (bad if ref.path == "1" else good)(int(ref.path)))
            for number in range(3):
                list(loader.add(ImageRef(str(number), None, None)))
            list(loader.finish())
        assert loader.take_tally() == LoadTally(images=3, read_bytes=10, read_ms=3.0, decode_ms=4.0)
        assert loader.take_tally() == LoadTally()

    def test_loaders_follow_each_other_on_one_pool(self) -> None:
        """One bundle after the other, threads made once."""
        with LoadThreads(2) as pool:
            for start in (0, 10):
                loader = BatchLoader(plan(), pool, 2, lambda ref, *_: good(int(ref.path)))
                found: list[Any] = []
                for number in range(start, start + 5):
                    found += loader.add(ImageRef(str(number), None, None))
                found += loader.finish()
                assert sorted(int(ref.path) for batch in found for ref in batch.refs) == list(range(start, start + 5))

    def test_real_images_are_loaded_within_the_budget(self, tmp_path: Path) -> None:
        """20 photos that need half a megabyte each, and a budget of one: two at a time, and all arrive."""
        refs = [photo(tmp_path / f"{n}.png", 400, 300, (n, 0, 0)) for n in range(20)]
        small = LoadPlan(
            **{
                **{name: getattr(plan(6), name) for name in ("decode", "preprocess", "height", "width", "batch_size")},
                "load": LoadSettings(max_bytes_in_flight=MIB),
            }
        )
        with LoadThreads(4) as pool:
            loader = BatchLoader(small, pool, 4)
            found: list[Any] = []
            for ref in refs:
                found += loader.add(ref)
            found += loader.finish()
        assert [len(batch) for batch in found] == [6, 6, 6, 2]
        loaded = {
            ref.path: int(row[0, 0, 0]) for batch in found for ref, row in zip(batch.refs, batch.pixels, strict=True)
        }
        assert loaded == {f"{tmp_path}/{n}.png": n for n in range(20)}


class Clock:
    """A clock that goes when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Hangs:
    """Prepares images as ever, but for those of one colour, which hang until they may go on."""

    def __init__(self, colour: int) -> None:
        self.colour = colour
        self.has_begun = threading.Semaphore(0)
        self.may_go = threading.Event()

    def __call__(self, data: bytes, plan: LoadPlan) -> Any:
        made = prepare(data, plan)
        if made[0][0][0][0] == self.colour:
            self.has_begun.release()
            assert self.may_go.wait(60)
        return made


def limited(**load: Any) -> LoadPlan:
    """Return a plan whose images may be decoded for 10 seconds and read for 20."""
    return dataclasses.replace(
        plan(),
        decode=DecodeSettings(timeout_seconds=10),
        load=LoadSettings(**{"read_timeout_seconds": 20, **load}),
    )


DECODE_TEXT = (
    "decoding and resizing did not end within the 10 s that decode.timeout_seconds allows: look at the image, or "
    "raise it"
)
READ_TEXT = (
    "reading did not end within the 20 s that load.read_timeout_seconds allows: look at the storage, or raise it"
)


def paths(found: Iterable[ImageBatch | Failure]) -> list[str]:
    """Return the names of all images in batches, sorted; each has its own pixels."""
    loaded = []
    for batch in found:
        if isinstance(batch, ImageBatch):
            for ref, row in zip(batch.refs, batch.pixels, strict=True):
                assert (row == int(Path(ref.path).stem)).all(), ref.path
                loaded.append(ref.path)
    return sorted(loaded)


class TestDeadlines:
    def test_decoder_that_hangs_costs_its_image(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        """One failure with size and version; the others go on; what comes of it later is thrown away."""
        refs = [photo(tmp_path / f"{n}.png", colour=(n, n, n)) for n in range(6)]
        hangs, clock, budget = Hangs(0), Clock(), Recorder(MIB)
        with LoadThreads(1) as pool:
            load = functools.partial(load_one, prepare_with=hangs)
            loader = BatchLoader(limited(), pool, 1, load, budget, clock)
            found = list(loader.add(refs[0]))
            assert hangs.has_begun.acquire(timeout=60)
            clock.now = 10.0
            found += loader.add(refs[1])
            assert found == []
            clock.now = 10.5
            (failure,) = loader.add(refs[2])
            for ref in refs[3:]:
                found += loader.add(ref)
            found += loader.finish()
            assert isinstance(failure, Failure)
            assert failure.ref == ImageRef(*(storage.stat(refs[0].path) or ()))
            assert failure[1:4] == (Stage.DECODE, FailureCode.DECODE_TIMEOUT, DECODE_TEXT)
            assert paths(found) == [ref.path for ref in refs[1:]]
            assert [len(batch) for batch in found] == [4, 1]
            assert budget.held > 0, "its memory is in use"
            assert loader.take_tally()[:3] == (6, sum(os.path.getsize(ref.path) for ref in refs), 0.0)
            hangs.may_go.set()
            assert wait_until(lambda: budget.held == 0)
            assert list(loader.finish()) == []
            assert loader.take_tally() == LoadTally()
        assert f"{refs[0].path} was given up, and a thread hangs with it: {DECODE_TEXT}" in caplog.text

    def test_many_images_that_hang_are_told_in_few_lines(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The first five, and then each power of ten with their number, over all loaders of the pool; each fails."""
        refs = [photo(tmp_path / f"{n}.png", colour=(0, 0, 0)) for n in range(12)]
        hangs, clock, abandoned, found = Hangs(0), Clock(), [], []
        load = functools.partial(load_one, prepare_with=hangs)
        with LoadThreads(1) as pool:
            for start in (0, 6):
                loader = BatchLoader(limited(), pool, 1, load, clock=clock, abandon=abandoned.append)
                for ref in refs[start : start + 6]:
                    found += loader.add(ref)
                    assert hangs.has_begun.acquire(timeout=60)
                    clock.now += 10.5
                found += loader.finish()
            hangs.may_go.set()
        assert [failure.ref.path for failure in found] == [ref.path for ref in refs]
        assert len(set(abandoned)) == 12
        assert [record.getMessage() for record in caplog.records] == [
            *(f"{ref.path} was given up, and a thread hangs with it: {DECODE_TEXT}" for ref in refs[:5]),
            f"10 images were given up so far, and a thread hangs with each; the last one is {refs[9].path}: "
            f"{DECODE_TEXT}",
        ]

    def test_read_that_hangs_costs_its_image(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """After a grace in which the read can say by itself what is wrong; what the listing said is kept."""
        ref = photo(tmp_path / "7.png", colour=(7, 7, 7))
        has_begun, may_go = threading.Event(), threading.Event()
        read = loading.reading.read_image_bytes
        decoded: list[bytes] = []

        def hang(path: str, *rest: Any) -> Any:
            if path == "nowhere":
                has_begun.set()
                assert may_go.wait(60)
                return read(ref.path, *rest)
            return read(path, *rest)

        def record(data: bytes, plan: LoadPlan) -> Any:
            decoded.append(data)
            return prepare(data, plan)

        monkeypatch.setattr(loading.reading, "read_image_bytes", hang)
        clock = Clock()
        with LoadThreads(1) as pool:
            loader = BatchLoader(limited(), pool, 1, functools.partial(load_one, prepare_with=record), clock=clock)
            assert list(loader.add(ImageRef("nowhere", 5, "v"))) == []
            assert has_begun.wait(60)
            clock.now = 25.0
            assert list(loader.add(ref)) == []
            clock.now = 25.5
            (failure, batch) = loader.finish()
            assert isinstance(failure, Failure)
            assert failure[:4] == (ImageRef("nowhere", 5, "v"), Stage.READ, FailureCode.READ_TIMEOUT, READ_TEXT)
            assert paths([batch]) == [ref.path]
            may_go.set()
        assert wait_until(lambda: all(thread.name != "load" for thread in threading.enumerate()))
        assert len(decoded) == 1, "what was read for nobody is not decoded"

    def test_image_that_comes_too_late_fails_where_nobody_was_looking(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The caller may be with the model; and in a plain loop there is nobody else."""
        clock = Clock()
        monkeypatch.setattr(time, "perf_counter", clock)

        def late(data: bytes, plan: LoadPlan) -> Any:
            clock.now += 10.5
            return prepare(data, plan)

        failure = load_one(photo(tmp_path / "0.png"), limited(), prepare_with=late).failure
        assert failure is not None
        assert failure[1:4] == (Stage.DECODE, FailureCode.DECODE_TIMEOUT, DECODE_TEXT)
        assert failure.ref.size_bytes is not None

    def test_pool_keeps_its_width(self, tmp_path: Path) -> None:
        """As many images are decoded at a time as before two of them hung."""
        refs = [photo(tmp_path / f"{n}.png", colour=(n, n, n)) for n in range(1, 9)]
        stuck = [photo(tmp_path / f"0{n}.png", colour=(0, 0, 0)) for n in range(2)]
        hangs, clock, barrier = Hangs(0), Clock(), threading.Barrier(2)

        def meet(data: bytes, plan: LoadPlan) -> Any:
            made = hangs(data, plan)
            if not hangs.may_go.is_set():
                barrier.wait(60)
            return made

        with LoadThreads(2) as pool:
            loader = BatchLoader(limited(), pool, 2, functools.partial(load_one, prepare_with=meet), clock=clock)
            for ref in stuck:
                assert list(loader.add(ref)) == []
                assert hangs.has_begun.acquire(timeout=60)
            clock.now = 11.0
            found = [found for ref in refs for found in loader.add(ref)] + list(loader.finish())
            hangs.may_go.set()
        failed = [failure.ref.path for failure in found if isinstance(failure, Failure)]
        assert sorted(failed) == [ref.path for ref in stuck]
        assert paths(found) == [ref.path for ref in refs]

    def test_waiting_for_memory_that_a_decoder_holds_for_ever_has_an_end(self, tmp_path: Path) -> None:
        """It is no work: nobody is given up for it. When the one that hangs is, the others go on, one by one."""
        large = photo(tmp_path / "0.png", 700, 700, (0, 0, 0))  # more than the whole budget
        refs = [photo(tmp_path / f"{n}.png", 400, 300, (n, n, n)) for n in range(1, 9)]
        hangs, clock, budget = Hangs(0), Clock(), Recorder(MIB)
        small = limited(max_bytes_in_flight=MIB)
        with LoadThreads(3) as pool:
            loader = BatchLoader(small, pool, 3, functools.partial(load_one, prepare_with=hangs), budget, clock)
            assert list(loader.add(large)) == []
            assert hangs.has_begun.acquire(timeout=60)
            for ref in refs:
                assert list(loader.add(ref)) == []
            clock.now = 10.5  # the others have waited as long
            found = list(loader.finish())
            held = budget.held
            hangs.may_go.set()
        assert [failure.ref.path for failure in found if isinstance(failure, Failure)] == [large.path]
        assert paths(found) == [ref.path for ref in refs]
        assert held > MIB, "what hangs is still counted"

    @settings(deadline=None, max_examples=10)
    @given(seed=st.integers(0, 2**32), threads=st.integers(1, 8), batch_size=st.integers(1, 5))
    def test_every_image_comes_out_once_whatever_the_timing(self, seed: int, threads: int, batch_size: int) -> None:
        """Reads, waits and decoders that end around their deadlines, a caller that is away: one row or one failure."""
        chance = random.Random(seed)  # noqa: S311
        count = 40
        seconds = {n: (chance.uniform(0, 0.012), chance.choice((0, chance.uniform(0.004, 0.02)))) for n in range(count)}
        limits = dataclasses.replace(
            plan(batch_size),
            decode=DecodeSettings(timeout_seconds=0.01),
            load=LoadSettings(read_timeout_seconds=0.01, max_bytes_in_flight=MIB),
        )

        def read(path: str, *_: Any) -> FileContent:
            time.sleep(seconds[int(path)][0])
            return FileContent(PNGS[int(path)], "v")

        def slow(data: bytes, plan: LoadPlan) -> Any:
            time.sleep(seconds[PNGS.index(data)][1])
            return prepare(data, plan)

        found: list[Any] = []
        budget = Recorder(300)  # about one at a time
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loading.reading, "read_image_bytes", read)
            patch.setattr("transforms.deadlines._READ_GRACE", 0.0)
            with LoadThreads(threads) as pool:
                loader = BatchLoader(limits, pool, threads, functools.partial(load_one, prepare_with=slow), budget)
                for number in range(count):
                    found += loader.add(ImageRef(str(number), None, None))
                    if chance.random() < 0.1:
                        time.sleep(0.01)  # the model
                found += loader.finish()
                assert wait_until(lambda: budget.held == 0)
                assert list(loader.finish()) == []
        failed = [failure for failure in found if isinstance(failure, Failure)]
        assert {failure.code for failure in failed} <= {FailureCode.READ_TIMEOUT, FailureCode.DECODE_TIMEOUT}
        assert sorted([int(failure.ref.path) for failure in failed] + list(map(int, paths(found)))) == list(
            range(count)
        )
        batches = [len(batch) for batch in found if isinstance(batch, ImageBatch)]
        assert batches[:-1] == [batch_size] * (len(batches) - 1)
        assert loader.take_tally().images == count


def png(colour: int) -> bytes:
    """Return a PNG of one grey."""
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (colour, colour, colour)).save(buffer, "PNG")
    return buffer.getvalue()


PNGS = [png(number) for number in range(40)]


def wait_until(condition: Callable[[], bool], seconds: float = 30.0) -> bool:
    """Wait for something that happens in another thread."""
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.001)
    return True


@pytest.mark.parametrize(
    ("settings_", "remote", "threads"),
    [
        (LoadSettings(), False, os.cpu_count()),
        (LoadSettings(), True, 4 * (os.cpu_count() or 1)),
        (LoadSettings(threads=7), True, 7),
    ],
)
def test_threads_suit_the_storage(settings_: LoadSettings, remote: bool, threads: int) -> None:
    """Reads from a store wait more than they compute; what is set is heeded."""
    assert thread_count(settings_, remote) == threads


def test_image_errors_read_as_code_and_sentence() -> None:
    """As they appear in a log."""
    assert str(ImageError(FailureCode.EMPTY_FILE, "the file has no bytes")) == "empty_file: the file has no bytes"
