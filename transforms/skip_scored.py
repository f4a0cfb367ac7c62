"""SkipScored: each listed path once, and only where an earlier attempt or run has no row for it."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import apache_beam as beam

from transforms.records import Failure, ImageRef
from transforms.staging import read_image_paths

Listed = ImageRef | Failure
TODO = "todo"
DUPLICATES = "duplicates"
UNLISTED = "unlisted"


@dataclass
class SkipScored(beam.PTransform):
    """Remove duplicates and what is done already, in one shuffle; PCollection[ImageRef | Failure] in.

    Three outputs: `todo`, PCollection[ImageRef | Failure], every path once; `duplicates`, PCollection[int], how
    often a path was listed again; `unlisted`, PCollection[int], a 1 for every finished row whose image is no
    longer listed.
    """

    done_files: Sequence[str] = ()
    """Parquet files with the rows of an earlier attempt; their image_path columns are read on workers."""

    def __post_init__(self) -> None:
        super().__init__()

    @beam.typehints.no_annotations  # Beam knows no hint for several outputs and warns of it
    def expand(self, listed: beam.PCollection[Listed]) -> beam.pvalue.DoOutputsTuple:
        """Join listed and finished paths; this is the one shuffle, of paths and never of pixels."""
        keyed: Any = listed | "KeyByPath" >> beam.Map(_by_path)
        if not self.done_files:
            grouped = keyed | "GroupByPath" >> beam.GroupByKey() | "NothingDone" >> beam.Map(_with_nothing_done)
        else:
            done = (
                listed.pipeline
                | "DoneFiles" >> beam.Create(list(self.done_files))
                | "SpreadDoneFiles" >> beam.Reshuffle()
                | "DonePaths" >> beam.FlatMap(read_image_paths)
                | "KeyDone" >> beam.Map(_done_pair)
            )
            grouped = (keyed, done) | "JoinByPath" >> beam.CoGroupByKey()
        return grouped | "Choose" >> beam.ParDo(_ChooseDoFn()).with_output_types(
            Listed, duplicates=int, unlisted=int
        ).with_outputs(DUPLICATES, UNLISTED, main=TODO)


def _by_path(entry: Listed) -> tuple[str, Listed]:
    return (entry.ref.path if isinstance(entry, Failure) else entry.path), entry


def _with_nothing_done(
    pair: tuple[str, Iterable[Listed]],
) -> tuple[str, tuple[Iterable[Listed], Iterable[None]]]:
    return pair[0], (pair[1], ())


def _done_pair(path: str) -> tuple[str, None]:
    return path, None


class _ChooseDoFn(beam.DoFn):
    def process(
        self, group: tuple[str, tuple[Iterable[Listed], Iterable[None]]]
    ) -> Iterator[
        Listed
        | beam.pvalue.TaggedOutput[Literal["duplicates"], int]
        | beam.pvalue.TaggedOutput[Literal["unlisted"], int]
    ]:
        _, (listed_again, done_again) = group
        listed = list(listed_again)
        done = any(True for _ in done_again)
        if done and not listed:
            yield beam.pvalue.TaggedOutput(UNLISTED, 1)
        if len(listed) > 1:
            yield beam.pvalue.TaggedOutput(DUPLICATES, len(listed) - 1)
        if listed and not done:
            # A listing knows size and version, a manifest's line does not: keep what knows more, and of equals
            # the same one in every attempt.
            yield max(listed, key=_knowledge)


def _knowledge(entry: Listed) -> tuple[bool, str]:
    ref = entry.ref if isinstance(entry, Failure) else entry
    return ref.version is not None, ref.version or ""
