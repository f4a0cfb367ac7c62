"""The batch size that is measured: gain, memory, time, and what it says of itself."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms.batch_size import choose_batch_size


class Device:
    """A model that costs a fixed amount a call and an image, on a clock of its own, with so much room."""

    def __init__(self, a_call: float, an_image: float, room: int = 10**9) -> None:
        self.now = 0.0
        self.a_call = a_call
        self.an_image = an_image
        self.room = room
        self.sizes: list[int] = []

    def __call__(self, size: int) -> None:
        self.sizes.append(size)
        if size > self.room:
            raise MemoryError
        self.now += self.a_call + size * self.an_image

    def clock(self) -> float:
        return self.now


def out_of_memory(error: Exception) -> bool:
    """What this device raises."""
    return isinstance(error, MemoryError)


@pytest.mark.parametrize(
    ("device", "size", "reason", "largest"),
    [
        (Device(0.0, 1e-4), 8, "larger ones gain less than 5%", 1024),  # no cost a call: nothing to gain
        (Device(1e-4, 1e-4), 16, "larger ones gain less than 5%", 1024),  # 0.1125, 0.1063, 0.1031, 0.1016 ms
        (Device(1e-4, 1e-4), 16, "larger ones gain less than 5%", 32),  # 32 is allowed, and hardly faster
        (Device(1e-3, 1e-6, room=32), 32, "64 images ran out of memory", 1024),
        (Device(1e-3, 1e-6, room=8), 8, "16 images ran out of memory", 1024),
        (Device(1e-3, 1e-6, room=5), 4, "8 images ran out of memory", 1024),  # halved until it fits
        (Device(1e-3, 1e-6, room=1), 1, "2 images ran out of memory", 1024),
        (Device(1.0, 1e-6), 8, "measuring took its 0.4 s", 1024),  # calls of a second each
        (Device(0.0, 0.006), 8, "measuring took its 0.4 s", 1024),  # 16 are measured in 0.19 s, 32 would take 0.38
        (Device(1e-4, 0.0), 1024, "the largest size allowed is 1024", 1024),  # every image after the first is free
        (Device(1e-4, 0.0), 4, "the largest size allowed is 5", 5),  # less than the first size
    ],
)
def test_doubling_ends_where_it_should(device: Device, size: int, reason: str, largest: int) -> None:
    """Each way to end, with its reason."""
    choice = choose_batch_size(device, out_of_memory, largest=largest, clock=device.clock)
    assert choice.size == size
    tried = ", ".join(f"{one.size}: {one.seconds_an_image * 1e3:.2f}" for one in choice.measured)
    assert choice.reason == f"batch size {size}, because {reason} (ms an image by size: {tried})"


@given(st.floats(0, 0.01), st.floats(1e-6, 0.01), st.integers(1, 600), st.integers(1, 600))
def test_the_choice_fits_and_nothing_larger_than_allowed_is_tried(
    a_call: float, an_image: float, room: int, largest: int
) -> None:
    """The size was measured, fits into memory, and no size tried is over the limit."""
    device = Device(a_call, an_image, room)
    choice = choose_batch_size(device, out_of_memory, largest=largest, clock=device.clock)
    assert choice.size <= min(room, largest)
    assert max(device.sizes) <= largest
    assert choice.size in {one.size for one in choice.measured}


def raising(error: Exception) -> Callable[[int], None]:
    """A model that always fails."""

    def call(_: int) -> None:
        raise error

    return call


def test_a_single_image_that_is_too_much_is_no_choice() -> None:
    """There is no size to fall back on."""
    with pytest.raises(MemoryError):
        choose_batch_size(raising(MemoryError()), out_of_memory, largest=8)


def test_other_errors_are_not_taken_for_memory() -> None:
    """A broken model is no small device."""
    with pytest.raises(ValueError, match="broken"):
        choose_batch_size(raising(ValueError("broken")), out_of_memory, largest=8)
