"""Decide once what a model's output means, turn every batch into probabilities by it, and stop when it is not true.

The mistakes this module is there for: logits read as probabilities, probabilities put through softmax twice, argmax
over a one-unit head. All three give numbers that look fine.

What counts as evidence. Rows with NaN or infinity never do.

- Against `logits`, softmax done: all rows of a batch lie in [0, 1] and sum to 1. A row of real logits does so by
  chance: each of its C signs is a coin, and its sum falls within the tolerance t of 1 with a chance of about 2 t.
  That is C - log2(2 t) bits a row, 14 for two classes and 1,012 for a thousand, and 40 bits over distinct rows are
  asked for (equal images give equal rows): 3 rows of two classes, one row of a thousand. Shorter batches pass.
- Against `logits`, sigmoid done: all values lie in [0, 1], and 40 distinct ones of them within 1/64 of 0 or 1. Real
  logits have no wall there: for every value just inside there would be about one just outside. Below 40 such values
  a batch passes; a one-unit head with batches of under 40 images is told apart by its declaration alone.
- Against `probabilities`: one value outside [0, 1], or for softmax one row that does not sum to 1, is enough.

Tolerance. Sums and bounds may be off by 1e-4 (TensorFlow's float32 softmax was off by 2e-6 at most, over 2 to
100,000 classes). A head that computes in float16 or bfloat16 is recognised by its values, which those types can
hold, whatever the type of the tensor: it gets four rounding errors, 0.002 or 0.016, and float16 on top of it half
of its smallest number for each class (measured: 0.0014 and 0.0026). Values within the tolerance are kept as they
are: nothing is renormalised or clipped.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from transforms import calibration as calibrating
from transforms.errors import ConfigError, ExitCode, RunError
from transforms.probabilities import Float32, sigmoid, softmax, two_classes
from transforms.settings import CalibrationSettings, ModelSettings

Output: TypeAlias = Literal["logits", "probabilities"]
Activation: TypeAlias = Literal["softmax", "sigmoid", "none"]
Probe: TypeAlias = npt.NDArray[Any] | Callable[[], npt.NDArray[Any]] | None

_TOLERANCE = 1e-4
_EVIDENCE_BITS = 40
_EDGE = 1 / 64
# With fewer outputs, logits of a few probe images lie in [0, 1] by chance too easily to call them probabilities.
_FEWEST_LABELS = 3
_ROUGHLY = 0.1


class OutputContradiction(RunError):  # noqa: N818 - it names what happened, as RunError's other kinds do
    """The model's output is not what it is declared or was resolved to be: no row of the run can be trusted."""


@dataclass(frozen=True)
class Interpretation:
    """What the model's output means."""

    output: Output
    """What the model returns."""
    activation: Activation
    """What turns logits into probabilities, or has done so inside the model; none: nobody says how they arose."""
    num_units: int
    """Columns of the model's output."""
    reason: str
    """Why, for the log, the manifest and `score-images inspect`."""

    @property
    def one_unit(self) -> bool:
        """Whether one column speaks for two classes."""
        return self.num_units == 1

    @property
    def num_classes(self) -> int:
        """Columns of the table: 2 for one unit."""
        return 2 if self.one_unit else self.num_units

    @property
    def independent(self) -> bool:
        """Whether the columns are labels that do not exclude each other, so that rows do not sum to 1."""
        return self.activation == "sigmoid" and not self.one_unit


def resolve(settings: ModelSettings, head: str | None, probe: Probe, num_units: int) -> Interpretation:
    """Decide what the model's output means, from what is declared, its head and a probe, in this order.

    Args:
        settings: `output` and `activation`, each declared or auto.
        head: The activation that the model ends in, where its format shows it: softmax, sigmoid or linear.
        probe: float[N, C], what the model said to a few images, or a function that returns it; None where no probe
            can be made. It also checks what is declared.
        num_units: Columns of the model's output.

    Returns:
        The meaning, with the reason in words.

    Raises:
        ConfigError: Evidence is missing, fits two readings, or contradicts what is declared.
    """
    raw = probe() if callable(probe) else probe
    rows = None if raw is None else _evidence(raw, num_units)
    if head not in (None, "softmax", "sigmoid", "linear") and settings.output == "auto":
        raise ConfigError(
            f"model.output auto cannot read the head of {settings.path}: it ends in {head}, which yields neither "
            f"logits nor the probabilities of a softmax or sigmoid; {_say('output', 'logits or probabilities')}"
        )
    _check_declared(settings, head, num_units)
    output, why_output = _resolve_output(settings, head, rows, num_units)
    activation, why_activation = _resolve_activation(settings, output, head, rows, num_units)
    if activation == "softmax" and num_units == 1:
        raise ConfigError(
            f"softmax over the one output of {settings.path} is always 1; {_say('activation', 'sigmoid')}, or "
            "choose another output with model.output_name"
        )
    found = None if rows is None else _contradiction(rows, output, activation)
    if found is not None:
        raise ConfigError(f"the probe of {settings.path} contradicts its reading ({why_output}): {found}")
    return Interpretation(output, activation, num_units, f"{why_output}; {why_activation}")


