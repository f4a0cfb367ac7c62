"""What every row of a published run promises, checked a row group at a time, without an object a value."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.after.published import PublishedRun, matrix
from transforms.calibration import is_identity
from transforms.errors import FailureCode, ScoreImagesError, Stage
from transforms.interpretation import (
    Activation,
    Interpretation,
    Output,
    over_threshold,
    to_probabilities,
    tolerance,
)
from transforms.probabilities import TopK, finite_rows, summarise

_Bool = npt.NDArray[np.bool_]
_Float32 = npt.NDArray[np.float32]
_Float64 = npt.NDArray[np.float64]

_SUM_TOLERANCE = 1e-6
# A logarithm of another machine may differ in its last place, in each term of the sum.
_ENTROPY_TOLERANCE = 1e-6
# So may an exponential, and with it every probability of its row.
_LOGITS_TOLERANCE = 1e-6


class Breach(NamedTuple):
    """A promise, and the rows of a row group that break it."""

    promise: str
    """Its name."""
    broken: _Bool
    """bool[N]."""
    says: Callable[[int], str]
    """What is wrong with one of them."""


def score_breaches(rows: pa.Table, run: PublishedRun, k: int) -> Iterator[Breach]:
    """Hold rows of the scores table to what they promise.

    Args:
        rows: N rows, of the schema of the run.
        run: What its probabilities mean.
        k: Entries of top_k, from 1 to the number of classes.

    Yields:
        A breach for each promise, also where no row breaks it.
    """
    width, height = (rows[name].to_numpy() for name in ("image_width", "image_height"))
    yield Breach("sizes", (width < 1) | (height < 1), lambda i: f"it is {width[i]} x {height[i]} pixels there")
    written = matrix(rows["probabilities"])
    finite = finite_rows(written)
    yield Breach("finite", ~finite, lambda i: f"class {np.isfinite(written[i]).argmin()} is not a finite number")
    p = _only(written, finite)
    slack = _slack(p, run)
    lowest, highest = p.min(axis=1), p.max(axis=1)
    outside = (lowest < -slack) | (highest > 1 + slack)
    yield Breach("range", outside, lambda i: f"they run from {lowest[i]:.9g} to {highest[i]:.9g}")
    sums = p.sum(axis=1, dtype=np.float64)
    off = finite & ~outside & (np.abs(sums - 1) > np.maximum(slack, _SUM_TOLERANCE)) & _exclusive(run)
    yield Breach("sums", off, lambda i: f"they sum to {sums[i]:.9g}")
    # What follows from probabilities is asked only of rows that have some.
    usable = finite & ~outside
    if run.has_logits:
        logits = _logits(rows, p, run)
        yield logits._replace(broken=logits.broken & usable)
    for breach in _derived_breaches(rows, _only(p, usable), run, k):
        yield breach._replace(broken=breach.broken & usable)
    model_ids = _texts(rows["model_id"])
    expected = run.model_id
    yield Breach("model", _differs(model_ids, expected), lambda i: f"it is {model_ids[i]} there")


def _logits(rows: pa.Table, p: _Float32, run: PublishedRun) -> Breach:
    lists = rows["logits"].combine_chunks()
    lengths = pc.list_value_length(lists).to_numpy()
    full = lengths == run.num_units
    raw = lists.filter(pa.array(full)).flatten().to_numpy().reshape(-1, run.num_units)
    full[np.flatnonzero(full)[~finite_rows(raw)]] = False
    meaning = Interpretation(cast(Output, run.output), cast(Activation, run.activation), run.num_units, "published")
    try:
        found = to_probabilities(raw[finite_rows(raw)], meaning, run.calibration)
    except ScoreImagesError as error:
        reason = str(error)
        return Breach("logits", np.ones(len(p), np.bool_), lambda _: reason)
    if found.shape[1] != p.shape[1]:
        reason = f"{found.shape[1]} probabilities follow from them, and there are {p.shape[1]}"
        return Breach("logits", np.ones(len(p), np.bool_), lambda _: reason)
    expected = np.zeros_like(p)
    expected[full] = found
    close = np.isclose(p, expected, rtol=_LOGITS_TOLERANCE, atol=_LOGITS_TOLERANCE)

    def says(i: int) -> str:
        if lengths[i] != run.num_units:
            return f"they are {lengths[i]}, and the model has {run.num_units} outputs"
        if not full[i]:
            return "one of them is not a finite number"
        at = int(close[i].argmin())
        return f"class {at} is {p[i, at]:.9g}, and {expected[i, at]:.9g} by the logits"

    return Breach("logits", ~full | ~close.all(axis=1), says)


def _only(p: _Float32, usable: _Bool) -> _Float32:
    """Return the rows that can be reckoned with, and zeros for the others."""
    return p if usable.all() else np.where(usable[:, np.newaxis], p, np.float32(0))


def _exclusive(run: PublishedRun) -> bool:
    """Tell whether each row sums to 1; of activation none nobody says so."""
    return run.activation == "softmax" or run.one_unit


def _slack(p: _Float32, run: PublishedRun) -> _Float64:
    """Return float64[N]: how far each row may lie outside of [0, 1], and its sum from 1."""
    if run.output == "logits" or (run.activation != "none" and not is_identity(run.calibration)):
        return np.zeros(len(p))
    # A model's own probabilities are published as they are, with the errors of its arithmetic; what that was is seen
    # in the values. Of one unit the second column is the model's.
    own = p[:, 1:] if run.one_unit else p
    slack = np.full(len(p), tolerance(own))
    drift = np.maximum(-p.min(axis=1), p.max(axis=1) - 1).astype(np.float64)
    if _exclusive(run):
        drift = np.maximum(drift, np.abs(p.sum(axis=1, dtype=np.float64) - 1))
    for row in np.flatnonzero(drift > slack):
        slack[row] = tolerance(own[row : row + 1])
    return slack


def _derived_breaches(rows: pa.Table, p: _Float32, run: PublishedRun, k: int) -> Iterator[Breach]:
    summary = summarise(p, k, independent=run.independent)
    labels = pa.array(run.labels, pa.string())
    yield _predicted(rows, summary.top_k, labels)
    yield _top_k(rows, summary.top_k, labels)
    margin, entropy = (rows[name].to_numpy() for name in ("margin", "entropy"))
    close = np.isclose(entropy, summary.entropy, rtol=_ENTROPY_TOLERANCE, atol=_ENTROPY_TOLERANCE)
    yield Breach("margin", margin != summary.margin, lambda i: _other("margin", margin[i], summary.margin[i]))
    yield Breach("entropy", ~close, lambda i: _other("entropy", entropy[i], summary.entropy[i]))
    if run.activation != "sigmoid" or run.thresholds is not None:
        yield _positive(rows, p, run, labels)


def _predicted(rows: pa.Table, top: TopK, labels: pa.Array) -> Breach:
    index, probability = rows["predicted_index"].to_numpy(), rows["predicted_probability"].to_numpy()
    label = _texts(rows["predicted_label"])
    strongest, value = top.index[:, 0], top.probability[:, 0]
    broken = (index != strongest) | (probability != value) | _differs(label, labels.take(pa.array(strongest)))
    return Breach(
        "predicted",
        broken,
        lambda i: (
            f"class {index[i]} ({label[i]}, {probability[i]:.9g}) is predicted, and class {strongest[i]} "
            f"({labels[int(strongest[i])]}, {value[i]:.9g}) is the strongest"
        ),
    )


def _top_k(rows: pa.Table, top: TopK, labels: pa.Array) -> Breach:
    lists = rows["top_k"].combine_chunks()
    count, k = top.index.shape
    lengths = pc.list_value_length(lists).to_numpy()
    full = lengths == k
    rank, index, label, probability = lists.filter(pa.array(full)).flatten().flatten()
    expected = top.index[full].reshape(-1)
    wrong = (
        (rank.to_numpy() != np.tile(np.arange(1, k + 1), int(full.sum())))
        | (index.to_numpy() != expected)
        | (probability.to_numpy() != top.probability[full].reshape(-1))
        | _differs(label, labels.take(pa.array(expected)))
    ).reshape(-1, k)
    broken = np.ones(count, np.bool_)
    broken[full] = wrong.any(axis=1)

    def says(i: int) -> str:
        if not full[i]:
            return f"it has {lengths[i]} entries, not {k}"
        place = int(wrong[full[:i].sum()].argmax())
        found = lists[i][place].as_py()
        return (
            f"rank {place + 1} is class {found['index']} ({found['label']}, {found['probability']:.9g}), and by the "
            f"probabilities it is class {top.index[i, place]} ({labels[int(top.index[i, place])]}, "
            f"{top.probability[i, place]:.9g})"
        )

    return Breach("top_k", broken, says)


def _positive(rows: pa.Table, p: _Float32, run: PublishedRun, labels: pa.Array) -> Breach:
    lists = rows["positive_labels"].combine_chunks()
    missing = lists.is_null().to_numpy(zero_copy_only=False)
    if run.thresholds is None or run.activation != "sigmoid":
        return Breach("positive", ~missing, lambda i: f"they are {lists[i].as_py()}, and only sigmoid models have any")
    meaning = Interpretation("probabilities", "sigmoid", run.num_units, "published")
    positive = over_threshold(p, np.array(run.thresholds, np.float32), meaning)
    lengths = pc.list_value_length(lists).fill_null(-1).to_numpy()
    same = lengths == positive.sum(axis=1)
    held, expected = np.nonzero(positive[same])
    wrong = _differs(lists.filter(pa.array(same)).flatten(), labels.take(pa.array(expected)))
    broken = ~same
    broken[np.flatnonzero(same)[held[wrong]]] = True
    return Breach(
        "positive",
        broken,
        lambda i: f"they are {lists[i].as_py()}, and {labels.filter(pa.array(positive[i])).to_pylist()} by thresholds",
    )


def failure_breaches(rows: pa.Table) -> Iterator[Breach]:
    """Hold rows of the failures table to what they promise: stages and codes that are documented."""
    for name, known in (("stage", Stage), ("code", FailureCode)):
        texts = _texts(rows[name])
        unknown = pc.invert(pc.is_in(texts, value_set=pa.array([str(value) for value in known])))
        yield Breach("codes", unknown.to_numpy(zero_copy_only=False), partial(_said, name, texts))


def _said(name: str, texts: pa.Array, row: int) -> str:
    return f"its {name} is {texts[row]}"


def _texts(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks().cast(pa.string())


def _differs(found: pa.Array, expected: Any) -> _Bool:
    # A null where there must be a text differs from all.
    differs: _Bool = pc.not_equal(found, expected).fill_null(True).to_numpy(zero_copy_only=False)
    return differs


def _other(name: str, found: np.float32, right: np.float32) -> str:
    return f"{name} is {found:.9g}, and {right:.9g} by the probabilities"
