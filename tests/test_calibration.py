"""Temperature and Platt scaling: applied, fitted against known truths, and measured by slow obvious versions."""

import re
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import scipy.optimize
import scipy.special
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from pydantic import ValidationError

from transforms import calibration
from transforms.calibration import Platt, brier, ece, fit_platt, fit_temperature, nll, to_logits
from transforms.errors import ConfigError, InputError
from transforms.probabilities import sigmoid, softmax
from transforms.settings import CalibrationSettings

RNG = np.random.default_rng


def classified(rows: int, classes: int, seed: int = 0) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Draw logits, and classes by exactly the probabilities that the logits say: calibrated by construction."""
    rng = RNG(seed)
    x = rng.normal(0, 2, (rows, classes))
    return x, (softmax(x).cumsum(axis=1) > rng.random((rows, 1))).argmax(axis=1)


def labelled(rows: int, labels: int, a: Any, b: Any, seed: int = 0) -> tuple[Any, npt.NDArray[np.bool_]]:
    """Draw logits, and labels that hold with probability sigmoid(a * logit + b)."""
    rng = RNG(seed)
    x = rng.normal(0, 3, (rows, labels))
    return x, rng.random(x.shape) < sigmoid(x * a + b)


def test_nothing_declared_changes_nothing() -> None:
    """The identity is known as such."""
    assert calibration.is_identity(CalibrationSettings())
    assert not calibration.is_identity(CalibrationSettings(temperature=1.0))
    x = RNG(0).normal(size=(3, 4))
    np.testing.assert_array_equal(calibration.apply(x, CalibrationSettings()), x)


def test_temperature_divides_and_platt_is_a_line() -> None:
    """Platt's pair is one for all labels or one a label."""
    x = np.array([[2.0, -4.0]], np.float32)
    apply = calibration.apply
    np.testing.assert_array_equal(apply(x, CalibrationSettings(temperature=4.0)), [[0.5, -1]])
    np.testing.assert_array_equal(apply(x, CalibrationSettings(platt_a=2.0, platt_b=1.0)), [[5, -7]])
    per_label = CalibrationSettings(platt_a=(1.0, 0.5), platt_b=(0.0, 3.0))
    np.testing.assert_array_equal(apply(x, per_label), [[2, 1]])
    np.testing.assert_array_equal(apply(x, CalibrationSettings(platt_a=(1.0, 0.5), platt_b=3.0)), [[5, 1]])


@given(st.integers(2, 20), st.floats(0.05, 20), st.integers(0, 2**32))
@examples(deadline=None)
def test_logits_come_back_from_probabilities(classes: int, temperature: float, seed: int) -> None:
    """A calibrated softmax or sigmoid is the same from logits and from probabilities."""
    # Further out, a float32 probability near 1 holds too few digits of its logit.
    x = RNG(seed).normal(0, 3, (5, classes)).clip(-6, 6)
    again = to_logits(softmax(x), "softmax")
    np.testing.assert_allclose(softmax(again / temperature), softmax(x / temperature), atol=1e-5)
    again = to_logits(sigmoid(x), "sigmoid")
    np.testing.assert_allclose(sigmoid(again / temperature), sigmoid(x / temperature), atol=1e-5)


def test_saturated_probabilities_have_finite_logits() -> None:
    """0 and 1 are taken for the nearest numbers that float32 tells from them, as documented."""
    np.testing.assert_allclose(to_logits([[0.0, 1.0]], "softmax"), [[-87.3365, 0]], atol=1e-4)
    np.testing.assert_allclose(to_logits([[0.0, 1.0]], "sigmoid"), [[-87.3365, 16.6355]], atol=1e-4)
    assert "-87.3" in str(to_logits.__doc__)
    assert "16.6" in str(to_logits.__doc__)


