"""How far apart two samples are: by table, against slow obvious versions, and against what chance does."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from scipy.stats import binom, hypergeom

from transforms import resampling
from transforms.divergence import (
    LEAST_EXPECTED,
    compare_classes,
    compare_levels,
    diverge,
    jensen_shannon,
    level_groups,
    log_chance,
    merge,
    population_stability_index,
    rare_groups,
)

COUNTS = st.integers(0, 10_000)


@st.composite
def two_samples(draw: st.DrawFn, least: int = 1) -> tuple[list[int], list[int]]:
    """Counts of two samples over the same groups, each with rows."""
    groups = draw(st.integers(least, 30))
    sample = st.lists(COUNTS, min_size=groups, max_size=groups).filter(any)
    return draw(sample), draw(sample)


def slow_psi(a: list[int], b: list[int]) -> float:
    """The formula group by group, with exact shares."""
    n, m = sum(a) + Fraction(len(a), 2), sum(b) + Fraction(len(b), 2)
    total = 0.0
    for x, y in zip(a, b, strict=True):
        p, q = (x + Fraction(1, 2)) / n, (y + Fraction(1, 2)) / m
        total += float(p - q) * (math.log(p) - math.log(q))
    return total


@pytest.mark.parametrize(
    ("a", "b", "psi", "js"),
    [
        ([50, 50], [50, 50], 0.0, 0.0),  # the same
        ([5, 5], [500, 500], 0.0, 0.0),  # the same shares
        ([3], [9], 0.0, 0.0),  # nothing to tell apart
        # half a row each: (100.5, 0.5) / 101 against (0.5, 100.5) / 101
        ([100, 0], [0, 100], 2 * (100 / 101) * math.log(201), 1.0),
        # a tenth tripled: 1/10 becomes 3/12; entropy(0.175) less the mean of entropy(0.1) and entropy(0.25), in bits
        ([100_000, 900_000], [300_000, 900_000], 0.15 * math.log(2.5) + 0.15 * math.log(1.2), 0.02888),
    ],
)
def test_psi_and_js_of_known_samples(a: list[int], b: list[int], psi: float, js: float) -> None:
    """Worked out by hand."""
    assert population_stability_index(a, b) == pytest.approx(psi, abs=2e-5)
    assert jensen_shannon(a, b) == pytest.approx(js, abs=2e-5)


@given(two_samples())
def test_psi_is_the_sum_over_groups(samples: tuple[list[int], list[int]]) -> None:
    """As the slow version says, never negative, and the same both ways."""
    a, b = samples
    found = population_stability_index(a, b)
    assert found == pytest.approx(slow_psi(a, b), rel=1e-9, abs=1e-12)
    assert found >= 0
    assert found == pytest.approx(population_stability_index(b, a), rel=1e-12)


@given(two_samples())
def test_js_is_the_square_of_scipys_distance(samples: tuple[list[int], list[int]]) -> None:
    """Base 2, in [0, 1], and the same both ways."""
    a, b = samples
    found = jensen_shannon(a, b)
    # scipy returns a root, and that of a rounding error is large.
    assert found == pytest.approx(float(np.nan_to_num(jensenshannon(a, b, base=2))) ** 2, abs=1e-12)
    assert 0 <= found <= 1
    assert found == pytest.approx(jensen_shannon(b, a), abs=1e-15)


def test_samples_that_cannot_be_compared_are_refused() -> None:
    """Other groups, no rows, negative counts."""
    with pytest.raises(ValueError, match=r"the same groups, got \[1\] and \[2\]"):
        population_stability_index([1], [1, 2])
    for a in ([0, 0], [-1, 2]):
        with pytest.raises(ValueError, match="at least 0, and not all of a sample 0"):
            jensen_shannon(a, [1, 1])


@pytest.mark.parametrize(("n", "m", "classes"), [(400, 400, 10), (3_000, 500, 40)])
def test_sampling_adds_what_is_expected(n: int, m: int, classes: int) -> None:
    """Of 1,000 pairs of one population the mean PSI is what is taken off, and so is the mean Jensen-Shannon."""
    rng = np.random.default_rng(7)
    shares = rng.dirichlet(np.full(classes, 2.0))
    pairs = [(rng.multinomial(n, shares), rng.multinomial(m, shares)) for _ in range(1_000)]
    found = [diverge(merge(a, groups), merge(b, groups)) for a, b in pairs if len(groups := rare_groups(a, b))]
    assert np.mean([d.psi for d in found]) == pytest.approx(np.mean([d.expected_psi for d in found]), rel=0.1)
    # Nothing is left in the mean but what is cut off at 0.
    assert np.mean([d.psi - d.corrected_psi for d in found]) > 0.7 * np.mean([d.psi for d in found])
    assert np.mean([d.js - d.corrected_js for d in found]) > 0.7 * np.mean([d.js for d in found])


@pytest.mark.parametrize(("n", "m"), [(20, 50), (200, 20_000)])
@pytest.mark.parametrize("mix", [[0.5, 0.5], [0.9, 0.04, 0.03, 0.02, 0.01], [0.1] * 10])
def test_chance_is_how_often_one_population_does_it(n: int, m: int, mix: list[float]) -> None:
    """Of 1,000 pairs no more than a twentieth has a chance of a twentieth: small, sparse and uneven ones, too."""
    rng = np.random.default_rng(5)
    found = [compare_classes(rng.multinomial(n, mix), rng.multinomial(m, mix)) for _ in range(1_000)]
    # Three standard deviations above a twentieth: the next pairs are other ones.
    assert sum(d.beyond(0.05) for d in found) < 1_000 * 0.05 + 3 * math.sqrt(1_000 * 0.05)


@given(two_samples(2), st.booleans())
@settings(max_examples=40, deadline=None)
def test_chance_is_that_of_the_figure_that_is_told(samples: tuple[list[int], list[int]], levels: bool) -> None:
    """Splits that are compared one by one, as the samples are, reach it as often as those that are taken together."""
    a, b = (np.array(sample) // 50 + 1 for sample in samples)
    compare, group = (compare_levels, level_groups) if levels else (compare_classes, rare_groups)
    found = compare(a, b)
    if found.groups == 1:
        assert (found.psi, found.chance) == (0, 1)
        return
    pooled, rows = a + b, int(a.sum())
    rng, reached, drawn = resampling.generator(pooled, rows), 0, 0
    for draws in itertools.islice(resampling.batches(len(pooled)), 3):
        for first, second in zip(*resampling.random_splits(rng, pooled, rows, draws), strict=True):
            groups = group(first, second)
            split = diverge(merge(first, groups), merge(second, groups))
            reached += split.psi - split.expected_psi >= found.psi - found.expected_psi - 1e-9
        drawn += draws
        if reached >= 20:  # no more splits were made
            assert found.chance == (reached + 1) / (drawn + 1)
            return
    assert found.chance is not None
    assert (reached + 1) / 12_000 <= found.chance < 0.5


@given(two_samples())
def test_groups_of_classes_have_rows_enough(samples: tuple[list[int], list[int]]) -> None:
    """All classes have a group; those alone in theirs have five rows expected in the smaller sample; no row is lost."""
    a, b = np.array(samples)
    groups = rare_groups(a, b)
    expected = (a / a.sum() + b / b.sum()) / 2 * min(a.sum(), b.sum())
    alone = np.flatnonzero(expected >= LEAST_EXPECTED)
    assert groups[alone].tolist() == list(range(len(alone)))
    assert set(np.delete(groups, alone)) <= {len(alone)}
    assert merge(a, groups).sum() == a.sum()


@given(two_samples(), st.integers(1, 12))
def test_groups_of_bins_are_neighbours_of_about_equal_weight(
    samples: tuple[list[int], list[int]], at_most: int
) -> None:
    """Ascending, no more than asked for, each heavy enough, none that could be cut in two by its first bin."""
    a, b = np.array(samples)
    groups = level_groups(a, b, at_most)
    assert groups[0] == 0
    assert set(np.diff(groups)) <= {0, 1}
    assert groups[-1] < at_most
    weight = (a / a.sum() + b / b.sum()) / 2
    least = max(1 / at_most, LEAST_EXPECTED / min(a.sum(), b.sum()))
    if groups[-1]:
        assert all(weight[groups == group].sum() >= least - 1e-9 for group in range(groups[-1] + 1))


def test_bins_of_equal_weight_become_ten_groups() -> None:
    """A hundred full bins: ten each."""
    assert level_groups([100] * 100, [7] * 100).tolist() == [i // 10 for i in range(100)]


def test_confidence_that_crowds_at_one_end_is_still_told_apart() -> None:
    """All within the last tenth: bins of equal width would see one group, and no drift."""
    a, b = np.zeros(100, int), np.zeros(100, int)
    a[90:] = [10, 10, 10, 10, 10, 10, 20, 100, 320, 500]
    b[90:] = a[90:][::-1]
    assert compare_levels(a, b).psi > 1
    assert compare_levels(a, a).psi == 0


def test_a_class_that_is_new_tonight_is_not_rare() -> None:
    """Half of a night of 200 images, none of a baseline of a million."""
    found = compare_classes([1_000_000, 0], [100, 100])
    assert (found.groups, found.by_chance) == (2, False)


def test_small_samples_far_apart_may_be_chance() -> None:
    """The same shares: of 20 rows nothing is proven, of 2,000 it is."""
    assert compare_classes([8, 12], [12, 8]).by_chance
    assert not compare_classes([800, 1200], [1200, 800]).by_chance


def test_of_the_same_images_nobody_asks_for_chance() -> None:
    """What is not asked is neither chance nor beyond it."""
    found = diverge([8, 12], [12, 8])
    assert (found.chance, found.by_chance, found.beyond(1.0)) == (None, False, False)


def test_classes_that_neither_has_change_nothing() -> None:
    """A model of a thousand classes of which a feed shows two."""
    a, b = np.zeros(1_000, int), np.zeros(1_000, int)
    a[[3, 700]], b[[3, 700]] = [80, 120], [95, 105]
    assert compare_classes(a, b) == compare_classes([80, 120], [95, 105])


@given(st.integers(0, 300), st.integers(0, 300), st.integers(1, 10**6), st.integers(1, 10**6))
def test_chance_of_a_share_is_a_close_bound_of_the_exact_tail(a: int, b: int, more_a: int, more_b: int) -> None:
    """At least the binomial tail on the side of the mean where it lies, and where it matters at most half more."""
    rows_a, rows_b = a + more_a, b + more_b
    share = rows_b / (rows_a + rows_b)
    tail = binom.logsf(b - 1, a + b, share) if b >= (a + b) * share else binom.logcdf(b, a + b, share)
    found = log_chance(a, b, rows_a, rows_b)
    assert found <= 0
    if tail < -600:  # scipy takes the logarithm of a number that a float hardly holds
        assert found < -590
        return
    assert found >= tail - 1e-6 * max(1, abs(tail))
    if tail < math.log(1e-3):
        assert found <= tail + math.log(1.5)


def test_chance_of_a_share_is_no_less_than_that_of_drawing_without_putting_back() -> None:
    """Which is what two samples of one population do, given the rows of a group in both: the groups share them out."""
    for a, b, rows_a, rows_b in ((2, 14, 40, 60), (30, 5, 50, 50), (90, 160, 200, 200), (0, 6, 1_000, 100)):
        drawn = hypergeom(rows_a + rows_b, a + b, rows_b)
        exact = drawn.logsf(b - 1) if b * rows_a >= a * rows_b else drawn.logcdf(b)
        assert log_chance(a, b, rows_a, rows_b) >= exact
