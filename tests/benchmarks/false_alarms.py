"""How often the health gate calls healthy nights drifted, and planted drift healthy, by simulation.

    python -m tests.benchmarks.false_alarms --nights 4000

A night and its baseline are drawn from one population of classes and top-1 probabilities, and judged as a run is, with
the limits as they are by default; then one class of the night is tripled, or its probabilities are those of blurred
photos. A row says how many of so many nights were called drifted, and by which limit. Confidence is drawn apart from
the classes. The same seed gives the same rows.
"""

import argparse
import itertools
import math
import sys
from collections import Counter
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from transforms.distributions import BINS, Distributions, Histogram, entropy_edges, probability_edges
from transforms.divergence import CHANCE, diverge, level_groups, log_chance, merge, rare_groups
from transforms.health import LEAST_SHARE, Baseline, HealthPlan, judge
from transforms.settings import HealthSettings

SIZES = (50, 200, 1_000, 10_000, 100_000)
CLASSES = (2, 10, 1_000)

Floats = npt.NDArray[np.float64]


def mixes(classes: int) -> dict[str, Floats]:
    """Return float64[C] shares of a population, by name: all alike, and most images in a few classes (Zipf)."""
    zipf = 1 / np.arange(1, classes + 1) ** 1.5
    rare = np.full(classes, 0.02 / max(classes - 1, 1))
    rare[0] = 0.98
    return {"even": np.full(classes, 1 / classes), "zipf": zipf / zipf.sum(), "98% in one": rare}


def certainty(*, sharp: bool = True) -> Floats:
    """Return float64[BINS] shares of top-1 probabilities: crowded at 1 as a trained model's are; less so of blur."""
    middle = (np.arange(BINS) + 0.5) / BINS
    a, b = (4.0, 0.5) if sharp else (3.0, 0.8)
    density = middle ** (a - 1) * (1 - middle) ** (b - 1)
    return np.asarray(density / density.sum(), np.float64)


def draw(rng: np.random.Generator, rows: int, mix: Floats, sure: Floats, labels: tuple[str, ...]) -> Distributions:
    """Return the answers to so many images of a population."""
    confidence = rng.multinomial(rows, sure)
    unit = Histogram(probability_edges(), confidence)
    entropy = Histogram(entropy_edges(len(labels), independent=False), confidence)
    return Distributions(labels, False, rng.multinomial(rows, mix), unit, unit, entropy)


def worth_judging(before: Distributions, now: Distributions) -> bool:
    """Tell whether any figure is over its limit: how often chance does it is asked of few nights, and takes longest."""
    limits = HealthSettings()
    old, new = before.class_counts, now.class_counts
    pairs = [
        (limits.max_class_mix_psi, old, new, rare_groups),
        (limits.max_confidence_psi, before.confidence.counts, now.confidence.counts, level_groups),
    ]
    for limit, a, b, group in pairs:
        groups = group(a, b)
        if limit is not None and diverge(merge(a, groups), merge(b, groups)).corrected_psi > limit:
            return True
    shares = old / before.rows, new / now.rows
    judged = np.maximum(*shares) >= LEAST_SHARE
    ratio = np.abs(np.log((new + 0.5) / now.rows / ((old + 0.5) / before.rows)))
    over = np.flatnonzero(judged & (ratio > math.log(limits.max_class_ratio or math.inf)))
    return any(log_chance(int(old[c]), int(new[c]), before.rows, now.rows) < math.log(CHANCE) for c in over)


def called_drifted(
    nights: int,
    sizes: tuple[int, int],
    mix: Floats,
    tonight: Floats | None = None,
    sure: Floats | None = None,
    *,
    seed: int = 1,
) -> Counter[str]:
    """Count the nights that are called drifted, under `any`, and by limit.

    Args:
        nights: How many pairs to draw.
        sizes: Images of the baseline and of the night.
        mix: float64[C], the classes of the baseline.
        tonight: float64[C], those of the night; None for the same.
        sure: float64[BINS], its probabilities; None for those of the baseline.
        seed: Of the draws.
    """
    rng = np.random.default_rng([seed, *sizes, len(mix)])
    labels = tuple(str(number) for number in range(len(mix)))
    settings = HealthSettings(baseline="latest", min_images=1)
    found: Counter[str] = Counter()
    for _ in range(nights):
        before = draw(rng, sizes[0], mix, certainty(), labels)
        now = draw(rng, sizes[1], mix if tonight is None else tonight, certainty() if sure is None else sure, labels)
        plan = HealthPlan(settings, labels, False, "model", {}, Baseline("last", "model", {}, before))
        breaches = {breach.setting for breach in judge(now, plan).breaches} if worth_judging(before, now) else set()
        found.update({*breaches, "any"} if breaches else ())
    return found


def rows(nights: int, seed: int) -> Iterator[tuple[str, Counter[str]]]:
    """Judge every population at every pair of sizes, then the planted drifts."""
    for classes in CLASSES:
        for name, mix in mixes(classes).items():
            for sizes in itertools.product(SIZES, SIZES):
                what = f"healthy | {classes} classes, {name} | {sizes[0]} then {sizes[1]}"
                yield what, called_drifted(nights, sizes, mix, seed=seed)
    even = mixes(10)["even"]
    tripled = even * np.where(np.arange(10) == 3, 3, 1)
    for size in SIZES:
        for sizes in ((size, size), (100_000, size)):
            drawn = called_drifted(max(nights // 20, 20), sizes, even, tripled / tripled.sum(), seed=seed)
            yield f"one of 10 classes tripled | {sizes[0]} then {sizes[1]}", drawn
            drawn = called_drifted(max(nights // 20, 20), sizes, even, sure=certainty(sharp=False), seed=seed)
            yield f"less sure | {sizes[0]} then {sizes[1]}", drawn


def main() -> None:
    """Print a row a population and pair of sizes, and the worst rates."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nights", type=int, default=2_000, help="pairs a row (planted drift: a twentieth)")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    total: Counter[str] = Counter()
    healthy = 0
    for what, found in rows(args.nights, args.seed):
        said = ", ".join(f"{name} {count}" for name, count in sorted(found.items()))
        sys.stdout.write(f"{what} | {said or 'none'}\n")
        sys.stdout.flush()
        if what.startswith("healthy"):
            total.update(found)
            healthy += args.nights
    sys.stdout.write(f"all healthy nights: {healthy}, of these {dict(total)}\n")


if __name__ == "__main__":
    main()
