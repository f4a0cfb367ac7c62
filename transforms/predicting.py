"""Call a model so that neither its memory nor one image of a batch costs the other images."""

import logging
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from transforms.batch_size import padded_size
from transforms.errors import RunError
from transforms.model_calls import fill_up

_LOG = logging.getLogger(__name__)

# uint8[N, H, W, 3], or object[N] of encoded bytes.
Pixels = npt.NDArray[Any]
Predict = Callable[[Pixels], npt.NDArray[np.float32]]


class Predicted(NamedTuple):
    """A slice of a batch that the model answered for, or one image that it did not."""

    start: int
    """First image of the slice."""
    stop: int
    """One past its last image."""
    raw: npt.NDArray[np.float32] | None
    """float32[stop - start, U]; None where the model failed."""
    error: Exception | None
    """Why it failed; None where it did not."""


class Answers(NamedTuple):
    """What a model says of a batch."""

    slices: list[Predicted]
    """They cover the batch, in order."""
    out_of_memory: int
    """How many calls ran out of memory and were halved."""


class BatchPredictor:
    """Calls a model so that neither its memory nor one image of a batch costs the other images.

    A batch that runs out of memory is halved, and the cap stays lowered for the life of the process. A batch
    that fails for another reason is bisected down to the images that cause it. Threads may share it.

    Args:
        predict: uint8[N, H, W, 3] -> float32[N, U].
        cap: Images a call at most, to begin with.
        pads: Fill each call up to one of a few sizes, where every size costs a compilation.
    """

    def __init__(self, predict: Predict, cap: int, *, pads: bool = False) -> None:
        self._predict = predict
        self._pads = pads
        self._cap = cap
        self._lock = threading.Lock()

    @property
    def cap(self) -> int:
        """Images a call at most, from now on."""
        return self._cap

    def predict(self, pixels: Pixels) -> Answers:
        """Let the model answer for every image of a batch, in as few calls as they allow."""
        slices: list[Predicted] = []
        out_of_memory = 0
        waiting = [(0, len(pixels))] if len(pixels) else []
        while waiting:
            start, end = waiting.pop()
            # Another thread may lower it at any moment.
            cap = self.cap
            stop = min(start + cap, end)
            if stop < end:
                waiting.append((stop, end))
            size = padded_size(stop - start, cap) if self._pads else stop - start
            try:
                raw = self._predict(fill_up(pixels[start:stop], size))[: stop - start]
            except RunError:
                raise
            except Exception as error:  # noqa: BLE001  a model is foreign code: what it raises is a fact of this batch
                if size == 1:
                    slices.append(Predicted(start, stop, None, error))
                    continue
                full = is_out_of_memory(error)
                # Out of memory was the size that was tried, which may be larger than the number of images.
                half = ((size if full else stop - start) + 1) // 2
                if full:
                    out_of_memory += 1
                    self._lower(half, size)
                waiting += [(start + half, stop), (start, start + half)]
            else:
                slices.append(Predicted(start, stop, raw, None))
        return Answers(slices, out_of_memory)

    def _lower(self, cap: int, tried: int) -> None:
        with self._lock:
            if cap >= self._cap:
                return
            self._cap = cap
        _LOG.warning("the device ran out of memory on %d images: from now on %d a call", tried, cap)


def is_out_of_memory(error: Exception) -> bool:
    """Tell whether a model failed for lack of memory: a smaller batch may do."""
    import tensorflow as tf

    return isinstance(error, tf.errors.ResourceExhaustedError)
