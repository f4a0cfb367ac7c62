"""Numbers on [N, C]: softmax, sigmoid, the k strongest classes, margin and entropy.

Exponentials are computed in float64 and rounded to float32 once, at the end. That buys results that are right to the
last place whatever the head's type: float16 and bfloat16 logits are lifted before the exponential, differences of
large logits are exact, and the rounding errors of a row sum to at most 6e-8, with 2 classes or with 100,000. Softmax
of float32 and narrower logits is computed by _softmax.c, in 1.3 instead of 3.0 microseconds a row of 1,000 classes:
less than numpy's float32 arithmetic takes. Of 40 million probabilities none came out differently in numpy.

What the numbers mean, and whether an activation is due at all, is decided in `interpretation`.
"""

import functools
import importlib
import logging
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

_LOG = logging.getLogger(__name__)

Float32 = npt.NDArray[np.float32]

# Rows are taken in blocks of this many elements, 512 KiB of float64, so that temporaries stay in the cache and in
# memory that the allocator keeps.
_BLOCK_ELEMENTS = 2**16
# Up to so many classes are found one after the other: five of 1,000 in 0.8 instead of 2.2 microseconds a row.
_FEW = 12


class TopK(NamedTuple):
    """The k strongest classes of every row, strongest first; equal probabilities in the order of their index."""

    index: npt.NDArray[np.int32]  # type: ignore[assignment]  # hides tuple.index, which nobody calls on a TopK
    """int32[N, k], class indices."""
    probability: Float32
    """float32[N, k], descending."""


class Summary(NamedTuple):
    """What the scores table says of a row beside its probabilities."""

    top_k: TopK
    """The k strongest classes."""
    margin: Float32
    """float32[N], as `margin` returns it."""
    entropy: Float32
    """float32[N], nats, as `entropy` returns it."""


def softmax(logits: npt.ArrayLike) -> Float32:
    """Turn logits into probabilities of classes that exclude each other.

    Args:
        logits: float[N, C], of any float type (float16, bfloat16, float32, float64) and size; C at least 1.

    Returns:
        float32[N, C] in [0, 1]; each row sums to 1 within 1e-6. Classes at +inf share the whole probability of
        their row equally, classes at -inf get 0. A row that holds a NaN, or nothing but -inf, has no
        distribution and is NaN throughout.

    Raises:
        ValueError: The logits are not of shape [N, C] with C at least 1.

    >>> softmax([[1000.0, 1000.0, -1000.0]])
    array([[0.5, 0.5, 0. ]], dtype=float32)
    """
    x = _matrix(logits)
    out = np.empty(x.shape, np.float32)
    kernel = compiled() if np.can_cast(x.dtype, np.float32) else None
    if kernel is not None:
        kernel(np.ascontiguousarray(x, np.float32), out)
        return out
    for rows in _blocks(x):
        e = x[rows].astype(np.float64)
        peak = x[rows].max(axis=1, keepdims=True).astype(np.float64)
        infinite = np.isposinf(peak[:, 0])
        if infinite.any():  # inf - inf is NaN: 0 where the row is +inf and -inf elsewhere means the same
            e[infinite] = np.where(np.isposinf(e[infinite]), 0.0, -np.inf)
            peak[infinite] = 0.0
        with np.errstate(invalid="ignore"):  # a row of nothing but -inf becomes NaN, as documented
            e -= peak
        np.exp(e, out=e)
        e /= e.sum(axis=1, keepdims=True)
        out[rows] = e
    return out


@functools.cache
def compiled() -> Callable[[Float32, Float32], None] | None:
    """Return the compiled softmax, or None, and say so, where this was installed without a C compiler."""
    try:
        kernel: Callable[[Float32, Float32], None] = importlib.import_module("transforms._softmax").softmax
    except ImportError:
        _LOG.warning(
            "softmax is computed by numpy, to the same last place in 2 to 3 times the time: the compiled kernel was "
            "not built; install again where a C compiler is (apt-get install gcc libc6-dev)"
        )
        return None
    return kernel


