"""The health gate: what trips it, what does not, and what it says; figures from samples that are drawn."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.benchmarks.false_alarms import called_drifted, certainty
from transforms.distributions import COLUMNS, Distributions, count
from transforms.health import Baseline, Health, HealthPlan, judge
from transforms.probabilities import softmax, summarise
from transforms.settings import HealthSettings

CLASSES = 10
LABELS = tuple(f"class {number}" for number in range(CLASSES))


def answers(
    mix: Sequence[float], images: int, seed: int, *, sure: float = 4.0, labels: Sequence[str] = LABELS
) -> Distributions:
    """Answers of a model that is the surer the larger `sure` is, to images of these classes."""
    rng = np.random.default_rng(seed)
    truth = rng.choice(len(mix), images, p=np.asarray(mix) / sum(mix))
    logits = rng.normal(0, 1, (images, len(mix)))
    logits[np.arange(images), truth] += sure
    summary = summarise(softmax(logits), 1)
    columns = (summary.top_k.index[:, 0], summary.top_k.probability[:, 0], summary.margin, summary.entropy)
    batch = pa.record_batch([pa.array(column) for column in columns], names=list(COLUMNS))
    return count(batch, labels, independent=False)


def drawn(mix: npt.ArrayLike, images: int, seed: int, labels: Sequence[str]) -> Distributions:
    """Answers whose classes are drawn, all of the same confidence."""
    index = np.random.default_rng(seed).choice(len(labels), images, p=np.asarray(mix) / np.sum(mix)).astype(np.int32)
    same = pa.array(np.full(images, 0.5, np.float32))
    batch = pa.record_batch([pa.array(index), same, same, same], names=list(COLUMNS))
    return count(batch, labels, independent=False)


def plan(baseline: Distributions | None, /, fingerprints: dict[str, str] | None = None, **settings: Any) -> HealthPlan:
    """A gate that compares with a run `last`, of the same model unless said."""
    return HealthPlan(
        settings=HealthSettings(baseline="latest", **settings),
        labels=LABELS,
        independent=False,
        model_id="toy@1",
        fingerprints=fingerprints or {},
        baseline=baseline and Baseline("last", "toy@1", {}, baseline),
        without="no run is published yet",
    )


def tripled(number: int) -> list[float]:
    """The mix of equal shares in which one class has thrice its images."""
    mix = [1.0] * CLASSES
    mix[number] = 3.0
    return mix


EVEN = [1.0] * CLASSES


def passed(health: Health) -> set[str]:
    """The limits that were passed."""
    return {breach.setting for breach in health.breaches}


@pytest.mark.parametrize("images", [200, 1_000, 20_000])
def test_two_samples_of_one_population_pass(images: int) -> None:
    """In 200 pairs of nights of each size, small ones too, at most one is called drifted."""
    found = [
        judge(answers(EVEN, images, 2 * seed), plan(answers(EVEN, images, 2 * seed + 1)))
        for seed in range(200 if images < 20_000 else 20)
    ]
    assert all(health.judged for health in found)
    assert sum(bool(health.breaches) for health in found) <= 1


@pytest.mark.parametrize(("before", "now"), [(200, 50_000), (50_000, 200), (1_000, 50_000)])
def test_a_small_night_of_many_classes_passes_beside_a_large_one(before: int, now: int) -> None:
    """A class with two of 200 images has 1%, though it has 0.05% of all: of a thousand classes some always do."""
    rng = np.random.default_rng(3)
    labels, found = [str(number) for number in range(1_000)], []
    for seed in range(20):
        mix = rng.dirichlet(np.ones(1_000))
        nights = [drawn(mix, images, 2 * seed + place, labels) for place, images in enumerate((before, now))]
        found.append(judge(nights[1], plan(nights[0])))
    assert all(health.judged for health in found)
    assert sum(bool(health.breaches) for health in found) == 0


def test_a_class_that_has_surely_grown_is_seen_in_a_small_night() -> None:
    """Twenty of 200 images, of which a large night has one in a hundred."""
    labels = [str(number) for number in range(100)]
    mix = np.ones(100)
    before = drawn(mix, 50_000, 1, labels)
    mix[7] = 11
    health = judge(drawn(mix, 200, 2, labels), plan(before))
    assert "max_class_ratio" in passed(health)
    assert health.moved[0].label == "7"


def test_one_class_tripled_is_drift() -> None:
    """Of ten classes: the mix moves over the limit, and the class is named with its shares."""
    health = judge(answers(tripled(3), 2_000, 1), plan(answers(EVEN, 2_000, 2)))
    assert passed(health) == {"max_class_mix_psi", "max_class_ratio"}
    assert health.moved[0].label == "class 3"
    assert (health.moved[0].share_before, health.moved[0].share_now) == (0.084, 0.252)
    assert str(health) == (
        'drifted from run last: class mix PSI 0.217, health.max_class_mix_psi allows 0.1; class "class 3" 8.40% to '
        '25.20%, 3.0 times more, health.max_class_ratio allows 2; moved most: "class 3" 8.40% to 25.20%, "class 1" '
        '12.00% to 8.45%, "class 6" 10.75% to 7.55%, "class 8" 9.35% to 7.45%, "class 2" 10.25% to 8.35%'
    )


def test_one_class_of_many_tripled_is_drift_though_the_mix_hardly_moves() -> None:
    """Of 100 classes: PSI stays below 0.1, the share of the class says it."""
    labels = [str(number) for number in range(100)]
    mix = np.ones(100)
    before = answers(mix, 20_000, 1, sure=9, labels=labels)
    mix[7] = 3
    health = judge(answers(mix, 20_000, 2, sure=9, labels=labels), plan(before))
    assert passed(health) == {"max_class_ratio"}
    assert [breach.text.split()[:2] for breach in health.breaches] == [["class", '"7"']]


def test_a_class_that_is_gone_is_drift() -> None:
    """A feed has lost one class: no ratio can be computed of nothing, and it is told nevertheless."""
    health = judge(answers([0, *EVEN[1:]], 3_000, 1, sure=9), plan(answers(EVEN, 3_000, 2, sure=9)))
    assert 'class "class 0" ' in health.breaches[-1].text
    assert "times less, health.max_class_ratio allows 2" in health.breaches[-1].text


def test_less_confidence_is_drift() -> None:
    """The same images out of focus: the classes are as before, the model is less sure."""
    health = judge(answers(EVEN, 1_000, 1, sure=3.0), plan(answers(EVEN, 1_000, 2, sure=4.0)))
    assert passed(health) == {"max_confidence_psi"}
    assert health.breaches[0].value == pytest.approx(0.76, abs=0.01)


def test_small_nights_are_not_judged() -> None:
    """Whatever is in them; whose fault it is, is said."""
    small, large = answers([1.0] + [0.0] * 9, 150, 1), answers(EVEN, 1_000, 2)
    for tonight, before, note in (
        (small, large, "tonight has 150 scored images, health.min_images asks for 200"),
        (large, small, "run last has 150 scored images, health.min_images asks for 200"),
    ):
        health = judge(tonight, plan(before))
        assert (health.judged, health.breaches, health.note) == (False, (), note)
        assert str(health) == f"not judged: {note}"


def test_a_first_run_is_not_judged() -> None:
    """There is nothing to compare with."""
    health = judge(answers(EVEN, 300, 1), plan(None))
    assert (str(health), health.images) == ("not judged: no run is published yet", 300)


def test_limits_that_are_left_out_do_not_judge() -> None:
    """Figures are told all the same."""
    none = dict.fromkeys(("max_class_mix_psi", "max_class_ratio", "max_confidence_psi"))
    health = judge(answers(tripled(3), 2_000, 1, sure=3), plan(answers(EVEN, 2_000, 2), **none))
    assert (health.judged, health.breaches) == (True, ())
    assert str(health).startswith("like run last: class mix PSI 0.1")


def test_jensen_shannon_has_limits_of_its_own() -> None:
    """Both figures that are left out by default."""
    limits = {"max_class_mix_js": 0.01, "max_confidence_js": 0.01, "max_class_ratio": None}
    health = judge(answers(tripled(3), 2_000, 1, sure=3), plan(answers(EVEN, 2_000, 2), **limits))
    assert passed(health) == {"max_class_mix_psi", "max_class_mix_js", "max_confidence_psi", "max_confidence_js"}


@pytest.mark.parametrize("changed", ["model", "scoring"])
def test_confidence_of_another_model_is_not_judged(changed: str) -> None:
    """It is as sure as it is; the mix of the same labels is judged as ever."""
    health = judge(answers(tripled(3), 2_000, 1, sure=3), plan(answers(EVEN, 2_000, 2), fingerprints={changed: "new"}))
    assert health.confidence is None
    assert passed(health) == {"max_class_mix_psi", "max_class_ratio"}
    assert str(health).startswith("drifted from run last (it has another scoring, and confidence is not judged): class")


def test_confidence_after_other_preprocessing_is_judged() -> None:
    """The wrong value range is what a gate is there to see."""
    health = judge(answers(EVEN, 1_000, 1, sure=3), plan(answers(EVEN, 1_000, 2), fingerprints={"preprocessing": "x"}))
    assert passed(health) == {"max_confidence_psi"}


def test_other_labels_are_compared_by_name() -> None:
    """In another order, one less and one more: the shares of a label are compared, and the difference is told."""
    labels = [*LABELS[1:], "new"]
    health = judge(answers([*EVEN[1:], 0], 2_000, 1, labels=labels), plan(answers([0, *EVEN[1:]], 2_000, 2)))
    assert health.note == (
        "1 of its labels are none of tonight's, class 0 for example; 1 of tonight's labels are none of its, new for "
        "example"
    )
    assert health.breaches == ()


def test_labels_that_have_nothing_in_common_are_not_judged() -> None:
    """It is told, and no drift."""
    health = judge(answers(EVEN, 300, 1, labels=[f"other {i}" for i in range(10)]), plan(answers(EVEN, 300, 2)))
    assert str(health) == "not judged: run last has no label in common with tonight's"


def test_many_classes_that_have_moved_are_told_in_one_line() -> None:
    """The five that have moved most by their ratio, and how many more."""
    mix = [1.0, *[0.0] * 9]
    (ratio,) = (
        b for b in judge(answers(mix, 3_000, 1, sure=9), plan(answers(EVEN, 3_000, 2))).breaches if "ratio" in b[0]
    )
    assert ratio.text.startswith("10 classes: ")
    assert "; 5 more, health.max_class_ratio allows 2" in ratio.text


@pytest.mark.parametrize("images", [1, 5, 20])
@pytest.mark.parametrize("before", [1, 20, 50_000])
def test_tiny_nights_that_are_judged_pass_where_they_are_alike(images: int, before: int) -> None:
    """With min_images 1: no error, no alarm in 20 pairs, and what was not compared is said."""
    for seed in range(20):
        nights = drawn(EVEN, before, 2 * seed, LABELS), drawn(EVEN, images, 2 * seed + 1, LABELS)
        health = judge(nights[1], plan(nights[0], min_images=1))
        assert (health.judged, health.breaches) == (True, ())
        assert health.class_mix is not None
        if images == 1 and health.class_mix.held > 1:
            assert str(health) == "like run last: class mix not compared, of too few images, confidence PSI 0.000"


def test_twenty_images_that_nothing_explains_are_drift() -> None:
    """All of one class out of ten, where min_images allows to say so; of five images nothing is proven but this."""
    one = [0.0] * 9 + [1.0]
    before = drawn(EVEN, 50_000, 1, LABELS)
    assert "max_class_mix_psi" in passed(judge(drawn(one, 20, 2, LABELS), plan(before, min_images=1)))
    assert passed(judge(drawn(one, 5, 2, LABELS), plan(before, min_images=1))) <= {"max_class_ratio"}


def test_a_night_of_one_class_is_like_another() -> None:
    """There is one group, and that is no want of images: nothing has moved."""
    one = [1.0] + [0.0] * 9
    health = judge(drawn(one, 300, 1, LABELS), plan(drawn(one, 900, 2, LABELS)))
    assert str(health) == "like run last: class mix PSI 0.000, confidence PSI 0.000"


def test_nothing_but_failures_is_not_judged() -> None:
    """Neither tonight nor in the baseline, even where one image would be enough."""
    none, some = answers(EVEN, 0, 1), answers(EVEN, 300, 2)
    assert str(judge(none, plan(some, min_images=1))) == (
        "not judged: tonight has 0 scored images, health.min_images asks for 1"
    )
    assert str(judge(some, plan(none, min_images=1))) == (
        "not judged: run last has 0 scored images, health.min_images asks for 1"
    )


def test_confidence_of_labels_that_do_not_exclude_each_other_is_not_compared_with_that_of_some_that_do() -> None:
    """A probability of softmax is none of sigmoid's; the mix of strongest labels is judged, and it is said."""
    before = answers(EVEN, 2_000, 2)
    tonight = replace(answers(EVEN, 2_000, 1, sure=2), independent=True)
    health = judge(tonight, plan(before))
    assert (health.confidence, health.breaches) == (None, ())
    assert health.note == "only one of them has labels that exclude each other, and confidence is not judged"
    told = judge(tonight, plan(before, fingerprints={"scoring": "new"})).note
    assert told == "it has another scoring, and confidence is not judged"


