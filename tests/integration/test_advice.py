"""The line of advice of real runs that are slow for a known reason: a far store, a large model, large photos."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.run_records import RunResult
from tests.fault_proxy import Fault, FaultProxy
from tests.model_zoo import pooled_model
from tests.runs import make_photo, make_photos, run_quietly, small_config
from transforms import storage

pytestmark = pytest.mark.heavy
pytest_plugins = ["tests.s3_store"]

REPORT = {"enabled": True, "thumbnails": 0}


def time_of(result: RunResult) -> dict[str, Any]:
    """What the report of a run says of its time."""
    path = Path(result.layout.report("json", refused=False))
    return dict(json.loads(path.read_text(encoding="utf-8"))["time"])


def large_products(logits: Any) -> Any:
    """Multiply large matrices at every call, with numbers that no optimiser knows beforehand."""
    import tensorflow as tf

    product = tf.random.uniform([1400, 1400]) + tf.reduce_sum(logits)
    for _ in range(6):
        product = tf.tanh(product @ product)
    return {"logits": logits + 1e-6 * tf.reduce_mean(product)}


@pytest.fixture(scope="module")
def quick_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that takes no time."""
    return pooled_model(tmp_path_factory.mktemp("model") / "pooled")


@pytest.fixture
def far_bucket(s3_endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket that is a tenth of a second away."""
    from tests.s3_store import make_bucket, use_s3

    proxy = FaultProxy(s3_endpoint, stall_seconds=0.1)
    bucket = make_bucket(s3_endpoint)
    try:
        use_s3(monkeypatch, proxy.endpoint)
        for number in range(80):
            photo = make_photo(tmp_path / "photo.png", number)
            storage.write_bytes(f"{bucket}/{number:03}.png", photo.read_bytes())
        proxy.inject(Fault.STALL, "GET .*png")
        yield bucket
    finally:
        storage._remote_filesystem.cache_clear()
        proxy.close()


def test_a_far_store_limits_by_reading(far_bucket: str, tmp_path: Path, quick_model: Path) -> None:
    """Two threads wait for it."""
    config = small_config(quick_model, report=REPORT, load={"threads": 2})
    time = time_of(run_quietly(config, [far_bucket], tmp_path / "out"))
    assert time["limit"] == "read", time
    assert time["advice"].startswith("Reading limits: the loading threads were at work")
    assert "More load.threads help" in time["advice"]


def test_a_large_model_limits_by_the_device(tmp_path: Path) -> None:
    """Small photos from a near disk are there before it is ready for them."""
    model = pooled_model(tmp_path / "model", head=large_products)
    make_photos(tmp_path / "photos", 120)
    config = small_config(model, report=REPORT, load={"threads": 2})
    time = time_of(run_quietly(config, [tmp_path / "photos"], tmp_path / "out"))
    assert time["limit"] == "device", time
    assert time["busy"]["device"] > 0.8
    assert time["advice"].startswith("The model limits: it was at work")


def test_large_photos_limit_by_decoding(tmp_path: Path, quick_model: Path) -> None:
    """Twelve megapixels each, decoded in full."""
    noise = np.random.default_rng(0).integers(0, 256, (3000, 4000, 3), np.uint8)
    (tmp_path / "photos").mkdir()
    Image.fromarray(noise).save(tmp_path / "photos" / "0.jpg", quality=90)
    for number in range(1, 40):
        (tmp_path / "photos" / f"{number}.jpg").hardlink_to(tmp_path / "photos" / "0.jpg")
    config = small_config(quick_model, report=REPORT, load={"threads": 2}, decode={"jpeg_scaling": "off"})
    time = time_of(run_quietly(config, [tmp_path / "photos"], tmp_path / "out"))
    assert time["limit"] == "decode", time
    assert time["busy"]["load"] > 0.8
    assert time["advice"].startswith("Decoding limits: the loading threads were at work")
