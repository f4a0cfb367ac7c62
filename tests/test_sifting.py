"""No image of a batch is lost between what the model has answered and what it has not."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from transforms.errors import FailureCode, Stage
from transforms.predicting import Answers, Predicted
from transforms.records import ImageBatch, ImageInfo, ImageRef
from transforms.sifting import PredictedBatch, sift

ROWS = {"good": [0.25, -3.0], "nan": [0.5, np.nan], "infinite": [-np.inf, 0.0]}
CALLS = st.one_of(st.lists(st.sampled_from(sorted(ROWS)), min_size=1, max_size=4), st.just(["failed"]))


@given(st.lists(CALLS, max_size=6))
def test_every_image_is_kept_or_has_its_failure(calls: list[list[str]]) -> None:
    """A row that is finite is kept in its place; every other image fails under its own name, with its own code."""
    fates = [fate for call in calls for fate in call]
    refs = tuple(ImageRef(f"/{i}.png", 10, "v") for i in range(len(fates)))
    infos = tuple(ImageInfo(8, 6, "png", 10, "pillow") for _ in refs)
    batch = ImageBatch(refs, np.zeros((len(fates), 6, 8, 3), np.uint8), infos)
    slices = []
    for call in calls:
        start = slices[-1].stop if slices else 0
        failed = call == ["failed"]
        raw = None if failed else np.array([ROWS[fate] for fate in call], np.float32)
        slices.append(Predicted(start, start + len(call), raw, ValueError("no\nmore") if failed else None))

    sifted = sift(PredictedBatch(batch, Answers(slices, 2), 1.5), 2)

    assert sifted.kept == [i for i, fate in enumerate(fates) if fate == "good"]
    np.testing.assert_array_equal(sifted.raw, np.array([ROWS["good"]] * len(sifted.kept), np.float32).reshape(-1, 2))
    assert [(failure.ref, failure.stage, failure.code) for failure in sifted.failures] == [
        (ref, Stage.SCORE, FailureCode.MODEL_ERROR if fate == "failed" else FailureCode.NON_FINITE_OUTPUT)
        for ref, fate in zip(refs, fates, strict=True)
        if fate != "good"
    ]
    said = "the model failed on this image: ValueError: no"
    assert {failure.message for failure in sifted.failures if failure.code == FailureCode.MODEL_ERROR} <= {said}
    assert (sifted.batch, sifted.model_ms, sifted.out_of_memory) == (batch, 1.5, 2)
