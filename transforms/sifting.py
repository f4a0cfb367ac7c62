"""Tell the images that a model has answered from those that it has not."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from transforms import probabilities
from transforms.errors import FailureCode, Stage
from transforms.predicting import Answers
from transforms.records import Failure, ImageBatch, now_us


class PredictedBatch(NamedTuple):
    """A batch between its two parts."""

    batch: ImageBatch
    """What is scored."""
    answers: Answers
    """What the model said."""
    model_ms: float
    """Wall time of the model and of waiting for its device, in milliseconds."""


class SiftedBatch(NamedTuple):
    """A batch whose answers were looked through."""

    batch: ImageBatch
    """What is scored."""
    kept: list[int]
    """Images that have a row: what the model said of them is finite."""
    raw: npt.NDArray[np.float32]
    """float32[len(kept), U], what it said."""
    failures: list[Failure]
    """One for each of the others."""
    model_ms: float
    """As in PredictedBatch."""
    out_of_memory: int
    """How many calls ran out of memory and were halved."""


def sift(predicted: PredictedBatch, num_units: int) -> SiftedBatch:
    """Tell the images that a model has scored from those that it has not.

    Args:
        predicted: A batch, and what the model said of it.
        num_units: Width of its output, for a batch of which nothing is kept.

    Returns:
        As many kept images and failures together as the batch has images.
    """
    batch, (slices, halved), model_ms = predicted
    failures: list[Failure] = []
    kept: list[int] = []
    raws: list[npt.NDArray[np.float32]] = []
    for answer in slices:
        if answer.raw is None:
            reason = f"the model failed on this image: {_first_line(answer.error)}"
            failures.append(score_failure(batch, answer.start, FailureCode.MODEL_ERROR, reason))
            continue
        finite = probabilities.finite_rows(answer.raw)
        for bad in np.flatnonzero(~finite):
            reason = "the model returned NaN or infinite values for this image"
            failures.append(score_failure(batch, answer.start + int(bad), FailureCode.NON_FINITE_OUTPUT, reason))
        kept += (answer.start + np.flatnonzero(finite)).tolist()
        raws.append(answer.raw[finite])
    raw = np.concatenate(raws) if raws else np.empty((0, num_units), np.float32)
    return SiftedBatch(batch, kept, raw, failures, model_ms, halved)


def score_failure(batch: ImageBatch, row: int, code: FailureCode, reason: str) -> Failure:
    """Return the failure of one image of a batch whose model has not scored it."""
    return Failure(batch.refs[row], Stage.SCORE, code, reason, now_us())


def _first_line(error: Exception | None) -> str:
    text = str(error).strip().split("\n")[0]
    return f"{type(error).__name__}: {text[:300]}"
