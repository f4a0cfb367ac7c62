"""StatImages: the versions of images whose listing did not tell them, asked of the storage in threads."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import apache_beam as beam
from apache_beam.utils.windowed_value import WindowedValue

from transforms.bundles import at_end, check_windows
from transforms.load_plan import thread_count
from transforms.observe import Count
from transforms.records import ImageRef
from transforms.settings import LoadSettings
from transforms.storage import is_remote
from transforms.worklist import Choice, Listed, Unasked, ask

TODO = "todo"
SKIPPED = "skipped"
# Answers come back in order: a slow one holds up no more than these.
_QUESTIONS_A_THREAD = 8


@dataclass
class StatImages(beam.PTransform):
    """Ask for the versions of images that an earlier run has scored; PCollection[Unasked] in.

    Two outputs: `todo`, PCollection[ImageRef], what has changed, with size and version filled, and what the storage
    does not tell or does not have, without; `skipped`, PCollection[int], a 1 for each image that is as it was.
    """

    load: LoadSettings
    """How many threads ask."""

    def __post_init__(self) -> None:
        super().__init__()

    @beam.typehints.no_annotations  # Beam knows no hint for several outputs and warns of it
    def expand(self, images: beam.PCollection[Unasked]) -> beam.pvalue.DoOutputsTuple:
        """Ask within each bundle."""
        check_windows(images, "StatImages needs globally windowed images, for they come out later than they go in")
        return images | "Stat" >> beam.ParDo(_StatDoFn(self.load)).with_output_types(
            ImageRef, skipped=int
        ).with_outputs(SKIPPED, main=TODO)


class _StatDoFn(beam.DoFn):
    def __init__(self, load: LoadSettings) -> None:
        self._load = load
        self._asked = Count("stat_images")
        self._skipped = Count("skipped_images")

    def setup(self) -> None:
        self._pool: ThreadPoolExecutor | None = None

    def start_bundle(self) -> None:
        self._under_way: deque[Future[Choice]] = deque()

    def process(self, image: Unasked) -> Iterator[Listed | beam.pvalue.TaggedOutput[Literal["skipped"], int]]:
        if self._pool is None:
            self._threads = thread_count(self._load, is_remote(image.ref.path))
            self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="stat")
        self._under_way.append(self._pool.submit(ask, image))
        limit = _QUESTIONS_A_THREAD * self._threads
        while self._under_way and (len(self._under_way) > limit or self._under_way[0].done()):
            choice = self._finish()
            if choice.skipped:
                yield beam.pvalue.TaggedOutput(SKIPPED, 1)
            elif choice.todo is not None:
                yield choice.todo

    def finish_bundle(self) -> Iterator[WindowedValue | beam.pvalue.TaggedOutput[Literal["skipped"], int]]:
        while self._under_way:
            choice = self._finish()
            if choice.skipped:
                yield beam.pvalue.TaggedOutput(SKIPPED, at_end(1))
            else:
                yield at_end(choice.todo)

    def teardown(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def _finish(self) -> Choice:
        choice = self._under_way.popleft().result()
        self._asked.add(1)
        self._skipped.add(int(choice.skipped))
        return choice
