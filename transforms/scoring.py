"""Score batches with one loaded model: from pixels to rows of the scores table, or failures that say why not."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from transforms import calibration, interpretation, probabilities, storage, tables
from transforms.batch_size import BatchChoice, choose_batch_size
from transforms.encoded import encode_png
from transforms.errors import ConfigError, FailureCode, RunError, Stage
from transforms.labels import load_labels, load_thresholds
from transforms.layout import fingerprint
from transforms.loading import load_rows
from transforms.models import Classifier, load_model
from transforms.records import Failure, ImageBatch, now_us
from transforms.settings import (
    CalibrationSettings,
    DecodeSettings,
    LabelSettings,
    ModelSettings,
    PreprocessSettings,
    ResultSettings,
)

_LOG = logging.getLogger(__name__)

# Raise it when pixels or scores of the same image change with the same settings: earlier rows are then not reused.
PIXELS_REVISION = 2
_PROBE_IMAGES, _PROBE_SIZE = 4, 64

# uint8[N, H, W, 3], or object[N] of encoded bytes.
Pixels = npt.NDArray[Any]
Predict = Callable[[Pixels], npt.NDArray[np.float32]]


@dataclass(frozen=True)
class ScorerPlan:
    """Everything that decides an image's scores: picklable, the same on both roads."""

    model: ModelSettings
    """Which model, and what its output means."""
    preprocess: PreprocessSettings
    """What the model's input looks like."""
    decode: DecodeSettings
    """Limits and background; part of the fingerprint of preprocessing."""
    labels: LabelSettings
    """The names of the classes."""
    calibration: CalibrationSettings
    """Temperature or Platt scaling."""
    results: ResultSettings
    """What the table holds."""
    batch_size: int | None
    """Images a call of the model at most; None measures it."""


class ScoredBatch(NamedTuple):
    """What became of one batch: every image is in one of the two."""

    rows: pa.RecordBatch
    """Rows of the scores table, possibly none."""
    failures: list[Failure]
    """Images that the model could not score."""
    model_ms: float
    """Wall time of the model, in milliseconds."""
    out_of_memory: int
    """How many calls ran out of memory and were halved."""


class Predicted(NamedTuple):
    """A slice of a batch that the model answered for, or one image that it did not."""

    start: int
    """First image of the slice."""
    stop: int
    """One past its last image."""
    raw: npt.NDArray[np.float32] | None
    """float32[stop - start, U]; None where the model failed."""
    error: Exception | None
    """Why it failed; None where it did not."""


class BatchPredictor:
    """Calls a model so that neither its memory nor one image of a batch costs the other images.

    A batch that runs out of memory is halved, and the cap stays lowered for the life of the process. A batch
    that fails for another reason is bisected down to the images that cause it.

    Args:
        predict: uint8[N, H, W, 3] -> float32[N, U].
        cap: Images a call at most, to begin with.
    """

    def __init__(self, predict: Predict, cap: int) -> None:
        self._predict = predict
        self.cap = cap
        self.out_of_memory = 0

    def predict(self, pixels: Pixels) -> Iterator[Predicted]:
        """Yield slices that cover the batch, in order."""
        yield from self._in_calls(pixels, 0, len(pixels))

    def _in_calls(self, pixels: Pixels, start: int, end: int) -> Iterator[Predicted]:
        while start < end:
            stop = min(start + self.cap, end)
            yield from self._answer(pixels, start, stop)
            start = stop

    def _answer(self, pixels: Pixels, start: int, stop: int) -> Iterator[Predicted]:
        try:
            raw = self._predict(pixels[start:stop])
        except RunError:
            raise
        except Exception as error:  # noqa: BLE001  a model is foreign code: what it raises is a fact of this batch
            if stop - start == 1:
                yield Predicted(start, stop, None, error)
                return
            half = (stop - start + 1) // 2
            full = _is_out_of_memory(error)
            self.out_of_memory += full
            if full and half < self.cap:
                self.cap = half
                _LOG.warning("the device ran out of memory on %d images: from now on %d a call", stop - start, half)
        else:
            yield Predicted(start, stop, raw, None)
            return
        if full:
            # By the cap, which falls on the way: a half that is still too large is not tried a second time.
            yield from self._in_calls(pixels, start, start + half)
            yield from self._in_calls(pixels, start + half, stop)
        else:
            yield from self._answer(pixels, start, start + half)
            yield from self._answer(pixels, start + half, stop)