MISFITS = [
    # calibration, activation, outputs, message
    ({"temperature": 2.0}, "sigmoid", 3, "calibration.temperature 2 is for softmax, this model's activation is sigmoid;"
     " use calibration.platt_a and platt_b"),
    ({"temperature": 2.0}, "none", 3, "calibration.temperature 2 is for softmax, this model's activation is none; leave"
     " calibration out"),
    ({"platt_a": 1.0, "platt_b": 0.0}, "softmax", 3, "calibration.platt_a and platt_b are for sigmoid, this model's "
     "activation is softmax; use calibration.temperature"),
    ({"platt_a": 1.0, "platt_b": 0.0}, "none", 3, "calibration.platt_a and platt_b are for sigmoid, this model's "
     "activation is none; leave calibration out"),
    ({"platt_a": (1.0, 2.0), "platt_b": 0.0}, "sigmoid", 3, "calibration.platt_a must hold one number, or one for each "
     "of the model's 3 outputs, got 2"),
    ({"platt_a": 1.0, "platt_b": (1.0,) * 4}, "sigmoid", 3, "calibration.platt_b must hold one number, or one for each "
     "of the model's 3 outputs, got 4"),
]  # fmt: skip


@pytest.mark.parametrize(("declared", "activation", "units", "message"), MISFITS)
def test_calibration_that_does_not_fit_the_head_is_refused(
    declared: dict[str, Any], activation: str, units: int, message: str
) -> None:
    """The message says which calibration would fit."""
    with pytest.raises(ConfigError) as caught:
        calibration.check(CalibrationSettings(**declared), activation, units)
    assert str(caught.value) == message


def test_calibration_that_fits_passes() -> None:
    """Lists of the model's length, single numbers, and nothing."""
    calibration.check(CalibrationSettings(), "none", 3)
    calibration.check(CalibrationSettings(temperature=2.0), "softmax", 3)
    calibration.check(CalibrationSettings(platt_a=(1.0, 2.0, 3.0), platt_b=0.0), "sigmoid", 3)


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"temperature": 0.0}, "greater than 0"),
        ({"temperature": float("inf")}, "finite number"),
        ({"platt_a": 1.0}, "platt_a and platt_b go together"),
        ({"platt_b": 1.0}, "platt_a and platt_b go together"),
        ({"platt_a": float("nan"), "platt_b": 0.0}, "finite number"),
        ({"temperature": 1.0, "platt_a": 1.0, "platt_b": 0.0}, "give the one that fits the model"),
    ],
)
def test_settings_that_make_no_sense_are_refused(declared: dict[str, float], message: str) -> None:
    """Before any model is loaded."""
    with pytest.raises(ValidationError, match=message):
        CalibrationSettings(**declared)


@pytest.mark.parametrize("factor", [0.2, 1.0, 7.0])
def test_fit_finds_the_temperature_that_was_put_in(factor: float) -> None:
    """Calibrated logits times a factor need that factor as temperature; float32 from the model is enough."""
    x, y = classified(4000, 10)
    assert fit_temperature((x * factor).astype(np.float32), y) == pytest.approx(factor, rel=0.05)
    assert fit_temperature(x * factor, y) == pytest.approx(fit_temperature(x, y) * factor, rel=1e-6)
    assert fit_temperature(to_logits(softmax(x), "softmax"), y) == pytest.approx(fit_temperature(x, y), rel=1e-5)


@given(st.integers(20, 60), st.integers(2, 8), st.floats(0.2, 5), st.integers(0, 2**32))
@examples(deadline=None, max_examples=30)
def test_fitted_temperature_has_the_lowest_likelihood(rows: int, classes: int, factor: float, seed: int) -> None:
    """A plain minimiser of the plain formula finds the same."""
    x, y = classified(rows, classes, seed)
    x *= factor
    try:
        found = fit_temperature(x, y)
    except InputError:
        return  # no best temperature in range: tested below

    def loss(log_t: float) -> float:
        return -float(scipy.special.log_softmax(x / np.exp(log_t), axis=1)[np.arange(rows), y].mean())

    best = scipy.optimize.minimize_scalar(loss, bounds=(np.log(0.01), np.log(100)), method="bounded")
    assert loss(np.log(found)) <= best.fun + 1e-9


def test_fit_works_through_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The result does not depend on how many rows are held at a time."""
    x, y = classified(500, 10)
    whole = fit_temperature(x, y)
    monkeypatch.setattr(calibration, "_BLOCK_ELEMENTS", 70)
    assert fit_temperature(x, y) == pytest.approx(whole, rel=1e-8)


def test_no_temperature_fits_a_model_that_is_always_right() -> None:
    """The colder the better, without end: refused with the reason."""
    with pytest.raises(InputError, match=r"below 0.01 the likelihood still rises, .* give rows with mistakes"):
        fit_temperature(np.eye(5) * 4, np.arange(5))


def test_no_temperature_fits_scores_that_say_nothing() -> None:
    """The hotter the better, without end: the truth is likely another run's or another label order."""
    with pytest.raises(InputError, match=r"over 100 the likelihood still rises, .* class indices are the model's"):
        fit_temperature(np.eye(5) * 4, (np.arange(5) + 1) % 5)


