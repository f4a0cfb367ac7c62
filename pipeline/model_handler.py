"""ImageModelHandler: the same images, model and probabilities in a team's own pipeline, by Beam's RunInference.

Beam's handlers for TensorFlow load neither SavedModel nor Hub directories under Keras 3 (apache/beam #30616) and know
nothing of what an output means. This one takes a RunConfig and whatever model it names.

    config = load_config("configs/local.yaml")
    pipeline | beam.Create(["photos/cat.jpg"]) | RunInference(ImageModelHandler(config))

An image that cannot be scored comes out as an ImageError in its place, with the code that the failures table would
have: one bad image never fails a bundle. What makes every answer wrong still stops the pipeline: a model that does
not fit its configuration, or whose output is not what it is declared to be.
"""

import os
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from apache_beam.ml.inference.base import ModelHandler

from pipeline.config import RunConfig
from transforms.encoded import encode_png
from transforms.errors import ConfigError, FailureCode, ImageError, RunError
from transforms.headers import probe
from transforms.images import decode_cost
from transforms.load_plan import thread_count
from transforms.loading import LoadedImage, load_one, prepare, to_batch, unexpected, warn_of_unexpected
from transforms.memory import ByteBudget
from transforms.observe import NAMESPACE
from transforms.quarantine import Quarantine
from transforms.records import ImageInfo, ImageRef
from transforms.resizing import fit
from transforms.scoring import Scorer
from transforms.storage import absolute

# Examples are whole files or whole photos: many of them at a time would be gigabytes.
_AUTO_ROWS = 32

ImageExample: TypeAlias = bytes | str | npt.NDArray[np.uint8]
"""An encoded image file, the path or URL of one, or its pixels as uint8[H, W, 3], RGB, of any size."""


@dataclass(frozen=True, slots=True)
class RankedClass:
    """One of the most probable classes."""

    index: int
    """Which class."""
    label: str
    """Its name."""
    probability: float
    """0 to 1."""


class ImagePrediction(NamedTuple):
    """What the model says of one image; the scores table has the same under the same names."""

    probabilities: npt.NDArray[np.float32]
    """float32[C], in label order; read-only."""
    predicted_index: int
    """The most probable class; for independent labels the strongest."""
    predicted_label: str
    """Its name."""
    predicted_probability: float
    """0 to 1."""
    top_k: tuple[RankedClass, ...]
    """The results.top_k most probable classes, ties by index."""
    margin: float
    """The first probability less the second."""
    entropy: float
    """In nats."""
    positive_labels: tuple[str, ...] | None
    """Sigmoid only: labels at or over their threshold; None for softmax."""
    model_id: str
    """name@fingerprint."""


class ImageModel:
    """A loaded model that takes images as they come; RunInference holds one a process.

    Args:
        config: As in a run.

    Raises:
        ConfigError: Model, labels and settings do not fit each other.
    """

    def __init__(self, config: RunConfig) -> None:
        self.scorer = Scorer(config.scorer_plan())
        classifier = self.scorer.classifier
        self._plan = config.load_plan(classifier.height, classifier.width, encoded=classifier.takes_bytes)
        # Paths may be remote, and threads that wait for a store cost nothing; memory is bounded by the budget.
        self._pool = ThreadPoolExecutor(thread_count(config.load, remote=True), thread_name_prefix="examples")
        self._budget = ByteBudget(config.load.max_bytes_in_flight)
        self._prepare = prepare
        if config.decode.quarantine:
            quarantine = Quarantine(self._plan)
            self._prepare = quarantine.prepare
            # RunInference has no word for the end of a model.
            weakref.finalize(self, quarantine.close)

    def predict(self, examples: Sequence[ImageExample]) -> list[ImagePrediction | ImageError]:
        """Score a batch.

        Args:
            examples: Encoded files, paths and arrays, mixed as they come.

        Returns:
            One answer an example, in their order.

        Raises:
            TypeError: An example is none of the three: a mistake of the pipeline, not a bad image.
            RunError: The model's output is not what it is declared to be, or a worker process of decode.quarantine
                does not start.
        """
        for example in examples:
            _check_kind(example)
        loaded = list(self._pool.map(self._load, range(len(examples)), examples))
        answers: dict[int, ImagePrediction | ImageError] = {
            i: image for i, image in enumerate(loaded) if isinstance(image, ImageError)
        }
        good = [image for image in loaded if isinstance(image, LoadedImage)]
        if good:
            scored = self.scorer.score(to_batch(good, self._plan))
            for failure in scored.failures:
                answers[int(failure.ref.path)] = ImageError(failure.code, failure.message)
            places = map(int, scored.rows["image_path"].to_pylist())
            answers.update(zip(places, _predictions(scored.rows), strict=True))
        return [answers[i] for i in range(len(examples))]

    def _load(self, place: int, example: ImageExample) -> LoadedImage | ImageError:
        # Its place stands for its name: bytes have none, and a path may come twice.
        ref = ImageRef(str(place), None, None)
        try:
            if isinstance(example, str):
                return self._read(example, ref)
            pixels, info = self._fit(example) if isinstance(example, np.ndarray) else self._decode(example)
        except ImageError as error:
            return error
        except RunError:
            raise
        except Exception as error:  # noqa: BLE001  foreign code over hostile bytes: it costs its image, never the bundle
            warn_of_unexpected("an image", error)
            return ImageError(FailureCode.CORRUPT_IMAGE, unexpected(error))
        return LoadedImage(ref, pixels, info, None, 0.0, 0.0)

    def _read(self, path: str, ref: ImageRef) -> LoadedImage | ImageError:
        try:
            found = absolute(path)
        except ConfigError as error:
            return ImageError(FailureCode.READ_ERROR, str(error))
        image = load_one(ImageRef(found, None, None), self._plan, self._budget, prepare_with=self._prepare)
        if image.failure is not None:
            return ImageError(image.failure.code, image.failure.message)
        return image._replace(ref=ref)

    def _decode(self, data: bytes) -> tuple[Any, ImageInfo]:
        plan = self._plan
        if len(data) > plan.decode.max_file_bytes:
            raise ImageError(
                FailureCode.TOO_LARGE_FILE,
                f"the image has {len(data)} bytes, decode.max_file_bytes allows {plan.decode.max_file_bytes}",
            )
        needed = min(decode_cost(probe(data), len(data)), plan.decode.max_decode_bytes)
        self._budget.acquire(needed)
        try:
            prepared = self._prepare(data, plan)
            return prepared[0], prepared.info
        finally:
            self._budget.release(needed)

    def _fit(self, pixels: npt.NDArray[np.uint8]) -> tuple[Any, ImageInfo]:
        height, width = pixels.shape[:2]
        if not pixels.size:
            raise ImageError(FailureCode.CORRUPT_IMAGE, f"an array of {height} x {width} pixels holds no image")
        # Pixels have no format and no decoder; a scores row needs both, a prediction tells neither.
        info = ImageInfo(width, height, "bmp", pixels.nbytes, "pillow")
        if self._plan.encoded:
            return encode_png(pixels), info
        return fit(pixels, self._plan.preprocess, self._plan.height, self._plan.width), info


