"""Softmax, sigmoid, top-k, margin and entropy against exact references and slow obvious versions."""

import functools
import importlib
import re
import shutil
import sys
from collections.abc import Iterator
from typing import Any

import ml_dtypes
import mpmath
import numpy as np
import numpy.typing as npt
import pytest
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from transforms import probabilities as pb

INF, NAN = np.inf, np.nan
_LOOK_FOR_KERNEL = pb.compiled


@pytest.fixture(
    params=[
        "numpy",
        pytest.param("compiled", marks=pytest.mark.skipif(pb.compiled() is None, reason="there was no C compiler")),
    ],
    scope="module",
    autouse=True,
)
def kernel(request: pytest.FixtureRequest) -> Iterator[None]:
    """Everything here holds with the compiled softmax and without."""
    found = pb.compiled
    if request.param == "numpy":
        pb.compiled = lambda: None  # type: ignore[assignment]
    yield
    pb.compiled = found


# Half a unit in the last place: the distance of the correctly rounded float32 from the exact value.
HALF_ULP = 2.0**-24


def exact_softmax(row: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Compute in 50 digits; +inf entries share the mass."""
    with mpmath.workdps(50):
        x = [mpmath.mpf(float(v)) for v in np.asarray(row)]
        peak = max(x)
        e = [mpmath.mpf(int(v == peak)) if peak == mpmath.inf else mpmath.exp(v - peak) for v in x]
        total = mpmath.fsum(e)
        return np.array([float(v / total) for v in e])


def exact_sigmoid(row: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Compute in 50 digits."""
    with mpmath.workdps(50):
        return np.array([float(1 / (1 + mpmath.exp(-mpmath.mpf(float(v))))) for v in np.asarray(row)])


def assert_rounded(got: npt.NDArray[np.float32], exact: npt.NDArray[np.float64]) -> None:
    """Hold float32 results to the exact ones: within half a unit in the last place, and a breath for float64's own."""
    assert got.dtype == np.float32
    np.testing.assert_allclose(got.astype(np.float64), exact, rtol=HALF_ULP * 1.0001, atol=2.0**-149)


LOGITS = [
    [0.0, 0.0, 0.0],  # nothing known
    [1e4, -1e4, 0.0],  # far over the float32 exponential
    [-1e4, -1e4, -1e4 + 1],  # far below it
    [88.9, 88.9, 0.0],  # exp overflows float32 just here
    [-103.5, 0.0, -87.5],  # results that float32 holds only as denormals
    [1e-45, -1e-45, 1e-40],  # denormal logits
    [INF, 1.0, -2.0],  # one infinity takes all
    [INF, INF, -INF],  # two share
    [-INF, 3.0, 1e4],  # one class ruled out
    [-INF, -INF, 5.0],  # all but one ruled out
    [3.4e38, -3.4e38, 0.0],  # the ends of float32
    [0.1, 0.2, 0.3],  # nothing special
]


@pytest.mark.parametrize("row", LOGITS, ids=str)
def test_softmax_is_the_exact_one_rounded(row: list[float]) -> None:
    """Every probability is the 50-digit one, rounded to float32."""
    x = np.array([row], np.float32)
    assert_rounded(pb.softmax(x)[0], exact_softmax(x[0]))


@pytest.mark.parametrize("row", LOGITS, ids=str)
def test_sigmoid_is_the_exact_one_rounded(row: list[float]) -> None:
    """Every probability is the 50-digit one, rounded to float32."""
    x = np.array([row], np.float32)
    assert_rounded(pb.sigmoid(x)[0], exact_sigmoid(x[0]))


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64], ids=lambda d: d.__name__)
def test_every_float_type_is_lifted_before_the_exponential(dtype: npt.DTypeLike) -> None:
    """A half-precision head loses nothing more than its own rounding: results are exact for the values it gave."""
    x = np.array([[12.5, 11.0, -60000.0, 0.001], [1000.0, -1000.0, 999.0, 0.0]], dtype)
    for got, row in zip(pb.softmax(x), x, strict=True):
        assert_rounded(got, exact_softmax(row))
    for got, row in zip(pb.sigmoid(x), x, strict=True):
        assert_rounded(got, exact_sigmoid(row))


