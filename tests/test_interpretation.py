"""What a model's output means: what is decided, what is refused, and what stops a run."""

import pickle
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
import scipy.special
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from transforms import interpretation
from transforms.errors import ConfigError, ExitCode
from transforms.interpretation import Interpretation, OutputContradiction, over_threshold, resolve, to_probabilities
from transforms.probabilities import sigmoid, softmax
from transforms.settings import CalibrationSettings, ModelSettings

PLAIN = CalibrationSettings()
NAN_ROW = [np.nan, 0.2, 0.3]


def normal(rows: int, columns: int, scale: float = 4.0, seed: int = 0) -> npt.NDArray[np.float32]:
    """Draw rows as a head's logits."""
    return np.random.default_rng(seed).normal(0, scale, (rows, columns)).astype(np.float32)


def declare(output: str = "auto", activation: str = "auto") -> ModelSettings:
    """Declare output and activation of model m."""
    return ModelSettings.model_validate({"path": "m", "output": output, "activation": activation})


def meaning(output: Any, activation: Any, units: int) -> Interpretation:
    """Say what an output means, without resolving it."""
    return Interpretation(output, activation, units, "as declared")


LOGITS = normal(4, 10)
SOFTMAX = softmax(LOGITS)
SIGMOID = sigmoid(LOGITS)

DECIDED = [
    # declared output and activation, head, probe -> output, activation, words of the reason
    ("auto", "auto", "softmax", SOFTMAX, "probabilities", "softmax", "ends in softmax"),
    ("auto", "auto", "sigmoid", SIGMOID, "probabilities", "sigmoid", "ends in sigmoid"),
    ("auto", "auto", "linear", LOGITS, "logits", "softmax", "linear head"),
    ("auto", "sigmoid", "linear", LOGITS, "logits", "sigmoid", "activation sigmoid, as declared"),
    # without a head the probe decides
    ("auto", "auto", None, LOGITS, "logits", "softmax", "write model.activation: sigmoid"),
    ("auto", "auto", None, SOFTMAX, "probabilities", "softmax", "sum to 1"),
    ("auto", "auto", None, SIGMOID, "probabilities", "sigmoid", "lie in [0, 1]"),
    ("auto", "sigmoid", None, SIGMOID, "probabilities", "sigmoid", "lie in [0, 1]"),
    ("auto", "softmax", None, SOFTMAX, "probabilities", "softmax", "activation softmax, as declared"),
    # a head of half precision sums to 1 only roughly
    ("auto", "auto", None, SOFTMAX.astype(np.float16), "probabilities", "softmax", "sum to 1"),
    ("auto", "auto", None, SOFTMAX.astype(ml_dtypes.bfloat16), "probabilities", "softmax", "sum to 1"),
    # rows of NaN are no evidence
    ("auto", "auto", None, np.array([NAN_ROW, [0.2, 0.3, 0.5]]), "probabilities", "softmax", "sum to 1"),
    ("auto", "auto", None, np.array([[np.inf, 0, 0], [0.2, 0.3, 0.5]]), "probabilities", "softmax", "sum to 1"),
    # one unit
    ("auto", "auto", "sigmoid", np.array([[0.3]]), "probabilities", "sigmoid", "ends in sigmoid"),
    ("auto", "auto", None, np.array([[-0.3]]), "logits", "sigmoid", "speaks for two classes"),
    ("logits", "auto", None, np.array([[0.3]]), "logits", "sigmoid", "as declared"),
    ("probabilities", "auto", None, np.array([[0.3]]), "probabilities", "sigmoid", "as declared"),
    # declared output, activation from the probe
    ("probabilities", "auto", None, SOFTMAX, "probabilities", "softmax", "sum to 1"),
    ("probabilities", "auto", None, SIGMOID, "probabilities", "sigmoid", "do not sum to 1"),
    ("probabilities", "auto", "linear", SOFTMAX, "probabilities", "softmax", "sum to 1"),
    # everything declared
    ("probabilities", "none", None, SIGMOID, "probabilities", "none", "as declared"),
    ("probabilities", "softmax", None, None, "probabilities", "softmax", "as declared"),
    ("logits", "sigmoid", None, None, "logits", "sigmoid", "as declared"),
    # too little evidence against the declaration: two rows of two logits sum to 1 by chance
    ("logits", "softmax", None, np.array([[0.25, 0.75], [0.4, 0.6]]), "logits", "softmax", "as declared"),
    # a head that starts at zero is no contradiction to logits
    ("logits", "auto", None, np.zeros((4, 10)), "logits", "softmax", "as declared"),
]


