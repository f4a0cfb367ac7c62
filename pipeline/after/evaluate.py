"""Measure a published run against the truth, with scikit-learn's metrics.

Two kinds of runs are measured differently. Where classes exclude each other, the vectors of probabilities are read a
row group at a time and forgotten, so that a wide run needs no more memory than a narrow one. Where labels are
independent, the curves need every label's column whole: 5 bytes for each matched image and label.
"""

from collections import Counter
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.after.extras import require_extra
from pipeline.after.published import PublishedRun, matrix
from pipeline.after.truth import Join, MatchCounts, Truth, join, read_joined
from transforms import calibration
from transforms.errors import ConfigError, InputError

_Bool: TypeAlias = npt.NDArray[np.bool_]
_Int: TypeAlias = npt.NDArray[np.integer[Any]]
_Float: TypeAlias = npt.NDArray[np.floating[Any]]

Task = Literal["multi-class", "binary", "multi-label"]
_BLOCK_ELEMENTS = 2**21


class ClassResult(NamedTuple):
    """How one class or label fared; None where a number is not defined."""

    class_index: int
    """In the probabilities."""
    label: str
    """Its name."""
    images: int
    """Matched images that it is true of."""
    predicted: int
    """Matched images that it is predicted for."""
    precision: float | None
    """Share of its predictions that are true; None where it is never predicted."""
    recall: float | None
    """Share of its images that it is predicted for; None where it has no image."""
    f1: float | None
    """Harmonic mean of both; None where it has neither images nor predictions."""
    roc_auc: float | None
    """Independent labels only; None where all images have the label, or none has."""
    average_precision: float | None
    """Independent labels only; None as roc_auc."""


class Confusion(NamedTuple):
    """One kind of mistake."""

    truth: str
    """What the images show."""
    predicted: str
    """What was predicted for them."""
    truth_index: int
    """Class index of truth."""
    predicted_index: int
    """Class index of predicted."""
    images: int
    """How many."""


class Evaluation(NamedTuple):
    """What a run is worth."""

    run_id: str
    """The run."""
    model_id: str
    """What scored it."""
    task: Task
    """Decides which metrics there are."""
    num_classes: int
    """C."""
    counts: MatchCounts
    """Which images were compared."""
    metrics: dict[str, float | None]
    """Numbers over all images, by name."""
    per_class: tuple[ClassResult, ...]
    """C results, in the order of the classes."""
    confusions: tuple[Confusion, ...]
    """Most frequent first; none for independent labels."""

    def to_json(self) -> dict[str, Any]:
        """Return everything as what json.dumps takes."""
        return {
            **self._asdict(),
            "counts": self.counts._asdict(),
            "per_class": [result._asdict() for result in self.per_class],
            "confusions": [confusion._asdict() for confusion in self.confusions],
        }


def evaluate(run: PublishedRun, truth: Truth, threshold: float | None = None) -> Evaluation:
    """Compare a run with the truth.

    Args:
        run: From find_run.
        truth: From read_truth, with the labels of this run.
        threshold: From which probability on a label counts as positive, for independent labels and for two classes;
            None takes the decisions that the run has published in positive_labels.

    Raises:
        ConfigError: scikit-learn is missing, or a threshold makes no sense here.
        InputError: Run and truth share no image.
    """
    require_extra("evaluate", "sklearn", "scipy")
    _check_threshold(run, threshold)
    joined = join(run, truth)
    if run.independent:
        measured = _independent(run, truth, joined, threshold)
    else:
        measured = _exclusive(run, truth, joined, threshold)
    return Evaluation(run.layout.run_id, run.model_id, _task(run), len(run.labels), joined.counts, *measured)


_Measured: TypeAlias = tuple[dict[str, float | None], tuple[ClassResult, ...], tuple[Confusion, ...]]


def _task(run: PublishedRun) -> Task:
    if run.independent:
        return "multi-label"
    return "binary" if len(run.labels) == 2 else "multi-class"


def _check_threshold(run: PublishedRun, threshold: float | None) -> None:
    if threshold is None:
        return
    if not 0.0 <= threshold <= 1.0:
        raise ConfigError(f"--threshold must be a probability from 0 to 1, got {threshold:g}")
    if _task(run) == "multi-class":
        raise ConfigError(
            f"--threshold {threshold:g} is for labels that are decided one by one; the {len(run.labels)} classes of "
            f"run {run.layout.run_id} exclude each other, the strongest wins; leave it out"
        )


