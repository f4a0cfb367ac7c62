"""Make probabilities mean what they say: apply temperature or Platt scaling, fit them, and measure the gain.

Which to use: temperature for classes that exclude each other (softmax). One number, and the order of the classes
stays as it is, so that top-1 does not change (Guo et al., "On Calibration of Modern Neural Networks", ICML 2017).
Platt scaling for labels that do not (sigmoid, and one unit): a slope and an offset, for all labels or for each
(Platt, "Probabilistic Outputs for Support Vector Machines", 1999).

Both work on logits. A model that returns probabilities has lost them, but up to a constant that neither method
sees, ln p is the logit of a softmax, and ln p - ln (1 - p) is the logit of a sigmoid. `to_logits` computes them.
"""

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from transforms.errors import ConfigError, InputError
from transforms.settings import CalibrationSettings

_Float64: TypeAlias = npt.NDArray[np.float64]
Truth: TypeAlias = npt.NDArray[np.integer[Any]] | npt.NDArray[np.bool_]

# The numbers next to 0 and 1 that float32 has at full precision. A head that says 0 or 1 means "closer than I can
# write"; taken at its word its logit would be infinite, and no temperature would move it.
_LOWEST = float(np.finfo(np.float32).tiny)
_HIGHEST = 1.0 - 2.0**-24

_TEMPERATURES = (0.01, 100.0)
_BLOCK_ELEMENTS = 2**20


class Platt(NamedTuple):
    """A fitted sigmoid: probability = 1 / (1 + exp(-(a * logit + b)))."""

    a: float | tuple[float, ...]
    """Slope: one number, or one a label."""
    b: float | tuple[float, ...]
    """Offset: one number, or one a label."""


def check(settings: CalibrationSettings, activation: str, num_units: int) -> None:
    """Refuse a calibration that does not fit the head, before a run starts.

    Args:
        settings: What is declared.
        activation: softmax, sigmoid or none, as resolved.
        num_units: Columns of the model's output.

    Raises:
        ConfigError: temperature without softmax, Platt without sigmoid, or lists of another length than num_units.
    """
    if settings.temperature is not None and activation != "softmax":
        raise ConfigError(
            f"calibration.temperature {settings.temperature:g} is for softmax, this model's activation is "
            f"{activation}; {_platt_advice(activation)}"
        )
    if settings.platt_a is not None and activation != "sigmoid":
        advice = "use calibration.temperature" if activation == "softmax" else "leave calibration out"
        raise ConfigError(
            f"calibration.platt_a and platt_b are for sigmoid, this model's activation is {activation}; {advice}"
        )
    for name in ("platt_a", "platt_b"):
        value = getattr(settings, name)
        if isinstance(value, tuple) and len(value) != num_units:
            raise ConfigError(
                f"calibration.{name} must hold one number, or one for each of the model's {num_units} outputs, "
                f"got {len(value)}"
            )


def is_identity(settings: CalibrationSettings) -> bool:
    """Tell whether nothing is declared: probabilities are then kept bit for bit."""
    return settings.temperature is None and settings.platt_a is None


def apply(logits: npt.ArrayLike, settings: CalibrationSettings) -> _Float64:
    """Calibrate logits.

    Args:
        logits: float[N, C], as the model returned them or from `to_logits`.
        settings: What is declared; `check` has passed it.

    Returns:
        float64[N, C], due for softmax or sigmoid.

    >>> apply([[2.0, -4.0]], CalibrationSettings(temperature=2.0))
    array([[ 1., -2.]])
    """
    x = np.asarray(logits).astype(np.float64)
    if settings.temperature is not None:
        return x / settings.temperature
    if settings.platt_a is not None:
        return x * np.asarray(settings.platt_a) + np.asarray(settings.platt_b)
    return x


def to_logits(probabilities: npt.ArrayLike, activation: Literal["softmax", "sigmoid"]) -> _Float64:
    """Recover logits from probabilities: ln p for softmax (up to a constant a row), ln p - ln (1 - p) for sigmoid.

    Args:
        probabilities: float[N, C]; clipped to 2^-126 .. 1 - 2^-24, so that a saturated 0 becomes a logit of -87.3
            and a saturated 1 one of 16.6 (sigmoid). Within these bounds nothing is changed.
        activation: What made the probabilities.

    Returns:
        float64[N, C], finite where the input is a number.
    """
    p = np.clip(np.asarray(probabilities).astype(np.float64), _LOWEST, None)
    if activation == "softmax":
        return np.log(p)
    p = np.minimum(p, _HIGHEST)
    return np.log(p) - np.log1p(-p)


