"""Who works on a run: one launcher at a time, so that nothing is scored twice or published by two.

On a local disk the kernel knows: a lock on a file (flock), which ends with its process, kill -9 included. The file goes
at the end; whoever gets a lock looks whether the file that he has locked still bears the name.

A remote store has no locks, and pyarrow offers no write that fails where an object exists. There, and on a file system
without locks, launchers agree by Lamport's bakery (bakery.py says how): each owns one object and reads those of the
others. The winner writes its claim again every 10 seconds until the end, and deletes it.

Guaranteed, whatever the order of requests and without trust in any clock, if a store shows what was written before it
was asked (S3 and GCS do): no two win, and if nobody dies, one wins. A claim counts no more when it has been silent for
60 seconds, by the store's own times alone; or at once, when it names a process of this machine that is gone, so that a
run killed here can be continued here immediately.

Not guaranteed: a launcher that stood still for a minute and goes on (a suspended machine, a store out of reach) may
find that another has taken its run. It says so when it wakes. Even then, unless both overwrite, neither rows nor files
are mixed: whichever publishes first has published, from files that it knows by name, and the other finds that.
"""

import fcntl
import json
import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from errno import ENOLCK, ENOSYS, EOPNOTSUPP
from typing import Any, Self

from pyarrow import fs

from transforms import moving, storage
from transforms.bakery import SILENT_SECONDS, Claim, Delete, ListNames, Read, Wait, Write, contend
from transforms.errors import ConfigError
from transforms.layout import RunLayout
from transforms.owners import Owner, is_gone, this_process

_LOG = logging.getLogger(__name__)
BEAT_SECONDS = 10.0
_WAIT_SECONDS = 0.5
_CLAIM_BYTES = 1024
_READS = 5
_TRIES = 20
_NO_LOCKS = (ENOLCK, ENOSYS, EOPNOTSUPP)


class TakenError(ConfigError):
    """Another launcher works on the run.

    Args:
        run_id: The run.
        who: Works on it, in words.
    """

    def __init__(self, run_id: str, who: str) -> None:
        super().__init__(f"run {run_id} is being worked on by {who}; wait for it, or use another --run-id")
        self.who = who


class RunClaim:
    """The claim of this process on a run; a context that gives back at its end what was taken in it.

    Args:
        layout: The run.
        wait: Sleeps; for tests.
    """

    def __init__(self, layout: RunLayout, wait: Callable[[float], object] = time.sleep) -> None:
        self._layout = layout
        self._wait = wait
        self._held: _Lock | _Heartbeat | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._held is not None:
            try:
                self._held.release()
            except OSError as error:
                # How the run has ended counts, and the claim ends with this process.
                _LOG.warning("the claim on run %s cannot be deleted: %s", self._layout.run_id, error)
            self._held = None

    def take(self) -> None:
        """Take the run; once it is taken, do nothing.

        Raises:
            TakenError: Another launcher works on it.
            ConfigError: A claim is damaged.
            OSError: The storage cannot be written.
        """
        if self._held is None:
            owner = this_process()
            remote = storage.is_remote(self._layout.output)
            self._held = (None if remote else _lock(self._layout, owner, self._wait)) or self._agree(owner)

    def worker(self) -> str | None:
        """Return who else works on the run, in words; None where nobody does.

        What killed launchers have left of their claims is taken over, and goes at the end of this context.

        Raises:
            ConfigError: A claim is damaged.
            OSError: The storage does not answer, or cannot be written.
        """
        try:
            if storage.stat(self._layout.lock) is not None or dict(_written_at(self._layout)):
                self.take()
        except TakenError as error:
            return error.who
        return None

    def tidy(self) -> None:
        """Delete what killed launchers have left of their claims, where nobody works on the run."""
        try:
            self.worker()
        except OSError as error:
            _LOG.warning("what a killed launcher has left of run %s cannot be deleted: %s", self._layout.run_id, error)

    def _agree(self, owner: Owner) -> "_Heartbeat":
        objects = _Objects(self._layout, owner)
        steps = contend(objects.name, is_gone)
        try:
            step = next(steps)
            while True:
                if isinstance(step, Wait):
                    self._wait(_WAIT_SECONDS)
                    step = next(steps)
                else:
                    step = steps.send(objects.carry_out(step))
        except StopIteration as end:
            if end.value is not None:
                who = _words(end.value.claim.owner, end.value.silent_seconds)
                raise TakenError(self._layout.run_id, who) from None
        except BaseException:
            objects.carry_out(Delete(objects.name))
            raise
        return _Heartbeat(objects)


def _words(owner: Owner, silent_seconds: float) -> str:
    return (
        f"process {owner.pid} on host {owner.host} since {owner.since} (last sign of life {silent_seconds:.0f} s ago)"
    )