def to_probabilities(raw: npt.NDArray[Any], meaning: Interpretation, calibration: CalibrationSettings) -> Float32:
    """Turn one batch of a model's output into probabilities, and check that it is what it is said to be.

    Args:
        raw: float[N, U] as the model returned it. Rows with NaN or infinity are no evidence and their results are
            not to be used: the caller drops them by `finite_rows`, before or after.
        meaning: From `resolve`.
        calibration: Temperature or Platt; without, probabilities are kept bit for bit.

    Returns:
        float32[N, C]; [1 - p, p] for a one-unit head.

    Raises:
        ConfigError: The calibration does not fit the activation.
        OutputContradiction: The batch is not what `meaning` says.
    """
    if raw.ndim != 2 or raw.shape[1] != meaning.num_units:
        raise ValueError(f"raw must be of shape [N, {meaning.num_units}], got {list(raw.shape)}")
    calibrating.check(calibration, meaning.activation, meaning.num_units)
    found = _contradiction(_finite(raw), meaning.output, meaning.activation)
    if found is not None:
        raise OutputContradiction(
            ExitCode.WRONG_INPUT, f"the model's output is not what it was taken for ({meaning.reason}): {found}"
        )
    logits: npt.NDArray[Any] = raw
    if meaning.output == "probabilities":
        if meaning.activation == "none" or calibrating.is_identity(calibration):
            return two_classes(raw) if meaning.one_unit else raw.astype(np.float32, copy=False)
        logits = calibrating.to_logits(raw, meaning.activation)
    if not calibrating.is_identity(calibration):
        logits = calibrating.apply(logits, calibration)
    if meaning.activation == "softmax":
        return softmax(logits)
    # Not 1 - sigmoid(x), which would lose the small one of the two.
    return sigmoid(np.concatenate([-logits, logits], axis=1) if meaning.one_unit else logits)


def over_threshold(
    probabilities: Float32, thresholds: npt.NDArray[np.float32], meaning: Interpretation
) -> npt.NDArray[np.bool_]:
    """Tell which labels are positive: those at or over their threshold.

    Args:
        probabilities: float32[N, C] from `to_probabilities`.
        thresholds: float32[C]; of a one-unit head the second one counts, the positive class's.
        meaning: From `resolve`.

    Returns:
        bool[N, C]; for a one-unit head exactly one of the two is positive.
    """
    over: npt.NDArray[np.bool_] = probabilities >= thresholds
    if meaning.one_unit:
        over[:, 0] = ~over[:, 1]
    return over


