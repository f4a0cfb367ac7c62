"""Score batches with one loaded model: from pixels to rows of the scores table, or failures that say why not."""

import functools
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from transforms import calibration, interpretation, probabilities, storage, tables
from transforms.batch_size import BatchChoice, choose_batch_size
from transforms.devices import DeviceSlots
from transforms.encoded import encode_png
from transforms.errors import ConfigError
from transforms.labels import load_labels, load_thresholds
from transforms.layout import fingerprint
from transforms.load_plan import load_rows
from transforms.model_calls import fill_up
from transforms.models import Classifier, load_model
from transforms.predicting import BatchPredictor, Pixels, Predict, is_out_of_memory
from transforms.records import Failure, ImageBatch, now_us
from transforms.redaction import redact
from transforms.settings import (
    CalibrationSettings,
    DecodeSettings,
    LabelSettings,
    ModelSettings,
    PreprocessSettings,
    ResultSettings,
)
from transforms.sifting import PredictedBatch, SiftedBatch, sift
from transforms.variants import asked_variant, compare, comparison_images, judge

_LOG = logging.getLogger(__name__)

# Raise it when pixels or scores of the same image change with the same settings: earlier rows are then not reused.
PIXELS_REVISION = 2
_PROBE_IMAGES, _PROBE_SIZE = 4, 64
# Where every size is planned or compiled first, that alone would use up the usual time, and end at the first size.
_MEASURE_COMPILED: dict[str, Any] = {"first": 16, "budget_seconds": 30.0}


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
    """Wall time of the model and of waiting for its device, in milliseconds."""
    out_of_memory: int
    """How many calls ran out of memory and were halved."""