def sigmoid(logits: npt.ArrayLike) -> Float32:
    """Turn logits into probabilities of labels that do not exclude each other.

    Args:
        logits: float[N, C], of any float type and size; C at least 1.

    Returns:
        float32[N, C] in [0, 1]: 1 / (1 + exp(-x)); +inf becomes 1, -inf becomes 0, NaN stays NaN.

    Raises:
        ValueError: The logits are not of shape [N, C] with C at least 1.

    >>> sigmoid([[0.0, -1000.0]])
    array([[0.5, 0. ]], dtype=float32)
    """
    x = _matrix(logits)
    out = np.empty(x.shape, np.float32)
    for rows in _blocks(x):
        e = np.negative(x[rows], dtype=np.float64, casting="unsafe")
        # In float64 the textbook formula is safe for float32 results: exp overflows to inf only where 1 / inf = 0
        # is the correctly rounded answer.
        with np.errstate(over="ignore"):
            np.exp(e, out=e)
        e += 1.0
        out[rows] = np.reciprocal(e, out=e)
    return out


def two_classes(p: npt.ArrayLike) -> Float32:
    """Spell out the probability of one unit as two classes, negative and positive.

    Argmax over a single column is always 0; over these two it is the decision at 0.5.

    Args:
        p: float[N] or float[N, 1], the probability of the positive class, in [0, 1].

    Returns:
        float32[N, 2]: 1 - p and p.

    Raises:
        ValueError: There is more than one column.

    >>> two_classes([0.25])
    array([[0.75, 0.25]], dtype=float32)
    """
    positive = np.asarray(p).astype(np.float64)
    if positive.ndim not in (1, 2) or (positive.ndim == 2 and positive.shape[1] != 1):
        raise ValueError(f"p must be of shape [N] or [N, 1], got {list(positive.shape)}: it is one unit's probability")
    positive = positive.reshape(-1)
    return np.stack([1.0 - positive, positive], axis=1).astype(np.float32)


def top_k(probabilities: npt.ArrayLike, k: int) -> TopK:
    """Find the k strongest classes of every row, in O(C) a row.

    Args:
        probabilities: float32[N, C] without NaN; any sign.
        k: How many, from 1 to C.

    Returns:
        Indices and values, descending; equal values in the order of their index, as in `tf.math.top_k` and a
        stable sort.

    Raises:
        ValueError: k lies outside 1 to C, or the shape is not [N, C].

    >>> top_k([[0.2, 0.6, 0.2]], k=2).index
    array([[1, 0]], dtype=int32)
    """
    p = _matrix(probabilities).astype(np.float32, copy=False)
    classes = p.shape[1]
    if not 1 <= k <= classes:
        raise ValueError(f"k must be from 1 to the number of classes {classes}, got {k}")
    index = np.empty((len(p), k), np.int32)
    for rows in _blocks(p):
        index[rows] = _strongest(p[rows], k)
    return TopK(index, np.take_along_axis(p, index, axis=1))


def margin(probabilities: npt.ArrayLike) -> Float32:
    """Tell how far the strongest class is ahead of the second.

    Args:
        probabilities: float32[N, C] without NaN.

    Returns:
        float32[N]: p1 - p2, at least 0; with one class p1.
    """
    p = _matrix(probabilities).astype(np.float32, copy=False)
    return _margin_of(top_k(p, min(2, p.shape[1])))


def entropy(probabilities: npt.ArrayLike, *, independent: bool = False) -> Float32:
    """Measure how undecided every row is, in nats.

    Args:
        probabilities: float32[N, C] in [0, 1].
        independent: The columns are labels that do not exclude each other (multi-label sigmoid), whose rows do
            not sum to 1: each label is a coin of its own and the row's entropy is the sum over its coins.

    Returns:
        float32[N], at least 0: -sum p ln p, with 0 ln 0 = 0; for independent labels
        -sum (p ln p + (1 - p) ln (1 - p)).

    >>> entropy([[0.5, 0.5], [1.0, 0.0]])
    array([0.6931472, 0.       ], dtype=float32)
    """
    p = _matrix(probabilities)
    out = np.empty(len(p), np.float32)
    for rows in _blocks(p):
        if independent:  # float64, because 1 - p of a small p would lose it
            q = p[rows].astype(np.float64)
            total = _plogp(q) + _plogp(1.0 - q)
        else:
            total = _plogp(p[rows].astype(np.float32, copy=False))
        # 0.0 - x and not -x, because -0.0 in a table puzzles its readers; and a p of 1 + 1e-7 is drift
        out[rows] = np.maximum(0.0 - total, 0.0)
    return out


