"""A verification as text for a person: one line a promise."""

from pipeline.after.verify import PROMISES, Promise, Verification
from transforms.redaction import printable


def verification_text(found: Verification) -> str:
    """Say of each promise whether the run keeps it, and of a broken one what, where and how often."""
    rows = ", ".join(f"{count:,} rows of {table}" for table, count in found.rows.items())
    broken = len(found.broken)
    verdict = f"breaks {broken} of its {len(found.promises)} promises" if broken else "keeps what it promises"
    return "\n".join(
        [
            f"run {found.run_id} in {printable(found.output)}: {rows} in {found.files} files",
            *map(_line, found.promises),
            f"run {found.run_id} {verdict}",
        ]
    )


def _line(promise: Promise) -> str:
    text = f"{promise.name:<10} {PROMISES[promise.name]}"
    if promise.broken:
        return f"  BROKEN       {text}: {promise.broken:,} times, first: {printable(promise.example or '')}"
    if promise.skipped:
        return f"  not checked  {text}: {printable(promise.skipped)}"
    return f"  ok           {text}"