def _resolve_output(
    settings: ModelSettings, head: str | None, rows: npt.NDArray[Any] | None, num_units: int
) -> tuple[Output, str]:
    if settings.output != "auto":
        return settings.output, f"output {settings.output}, as declared"
    if settings.activation == "none":
        raise ConfigError(
            "model.activation none keeps values as they are, so they have to be probabilities already; "
            f"{_say('output', 'probabilities')}, or declare softmax or sigmoid"
        )
    if head in ("softmax", "sigmoid"):
        return "probabilities", f"output probabilities, because the model ends in {head}"
    if head == "linear" and (rows is None or not len(rows) or not _in_unit_interval(rows) or _sums_to_one(rows).all()):
        return "logits", "output logits, because the model ends in a linear head"
    if rows is None or not len(rows):
        why = "no probe could be made" if rows is None else "every row of the probe holds NaN or infinity"
        raise ConfigError(
            f"model.output auto has nothing to decide from: {settings.path} does not show its head, and {why}; "
            f"{_say('output', 'logits or probabilities')}"
        )
    low, high = float(rows.min()), float(rows.max())
    if not _in_unit_interval(rows):
        return "logits", f"output logits, because the probe's values run from {low:.4g} to {high:.4g}"
    seen = f"the probe of {settings.path} gave {len(rows)} x {num_units} values from {low:.4g} to {high:.4g}"
    as_logits = ("logits that happen to lie in [0, 1]", "model.output: logits")
    as_sigmoid = ("probabilities of a sigmoid", "model.output: probabilities, model.activation: sigmoid")
    as_softmax = ("probabilities of a softmax", "model.output: probabilities, model.activation: softmax")
    if head == "linear":
        # A mixture of probabilities ends in a linear layer, too.
        raise _ambiguous(f"{seen}, though the model ends in a linear head", as_logits, as_sigmoid)
    if num_units == 1:
        raise _ambiguous(seen, as_logits, as_sigmoid)
    if (rows == rows[:, :1]).all():
        seen += ", in each row the same for all classes"
        raise _ambiguous(seen, as_logits, as_softmax if _sums_to_one(rows).all() else as_sigmoid)
    right = _sums_to_one(rows)
    if right.all() and settings.activation == "sigmoid":
        raise _ambiguous(f"{seen}, and all rows sum to 1", as_softmax, as_sigmoid)
    if right.all():
        return "probabilities", "output probabilities, because all rows of the probe lie in [0, 1] and sum to 1"
    sums = rows.sum(axis=1, dtype=np.float64)
    if right.any() or (abs(sums - 1) <= _ROUGHLY).all():
        seen += f", its rows sum to {sums.min():.4g} to {sums.max():.4g}"
        rough = ("probabilities of a rough softmax, as quantised models compute it", "model.output: probabilities, "
                 "model.activation: none")  # fmt: skip
        raise _ambiguous(seen, rough, as_sigmoid)
    if num_units < _FEWEST_LABELS or settings.activation == "softmax":
        raise _ambiguous(f"{seen} that do not sum to 1", as_logits, as_sigmoid)
    return "probabilities", "output probabilities, because all values of the probe lie in [0, 1]"


def _resolve_activation(
    settings: ModelSettings, output: Output, head: str | None, rows: npt.NDArray[Any] | None, num_units: int
) -> tuple[Activation, str]:
    if settings.activation != "auto":
        return settings.activation, f"activation {settings.activation}, as declared"
    if head in ("softmax", "sigmoid"):
        return ("softmax" if head == "softmax" else "sigmoid"), f"activation {head}, the model's own"
    if num_units == 1:
        return "sigmoid", "activation sigmoid, because one unit speaks for two classes"
    if output == "logits":
        return "softmax", (
            "activation softmax, because logits do not show whether classes exclude each other and most do; "
            f"for labels that do not, {_say('activation', 'sigmoid')}"
        )
    if rows is None or not len(rows):
        raise ConfigError(
            f"model.activation auto has no probe of {settings.path} to tell softmax from sigmoid by; "
            f"{_say('activation', 'softmax, sigmoid or none')}"
        )
    if not _sums_to_one(rows).all():
        return "sigmoid", "activation sigmoid, because rows of the probe do not sum to 1"
    if (rows == rows[:, :1]).all():
        raise ConfigError(
            f"model.activation auto cannot tell softmax from sigmoid for {settings.path}: every value of the probe is "
            f"{float(rows[0, 0]):.4g}; {_say('activation', 'softmax or sigmoid')}"
        )
    return "softmax", "activation softmax, because all rows of the probe sum to 1"


def _check_declared(settings: ModelSettings, head: str | None, num_units: int) -> None:
    if settings.output == "logits" and settings.activation == "none":
        raise ConfigError(
            "model.output logits with model.activation none would publish logits as probabilities; "
            f"{_say('activation', 'softmax or sigmoid')}, or set results.logits to have the logits as well"
        )
    if head not in ("softmax", "sigmoid"):
        return  # a linear head may be a cast after a softmax, as Keras advises for mixed precision: the probe decides
    if settings.output == "logits":
        raise ConfigError(
            f"model.output logits contradicts {settings.path}, which ends in {head}: a second activation would "
            f"flatten its probabilities; {_say('output', 'probabilities')} or leave it out"
        )
    if settings.activation not in ("auto", "none", head):
        raise ConfigError(
            f"model.activation {settings.activation} contradicts {settings.path}, which ends in {head}; "
            f"{_say('activation', head)} or leave it out"
        )
    if head == "softmax" and num_units == 1:
        raise ConfigError(
            f"{settings.path} ends in a softmax over one unit, which is always 1: it was trained on nothing; "
            "its one unit needs a sigmoid"
        )