@pytest.mark.parametrize(
    ("logits", "truth", "message"),
    [
        (np.zeros((0, 3)), np.zeros(0, int), "at least one row, got [0, 3]"),
        ([[1.0, np.nan]], [0], "logits must be finite"),
        ([[1.0, 2.0]], [0.0], "truth must be int[1], one class for each row, got float64[1]"),
        ([[1.0, 2.0]], [0, 1], "got int64[2]"),
        ([[1.0, 2.0]], [2], "truth must hold class indices from 0 to 1, got 2"),
        ([[1.0, 2.0]], [-1], "truth must hold class indices from 0 to 1, got -1"),
    ],
)
def test_truth_that_does_not_fit_the_logits_is_refused(logits: Any, truth: Any, message: str) -> None:
    """Shapes, types and ranges are named."""
    with pytest.raises(InputError, match=re.escape(message)):
        fit_temperature(logits, truth)


def test_fit_finds_the_line_that_was_put_in() -> None:
    """One pair for all labels, or one a label."""
    found = fit_platt(*labelled(20_000, 2, 0.5, 1.0))
    assert (found.a, found.b) == (pytest.approx(0.5, rel=0.05), pytest.approx(1.0, rel=0.05))
    x, y = labelled(20_000, 2, [0.5, 2.0], [1.0, -3.0])
    each = fit_platt(x, y, per_label=True)
    assert each.a == pytest.approx((0.5, 2.0), rel=0.05)
    assert each.b == pytest.approx((1.0, -3.0), rel=0.05)
    assert each == Platt(*zip(*(fit_platt(x[:, [i]], y[:, [i]]) for i in range(2)), strict=True))
    CalibrationSettings(platt_a=each.a, platt_b=each.b)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_fitted_line_is_that_of_a_plain_minimiser(scale: float) -> None:
    """Of Platt's smoothed targets, whatever the scale of the logits."""
    x, y = labelled(60, 1, 1.0, 0.5, seed=3)
    found = fit_platt(x * scale, y)
    target = np.where(y, (y.sum() + 1) / (y.sum() + 2), 1 / ((~y).sum() + 2))

    def loss(w: npt.NDArray[np.float64]) -> float:
        t = w[0] * x + w[1]
        return float((target * np.logaddexp(0, -t) + (1 - target) * np.logaddexp(0, t)).mean())

    best = scipy.optimize.minimize(loss, [1.0, 0.0], method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-12})
    assert (found.a * scale, found.b) == pytest.approx(tuple(best.x), rel=1e-4)


@pytest.mark.parametrize(
    ("logits", "truth"),
    [
        ([[-2.0], [-1.0], [1.0], [2.0]], [[False], [False], [True], [True]]),  # perfectly separable
        ([[-2.0], [1.0]], [[True], [True]]),  # one kind of truth
        ([[1.0], [1.0]], [[True], [False]]),  # one value of logit
    ],
)
def test_fitted_line_stays_finite_on_little_evidence(logits: Any, truth: Any) -> None:
    """Where plain likelihood would run off to infinity."""
    found = fit_platt(logits, truth)
    assert np.isfinite(found).all()
    assert np.abs(found).max() < 10


@pytest.mark.parametrize("truth", [[[1, 0]], [True, False]])
def test_platt_takes_one_answer_for_each_row_and_label(truth: Any) -> None:
    """The shape and type that are needed are named."""
    with pytest.raises(InputError, match=re.escape("truth must be bool[1, 2] like the logits")):
        fit_platt([[0.5, 0.5]], truth)


def slow_ece(confidence: npt.NDArray[Any], came_true: npt.NDArray[Any], bins: int) -> float:
    """Follow the definition, bin by bin."""
    total = 0.0
    for m in range(bins):
        inside = [
            i for i, c in enumerate(confidence)
            if m / bins < c <= (m + 1) / bins or (m == 0 and c == 0)
        ]  # fmt: skip
        if inside:
            accuracy = sum(bool(came_true[i]) for i in inside) / len(inside)
            total += len(inside) / len(confidence) * abs(accuracy - sum(confidence[inside]) / len(inside))
    return total