def test_large_float64_logits_keep_their_differences() -> None:
    """Differences of 0.001 at 1e6 are lost in float32 and count in float64."""
    x = np.array([[1e6, 1e6 + 1e-3]])
    assert_rounded(pb.softmax(x)[0], exact_softmax(x[0]))
    assert pb.softmax(x)[0, 0] != pb.softmax(x)[0, 1]


def test_a_hundred_thousand_classes_are_exact_and_sum_to_one() -> None:
    """Neither accuracy nor the sum suffers from the number of classes."""
    x = np.random.default_rng(7).normal(0, 5, (2, 100_000)).astype(np.float32)
    p = pb.softmax(x)
    with mpmath.workdps(50):
        total = mpmath.fsum(mpmath.exp(mpmath.mpf(float(v))) for v in x[0])
        for i in (0, 1, 17, 99_999, int(x[0].argmax()), int(x[0].argmin())):
            assert_rounded(p[0, i : i + 1], np.array([float(mpmath.exp(mpmath.mpf(float(x[0, i]))) / total)]))
    np.testing.assert_allclose(p.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(p.sum(axis=1, dtype=np.float64), 1, atol=1e-7)


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler here")
def test_kernel_is_built_where_there_is_a_compiler() -> None:
    """The build may fail without stopping the installation: here it must not."""
    assert importlib.import_module("transforms._softmax").softmax is not None


@pytest.mark.parametrize("classes", [1, 2, 3, 15, 16, 17, 31, 1000, 4099])
@pytest.mark.parametrize("scale", [0.1, 3, 30, 1000])
def test_numpy_and_the_kernel_return_the_same_bits(classes: int, scale: float) -> None:
    """Whether a machine had a compiler shows in the time it takes and nowhere else; read-only and strided input too."""
    softmax = pytest.importorskip("transforms._softmax").softmax
    x = np.random.default_rng(classes).normal(0, scale, (40, classes)).astype(np.float32)
    x.flags.writeable = False
    out = np.empty_like(x)
    softmax(x, out)
    np.testing.assert_array_equal(pb.softmax(x), out)
    np.testing.assert_array_equal(pb.softmax(x[::2]), out[::2])
    np.testing.assert_array_equal(pb.softmax(np.asfortranarray(x)), out)


@pytest.mark.parametrize(
    ("logits", "target"),
    [
        (np.zeros((2, 3), np.float32), np.zeros((2, 4), np.float32)),  # another width
        (np.zeros((2, 3), np.float32), np.zeros((3, 3), np.float32)),  # another length
        (np.zeros((2, 3), np.int32), np.zeros((2, 3), np.float32)),  # whole numbers
        (np.zeros((2, 3), np.float32), np.zeros((2, 3), np.float64)),  # too wide
        (np.zeros(3, np.float32), np.zeros(3, np.float32)),  # no rows
        (np.zeros((2, 0), np.float32), np.zeros((2, 0), np.float32)),  # no classes
    ],
)
def test_kernel_refuses_what_it_would_read_wrongly(logits: npt.NDArray[Any], target: npt.NDArray[Any]) -> None:
    """C believes what it is told, so it is checked."""
    softmax = pytest.importorskip("transforms._softmax").softmax
    with pytest.raises(ValueError, match=re.escape("logits and target must be float32[N, C] of one shape")):
        softmax(logits, target)


def test_missing_kernel_is_told_once(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without a compiler says why it is slower."""
    monkeypatch.setitem(sys.modules, "transforms._softmax", None)
    look = functools.cache(_LOOK_FOR_KERNEL.__wrapped__)
    assert look() is None
    assert look() is None
    (record,) = caplog.records
    assert "softmax is computed by numpy" in record.message
    assert "apt-get install gcc" in record.message


def test_one_class_has_all_the_probability() -> None:
    """A softmax over one class is 1, whatever its logit."""
    np.testing.assert_array_equal(pb.softmax([[-1e4], [0.0], [INF]]), [[1], [1], [1]])


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_empty_batch_stays_empty(dtype: npt.DTypeLike) -> None:
    """A batch of no images has no rows and keeps its width and type."""
    none = np.zeros((0, 7), dtype)
    assert pb.softmax(none).shape == pb.sigmoid(none).shape == (0, 7)
    assert pb.softmax(none).dtype == pb.sigmoid(none).dtype == np.float32
    summary = pb.summarise(none, 3)
    assert summary.top_k.index.shape == summary.top_k.probability.shape == (0, 3)
    assert summary.margin.shape == summary.entropy.shape == (0,)
    assert pb.finite_rows(none).shape == (0,)


def test_rows_without_a_distribution_are_nan_and_leave_their_neighbours_alone() -> None:
    """Nothing but -inf, or any NaN, makes a row of NaN; the rows beside it are what they are alone."""
    x = np.array([[0, 1], [-INF, -INF], [NAN, 1], [NAN, INF], [INF, 0]], np.float32)
    p = pb.softmax(x)
    assert np.isnan(p[1:4]).all()
    np.testing.assert_array_equal(p[[0, 4]], pb.softmax(x[[0, 4]]))
    np.testing.assert_array_equal(p[4], [1, 0])


def test_sigmoid_keeps_nan_and_ends_at_infinity() -> None:
    """NaN is a value of its own column; infinities are the ends of the scale."""
    np.testing.assert_array_equal(pb.sigmoid([[NAN, INF, -INF, 0.0]]), [[NAN, 1, 0, 0.5]])


@pytest.mark.parametrize("function", [pb.softmax, pb.sigmoid, pb.margin, pb.entropy, pb.finite_rows])
@pytest.mark.parametrize("values", [[1.0, 2.0], np.zeros((2, 3, 4)), np.zeros((2, 0))], ids=["1d", "3d", "no class"])
def test_other_shapes_are_refused(function, values) -> None:
    """Everything works on [N, C], C at least 1, and says so."""
    with pytest.raises(ValueError, match=re.escape(f"got {list(np.shape(values))}")):
        function(values)


matrices = hnp.arrays(
    np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=40), elements=st.floats(-1e4, 1e4, width=32)
)


@given(matrices)
@settings(deadline=None)
def test_rows_of_a_softmax_sum_to_one(x: npt.NDArray[np.float32]) -> None:
    """In float32 arithmetic, within 1e-6, and every value lies in [0, 1]."""
    p = pb.softmax(x)
    np.testing.assert_allclose(p.sum(axis=1), 1, atol=1e-6)
    assert p.min() >= 0
    assert p.max() <= 1


@given(matrices, st.integers(-5000, 5000))
@settings(deadline=None)
def test_softmax_does_not_see_a_shift(x: npt.NDArray[np.float32], shift: int) -> None:
    """Adding one number to all logits of a row changes nothing; float64 does so without rounding here."""
    exact = np.round(x.astype(np.float64) * 1024) / 1024
    np.testing.assert_array_equal(pb.softmax(exact + shift), pb.softmax(exact))


@given(matrices)
@settings(deadline=None)
def test_order_is_preserved(x: npt.NDArray[np.float32]) -> None:
    """A larger logit never has the smaller probability, and equal logits have equal ones."""
    order = np.argsort(x, axis=1, kind="stable")
    for function in (pb.softmax, pb.sigmoid):
        assert (np.diff(np.take_along_axis(function(x), order, axis=1), axis=1) >= 0).all()
    p = pb.softmax(np.repeat(x, 2, axis=1))
    np.testing.assert_array_equal(p[:, ::2], p[:, 1::2])


@given(matrices)
@settings(deadline=None)
def test_rows_do_not_depend_on_their_batch(x: npt.NDArray[np.float32]) -> None:
    """A row scored alone has the same bits as in its batch, on whichever block boundary it lies."""
    together = pb.softmax(np.tile(x, (3, 1)))
    for i, row in enumerate(x):
        np.testing.assert_array_equal(pb.softmax(row[None])[0], together[len(x) + i])


few_values = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=30),
    elements=st.sampled_from([0.0, -0.0, 0.25, 0.5, 1.0, 1e-45, -3.0, 1e4]) | st.floats(-2, 2, width=32),
)


@given(few_values, st.data())
@settings(deadline=None)
def test_top_k_is_the_head_of_a_full_stable_sort(p: npt.NDArray[np.float32], data: st.DataObject) -> None:
    """Whatever k and however many ties: the same classes in the same order as sorting everything."""
    k = data.draw(st.integers(1, p.shape[1]))
    expected = np.argsort(-p, axis=1, kind="stable")[:, :k]
    got = pb.top_k(p, k)
    np.testing.assert_array_equal(got.index, expected)
    np.testing.assert_array_equal(got.probability, np.take_along_axis(p, expected, axis=1))
    assert (got.index.dtype, got.probability.dtype) == (np.int32, np.float32)


def test_ties_go_by_index() -> None:
    """Of equal probabilities the lower index comes first and the higher ones fall out."""
    got = pb.top_k(np.full((2, 1000), 0.001), 5)
    np.testing.assert_array_equal(got.index, [[0, 1, 2, 3, 4]] * 2)


@pytest.mark.parametrize("k", [0, -1, 4])
def test_k_outside_the_classes_is_refused(k: int) -> None:
    """The message names k and the number of classes."""
    with pytest.raises(ValueError, match=re.escape(f"k must be from 1 to the number of classes 3, got {k}")):
        pb.top_k([[0.2, 0.3, 0.5]], k)


def test_two_classes_spell_out_one_unit() -> None:
    """One column becomes negative and positive, and NaN stays with its row."""
    expected = np.array([[0.75, 0.25], [1, 0], [0, 1], [NAN, NAN]], np.float32)
    for p in ([0.25, 0, 1, NAN], [[0.25], [0], [1], [NAN]]):
        np.testing.assert_array_equal(pb.two_classes(p), expected)
    assert pb.two_classes(np.zeros((0, 1))).shape == (0, 2)


def test_two_columns_are_not_one_unit() -> None:
    """The shape that came is named."""
    with pytest.raises(ValueError, match=re.escape("[N] or [N, 1], got [1, 2]")):
        pb.two_classes([[0.5, 0.5]])


@given(few_values)
@settings(deadline=None)
def test_margin_is_first_minus_second(p: npt.NDArray[np.float32]) -> None:
    """The same as sorting the row; with one class the value itself."""
    ordered = np.sort(p, axis=1)[:, ::-1]
    expected = ordered[:, 0] - ordered[:, 1] if p.shape[1] > 1 else ordered[:, 0]
    np.testing.assert_array_equal(pb.margin(p), expected)


@given(matrices)
@settings(deadline=None)
def test_entropy_is_scipys(x: npt.NDArray[np.float32]) -> None:
    """In nats, with 0 ln 0 = 0, from 0 to ln C."""
    p = pb.softmax(x)
    got = pb.entropy(p)
    np.testing.assert_allclose(got, scipy.special.entr(p.astype(np.float64)).sum(axis=1), rtol=2e-6, atol=1e-6)
    assert (got >= 0).all()
    assert (got <= np.log(p.shape[1]) + 1e-6).all()


ENTROPIES = [
    ([1.0, 0.0, 0.0], 0.0),  # certain: exactly 0, and no -0.0
    ([1.0], 0.0),  # one class
    ([0.5, 0.5], np.log(2)),  # a coin
    ([1.0 + 1e-7, 0.0], 0.0),  # a model's drift over 1 is not negative entropy
    ([0.25] * 4, np.log(4)),  # nothing known
]


@pytest.mark.parametrize(("row", "expected"), ENTROPIES, ids=str)
def test_entropy_of_known_rows(row: list[float], expected: float) -> None:
    """Known values, and zero is a positive zero."""
    got = pb.entropy([row])
    np.testing.assert_allclose(got, [expected], rtol=1e-6)
    assert not np.signbit(got).any()


def test_entropy_of_independent_labels_is_that_of_their_coins() -> None:
    """Multi-label rows do not sum to 1: certain labels add nothing, each coin adds ln 2."""
    got = pb.entropy([[1.0, 1.0, 0.0], [0.5, 1.0, 0.5], [1e-9, 0.0, 0.0]], independent=True)
    np.testing.assert_allclose(got, [0, 2 * np.log(2), 1e-9 * (1 - np.log(1e-9))], rtol=1e-6)


@given(matrices, st.data())
@settings(deadline=None)
def test_summary_is_its_parts(x: npt.NDArray[np.float32], data: st.DataObject) -> None:
    """One pass gives what the three functions give."""
    independent = data.draw(st.booleans())
    p = pb.sigmoid(x) if independent else pb.softmax(x)
    k = data.draw(st.integers(1, p.shape[1]))
    summary = pb.summarise(p, k, independent=independent)
    np.testing.assert_array_equal(summary.top_k.index, pb.top_k(p, k).index)
    np.testing.assert_array_equal(summary.top_k.probability, pb.top_k(p, k).probability)
    np.testing.assert_array_equal(summary.margin, pb.margin(p))
    np.testing.assert_array_equal(summary.entropy, pb.entropy(p, independent=independent))


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32], ids=lambda d: d.__name__)
def test_finite_rows_are_those_without_nan_and_infinity(dtype: npt.DTypeLike) -> None:
    """One bad value is enough, anywhere in the row."""
    raw = np.array([[1, 2], [NAN, 1], [1, INF], [-INF, 0], [0, 0]], dtype)
    np.testing.assert_array_equal(pb.finite_rows(raw), [True, False, False, False, True])


def test_blocks_cover_every_row() -> None:
    """More rows than a block holds, with a ragged end, are computed like a few."""
    x = np.random.default_rng(3).normal(0, 3, (pb._BLOCK_ELEMENTS // 10 * 2 + 7, 10)).astype(np.float32)
    np.testing.assert_allclose(pb.softmax(x), scipy.special.softmax(x.astype(np.float64), axis=1), rtol=1e-7)
    np.testing.assert_allclose(pb.sigmoid(x), scipy.special.expit(x.astype(np.float64)), rtol=1e-7)
    np.testing.assert_array_equal(pb.top_k(x, 1).index[:, 0], x.argmax(axis=1))


def test_the_same_numbers_as_tensorflow() -> None:
    """Within TensorFlow's own float32 rounding; its top-k has the same classes, ties included."""
    import tensorflow as tf

    rng = np.random.default_rng(11)
    x = np.concatenate([rng.normal(0, 4, (50, 1000)), rng.normal(0, 300, (50, 1000))]).astype(np.float32)
    x[0, :500] = x[0, 500:]
    p = pb.softmax(x)
    np.testing.assert_allclose(p, tf.nn.softmax(x).numpy(), rtol=2e-6, atol=1e-7)
    np.testing.assert_allclose(pb.sigmoid(x), tf.math.sigmoid(x).numpy(), rtol=2e-6, atol=1e-7)
    # Of logits and not of p: TensorFlow takes denormal probabilities for zeros when it compares them.
    theirs = tf.math.top_k(x, k=7)
    ours = pb.top_k(x, 7)
    np.testing.assert_array_equal(ours.index, theirs.indices.numpy())
    np.testing.assert_array_equal(ours.probability, theirs.values.numpy())
