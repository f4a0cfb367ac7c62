"""The page of a preflight in Chromium: it asks for nothing, complains of nothing, and is read on a phone."""

import json
from pathlib import Path

import pytest

from pipeline.before.preflight import PreflightRequest, preflight
from pipeline.before.preflight_page import preflight_page
from tests.hostile_texts import HOSTILE, LABELS, LONG, QUOTED
from tests.model_zoo import pooled_model
from tests.runs import make_photos, small_config

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a night that would fail, with labels and paths that want to be something else."""
    folder = tmp_path_factory.mktemp("preflight")
    labels = folder / "labels.json"
    labels.write_text(json.dumps(LABELS))
    photos = make_photos(folder / "photos", 12)
    photos[0].rename(folder / "photos" / QUOTED)
    (folder / "photos" / LONG).write_bytes(b"")
    config = small_config(
        pooled_model(folder / "model"),
        labels={"path": str(labels)},
        prices={"machine_hour": 1.5, "stored_gb_month": 0.02},
        limits={"max_failures": 0},
        results={"top_k": 4},
    )
    output = folder / HOSTILE.replace("/", "_")
    found = preflight(
        PreflightRequest(config=lambda: config, inputs=[str(folder / "photos")], output=str(output), seconds=0.1)
    )
    file = folder / "preflight.html"
    file.write_text(preflight_page(found), encoding="utf-8")
    return file


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_opens_without_a_complaint(page: Path, width: int, scheme: str) -> None:
    """Nothing in the console, nothing asked for, nothing beside the window, and hostile names as text."""
    from tests.browser import opened

    with opened(page, width, scheme) as seen:
        seen.check(
            (HOSTILE, QUOTED, "dog & cat", "ラベル", "What the model sees", "would fail", "empty_file", "USD"),
            pictures=12,
        )
        seen.keep(f"preflight-{width}-{scheme}.png")
