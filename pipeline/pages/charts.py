"""Charts as inline SVG: drawn by matplotlib, coloured by the page, read on a phone, the same bytes for the same data.

A chart is 360 units wide, about as many as a phone has pixels, and grows with its place. Colours are written as the
page's variables, so that one drawing serves light, dark and print. Text stays text: it is found, copied and read aloud.
"""

import functools
import hashlib
import io
import unicodedata
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup

from transforms.redaction import tell

_WIDTH = 360.0
_PLOT_HEIGHT = 170.0
_FONT = 11.0
_SVG, _XLINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}"
# matplotlib takes no CSS variables: each colour stands for one, and is replaced in the drawing.
_INK, _MUTED, _LINE, _FIRST, _SECOND = "#010201", "#010202", "#010203", "#010204", "#010205"
_PARTS = ("#010211", "#010212", "#010213", "#010214", "#010215", "#010216")
_VARIABLES = {
    _INK: "--ink", _MUTED: "--muted", _LINE: "--line", _FIRST: "--first", _SECOND: "--second",
    **{color: f"--part-{index}" for index, color in enumerate(_PARTS)},
}  # fmt: skip
_RC: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "score-images",
    "text.parse_math": False,  # a label may hold dollar signs
    "font.family": ["DejaVu Sans"],  # it comes with matplotlib; the page's own font is put in its place
    "font.size": _FONT,
    "axes.edgecolor": _LINE,
    "axes.labelcolor": _MUTED,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": _LINE,
    "grid.linewidth": 0.6,
    "xtick.color": _LINE,
    "xtick.labelcolor": _MUTED,
    "ytick.color": _LINE,
    "ytick.labelcolor": _MUTED,
    "ytick.left": False,
    "text.color": _INK,
}


class Bar(NamedTuple):
    """One bar, or one part of a share."""

    label: str
    """Any text: it is escaped and cut to the room that there is."""
    value: float
    """Its length, 0 or more."""
    text: str
    """The value as it is written."""


class Pair(NamedTuple):
    """One label with a value of each of two series."""

    label: str
    """As of Bar."""
    first: float
    """Of the first series, 0 or more."""
    second: float
    """Of the second series, 0 or more."""
    text: str
    """Both values as they are written."""


def bars(title: str, rows: Sequence[Bar]) -> Markup:
    """Draw horizontal bars, each below its label.

    Args:
        title: What the chart shows; read aloud with all its values.
        rows: From the top.
    """
    drawing = _Drawing(30.0 * len(rows) + 4)
    longest = max((row.value for row in rows), default=0.0) or 1.0
    for index, row in enumerate(rows):
        top = 30.0 * index
        drawing.row_text(top, row.label, row.text)
        drawing.bar(0.0, top + 16, _WIDTH * row.value / longest, 7, _FIRST)
    return drawing.finish(title, "; ".join(f"{row.label}: {row.text}" for row in rows))


def pairs(title: str, names: tuple[str, str], rows: Sequence[Pair]) -> Markup:
    """Draw two bars below each label, one of each series.

    Args:
        title: As for bars.
        names: Of the two series.
        rows: From the top.
    """
    drawing = _Drawing(36.0 * len(rows) + 24)
    drawing.legend(2.0, [(names[0], _FIRST), (names[1], _SECOND)])
    longest = max((max(row.first, row.second) for row in rows), default=0.0) or 1.0
    for index, row in enumerate(rows):
        top = 22 + 36.0 * index
        drawing.row_text(top, row.label, row.text)
        drawing.bar(0.0, top + 16, _WIDTH * row.first / longest, 6, _FIRST)
        drawing.bar(0.0, top + 23, _WIDTH * row.second / longest, 6, _SECOND)
    return drawing.finish(f"{title}: {names[0]} and {names[1]}", "; ".join(f"{row.label}: {row.text}" for row in rows))


def share(title: str, parts: Sequence[Bar]) -> Markup:
    """Draw what makes up a whole, as one bar with a legend.

    Args:
        title: As for bars.
        parts: From the left, six at most.
    """
    whole = sum(part.value for part in parts) or 1.0
    drawing = _Drawing(24.0 + 18 * len(parts))
    left = 0.0
    for part, color in zip(parts, _PARTS, strict=False):
        width = _WIDTH * part.value / whole
        drawing.bar(left, 2.0, width, 14, color)
        left += width
    for index, (part, color) in enumerate(zip(parts, _PARTS, strict=False)):
        top = 24.0 + 18 * index
        drawing.bar(0.0, top + 2, 9, 9, color)
        drawing.row_text(top, part.label, part.text, indent=16)
    return drawing.finish(title, "; ".join(f"{part.label}: {part.text}" for part in parts))


def histogram(title: str, edges: Sequence[float], counts: Sequence[int], x_label: str) -> Markup:
    """Draw how often values fall between edges.

    Args:
        title: As for bars.
        edges: N + 1, ascending.
        counts: N.
        x_label: What the values are.
    """
    drawing = _Drawing(_PLOT_HEIGHT, plot=True)
    drawing.axes.stairs(np.asarray(counts), np.asarray(edges), fill=True, color=_FIRST)
    drawing.label_axes(edges, x_label, whole=True)
    return drawing.finish(title, _peak(edges, counts))


