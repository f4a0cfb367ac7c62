"""Measure how many images a model should be given at a time.

The size doubles until an image gets hardly cheaper, memory runs out, or the time for measuring is over. On two
cores EfficientNet-Lite0 was as fast with 8 to 16 images as with 64: the best size is measured, not assumed.
"""

import time
from collections.abc import Callable
from typing import NamedTuple

_LEAST_GAIN = 0.05
_REPEATS = 2


class Measured(NamedTuple):
    """One size that was tried."""

    size: int
    """Images a call."""
    seconds_an_image: float
    """Of the faster of two calls."""


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
    budget_seconds: float = 0.7,
    clock: Callable[[], float] = time.perf_counter,
) -> BatchChoice:
    """Choose a batch size by doubling.

    A size must be at least 5% cheaper an image than the best smaller one to be worth its memory. Two sizes that
    gain nothing end the search: one alone may be an accident.

    Args:
        call: Runs the model on that many images.
        is_out_of_memory: Tells whether an exception of call means that the size is too large.
        largest: No size over it is tried.
        budget_seconds: No new size is tried after this time.
        clock: Seconds, monotonic.

    Raises:
        Exception: What call raises besides being out of memory, or out of memory for a single image.
    """
    started = clock()
    measured: list[Measured] = []
    best: Measured | None = None
    without_gain = 0
    size, end = 1, f"the largest size allowed is {largest}"
    while size <= largest:
        try:
            measured.append(_measure(call, size, clock))
        except Exception as error:
            if best is None or not is_out_of_memory(error):
                raise
            end = f"{size} images ran out of memory"
            break
        if best is None or measured[-1].seconds_an_image < best.seconds_an_image * (1 - _LEAST_GAIN):
            best, without_gain = measured[-1], 0
        else:
            without_gain += 1
        if without_gain == 2:
            end = f"larger ones gain less than {_LEAST_GAIN:.0%}"
            break
        if clock() - started > budget_seconds:
            end = f"measuring took its {budget_seconds:g} s"
            break
        size *= 2
    assert best is not None  # noqa: S101  the first size is measured or raises
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
    return Measured(size, fastest / size)
