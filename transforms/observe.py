"""Counters and distributions, named `<verb>_<unit>`.

Every count goes to Beam's metrics, which every runner collects. FnApiRunner shows them only at its end, so a
mirror of the sums is kept in the process for the progress bar of a local run. Nothing is decided by either:
retried bundles inflate counters, and the ledger is made of rows in files (design.md).
"""

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Iterator

from apache_beam.metrics import Metrics

from transforms.errors import FailureCode

NAMESPACE = "score_images"

_mirror: Counter[str] = Counter()
_mirror_lock = threading.Lock()


class Count:
    """A counter of Beam with a mirror in the process.

    Args:
        name: `<verb>_<unit>`: read_bytes, decode_ms, scored_images.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._rest = 0.0
        self._counter = Metrics.counter(NAMESPACE, name)

    def add(self, amount: float) -> None:
        """Add an amount; call it in the thread that runs the bundle, or Beam does not see it."""
        # Beam counts whole numbers: what is left over waits for the next call, or a million short reads add
        # up to nothing.
        self._rest += amount
        whole = int(self._rest)
        if whole:
            self._rest -= whole
            self._counter.inc(whole)
            with _mirror_lock:
                _mirror[self._name] += whole

    @contextlib.contextmanager
    def time(self) -> Iterator[None]:
        """Add the milliseconds that a block takes; they count where it raises, too."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.add((time.perf_counter() - started) * 1e3)


class CountFailures:
    """Counts the images that a step has lost: all of them, and by code as `failed_<code>_images`.

    Args:
        name: Of the counter of all: `<verb>_failed_images`.
        prefix: Stands before the names by code, where what fails is not the run's image but one of a challenger.
    """

    def __init__(self, name: str, prefix: str = "") -> None:
        self._all = Count(name)
        self._by_code = {code: Count(f"{prefix}{failed_counter(code)}") for code in FailureCode}

    def add(self, code: FailureCode) -> None:
        """Add one image."""
        self._all.add(1)
        self._by_code[code].add(1)


def failed_counter(code: FailureCode) -> str:
    """Return the name of a counter.

    >>> failed_counter(FailureCode.NOT_FOUND)
    'failed_not_found_images'
    """
    return f"failed_{code.value}_images"


class Capacity:
    """Counts how long something could have been at work: what it was at work, over this, is its use.

    Args:
        name: `<verb>_capacity_ms`.
    """

    def __init__(self, name: str) -> None:
        self._count = Count(name)
        self._started = time.perf_counter()

    def start(self) -> None:
        """Begin a bundle."""
        self._started = time.perf_counter()

    def stop(self, workers: int) -> None:
        """End a bundle that had so many threads or calls at a time."""
        self._count.add((time.perf_counter() - self._started) * 1e3 * workers)


def process_counts() -> Counter[str]:
    """Return the sums of this process since it started or since reset_process_counts."""
    with _mirror_lock:
        return Counter(_mirror)


def reset_process_counts() -> None:
    """Start the sums of this process again, before a run."""
    with _mirror_lock:
        _mirror.clear()