class _Lock:
    """A locked file on a local disk."""

    def __init__(self, path: str, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor

    def release(self) -> None:
        """Delete the file while it is locked: who waits for it sees that its name is gone."""
        if _bears(self._path, self._descriptor):
            os.unlink(self._path)
        os.close(self._descriptor)


def _lock(layout: RunLayout, owner: Owner, wait: Callable[[float], object]) -> _Lock | None:
    """Lock the run's file; None where the file system has no locks."""
    tries = 0
    while True:
        os.makedirs(layout.run_folder, exist_ok=True)
        try:
            descriptor = os.open(layout.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except FileNotFoundError:
            if (tries := tries + 1) == _TRIES:
                raise
            continue  # who deletes what is left of a run has taken the empty folder away
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            found = os.pread(descriptor, 4096, 0)
            os.close(descriptor)
            # The kernel vouches at this very moment that there is an owner.
            if (tries := tries + 1) == _TRIES or not _is_passing(found):
                raise TakenError(layout.run_id, _described(layout, found)) from None
            wait(_WAIT_SECONDS)
            continue
        except OSError as error:
            os.close(descriptor)
            if error.errno not in _NO_LOCKS:
                raise
            _LOG.info("the file system of %s has no locks: run %s is claimed by files", layout.output, layout.run_id)
            moving.delete_file(layout.lock)
            return None
        lock = _Lock(layout.lock, descriptor)
        if _bears(layout.lock, descriptor):
            try:
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, json.dumps(owner._asdict()).encode(), 0)
                os.fsync(descriptor)
            except BaseException:
                lock.release()
                raise
            return lock
        # Its owner has finished between opening and locking, and has deleted it.
        lock.release()


def _is_passing(found: bytes) -> bool:
    """Tell whether a locked file does not name its owner yet: it was locked an instant ago."""
    owner = _owner(found)
    return not found or (owner is not None and is_gone(owner))


def _described(layout: RunLayout, found: bytes) -> str:
    owner = _owner(found)
    if owner is not None and not is_gone(owner):
        return _words(owner, 0.0)
    return f"a process that has locked {layout.lock} and does not say in it who it is"


def _owner(found: bytes) -> Owner | None:
    try:
        return Owner(**json.loads(found))
    except (ValueError, TypeError):
        return None


def _bears(path: str, descriptor: int) -> bool:
    """Tell whether a name still belongs to an open file."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


class _Objects:
    """The claims of a run as objects of a store: carries steps out.

    Args:
        layout: The run.
        owner: Of the claim that is written.
        clock: Seconds, monotonic.
    """

    def __init__(self, layout: RunLayout, owner: Owner, clock: Callable[[], float] = time.monotonic) -> None:
        self.layout = layout
        self.name = uuid.uuid4().hex
        self._owner = owner
        self._clock = clock
        self._number: int | None = None
        self._written: float | None = None

    def carry_out(self, step: Write | ListNames | Read | Delete) -> Any:
        """Carry a step out.

        Raises:
            OSError: The store does not answer, or not in time.
            ConfigError: A claim is damaged.
        """
        if isinstance(step, Delete):
            moving.delete_file(self._path(step.name))
            return None
        before = self._written
        if isinstance(step, Write):
            self._written, self._number = self._clock(), step.number
            self._write()
            found = None
        else:
            found = dict(_written_at(self.layout)) if isinstance(step, ListNames) else self._read(step)
        # Who is slower than that may be taken for dead, and must not win by what he read before.
        if before is not None and self._clock() - before > SILENT_SECONDS / 2:
            raise TimeoutError(f"the storage took more than {SILENT_SECONDS / 2:.0f} s to answer")
        return found

    def renew(self) -> bool:
        """Write the claim of a winner again; tell whether it was still there."""
        if storage.stat(self._path(self.name)) is None:
            return False
        self._write()
        return True

    def _write(self) -> None:
        claim = {"number": self._number, "owner": self._owner._asdict()}
        # Of one length: pyarrow asks for an object's size before it reads, and in between it may be replaced.
        storage.write_bytes(self._path(self.name), json.dumps(claim).ljust(_CLAIM_BYTES).encode())

    def _path(self, name: str) -> str:
        return storage.join(self.layout.claims, f"{name}.json")

    def _read(self, step: Read) -> Claim | None:
        path = self._path(step.name)
        try:
            found = json.loads(_read_again(path))
            return Claim(step.name, found["number"], Owner(**found["owner"]), step.written_at)
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError) as error:
            raise ConfigError(
                f"{path} is damaged: nobody can tell who works on run {self.layout.run_id}; delete it when nobody does"
            ) from error


def _read_again(path: str) -> bytes:
    """Read an object that may be replaced or deleted while it is read, at which stores break off."""
    for _ in range(_READS):
        try:
            return storage.read_bytes(path)
        except FileNotFoundError:
            raise
        except OSError:
            time.sleep(_WAIT_SECONDS / _READS)
    return storage.read_bytes(path)


def _written_at(layout: RunLayout) -> Iterator[tuple[str, float]]:
    """Yield the names of a run's claims, and when each was written last, in seconds by the store's clock."""
    for info in storage.list_names(layout.claims):
        if info.type == fs.FileType.File and info.extension == "json":
            yield info.base_name.removesuffix(".json"), (info.mtime_ns or 0) / storage.SECOND


class _Heartbeat:
    """Writes a won claim again and again, in a thread, until it is released."""

    def __init__(self, objects: _Objects) -> None:
        self._objects = objects
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="claim")
        self._thread.start()

    def release(self) -> None:
        """Stop, and delete the claim."""
        self._end.set()
        self._thread.join()
        self._objects.carry_out(Delete(self._objects.name))

    def _beat(self) -> None:
        run_id = self._objects.layout.run_id
        while not self._end.wait(BEAT_SECONDS):
            try:
                if not self._objects.renew():
                    _LOG.error("run %s was taken over: this process gave no sign of life for a minute", run_id)
                    return
            except OSError as error:
                _LOG.warning("the claim on run %s cannot be renewed, which is tried again: %s", run_id, error)
