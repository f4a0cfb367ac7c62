"""SkipScored: each listed path once, and only where an earlier attempt or run has no row for it."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import apache_beam as beam

from transforms.earlier_runs import EarlierFile, EarlierRow, read_earlier_rows
from transforms.observe import Count
from transforms.records import Failure
from transforms.spreading import Spread
from transforms.staging import read_image_paths
from transforms.worklist import Listed, Unasked, choose

TODO = "todo"
DUPLICATES = "duplicates"
UNLISTED = "unlisted"
SKIPPED = "skipped"
UNASKED = "unasked"


@dataclass
class SkipScored(beam.PTransform):
    """Remove duplicates and what is done already, in one shuffle; PCollection[ImageRef | Failure] in.

    Five outputs: `todo`, PCollection[ImageRef | Failure], every path once; `duplicates`, PCollection[int], how
    often a path was listed again; `unlisted`, PCollection[int], a 1 for every finished row whose image is no
    longer listed; `skipped`, PCollection[int], a 1 for every image that an earlier run has scored as it is;
    `unasked`, PCollection[Unasked], images of which an earlier run has a row and the listing no version.
    """

    done_files: Sequence[str] = ()
    """Parquet files with the rows of an earlier attempt; their image_path columns are read on workers."""
    earlier_files: Sequence[EarlierFile] = ()
    """Parquet files with the rows of earlier runs; paths, versions and times are read on workers."""

    def __post_init__(self) -> None:
        super().__init__()

    @beam.typehints.no_annotations  # Beam knows no hint for several outputs and warns of it
    def expand(self, listed: beam.PCollection[Listed]) -> beam.pvalue.DoOutputsTuple:
        """Join listed and finished paths; this is the one shuffle, of paths and never of pixels."""
        keyed: Any = listed | "KeyByPath" >> beam.Map(_by_path)
        if not self.done_files and not self.earlier_files:
            grouped = keyed | "GroupByPath" >> beam.GroupByKey() | "NothingDone" >> beam.Map(_with_nothing_done)
        else:
            rows = (
                listed.pipeline
                | "DoneFiles" >> beam.Create([*self.done_files, *self.earlier_files])
                | "SpreadDoneFiles" >> Spread()
                | "DoneRows" >> beam.FlatMap(_read_rows)
            )
            grouped = (keyed, rows) | "JoinByPath" >> beam.CoGroupByKey()
        return grouped | "Choose" >> beam.ParDo(_ChooseDoFn()).with_output_types(
            Listed, duplicates=int, unlisted=int, skipped=int, unasked=Unasked
        ).with_outputs(DUPLICATES, UNLISTED, SKIPPED, UNASKED, main=TODO)


def _by_path(entry: Listed) -> tuple[str, Listed]:
    return (entry.ref.path if isinstance(entry, Failure) else entry.path), entry


def _with_nothing_done(
    pair: tuple[str, Iterable[Listed]],
) -> tuple[str, tuple[Iterable[Listed], Iterable[EarlierRow | None]]]:
    return pair[0], (pair[1], ())


def _read_rows(file: str | EarlierFile) -> Iterator[tuple[str, EarlierRow | None]]:
    if isinstance(file, EarlierFile):
        yield from read_earlier_rows(file)
    else:
        yield from ((path, None) for path in read_image_paths(file))


class _ChooseDoFn(beam.DoFn):
    def __init__(self) -> None:
        self._skipped = Count("skipped_images")

    def process(
        self, group: tuple[str, tuple[Iterable[Listed], Iterable[EarlierRow | None]]]
    ) -> Iterator[
        Listed
        | beam.pvalue.TaggedOutput[Literal["duplicates"], int]
        | beam.pvalue.TaggedOutput[Literal["unlisted"], int]
        | beam.pvalue.TaggedOutput[Literal["skipped"], int]
        | beam.pvalue.TaggedOutput[Literal["unasked"], Unasked]
    ]:
        choice = choose(*group[1])
        if choice.unlisted:
            yield beam.pvalue.TaggedOutput(UNLISTED, 1)
        if choice.duplicates:
            yield beam.pvalue.TaggedOutput(DUPLICATES, choice.duplicates)
        if choice.skipped:
            self._skipped.add(1)
            yield beam.pvalue.TaggedOutput(SKIPPED, 1)
        if choice.unasked is not None:
            yield beam.pvalue.TaggedOutput(UNASKED, choice.unasked)
        if choice.todo is not None:
            yield choice.todo
