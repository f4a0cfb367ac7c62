"""Beam asks for the size of a batch without pickling it."""

from dataclasses import replace

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pytest

from transforms import coders
from transforms.records import ImageBatch, ImageInfo, ImageRef, RivalRows

ROWS = pa.record_batch({"x": pa.array([1, 2, 3], pa.int32())})


def batch(pixels: np.ndarray) -> ImageBatch:
    """Return a batch of these pixels."""
    count = len(pixels)
    info = ImageInfo(4, 4, "jpeg", 9, "simplejpeg")
    return ImageBatch((ImageRef("/a.jpg", 9, "1-9"),) * count, pixels, (info,) * count)


def encoded() -> np.ndarray:
    """Return object[2] of encoded bytes."""
    files = np.empty(2, object)
    files[:] = [b"abc", b"defgh"]
    return files


@pytest.mark.parametrize(
    ("element", "size"),
    [
        (batch(np.zeros((3, 4, 4, 3), np.uint8)), 144),  # pixels
        (batch(encoded()), 8),  # encoded files
        (
            replace(batch(np.zeros((3, 4, 4, 3), np.uint8)), second=np.zeros((3, 2, 2, 3), np.uint8)),
            180,
        ),  # of two models
        (ROWS, 12),  # columns
        (RivalRows(ROWS, ROWS, ROWS.slice(0, 0)), 24),  # of two models
    ],
    ids=["pixels", "bytes", "both pixels", "rows", "both rows"],
)
def test_size_is_told_without_pickling(element: object, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The coder that Beam finds for batches counts bytes; a pickle of 19 MB a batch was thrown away for it."""
    coders.register()
    coder = beam.coders.registry.get_coder(type(element))
    monkeypatch.setattr(coders.pickle, "dumps", None)
    assert coder.get_impl().get_estimated_size_and_observables(element) == (size, [])


def test_batch_survives_encoding() -> None:
    """Where a runner does not fuse the steps, the batch arrives as it was."""
    coders.register()
    sent = batch(np.arange(96, dtype=np.uint8).reshape(2, 4, 4, 3))
    coder = beam.coders.registry.get_coder(ImageBatch)
    got = coder.decode(coder.encode(sent))
    np.testing.assert_array_equal(got.pixels, sent.pixels)
    assert (got.refs, got.infos) == (sent.refs, sent.infos)


def test_rows_of_two_models_survive_encoding_and_account_for_each_other() -> None:
    """An image that one of them has lost is found where the rows are put together."""
    coders.register()
    coder = beam.coders.registry.get_coder(RivalRows)
    got = coder.decode(coder.encode(RivalRows(ROWS, ROWS.slice(1), ROWS.slice(0, 1))))
    assert (got.scores, got.scores_challenger, got.failures_challenger) == (ROWS, ROWS.slice(1), ROWS.slice(0, 1))
    with pytest.raises(ValueError, match="3 images were scored, the challenger accounts for 2"):
        RivalRows(ROWS, ROWS.slice(1), ROWS.slice(0, 0))
