"""Memory for loading images: how much of it threads hold together, and that of batches, which is used again."""

import math
import mmap
import threading
import weakref
from collections import deque

import numpy as np
import numpy.typing as npt


class ByteBudget:
    """Lets threads through while what they hold together stays within a limit.

    One that needs more than the whole limit goes alone, so that nothing waits for ever. Alone means beside nothing but
    what threads hold that hang: their memory is in use and stays held, yet whoever waited for it might do so for ever.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held = 0
        self._stuck = 0
        self._changed = threading.Condition()

    def acquire(self, amount: int) -> None:
        """Wait until `amount` bytes are free, and hold them."""
        with self._changed:
            self._changed.wait_for(lambda: self._held == self._stuck or self._held + amount <= self._limit)
            self._held += amount

    def release(self, amount: int, *, stuck: bool = False) -> None:
        """Give `amount` bytes back; `stuck` says that the thread was given up meanwhile."""
        with self._changed:
            self._held -= amount
            self._stuck -= amount if stuck else 0
            self._changed.notify_all()

    def give_up(self, amount: int) -> None:
        """Hold `amount` bytes from now on for a thread that hangs, until it gives them back, if ever."""
        with self._changed:
            # It may have given them back this very moment: then both sums are right again now.
            self._stuck += amount
            self._changed.notify_all()


class PixelBuffers:
    """Memory for batches of pixels, used again when nobody holds the batch any more.

    The pages of a new array are handed out one by one while it is filled, which took 0.2 ms a photo: as long as
    resizing it.
    """

    def __init__(self) -> None:
        self._free: deque[mmap.mmap] = deque()

    def take(self, shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
        """Return an array that is free, with whatever it holds.

        Args:
            shape: The same at every call.

        Returns:
            uint8[shape], at the start of a page, as TensorFlow wants memory that it is to use without a copy.
        """
        try:
            memory = self._free.popleft()
        except IndexError:
            memory = mmap.mmap(-1, max(1, math.prod(shape)))
        pixels = np.frombuffer(memory, np.uint8, math.prod(shape))
        # Every view of this array holds it, a tensor that shares its memory as well: then nobody else may have it.
        weakref.finalize(pixels, self._free.append, memory).atexit = False
        return pixels.reshape(shape)