@pytest.mark.parametrize(("output", "activation", "head", "probe", "out", "act", "why"), DECIDED)
def test_what_is_declared_comes_first_then_the_head_then_the_probe(
    output: str, activation: str, head: str | None, probe: Any, out: str, act: str, why: str
) -> None:
    """Each row is decided one way, and the reason says by what."""
    units = 10 if probe is None else probe.shape[1]
    found = resolve(declare(output, activation), head, probe, units)
    assert (found.output, found.activation, found.num_units) == (out, act, units)
    assert why in found.reason


REFUSED = [
    # declared output and activation, head, probe -> words of the message, what to write
    # one unit between 0 and 1
    ("auto", "auto", None, np.array([[0.3], [0.4]]), "Two readings fit: logits", "model.output: probabilities"),
    ("auto", "sigmoid", None, np.array([[0.3], [0.4]]), "Two readings fit: logits", "model.output: logits"),
    # a model that says the same of everything
    ("auto", "auto", None, np.zeros((4, 10)), "the same for all classes", "model.output: logits"),
    ("auto", "auto", "linear", np.full((4, 3), 0.4), "though the model ends in a linear head", "model.output: logits"),
    ("auto", "auto", None, np.full((4, 10), 0.5), "probabilities of a sigmoid", "model.activation: sigmoid"),
    ("auto", "auto", None, np.full((4, 10), 0.1), "probabilities of a softmax", "model.activation: softmax"),
    ("probabilities", "auto", None, np.full((4, 2), 0.5), "every value of the probe is 0.5", "softmax or sigmoid"),
    # two outputs between 0 and 1
    ("auto", "auto", None, np.array([[0.3, 0.4], [0.2, 0.4]]), "that do not sum to 1", "model.output: logits"),
    # a quantised softmax sums to 1 only nearly, and some labels do so by chance
    (
        "auto",
        "auto",
        None,
        np.floor(softmax(normal(4, 40)) * 256) / 256,
        "its rows sum to 0.9",
        "model.activation: none",
    ),
    ("auto", "auto", None, np.array([[0.2, 0.3, 0.5], [0.9, 0.8, 0.7]]), "sum to 1 to 2.4", "model.activation: none"),
    # half declared, and the probe says the other thing
    ("auto", "softmax", None, SIGMOID, "that do not sum to 1", "model.output: logits"),
    ("auto", "sigmoid", None, SOFTMAX, "all rows sum to 1", "model.activation: softmax"),
    # nothing to go by
    ("auto", "auto", None, None, "no probe could be made", "logits or probabilities"),
    ("auto", "auto", None, np.full((2, 3), np.nan), "every row of the probe holds NaN", "logits or probabilities"),
    ("probabilities", "auto", None, None, "no probe of m", "softmax, sigmoid or none"),
    # a head that is neither
    ("auto", "auto", "relu", LOGITS, "it ends in relu", "model.output: logits or probabilities"),
    # declarations that contradict themselves or the head
    ("logits", "none", None, LOGITS, "would publish logits as probabilities", "softmax or sigmoid"),
    ("auto", "none", None, LOGITS, "have to be probabilities already", "model.output: probabilities"),
    ("logits", "auto", "softmax", SOFTMAX, "which ends in softmax: a second", "model.output: probabilities"),
    ("logits", "sigmoid", "sigmoid", SIGMOID, "which ends in sigmoid: a second", "model.output: probabilities"),
    ("auto", "sigmoid", "softmax", SOFTMAX, "sigmoid contradicts m, which ends in softmax", "activation: softmax"),
    ("auto", "softmax", "sigmoid", SIGMOID, "softmax contradicts m, which ends in sigmoid", "activation: sigmoid"),
    # softmax over one unit
    ("logits", "softmax", None, np.array([[2.0]]), "is always 1", "model.activation: sigmoid"),
    ("auto", "auto", "softmax", np.array([[1.0]]), "softmax over one unit", "needs a sigmoid"),
    # declarations that the probe contradicts
    ("logits", "auto", None, SOFTMAX, "contradicts its reading (output logits, as declared)", "output: probabilities"),
    ("logits", "auto", None, SOFTMAX.astype(np.float16), "has applied softmax itself", "output: probabilities"),
    ("logits", "sigmoid", None, sigmoid(normal(4, 200)), "has applied sigmoid itself", "output: probabilities"),
    ("probabilities", "auto", None, LOGITS, "these run from -9.3 to 5.974", "model.output: logits"),
    ("probabilities", "softmax", None, SIGMOID, "4 of 4 do not (one sums to 5.", "activation: sigmoid"),
    # a head that the probe contradicts: a cast after a softmax, a head misread
    ("auto", "auto", "linear", SOFTMAX, "ends in a linear head): all 4 rows", "model.output: probabilities"),
    ("auto", "auto", "softmax", LOGITS, "ends in softmax): probabilities lie in [0, 1]", "model.output: logits"),
    ("probabilities", "auto", "linear", LOGITS, "probabilities lie in [0, 1]", "model.output: logits"),
]


