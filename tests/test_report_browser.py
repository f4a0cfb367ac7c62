"""The report in Chromium: a file that asks for nothing, complains of nothing, and is read on a phone and in print."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from pipeline.after.ended import EndedRun, find_ended
from pipeline.after.report import write_report
from pipeline.after.report_advice import Spent
from tests.hostile_texts import HOSTILE, LABELS, LONG, QUOTED
from tests.published_runs import publish_scores
from tests.runs import make_photo

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a run whose labels and paths want to be something else."""
    folder = tmp_path_factory.mktemp("report")
    names = [QUOTED, LONG, "日本語 \u202egnp.png", *(f"{number}.png" for number in range(20))]
    photos = [str(make_photo(folder / "photos" / name, seed, (90, 60))) for seed, name in enumerate(names)]
    probabilities = np.random.default_rng(0).dirichlet([0.5] * 4, len(photos))
    publish_scores(folder / "out", photos, probabilities, labels=LABELS, top_k=3,
                   failed=[f"/gone/{HOSTILE}/{QUOTED}"] * 1, run_id="night")  # fmt: skip
    run = find_ended(str(folder / "out"))
    told = dict(run.facts, config={"report": {"thumbnails": 24}}, beam_flags=[f"--x={HOSTILE}"],
                inputs=[{"kind": "folder", "path": f"{folder}/{HOSTILE}"}],
                versions=Counter(python="3.11"), fingerprints={"model": "0" * 64})  # fmt: skip
    counts = {"read_ms": 900, "decode_ms": 9000, "model_ms": 3000, "write_ms": 30, "load_capacity_ms": 10_000,
              "model_capacity_ms": 5000, "write_scores_capacity_ms": 5000}  # fmt: skip
    ended = EndedRun(run.layout, run.exit_code, run.message, told, run.ledger, run.failures_by_code, run.files)
    return Path(write_report(ended, Spent(counts, 6.1, 5.2, 24, 0, on_gpu=False)))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_report_opens_without_a_complaint(page: Path, width: int, scheme: str) -> None:
    """Nothing in the console, nothing asked for, nothing beside the window, and hostile names as text."""
    from tests.browser import opened

    with opened(page, width, scheme) as seen:
        seen.check((HOSTILE, QUOTED, "dog & cat", "日本語 \\u202egnp.png", "Decoding limits", "ラベル"), pictures=23)
        smallest = seen.page.evaluate(
            """() => Math.min(...[...document.querySelectorAll("svg text")].map(
                 text => parseFloat(getComputedStyle(text).fontSize) * text.getScreenCTM().a))"""
        )
        assert smallest >= 9.5  # in pixels of the phone
        # A path of 4,000 letters would be a column of its own, and take the row of pictures apart.
        tallest = "Math.max(...[...document.querySelectorAll('.picture .path')].map(path => path.clientHeight))"
        assert 40 < seen.page.evaluate(tallest) < 100
        seen.keep(f"report-{width}-{scheme}.png")


def test_the_check_would_see_what_a_page_must_not_do(tmp_path: Path) -> None:
    """A page that fetches, complains and is too wide is told of: the test above can fail."""
    from tests.browser import opened

    bad = tmp_path / "bad.html"
    bad.write_text(
        '<body><img src="http://127.0.0.1:9/x.png"><p style="width:2000px">wide</p>'
        "<script>console.error('oh')</script><script>throw new Error('no')</script>"
    )
    with opened(bad, 390) as seen:
        assert seen.requests == ["http://127.0.0.1:9/x.png"]
        assert any("oh" in complaint for complaint in seen.complaints)
        assert any("no" in complaint for complaint in seen.complaints)
        assert "the page itself" in seen.overflow


def test_configuration_and_versions_are_printed(page: Path, tmp_path: Path) -> None:
    """What is folded on the screen stands on paper."""
    from tests.browser import opened

    with opened(page, 1280) as seen:
        seen.page.emulate_media(media="print")
        height = seen.page.evaluate("document.querySelector('details dl').getBoundingClientRect().height")
        assert height > 0
        seen.page.pdf(path=tmp_path / "report.pdf")
        assert (tmp_path / "report.pdf").stat().st_size > 10_000
