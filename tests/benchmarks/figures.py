"""Arithmetic of the reports: medians, ratios pair by pair, slopes. Knows nothing of what is measured."""

import statistics
from collections.abc import Iterable, Mapping
from typing import NamedTuple


class Spread(NamedTuple):
    """A figure of several rounds."""

    median: float
    """The one to quote."""
    low: float
    """The smallest round's."""
    high: float
    """The largest round's."""


Rounds = Mapping[int, float]
"""One figure a round, by the round's number: rounds that failed are missing."""


def spread(values: Iterable[float]) -> Spread | None:
    """Sum up the figures of several rounds; None where there are none.

    >>> spread([3.0, 1.0, 2.0])
    Spread(median=2.0, low=1.0, high=3.0)
    """
    known = list(values)
    return Spread(statistics.median(known), min(known), max(known)) if known else None


def ratios(above: Rounds, below: Rounds) -> Spread | None:
    """Divide round by round: what ran one after the other met the same neighbours on a shared machine.

    A round in which noise has swallowed one of the two, so that it is not over 0, has no ratio.

    >>> ratios({0: 10.0, 1: 30.0}, {0: 5.0, 1: 10.0})
    Spread(median=2.5, low=2.0, high=3.0)
    """
    both = sorted(above.keys() & below.keys())
    return spread(above[number] / below[number] for number in both if above[number] > 0 and below[number] > 0)


def slopes(small: Rounds, large: Rounds, items: int) -> dict[int, float]:
    """Tell what one item more costs, round by round: start-up is in both sizes and drops out.

    Args:
        small: Figures of the smaller size.
        large: Figures of the larger size.
        items: By how many items the sizes differ, at least 1.

    >>> slopes({0: 10.0}, {0: 40.0}, 6000)
    {0: 0.005}
    """
    if items < 1:
        raise ValueError(f"the sizes must differ by at least 1 item, got {items}")
    return {number: (large[number] - small[number]) / items for number in sorted(small.keys() & large.keys())}


def intercepts(small: Rounds, slope: Rounds, items: int) -> dict[int, float]:
    """Tell what remains with no item at all, round by round: start-up and shut-down.

    >>> intercepts({0: 10.0}, {0: 0.005}, 1000)
    {0: 5.0}
    """
    return {number: small[number] - slope[number] * items for number in sorted(small.keys() & slope.keys())}
