"""Read and decode many images at a time into batches of pixels, within a budget of memory."""

import functools
import logging
import operator
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from transforms import reading
from transforms.deadlines import GivenUp, Progress
from transforms.encoded import Encoded, encode_image
from transforms.errors import FailureCode, ImageError, RunError, Stage
from transforms.headers import probe
from transforms.images import Decoded, DecodedTwice, Fitting, decode_cost, load_image, load_image_twice
from transforms.load_plan import LoadPlan
from transforms.memory import ByteBudget, PixelBuffers
from transforms.records import Failure, ImageBatch, ImageInfo, ImageRef, now_us
from transforms.threads import LoadThreads

Prepared = Decoded | DecodedTwice | Encoded

_LOG = logging.getLogger(__name__)
# So many images that were given up are told one by one; a store that is gone would fill the log with the same line.
_TOLD_SINGLY = 5


class LoadedImage(NamedTuple):
    """One image on its way, with what it cost."""

    ref: ImageRef
    """Size and version filled from the read."""
    pixels: npt.NDArray[np.uint8] | bytes | None
    """uint8[H, W, 3], or encoded bytes for a model that takes those; None where the image failed."""
    info: ImageInfo | None
    """None where the image failed."""
    failure: Failure | None
    """None where it did not."""
    read_ms: float
    """Wall time of the read, in milliseconds."""
    decode_ms: float
    """Wall time of decode and resize, in milliseconds; without the wait for memory."""
    row: int = 0
    """Where its pixels are, once they are in a batch."""
    second: npt.NDArray[np.uint8] | None = None
    """uint8[H2, W2, 3] as LoadPlan.second wants them; None without one, and where the image failed."""


class LoadTally(NamedTuple):
    """What loading has cost."""

    images: int = 0
    """Images read, failed ones included."""
    read_bytes: int = 0
    """Encoded bytes."""
    read_ms: float = 0.0
    """Wall time of the reads, summed over threads, in milliseconds."""
    decode_ms: float = 0.0
    """Wall time of decode and resize, summed over threads, in milliseconds."""

    def plus(self, image: LoadedImage) -> "LoadTally":
        """Count one more image."""
        return LoadTally(
            self.images + 1,
            self.read_bytes + (image.ref.size_bytes or 0),
            self.read_ms + image.read_ms,
            self.decode_ms + image.decode_ms,
        )


def load_one(
    ref: ImageRef,
    plan: LoadPlan,
    budget: ByteBudget | None = None,
    progress: Progress | None = None,
    prepare_with: Callable[[bytes, LoadPlan], Prepared] | None = None,
) -> LoadedImage:
    """Read, decode and fit one image; whatever is wrong with it becomes its failure.

    Args:
        ref: The image.
        plan: How to load it.
        budget: Memory shared with other threads; None where there are none.
        progress: Tells another thread what this one is doing; None where nobody watches, and then an image that takes
            too long fails when it is done.
        prepare_with: Makes the pixels somewhere else than in this thread, with the pixels of `prepare`.

    Raises:
        GivenUp: Somebody watched, and has made a failure of the image meanwhile.
        RunError: A worker process of the quarantine does not start.
    """
    progress = progress or Progress(ref, plan.deadlines, time.perf_counter)
    stage = Stage.READ
    try:
        with progress.at(Stage.READ):
            content = reading.read_image_bytes(
                ref.path, plan.decode.max_file_bytes, ref.version, plan.load.read_timeout_seconds
            )
        stage = Stage.DECODE
        ref = progress.ref = ImageRef(ref.path, len(content.data), content.version)
        needed = _memory_needed(content.data, plan) if budget else 0
        if budget:
            budget.acquire(needed)
        try:
            with progress.at(Stage.DECODE, held=needed):
                prepared = (prepare_with or prepare)(content.data, plan)
        finally:
            if budget:
                budget.release(needed, stuck=progress.given_up)
    except ImageError as error:
        failure = Failure(ref, stage, error.code, error.message, now_us())
    except (GivenUp, RunError):
        raise
    except Exception as error:  # noqa: BLE001  foreign code over hostile bytes: it costs its image, never the night
        warn_of_unexpected(f"loading {ref.path}", error)
        code = FailureCode.CORRUPT_IMAGE if stage is Stage.DECODE else FailureCode.READ_ERROR
        failure = Failure(ref, stage, code, unexpected(error), now_us())
    else:
        second = prepared.second if isinstance(prepared, DecodedTwice) else None
        return LoadedImage(ref, prepared[0], prepared.info, None, *_spent_ms(progress), second=second)
    return LoadedImage(ref, None, None, failure, *_spent_ms(progress))


def unexpected(error: Exception) -> str:
    """Say in one line what foreign code has thrown that it does not announce."""
    return f"loading failed unexpectedly: {_in_one_line(error)}"


