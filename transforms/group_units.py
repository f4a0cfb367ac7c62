"""GroupUnits: elements of one work unit come together, in one bundle, whatever bundles the runner cuts."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import apache_beam as beam

from transforms.units import UnitPlan, count_units, unit_of

T = TypeVar("T")


@dataclass
class GroupUnits(beam.PTransform):
    """Bring elements together by unit; a PCollection in, the same elements out, those of a unit one after the other.

    One shuffle, and no fusion across it: what follows works on a unit at a time. A runner cuts bundles between units
    and never within one.
    """

    plan: UnitPlan
    """How large a unit is."""
    path_of: Callable[[Any], str]
    """The path of an element, which decides about its unit."""

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, elements: beam.PCollection[T]) -> beam.PCollection[T]:
        """Count, so that the number of units is known; key; group; hand out."""
        units = elements | "Count" >> beam.combiners.Count.Globally() | "Units" >> beam.Map(count_units, self.plan)
        return (
            elements
            | "KeyByUnit" >> beam.Map(_by_unit, self.path_of, beam.pvalue.AsSingleton(units))
            | "GroupByUnit" >> beam.GroupByKey()
            | "HandOut" >> beam.FlatMap(_elements).with_output_types(elements.element_type)
        )


def _by_unit(element: T, path_of: Callable[[T], str], units: int) -> tuple[int, T]:
    return unit_of(path_of(element), units), element


def _elements(unit: tuple[int, Iterable[T]]) -> Iterable[T]:
    return unit[1]