@pytest.mark.parametrize(("output", "activation", "head", "probe", "what", "write"), REFUSED)
def test_ambiguity_and_contradiction_are_refused_with_what_to_write(
    output: str, activation: str, head: str | None, probe: Any, what: str, write: str
) -> None:
    """Nothing is guessed: the message says what was seen and which line of the configuration settles it."""
    units = 10 if probe is None else probe.shape[1]
    with pytest.raises(ConfigError) as caught:
        resolve(declare(output, activation), head, probe, units)
    assert what in str(caught.value)
    assert write in str(caught.value)


def test_one_unit_names_both_readings_in_full() -> None:
    """The whole text of the most common refusal."""
    with pytest.raises(ConfigError) as caught:
        resolve(declare(), None, np.array([[0.25], [0.5]]), 1)
    assert str(caught.value) == (
        "model.output auto is ambiguous: the probe of m gave 2 x 1 values from 0.25 to 0.5. Two readings fit: logits "
        "that happen to lie in [0, 1] (then write model.output: logits), or probabilities of a sigmoid (then write "
        "model.output: probabilities, model.activation: sigmoid)"
    )


def test_probe_may_be_a_function() -> None:
    """A caller may hand over the work instead of its result."""
    assert resolve(declare(), None, lambda: SOFTMAX, 10) == resolve(declare(), None, SOFTMAX, 10)


def test_probe_of_another_width_is_the_callers_mistake() -> None:
    """Probe and number of units come from the same model."""
    with pytest.raises(ValueError, match=r"shape \[N, 9\], got \[4, 10\]"):
        resolve(declare(), None, SOFTMAX, 9)


@pytest.mark.parametrize(
    ("activation", "units", "one_unit", "classes", "independent"),
    [("sigmoid", 1, True, 2, False), ("sigmoid", 5, False, 5, True), ("softmax", 5, False, 5, False)],
)
def test_meaning_knows_the_width_of_the_table(
    activation: str, units: int, one_unit: bool, classes: int, independent: bool
) -> None:
    """One unit fills two columns, and two that exclude each other; several sigmoids do not."""
    found = meaning("logits", activation, units)
    assert (found.one_unit, found.num_classes, found.independent) == (one_unit, classes, independent)


def test_logits_get_their_activation() -> None:
    """Softmax or sigmoid, as resolved."""
    np.testing.assert_array_equal(to_probabilities(LOGITS, meaning("logits", "softmax", 10), PLAIN), SOFTMAX)
    np.testing.assert_array_equal(to_probabilities(LOGITS, meaning("logits", "sigmoid", 10), PLAIN), SIGMOID)