def test_what_has_to_be_known_of_a_baseline_is_told() -> None:
    """Before its figures are believed."""
    known = plan(answers(EVEN, 300, 2))
    assert known.baseline is not None
    health = judge(answers(EVEN, 300, 1), replace(known, baseline=replace(known.baseline, note="it was interrupted")))
    assert str(health).startswith("like run last (it was interrupted): class mix PSI 0.")


@pytest.mark.parametrize(("before", "now"), [(50, 200), (200, 50), (1_000, 100_000), (100_000, 200)])
@pytest.mark.parametrize("classes", [2, 10, 1_000])
def test_healthy_nights_pass_whatever_their_sizes(before: int, now: int, classes: int) -> None:
    """Of 60 pairs of very uneven mixes at most one is called drifted, of which chance expects 0.06."""
    mix = 1 / np.arange(1, classes + 1) ** 1.5
    assert called_drifted(60, (before, now), mix / mix.sum(), seed=2)["any"] <= 1


def test_planted_drift_of_a_simulated_feed_is_seen() -> None:
    """One of ten classes tripled, and the confidence of blurred photos: in each of ten nights of 1,000 images."""
    even = np.full(10, 0.1)
    more = np.where(np.arange(10) == 3, 3, 1) / 12
    tripled = called_drifted(10, (100_000, 1_000), even, more)
    assert (tripled["max_class_mix_psi"], tripled["max_confidence_psi"]) == (10, 0)
    assert called_drifted(10, (100_000, 1_000), even, sure=certainty(sharp=False))["max_confidence_psi"] == 10


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 3_000), st.integers(1, 3_000))
def test_what_is_told_can_be_kept(seed: int, now: int, before: int) -> None:
    """Of any two samples: JSON without NaN, and drift only where a limit is passed."""
    rng = np.random.default_rng(seed)
    tonight, last = (answers(rng.dirichlet(np.ones(CLASSES)), images, seed) for images in (now, before))
    health = judge(tonight, plan(last, min_images=1))
    told = json.loads(json.dumps(health.to_json(), allow_nan=False))
    assert told["message"] == str(health)
    assert [breach["value"] > breach["limit"] for breach in told["breaches"]] == [True] * len(health.breaches)
