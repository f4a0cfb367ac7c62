"""Decode in worker processes: an image that crashes, hangs or swells its decoder costs itself and nothing else.

Each thread that loads has a worker of its own, which is replaced when an image has ended it. Encoded bytes go over,
pixels come back, made by the very function that threads call.
"""

import threading
import time
from typing import Self

from transforms.deadlines import START_SECONDS
from transforms.errors import InterruptedRunError
from transforms.load_plan import LoadPlan
from transforms.loading import Prepared
from transforms.quarantine_worker import KilledAtStart, Lost, Worker
from transforms.retrying import Backoff, call_with_retries

PREPARE = "transforms.loading:prepare"
"""What a worker calls with encoded bytes and the plan."""


class Quarantine:
    """Prepares images in worker processes, one for each thread that calls.

    >>> with Quarantine(plan) as quarantine:  # doctest: +SKIP
    ...     load_one(ref, plan, prepare_with=quarantine.prepare)

    Args:
        plan: The same for all images.
        target: `module:function` that workers call instead of `prepare`; replaced in tests only.
    """

    def __init__(self, plan: LoadPlan, target: str = PREPARE) -> None:
        self._plan = plan
        self._target = target
        # By the thread that has started it.
        self._workers: dict[threading.Thread, Worker] = {}
        self._restarts = 0
        self._closed = False
        self._lock = threading.Lock()

    def prepare(self, data: bytes, plan: LoadPlan) -> Prepared:
        """Do in this thread's worker what `prepare` does.

        Raises:
            ImageError: As there; corrupt_image for an image that ends its worker, decode_timeout for one that takes too
                long.
            RunError: A worker does not start.
            InterruptedRunError: Workers are killed while they start, again and again.
        """
        left = plan.decode.timeout_seconds
        while True:
            worker = self._worker()
            fresh, worker.fresh = worker.fresh, False
            started = time.monotonic()
            try:
                return worker.prepare(data, plan, left)
            except Lost as lost:
                was_mine = self._replace()
                # An earlier image may have damaged or filled the worker's memory: only a fresh worker's end is proof.
                # One that was abandoned, for an earlier image that hung, has not ended by itself.
                if lost.proven or (fresh and was_mine):
                    raise lost.error from lost
                left -= time.monotonic() - started

    def take_restarts(self) -> int:
        """Return how many workers have been replaced since the last call."""
        with self._lock:
            restarts, self._restarts = self._restarts, 0
        return restarts

    def abandon(self, thread: threading.Thread) -> bool:
        """End the worker of a thread, which starts another should it need one; return whether it had one."""
        with self._lock:
            worker = self._workers.pop(thread, None)
        if worker is not None:
            worker.stop()
        return worker is not None

    def close(self) -> None:
        """End all workers, whatever they are at."""
        with self._lock:
            self._closed = True
            workers, self._workers = self._workers, {}
        for worker in workers.values():
            worker.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _worker(self) -> Worker:
        """Return this thread's worker once it is ready."""
        # Memory that others have taken is often back soon. The last attempt begins in half of the time that all have.
        half = START_SECONDS / 2
        try:
            return call_with_retries(
                lambda left: self._await_worker(half + left),
                lambda error: isinstance(error, KilledAtStart),
                Backoff(first_seconds=1.0, deadline_seconds=half),
            )
        except TimeoutError as error:
            raise InterruptedRunError(
                f"worker processes of decode.quarantine are killed while they start ({error}): look whether the "
                "machine is out of memory, give it more or lower load.threads"
            ) from error

    def _await_worker(self, seconds: float) -> Worker:
        with self._lock:
            worker = self._workers.get(threading.current_thread())
        worker = worker or self._start()
        try:
            worker.await_ready(seconds)
        except BaseException:
            # Whoever asks next must not find one that is of no use.
            self.abandon(threading.current_thread())
            raise
        return worker

    def _start(self) -> Worker:
        with self._lock:
            if self._closed:
                raise InterruptedRunError("the quarantine was closed while images were being decoded")
            for ended in [thread for thread in self._workers if not thread.is_alive()]:
                self._workers.pop(ended).stop()
            worker = self._workers[threading.current_thread()] = Worker(self._plan, self._target)
            return worker

    def _replace(self) -> bool:
        """Start another worker for this thread; return whether it had the old one until now."""
        was_mine = self.abandon(threading.current_thread())
        with self._lock:
            self._restarts += was_mine
        self._start()
        return was_mine