class Scorer:
    """A loaded model with everything that turns its output into rows. One a process; threads may share it.

    Args:
        plan: What to load and how to read it.
        when_frozen: Called when TensorFlow is left to optimise the model, without the interpreter's lock.
        slots: Of a model that works on the same devices: then both make their calls through them. None for its own.

    Raises:
        ConfigError: Model, labels, k or thresholds do not fit each other (ModelError for the model itself).
    """

    def __init__(
        self,
        plan: ScorerPlan,
        when_frozen: Callable[[], None] = lambda: None,
        slots: DeviceSlots | None = None,
    ) -> None:
        started = time.perf_counter()
        _LOG.info("loading model %s", redact(plan.model.path))
        self.plan = plan
        self.classifier: Classifier = load_model(plan.model, plan.preprocess, when_frozen)
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
        plain = self.classifier
        if asked_variant(plan.model) is not None:
            self.classifier = plain.variant(plan.model)
        names = tuple(self.classifier.devices.names)
        shared = slots is not None and slots.devices == names
        self.slots = slots if slots is not None and shared else DeviceSlots(names, plan.model.calls_in_flight)
        self._measuring = threading.RLock()
        self.variant_reason = self._compare_with(plain) if self.classifier is not plain else None
        _LOG.info("loaded model %s in %.1f s", self.classifier.model_id, time.perf_counter() - started)

    @property
    def calls_in_flight(self) -> int:
        """Calls of the model that may run at a time: more threads than that wait for a device."""
        return self.slots.count

    @property
    def _pads(self) -> bool:
        # An accelerator plans, and XLA compiles, every size anew; a CPU would only work for nothing.
        return self.classifier.fixed_batch is None and (self.classifier.devices.are_gpus or self.plan.model.xla)

    def _call_slot(self, pixels: Pixels) -> npt.NDArray[np.float32]:
        with self.slots.take() as device:
            return self._call_model(pixels, device)

    def _call_model(self, pixels: Pixels, device: str | None = None) -> npt.NDArray[np.float32]:
        return _call(self.classifier, pixels, device)

    @property
    def batch_choice(self) -> BatchChoice:
        """The images a call, and why: measured when it is first asked for, which a run does before it reads an image.

        Not while the model is loaded: other imports go on beside that, and would be measured with it.
        """
        with self._measuring:
            return self._batch_choice

    @functools.cached_property
    def _batch_choice(self) -> BatchChoice:
        choice = self._choose_batch_size()
        _LOG.info("%s", choice.reason)
        return choice

    @functools.cached_property
    def _predictor(self) -> BatchPredictor:
        return BatchPredictor(self._call_slot, self.batch_choice.size, pads=self._pads)

    def _choose_batch_size(self) -> BatchChoice:
        if self.classifier.fixed_batch is not None:
            size = self.classifier.fixed_batch
            return BatchChoice(size, f"batch size {size}, because the model takes no other", ())
        if self.plan.batch_size is not None:
            return BatchChoice(self.plan.batch_size, f"batch size {self.plan.batch_size}, as declared", ())
        noise = self._noise(1)
        return choose_batch_size(
            lambda size: self._call_model(noise.repeat(size, axis=0)),
            is_out_of_memory,
            # No call is larger than what is loaded together.
            largest=load_rows(self.classifier.height, self.classifier.width),
            **(_MEASURE_COMPILED if self._pads else {}),
        )

    def _compare_with(self, plain: Classifier) -> str:
        """Hold the variant to the plain model, on probabilities; return what was found."""
        if self.classifier.takes_bytes:
            images = self._noise(_PROBE_IMAGES)
        else:
            images = comparison_images(self.classifier.height, self.classifier.width)
        size = self.batch_choice.size

        def scores(classifier: Classifier) -> Predict:
            def predict(pixels: Pixels) -> npt.NDArray[np.float32]:
                raw = _call(classifier, fill_up(pixels, size))[: len(pixels)]
                # What is not finite is compared as it is: nothing can be made of it.
                if not np.isfinite(raw).all():
                    return raw
                return interpretation.to_probabilities(raw, self.meaning, self.plan.calibration)

            return predict

        while True:
            try:
                compared = compare(scores(plain), scores(self.classifier), images, size, time.perf_counter)
            except Exception as error:
                if not is_out_of_memory(error) or size == 1:
                    raise
                size //= 2
            else:
                return judge(compared, self.plan.model)

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
                    # Left out where nothing was asked for, so that such scores keep their fingerprint.
                    **({} if asked_variant(plan.model) is None else {"variant": asked_variant(plan.model)}),
                }
            ),
        }

    @property
    def execution(self) -> dict[str, str | None]:
        """How the model is run in this process, each with its reason; for the manifest."""
        return {
            "devices": self.classifier.devices.reason,
            "batch_size": self.batch_choice.reason,
            "variant": self.variant_reason,
        }

    def score(self, batch: ImageBatch) -> ScoredBatch:
        """Score one batch.

        Returns:
            As many rows and failures together as the batch has images.

        Raises:
            RunError: The output contradicts what it is declared to be, or has another number of rows than the
                batch: no row of this model can be trusted.
        """
        return self.finish(self.predict(batch))

    def predict(self, batch: ImageBatch) -> PredictedBatch:
        """Do the device's part of score: it may run in a thread beside finish of the batch before.

        Raises:
            RunError: As score.
        """
        with self._measuring:
            predictor = self._predictor
        started = time.perf_counter()
        answers = predictor.predict(batch.pixels)
        return PredictedBatch(batch, answers, (time.perf_counter() - started) * 1e3)

    def finish(self, predicted: PredictedBatch) -> ScoredBatch:
        """Do the host's part of score: from what the model said to rows.

        Raises:
            RunError: As score.
        """
        return self.fill(self.sift(predicted))

    def sift(self, predicted: PredictedBatch) -> SiftedBatch:
        """Tell the images that the model has scored from those that it has not."""
        return sift(predicted, self.meaning.num_units)

    def fill(self, sifted: SiftedBatch) -> ScoredBatch:
        """Make rows of what the model said.

        Raises:
            RunError: As score.
        """
        rows = self._rows(sifted.batch, sifted.kept, sifted.raw) if sifted.kept else self.no_rows()
        return ScoredBatch(rows, sifted.failures, sifted.model_ms, sifted.out_of_memory)

    def no_rows(self) -> pa.RecordBatch:
        """Return a batch of no rows of the table."""
        return pa.RecordBatch.from_pylist([], schema=self.schema)

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
                **({} if self._thresholds is None else {"thresholds": json.dumps(self._thresholds.tolist())}),
                "preprocessing": plan.preprocess.model_dump_json(),
                **{tables.FINGERPRINT_KEY + name: value for name, value in self.fingerprints.items()},
            }
        )


def _call(classifier: Classifier, pixels: Pixels, device: str | None = None) -> npt.NDArray[np.float32]:
    if classifier.takes_bytes:
        return classifier.predict_bytes(pixels.tolist(), device)
    return classifier.predict(pixels, device)
