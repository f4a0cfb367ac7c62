"""The live view of a run on a terminal: what an operator wants to see of it, in a few lines that stand still."""

from typing import NamedTuple

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from transforms.layout import RunLayout
from transforms.redaction import tell


class Look(NamedTuple):
    """How far a run is, at a moment."""

    listed: int
    """Entries of all inputs so far."""
    skipped: int
    """As an earlier run has scored them."""
    scored: int
    """By this attempt and earlier ones."""
    failed: int
    """At any step."""
    rate: float
    """Images a second, lately; 0 where it is not known."""
    seconds_left: float | None
    """At that rate; None where it is not known."""
    codes: dict[str, int]
    """Failed images by code, the most frequent first."""
    shares: dict[str, float]
    """Of the time of threads lately, by step; empty where nothing was measured."""
    seconds: float
    """Since the run began."""


def draw(look: Look, layout: RunLayout | None) -> RenderableType:
    """Return the view.

    Args:
        look: How far the run is.
        layout: The run; None leaves its name out.
    """
    lines: list[RenderableType] = []
    if layout is not None:
        title = Text.assemble(("run ", "dim"), (tell(layout.run_id), "bold"), (" to ", "dim"), tell(layout.output))
        lines.append(_one_line(title))
    done = look.scored + look.failed + look.skipped
    # Duplicates are listed and never scored, so the bar may end a little early; it never overshoots.
    total = max(look.listed, done)
    bar = Table.grid(padding=(0, 2), expand=True)
    bar.add_column(ratio=1)
    bar.add_column(justify="right", no_wrap=True)
    share = f"{done / total:.0%}" if total else "starting"
    bar.add_row(ProgressBar(total=total or None, completed=done, pulse=not total), f"{share}  {duration(look.seconds)}")
    lines.append(bar)
    counted = Text.assemble(
        (f"{look.scored:,}", "green"), " scored, ",
        (f"{look.failed:,}", "red" if look.failed else ""), " failed, ",
        f"{look.skipped:,} skipped of {look.listed:,} listed",
    )  # fmt: skip
    pace = "" if look.seconds_left is None else f"{look.rate:,.1f} images/s, {duration(look.seconds_left)} left"
    lines += [_row("images", counted), _row("pace", Text(pace or "not known yet"))]
    if look.codes:
        lines.append(_row("failures", Text(", ".join(f"{count:,} {code}" for code, count in look.codes.items()))))
    if look.shares:
        most = max(look.shares, key=lambda step: look.shares[step])
        shares = [Text(f"{step} {share:.0%}", "bold" if step == most else "") for step, share in look.shares.items()]
        lines.append(_row("threads", Text(", ").join(shares).append(" of their time at work")))
    lines.append(Text("Ctrl-C stops the run and says how to go on", "dim"))
    return Group(*lines)


def _row(name: str, text: Text) -> Text:
    return _one_line(Text.assemble((f"{name:<10}", "dim"), text))


def _one_line(text: Text) -> Text:
    # The view must not change its height with every number.
    text.no_wrap = True
    text.overflow = "ellipsis"
    return text


def duration(seconds: float) -> str:
    """Return a time for people.

    >>> duration(59.6), duration(7380)
    ('1 min 00 s', '2 h 03 min')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
