"""The health gate: are tonight's answers distributed like those of a baseline?

A model with the wrong preprocessing, a camera out of focus or a feed that has lost half of its classes fails no image.
What it does is to move the mix of the answers and their confidence, and that is what is judged here. A figure passes
its limit when it is over it without what sampling adds, and when chance alone would not have put it there: of a
thousand nights of the baseline's population at most one is called drifted by any figure (divergence.py). Small nights
are noise, and are let pass rather than refused.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from transforms.distributions import Distributions
from transforms.divergence import CHANCE, Divergence, compare_classes, compare_levels, log_chance
from transforms.settings import HealthSettings

LEAST_SHARE = 0.005
"""A class with less of both runs is not judged alone: a feed of millions has rare classes that come and go."""
_CHANCE_OF_A_FIGURE = CHANCE / 3
"""Class mix, single classes and confidence share out what chance is given: it is meant for the night (Bonferroni)."""
_MOST_MOVED = 5
_SAME_CONFIDENCE = ("model", "scoring")


@dataclass(frozen=True)
class Baseline:
    """What tonight is compared with."""

    run_id: str
    """A published run."""
    model_id: str
    """What scored it."""
    fingerprints: dict[str, str]
    """Of its manifest."""
    distributions: Distributions
    """Of its answers."""
    note: str = ""
    """What has to be known of it; empty where nothing has."""


@dataclass(frozen=True)
class HealthPlan:
    """How a run will be judged, known before it starts; picklable."""

    settings: HealthSettings
    """The limits."""
    labels: tuple[str, ...]
    """C names of tonight's classes."""
    independent: bool
    """As in Distributions."""
    model_id: str
    """What scores tonight."""
    fingerprints: dict[str, str]
    """What makes tonight's scores what they are."""
    baseline: Baseline | None = None
    """What to compare with; None where there is nothing."""
    without: str = ""
    """Why there is none."""


class Moved(NamedTuple):
    """How the share of one class has changed."""

    label: str
    """The class, or all classes of that label."""
    before: int
    """Images of the baseline."""
    now: int
    """Images of tonight."""
    share_before: float
    """Of the baseline, in [0, 1]."""
    share_now: float
    """Of tonight, in [0, 1]."""

    def __str__(self) -> str:
        return f'"{self.label}" {self.share_before:.2%} to {self.share_now:.2%}'


class Breach(NamedTuple):
    """A limit that is passed."""

    setting: str
    """Its name in `health`."""
    value: float
    """What was found."""
    limit: float
    """What it allows."""
    text: str
    """For a person."""


@dataclass(frozen=True)
class Health:
    """What the gate says of a run."""

    baseline: str | None
    """The run that it was compared with; None for none."""
    note: str
    """Why it was not judged, or what has to be known of the comparison; empty where nothing has."""
    judged: bool = False
    """Whether limits were applied."""
    images: int = 0
    """Of tonight."""
    baseline_images: int = 0
    """Of the baseline."""
    class_mix: Divergence | None = None
    """Of the classes, by label; None where nothing could be compared."""
    confidence: Divergence | None = None
    """Of the top-1 probabilities; None where they cannot be compared."""
    moved: tuple[Moved, ...] = ()
    """The classes whose shares have changed most, the most first."""
    breaches: tuple[Breach, ...] = ()
    """Limits that are passed."""

    def to_json(self) -> dict[str, Any]:
        """Return everything as what json.dumps takes."""
        return {
            "baseline": self.baseline,
            "judged": self.judged,
            "note": self.note,
            "images": self.images,
            "baseline_images": self.baseline_images,
            "class_mix": self.class_mix and self.class_mix.to_json(),
            "confidence": self.confidence and self.confidence.to_json(),
            "moved": [moved._asdict() for moved in self.moved],
            "breaches": [breach._asdict() for breach in self.breaches],
            "message": str(self),
        }

    def __str__(self) -> str:
        if not self.judged:
            return f"not judged: {self.note}"
        told = f" ({self.note})" if self.note else ""
        if not self.breaches:
            figures = [
                f"{name} not compared, of too few images" if found.too_few else f"{name} PSI {found.corrected_psi:.3f}"
                for name, found in self._figures()
            ]
            return f"like run {self.baseline}{told}: {', '.join(figures)}"
        what = "; ".join(breach.text for breach in self.breaches)
        moved = f"; moved most: {', '.join(map(str, self.moved))}" if self.moved else ""
        return f"drifted from run {self.baseline}{told}: {what}{moved}"

    def _figures(self) -> Iterator[tuple[str, Divergence]]:
        for name, found in (("class mix", self.class_mix), ("confidence", self.confidence)):
            if found is not None:
                yield name, found


