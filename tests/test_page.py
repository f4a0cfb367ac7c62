"""Pages: one file that needs nothing else, and every text in it escaped."""

import doctest
import re
from pathlib import Path

import jinja2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.pages import page
from pipeline.pages.page import percent_text, render_page
from pipeline.pages.thumbnails import Thumbnail

HOSTILE = "<script>alert(1)</script> \"q\" 'a' & \u202e\n"
TOLD = "&lt;script&gt;alert(1)&lt;/script&gt; &#34;q&#34; &#39;a&#39; &amp; \\u202e\\n"
TEMPLATE = """{% extends "page.html.j2" %}{% import "kit.html.j2" as kit %}
{% block title %}{{ name }}{% endblock %}
{% block body %}
{{ kit.header(name, name, "good", name) }}
{{ kit.advice(name) }}
{{ kit.cards([(name, name, name)]) }}
{{ kit.table([name], [[name]], [0]) }}
{{ kit.facts([(name, name)]) }}
{{ kit.pictures([(picture, [name])]) }}
{% endblock %}"""


@pytest.fixture
def template(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A page that uses the whole kit, beside the real templates."""
    (tmp_path / "all.html.j2").write_text(TEMPLATE)
    both = jinja2.ChoiceLoader([jinja2.FileSystemLoader(tmp_path), page._environment().loader])
    monkeypatch.setattr(page._environment(), "loader", both)
    return "all.html.j2"


def test_every_text_of_the_kit_is_escaped(template: str) -> None:
    """A label that would be a script, an attribute or a turned line is shown letter for letter."""
    html = render_page(template, name=HOSTILE, picture=Thumbnail(HOSTILE, None, 0, 0, HOSTILE))
    assert "<script" not in html
    assert "\u202e" not in html
    assert html.count(TOLD) == 15
    shown = render_page(template, name="x", picture=Thumbnail(HOSTILE, "data:image/jpeg;base64,AA==", 1, 1, None))
    assert f'<img src="data:image/jpeg;base64,AA==" alt="{TOLD}"' in shown


def test_a_page_needs_nothing_else(template: str) -> None:
    """No script, no address, no second file; and browsers are told to fetch none."""
    html = render_page(template, name="x", picture=Thumbnail("p", None, 0, 0, "gone"))
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in html
    assert re.findall(r"""(?:src|href)=["'](?!data:)|url\(|@import|<script|https?://""", html) == []


def test_a_name_that_is_not_given_is_an_error(template: str) -> None:
    """A page with a hole is never written."""
    with pytest.raises(jinja2.UndefinedError, match="'picture' is undefined"):
        render_page(template, name="x")


@given(st.floats(0, 1))
def test_a_share_that_is_not_all_never_looks_like_all(share: float) -> None:
    """Nor like none."""
    text = percent_text(share)
    assert (text == "100%") == (share == 1)
    assert (text == "0%") == (share == 0)


def test_the_examples_of_the_formats_are_true() -> None:
    """Those in their docstrings."""
    assert doctest.testmod(page).failed == 0