def summarise(probabilities: npt.ArrayLike, k: int, *, independent: bool = False) -> Summary:
    """Compute top-k, margin and entropy in one pass: the margin is read off the same two strongest classes.

    Args:
        probabilities: float32[N, C] in [0, 1], without NaN.
        k: How many classes to name, from 1 to C.
        independent: As in `entropy`.

    Returns:
        What `top_k`, `margin` and `entropy` return.

    Raises:
        ValueError: k lies outside 1 to C, or the shape is not [N, C].
    """
    p = _matrix(probabilities).astype(np.float32, copy=False)
    top = top_k(p, k)
    leaders = top if k > 1 else top_k(p, min(2, p.shape[1]))
    return Summary(top, _margin_of(leaders), entropy(p, independent=independent))


def finite_rows(raw: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Tell which rows can be scored: those without NaN and infinity.

    Args:
        raw: float[N, C], as the model returned it.

    Returns:
        bool[N].
    """
    finite: npt.NDArray[np.bool_] = np.isfinite(_matrix(raw)).all(axis=1)
    return finite


def _strongest(p: Float32, k: int) -> npt.NDArray[np.int64]:
    # argpartition picks any of several equal values. Here value and index are one integer: the value's bits above
    # (folded so that integers order like floats; + 0.0 makes -0.0 equal to 0.0), the index counted backwards
    # below. No two keys are equal, so that a partition of keys has one answer.
    classes = p.shape[1]
    if k <= _FEW and not np.isneginf(p.min()):  # what is taken becomes -inf, and could be taken again
        return _one_by_one(p, k)
    bits = (p + np.float32(0.0)).view(np.int32)
    bits ^= (bits >> 31) & 0x7FFFFFFF
    keys = bits.astype(np.int64)
    keys <<= 32
    keys |= np.arange(classes - 1, -1, -1, dtype=np.int64)
    if k < classes:
        keys.partition(classes - k, axis=1)
    strongest = np.sort(keys[:, classes - k :], axis=1)[:, ::-1]
    return (classes - 1) - (strongest & 0xFFFFFFFF)


def _one_by_one(p: Float32, k: int) -> npt.NDArray[np.int64]:
    """Take the strongest, k times: of equal values argmax names the first."""
    left = p.copy()
    index = np.empty((len(p), k), np.int64)
    every = np.arange(len(p))
    for place in range(k):
        index[:, place] = found = left.argmax(axis=1)
        left[every, found] = -np.inf
    return index


def _margin_of(top: TopK) -> Float32:
    if top.probability.shape[1] == 1:
        return top.probability[:, 0].copy()
    return top.probability[:, 0] - top.probability[:, 1]


def _plogp(p: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    terms = np.maximum(p, np.finfo(p.dtype).tiny)  # the logarithm is finite at 0, so that 0 ln 0 = 0 without a mask
    np.log(terms, out=terms)
    terms *= p
    total: npt.NDArray[np.float64] = terms.sum(axis=1, dtype=np.float64)
    return total


def _blocks(matrix: npt.NDArray[Any]) -> Iterator[slice]:
    step = max(1, _BLOCK_ELEMENTS // matrix.shape[1])
    for start in range(0, len(matrix), step):
        yield slice(start, start + step)


def _matrix(values: npt.ArrayLike) -> npt.NDArray[Any]:
    array = np.asarray(values)
    if array.ndim != 2 or array.shape[1] < 1:
        raise ValueError(f"values must be of shape [N, C] with C at least 1, got {list(array.shape)}")
    return array