def judge(tonight: Distributions, plan: HealthPlan) -> Health:
    """Compare tonight's answers with the baseline's, and hold the figures to their limits.

    Args:
        tonight: Of the images that this run has scored; in a delta those are the new ones.
        plan: Limits and baseline.
    """
    baseline = plan.baseline
    if baseline is None:
        return Health(None, plan.without, images=tonight.rows)
    before = baseline.distributions
    told = Health(baseline.run_id, "", images=tonight.rows, baseline_images=before.rows)
    least = plan.settings.min_images
    if min(tonight.rows, before.rows) < least:
        whose = f"tonight has {tonight.rows}" if tonight.rows < least else f"run {baseline.run_id} has {before.rows}"
        return replace(told, note=f"{whose} scored images, health.min_images asks for {least}")
    mix_before, mix_now = before.by_label(), tonight.by_label()
    if not mix_before.keys() & mix_now.keys():
        return replace(told, note=f"run {baseline.run_id} has no label in common with tonight's")
    labels = list(mix_before | mix_now)
    old, new = ([mix.get(label, 0) for label in labels] for mix in (mix_before, mix_now))
    class_mix = compare_classes(old, new)
    comparable = before.independent == tonight.independent and _same(plan.fingerprints, baseline.fingerprints)
    confidence = compare_levels(before.confidence.counts, tonight.confidence.counts) if comparable else None
    moved = [
        Moved(label, a, b, a / before.rows, b / tonight.rows) for label, a, b in zip(labels, old, new, strict=True)
    ]
    moved.sort(key=lambda change: -abs(change.share_now - change.share_before))
    ratios = _ratios(moved, before.rows, tonight.rows, plan.settings.max_class_ratio)
    breaches = [*_breaches(class_mix, "class_mix", plan.settings), *ratios]
    if confidence is not None:
        breaches += _breaches(confidence, "confidence", plan.settings)
    return replace(
        told,
        note=_note(plan, baseline, tonight),
        judged=True,
        class_mix=class_mix,
        confidence=confidence,
        moved=tuple(change for change in moved[:_MOST_MOVED] if change.share_now != change.share_before),
        breaches=tuple(breaches),
    )


def _same(now: Mapping[str, str], before: Mapping[str, str]) -> bool:
    # Another model or calibration is as sure as it is: its confidence says nothing of the images. Other preprocessing
    # does: the wrong value range is what the gate is there to see.
    return all(now.get(name) == before.get(name) for name in _SAME_CONFIDENCE)


def _note(plan: HealthPlan, baseline: Baseline, tonight: Distributions) -> str:
    notes = [baseline.note] if baseline.note else []
    before, now = baseline.distributions.by_label(), tonight.by_label()
    if not _same(plan.fingerprints, baseline.fingerprints):
        whose = f"another model, {baseline.model_id}" if baseline.model_id != plan.model_id else "another scoring"
        notes.append(f"it has {whose}, and confidence is not judged")
    elif baseline.distributions.independent != tonight.independent:
        notes.append("only one of them has labels that exclude each other, and confidence is not judged")
    if gone := [label for label in before if label not in now]:
        notes.append(f"{len(gone)} of its labels are none of tonight's, {gone[0]} for example")
    if added := [label for label in now if label not in before]:
        notes.append(f"{len(added)} of tonight's labels are none of its, {added[0]} for example")
    return "; ".join(notes)


def _breaches(found: Divergence, name: str, settings: HealthSettings) -> Iterator[Breach]:
    if not found.beyond(_CHANCE_OF_A_FIGURE):
        return
    for figure, title, value in (("psi", "PSI", found.corrected_psi), ("js", "Jensen-Shannon", found.corrected_js)):
        setting = f"max_{name}_{figure}"
        limit = getattr(settings, setting)
        if limit is not None and value > limit:
            text = f"{name.replace('_', ' ')} {title} {value:.3f}, health.{setting} allows {limit:g}"
            yield Breach(setting, value, limit, text)


def _ratios(moved: list[Moved], before: int, now: int, limit: float | None) -> Iterator[Breach]:
    """Say which classes have grown or shrunk by more than the limit, and not by chance."""
    judged = [change for change in moved if max(change.share_before, change.share_now) >= LEAST_SHARE]
    if limit is None or not judged:
        return
    # So many classes are asked at once: chance is shared out among them (Bonferroni), for both directions. Those with
    # small shares are asked, too: in a small sample any of them may seem large.
    surely = math.log(_CHANCE_OF_A_FIGURE / (2 * sum(change.before + change.now > 0 for change in moved)))
    passed = []
    for change in judged:
        # Half an image more in each, so that a class that is new or gone has a ratio (Haldane 1956, Anscombe 1956).
        a, b = change.before + 0.5, change.now + 0.5
        ratio = math.log((b / now) / (a / before))
        if abs(ratio) > math.log(limit) and log_chance(change.before, change.now, before, now) < surely:
            way = "more" if ratio > 0 else "less"
            passed.append((math.exp(abs(ratio)), f"{change}, {math.exp(abs(ratio)):.1f} times {way}"))
    if passed:
        passed.sort(key=lambda entry: -entry[0])
        named = "; ".join(text for _, text in passed[:_MOST_MOVED])
        others = f"; {len(passed) - _MOST_MOVED} more" if len(passed) > _MOST_MOVED else ""
        classes = "class" if len(passed) == 1 else f"{len(passed)} classes:"
        text = f"{classes} {named}{others}, health.max_class_ratio allows {limit:g}"
        yield Breach("max_class_ratio", passed[0][0], limit, text)