class ImageModelHandler(ModelHandler[ImageExample, ImagePrediction | ImageError, ImageModel]):
    """Scores images inside RunInference; KeyedModelHandler(ImageModelHandler(config)) keeps a key beside each.

    The model is loaded once a process, and Beam hands over config.batch.size images at a time (32 for auto: how many
    go into one call of the model is then measured when it is loaded). What a run has and this has not: one
    row for a path that comes twice, the ledger, and publishing. Only decode.quarantine ends a decoder that hangs.

    Args:
        config: As in a run; load_config reads one.

    >>> handler = ImageModelHandler(load_config("configs/local.yaml"))  # doctest: +SKIP
    >>> predictions = examples | RunInference(handler)  # doctest: +SKIP
    """

    def __init__(self, config: RunConfig) -> None:
        if not isinstance(config, RunConfig):
            raise TypeError(f"config must be a RunConfig, got {config!r:.80}; load_config(path) reads one")
        # One size, for what is smaller comes at the end of a bundle only. The model is never shared across processes:
        # Beam would send each image through a socket.
        size = _AUTO_ROWS if config.batch.size == "auto" else config.batch.size
        super().__init__(min_batch_size=size, max_batch_size=size)
        self._config = config

    def load_model(self) -> ImageModel:
        """Load the model of the configuration.

        Raises:
            ConfigError: Model, labels and settings do not fit each other.
        """
        return ImageModel(self._config)

    def run_inference(
        self,
        batch: Sequence[ImageExample],
        model: ImageModel,
        inference_args: dict[str, Any] | None = None,  # noqa: ARG002  Beam's signature; refused before
    ) -> list[ImagePrediction | ImageError]:
        """Score a batch; see ImageModel.predict."""
        return model.predict(batch)

    def get_num_bytes(self, batch: Sequence[ImageExample]) -> int:
        """Return the bytes of the examples themselves; of a path, those of its name."""
        return sum(
            example.nbytes if isinstance(example, np.ndarray) else len(os.fsencode(example)) for example in batch
        )

    def get_metrics_namespace(self) -> str:
        """Return the namespace of all counters of this package."""
        return NAMESPACE

    def validate_inference_args(self, inference_args: dict[str, Any] | None) -> None:
        """Refuse inference_args: everything that decides a score stands in the configuration."""
        if inference_args:
            raise ValueError(
                f"ImageModelHandler takes no inference_args, got {', '.join(inference_args)}; set them in the config"
            )

    def update_model_path(self, model_path: str | None = None) -> None:
        """Take another model from now on, as RunInference asks when it watches for new ones."""
        if model_path:
            model = self._config.model.model_copy(update={"path": model_path})
            self._config = self._config.model_copy(update={"model": model})


def _check_kind(example: object) -> None:
    if isinstance(example, bytes | str):
        return
    if not isinstance(example, np.ndarray):
        raise TypeError(
            f"an example must be an encoded image (bytes), a path (str) or an array uint8[H, W, 3], got "
            f"{type(example).__name__}"
        )
    if example.dtype != np.uint8 or example.ndim != 3 or example.shape[2] != 3:
        raise TypeError(
            f"an array must be uint8[H, W, 3], RGB from 0 to 255, got {example.dtype}{list(example.shape)}; give the "
            "pixels as they are, the configuration says how the model wants them"
        )


def _predictions(rows: pa.RecordBatch) -> Iterator[ImagePrediction]:
    width = rows.schema.field("probabilities").type.list_size
    vectors = rows["probabilities"].flatten().to_numpy().reshape(-1, width)
    rest = ImagePrediction._fields[1:]
    for vector, row in zip(vectors, rows.select(rest).to_pylist(), strict=True):
        ranked = tuple(RankedClass(entry["index"], entry["label"], entry["probability"]) for entry in row["top_k"])
        positive = None if row["positive_labels"] is None else tuple(row["positive_labels"])
        yield ImagePrediction(vector, **{**row, "top_k": ranked, "positive_labels": positive})
