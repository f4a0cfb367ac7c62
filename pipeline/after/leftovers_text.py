"""Leftovers as text for a person."""

from collections.abc import Sequence

from pipeline.after.leftovers import Leftover
from transforms.redaction import printable


def leftovers_text(going: Sequence[Leftover], staying: Sequence[tuple[Leftover, str]], output: str, now: float) -> str:
    """Say what can be deleted, and what stays and why.

    Args:
        going: Abandoned.
        staying: The others, each with the reason.
        output: The folder of runs, as the user named it.
        now: Seconds since the epoch.
    """
    size = sum(leftover.size_bytes for leftover in going)
    lines = [f"{len(going)} leftovers in {printable(output)}, {_bytes(size)}{':' if going else ''}"]
    for leftover in going:
        lines += _lines(leftover, leftover.why, now)
        if leftover.lost:
            lines.append(f"    is lost: {leftover.lost}")
    if staying:
        lines.append(f"{len(staying)} stay:")
    for leftover, reason in staying:
        lines += _lines(leftover, reason, now)
    return "\n".join(lines)


def _lines(leftover: Leftover, reason: str, now: float) -> list[str]:
    age = _age(now - leftover.newest_ns / 1e9)
    files = f"{leftover.file_count} files, {_bytes(leftover.size_bytes)}"
    return [f"  {printable(leftover.name)}  {age} old, {files}", f"    {reason}"]


def _age(seconds: float) -> str:
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{int(seconds // length)} {unit}"
    return f"{max(int(seconds), 0)} seconds"


def _bytes(size: int) -> str:
    for unit, length in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= length:
            return f"{size / length:.1f} {unit}"
    return f"{size} bytes"
