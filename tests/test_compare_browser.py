"""The page of a comparison in Chromium: it asks for nothing, complains of nothing, and is read on a phone."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.after.compare import compare
from pipeline.after.compare_page import comparison_page
from pipeline.after.published import find_run
from tests.hostile_texts import HOSTILE, LABELS, LONG, QUOTED
from tests.published_runs import publish_scores
from tests.runs import make_photo

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs whose labels, paths and ids want to be something else."""
    folder = tmp_path_factory.mktemp("compare")
    names = [QUOTED, LONG, *(f"{number}.png" for number in range(20))]
    photos = [str(make_photo(folder / "photos" / name, seed, (90, 60))) for seed, name in enumerate(names)]
    photos.append(f"/gone/{HOSTILE}/{QUOTED}")
    rng = np.random.default_rng(0)
    for run_id in ("2026-11-25." + "long" * 20, "2026-11-26"):
        publish_scores(
            folder / "out",
            photos,
            rng.dirichlet([0.3] * 4, len(photos)),
            labels=LABELS,
            run_id=run_id,
            model_id=HOSTILE,
        )
    runs = [find_run(str(run)) for run in sorted((folder / "out" / "runs").iterdir())]
    file = folder / "compare.html"
    file.write_text(comparison_page(compare(*runs), runs[1]), encoding="utf-8")
    return file


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "light"), (390, "dark")])
def test_the_comparison_opens_without_a_complaint(page: Path, width: int, scheme: str) -> None:
    """Nothing in the console, nothing asked for, nothing beside the window, and hostile names as text."""
    from tests.browser import opened

    with opened(page, width, scheme) as seen:
        seen.check(
            (HOSTILE, QUOTED, "dog & cat", "ラベル", "Flips by class", "Moved furthest", "not_found"), pictures=22
        )
        seen.keep(f"compare-{width}-{scheme}.png")
