"""Calling a model: out of memory is halved, a poisoned image is found, neighbours are scored once."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms.errors import ExitCode, RunError
from transforms.predicting import BatchPredictor


class Device:
    """A stand-in for a model: refuses large batches like a full device, and any batch with a poisoned image."""

    def __init__(self, room: int, poison: set[int]) -> None:
        self.room = room
        self.poison = poison
        self.calls: list[int] = []
        self.answered: list[int] = []

    def __call__(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        import tensorflow as tf

        self.calls.append(len(pixels))
        if len(pixels) > self.room:
            raise tf.errors.ResourceExhaustedError(None, None, "out of memory")
        ids = pixels[:, 0, 0, 0].tolist()
        if self.poison & set(ids):
            raise tf.errors.InvalidArgumentError(None, None, "poisoned")
        self.answered += ids
        return pixels[:, 0, 0, :1].astype(np.float32)


def numbered(count: int) -> npt.NDArray[np.uint8]:
    """Pixels whose first value is the image's number: uint8[count, 1, 1, 3]."""
    return np.repeat(np.arange(count, dtype=np.uint8)[:, None, None, None], 3, axis=3)


def test_size_that_ran_out_of_memory_is_never_tried_again() -> None:
    """TensorFlow waits ten seconds for memory before it gives up: 40 images cost three such waits, not seven."""
    device = Device(8, set())
    predictor = BatchPredictor(device, 64)
    answers = predictor.predict(numbered(40))
    assert len(answers.slices) == 8
    assert device.calls == [40, 20, 10, *[5] * 8]
    assert answers.out_of_memory == 3


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 20), st.integers(1, 40), st.integers(0, 40), st.sets(st.integers(0, 39)))
def test_every_image_is_answered_once_or_fails(room: int, cap: int, count: int, poison: set[int]) -> None:
    """Whatever the room and the poison: neighbours are scored exactly once, the poisoned ones fail, order is kept."""
    device = Device(room, poison)
    answers = BatchPredictor(device, cap).predict(numbered(count)).slices
    stops = [a.stop for a in answers]
    assert [a.start for a in answers] == [0, *stops][: len(stops)]
    scored = [int(value) for a in answers if a.raw is not None for value in a.raw[:, 0]]
    failed = [a.start for a in answers if a.error is not None]
    assert sorted(scored + failed) == list(range(count))
    assert set(failed) == poison & set(range(count))
    assert sorted(device.answered) == sorted(set(range(count)) - poison)


def test_out_of_memory_lowers_the_cap_for_good() -> None:
    """After one refusal the device is not asked for as much again."""
    device = Device(room=8, poison=set())
    predictor = BatchPredictor(device, 32)
    assert sum(a.stop - a.start for a in predictor.predict(numbered(32)).slices) == 32
    assert predictor.cap == 8
    device.calls.clear()
    predictor.predict(numbered(32))
    assert device.calls == [8, 8, 8, 8]


def test_a_poisoned_image_does_not_lower_the_cap() -> None:
    """Only memory does."""
    predictor = BatchPredictor(Device(room=32, poison={3}), 32)
    predictor.predict(numbered(32))
    assert predictor.cap == 32


def test_an_image_that_alone_is_too_much_fails() -> None:
    """There is nothing left to halve."""
    (answer,) = BatchPredictor(Device(room=0, poison=set()), 4).predict(numbered(1)).slices
    assert answer.raw is None
    assert "out of memory" in str(answer.error)


def test_a_broken_promise_of_the_model_stops_the_run() -> None:
    """RunError is no fact about one batch and is never bisected."""

    def lies(_: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        raise RunError(ExitCode.WRONG_INPUT, "the model returned 2 rows for 4 images")

    with pytest.raises(RunError, match="2 rows for 4 images"):
        BatchPredictor(lies, 4).predict(numbered(4))


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 20), st.integers(1, 40), st.lists(st.integers(1, 40), max_size=6), st.sets(st.integers(0, 39)))
def test_padded_calls_have_few_sizes_and_answer_for_every_image_once(
    room: int, cap: int, counts: list[int], poison: set[int]
) -> None:
    """Powers of two and the caps of the time: nothing is compiled anew for each tail, and copies are not answers."""
    device = Device(room, poison)
    predictor = BatchPredictor(device, cap, pads=True)
    caps = {predictor.cap}
    for count in counts:
        slices = predictor.predict(numbered(count)).slices
        covered = [row for a in slices for row in range(a.start, a.stop)]
        assert covered == list(range(count))
        assert all(a.raw is None or len(a.raw) == a.stop - a.start for a in slices)
        scored = [int(value) for a in slices if a.raw is not None for value in a.raw[:, 0]]
        assert scored == [row for row in range(count) if row not in poison]
        caps.add(predictor.cap)
    tried = {cap}
    while max(tried) > 1 and min(tried) > 1:
        tried.add((min(tried) + 1) // 2)
    assert set(device.calls) <= {1, 2, 4, 8, 16, 32} | tried | caps
