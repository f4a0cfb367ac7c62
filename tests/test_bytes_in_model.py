"""A real network that decodes, crops and resizes in its own graph says what the pipeline's own decoding says."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.config import RunConfig
from pipeline.in_memory import score_in_memory
from transforms.settings import BatchSettings


@pytest.fixture(scope="module")
def bytes_in_directory(lite0_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """EfficientNet-Lite0 behind TensorFlow's own decoder: string[N] -> logits float32[N, 1000]."""
    import tensorflow as tf

    loaded = tf.saved_model.load(str(lite0_directory))

    def prepare(encoded: Any) -> Any:
        # The default DCT is the fast one, whose pixels lie about 1 of 255 away: enough to turn 3% of the answers.
        image = tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE")
        height, width = tf.shape(image)[0], tf.shape(image)[1]
        side = tf.cast(tf.cast(tf.minimum(height, width), tf.float32) * 0.875, tf.int32)
        image = tf.image.crop_to_bounding_box(image, (height - side) // 2, (width - side) // 2, side, side)
        return (tf.round(tf.image.resize(image, [224, 224])) - 127.0) / 128.0

    class BytesIn(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.loaded = loaded  # its variables live as long as it does

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")])
        def score(self, image_bytes: Any) -> Any:
            images = tf.map_fn(prepare, image_bytes, fn_output_signature=tf.TensorSpec([224, 224, 3], tf.float32))
            return {"logits": self.loaded.signatures["serving_default"](images)["logits"]}

    module = BytesIn()
    directory = tmp_path_factory.mktemp("bytes-in") / "model"
    tf.saved_model.save(module, str(directory), signatures=module.score)
    return directory


def config_for(model: Path, **preprocess: Any) -> RunConfig:
    """Logits and softmax, whatever the road to the pixels."""
    return RunConfig.model_validate(
        {
            "model": {"path": str(model), "output": "logits", "activation": "softmax"},
            "preprocess": {"value_range": "0_255", **preprocess},
        }
    ).model_copy(update={"batch": BatchSettings(size=16)})


def vectors(table: pa.Table) -> np.ndarray:
    """float32[N, 1000]."""
    return np.array(table["probabilities"].to_pylist(), np.float32)


@pytest.mark.heavy
def test_its_own_decoder_gives_the_same_answers(
    bytes_in_directory: Path, lite0_directory: Path, image_data_dir: Path
) -> None:
    """On 200 photos: top-1 probabilities within 2e-2, and the same top-1 on at least 98%."""
    photos = [str(path) for path in sorted((image_data_dir / "photos").iterdir())]
    theirs = score_in_memory(photos, config_for(bytes_in_directory))
    ours = score_in_memory(
        photos,
        config_for(
            lite0_directory, crop_pct=0.875, interpolation="bilinear_no_antialias", mean=(127,) * 3, std=(128,) * 3
        ),
    )
    assert len(theirs.scores) == len(ours.scores) == 200
    assert set(theirs.scores["image_decoder"].to_pylist()) == {"model"}
    a, b = vectors(ours.scores), vectors(theirs.scores)
    rows = np.arange(200)
    best = a.argmax(axis=1)
    assert np.mean(best == b.argmax(axis=1)) >= 0.98
    difference = np.abs(a[rows, best] - b[rows, best])
    assert difference.max() < 2e-2
