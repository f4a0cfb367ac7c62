"""How far two samples of counts are apart, and how often chance alone would have put them so far.

PSI, the population stability index, is the sum of both Kullback-Leibler divergences; the rule of thumb of credit
scoring calls less than 0.1 stable and more than 0.25 another population. That rule knows no sample sizes: two samples
of one population have a PSI of about (B - 1) (1/n + 1/m) in the mean for B groups and n and m rows (B. Yurdakul,
Statistical Properties of Population Stability Index, Western Michigan University 2018). So that is taken off before PSI
is held against a limit. Its distribution is that of chi-square times (1/n + 1/m) only where every group has many rows:
of 2,000 nights of 50 images of ten classes beside 100,000, 19 exceeded what chi-square gives to two, for a class of
five images has the logarithm of a small number in its term, and which classes are large enough to be compared alone is
read off the same images. How often chance exceeds a figure is therefore counted, groups and
all, in random splits of what both samples hold together (resampling.py).

Jensen-Shannon (J. Lin, Divergence Measures Based on the Shannon Entropy, 1991) lies in [0, 1] in base 2, however far
the samples are apart, and needs no smoothing of empty groups. For small differences it is PSI / (8 ln 2).
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from transforms.resampling import chance_of

CHANCE = 0.001
"""How often chance may do what is called more than chance."""
LEAST_EXPECTED = 5
"""Rows that a group should have in the smaller sample: a smaller one says too little alone (Cochran)."""
_SMOOTHING = 0.5
_JS_OF_PSI = 8 * math.log(2)

Floats = npt.NDArray[np.float64]
Groups = npt.NDArray[np.intp]


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
    held: int = 0
    """Groups that either sample has rows of, before those with few rows were put together; 0 where none were."""
    chance: float | None = None
    """How often chance puts two samples of one population at least so far apart, in (0, 1], by their PSI without what
    sampling adds; None where nobody has asked. Never less than one of as many cases as were tried."""

    @property
    def js_distance(self) -> float:
        """The square root of js, which is a metric; in [0, 1]."""
        return math.sqrt(self.js)

    @property
    def by_chance(self) -> bool:
        """Whether chance alone may have put the samples so far apart: more often than once in a thousand cases."""
        return self.chance is not None and not self.beyond(CHANCE)

    def beyond(self, chance: float) -> bool:
        """Tell whether chance alone puts samples so far apart in no more than such a share of all cases."""
        return self.chance is not None and self.chance <= chance * (1 + 1e-9)

    @property
    def corrected_psi(self) -> float:
        """PSI without what sampling adds to it, at least 0."""
        return max(self.psi - self.expected_psi, 0.0)

    @property
    def corrected_js(self) -> float:
        """Jensen-Shannon divergence without what sampling adds to it, at least 0."""
        return max(self.js - self.expected_psi / _JS_OF_PSI, 0.0)

    @property
    def too_few(self) -> bool:
        """Whether everything was put together: the samples hold too few rows for what they hold to be compared."""
        return self.groups == 1 < self.held

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
    first, second = _pair(a, b)
    return float(_psi(first, second, np.array(len(first))))


def _psi(a: Floats, b: Floats, groups: npt.NDArray[np.intp]) -> Floats:
    """Return float64[...], the PSI of float64[..., B] and float64[..., B], of which the first intp[...] are groups."""
    groups = groups[..., np.newaxis]
    p, q = ((x + _SMOOTHING) / (x.sum(-1, keepdims=True) + _SMOOTHING * groups) for x in (a, b))
    terms = np.where(np.arange(a.shape[-1]) < groups, (p - q) * np.log(p / q), 0.0)
    return np.asarray(terms.sum(-1), np.float64)


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


def diverge(a: npt.ArrayLike, b: npt.ArrayLike) -> Divergence:
    """Compare two samples of at least one row each, group by group; how often chance does it is not asked.

    Args:
        a: int[B], rows of one sample by group.
        b: int[B], of the other.
    """
    first, second = _pair(a, b)
    expected = (len(first) - 1) * _spread(first, second)
    return Divergence(population_stability_index(a, b), jensen_shannon(a, b), len(first), expected)


def _spread(a: Floats, b: Floats) -> float:
    return float(1 / a.sum() + 1 / b.sum())


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


def rare_groups(a: npt.ArrayLike, b: npt.ArrayLike) -> Groups:
    """Put groups without an order, like classes, together where they are too small to be compared alone.

    Args:
        a: int[B], rows of one sample.
        b: int[B], of the other.

    Returns:
        intp[B], the new group of each: those with LEAST_EXPECTED rows expected in the smaller sample keep one of their
        own, in their order; the rest share the last one.
    """
    return _rare_groups(*_pair(a, b))


def _rare_groups(a: Floats, b: Floats) -> Groups:
    """As rare_groups, for float64[..., B] and float64[..., B], all of the same sizes."""
    alone = _weights(a, b) * _smaller(a, b) >= LEAST_EXPECTED
    return np.where(alone, np.cumsum(alone, -1) - 1, alone.sum(-1, keepdims=True)).astype(np.intp)


def level_groups(a: npt.ArrayLike, b: npt.ArrayLike, at_most: int = 10) -> Groups:
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
    return _level_groups(*_pair(a, b), at_most)


def _level_groups(a: Floats, b: Floats, at_most: int) -> Groups:
    """As level_groups, for float64[..., B] and float64[..., B], all of the same sizes."""
    weight = _weights(a, b)
    least = max(1 / at_most, LEAST_EXPECTED / _smaller(a, b)) - 1e-12
    groups = np.zeros(weight.shape, np.intp)
    group, held, left = np.zeros(weight.shape[:-1], np.intp), np.zeros(weight.shape[:-1]), np.ones(weight.shape[:-1])
    for place in range(weight.shape[-1]):
        # What is left behind must be enough for a group of its own.
        full = (held >= least) & (left >= least)
        group = group + full
        groups[..., place] = group
        held = np.where(full, 0.0, held) + weight[..., place]
        left = left - weight[..., place]
    return groups


def _weights(a: Floats, b: Floats) -> Floats:
    # Each sample weighs the same: a class that is new tonight is not rare beside a baseline of millions.
    return np.asarray((a / a.sum(-1, keepdims=True) + b / b.sum(-1, keepdims=True)) / 2, np.float64)


def _smaller(a: Floats, b: Floats) -> float:
    return float(min(x.sum(-1).flat[0] for x in (a, b)))


def merge(counts: npt.ArrayLike, groups: Groups) -> npt.NDArray[np.int64]:
    """Return int64[..., G], the sums of counts int[..., B] by group intp[..., B]; G is the most groups of any row."""
    of = int(groups.max()) + 1
    rows = groups.reshape(-1, groups.shape[-1])
    places = (rows + of * np.arange(len(rows))[:, np.newaxis]).ravel()
    sums = np.bincount(places, np.asarray(counts, np.float64).ravel(), of * len(rows))
    return sums.astype(np.int64).reshape(*groups.shape[:-1], of)


def compare_classes(a: npt.ArrayLike, b: npt.ArrayLike) -> Divergence:
    """Compare two class mixes: int[C] each, the same classes in the same order."""
    return _compare(a, b, _rare_groups)


def compare_levels(a: npt.ArrayLike, b: npt.ArrayLike, at_most: int = 10) -> Divergence:
    """Compare two histograms over the same bins, int[B] each, in so many groups at most."""
    return _compare(a, b, partial(_level_groups, at_most=at_most))


def _compare(a: npt.ArrayLike, b: npt.ArrayLike, group: Callable[[Floats, Floats], Groups]) -> Divergence:
    first, second = _pair(a, b)
    held = first + second > 0  # what neither has is no group
    first, second = first[held], second[held]
    groups = group(first, second)
    found = diverge(merge(first, groups), merge(second, groups))._replace(held=len(groups))
    if found.groups == 1:
        return found._replace(chance=1.0)
    spread = _spread(first, second)

    def excess(a: Floats, b: Floats) -> Floats:
        # Grouped anew: groups that were chosen with the same images that they compare make the difference larger.
        groups = group(a, b)
        of = groups.max(-1) + 1
        return _psi(merge(a, groups).astype(np.float64), merge(b, groups).astype(np.float64), of) - (of - 1) * spread

    pooled = (first + second).astype(np.int64)
    return found._replace(chance=chance_of(pooled, int(first.sum()), excess, found.psi - found.expected_psi))