def _contradiction(rows: npt.NDArray[Any], output: Output, activation: Activation) -> str | None:
    if not len(rows):
        return None
    inside = _in_unit_interval(rows)
    if output == "probabilities":
        if not inside:
            return (
                f"probabilities lie in [0, 1], these run from {float(rows.min()):.4g} to {float(rows.max()):.4g}, as "
                f"logits do; {_say('output', 'logits')}"
            )
        if activation == "softmax" and rows.shape[1] > 1:
            right = _sums_to_one(rows)
            if not right.all():
                sums = rows[~right].sum(axis=1, dtype=np.float64)
                return (
                    f"rows of a softmax sum to 1, {len(sums)} of {len(rows)} do not (one sums to {sums[0]:.4g}); "
                    f"{_say('activation', 'sigmoid')} for labels that do not exclude each other, or none to keep the "
                    "values as they are"
                )
        return None
    if not inside:
        return None
    if rows.shape[1] > 1 and _sums_to_one(rows).all():
        bits = rows.shape[1] - math.log2(2 * tolerance(rows))
        if len(np.unique(rows, axis=0)) * bits >= _EVIDENCE_BITS:
            return (
                f"all {len(rows)} rows lie in [0, 1] and sum to 1, so the model has applied softmax itself, and a "
                f"second one would flatten its probabilities; {_say('output', 'probabilities')}"
            )
        return None
    edge = rows[(rows <= _EDGE) | (rows >= 1 - _EDGE)]
    if len(edge) >= _EVIDENCE_BITS and len(np.unique(edge)) >= _EVIDENCE_BITS:
        return (
            f"all {rows.size} values lie in [0, 1] and {len(edge)} of them close to 0 or 1, so the model has applied "
            f"sigmoid itself, and a second activation would flatten its probabilities; "
            f"{_say('output', 'probabilities')} and activation: sigmoid"
        )
    return None


def _evidence(raw: npt.NDArray[Any], num_units: int) -> npt.NDArray[Any]:
    if raw.ndim != 2 or raw.shape[1] != num_units:
        raise ValueError(f"probe must be of shape [N, {num_units}], got {list(raw.shape)}")
    return _finite(raw)


def _finite(raw: npt.NDArray[Any]) -> npt.NDArray[np.float32] | npt.NDArray[np.float64]:
    rows = raw if raw.dtype in (np.float32, np.float64) else raw.astype(np.float32)
    finite = np.isfinite(rows).all(axis=1)
    return rows if finite.all() else rows[finite]


def _in_unit_interval(rows: npt.NDArray[Any]) -> bool:
    low, high = float(rows.min()), float(rows.max())
    if low >= -_TOLERANCE and high <= 1 + _TOLERANCE:
        return True
    most = 0.02  # above every tolerance: logits are told apart without looking at their precision
    if low < -most or high > 1 + most:
        return False
    slack = tolerance(rows)
    return low >= -slack and high <= 1 + slack


def _sums_to_one(rows: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    off = np.abs(rows.sum(axis=1, dtype=np.float64) - 1.0)
    right: npt.NDArray[np.bool_] = off <= _TOLERANCE
    return right if right.all() else off <= tolerance(rows)


def tolerance(rows: npt.NDArray[Any]) -> float:
    """Return how far a model's own probabilities may lie outside [0, 1], and their sums from 1: see the module's head.

    Args:
        rows: float[N, C] of one model.
    """
    values = rows.astype(np.float32)
    # bfloat16 is the upper half of float32; asked first, because float16 holds most of its values between 0 and 1.
    if not (values.view(np.uint32) & 0xFFFF).any():
        return 4 * 2.0**-8
    with np.errstate(over="ignore"):
        if (values == values.astype(np.float16)).all():
            return 4 * 2.0**-11 + rows.shape[1] * 2.0**-25
    return _TOLERANCE


def _ambiguous(seen: str, first: tuple[str, str], second: tuple[str, str]) -> ConfigError:
    return ConfigError(
        f"model.output auto is ambiguous: {seen}. Two readings fit: {first[0]} (then write {first[1]}), or "
        f"{second[0]} (then write {second[1]})"
    )


def _say(key: str, value: str) -> str:
    return f"write model.{key}: {value}"
