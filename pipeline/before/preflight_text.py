"""A preflight as text for a person."""

from pipeline.before.findings import Preflight
from pipeline.before.prediction import Interval
from pipeline.pages.page import duration_text, images_text, percent_text, size_text
from transforms.redaction import tell

_MARKS = {"ok": "ok  ", "note": "note", "bad": "FAIL"}
_RARE_MS = 3.0


def preflight_text(found: Preflight) -> str:
    """Say whether the night would succeed, why not, and what it will be like."""
    width = max((len(check.name) for check in found.checks), default=0)
    lines = [
        headline(found),
        *(f"  {_MARKS[check.state]}  {check.name:{width}}  {tell(check.text)}" for check in found.checks),
        *(f"  {name:{width + 4}}  {tell(text)}" for name, text in outlook(found)),
    ]
    return "\n".join(lines)


def headline(found: Preflight) -> str:
    """Say the verdict in one line."""
    count = len(found.reasons)
    if not count:
        return "preflight: nothing stands against the night"
    return f"preflight: the night would fail, for {count} reason{'s' if count > 1 else ''}"


def outlook(found: Preflight) -> list[tuple[str, str]]:
    """Return what the night will be like, by name, as far as it is known."""
    told = []
    trial, rate, pace, predicted = found.trial, found.failure_rate, found.pace, found.prediction
    if trial is not None and rate is not None:
        told.append(("will fail", f"{rate_text(rate)} of the images ({len(trial.failures)} of {trial.images} did)"))
        for code, count in trial.failures_by_code.most_common():
            told.append((f"  {code}", rate_text(found.rate_of(count))))
    if pace is not None and trial is not None:
        told.append(("an image", pace_text(found)))
        told.append(("reading", reading_text(found)))
    if predicted is not None:
        parts = predicted.duration
        told.append(("duration", duration_summary(found)))
        told.append(
            (
                "of that",
                f"{duration_text(parts.start)} libraries and model, {duration_text(parts.fixed)} launching and "
                f"publishing, {duration_text(parts.listing)} listing, {duration_text(parts.images)} images",
            )
        )
        told.append(("output", size_text(predicted.output_bytes)))
        if predicted.costs:
            told.append(("costs", costs_text(found)))
    return told


def rate_text(rate: Interval) -> str:
    """Say a share with its interval."""
    if rate.low == rate.high:
        return f"{percent_text(rate.share)}"
    return f"{percent_text(rate.share)} ({percent_text(rate.low)} to {percent_text(rate.high)})"


def pace_text(found: Preflight) -> str:
    """Say what an image costs in the middle of a run."""
    pace = found.pace
    if pace is None:
        return "not measured"
    return (
        f"{1e3 * pace.seconds:.1f} ms in the middle of a run, give or take {1e3 * pace.error:.1f}, measured over "
        f"{images_text(pace.images)} on this machine ({pace.cpu_ms:.1f} ms of processor time; in threads: read "
        f"{pace.read_ms:.1f} ms, decode {pace.decode_ms:.1f} ms, model {pace.model_ms:.1f} ms)"
    )


def reading_text(found: Preflight) -> str:
    """Say what is known of how fast files are read."""
    pace, trial = found.pace, found.trial
    if pace is None or trial is None:
        return "not measured"
    first, again = trial.read_ms, pace.read_ms
    figures = f"{size_text(trial.read_bytes)} an image; {first:.1f} ms the first time and {again:.1f} ms again"
    if first > _RARE_MS * again:
        return f"{figures}: the prediction counts the first time"
    return f"{figures}: the sample may have been in the machine's memory, and files that are not there may take longer"


def duration_summary(found: Preflight) -> str:
    """Say how long the night will take."""
    predicted, listing = found.prediction, found.listing
    if predicted is None or listing is None:
        return "not known"
    least = "" if listing.exact else f", if it has {images_text(listing.images)}"
    return (
        f"{duration_text(predicted.duration.total)} on a machine like this one{least}; its images give or take "
        f"{duration_text(predicted.duration_error)}"
    )


def costs_text(found: Preflight) -> str:
    """Say what the night costs, in all and by what is paid for."""
    predicted = found.prediction
    if predicted is None:
        return "not known"
    parts = ", ".join(f"{name} {money_text(amount)}" for name, amount in predicted.costs.items())
    return f"{money_text(sum(predicted.costs.values()))} {predicted.currency} ({parts})"


def money_text(amount: float) -> str:
    """Write an amount: with two decimals, or with as many as it needs.

    >>> money_text(12.5), money_text(0.00123), money_text(4.4e-7)
    ('12.50', '0.00123', 'under 0.0001')
    """
    if 0 < amount < 1e-4:
        return "under 0.0001"
    return f"{amount:,.2f}" if amount >= 0.1 or not amount else f"{amount:.3g}"
