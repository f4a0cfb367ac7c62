"""How often chance alone does what is seen between two samples: a permutation test.

If both samples are of one population, each way to share out their rows again between two samples of their sizes is as
likely as the one that is seen. So whatever figure is asked for, and however it is computed, of so many random splits
and the seen one together, it is the seen one that is among the k largest in k of so many cases at most: no
approximation for large samples is in it (R. A. Fisher, The Design of Experiments, 1935; for random splits M. Dwass,
Modified Randomization Tests for Nonparametric Hypotheses, 1957; B. Phipson and G. K. Smyth, Permutation P-values Should
Never Be Zero, 2010). Splits end early where the answer is sure not to be small, as in J. Besag and P. Clifford,
Sequential Monte Carlo p-values, 1991: half of all healthy nights need less than a hundred.
"""

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

FEW_CLASSES = 100
"""Up to so many a split costs little."""
DRAWS, DRAWS_OF_MANY = 11_999, 5_999
"""Splits of few classes, and of more. A third of a thousandth is what has to be proven: four of 12,000 or two of 6,000
cases, so that it is no single lucky split that decides."""
_FIRST_DRAWS = 20
_ENOUGH = 20
_MOST_NUMBERS = 1 << 20
_MOST_EXACT = 10**9

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


def chance_of(pooled: Ints, rows: int, statistic: Callable[[Floats, Floats], Floats], found: float) -> float:
    """Return how often chance makes a figure at least as large as it was found.

    Args:
        pooled: int64[C], the rows of both samples by class.
        rows: How many are of the first sample.
        statistic: Takes float64[D, C], the first samples of D splits, and float64[D, C], the second ones; returns
            float64[D], the figure of each. As it has computed what was found.
        found: The figure of the samples that were seen.

    Returns:
        In [1 / (DRAWS + 1), 1]. It is at most x in at most x of all cases in which both samples are of one population,
        for every x below _ENOUGH / DRAWS. The same samples always give the same number.
    """
    rng = generator(pooled, rows)
    reached = drawn = 0
    for draws in batches(len(pooled)):
        first = random_splits(rng, pooled, rows, draws)
        # As large counts: a figure that differs in rounding only is the same.
        reached += int(np.count_nonzero(statistic(*first) >= found - 1e-9 * max(1.0, abs(found))))
        drawn += draws
        if reached >= _ENOUGH:
            break
    return (reached + 1) / (drawn + 1)


def generator(pooled: Ints, rows: int) -> np.random.Generator:
    """Return where the splits of these samples come from.

    Seeded with what the splits do not change. One seed for all samples would give all nights of a feed the same luck.
    """
    return np.random.default_rng([rows, *pooled.tolist()])


def batches(classes: int) -> Iterator[int]:
    """Say how many splits to draw at once: twice as many each time, up to what some megabytes hold."""
    left, draws = DRAWS if classes <= FEW_CLASSES else DRAWS_OF_MANY, _FIRST_DRAWS
    while left:
        draws = min(draws, left, max(_MOST_NUMBERS // classes, 1))
        yield draws
        left -= draws
        draws *= 2


def random_splits(rng: np.random.Generator, pooled: Ints, rows: int, draws: int) -> tuple[Floats, Floats]:
    """Share the rows of two samples out between two samples of the same sizes, at random.

    Args:
        rng: Where chance comes from.
        pooled: int64[C], the rows of both by class.
        rows: How many are of the first one.
        draws: D, how many times.

    Returns:
        float64[D, C], the first samples, and float64[D, C], the second ones. From a thousand million rows on, where
        the generator would lose precision, both are drawn from the shares of both together, with putting back.
    """
    total = int(pooled.sum())
    if total < _MOST_EXACT:
        first = rng.multivariate_hypergeometric(pooled, rows, draws, method="marginals")
        second = pooled - first
    else:
        shares = pooled / total
        first, second = (rng.multinomial(size, shares, draws) for size in (rows, total - rows))
    return first.astype(np.float64), second.astype(np.float64)
