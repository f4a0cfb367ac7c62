"""Who of several launchers gets a run, where nothing can be locked: Lamport's bakery, as steps over objects of a store.

Each owns one object, its claim, and reads those of the others.

1. It writes its claim without a number, reads all claims, and writes its claim again with a number above theirs.
2. It reads all claims. Where one has a smaller number (of equal ones the smaller name), it withdraws its own and has
   lost. Where one has no number yet, it waits and reads again. Else it has won.

Nothing is written or read here: whoever carries the steps out does that, and a test goes through every order of them.
"""

from collections.abc import Callable, Generator
from typing import Any, NamedTuple

from transforms.owners import Owner

SILENT_SECONDS = 60.0
_TRIES = 20


class Claim(NamedTuple):
    """One claim as it lies in the store."""

    name: str
    """Unique."""
    number: int | None
    """Its place in the line; None before it has one."""
    owner: Owner
    """Who."""
    written_at: float
    """When it was written last, in seconds by the store's clock."""


class Write(NamedTuple):
    """A step: write one's own claim."""

    number: int | None
    """Its number."""


class ListNames(NamedTuple):
    """A step: learn the names of all claims, and when each was written last: dict[str, float]."""


class Read(NamedTuple):
    """A step: read a claim; None where it is gone."""

    name: str
    """Which."""
    written_at: float
    """As listed."""


class Delete(NamedTuple):
    """A step: delete a claim; one that is gone is no error."""

    name: str
    """Which."""


class Wait(NamedTuple):
    """A step: let others take theirs."""


Step = Write | ListNames | Read | Delete | Wait
Steps = Generator[Step, Any, "Winner | None"]


class Winner(NamedTuple):
    """Who has the run, seen by one who has lost."""

    claim: Claim
    """The claim."""
    silent_seconds: float
    """How long ago it was written last, by the store's clock."""


def contend(me: str, is_gone: Callable[[Owner], bool]) -> Steps:
    """Contend for a run: yield one step after the other, and take its result.

    Args:
        me: The name of one's own claim.
        is_gone: Tells of a process of this machine whether it has ended; false for all others.

    Returns:
        None for who has won, else who is ahead.

    Raises:
        OSError: The store never lists what was written.
    """
    yield Write(None)
    # Dead claims count here, too: a number too high is never wrong.
    number = 1 + max((claim.number or 0 for claim in (yield from _read_all())), default=0)
    restarts = 0
    while True:
        yield Write(number)
        claims = yield from _read_all()
        if me not in (claim.name for claim in claims):
            # Deleted by hand: others have looked without seeing it, and the number is worth nothing.
            restarts += 1
            if restarts == _TRIES:
                raise OSError(f"the claim {me} was written {_TRIES} times, and the storage has never listed it")
            yield Write(None)
            number = 1 + max((claim.number or 0 for claim in (yield from _read_all())), default=0)
            continue
        now = max(claim.written_at for claim in claims)
        others = [claim for claim in claims if claim.name != me]
        dead = [c for c in others if now - c.written_at > SILENT_SECONDS or is_gone(c.owner)]
        living = [claim for claim in others if claim not in dead]
        ahead = [c for c in living if c.number is not None and (c.number, c.name) < (number, me)]
        if ahead:
            yield Delete(me)
            first = min(ahead, key=lambda claim: (claim.number, claim.name))
            return Winner(first, now - first.written_at)
        if all(claim.number is not None for claim in living):
            for claim in dead:
                yield Delete(claim.name)
            return None
        yield Wait()


def _read_all() -> Generator[Step, Any, list[Claim]]:
    claims = []
    for name, written_at in sorted((yield ListNames()).items()):
        claim = yield Read(name, written_at)
        if claim is not None:
            claims.append(claim)
    return claims