def warn_of_unexpected(what: str, error: Exception) -> None:
    """Log in one line that foreign code has thrown what it does not announce; where it was is a detail."""
    _LOG.warning("%s failed in a way that the decoders do not announce: %s", what, _in_one_line(error))
    _LOG.debug("in detail:", exc_info=error)


def _in_one_line(error: Exception) -> str:
    reason = str(error).split("\n")[0][:300]
    return f"{type(error).__name__}: {reason}"


def prepare(data: bytes, plan: LoadPlan) -> Prepared:
    """Make of an encoded file what the model is given, and what a challenger is given where that differs.

    Raises:
        ImageError: With the code that belongs into the failures table.
    """
    if plan.encoded:
        return encode_image(data, plan.decode)
    if plan.second is not None:
        first = Fitting(plan.preprocess, plan.height, plan.width)
        return load_image_twice(
            data, plan.decode, first, Fitting(plan.second.preprocess, plan.second.height, plan.second.width)
        )
    return load_image(data, plan.decode, plan.preprocess, plan.height, plan.width)


def _memory_needed(data: bytes, plan: LoadPlan) -> int:
    cost = decode_cost(probe(data), len(data))
    # What the guard will refuse costs nothing: it must not wait for memory that it never takes.
    return len(data) + min(cost, plan.decode.max_decode_bytes) + plan.second_bytes


def _spent_ms(progress: Progress) -> tuple[float, float]:
    return progress.spent[Stage.READ] * 1e3, progress.spent[Stage.DECODE] * 1e3


def to_batch(images: Sequence[LoadedImage], plan: LoadPlan) -> ImageBatch:
    """Put loaded images, none of them failed, into one batch."""
    pixels = new_rows(plan, len(images))
    second: npt.NDArray[Any] | None = None
    if plan.second is not None:
        second = np.empty((len(images), plan.second.height, plan.second.width, 3), np.uint8)
    for row, image in enumerate(images):
        pixels[row] = image.pixels
        if second is not None:
            second[row] = image.second
    return _batch_of([image._replace(row=row) for row, image in enumerate(images)], pixels, second)


def new_rows(plan: LoadPlan, count: int) -> npt.NDArray[Any]:
    """Return room for a batch: uint8[count, H, W, 3], or object[count] for encoded bytes."""
    if plan.encoded:
        return np.empty(count, object)
    return np.empty((count, plan.height, plan.width, 3), np.uint8)


def _batch_of(
    images: Sequence[LoadedImage], pixels: npt.NDArray[Any], second: npt.NDArray[np.uint8] | None
) -> ImageBatch:
    """Describe the rows of a batch, all of them filled."""
    images = sorted(images, key=operator.attrgetter("row"))
    return ImageBatch(
        tuple(image.ref for image in images),
        pixels[: len(images)],
        tuple(image.info for image in images if image.info is not None),
        None if second is None else second[: len(images)],
    )


class _Filling:
    """A batch whose rows are being filled."""

    def __init__(self, pixels: npt.NDArray[Any], second: npt.NDArray[Any] | None) -> None:
        self.pixels = pixels
        self.second = second
        self.images: list[LoadedImage] = []
        self.reserved = 0


