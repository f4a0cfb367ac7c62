"""The settings of the pure parts, each declared once: RunConfig is composed of them, the nouns take them.

All of them are frozen, picklable and refuse unknown keys. A field's description is its documentation: the
JSON Schema, `score-images config --schema` and docs/configuration.md are made from it.
"""

import difflib
import re
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, field_validator, model_validator

from transforms.errors import FailureCode

_DEVICE = r"^(auto|cpu|gpu|gpu:[0-9]{1,3})$"
_RUN_ID = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"
MOST_THUMBNAILS = 200
"""Pictures of a page: each is some kilobytes of it."""
_CODES = [code.value for code in FailureCode]

Colour = Annotated[int, Field(ge=0, le=255)]


class Settings(BaseModel):
    """Base of all settings: frozen, closed, defaults checked like given values."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, use_attribute_docstrings=True)


class DecodeSettings(Settings):
    """How bytes become pixels, and limits that are checked before, so that a hostile file costs no memory."""

    max_file_bytes: int = Field(default=64 * 1024**2, ge=1)
    """A larger file is not read: too_large_file. In bytes."""
    max_decode_bytes: int = Field(default=512 * 1024**2, ge=1)
    """Memory that one image may need while it is decoded, reckoned from its header: too_many_pixels. In bytes."""
    max_scan_pixels: int = Field(default=1_000_000_000, ge=1)
    """Pixels times progressive scans of a JPEG: a limit on the time of its decoding: too_many_pixels."""
    background: tuple[Colour, Colour, Colour] = (255, 255, 255)
    """RGB colour that transparent pixels are composed on, 0 to 255 each."""
    jpeg_scaling: Literal["auto", "off"] = "auto"
    """Whether a JPEG at least six times as large as the model's input, each way, is scaled down while it is decoded, to
    no less than three times that input, in half the time. auto does so for bicubic, bilinear and lanczos. On 434 files
    of 4 to 24 megapixels it moved the probability of EfficientNet-Lite0's answer by 0.003 to 0.005 in the mean, none by
    more than 0.03, and turned 1% of the answers, of classes within 0.06 of each other; one step of 255 more or less
    in 30% of the model's input moved it by 0.01 to 0.02 and turned 4%. off decodes all in full. Limits are those of
    the full size either way."""
    timeout_seconds: float = Field(default=60.0, gt=0, le=3600)
    """Time that one image may take to decode and resize: decode_timeout."""
    quarantine: bool = False
    """Decode in worker processes that are replaced when an image crashes or hangs them: that image fails, the run goes
    on."""


class PreprocessSettings(Settings):
    """How an image becomes the model's input. What the model was trained with decides; nothing is guessed."""

    height: int | None = Field(default=None, ge=1, le=8192)
    """Rows of the model's input; left out, the model's signature decides."""
    width: int | None = Field(default=None, ge=1, le=8192)
    """Columns of the model's input; left out, the model's signature decides."""
    resize: Literal["shortest_edge", "exact", "letterbox"] = "shortest_edge"
    """shortest_edge keeps the shape of things and crops the longer side; exact squashes; letterbox pads."""
    crop_pct: float = Field(default=1.0, gt=0.0)
    """Share of the image that the centre crop keeps, over 0 and at most 1; 0.875 for most ImageNet models."""
    crop_order: Literal["before_resize", "after_resize"] = "before_resize"
    """before_resize crops the original and resizes once (TensorFlow's way); after_resize resizes the shortest
    edge to size / crop_pct and crops the result (the way of timm and torchvision)."""
    interpolation: Literal[
        "bicubic", "bilinear", "lanczos", "box", "nearest", "bilinear_no_antialias", "bilinear_legacy", "area"
    ] = "bicubic"
    """bicubic, bilinear, lanczos and box are antialiased (Pillow's); bilinear_no_antialias is tf.image.resize's
    default; bilinear_legacy is TensorFlow 1's resize_bilinear; area is OpenCV's INTER_AREA."""
    pad_color: tuple[Colour, Colour, Colour] = (0, 0, 0)
    """RGB colour of the bars that letterbox adds, 0 to 255 each."""
    value_range: Literal["0_1", "-1_1", "0_255"]
    """The range that pixels are scaled to before mean and std; required, because the wrong one costs accuracy
    without an error."""
    mean: tuple[FiniteFloat, FiniteFloat, FiniteFloat] | None = None
    """Subtracted from each channel, in units of value_range and in the model's channel order."""
    std: tuple[FiniteFloat, FiniteFloat, FiniteFloat] | None = None
    """Divides each channel after mean, in units of value_range and in the model's channel order."""
    channel_order: Literal["rgb", "bgr"] = "rgb"
    """The order that the model was trained with."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.crop_pct > 1.0:
            raise ValueError(
                f"crop_pct must be over 0 and at most 1, got {self.crop_pct}: the crop would be larger than the "
                "image; give the share of the image to keep, 0.875 for most ImageNet models"
            )
        if self.resize == "letterbox" and self.crop_pct != 1.0:
            raise ValueError(
                f"resize: letterbox keeps the whole image, crop_pct {self.crop_pct} would cut it; "
                "leave crop_pct out or use resize: shortest_edge"
            )
        if (self.height is None) != (self.width is None):
            raise ValueError("height and width go together: give both, or neither to take them from the model")
        if self.std is not None and min(self.std) <= 0:
            raise ValueError(f"std must be over 0 in every channel, got {list(self.std)}")
        top = {"0_1": 1.0, "-1_1": 1.0, "0_255": 255.0}[self.value_range]
        if self.mean is not None and max(abs(m) for m in self.mean) > top:
            raise ValueError(
                f"mean {list(self.mean)} lies outside value_range {self.value_range}: mean and std are in units of "
                "value_range; use value_range: 0_255 for a mean on the scale of 0 to 255"
            )
        return self


class ModelSettings(Settings):
    """Which model, which of its signatures and outputs, and what its output means."""

    path: str = Field(min_length=1)
    """A SavedModel directory (local, gs://, s3://), a TF Hub handle (https://...), or a .keras, .h5 or .hdf5 file."""
    name: str | None = None
    """The model's name in the tables; left out, the last part of path."""
    signature: str | None = None
    """A SavedModel's signature; left out: serving_default, then default, then image_classification."""
    output_name: str | None = None
    """Which output of the signature to read; needed where there are several."""
    tags: tuple[str, ...] | None = None
    """The tags of the MetaGraph to load; needed where a SavedModel holds several."""
    output: Literal["auto", "logits", "probabilities"] = "auto"
    """What the model returns. auto looks at the head and at a probe, and refuses to guess."""
    activation: Literal["auto", "softmax", "sigmoid", "none"] = "auto"
    """What turns logits into probabilities, or has done so inside the model: softmax for one class an image,
    sigmoid for independent labels or for one unit."""
    trust: bool = False
    """Load a .keras file that carries Python code (a Lambda layer). Only for files of your own making."""
    hub_cache: str | None = None
    """Where downloaded models are kept; left out, TFHUB_CACHE_DIR or TensorFlow Hub's own default."""
    device: str = Field(default="auto", json_schema_extra={"pattern": _DEVICE})
    """auto takes all GPUs there are, else the CPU; cpu never touches a GPU; gpu takes all GPUs and gpu:N that one,
    and a run does not start where it is not there. With SCORE_IMAGES_PROCESS_ORDINAL in the environment, auto and
    gpu take the one GPU of that number: for several processes on one machine."""
    calls_in_flight: int = Field(default=1, ge=1, le=16)
    """Calls of the model at a time on each device."""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """What convolutions and matrix products compute in; the last layer and all results stay float32. bfloat16 is for
    GPUs and for CPUs that know it, float16 for GPUs. Compared with float32 when the model is loaded."""
    xla: bool = False
    """Compile the model with XLA: minutes at the start for some models. Compared with the plain model when it is
    loaded."""
    precision_tolerance: float = Field(default=0.02, ge=0, le=1)
    """The largest difference that precision or xla may make to a probability of the images of noise and of soft
    shapes that they are compared on; beyond it the run does not start."""

    @field_validator("device")
    @classmethod
    def _check_device(cls, device: str) -> str:
        if not re.fullmatch(_DEVICE, device):
            raise ValueError(f"device must be auto, cpu, gpu or gpu:N (N from 0), got {device!r}")
        return device


class LabelSettings(Settings):
    """The names of the classes."""

    path: str | None = None
    """A text file (one label a line), CSV (columns index,label or label), or JSON (list, or object of index to
    label); left out, the model's assets are asked, and else the class index serves as its label."""
    offset: int = 0
    """Class i of the model is line i + offset of the file: -1 for a model with a background class first whose
    labels have none, 1 for the reverse."""
    background: str = "background"
    """The name that a class before the first label gets (offset -1)."""
    thresholds: FiniteFloat | str = 0.5
    """Sigmoid only: the probability from which a label counts as positive: one number, or a file of one a label."""


class CalibrationSettings(Settings):
    """How probabilities are mended so that 80% means 80%; `score-images calibrate` fits and prints these lines."""

    temperature: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Softmax only: logits are divided by it. Over 1 makes an overconfident model humbler; the order of classes
    stays as it is."""
    platt_a: FiniteFloat | tuple[FiniteFloat, ...] | None = None
    """Sigmoid only: the logit x becomes a * x + b. One number, or one a label in the order of the labels."""
    platt_b: FiniteFloat | tuple[FiniteFloat, ...] | None = None
    """Goes with platt_a: one number, or one a label."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.platt_a is None) != (self.platt_b is None):
            raise ValueError("platt_a and platt_b go together: give both, or neither")
        if self.temperature is not None and self.platt_a is not None:
            raise ValueError(
                "temperature is for softmax and platt_a, platt_b are for sigmoid; give the one that fits the model"
            )
        return self


class ChallengerSettings(Settings):
    """A second model that scores the same images in the same pass, into a table of its own: scores_challenger. Left
    out, there is none. What it fails on enters no limit and costs no row of the first model.
    """

    model: ModelSettings
    """Which model: the settings of `model`."""
    labels: LabelSettings | None = None
    """The names of its classes: the settings of `labels`; left out, those of the first model."""
    preprocess: PreprocessSettings | None = None
    """What its input looks like: the settings of `preprocess`; left out, those of the first model. Where both crop and
    resize alike to the same size, they get the very same pixels; else an image is decoded once and resized twice."""
    calibration: CalibrationSettings | None = None
    """How its probabilities are mended: the settings of `calibration`; left out, as those of the first model. An empty
    one, `{}`, mends nothing."""


class WriteSettings(Settings):
    """How the Parquet files are cut. The defaults suit 1,000 classes; rows and bytes, whichever comes first."""

    rows_per_file: int = Field(default=50_000, ge=1)
    """A part file is closed at this many rows. Rows in a closed file are not scored again after a crash."""
    bytes_per_file: int = Field(default=256 * 1024**2, ge=1024**2)
    """A part file is closed at this many bytes."""
    seconds_per_file: float = Field(default=300.0, gt=0)
    """A part file is closed at the first write after this many seconds: what a crash can cost at most."""
    row_group_bytes: int = Field(default=16 * 1024**2, ge=64 * 1024)
    """Uncompressed bytes of a row group; held in memory until it is written."""
    compression_level: int = Field(default=1, ge=1, le=19)
    """Level of zstd: 1 was as small as 3 within a percent on probabilities, and faster."""


class InputSettings(Settings):
    """How inputs are listed."""

    extensions: tuple[str, ...] = Field(
        min_length=1,
        default=(
            "jpg", "jpeg", "jpe", "jfif", "png", "webp", "gif", "bmp", "dib", "tif", "tiff", "avif", "avifs", "heic",
            "heif", "hif",
        ),
    )  # fmt: skip
    """Which files of a folder or prefix are listed, by the end of their names, in any case; "*" lists every file.
    Globs and manifests are not filtered. The format itself is told by content."""


class LoadSettings(Settings):
    """How many images are read and decoded at a time."""

    threads: int | None = Field(default=None, ge=1, le=512)
    """Threads that read and decode; left out: one a processor for local files, four a processor for remote ones."""
    read_timeout_seconds: float = Field(default=120.0, gt=0, le=3600)
    """Time that one image may take to be read, retries of passing troubles included: read_timeout."""
    max_bytes_in_flight: int = Field(default=1024**3, ge=1024**2)
    """Memory for encoded and decoded images under way, reckoned from the headers; in bytes."""


class BatchSettings(Settings):
    """How many images the model sees at a time."""

    size: Literal["auto"] | Annotated[int, Field(ge=1, le=65536)] = "auto"
    """Images a call of the model; auto measures it when the model is loaded, and says what it chose and why."""


class ResultSettings(Settings):
    """What the scores table holds."""

    top_k: int = Field(default=5, ge=1)
    """How many classes the top_k column names; at most the number of classes."""
    logits: bool = False
    """Add a column with the model's raw output."""


class LimitSettings(Settings):
    """How many failed images a published run may have."""

    max_failure_rate: float = Field(default=0.05, ge=0, le=1)
    """Failed images over failed plus scored ones; over it the run is not published (exit code 3)."""
    max_failures: int | None = Field(default=None, ge=0)
    """The same as a count; left out, only the rate counts."""
    allowances: dict[str, Annotated[int, Field(ge=0, strict=True)]] = Field(
        default={}, json_schema_extra={"propertyNames": {"enum": [*_CODES]}}
    )
    """Failures that are expected, by failure code: {not_found: 100} takes up to 100 images that are not found out of
    the rate and the count. In a delta (--since-run), allow for the files that are broken every night: few others are
    tried."""

    @field_validator("allowances")
    @classmethod
    def _check_codes(cls, allowances: dict[str, int]) -> dict[str, int]:
        for name in allowances:
            if name not in _CODES:
                close = difflib.get_close_matches(name, _CODES, n=1, cutoff=0.6)
                allowed = f"allowed here: {', '.join(_CODES)}"
                way_out = f"did you mean {close[0]}? ({allowed})" if close else allowed
                raise ValueError(f"{name} is no failure code; {way_out}")
        return allowances


class HealthSettings(Settings):
    """Whether tonight's answers are distributed like a baseline's, judged before a run is published."""

    baseline: str | None = Field(default=None, json_schema_extra={"pattern": _RUN_ID})
    """The run to compare with: latest, which is the one published last in the same output, or the id of one, which is
    pinned. Left out, nothing is compared. A pinned run has to be published, with min_images and a label of tonight's
    model."""
    on_drift: Literal["warn", "refuse"] = "warn"
    """What to do when a limit is passed: warn publishes and says so, in the manifest too; refuse does not publish (exit
    code 5)."""
    max_class_mix_psi: float | None = Field(default=0.1, gt=0)
    """Population stability index of the class mix, without what sampling adds to it. Over 0.25 is commonly called
    another population. Nothing behind the colon: no limit, as for the settings below."""
    max_class_mix_js: float | None = Field(default=None, gt=0, le=1)
    """Jensen-Shannon divergence of the class mix, in base 2, without what sampling adds to it."""
    max_class_ratio: float | None = Field(default=2.0, gt=1)
    """By how many times the share of a single class may grow or shrink. One of many classes hardly moves the figures of
    the whole mix. Classes below 0.5% in both runs are not judged."""
    max_confidence_psi: float | None = Field(default=0.1, gt=0)
    """Population stability index of the top-1 probabilities, in ten groups, without what sampling adds to it."""
    max_confidence_js: float | None = Field(default=None, gt=0, le=1)
    """Jensen-Shannon divergence of the top-1 probabilities, in base 2, without what sampling adds to it."""
    min_images: int = Field(default=200, ge=1)
    """Scored images that both runs need: with fewer, nothing is judged, and the manifest says so."""

    @field_validator("baseline")
    @classmethod
    def _check_baseline(cls, baseline: str | None) -> str | None:
        if baseline is not None and not re.fullmatch(_RUN_ID, baseline):
            raise ValueError(f"baseline must be latest or the id of a published run, got {baseline!r}")
        return baseline


class ReportSettings(Settings):
    """The report that every run leaves beside its manifest: report.html for people, report.json for programs."""

    enabled: bool = True
    """Write it when the run is over; `score-images report` makes it later."""
    thumbnails: int = Field(default=24, ge=0, le=MOST_THUMBNAILS)
    """How many images are shown as small pictures: the least certain ones, and a quarter as many that failed. 0 shows
    none: a report with pictures holds parts of the images, and whoever may read it sees them."""


class PriceSettings(Settings):
    """What a machine, a GPU, a byte and a request cost, so that `score-images preflight` predicts money; a run does not
    heed it.
    """

    currency: str = Field(default="USD", min_length=1, max_length=8)
    """How amounts are called."""
    machine_hour: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """One hour of a machine like the one that preflight runs on, without its GPUs."""
    gpu_hour: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """One hour of one GPU; counted for each that the model works on."""
    read_gb: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """10^9 bytes read from s3:// or gs://."""
    stored_gb_month: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """10^9 bytes of output kept for a month."""
    requests_1000: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """1,000 requests to s3:// or gs:// that read: two an image, and one for each 1,000 listed."""


class GoldenSettings(Settings):
    """Photos whose probabilities are known: a run scores them first, and does not start when they have drifted."""

    path: str | None = None
    """A file that `score-images golden make` has written; left out, nothing is checked."""
    tolerance: float = Field(default=0.02, ge=0, le=1)
    """The largest difference that a probability may have. Another interpolation moved one of two photos of
    EfficientNet-Lite0 by more than 0.02, the wrong mean and std five of six: ten photos or more see it. On machines
    of one kind, where nothing moves at all, 0.001 sees still smaller changes."""
