"""Sum up a profile: which function has the processor, in which thread, on whose behalf."""

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

_OUR_OWN = re.compile(r"\((transforms|pipeline)/")
_THREAD = re.compile(r"^thread \(\d+\)(?:: (?P<name>.*?)[_-]?\d*(?: \(run\))?)?$")


class Samples(NamedTuple):
    """Samples counted three ways."""

    threads: Counter[str]
    """By thread, those of a pool together."""
    functions: Counter[str]
    """By innermost function: whatever it called in Python is not in it, whatever it called in C is."""
    callers: Counter[str]
    """By each function of this project that was on the stack: whatever it called is in it."""


def busiest(folded: Path, count: int = 25) -> dict[str, Any]:
    """Read folded stacks, `thread;outer;inner samples` a line.

    Returns:
        `samples`, how many there are, and for each field of Samples the busiest with their shares of all.
    """
    with folded.open(encoding="utf-8") as lines:
        counted = count_samples(lines)
    total = counted.threads.total()
    shares = {
        field: {name: samples / total for name, samples in counter.most_common(count)}
        for field, counter in counted._asdict().items()
    }
    return {"samples": total, **shares}


def count_samples(lines: Iterable[str]) -> Samples:
    """Count samples by thread, by innermost function, and by our own functions on the stack.

    >>> count_samples(["thread (7): load_1;run (transforms/loading.py);decode (jpeg.py) 3"]).threads
    Counter({'load': 3})
    """
    counted = Samples(Counter(), Counter(), Counter())
    for line in lines:
        stack, _, samples = line.strip().rpartition(" ")
        if not stack:
            continue
        frames = stack.split(";")
        counted.threads[_thread_name(frames[0])] += int(samples)
        counted.functions[frames[-1]] += int(samples)
        for frame in {frame for frame in frames if _OUR_OWN.search(frame)}:
            counted.callers[frame] += int(samples)
    return counted


def _thread_name(frame: str) -> str:
    match = _THREAD.match(frame)
    return frame if match is None else match["name"] or "without a name"