def _is_out_of_memory(error: Exception) -> bool:
    import tensorflow as tf

    return isinstance(error, tf.errors.ResourceExhaustedError)


class Scorer:
    """A loaded model with everything that turns its output into rows. One a process; threads may share it.

    Args:
        plan: What to load and how to read it.

    Raises:
        ConfigError: Model, labels, k or thresholds do not fit each other (ModelError for the model itself).
    """

    def __init__(self, plan: ScorerPlan) -> None:
        started = time.perf_counter()
        _LOG.info("loading model %s", plan.model.path)
        self.plan = plan
        self.classifier: Classifier = load_model(plan.model, plan.preprocess)
        description = self.classifier.description
        self.meaning = interpretation.resolve(plan.model, description.head, self._probe, self.classifier.num_classes)
        _LOG.info("%s", self.meaning.reason)
        calibration.check(plan.calibration, self.meaning.activation, self.meaning.num_units)
        classes = self.meaning.num_classes
        if plan.results.top_k > classes:
            raise ConfigError(
                f"results.top_k must be at most the number of classes, got {plan.results.top_k} for {classes} "
                f"classes of model {plan.model.path}; lower it"
            )
        self.labels = load_labels(
            plan.labels, classes, storage.read_bytes, description.labels, one_unit=self.meaning.one_unit
        )
        self._thresholds: npt.NDArray[np.float32] | None = None
        if self.meaning.activation == "sigmoid":
            self._thresholds = load_thresholds(plan.labels, classes, storage.read_bytes)
        elif plan.labels.thresholds != LabelSettings.model_fields["thresholds"].default:
            raise ConfigError(
                f"labels.thresholds {plan.labels.thresholds} is for sigmoid, and the activation of "
                f"{plan.model.path} is {self.meaning.activation}: nothing would heed it; leave it out"
            )
        self._label_array = pa.array(self.labels, pa.string()).dictionary_encode()
        self.schema = tables.scores_schema(classes, with_logits=plan.results.logits)
        self.batch_choice = self._choose_batch_size()
        self._predictor = BatchPredictor(self._call_model, self.batch_choice.size)
        _LOG.info("%s", self.batch_choice.reason)
        # One call in flight: a second one gains nothing on a busy device and doubles its memory.
        self._device = threading.BoundedSemaphore(1)
        _LOG.info("loaded model %s in %.1f s", self.classifier.model_id, time.perf_counter() - started)

    def _call_model(self, pixels: Pixels) -> npt.NDArray[np.float32]:
        if self.classifier.takes_bytes:
            return self.classifier.predict_bytes(pixels.tolist())
        return self.classifier.predict(pixels)

    def _choose_batch_size(self) -> BatchChoice:
        if self.classifier.fixed_batch is not None:
            size = self.classifier.fixed_batch
            return BatchChoice(size, f"batch size {size}, because the model takes no other", ())
        if self.plan.batch_size is not None:
            return BatchChoice(self.plan.batch_size, f"batch size {self.plan.batch_size}, as declared", ())
        noise = self._noise(1)
        return choose_batch_size(
            lambda size: self._call_model(noise.repeat(size, axis=0)),
            _is_out_of_memory,
            # No call is larger than what is loaded together.
            largest=load_rows(self.classifier.height, self.classifier.width),
        )

    def _probe(self) -> npt.NDArray[np.float32]:
        """Return float32[N, U] for a few fixed noise images, to see what the model's output looks like."""
        return self._call_model(self._noise(self.classifier.fixed_batch or _PROBE_IMAGES))

    def _noise(self, count: int) -> Pixels:
        height, width = self.classifier.height, self.classifier.width
        if self.classifier.takes_bytes:
            height = width = _PROBE_SIZE
        noise = np.random.default_rng(0).integers(0, 256, (count, height, width, 3), np.uint8)
        if not self.classifier.takes_bytes:
            return noise
        encoded = np.empty(count, object)
        encoded[:] = [encode_png(image) for image in noise]
        return encoded

    @property
    def fingerprints(self) -> dict[str, str]:
        """What makes these scores what they are: equal fingerprints, equal scores for equal bytes."""
        plan = self.plan
        return {
            "model": self.classifier.fingerprint,
            "preprocessing": fingerprint(
                {
                    "revision": PIXELS_REVISION,
                    "height": self.classifier.height,
                    "width": self.classifier.width,
                    "preprocess": plan.preprocess.model_dump(mode="json", exclude={"height", "width"}),
                    "background": plan.decode.background,
                    "jpeg_scaling": plan.decode.jpeg_scaling,
                }
            ),
            "scoring": fingerprint(
                {
                    "signature": plan.model.signature,
                    "output_name": plan.model.output_name,
                    "tags": plan.model.tags,
                    "output": self.meaning.output,
                    "activation": self.meaning.activation,
                    "calibration": plan.calibration.model_dump(mode="json"),
                    "labels": list(self.labels),
                    "thresholds": None if self._thresholds is None else self._thresholds.tolist(),
                    "results": plan.results.model_dump(mode="json"),
                }
            ),
        }

    def score(self, batch: ImageBatch) -> ScoredBatch:
        """Score one batch.

        Returns:
            As many rows and failures together as the batch has images.

        Raises:
            RunError: The output contradicts what it is declared to be, or has another number of rows than the
                batch: no row of this model can be trusted.
        """
        started = time.perf_counter()
        with self._device:
            before = self._predictor.out_of_memory
            answers = list(self._predictor.predict(batch.pixels))
            halved = self._predictor.out_of_memory - before
        model_ms = (time.perf_counter() - started) * 1e3
        failures: list[Failure] = []
        kept: list[int] = []
        raws: list[npt.NDArray[np.float32]] = []
        for answer in answers:
            if answer.raw is None:
                reason = f"the model failed on this image: {_first_line(answer.error)}"
                failures.append(_failure(batch, answer.start, FailureCode.MODEL_ERROR, reason))
                continue
            finite = probabilities.finite_rows(answer.raw)
            for bad in np.flatnonzero(~finite):
                reason = "the model returned NaN or infinite values for this image"
                failures.append(_failure(batch, answer.start + int(bad), FailureCode.NON_FINITE_OUTPUT, reason))
            kept += (answer.start + np.flatnonzero(finite)).tolist()
            raws.append(answer.raw[finite])
        if not kept:
            return ScoredBatch(pa.RecordBatch.from_pylist([], schema=self.schema), failures, model_ms, halved)
        return ScoredBatch(self._rows(batch, kept, np.concatenate(raws)), failures, model_ms, halved)

    def _rows(self, batch: ImageBatch, kept: list[int], raw: npt.NDArray[np.float32]) -> pa.RecordBatch:
        values = interpretation.to_probabilities(raw, self.meaning, self.plan.calibration)
        return tables.scores_batch(
            self.schema,
            [batch.refs[i] for i in kept],
            [batch.infos[i] for i in kept],
            values,
            probabilities.summarise(values, self.plan.results.top_k, independent=self.meaning.independent),
            self._label_array,
            self.classifier.model_id,
            now_us(),
            None if self._thresholds is None else interpretation.over_threshold(values, self._thresholds, self.meaning),
            raw,
        )

    def file_metadata(self) -> dict[str, str]:
        """Return what a Parquet file of these scores says of itself."""
        import json

        plan = self.plan
        return tables.file_metadata(
            {
                "model_id": self.classifier.model_id,
                "labels": json.dumps(list(self.labels), ensure_ascii=False),
                "output": self.meaning.output,
                "activation": self.meaning.activation,
                "activation_reason": self.meaning.reason,
                "num_units": str(self.meaning.num_units),
                "calibration": plan.calibration.model_dump_json(),
                "preprocessing": plan.preprocess.model_dump_json(),
                **{f"fingerprint.{name}": value for name, value in self.fingerprints.items()},
            }
        )


def _failure(batch: ImageBatch, row: int, code: FailureCode, reason: str) -> Failure:
    return Failure(batch.refs[row], Stage.SCORE, code, reason, now_us())


def _first_line(error: Exception | None) -> str:
    text = str(error).strip().split("\n")[0]
    return f"{type(error).__name__}: {text[:300]}"