def histograms(
    title: str,
    names: tuple[str, str],
    edges: Sequence[float],
    first: Sequence[float],
    second: Sequence[float],
    x_label: str,
) -> Markup:
    """Draw two histograms over each other, the second as a line.

    Args:
        title: As for bars.
        names: Of the two series.
        edges: N + 1, ascending.
        first: N, counts or shares.
        second: N, of the same kind.
        x_label: What the values are.
    """
    drawing = _Drawing(_PLOT_HEIGHT + 18, plot=True, above=20)
    drawing.legend(2.0, [(names[0], _FIRST), (names[1], _SECOND)])
    drawing.axes.stairs(np.asarray(first), np.asarray(edges), fill=True, color=_FIRST)
    drawing.axes.stairs(np.asarray(second), np.asarray(edges), color=_SECOND, linewidth=1.6)
    drawing.label_axes(edges, x_label)
    told = f"{names[0]}: {_peak(edges, first)}; {names[1]}: {_peak(edges, second)}"
    return drawing.finish(f"{title}: {names[0]} and {names[1]}", told)


def timeline(title: str, edges: Sequence[datetime], values: Sequence[float]) -> Markup:
    """Draw a rate over time, one step for each stretch.

    Args:
        title: As for bars.
        edges: N + 1 moments of UTC, ascending; N is at least 1.
        values: N rates.
    """
    drawing = _Drawing(_PLOT_HEIGHT, plot=True)
    seconds = [(edge - edges[0]).total_seconds() for edge in edges]
    drawing.axes.stairs(np.asarray(values), seconds, fill=True, color=_FIRST)
    drawing.label_axes(seconds, "UTC")
    drawing.label_moments(edges[0], edges[-1])
    span = f"from {edges[0]:%Y-%m-%d %H:%M:%S} to {edges[-1]:%Y-%m-%d %H:%M:%S} UTC"
    return drawing.finish(title, f"{span}, at most {max(values):.1f}")


def _peak(edges: Sequence[float], counts: Sequence[float]) -> str:
    if not len(counts) or not max(counts):
        return "no values"
    top = int(np.argmax(counts))
    return f"most between {edges[top]:.3g} and {edges[top + 1]:.3g}"


def _short_number(value: float, _: object) -> str:
    """Write a tick: 12k for 12,000."""
    for factor, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{value / factor:g}{unit}"
    return f"{value:g}"


class _Drawing:
    """One figure, in units of which the page's SVG has 360 a line; y goes down, as on a page.

    Args:
        height: In units.
        plot: With axes; else the whole figure is a canvas.
        above: Units that stay free above the axes.
    """

    def __init__(self, height: float, *, plot: bool = False, above: float = 6.0) -> None:
        # Not at the head: a run that makes no page never pays for it.
        import matplotlib as mpl
        from matplotlib.figure import Figure

        self._rc: Callable[[], Any] = functools.partial(mpl.rc_context, _RC)
        self._height = height
        self._labels: dict[str, str] = {}
        with self._rc():
            self._figure = Figure(figsize=(_WIDTH / 72, height / 72), dpi=72)
            self._canvas = self._figure.add_axes((0, 0, 1, 1), zorder=1)
            self._canvas.set(xlim=(0, _WIDTH), ylim=(height, 0))
            self._canvas.set_axis_off()
            if plot:
                left, below = 38.0, 34.0
                box = (left / _WIDTH, below / height, 1 - (left + 8) / _WIDTH, 1 - (below + above) / height)
                self.axes = self._figure.add_axes(box)

    def bar(self, left: float, top: float, width: float, height: float, color: str) -> None:
        """Fill a rectangle."""
        from matplotlib.patches import Rectangle

        # Something is not nothing: the smallest part is seen.
        shown = max(width, 0.75) if width > 0 else 0.0
        self._canvas.add_patch(Rectangle((left, top), shown, height, color=color, linewidth=0))

    def row_text(self, top: float, label: str, value: str, indent: float = 0.0) -> None:
        """Write a label at the left and its value at the right."""
        room = int((_WIDTH - indent) / (_FONT * 0.58)) - len(value) - 2
        self._write(indent, top + 11, _cut(tell(label), max(room, 8)), "left", _INK)
        self._write(_WIDTH, top + 11, value, "right", _MUTED)

    def legend(self, top: float, entries: Sequence[tuple[str, str]]) -> None:
        """Name the colours of two series in one line."""
        for index, (name, color) in enumerate(entries):
            left = index * _WIDTH / 2
            self.bar(left, top + 2, 9, 9, color)
            self._write(left + 14, top + 10, _cut(tell(name), 26), "left", _INK)

    def label_axes(self, edges: Any, x_label: str, *, whole: bool = False) -> None:
        """Give the axes their range and their words; whole numbers where things are counted."""
        from matplotlib.ticker import FuncFormatter, MaxNLocator

        with self._rc():
            self.axes.set_xlim(edges[0], edges[-1])
            self.axes.set_ylim(bottom=0)
            self.axes.set_xlabel(_cut(tell(x_label), 48))
            self.axes.yaxis.set_major_locator(MaxNLocator(4, min_n_ticks=2, integer=whole))
            self.axes.yaxis.set_major_formatter(FuncFormatter(_short_number))

    def label_moments(self, first: datetime, last: datetime) -> None:
        """Write the first moment, the middle and the last one below the axis, as exactly as their distance asks."""
        span = (last - first).total_seconds()
        form = "%H:%M:%S" if span < 3600 else "%H:%M" if span < 86400 else "%m-%d %H:%M"
        tenths = span < 10  # in whole seconds two of the three may be the same
        ticks = (0.0, span / 2, span)
        with self._rc():
            moments = [first + timedelta(seconds=tick) for tick in ticks]
            labels = (
                [f"{moment:%H:%M:%S}.{moment.microsecond // 100_000}" for moment in moments]
                if tenths
                else [f"{moment:{form}}" for moment in moments]
            )
            self.axes.set_xticks(ticks, labels)
            left, _, right = self.axes.get_xticklabels()
            left.set_horizontalalignment("left")
            right.set_horizontalalignment("right")

    def _write(self, x: float, baseline: float, text: str, align: str, color: str) -> None:
        with self._rc():
            self._canvas.text(x, baseline, text, ha=align, va="baseline", color=color)

    def finish(self, title: str, description: str) -> Markup:
        """Return the SVG."""
        from matplotlib.backends.backend_svg import FigureCanvasSVG

        FigureCanvasSVG(self._figure)
        written = io.BytesIO()
        with self._rc(), warnings.catch_warnings():
            # The font that measures is not the one that the page shows: it need not know every letter of a label.
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
            self._figure.savefig(written, format="svg", metadata=nothing, transparent=True)
        return _inline(written.getvalue(), tell(title), tell(description))


