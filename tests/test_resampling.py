"""How often chance does it: against exact tests, and what random splits are like."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2_contingency, hypergeom

from transforms.resampling import DRAWS, chance_of, random_splits

Floats = npt.NDArray[np.float64]


def difference(a: Floats, b: Floats) -> Floats:
    """How far the shares of the first class are apart."""
    return np.abs(a[:, 0] / a.sum(1) - b[:, 0] / b.sum(1))


@given(st.lists(st.integers(0, 50), min_size=1, max_size=8).filter(any), st.integers(0, 400), st.integers(0, 2**32 - 1))
def test_splits_share_out_every_row_once(pooled: list[int], rows: int, seed: int) -> None:
    """Two samples of the sizes that were asked for, which hold together what there was."""
    counts = np.array(pooled)
    rows = min(rows, int(counts.sum()))
    first, second = random_splits(np.random.default_rng(seed), counts, rows, 5)
    assert first.shape == second.shape == (5, len(pooled))
    assert (first + second == counts).all()
    assert (first.sum(1) == rows).all()
    assert min(first.min(), second.min()) >= 0


def test_splits_of_thousands_of_millions_have_their_sizes() -> None:
    """More rows than the generator can draw without putting back: about the shares of both together."""
    pooled = np.array([4 * 10**9, 10**9, 0])
    first, second = random_splits(np.random.default_rng(1), pooled, 3 * 10**9, 20)
    assert (first.sum(1) == 3 * 10**9).all()
    assert (second.sum(1) == 2 * 10**9).all()
    assert first[:, 0] / 3e9 == pytest.approx(np.full(20, 0.8), abs=1e-4)
    assert not first[:, 2].any()


@pytest.mark.parametrize(("a", "b"), [([12, 28], [25, 35]), ([3, 197], [2_000, 98_000]), ([9, 1], [5, 5])])
def test_chance_is_that_of_fishers_exact_test(a: list[int], b: list[int]) -> None:
    """For two classes all splits can be enumerated: how likely is one at least as far apart?"""
    first, second = np.array(a), np.array(b)
    rows, total = int(first.sum()), int((first + second).sum())
    drawn = hypergeom(total, int(first[0] + second[0]), rows)
    held = np.arange(rows + 1)
    far = np.abs(held / rows - (first[0] + second[0] - held) / second.sum())
    exact = drawn.pmf(held)[far >= abs(first[0] / rows - second[0] / second.sum()) - 1e-12].sum()
    found = chance_of(first + second, rows, difference, float(difference(first[None], second[None])[0]))
    # What is not small is counted in twenty splits only.
    assert found == pytest.approx(exact, abs=4 * np.sqrt(exact / (DRAWS if exact < 0.05 else 20)))


def test_chance_of_large_samples_is_that_of_chi_square() -> None:
    """Of ten full classes, where the approximation holds."""

    def pearson(a: Floats, b: Floats) -> Floats:
        expected = (a + b) / 2
        return ((a - expected) ** 2 / expected + (b - expected) ** 2 / expected).sum(1)

    rng = np.random.default_rng(8)
    first, second = rng.multinomial(50_000, [0.1] * 10), rng.multinomial(50_000, [0.104, 0.096, *[0.1] * 8])
    first, second = np.array(first), np.array(second)
    first[0] += 50_000 - first.sum()
    statistic, exact, *_ = chi2_contingency([first, second], correction=False)
    found = chance_of(first + second, 50_000, pearson, float(pearson(first[None] * 1.0, second[None] * 1.0)[0]))
    assert statistic == pytest.approx(pearson(first[None] * 1.0, second[None] * 1.0)[0])
    assert found == pytest.approx(exact, abs=4 * np.sqrt(exact / (DRAWS if exact < 0.05 else 20)))


def test_what_no_split_reaches_has_the_least_chance_that_can_be_proven() -> None:
    """One of as many cases as there are with the seen one, and never 0."""
    pooled = np.array([10_000, 10_000])
    assert chance_of(pooled, 10_000, difference, 1.0) == 1 / 12_000


def test_the_same_samples_have_the_same_chance() -> None:
    """Whoever asks again, elsewhere or tomorrow, is told the same."""
    asked = [chance_of(np.array([30, 70, 100]), 90, difference, 0.14) for _ in range(2)]
    assert asked[0] == asked[1] < 0.2


def test_wide_tables_are_split_in_pieces() -> None:
    """More classes than a piece of memory holds of twenty splits: every split is of one row, and all are counted."""
    pooled = np.zeros(2_000_000, np.int64)
    pooled[:2] = 10, 10
    seen: list[int] = []

    def reached(a: Floats, b: Floats) -> Floats:
        assert (a + b == pooled).all()
        seen.append(len(a))
        return np.ones(len(a))

    assert chance_of(pooled, 10, reached, 0.5) == 1.0
    assert seen == [1] * 20
