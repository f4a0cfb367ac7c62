"""Measure how many images a model should be given at a time.

The size doubles until an image gets hardly cheaper, memory runs out, or the time for measuring is over. It begins at
8: on two cores EfficientNet-Lite0 took 12.7 ms an image alone, 7.4 by four, 6.1 by 8 and by 16, and 8 to 16 images
were as fast as 64: the best size is measured, not assumed, but smaller ones are tried only where 8 do not fit.
"""

import time
from collections.abc import Callable
from typing import NamedTuple

FIRST = 8
_LEAST_GAIN = 0.05
# A short call is timed twice, a long one once: it varies less, and costs start-up.
_REPEATS, _LONG_SECONDS = 2, 0.02


class Measured(NamedTuple):
    """One size that was tried."""

    size: int
    """Images a call."""
    seconds_an_image: float
    """Of the fastest call, the first one left out."""


class BatchChoice(NamedTuple):
    """The size to use, and how it was found."""

    size: int
    """Images a call."""
    reason: str
    """For the log and the manifest."""
    measured: tuple[Measured, ...]
    """All sizes tried, in order."""


def choose_batch_size(
    call: Callable[[int], object],
    is_out_of_memory: Callable[[Exception], bool],
    *,
    largest: int,
    first: int = FIRST,
    budget_seconds: float = 0.4,
    clock: Callable[[], float] = time.perf_counter,
) -> BatchChoice:
    """Choose a batch size by doubling.

    Where the first size runs out of memory, it is halved until one fits. A size must be at least 5% cheaper an image
    than the best smaller one to be worth its memory. Two sizes that gain nothing end the search: one alone may be an
    accident.

    Args:
        call: Runs the model on that many images.
        is_out_of_memory: Tells whether an exception of call means that the size is too large.
        largest: No size over it is tried.
        first: The size to begin with, a power of two.
        budget_seconds: No size is tried that would end later, the first one excepted.
        clock: Seconds, monotonic.

    Raises:
        Exception: What call raises besides being out of memory, or out of memory for a single image.
    """
    started = clock()
    measured: list[Measured] = []
    best: Measured | None = None
    without_gain = 0
    end = f"the largest size allowed is {largest}"
    size = min(first, 1 << (largest.bit_length() - 1))
    while True:
        try:
            measured.append(_measure(call, size, clock))
        except Exception as error:
            if not is_out_of_memory(error) or size == 1:
                raise
            end = f"{size} images ran out of memory"
            if best is not None:
                break
            size, largest = size // 2, size // 2
            continue
        if best is None or measured[-1].seconds_an_image < best.seconds_an_image * (1 - _LEAST_GAIN):
            best, without_gain = measured[-1], 0
        else:
            without_gain += 1
        if without_gain == 2:
            end = f"larger ones gain less than {_LEAST_GAIN:.0%}"
            break
        if 2 * size > largest:
            if without_gain:
                end = f"larger ones gain less than {_LEAST_GAIN:.0%}"
            break
        size *= 2
        if clock() - started + 2 * size * measured[-1].seconds_an_image > budget_seconds:
            end = f"measuring took its {budget_seconds:g} s"
            break
    assert best is not None  # noqa: S101  one size is measured, or it raises
    tried = ", ".join(f"{one.size}: {one.seconds_an_image * 1e3:.2f}" for one in measured)
    return BatchChoice(
        best.size, f"batch size {best.size}, because {end} (ms an image by size: {tried})", tuple(measured)
    )


def _measure(call: Callable[[int], object], size: int, clock: Callable[[], float]) -> Measured:
    call(size)  # the first call of a shape also plans and allocates
    fastest = float("inf")
    for _ in range(_REPEATS):
        started = clock()
        call(size)
        fastest = min(fastest, clock() - started)
        if fastest > _LONG_SECONDS:
            break
    return Measured(size, fastest / size)


def padded_size(images: int, most: int) -> int:
    """Return how many images a call is filled up to where every new size costs a compilation.

    Args:
        images: How many there are, 1 to most.
        most: Images a call at most.

    Returns:
        The next power of two, but no more than most: log2(most) + 1 sizes in all, rounded up.

    >>> [padded_size(images, 48) for images in (1, 3, 32, 33, 48)]
    [1, 4, 32, 48, 48]
    """
    return min(1 << (images - 1).bit_length(), most)
