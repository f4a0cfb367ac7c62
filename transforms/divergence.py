"""How far two samples of counts are apart, and how far chance alone would have put them.

PSI, the population stability index, is the sum of both Kullback-Leibler divergences; the rule of thumb of credit
scoring calls less than 0.1 stable and more than 0.25 another population. That rule knows no sample sizes: two samples
of one population have a PSI of about (B - 1) (1/n + 1/m) for B groups and n and m rows, and it is distributed as
chi-square with B - 1 degrees of freedom times (1/n + 1/m) (B. Yurdakul, Statistical Properties of Population Stability
Index, Western Michigan University 2018). So the mean of that is taken off before PSI is held against a limit, and what
chance would exceed in less than one of a thousand cases has to be exceeded besides.

Jensen-Shannon (J. Lin, Divergence Measures Based on the Shannon Entropy, 1991) lies in [0, 1] in base 2, however far
the samples are apart, and needs no smoothing of empty groups. For small differences it is PSI / (8 ln 2).
"""

import math
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

CHANCE = 0.001
"""How often chance may exceed what it is given."""
LEAST_EXPECTED = 5
"""Rows that a group should have in the smaller sample: below, chi-square is no good approximation (Cochran)."""
_SMOOTHING = 0.5
_JS_OF_PSI = 8 * math.log(2)

Floats = npt.NDArray[np.float64]


class Divergence(NamedTuple):
    """How far two samples are apart."""

    psi: float
    """Population stability index, at least 0."""
    js: float
    """Jensen-Shannon divergence in base 2, in [0, 1]."""
    groups: int
    """What was compared, after groups with few rows were put together."""
    expected_psi: float
    """What two samples of these sizes from one population have in the mean."""
    chance_psi: float
    """What two such samples exceed in one of a thousand cases."""

    @property
    def js_distance(self) -> float:
        """The square root of js, which is a metric; in [0, 1]."""
        return math.sqrt(self.js)

    @property
    def by_chance(self) -> bool:
        """Whether chance alone may have put the samples so far apart."""
        return self.psi <= self.chance_psi

    @property
    def corrected_psi(self) -> float:
        """PSI without what sampling adds to it, at least 0."""
        return max(self.psi - self.expected_psi, 0.0)

    @property
    def corrected_js(self) -> float:
        """Jensen-Shannon divergence without what sampling adds to it, at least 0."""
        return max(self.js - self.expected_psi / _JS_OF_PSI, 0.0)

    def to_json(self) -> dict[str, Any]:
        """Return everything as what json.dumps takes."""
        return {
            **self._asdict(),
            "js_distance": self.js_distance,
            "corrected_psi": self.corrected_psi,
            "corrected_js": self.corrected_js,
            "by_chance": self.by_chance,
        }


def population_stability_index(a: npt.ArrayLike, b: npt.ArrayLike) -> float:
    """Return sum (p - q) ln(p / q) over groups.

    Args:
        a: int[B], rows of one sample by group.
        b: int[B], of the other.

    Returns:
        At least 0; the same for a and b exchanged. p and q are shares of counts to each of which half a row is added,
        so that an empty group costs what its sample's size supports, and not infinity.

    >>> round(population_stability_index([50, 50], [50, 50]), 6)
    0.0
    """
    p, q = (_shares(np.asarray(counts) + _SMOOTHING) for counts in _pair(a, b))
    return float(np.sum((p - q) * np.log(p / q)))


def jensen_shannon(a: npt.ArrayLike, b: npt.ArrayLike) -> float:
    """Return the Jensen-Shannon divergence in base 2.

    Args:
        a: int[B], rows of one sample by group; at least one.
        b: int[B], of the other.

    Returns:
        In [0, 1]: 0 for equal shares, 1 for samples without a group in common.

    >>> jensen_shannon([3, 0], [0, 5])
    1.0
    """
    p, q = (_shares(counts) for counts in _pair(a, b))
    middle = (p + q) / 2
    found = (_relative(p, middle) + _relative(q, middle)) / 2
    return min(max(found, 0.0), 1.0)


def _relative(p: Floats, q: Floats) -> float:
    held = p > 0
    return float(np.sum(p[held] * np.log2(p[held] / q[held])))


def _pair(a: npt.ArrayLike, b: npt.ArrayLike) -> tuple[Floats, Floats]:
    first, second = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if first.ndim != 1 or first.shape != second.shape or not len(first):
        raise ValueError(f"both samples need the same groups, got {list(first.shape)} and {list(second.shape)}")
    if min(first.min(), second.min()) < 0 or min(first.sum(), second.sum()) <= 0:
        raise ValueError("counts must be at least 0, and not all of a sample 0")
    return first, second


def _shares(counts: Floats) -> Floats:
    return counts / counts.sum()


def chi_square_quantile(degrees: int, above: float) -> float:
    """Return what a chi-square variable exceeds with a given probability, within 4% (Wilson and Hilferty 1931).

    Args:
        degrees: Of freedom, at least 1.
        above: The probability, 0.0001 to 0.05.
    """
    spread = 2 / (9 * degrees)
    return float(degrees * (1 - spread + NormalDist().inv_cdf(1 - above) * math.sqrt(spread)) ** 3)


