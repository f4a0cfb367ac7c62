"""LoadBatches: from names of images to batches of pixels."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import apache_beam as beam
from apache_beam.utils.windowed_value import WindowedValue

from transforms import coders
from transforms.bundles import at_end, check_windows
from transforms.load_plan import LoadPlan, thread_count
from transforms.loading import BatchLoader, load_one
from transforms.memory import ByteBudget
from transforms.observe import Capacity, Count, CountFailures
from transforms.quarantine import Quarantine
from transforms.records import Failure, ImageBatch, ImageRef
from transforms.storage import is_remote
from transforms.threads import LoadThreads

FAILURES = "failures"
BATCHES = "batches"


@dataclass
class LoadBatches(beam.PTransform):
    """Read and decode images in threads; PCollection[ImageRef] in.

    The result has two outputs: `batches`, PCollection[ImageBatch], and `failures`, PCollection[Failure].
    """

    plan: LoadPlan
    """How to load, and how many images make a batch."""

    def __post_init__(self) -> None:
        super().__init__()
        coders.register()

    @beam.typehints.no_annotations  # Beam knows no hint for several outputs and warns of it
    def expand(self, refs: beam.PCollection[ImageRef]) -> beam.pvalue.DoOutputsTuple:
        """Load within each bundle; batches never cross bundles."""
        check_windows(refs, "LoadBatches needs globally windowed images, or a batch could mix windows")
        return refs | "Load" >> beam.ParDo(_LoadDoFn(self.plan)).with_output_types(
            ImageBatch, failures=Failure
        ).with_outputs(FAILURES, main=BATCHES)


class _LoadDoFn(beam.DoFn):
    def __init__(self, plan: LoadPlan) -> None:
        self._plan = plan
        self._loaded = Count("loaded_images")
        self._read_bytes = Count("read_bytes")
        self._read_ms = Count("read_ms")
        self._decode_ms = Count("decode_ms")
        self._capacity = Capacity("load_capacity_ms")
        self._failed = CountFailures("load_failed_images")
        self._restarts = Count("decode_worker_restarts")

    def setup(self) -> None:
        self._pool: LoadThreads | None = None
        # Of all bundles together: a thread that hangs holds its memory beyond its bundle.
        self._budget = ByteBudget(self._plan.load.max_bytes_in_flight)
        self._quarantine = Quarantine(self._plan) if self._plan.decode.quarantine else None

    def start_bundle(self) -> None:
        self._loader: BatchLoader | None = None
        self._capacity.start()

    def process(self, ref: ImageRef) -> Iterator[ImageBatch | beam.pvalue.TaggedOutput[Literal["failures"], Failure]]:
        if self._loader is None:
            self._threads = threads = thread_count(self._plan.load, is_remote(ref.path))
            if self._pool is None:
                self._pool = LoadThreads(threads)
            prepare = self._quarantine.prepare if self._quarantine else None
            load = functools.partial(load_one, prepare_with=prepare)
            abandon = self._quarantine.abandon if self._quarantine else None
            self._loader = BatchLoader(self._plan, self._pool, threads, load, self._budget, abandon=abandon)
        for loaded in self._loader.add(ref):
            yield self._tag(loaded)
        self._count(self._loader)

    def finish_bundle(self) -> Iterator[WindowedValue | beam.pvalue.TaggedOutput[Literal["failures"], Failure]]:
        if self._loader is None:
            return
        for loaded in self._loader.finish():
            if isinstance(loaded, Failure):
                yield beam.pvalue.TaggedOutput(FAILURES, at_end(loaded))
                self._failed.add(loaded.code)
            else:
                yield at_end(loaded)
        self._count(self._loader)
        self._capacity.stop(self._threads)

    def teardown(self) -> None:
        if self._quarantine is not None:
            self._quarantine.close()
        if self._pool is not None:
            self._pool.close()

    def _tag(self, loaded: ImageBatch | Failure) -> ImageBatch | beam.pvalue.TaggedOutput[Literal["failures"], Failure]:
        if isinstance(loaded, Failure):
            self._failed.add(loaded.code)
            return beam.pvalue.TaggedOutput(FAILURES, loaded)
        return loaded

    def _count(self, loader: BatchLoader) -> None:
        tally = loader.take_tally()
        self._loaded.add(tally.images)
        self._read_bytes.add(tally.read_bytes)
        self._read_ms.add(tally.read_ms)
        self._decode_ms.add(tally.decode_ms)
        if self._quarantine is not None:
            self._restarts.add(self._quarantine.take_restarts())