def _exclusive(run: PublishedRun, truth: Truth, joined: Join, threshold: float | None) -> _Measured:
    from sklearn import metrics

    binary = len(run.labels) == 2
    sums: Counter[str] = Counter()
    kept: list[dict[str, npt.NDArray[Any]]] = []
    columns = ["probabilities", "predicted_index", "predicted_probability", "positive_labels"]
    for rows, positions in read_joined(run, joined, columns):
        y = truth.true_classes(positions)
        p = matrix(rows["probabilities"])
        for start in range(0, len(y), step := max(1, _BLOCK_ELEMENTS // p.shape[1])):
            sums.update(_sums(run, y[start : start + step], p[start : start + step]))
        block: dict[str, npt.NDArray[Any]] = {
            "y": y,
            "top": rows["predicted_index"].to_numpy(),
            "confidence": rows["predicted_probability"].to_numpy(),
        }
        if binary:
            block["p"] = p[:, 1]
            block["positive"] = _decided(run, rows, p, threshold)[:, 1]
        kept.append(block)
    y, top, confidence = (np.concatenate([block[name] for block in kept]) for name in ("y", "top", "confidence"))
    found: dict[str, float | None] = {"top_1": float(metrics.accuracy_score(y, top))}
    found.update({name: total / len(y) for name, total in sums.items()})
    # One column of confidences with their truth: what `ece` makes of whole rows, without keeping them.
    found["ece"] = calibration.ece(confidence[:, None], (y == top)[:, None])
    present = np.unique(y)
    macro = metrics.precision_recall_fscore_support(y, top, labels=present, average="macro", zero_division=0.0)
    found.update(zip(("macro_precision", "macro_recall", "macro_f1"), map(float, macro[:3]), strict=True))
    if binary:
        p, positive = (np.concatenate([block[name] for block in kept]) for name in ("p", "positive"))
        found.update(_curves(y == 1, p))
        if run.one_unit or threshold is not None:
            found.update(_at_threshold(y == 1, positive))
    scores = metrics.precision_recall_fscore_support(y, top, labels=range(len(run.labels)), zero_division=np.nan)
    predicted = np.bincount(top, minlength=len(run.labels))
    return found, _per_class(run, scores, predicted, None), _confusions(run, y, top)


def _sums(run: PublishedRun, y: _Int, p: _Float) -> dict[str, float]:
    """Return the sums over rows of what is a mean over rows."""
    from sklearn import metrics

    classes = range(p.shape[1])
    # scikit-learn asks for sums of 1 in the precision of the type, and float32 rows are not that exact in float64.
    # In float32 it would clip log-loss at 1.2e-7, in float64 at 2.2e-16.
    q = p.astype(np.float64)
    total = q.sum(axis=1, keepdims=True)
    if not (total > 0).all():
        raise InputError(f"run {run.layout.run_id} holds a row whose probabilities are all 0: it cannot be measured")
    q /= total
    found = {}
    if len(classes) > 5:
        found["top_5"] = float(metrics.top_k_accuracy_score(y, p, k=5, labels=classes, normalize=False))
    found["log_loss"] = float(metrics.log_loss(y, q, labels=classes, normalize=False))
    found["brier"] = float(metrics.brier_score_loss(y, q, labels=classes, scale_by_half=False)) * len(y)
    return found


def _independent(run: PublishedRun, truth: Truth, joined: Join, threshold: float | None) -> _Measured:
    from sklearn import metrics

    truths, vectors, decisions = [], [], []
    for rows, positions in read_joined(run, joined, ["probabilities", "positive_labels"]):
        vectors.append(matrix(rows["probabilities"]))
        truths.append(truth.true_labels(positions, len(run.labels)))
        decisions.append(_decided(run, rows, vectors[-1], threshold))
    y, p, decided = np.concatenate(truths), np.concatenate(vectors), np.concatenate(decisions)
    flat_y, flat_p = y.ravel().astype(np.int8), p.ravel().astype(np.float64)
    found: dict[str, float | None] = {
        "exact_match": float(metrics.accuracy_score(y, decided)),
        "log_loss": float(metrics.log_loss(flat_y, flat_p, labels=[0, 1])),
        "brier": float(metrics.brier_score_loss(flat_y, flat_p, pos_label=1)),
        "ece": calibration.ece(p, y),
    }
    for average in ("micro", "macro"):
        scores = metrics.precision_recall_fscore_support(y, decided, average=average, zero_division=0.0)
        names = (f"{average}_precision", f"{average}_recall", f"{average}_f1")
        found.update(zip(names, map(float, scores[:3]), strict=True))
    curves = [_curves(y[:, i], p[:, i]) for i in range(p.shape[1])]
    for name in ("roc_auc", "average_precision"):
        defined = [value for curve in curves if (value := curve[name]) is not None]
        found[f"macro_{name}"] = float(np.mean(defined)) if defined else None
    scores = metrics.precision_recall_fscore_support(y, decided, average=None, zero_division=np.nan)
    return found, _per_class(run, scores, decided.sum(axis=0), curves), ()


def _curves(y: _Bool, p: _Float) -> dict[str, float | None]:
    from sklearn import metrics

    if y.all() or not y.any():
        return {"roc_auc": None, "average_precision": None}
    return {
        "roc_auc": float(metrics.roc_auc_score(y, p)),
        "average_precision": float(metrics.average_precision_score(y, p)),
    }


def _at_threshold(y: _Bool, positive: _Bool) -> dict[str, float | None]:
    from sklearn import metrics

    precision, recall, f1, _ = metrics.precision_recall_fscore_support(
        y, positive, average="binary", pos_label=True, zero_division=np.nan
    )
    named = {
        "threshold_accuracy": metrics.accuracy_score(y, positive),
        "threshold_precision": precision,
        "threshold_recall": recall,
        "threshold_f1": f1,
    }
    return {name: _defined(value) for name, value in named.items()}


def _per_class(
    run: PublishedRun,
    scores: tuple[_Float, _Float, _Float, _Int],
    predicted: _Int,
    curves: list[dict[str, float | None]] | None,
) -> tuple[ClassResult, ...]:
    precision, recall, f1, images = scores
    return tuple(
        ClassResult(
            class_index=i,
            label=label,
            images=int(images[i]),
            predicted=int(predicted[i]),
            precision=_defined(precision[i]),
            recall=_defined(recall[i]),
            f1=_defined(f1[i]),
            roc_auc=curves[i]["roc_auc"] if curves else None,
            average_precision=curves[i]["average_precision"] if curves else None,
        )
        for i, label in enumerate(run.labels)
    )


def _defined(value: Any) -> float | None:
    return None if np.isnan(value) else float(value)


def _confusions(run: PublishedRun, y: _Int, top: _Int) -> tuple[Confusion, ...]:
    wrong = y != top
    pairs, counts = np.unique(np.stack([y[wrong], top[wrong]], axis=1), axis=0, return_counts=True)
    order = np.lexsort((pairs[:, 1], pairs[:, 0], -counts))
    return tuple(
        Confusion(run.labels[t], run.labels[g], int(t), int(g), int(counts[place]))
        for place, (t, g) in zip(order, pairs[order], strict=True)
    )


def _decided(run: PublishedRun, rows: pa.Table, p: _Float, threshold: float | None) -> _Bool:
    """Return bool[N, C]: which labels are positive, by a threshold or as published."""
    if threshold is not None:
        return np.asarray(p >= threshold)
    decided = np.zeros(p.shape, np.bool_)
    if run.activation != "sigmoid":
        decided[np.arange(len(p)), rows["predicted_index"].to_numpy()] = True
        return decided
    double = [label for label, count in Counter(run.labels).items() if count > 1]
    if double:
        raise InputError(
            f"run {run.layout.run_id} has two labels {double[0]}: its positive_labels cannot be told apart; give "
            "--threshold to decide anew"
        )
    lists = rows["positive_labels"].combine_chunks()
    row = np.repeat(np.arange(len(lists)), lists.value_lengths().to_numpy())
    decided[row, pc.index_in(lists.flatten(), value_set=pa.array(run.labels)).to_numpy()] = True
    return decided
