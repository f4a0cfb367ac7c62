"""Fit a calibration from a published run and the truth, and measure what it gains.

The fit starts from what the model said before any calibration: from the column `logits` where the run kept it, else
from the published probabilities, with the calibration that they carry undone. So the fitted lines always replace
those in the configuration and are never added to them.
"""

import math
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import yaml

from pipeline.after.extras import require_extra
from pipeline.after.published import PublishedRun, matrix
from pipeline.after.truth import Join, MatchCounts, Truth, join, read_joined
from transforms import calibration
from transforms.errors import ConfigError, InputError
from transforms.interpretation import Interpretation, to_probabilities
from transforms.settings import CalibrationSettings

_Targets: TypeAlias = npt.NDArray[Any]  # int64[N], the true class; or bool[N, L], the true labels
_Float32: TypeAlias = npt.NDArray[np.float32]

_BLOCK_ELEMENTS = 2**21


class Quality(NamedTuple):
    """How far probabilities can be believed; less is better."""

    nll: float
    """Negative log-likelihood, in nats."""
    brier: float
    """Brier score."""
    ece: float
    """Expected calibration error, 15 bins."""


class Calibration(NamedTuple):
    """A fitted calibration and what it does."""

    run_id: str
    """The run that it was fitted on."""
    model_id: str
    """The model that it belongs to."""
    counts: MatchCounts
    """Which images had a truth."""
    source: Literal["logits", "probabilities"]
    """What it was fitted from."""
    settings: CalibrationSettings
    """For the configuration; in the six digits that are printed."""
    fitted_on: int
    """Images of the fit."""
    measured_on: int
    """Images of before and after."""
    held_out: bool
    """Whether the latter are others than the former."""
    before: Quality
    """As published."""
    after: Quality
    """With these settings."""

    def config_lines(self) -> str:
        """Return the YAML to paste into a configuration."""
        values = self.settings.model_dump(mode="json", exclude_none=True)
        # The list around a value keeps its text on one line, lists of a thousand labels too.
        texts = {
            key: yaml.safe_dump([value], default_flow_style=True, width=math.inf).strip()[1:-1]
            for key, value in values.items()
        }
        return "\n".join(["calibration:", *(f"  {key}: {text}" for key, text in texts.items()), ""])

    def to_json(self) -> dict[str, Any]:
        """Return everything as what json.dumps takes."""
        return {
            **self._asdict(),
            "counts": self.counts._asdict(),
            "settings": self.settings.model_dump(mode="json", exclude_none=True),
            "before": self.before._asdict(),
            "after": self.after._asdict(),
        }


def calibrate(
    run: PublishedRun, truth: Truth, *, per_label: bool = False, holdout: float | None = None, seed: int = 0
) -> Calibration:
    """Fit a temperature (softmax) or Platt's pair (sigmoid) by negative log-likelihood.

    Memory: 4 bytes for each matched image and output.

    Args:
        run: From find_run.
        truth: From read_truth, with the labels of this run.
        per_label: Independent labels only: a pair for each label, not one for all.
        holdout: Share of the matched images that is kept out of the fit, and measured instead; None measures on the
            images of the fit.
        seed: Which images are held out; the same ones for the same truth and seed.

    Raises:
        ConfigError: SciPy is missing, or what is asked for does not fit the run.
        InputError: Run and truth share no image, or nothing can be fitted from them.
    """
    require_extra("calibrate", "scipy")
    _check(run, per_label, holdout)
    joined = join(run, truth)
    measured = _held_out(truth, joined, holdout, seed)
    fit_x, fit_y, measure_x, measure_y = [], [], [], []
    before = _Measurement()
    for rows, positions in read_joined(run, joined, ["probabilities", *(["logits"] if run.has_logits else [])]):
        x, y = _logits(run, rows), _targets(run, truth, positions)
        out = measured[positions]
        before.add(matrix(rows["probabilities"])[out if holdout else slice(None)], y[out if holdout else slice(None)])
        fit_x.append(x[~out])
        fit_y.append(y[~out])
        measure_x.append(x[out])
        measure_y.append(y[out])
    x, y = np.concatenate(fit_x), np.concatenate(fit_y)
    settings = _fit(run, x, y, per_label)
    test_x, test_y = (np.concatenate(measure_x), np.concatenate(measure_y)) if holdout else (x, y)
    after = _Measurement()
    for block in _blocks(test_x):
        after.add(_applied(run, test_x[block], settings), test_y[block])
    return Calibration(
        run_id=run.layout.run_id,
        model_id=run.model_id,
        counts=joined.counts,
        source="logits" if run.has_logits else "probabilities",
        settings=settings,
        fitted_on=len(x),
        measured_on=len(test_x),
        held_out=bool(holdout),
        before=before.result(),
        after=after.result(),
    )


def _check(run: PublishedRun, per_label: bool, holdout: float | None) -> None:
    name = f"run {run.layout.run_id}"
    if run.activation == "none":
        raise ConfigError(
            f"{name} has activation none: nobody says how its probabilities arose, so there are no logits to "
            "calibrate; score it again with model.activation: softmax or sigmoid"
        )
    if per_label and not run.independent:
        raise ConfigError(f"--per-label is for independent labels; the classes of {name} exclude each other")
    if holdout is not None and not 0.0 < holdout < 1.0:
        raise ConfigError(f"--holdout must be a share of the images over 0 and under 1, got {holdout:g}; 0.5 is common")


