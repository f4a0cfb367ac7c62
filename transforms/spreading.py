"""Give elements away to all workers: pieces of an input, files to read."""

from collections.abc import Iterable
from typing import Any, TypeVar

import apache_beam as beam

T = TypeVar("T")


class Spread(beam.PTransform):
    """Share elements out among workers, whoever has made them; a PCollection in, the same elements out.

    A shuffle by what an element is. Beam's Reshuffle is not enough on Flink: there it stands for Flink's rebalance,
    which was left out of the plan of a batch job, so that all eleven splits of a manifest were read where they had been
    planned. The repr of an element has to tell it from others, and to be the same in every process.
    """

    def expand(self, elements: beam.PCollection[T]) -> beam.PCollection[T]:
        """Key, group, hand out."""
        return (
            elements
            | "Key" >> beam.Map(_by_itself).with_output_types(tuple[str, Any])
            | "Group" >> beam.GroupByKey()
            | "HandOut" >> beam.FlatMap(_elements).with_output_types(elements.element_type or Any)
        )


def _by_itself(element: T) -> tuple[str, T]:
    return repr(element), element


def _elements(group: tuple[str, Iterable[T]]) -> Iterable[T]:
    return group[1]