@pytest.mark.parametrize(("activation", "raw"), [("softmax", SOFTMAX), ("sigmoid", SIGMOID), ("none", SIGMOID)])
def test_probabilities_are_kept_bit_for_bit(activation: str, raw: npt.NDArray[np.float32]) -> None:
    """No second activation, no renormalisation, no rounding."""
    got = to_probabilities(raw, meaning("probabilities", activation, 10), PLAIN)
    assert got.tobytes() == raw.tobytes()


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_probabilities_pass_and_are_lifted(dtype: npt.DTypeLike) -> None:
    """Their rounding is no contradiction, as their own type or lifted to float32 by the graph."""
    raw = softmax(normal(64, 1000)).astype(dtype)
    for batch in (raw, raw.astype(np.float32)):
        got = to_probabilities(batch, meaning("probabilities", "softmax", 1000), PLAIN)
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got, raw.astype(np.float32))


def test_one_unit_becomes_two_classes() -> None:
    """From a logit or from a probability; the small one of the two keeps its digits."""
    x = np.array([[-30.0], [0.0], [2.0], [30.0]], np.float32)
    got = to_probabilities(x, meaning("logits", "sigmoid", 1), PLAIN)
    np.testing.assert_allclose(got, scipy.special.expit(np.hstack([-x, x]).astype(np.float64)), rtol=1e-7)
    np.testing.assert_array_equal(got.argmax(axis=1), [0, 0, 1, 1])
    p = np.array([[0.25], [1.0]], np.float32)
    np.testing.assert_array_equal(
        to_probabilities(p, meaning("probabilities", "sigmoid", 1), PLAIN), [[0.75, 0.25], [0, 1]]
    )
    np.testing.assert_array_equal(
        to_probabilities(p, meaning("probabilities", "none", 1), PLAIN), [[0.75, 0.25], [0, 1]]
    )


