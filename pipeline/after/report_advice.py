"""Where the time of a run went, and one line of advice: what limits it.

Loading threads read and decode, calls of the model compute, one thread of a bundle writes, all of them at once. The
counters say how long each was at work (`read_ms`, `decode_ms`, `model_ms`, `write_ms`), and how long it could have been
(`*_capacity_ms`: threads or calls times the time of the bundles, on whatever worker). The quotient is its use. What was
at work nearly all the time limits the run; the others wait for it: a faster model does not help a run whose loading
threads have no pause. (Little's law for a closed line: its pace is that of the station without idle time.) Of writing
only the scores count: failures are written beside the line. A run whose bundles took little of its time is limited by
none of the three, however busy they were.
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple

Limit = Literal["read", "decode", "device", "write", "nothing"]

_BUSY = 0.6
"""Under this use nothing limits: a run of a few batches is over before anything could."""
_SHORT = 0.25
"""Bundles that took less than this share of the pipeline's time did not make it long."""
_NEARLY = 0.85
"""What reaches this share of the largest use is named besides."""


class Spent(NamedTuple):
    """What a run has taken, as its launcher has counted it."""

    counts: Mapping[str, int]
    """`<verb>_<unit>` sums of all workers."""
    startup_seconds: float
    """Until the pipeline was launched: libraries, checks and loading the model."""
    pipeline_seconds: float
    """From launch to end."""
    images: int
    """Scored and failed by this attempt."""
    adopted: int
    """Scored by an earlier attempt of the same run."""
    on_gpu: bool
    """Whether the launcher's model works on GPUs."""

    def seconds(self, counter: str) -> float:
        """Return a counter of milliseconds in seconds; what was never counted took none."""
        return self.counts.get(counter, 0) / 1e3

    @property
    def thread_seconds(self) -> dict[str, float]:
        """Return the summed time of each step."""
        steps = {
            "read": "read",
            "decode": "decode",
            "model": "model",
            "challenger": "challenge_model",
            "write": "write",
        }
        return {step: self.seconds(f"{counter}_ms") for step, counter in steps.items()}

    @property
    def bundle_seconds(self) -> float:
        """Return for how long, at most, bundles were at work: with many workers the sum of theirs."""
        return max(self.seconds("model_capacity_ms"), self.seconds("write_scores_capacity_ms"))


class Use(NamedTuple):
    """How much of its time each of the three was at work, 0 to about 1."""

    load: float
    """The threads that read and decode."""
    device: float
    """The model."""
    write: float
    """The thread that writes."""


class Advice(NamedTuple):
    """What limits a run."""

    limit: Limit
    """read, decode, device or write; nothing where the run was too short."""
    text: str
    """One line: what was found, and what would help."""


def use_of(spent: Spent) -> Use:
    """Return how much each was at work; what nothing was counted of was not."""

    def quotient(at_work: float, capacity: str) -> float:
        possible = spent.seconds(capacity)
        return at_work / possible if possible else 0.0

    took = spent.thread_seconds
    return Use(
        load=quotient(took["read"] + took["decode"], "load_capacity_ms"),
        # A challenger's calls take their turns in the same time.
        device=quotient(took["model"] + took["challenger"], "model_capacity_ms"),
        write=quotient(spent.seconds("write_scores_ms"), "write_scores_capacity_ms"),
    )


def advise(spent: Spent) -> Advice:
    """Say what limits a run, and what would help."""
    use, took = use_of(spent), spent.thread_seconds
    loading: Limit = "read" if took["read"] >= took["decode"] else "decode"
    uses: dict[Limit, float] = {loading: use.load, "device": use.device, "write": use.write}
    limit = max(uses, key=lambda name: uses[name])
    if spent.bundle_seconds < _SHORT * spent.pipeline_seconds:
        return Advice(
            "nothing",
            f"Nothing limits: loading, scoring and writing took {spent.bundle_seconds:.3g} s of the "
            f"{spent.pipeline_seconds:.3g} s; listing and the start and end of the pipeline took the rest.",
        )
    if uses[limit] < _BUSY:
        return Advice(
            "nothing",
            f"Nothing limits: {_NAMES[limit]} was at work most, {_percent(uses[limit])} of the time. In a run of "
            f"{spent.pipeline_seconds:.3g} s, listing and the start and end of the pipeline count; a longer one tells.",
        )
    who, mostly = "it was", ""
    if limit == loading:
        share = took[loading] / (took["read"] + took["decode"])
        who, mostly = "the loading threads were", f", {_percent(share)} of that {_NAMES[loading]}"
    close = [_NAMES[name] for name, value in uses.items() if name != limit and value >= _NEARLY * uses[limit]]
    also = f" {_start(' and '.join(close))} {'are' if len(close) > 1 else 'is'} nearly as busy." if close else ""
    found = f"{_start(_NAMES[limit])} limits: {who} at work {_percent(uses[limit])} of the time{mostly}."
    return Advice(limit, f"{found}{also} {_help(limit, on_gpu=spent.on_gpu)}")


def _percent(share: float) -> str:
    # Clocks of threads and bundles differ by a little: nothing is at work more than all the time.
    return f"{min(share, 1.0):.0%}"


def _start(text: str) -> str:
    return text[:1].upper() + text[1:]


_NAMES: dict[Limit, str] = {"read": "reading", "decode": "decoding", "device": "the model", "write": "writing"}


def _help(limit: Limit, *, on_gpu: bool) -> str:
    if limit == "read":
        return "More load.threads help, for reading is waiting; so does running nearer to the images."
    if limit == "decode":
        return (
            "More processors help, or smaller images; decode.jpeg_scaling: auto, where large JPEGs are decoded in full."
        )
    if limit == "device":
        more = "More GPUs help, model.precision: bfloat16 or model.xla: true" if on_gpu else "A GPU helps"
        return f"{more}, or a smaller model; faster storage and more threads do not."
    return "A nearer storage helps, write.compression_level: 1, or to leave out what nobody reads (results.logits)."
