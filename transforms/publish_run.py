"""PublishRun: the one step that makes a run visible, or says why it stays staged."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import apache_beam as beam

from transforms.ledger import Counts, count_ledger
from transforms.outcomes import Outcome
from transforms.publishing import RunFacts, publish
from transforms.records import WrittenFile


class Counted(NamedTuple):
    """Counts, each a PCollection[int] with one element."""

    listed: beam.PCollection[int]
    """Listed entries."""
    duplicates: beam.PCollection[int]
    """Entries beyond the first of a path."""
    unique: beam.PCollection[int]
    """Different paths that this attempt has to score."""
    unlisted: beam.PCollection[int]
    """Rows of an earlier attempt whose image is not listed any more."""
    skipped: beam.PCollection[int]
    """Images that an earlier run has scored as they are."""


@dataclass
class PublishRun(beam.PTransform):
    """Publish a run; PCollection[WrittenFile] of all tables in, PCollection[Outcome] with one element out."""

    facts: RunFacts
    """The run."""
    counted: Counted
    """From the rest of the graph."""
    adopted: Sequence[WrittenFile] = ()
    """Files of an earlier attempt."""

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, files: beam.PCollection[WrittenFile]) -> beam.PCollection[Outcome]:
        """Wait for every file and count, then publish once."""
        return (
            files.pipeline
            | "Once" >> beam.Create([None])
            | "Publish"
            >> beam.ParDo(
                _PublishDoFn(self.facts, tuple(self.adopted)),
                beam.pvalue.AsList(files),
                *(beam.pvalue.AsSingleton(count) for count in self.counted),
            ).with_output_types(Outcome)
        )


class _PublishDoFn(beam.DoFn):
    def __init__(self, facts: RunFacts, adopted: tuple[WrittenFile, ...]) -> None:
        self._facts = facts
        self._adopted = adopted

    def process(self, _: None, written: list[WrittenFile], *counts: int) -> Iterator[Outcome]:
        rivals = self._facts.challenger is not None
        ledger = count_ledger(written, self._adopted, Counts(*counts), with_challenger=rivals)
        yield publish(self._facts, [*self._adopted, *written], ledger)