CALIBRATED = [
    # output, activation, units, calibration, what it does to logits
    ("logits", "softmax", 10, CalibrationSettings(temperature=2.5), lambda x: softmax(x / 2.5)),
    ("probabilities", "softmax", 10, CalibrationSettings(temperature=2.5), lambda x: softmax(x / 2.5)),
    ("logits", "sigmoid", 10, CalibrationSettings(platt_a=0.5, platt_b=1.0), lambda x: sigmoid(x * 0.5 + 1)),
    ("probabilities", "sigmoid", 10, CalibrationSettings(platt_a=0.5, platt_b=1.0), lambda x: sigmoid(x * 0.5 + 1)),
    (
        "logits", "sigmoid", 2, CalibrationSettings(platt_a=(0.5, 2.0), platt_b=(0.0, -1.0)),
        lambda x: sigmoid(x * [0.5, 2] + [0, -1]),
    ),
    (
        "probabilities", "sigmoid", 1, CalibrationSettings(platt_a=0.5, platt_b=1.0),
        lambda x: sigmoid(np.hstack([-(x * 0.5 + 1), x * 0.5 + 1])),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("output", "activation", "units", "calibration", "expected"), CALIBRATED)
def test_calibration_works_on_the_logits_that_the_model_had(
    output: str, activation: str, units: int, calibration: CalibrationSettings, expected: Any
) -> None:
    """Models that return probabilities are calibrated like the same models that return logits."""
    x = normal(6, units, scale=2)
    apply = softmax if activation == "softmax" else sigmoid
    raw = x if output == "logits" else apply(x)
    got = to_probabilities(raw, meaning(output, activation, units), calibration)
    np.testing.assert_allclose(got, expected(x.astype(np.float64)), atol=1e-6)


def test_calibration_that_does_not_fit_is_never_ignored() -> None:
    """A temperature on a sigmoid would change nothing and look as if it did."""
    with pytest.raises(ConfigError, match=r"calibration.temperature 2 is for softmax"):
        to_probabilities(LOGITS, meaning("logits", "sigmoid", 10), CalibrationSettings(temperature=2.0))


def with_row(batch: npt.NDArray[Any], row: list[float] | npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Append one row, repeated to the width of the batch."""
    return np.vstack([batch, np.resize(row, (1, batch.shape[1]))]).astype(np.float32)


CONTRADICTIONS = [
    # output, activation, batch, words
    ("logits", "softmax", SOFTMAX, "all 4 rows lie in [0, 1] and sum to 1"),
    ("logits", "sigmoid", SOFTMAX, "has applied softmax itself"),
    ("logits", "softmax", softmax(normal(1, 1000)), "all 1 rows lie in [0, 1]"),  # one row of many classes is enough
    ("logits", "softmax", softmax(normal(3, 2)), "all 3 rows"),  # of two classes three are needed
    ("logits", "softmax", softmax(normal(64, 1000)).astype(np.float16), "softmax itself"),
    ("logits", "softmax", with_row(SOFTMAX, [np.nan]), "all 4 rows"),  # NaN rows are no evidence for logits
    ("logits", "softmax", with_row(SOFTMAX, [np.inf]), "all 4 rows"),
    ("logits", "sigmoid", sigmoid(normal(300, 1, scale=8)), "has applied sigmoid itself"),  # a one-unit head
    ("logits", "sigmoid", sigmoid(normal(4, 200)), "has applied sigmoid itself"),
    ("probabilities", "softmax", LOGITS, "these run from"),
    ("probabilities", "sigmoid", LOGITS, "these run from"),
    ("probabilities", "none", LOGITS, "these run from"),
    ("probabilities", "sigmoid", with_row(SIGMOID, [1.01]), "to 1.01"),  # one value is enough
    ("probabilities", "softmax", with_row(SOFTMAX, [0.11]), "1 of 5 do not (one sums to 1.1)"),  # so is one row
    ("probabilities", "softmax", with_row(SOFTMAX, [0.1002]), "sums to 1.002"),
    ("probabilities", "sigmoid", np.array([[0.5], [-0.01]], np.float32), "from -0.01 to 0.5"),
]


@pytest.mark.parametrize(("output", "activation", "batch", "what"), CONTRADICTIONS)
def test_batch_that_is_not_what_it_is_said_to_be_stops_the_run(
    output: str, activation: str, batch: npt.NDArray[Any], what: str
) -> None:
    """Wrong numbers that look fine never reach the table: the operator is told, with exit code 2."""
    with pytest.raises(OutputContradiction) as caught:
        to_probabilities(batch, meaning(output, activation, batch.shape[1]), PLAIN)
    assert caught.value.exit_code == ExitCode.WRONG_INPUT
    assert what in str(caught.value)
    assert "write model." in str(caught.value)


NO_CONTRADICTIONS = [
    # output, activation, batch
    ("logits", "softmax", softmax(normal(2, 2))),  # two rows of two logits: 29 bits
    ("logits", "softmax", np.repeat(softmax(normal(1, 3)), 64, axis=0)),  # one image 64 times says it once
    ("logits", "softmax", with_row(SOFTMAX, LOGITS[0])),  # one row of true logits
    ("logits", "softmax", np.zeros((64, 10), np.float32)),  # a head that starts at zero
    ("logits", "sigmoid", np.linspace(0.1, 0.9, 64, dtype=np.float32)[:, None]),  # weak logits, none at the walls
    ("logits", "sigmoid", sigmoid(normal(16, 1, scale=8))),  # sixteen values of one unit: too few to tell
    ("logits", "softmax", np.full((4, 10), np.nan, np.float32)),  # NaN rows are no evidence
    ("probabilities", "softmax", with_row(SOFTMAX, [np.nan])),  # nor against probabilities
    ("probabilities", "sigmoid", with_row(SIGMOID, [-np.inf])),
    ("probabilities", "softmax", with_row(SOFTMAX, [0.100009])),  # float drift of 9e-5
    ("probabilities", "sigmoid", SOFTMAX),  # labels may sum to 1
    ("probabilities", "none", SIGMOID),  # nobody said that these sum to 1
    ("probabilities", "softmax", np.zeros((0, 10), np.float32)),  # an empty batch
]


@pytest.mark.parametrize(("output", "activation", "batch"), NO_CONTRADICTIONS)
def test_batch_without_enough_evidence_goes_on(output: str, activation: str, batch: npt.NDArray[Any]) -> None:
    """A night of true logits is not stopped by chance, by drift, or by rows that will be failures anyway."""
    got = to_probabilities(batch, meaning(output, activation, batch.shape[1]), PLAIN)
    assert len(got) == len(batch)


@given(st.integers(1, 16), st.sampled_from([1, 2, 3, 10, 1000]), st.floats(0.1, 10), st.integers(0, 2**32))
@examples(deadline=None)
def test_real_logits_never_stop_a_run(rows: int, classes: int, scale: float, seed: int) -> None:
    """Whatever their number and scale."""
    for activation in ("softmax", "sigmoid"):
        raw = normal(rows, classes, scale, seed)
        if classes > 1 or activation == "sigmoid":
            to_probabilities(raw, meaning("logits", activation, classes), PLAIN)


@given(st.integers(1, 16), st.sampled_from([2, 3, 10, 1000]), st.floats(0.01, 100), st.integers(0, 2**32))
@examples(deadline=None)
def test_real_probabilities_never_stop_a_run(rows: int, classes: int, scale: float, seed: int) -> None:
    """Saturated or flat, in every float type."""
    raw = normal(rows, classes, scale, seed)
    for dtype in (np.float32, np.float16, ml_dtypes.bfloat16):
        to_probabilities(softmax(raw).astype(dtype), meaning("probabilities", "softmax", classes), PLAIN)
        to_probabilities(sigmoid(raw).astype(dtype), meaning("probabilities", "sigmoid", classes), PLAIN)


@pytest.mark.parametrize("classes", [2, 100, 10_000])
def test_softmax_that_tensorflow_computed_in_half_precision_is_recognised(classes: int) -> None:
    """The tolerance holds what TensorFlow really returns, not what rounding alone would give."""
    import tensorflow as tf

    for dtype in (tf.float32, tf.float16, tf.bfloat16):
        raw = tf.cast(tf.nn.softmax(tf.cast(normal(16, classes, 3), dtype)), tf.float32).numpy()
        found = resolve(declare(), None, raw, classes)
        assert (found.output, found.activation) == ("probabilities", "softmax")
        to_probabilities(raw, found, PLAIN)


def test_batch_of_another_width_is_the_callers_mistake() -> None:
    """The meaning belongs to one model."""
    with pytest.raises(ValueError, match=r"shape \[N, 9\], got \[4, 10\]"):
        to_probabilities(LOGITS, meaning("logits", "softmax", 9), PLAIN)


def test_contradiction_survives_the_way_from_a_worker() -> None:
    """Workers send their errors pickled."""
    error = OutputContradiction(ExitCode.WRONG_INPUT, "text")
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - made in the line itself
    assert (type(again), again.exit_code, str(again)) == (OutputContradiction, ExitCode.WRONG_INPUT, "text")


def test_labels_at_their_threshold_are_positive() -> None:
    """Each label against its own threshold."""
    p = np.array([[0.5, 0.5, 0.49], [0.9, 0.2, 1.0]], np.float32)
    got = over_threshold(p, np.array([0.5, 0.6, 0.49], np.float32), meaning("logits", "sigmoid", 3))
    np.testing.assert_array_equal(got, [[True, False, True], [True, False, True]])


def test_one_unit_is_either_negative_or_positive() -> None:
    """The threshold is the positive class's; the negative one is what is left, never both and never neither."""
    p = np.array([[0.7, 0.3], [0.71, 0.29], [0.2, 0.8]], np.float32)
    got = over_threshold(p, np.array([0.3, 0.3], np.float32), meaning("logits", "sigmoid", 1))
    np.testing.assert_array_equal(got, [[False, True], [True, False], [False, True]])


def test_the_documented_numbers_are_those_of_the_code() -> None:
    """Bits of evidence and tolerances stand in the module's text."""
    text = interpretation.__doc__ or ""
    rows = np.array([[0.1, 0.9]], np.float32)
    assert interpretation.tolerance(rows) == interpretation._TOLERANCE == 1e-4
    assert int(2 - np.log2(2e-4)) == 14
    assert int(1000 - np.log2(2e-4)) == 1012
    assert "14 for two classes" in text
    assert "1,012 for a thousand" in text
    assert f"{interpretation._EVIDENCE_BITS} bits" in text
    assert round(interpretation.tolerance(rows.astype(np.float16)), 3) == 0.002
    assert round(interpretation.tolerance(rows.astype(ml_dtypes.bfloat16)), 3) == 0.016
    assert "0.002 or 0.016" in text