def fit_temperature(logits: npt.ArrayLike, truth: npt.ArrayLike) -> float:
    """Find the temperature with the lowest negative log-likelihood.

    The derivative by 1 / T is E[logit] - logit of the true class, and it rises with 1 / T: its one root is found
    by Brent's method between T = 0.01 and T = 100.

    Args:
        logits: finite float[N, C], N at least 1, C at least 2; `to_logits` makes them from probabilities.
        truth: int[N], the true class, 0 to C - 1.

    Returns:
        T over 0; over 1 for an overconfident model.

    Raises:
        InputError: No temperature in the range is best, or the arrays do not fit each other.
    """
    from scipy.optimize import brentq  # type: ignore[import-untyped]

    x = _finite_matrix(logits)
    y = _true_classes(truth, x.shape)

    def slope(log_beta: float) -> float:
        beta = np.exp(log_beta)
        total = 0.0
        for rows in _blocks(x):
            d = x[rows].astype(np.float64)
            d -= np.take_along_axis(d, y[rows, None], axis=1)
            weight = np.exp(beta * (d - d.max(axis=1, keepdims=True)))
            total += float(((weight * d).sum(axis=1) / weight.sum(axis=1)).sum())
        return total / len(x)

    coldest, hottest = (-float(np.log(t)) for t in _TEMPERATURES)
    if slope(coldest) <= 0:
        raise InputError(
            f"temperature cannot be fitted: below {_TEMPERATURES[0]:g} the likelihood still rises, because the "
            f"true class has the highest score in all but the closest of {len(x)} rows; give rows with mistakes in them"
        )
    if slope(hottest) >= 0:
        raise InputError(
            f"temperature cannot be fitted: over {_TEMPERATURES[1]:g} the likelihood still rises, because the scores "
            f"of {len(x)} rows say nothing of the truth; check that the truth belongs to these images and that its "
            "class indices are the model's"
        )
    return float(np.exp(-brentq(slope, hottest, coldest, xtol=1e-10)))


def fit_platt(logits: npt.ArrayLike, truth: npt.ArrayLike, *, per_label: bool = False) -> Platt:
    """Find slope and offset with the lowest negative log-likelihood.

    The targets are Platt's: (n+ + 1) / (n+ + 2) and 1 / (n- + 2) instead of 1 and 0. They keep the slope finite
    where a threshold separates the labels perfectly, and vanish as the rows grow in number.

    Args:
        logits: finite float[N, L], N at least 1; L is 1 for a one-unit head.
        truth: bool[N, L], whether the label holds.
        per_label: Fit every column for itself, not one pair for all.

    Returns:
        One pair, or one pair a label.

    Raises:
        InputError: The arrays do not fit each other.
    """
    x = _finite_matrix(logits).astype(np.float64)
    y = np.asarray(truth)
    if y.dtype != np.bool_ or y.shape != x.shape:
        raise InputError(
            f"truth must be bool{list(x.shape)} like the logits, got {y.dtype}{list(y.shape)}: one answer for each "
            "row and label"
        )
    if not per_label:
        return Platt(*_fit_sigmoid(x.ravel(), y.ravel()))
    pairs = [_fit_sigmoid(x[:, i], y[:, i]) for i in range(x.shape[1])]
    return Platt(tuple(a for a, _ in pairs), tuple(b for _, b in pairs))


def nll(probabilities: npt.ArrayLike, truth: npt.ArrayLike) -> float:
    """Compute the negative log-likelihood, in nats: 0 is perfect, ln C is what guessing costs.

    Args:
        probabilities: float[N, C] in [0, 1], N at least 1; clipped to 2^-126 .. 1 - 2^-24, so that one confident
            mistake costs at most 87.3.
        truth: int[N], the true classes, of rows that sum to 1; or bool[N, C], the true labels, of rows that do not.

    Returns:
        The mean over rows of -ln p[true class]; for labels the mean over rows and labels of the binary cross-entropy.
    """
    p, y = _pair(probabilities, truth)
    if y.ndim == 1:
        return float(-np.log(np.clip(p[np.arange(len(y)), y], _LOWEST, None)).mean())
    p = np.clip(p, _LOWEST, _HIGHEST)
    return float(-np.where(y, np.log(p), np.log1p(-p)).mean())


def brier(probabilities: npt.ArrayLike, truth: npt.ArrayLike) -> float:
    """Compute the Brier score: 0 is perfect.

    Args:
        probabilities: As in `nll`.
        truth: As in `nll`.

    Returns:
        The mean over rows of the sum over classes of (p - [class is true])^2, 0 to 2 (Brier 1950, the original
        with all classes; for two classes it is twice the one-sided score). For labels the mean over rows and
        labels of (p - [label holds])^2, 0 to 1.
    """
    p, y = _pair(probabilities, truth)
    if y.ndim == 2:
        return float(np.square(p - y).mean())
    true = p[np.arange(len(y)), y]
    return float((np.square(p).sum(axis=1) - 2.0 * true + 1.0).mean())


