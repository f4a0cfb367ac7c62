"""Which process it is that claims a run, and whether it still lives: told without asking another machine."""

import contextlib
import os
import socket
from datetime import UTC, datetime
from typing import NamedTuple


class Owner(NamedTuple):
    """The process that made a claim."""

    host: str
    """For people: several machines may have one name."""
    boot: str | None
    """This start of this machine's kernel and the space that pids are counted in; None where no system tells."""
    pid: int
    """In that space."""
    born: str | None
    """When the process began, as the kernel counts: a pid is given again."""
    since: str
    """When it claimed the run, by its own clock: for people."""


def this_process() -> Owner:
    """Describe this process as the owner of a claim."""
    pid = os.getpid()
    return Owner(socket.gethostname(), _boot(), pid, _born(pid), datetime.now(UTC).isoformat(timespec="seconds"))


def is_gone(owner: Owner) -> bool:
    """Tell whether an owner is a process of this machine that has ended."""
    return owner.boot is not None and owner.boot == _boot() and owner.born != _born(owner.pid)


def _boot() -> str | None:
    # Containers of one machine share the boot and count their own pids.
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return f"{file.read().strip()} {os.readlink('/proc/self/ns/pid')}"
    except FileNotFoundError:
        return None


def _born(pid: int) -> str | None:
    """Return when a process began, in ticks since the boot; None where there is none, or only its exit code is left."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        with open(f"/proc/{pid}/stat", "rb") as file:
            state, *fields = file.read().rpartition(b")")[2].split()  # a program's name may hold spaces
        return None if state in (b"Z", b"X") else fields[18].decode()
    return None