def _held_out(truth: Truth, joined: Join, holdout: float | None, seed: int) -> npt.NDArray[np.bool_]:
    """Return bool[M]: which images of the truth are kept out of the fit."""
    chosen = np.zeros(len(truth.paths), np.bool_)
    if holdout is None:
        return chosen
    matched = np.concatenate(joined.positions)
    count = round(holdout * len(matched))
    if not 0 < count < len(matched):
        raise InputError(
            f"--holdout {holdout:g} of {len(matched)} matched images leaves none to "
            f"{'measure on' if count == 0 else 'fit on'}; give a truth of more images"
        )
    # By name, because the order of rows is another one in every run.
    by_name = np.array(sorted(matched.tolist(), key=lambda position: truth.paths[position]), np.intp)
    chosen[np.random.default_rng(seed).permutation(by_name)[:count]] = True
    return chosen


def _targets(run: PublishedRun, truth: Truth, positions: npt.NDArray[np.intp]) -> _Targets:
    return truth.true_labels(positions, len(run.labels)) if run.independent else truth.true_classes(positions)


def _logits(run: PublishedRun, rows: pa.Table) -> _Float32:
    """Return float32[N, U]: what the model said before any calibration, as logits."""
    if run.has_logits:
        raw = matrix(rows["logits"])
        return raw if run.output == "logits" else _to_logits(run, raw)
    p = matrix(rows["probabilities"])
    if run.one_unit:
        # Both columns are exact near 0, where 1 - p is not: their ratio keeps logits of 80 apart.
        logs = calibration.to_logits(p, "softmax")
        x = logs[:, 1:] - logs[:, :1]
    else:
        x = _to_logits(run, p)
    applied = run.calibration
    if applied.temperature is not None:
        x = x * applied.temperature
    elif applied.platt_a is not None:
        slope = np.asarray(applied.platt_a)
        if (slope == 0).any():
            raise InputError(
                f"run {run.layout.run_id} was published with calibration.platt_a 0, which forgets what the model said; "
                "score the images again without calibration, or with results.logits: true"
            )
        x = (x - np.asarray(applied.platt_b)) / slope
    return x.astype(np.float32)


def _to_logits(run: PublishedRun, p: _Float32) -> Any:
    return calibration.to_logits(p, "softmax" if run.activation == "softmax" else "sigmoid").astype(np.float32)


def _fit(run: PublishedRun, x: _Float32, y: _Targets, per_label: bool) -> CalibrationSettings:
    if run.activation == "softmax":
        return CalibrationSettings(temperature=_six_digits(calibration.fit_temperature(x, y)))
    holds = (y == 1)[:, None] if run.one_unit else y
    if per_label:
        for i, name in enumerate(run.labels):
            _check_both_kinds(holds[:, i], f"label {name}", "leave --per-label out, or give")
    else:
        _check_both_kinds(holds, f"label {run.labels[1]}" if run.one_unit else "each label", "give")
    a, b = calibration.fit_platt(x, holds, per_label=per_label)
    for slope, name in zip(np.atleast_1d(a), run.labels if per_label else ["all labels"], strict=True):
        if slope <= 0:
            raise InputError(
                f"Platt's slope of {name} is {slope:.3g} for {len(x)} images: the label is the rarer, the higher its "
                "probability; check that the truth belongs to these images"
            )
    return CalibrationSettings(platt_a=_rounded(a), platt_b=_rounded(b))


def _check_both_kinds(holds: npt.NDArray[np.bool_], name: str, way_out: str) -> None:
    if holds.all() or not holds.any():
        kind = "all" if holds.all() else "none"
        raise InputError(
            f"{name} holds for {kind} of the {len(holds)} images of the fit, which leaves nothing to fit; {way_out} a "
            "truth that has both"
        )


def _applied(run: PublishedRun, x: _Float32, settings: CalibrationSettings) -> _Float32:
    # The very function that a run with these settings will use.
    activation: Literal["softmax", "sigmoid"] = "softmax" if run.activation == "softmax" else "sigmoid"
    return to_probabilities(x, Interpretation("logits", activation, x.shape[1], "fitted"), settings)


class _Measurement:
    """Sums over blocks of rows, so that no more than one block is held in float64."""

    def __init__(self) -> None:
        self._rows = 0
        self._nll = self._brier = 0.0
        self._confidence: list[npt.NDArray[Any]] = []
        self._came_true: list[npt.NDArray[np.bool_]] = []

    def add(self, p: _Float32, y: _Targets) -> None:
        for rows in _blocks(p):
            q, z = p[rows], y[rows]
            self._rows += len(q)
            self._nll += calibration.nll(q, z) * len(q)
            self._brier += calibration.brier(q, z) * len(q)
            top = q.argmax(axis=1)
            self._confidence.append(q if z.ndim == 2 else q[np.arange(len(q)), top][:, None])
            self._came_true.append(z.astype(np.bool_) if z.ndim == 2 else (top == z)[:, None])

    def result(self) -> Quality:
        ece = calibration.ece(np.concatenate(self._confidence), np.concatenate(self._came_true))
        return Quality(self._nll / self._rows, self._brier / self._rows, ece)


def _blocks(x: npt.NDArray[Any]) -> Iterator[slice]:
    step = max(1, _BLOCK_ELEMENTS // x.shape[1])
    for start in range(0, len(x), step):
        yield slice(start, start + step)


def _rounded(value: float | tuple[float, ...]) -> float | tuple[float, ...]:
    return tuple(map(_six_digits, value)) if isinstance(value, tuple) else _six_digits(value)


def _six_digits(value: float) -> float:
    return float(f"{value:.6g}")