def ece(probabilities: npt.ArrayLike, truth: npt.ArrayLike, bins: int = 15) -> float:
    """Compute the expected calibration error: how far stated confidence lies from what comes true.

    Args:
        probabilities: As in `nll`.
        truth: As in `nll`.
        bins: How many equal parts (0, 1] is cut into: bin m holds (m - 1) / bins < p <= m / bins, and the first
            one 0 as well.

    Returns:
        sum over bins of n_bin / n * |share that came true - mean confidence| (Naeini et al., AAAI 2015; Guo et al.,
        2017), 0 to 1. The confidence is that of the top class, ties by index; for labels every label's own.
    """
    p, y = _pair(probabilities, truth)
    if y.ndim == 1:
        top = p.argmax(axis=1)
        confidence, came_true = p[np.arange(len(y)), top], top == y
    else:
        confidence, came_true = p.ravel(), y.ravel()
    place = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    gap = np.bincount(place, came_true.astype(np.float64), bins) - np.bincount(place, confidence, bins)
    return float(np.abs(gap).sum() / len(confidence))


def _platt_advice(activation: str) -> str:
    return "use calibration.platt_a and platt_b" if activation == "sigmoid" else "leave calibration out"


def _fit_sigmoid(x: _Float64, y: npt.NDArray[np.bool_]) -> tuple[float, float]:
    from scipy.optimize import minimize
    from scipy.special import expit  # type: ignore[import-untyped]

    positive = int(y.sum())
    target = np.where(y, (positive + 1.0) / (positive + 2.0), 1.0 / (len(y) - positive + 2.0))
    centre, spread = float(x.mean()), float(x.std()) or 1.0
    z = (x - centre) / spread  # of one scale, so that slope and offset converge together

    def loss(w: _Float64) -> float:
        t = w[0] * z + w[1]
        return float((np.logaddexp(0.0, t) - target * t).mean())

    def gradient(w: _Float64) -> _Float64:
        d = expit(w[0] * z + w[1]) - target
        return np.array([(d * z).mean(), d.mean()])

    def hessian(w: _Float64) -> _Float64:
        s = expit(w[0] * z + w[1])
        s *= 1.0 - s
        return np.array([[(s * z * z).mean(), (s * z).mean()], [(s * z).mean(), s.mean()]])

    found = minimize(loss, np.zeros(2), jac=gradient, hess=hessian, method="trust-exact", options={"gtol": 1e-9})
    slope = float(found.x[0]) / spread
    return slope, float(found.x[1]) - slope * centre


def _finite_matrix(logits: npt.ArrayLike) -> npt.NDArray[Any]:
    x = np.asarray(logits)
    if x.ndim != 2 or not x.size:
        raise InputError(f"logits must be of shape [N, C] with at least one row, got {list(x.shape)}")
    if not np.isfinite(x).all():
        raise InputError("logits must be finite: leave out the rows with NaN or infinity; they are failures")
    return x


def _true_classes(truth: npt.ArrayLike, shape: tuple[int, ...]) -> npt.NDArray[np.intp]:
    y = np.asarray(truth)
    if y.dtype.kind not in "iu" or y.shape != shape[:1]:
        raise InputError(f"truth must be int[{shape[0]}], one class for each row, got {y.dtype}{list(y.shape)}")
    if y.min() < 0 or y.max() >= shape[1]:
        wrong = int(y.min()) if y.min() < 0 else int(y.max())
        raise InputError(f"truth must hold class indices from 0 to {shape[1] - 1}, got {wrong}")
    return y.astype(np.intp)


def _pair(probabilities: npt.ArrayLike, truth: npt.ArrayLike) -> tuple[_Float64, Truth]:
    p = np.asarray(probabilities).astype(np.float64)
    if p.ndim != 2 or not p.size:
        raise InputError(f"probabilities must be of shape [N, C] with at least one row, got {list(p.shape)}")
    y = np.asarray(truth)
    if y.dtype == np.bool_ and y.shape == p.shape:
        return p, y
    return p, _true_classes(y, p.shape)


def _blocks(x: npt.NDArray[Any]) -> Iterator[slice]:
    step = max(1, _BLOCK_ELEMENTS // x.shape[1])
    for start in range(0, len(x), step):
        yield slice(start, start + step)
