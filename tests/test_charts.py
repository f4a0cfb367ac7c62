"""Charts: text stays text, the page gives the colours, and the same data gives the same bytes."""

import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from markupsafe import Markup

from pipeline.pages.charts import Bar, Pair, bars, histogram, histograms, pairs, share, timeline

HOSTILE = "<script>alert(1)</script> \"q\" 'a' $x^2$ \u202e"
START = datetime(2026, 11, 22, 2, 30, tzinfo=UTC)
CHARTS: dict[str, Callable[[str], Markup]] = {
    "bars": lambda name: bars(name, [Bar(name, 3, "3"), Bar("dog", 0.001, "0.001")]),
    "pairs": lambda name: pairs(name, (name, "B"), [Pair(name, 1, 2, "1 and 2")]),
    "share": lambda name: share(name, [Bar(name, 1, "1 s"), Bar("model", 3, "3 s")]),
    "histogram": lambda name: histogram(name, [0, 0.5, 1], [10, 20_000], name),
    "histograms": lambda name: histograms(name, (name, "B"), [0, 0.5, 1], [1, 2], [2, 1], name),
    "timeline": lambda name: timeline(name, [START, START + timedelta(seconds=9)], [3.5]),
}
each_chart = pytest.mark.parametrize("draw", CHARTS.values(), ids=CHARTS.keys())


def texts(svg: Markup) -> list[str]:
    """What is written in a chart, title and description first."""
    root = ET.fromstring(svg)  # noqa: S314  our own
    return [element.text or "" for element in root.iter() if element.tag in ("title", "desc", "text")]


@each_chart
def test_a_hostile_label_is_text_in_a_chart(draw: Callable[[str], Markup]) -> None:
    """No element of its own, letters instead of what turns the writing, dollar signs as they are."""
    svg = draw(HOSTILE)
    told = HOSTILE.replace("\u202e", "\\u202e")
    assert told in texts(svg)[0]
    assert "<script" not in svg
    assert "\u202e" not in svg
    assert isinstance(svg, Markup)


@each_chart
def test_a_chart_is_the_same_bytes_again(draw: Callable[[str], Markup]) -> None:
    """Neither time nor chance is in it."""
    assert draw("cats") == draw("cats")


@each_chart
def test_a_chart_leaves_colours_and_letters_to_the_page(draw: Callable[[str], Markup]) -> None:
    """Variables only; nothing that holds for the whole page, and nothing from elsewhere."""
    svg = draw("cats")
    colors = set(re.findall(r"(?:fill|stroke): ([^;\"]+)", svg)) - {"none"}
    assert colors
    assert all(re.fullmatch(r"var\(--[a-z0-9-]+\)", color) for color in colors), colors
    assert "font-family" not in svg
    assert "<style" not in svg
    assert "http" not in svg


def test_two_charts_of_a_page_share_no_id() -> None:
    """Every reference leads into its own drawing."""
    drawn = [draw("cats") for draw in CHARTS.values()]
    ids = [re.findall(r' id="([^"]+)"', svg) for svg in drawn]
    assert sum(map(len, ids)) == len(set().union(*ids)) > 0
    for own, svg in zip(ids, drawn, strict=True):
        assert set(re.findall(r'(?:url\(|href=")#([^)"]+)', svg)) <= set(own)


def test_bars_are_as_long_as_their_values() -> None:
    """The longest fills the width, half of it is half as long, and the smallest is seen."""
    svg = bars("classes", [Bar("cat", 10, "10"), Bar("dog", 5, "5"), Bar("emu", 0.0001, "1"), Bar("ox", 0, "0")])
    widths = [float(end) for end in re.findall(r'd="M 0 [\d.]+  L ([\d.]+) [^"]*" clip-path', svg)]
    assert widths == [360, 180, 0.75, 0]


def test_the_parts_of_a_share_fill_the_width() -> None:
    """One behind the other, in their proportion."""
    svg = share("time", [Bar("read", 1, "1 s"), Bar("model", 3, "3 s")])
    parts = re.findall(r'd="M ([\d.]+) 2  L ([\d.]+) 2 ', svg)
    assert [(float(left), float(right)) for left, right in parts] == [(0, 90), (90, 360)]


def test_a_label_that_is_too_long_is_cut_in_its_middle() -> None:
    """Its ends stay; read aloud, it is whole."""
    label = "begin" + "x" * 200 + "end"
    title, described, written, value = texts(bars("classes", [Bar(label, 1, "1")]))
    assert (title, described, value) == ("classes", f"{label}: 1", "1")
    assert written.startswith("begin")
    assert written.endswith("end")
    assert "…" in written
    assert len(written) < 60


@pytest.mark.parametrize("letters", ["W", "m", "M@", "x", "A", "Ä b "])
def test_a_label_of_wide_letters_ends_before_its_value(letters: str) -> None:
    """Measured in the font of the chart, whose letters are not all of one width."""
    from matplotlib.textpath import TextPath

    written = texts(bars("classes", [Bar(letters * 200, 1, "12 (3.4%)")]))[2]
    ends = [float(TextPath((0, 0), text, size=11).get_extents().width) for text in (written, "12 (3.4%)")]
    assert 200 < ends[0] < 360 - ends[1]


def test_a_label_of_chinese_letters_has_the_room_that_they_take() -> None:
    """Each is as wide as it is high, which no font here shows."""
    written = texts(bars("classes", [Bar("类别" * 100, 1, "12 (3.4%)")]))[2]
    assert 20 <= len(written) <= (360 - 60) / 11


def test_letters_that_no_font_here_has_are_written() -> None:
    """The page's own font shows them; no warning is let out."""
    assert "日本語" in texts(bars("classes", [Bar("日本語", 1, "1")]))


@pytest.mark.parametrize(
    ("seconds", "labels"),
    [
        (1, ["02:30:00.0", "02:30:00.5", "02:30:01.0"]),
        (60, ["02:30:00", "02:30:30", "02:31:00"]),
        (7200, ["02:30", "03:30", "04:30"]),
        (172800, ["11-22 02:30", "11-23 02:30", "11-24 02:30"]),
    ],
)
def test_a_timeline_says_its_moments(seconds: int, labels: list[str]) -> None:
    """The first, the middle and the last one, as exactly as the span asks."""
    svg = timeline("rate", [START, START + timedelta(seconds=seconds)], [1.0])
    assert [text for text in texts(svg) if ":" in text][1:] == labels


def test_charts_of_nothing_are_drawn() -> None:
    """No rows, no counts: a chart all the same, which says so."""
    assert "no values" in histogram("h", [0, 1], [0], "x")
    assert bars("b", []).startswith("<svg")
    assert pairs("p", ("A", "B"), []).startswith("<svg")
    assert share("s", [Bar("read", 0, "0 s")]).startswith("<svg")
