"""ListImages: what the inputs name, one element an image, duplicates included."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import apache_beam as beam

from transforms.inputs import BadName, InputSource
from transforms.manifest_splits import SPLIT_BYTES
from transforms.observe import Count, CountFailures
from transforms.records import Failure, ImageRef
from transforms.settings import InputSettings
from transforms.shards import Shard, list_shard, plan_shards
from transforms.spreading import Spread

SHARDS = "shards"


@dataclass
class ListImages(beam.PTransform):
    """List inputs; a name that cannot be a path becomes a Failure of the list stage.

    Fields are its configuration; the result is a PCollection[ImageRef | Failure].
    """

    sources: tuple[InputSource, ...]
    """What to list."""
    settings: InputSettings
    """Which files of a folder count as images."""
    spread: bool = False
    """Whether folders and manifests are taken apart, and listed by many workers at once."""
    split_bytes: int = SPLIT_BYTES
    """About how many bytes of a manifest a worker reads at a time, where it is taken apart."""

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, begin: beam.pvalue.PBegin) -> beam.PCollection:
        """List each input, or each shard of one, on a worker."""
        sources = (
            begin
            | "Inputs" >> beam.Create(self.sources)
            # One input a worker: listing is I/O, and several inputs are listed at once where there are workers.
            | "SpreadInputs" >> beam.Reshuffle()
        )
        if not self.spread:
            return sources | "List" >> beam.ParDo(_ListDoFn(self.settings))
        planned = sources | "TakeApart" >> beam.ParDo(_TakeApartDoFn(self.settings, self.split_bytes)).with_outputs(
            SHARDS, main="found"
        )
        listed = planned.shards | "SpreadShards" >> Spread() | "List" >> beam.ParDo(_ListDoFn(self.settings))
        return (planned.found, listed) | "Listed" >> beam.Flatten()


class _Tally:
    """Counts what is listed, and makes failures of what cannot be a path."""

    def __init__(self) -> None:
        self._listed = Count("listed_images")
        self._failed = CountFailures("list_failed_images")

    def add(self, entry: ImageRef | BadName) -> ImageRef | Failure:
        self._listed.add(1)
        if isinstance(entry, BadName):
            self._failed.add(entry.error.code)
            return entry.failure()
        return entry


class _ListDoFn(beam.DoFn):
    def __init__(self, settings: InputSettings) -> None:
        self._settings = settings
        self._tally = _Tally()

    def process(self, shard: Shard) -> Iterator[ImageRef | Failure]:
        yield from map(self._tally.add, list_shard(shard, self._settings))


class _TakeApartDoFn(beam.DoFn):
    def __init__(self, settings: InputSettings, split_bytes: int) -> None:
        self._settings = settings
        self._split_bytes = split_bytes
        self._tally = _Tally()

    def process(
        self, source: InputSource
    ) -> Iterator[ImageRef | Failure | beam.pvalue.TaggedOutput[Literal["shards"], Shard]]:
        for found in plan_shards(source, self._settings, self._split_bytes):
            if isinstance(found, ImageRef | BadName):
                yield self._tally.add(found)
            else:
                yield beam.pvalue.TaggedOutput(SHARDS, found)