@given(st.integers(1, 60), st.integers(1, 6), st.integers(1, 20), st.integers(0, 2**32))
@examples(deadline=None)
def test_metrics_follow_their_definitions(rows: int, classes: int, bins: int, seed: int) -> None:
    """For exclusive classes and for labels, against loops over the formulas."""
    x, y = classified(rows, classes, seed)
    p = softmax(x).astype(np.float64)
    assert nll(p, y) == pytest.approx(np.mean([-np.log(p[i, y[i]]) for i in range(rows)]))
    assert brier(p, y) == pytest.approx(
        np.mean([sum((p[i, c] - (c == y[i])) ** 2 for c in range(classes)) for i in range(rows)]), abs=1e-12
    )
    assert ece(p, y, bins) == pytest.approx(slow_ece(p.max(axis=1), p.argmax(axis=1) == y, bins))

    q, truth = sigmoid(x).astype(np.float64), RNG(seed).random(x.shape) < 0.5
    assert nll(q, truth) == pytest.approx(np.mean(-np.log(np.where(truth, q, 1 - q))))
    assert brier(q, truth) == pytest.approx(np.mean((q - truth) ** 2))
    assert ece(q, truth, bins) == pytest.approx(slow_ece(q.ravel(), truth.ravel(), bins))


KNOWN = [
    # probabilities, truth, NLL, Brier, ECE
    ([[1.0, 0.0], [0.0, 1.0]], [0, 1], 0.0, 0.0, 0.0),  # certain and right
    ([[1.0, 0.0]], [1], 87.3365, 2.0, 1.0),  # certain and wrong: the documented cap
    ([[0.5, 0.5]] * 4, [0, 1, 0, 1], np.log(2), 0.5, 0.0),  # a coin that knows it is one
    ([[0.8, 0.2]] * 5, [0, 0, 0, 0, 1], 0.500402, 0.32, 0.0),  # 80% means 80%
    ([[0.8, 0.2]] * 5, [0, 0, 1, 1, 1], 1.05492, 0.8, 0.4),  # 80% means 40%
    ([[1.0], [0.0]], [[True], [False]], 0.0, 0.0, 0.0),  # labels
    ([[1.0], [0.0]], [[False], [True]], 51.986, 1.0, 1.0),
]


@pytest.mark.parametrize(("p", "truth", "expected_nll", "expected_brier", "expected_ece"), KNOWN)
def test_metrics_of_known_rows(
    p: Any, truth: Any, expected_nll: float, expected_brier: float, expected_ece: float
) -> None:
    """Worked by hand."""
    assert nll(p, truth) == pytest.approx(expected_nll, rel=1e-5, abs=1e-6)
    assert brier(p, truth) == pytest.approx(expected_brier, abs=1e-12)
    assert ece(p, truth) == pytest.approx(expected_ece, abs=1e-12)


def test_metrics_are_scikit_learns() -> None:
    """The ones that it has, for many classes and for two."""
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    x, y = classified(300, 6)
    p = softmax(x).astype(np.float64)
    p /= p.sum(axis=1, keepdims=True)  # scikit-learn wants the last digit of a float64
    assert nll(p, y) == pytest.approx(metrics.log_loss(y, p, labels=range(6)), rel=1e-9)
    assert brier(p, y) == pytest.approx(metrics.brier_score_loss(y, p, labels=range(6), scale_by_half=False), rel=1e-9)
    q = sigmoid(x[:, :1])
    assert brier(q, y[:, None] > 2) == pytest.approx(metrics.brier_score_loss(y > 2, q[:, 0].astype(np.float64)))


def test_calibration_lowers_what_it_is_fitted_on() -> None:
    """An overconfident model gets a better likelihood, Brier score and calibration error, and the same top-1."""
    x, y = classified(4000, 10)
    before, after = softmax(x * 3), softmax(x * 3 / fit_temperature(x * 3, y))
    for metric in (nll, brier, ece):
        assert metric(after, y) < metric(before, y)
    assert ece(after, y) < 0.03
    np.testing.assert_array_equal(before.argmax(axis=1), after.argmax(axis=1))
    z, t = labelled(4000, 3, 0.3, 1.0)
    line = fit_platt(z, t)
    for metric in (nll, brier, ece):
        assert metric(sigmoid(z * line.a + line.b), t) < metric(sigmoid(z), t)