class BatchLoader:
    """Loads images in threads and hands out batches in order of completion.

    Each thread puts its pixels straight into their row of a batch. While the caller computes on a batch, the threads
    go on loading the next ones: two batches and one image a thread are under way at most, and the memory of what is
    being read and decoded is bounded by LoadSettings.max_bytes_in_flight.
    An image that is read or decoded for too long is given up by the caller's thread, the next time that it adds or
    waits, and never takes a row; what its thread has later is thrown away.
    One thread uses it; pool and budget belong to the caller, so that loaders can follow each other on them.

    Args:
        plan: How to load, and how many images make a batch.
        pool: Threads to load in.
        threads: How many threads the pool has.
        load: Loads one image.
        budget: Memory; left out, as much as the plan says. A thread that hangs holds its share beyond this loader.
        clock: In seconds, always forward; replaced in tests only.
        abandon: Told of each thread that was given up with its image: what it has besides is of no use any more.
    """

    def __init__(
        self,
        plan: LoadPlan,
        pool: LoadThreads,
        threads: int,
        load: Callable[[ImageRef, LoadPlan, ByteBudget, Progress], LoadedImage] = load_one,
        budget: ByteBudget | None = None,
        clock: Callable[[], float] = time.perf_counter,
        abandon: Callable[[threading.Thread], object] | None = None,
    ) -> None:
        self._plan = plan
        self._pool = pool
        self._load = load
        self._limit = 2 * plan.batch_size + threads
        self._budget = budget or ByteBudget(plan.load.max_bytes_in_flight)
        self._done: queue.SimpleQueue[tuple[LoadedImage, _Filling | None] | BaseException] = queue.SimpleQueue()
        self._under_way = 0
        self._buffers, self._second_buffers = PixelBuffers(), PixelBuffers()
        self._reserving = threading.Lock()
        self._filling: _Filling | None = None
        self._tally = LoadTally()
        self._clock = clock
        self._abandon = abandon
        self._deadlines = plan.deadlines
        # What threads are at. Adding, removing and copying are one step each under the interpreter's lock.
        self._at_work: set[Progress] = set()
        self._shortest = min(map(self._deadlines.allowed, (Stage.READ, Stage.DECODE)))
        self._look_at = clock() + self._shortest

    def add(self, ref: ImageRef) -> Iterator[ImageBatch | Failure]:
        """Start loading an image; yield what has been completed meanwhile."""
        while self._under_way >= self._limit:
            yield from self._wait()
        self._pool.submit(functools.partial(self._run, ref))
        self._under_way += 1
        while not self._done.empty():
            yield from self._take(self._done.get())
        yield from self._look()

    def finish(self) -> Iterator[ImageBatch | Failure]:
        """Wait for everything under way; yield it, the last batch with what is left."""
        while self._under_way:
            yield from self._wait()
        rest, self._filling = self._filling, None
        if rest is not None and rest.reserved < self._plan.batch_size:
            yield _batch_of(rest.images, rest.pixels, rest.second)

    def take_tally(self) -> LoadTally:
        """Return what loading has cost since the last call."""
        tally, self._tally = self._tally, LoadTally()
        return tally

    def _run(self, ref: ImageRef) -> None:
        progress = Progress(ref, self._deadlines, self._clock)
        self._at_work.add(progress)
        try:
            image = self._load(ref, self._plan, self._budget, progress)
            if image.failure is not None:
                self._done.put((image, None))
                return
            filling, row = self._reserve()
            filling.pixels[row] = image.pixels
            if filling.second is not None:
                filling.second[row] = image.second
            self._done.put((image._replace(pixels=None, second=None, row=row), filling))
        except GivenUp:
            return  # its failure has been handed out
        except BaseException as error:  # noqa: BLE001  the caller raises it
            # Nothing may end a thread without a word: the caller would wait for ever.
            self._done.put(error)
        finally:
            self._at_work.discard(progress)

    def _wait(self) -> Iterator[ImageBatch | Failure]:
        """Wait until an image is done or one may be over its time; yield what comes of it."""
        try:
            done = self._done.get(timeout=max(0.0, self._look_at - self._clock()))
        except queue.Empty:
            yield from self._look()
        else:
            yield from self._take(done)

    def _look(self) -> Iterator[ImageBatch | Failure]:
        """Give up what is over its time."""
        now = self._clock()
        if now < self._look_at:
            return
        # What begins after this moment has at least so long: nothing is missed, and nobody looks in vain before.
        self._look_at = now + self._shortest
        for progress in self._at_work.copy():
            error = progress.give_up(now)
            if error is None or progress.stage is None:
                self._look_at = min(self._look_at, progress.ends_at())
                continue
            self._at_work.discard(progress)
            self._budget.give_up(progress.held)
            _warn_of_hanging(progress.ref.path, error, self._pool.replace(progress.thread))
            if self._abandon:
                self._abandon(progress.thread)
            failure = Failure(progress.ref, progress.stage, error.code, error.message, now_us())
            image = LoadedImage(progress.ref, None, None, failure, *_spent_ms(progress))
            yield from self._take((image, None))

    def _reserve(self) -> tuple[_Filling, int]:
        with self._reserving:
            if self._filling is None or self._filling.reserved == self._plan.batch_size:
                self._filling = _Filling(self._new_pixels(), self._new_second_pixels())
            self._filling.reserved += 1
            return self._filling, self._filling.reserved - 1

    def _new_pixels(self) -> npt.NDArray[Any]:
        if self._plan.encoded:
            return new_rows(self._plan, self._plan.batch_size)
        return self._buffers.take((self._plan.batch_size, self._plan.height, self._plan.width, 3))

    def _new_second_pixels(self) -> npt.NDArray[np.uint8] | None:
        second = self._plan.second
        if second is None:
            return None
        return self._second_buffers.take((self._plan.batch_size, second.height, second.width, 3))

    def _take(self, done: tuple[LoadedImage, _Filling | None] | BaseException) -> Iterator[ImageBatch | Failure]:
        self._under_way -= 1
        if isinstance(done, BaseException):
            raise done
        image, filling = done
        self._tally = self._tally.plus(image)
        if image.failure is not None:
            yield image.failure
        elif filling is not None:
            filling.images.append(image)
            if len(filling.images) == self._plan.batch_size:
                yield _batch_of(filling.images, filling.pixels, filling.second)


def _warn_of_hanging(path: str, error: ImageError, count: int) -> None:
    if count <= _TOLD_SINGLY:
        _LOG.warning("%s was given up, and a thread hangs with it: %s", path, error.message)
    elif count == 10 ** (len(str(count)) - 1):
        _LOG.warning(
            "%d images were given up so far, and a thread hangs with each; the last one is %s: %s",
            count, path, error.message,
        )  # fmt: skip