def _cut(text: str, room: float) -> str:
    """Shorten a text in its middle, to the room of so many letters of usual width: names differ at their ends."""
    if sum(map(_letters, text)) <= room:
        return text
    ends = []
    for end, share in ((text, 2 / 3), (text[::-1], 1 / 3)):
        reached = accumulate(map(_letters, end))
        ends.append("".join(letter for letter, width in zip(end, reached, strict=True) if width <= (room - 1) * share))
    return f"{ends[0]}…{ends[1][::-1]}"


def _letters(letter: str) -> float:
    """Return how many letters of usual width a letter has room for: a Chinese one or an emoji is twice as wide."""
    if unicodedata.east_asian_width(letter) in "WF" or letter in "WMmw@%":
        return 1.75
    return 1.2 if letter.isupper() else 1.0


def _inline(svg: bytes, title: str, description: str) -> Markup:
    """Make of a file of matplotlib what can stand in a page many times."""
    root = ET.fromstring(svg)  # noqa: S314  matplotlib has just written it
    links = {"#" + name for name in _ids(root)} & set(_references(root))
    # Names of two charts in one page must not meet.
    prefix = f"c{hashlib.sha256(svg + title.encode()).hexdigest()[:8]}-"
    for parent in root.iter():
        for child in list(parent):
            if child.tag in (f"{_SVG}metadata", f"{_SVG}style"):
                parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.removeprefix(_SVG)
        name = element.attrib.pop("id", None)
        if name is not None and "#" + name in links:
            element.set("id", prefix + name)
        if (link := element.attrib.pop(f"{_XLINK}href", None)) is not None:
            element.set("href", "#" + prefix + link[1:])
        if element.get("transform", "").startswith("rotate(-0 "):
            del element.attrib["transform"]
        for key in ("clip-path", "style"):
            if (value := element.get(key)) is not None:
                element.set(key, _colored(value.replace("url(#", f"url(#{prefix}")))
    view = root.attrib["viewBox"]
    root.attrib.clear()
    root.attrib.update({"class": "chart", "role": "img", "viewBox": view, "aria-label": title})
    root.text = root.tail = None
    for index, (tag, text) in enumerate((("title", title), ("desc", description))):
        element = ET.Element(tag)
        element.text = text
        root.insert(index, element)
    return Markup(ET.tostring(root, encoding="unicode"))  # noqa: S704  escaped by ElementTree


def _ids(root: ET.Element) -> list[str]:
    return [element.attrib["id"] for element in root.iter() if "id" in element.attrib]


def _references(root: ET.Element) -> list[str]:
    found = []
    for element in root.iter():
        found.append(element.get(f"{_XLINK}href", ""))
        found.append(element.get("clip-path", "").removeprefix("url(").removesuffix(")"))
    return found


def _colored(style: str) -> str:
    for color, variable in _VARIABLES.items():
        style = style.replace(color, f"var({variable})")
    return style.replace("font-family: 'DejaVu Sans'; ", "")
