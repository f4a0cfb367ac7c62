"""What decides how images are loaded: for which inputs, how many together, in how many threads."""

import os
from dataclasses import dataclass

from transforms.deadlines import Deadlines
from transforms.settings import DecodeSettings, LoadSettings, PreprocessSettings

_REMOTE_THREADS_A_PROCESSOR = 4
# The model cuts a loaded batch into calls of its own size: enough rows for a GPU, and few enough bytes to hold three.
_LOAD_ROWS, _LOAD_BYTES = 128, 64 * 1024**2


@dataclass(frozen=True)
class SecondInput:
    """What a challenger is given, where it gets other pixels than the first model."""

    preprocess: PreprocessSettings
    """Crop, resize and the rest."""
    height: int
    """Rows of its input."""
    width: int
    """Columns of its input."""


@dataclass(frozen=True)
class LoadPlan:
    """Everything that decides an image's pixels: picklable, the same on both roads."""

    decode: DecodeSettings
    """Limits and background."""
    preprocess: PreprocessSettings
    """Crop, resize and the rest."""
    height: int
    """Rows of the model's input."""
    width: int
    """Columns of the model's input."""
    load: LoadSettings
    """Threads and memory."""
    batch_size: int
    """Images a batch; the last one may hold fewer."""
    encoded: bool = False
    """The model decodes images itself: batches hold encoded bytes, and height and width mean nothing."""
    second: SecondInput | None = None
    """Other pixels of the same images, for a challenger; None where there is none, or where it gets the same."""

    @property
    def second_bytes(self) -> int:
        """Bytes of one image's second pixels; 0 where there are none."""
        return self.second.height * self.second.width * 3 if self.second else 0

    @property
    def deadlines(self) -> Deadlines:
        """How long an image may take."""
        return Deadlines(self.decode, self.load)


def load_rows(height: int, width: int) -> int:
    """Return how many images are loaded together where the size of the model's calls is measured on the worker.

    >>> load_rows(224, 224), load_rows(2048, 2048)
    (128, 5)
    """
    return max(1, min(_LOAD_ROWS, _LOAD_BYTES // max(1, height * width * 3)))


def thread_count(settings: LoadSettings, remote: bool) -> int:
    """Return how many threads load images: reads from remote stores wait more than they compute."""
    processors = os.cpu_count() or 1
    return settings.threads or processors * (_REMOTE_THREADS_A_PROCESSOR if remote else 1)