def diverge(a: npt.ArrayLike, b: npt.ArrayLike) -> Divergence:
    """Compare two samples of at least one row each, group by group.

    Args:
        a: int[B], rows of one sample by group.
        b: int[B], of the other.
    """
    first, second = _pair(a, b)
    degrees = len(first) - 1
    spread = 1 / first.sum() + 1 / second.sum()
    chance = chi_square_quantile(degrees, CHANCE) * spread if degrees else 0.0
    psi, js = population_stability_index(a, b), jensen_shannon(a, b)
    return Divergence(psi, js, len(first), float(degrees * spread), float(chance))


def log_chance(a: int, b: int, rows_a: int, rows_b: int) -> float:
    """Return how likely chance alone puts so many of a group's rows into one sample, or more: a natural logarithm.

    Given that both samples together hold a + b rows of a group, chance puts each of them into the second one with its
    share of all rows: binomial, and closer to the mean than that where the group is most of a sample. No normal
    approximation holds here: of a thousand classes, two hundred rows hold some twice that a large sample has once in
    ten thousand rows.

    Args:
        a: Rows of the group in the first sample.
        b: In the second one.
        rows_a: All rows of the first sample, at least 1.
        rows_b: Of the second one.

    Returns:
        At most 0; of the side of the mean on which the samples are. The terms of the tail shrink at least as fast as
        the first two, so that a geometric series bounds it from above.

    >>> round(math.exp(log_chance(0, 10, 100, 100)), 6), round(2**-10, 6)
    (0.000977, 0.000977)
    """
    share = rows_b / (rows_a + rows_b)
    if b < (a + b) * share:
        a, b, share = b, a, 1 - share
    first = math.lgamma(a + b + 1) - math.lgamma(a + 1) - math.lgamma(b + 1)
    first += a * math.log1p(-share) + b * math.log(share)
    shrinks = a / (b + 1) * share / (1 - share)
    return min(0.0, first - math.log1p(-shrinks))


def rare_groups(a: npt.ArrayLike, b: npt.ArrayLike) -> npt.NDArray[np.intp]:
    """Put groups without an order, like classes, together where they are too small to be compared alone.

    Args:
        a: int[B], rows of one sample.
        b: int[B], of the other.

    Returns:
        intp[B], the new group of each: those with LEAST_EXPECTED rows expected in the smaller sample keep one of their
        own, in their order; the rest share the last one.
    """
    first, second = _pair(a, b)
    # Each sample weighs the same: a class that is new tonight is not rare beside a baseline of millions.
    expected = (_shares(first) + _shares(second)) / 2 * min(first.sum(), second.sum())
    alone = expected >= LEAST_EXPECTED
    groups: npt.NDArray[np.intp] = np.where(alone, np.cumsum(alone) - 1, alone.sum()).astype(np.intp)
    return groups


def level_groups(a: npt.ArrayLike, b: npt.ArrayLike, at_most: int = 10) -> npt.NDArray[np.intp]:
    """Put neighbouring bins together, so that each group has about the same rows of both samples.

    Confidence crowds at one end: bins of equal width would compare one full bin and nine empty ones.

    Args:
        a: int[B], rows of one sample by bin.
        b: int[B], of the other.
        at_most: Groups.

    Returns:
        intp[B], the group of each bin, ascending. Of small samples there are fewer groups: each has LEAST_EXPECTED
        rows expected in the smaller sample, except where a single group is left.
    """
    first, second = _pair(a, b)
    weight = (_shares(first) + _shares(second)) / 2
    least = max(1 / at_most, LEAST_EXPECTED / min(first.sum(), second.sum()))
    groups = np.zeros(len(weight), np.intp)
    group, held, left = 0, 0.0, 1.0
    for place, part in enumerate(weight):
        # What is left behind must be enough for a group of its own.
        if held >= least - 1e-12 and left >= least - 1e-12:
            group, held = group + 1, 0.0
        groups[place] = group
        held += part
        left -= part
    return groups


def merge(counts: npt.ArrayLike, groups: npt.NDArray[np.intp]) -> npt.NDArray[np.int64]:
    """Return int64[G], the sums of counts int[B] by group intp[B]."""
    return np.bincount(groups, np.asarray(counts, np.float64), groups.max() + 1).astype(np.int64)


def compare_classes(a: npt.ArrayLike, b: npt.ArrayLike) -> Divergence:
    """Compare two class mixes: int[C] each, the same classes in the same order."""
    groups = rare_groups(a, b)
    return diverge(merge(a, groups), merge(b, groups))


def compare_levels(a: npt.ArrayLike, b: npt.ArrayLike) -> Divergence:
    """Compare two histograms over the same bins: int[B] each."""
    groups = level_groups(a, b)
    return diverge(merge(a, groups), merge(b, groups))
