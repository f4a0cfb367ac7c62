"""ListImages: what the inputs name, one element an image, duplicates included."""

from collections.abc import Iterator
from dataclasses import dataclass

import apache_beam as beam

from transforms.inputs import BadName, InputSource, list_input
from transforms.observe import Count
from transforms.records import Failure, ImageRef
from transforms.settings import InputSettings


@dataclass
class ListImages(beam.PTransform):
    """List inputs; a name that cannot be a path becomes a Failure of the list stage.

    Fields are its configuration; the result is a PCollection[ImageRef | Failure].
    """

    sources: tuple[InputSource, ...]
    """What to list."""
    settings: InputSettings
    """Which files of a folder count as images."""

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, begin: beam.pvalue.PBegin) -> beam.PCollection:
        """List each input on a worker."""
        return (
            begin
            | "Inputs" >> beam.Create(self.sources)
            # One input a worker: listing is I/O, and several inputs are listed at once where there are workers.
            | "SpreadInputs" >> beam.Reshuffle()
            | "List" >> beam.ParDo(_ListDoFn(self.settings))
        )


class _ListDoFn(beam.DoFn):
    def __init__(self, settings: InputSettings) -> None:
        self._settings = settings
        self._listed = Count("listed_images")
        self._failed = Count("list_failed_images")

    def process(self, source: InputSource) -> Iterator[ImageRef | Failure]:
        for entry in list_input(source, self._settings):
            self._listed.add(1)
            if isinstance(entry, BadName):
                self._failed.add(1)
                yield entry.failure()
            else:
                yield entry
