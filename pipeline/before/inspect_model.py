"""What a model is and what its output means, before anything is configured.

The same code describes the model and reads its output as in a run. What no file of a model can tell is left open: the
range of its input values above all, for the wrong one costs accuracy without an error.
"""

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from transforms import storage
from transforms.devices import prepare_devices
from transforms.encoded import encode_png
from transforms.errors import ConfigError, InputError
from transforms.interpretation import Interpretation, resolve
from transforms.labels import load_labels
from transforms.model_calls import Scores, as_rows
from transforms.model_descriptions import ModelDescription, describe_open_model
from transforms.model_formats import open_model
from transforms.model_inputs import InputLayout, build_normalise, read_layout
from transforms.model_interface import FLOATS, OpenModel, first_line
from transforms.model_sources import local_path
from transforms.settings import LabelSettings, ModelSettings, PreprocessSettings

# Where a model takes images of any size, one of a usual size is tried: its head does not depend on it.
_USUAL_SIZE = 224
_FEWEST_PROBES = 4

Reading: TypeAlias = Interpretation | None
ValueRange: TypeAlias = Literal["0_1", "-1_1", "0_255"]


@dataclass(frozen=True)
class Inspection:
    """What is known of a model, and what is not."""

    model: ModelSettings
    """As asked for; a local path is absolute."""
    description: ModelDescription
    """From its files."""
    height: int | None
    """Rows of its input; None for any number, and for a model that takes encoded images."""
    width: int | None
    """Columns of its input; None as above."""
    channels: int
    """Of its input: 3, 1 for grey, 0 for a model that takes encoded images."""
    num_units: int | None
    """Columns of its output; None where neither its files nor a probe tell."""
    reading: Reading
    """What its output means; None where that has to be declared."""
    reading_reason: str
    """Why, or why not."""
    labels_problem: str | None
    """Why the labels in its assets do not fit it; None where they do, or where there are none."""

    @property
    def num_classes(self) -> int | None:
        """Columns of the scores table: two for one unit."""
        return 2 if self.num_units == 1 else self.num_units

    @property
    def scales_itself(self) -> bool:
        """Whether the model takes values from 0 to 255 as they are, so that their range is no question."""
        return self.description.input_dtype not in FLOATS

    def to_json(self) -> dict[str, Any]:
        """Return everything in JSON's types."""
        values = asdict(self)
        values["model"] = self.model.model_dump(mode="json", exclude_defaults=True)
        values["num_classes"] = self.num_classes
        return values


def inspect_model(settings: ModelSettings) -> Inspection:
    """Describe a model and read its output.

    Args:
        settings: Which model, signature and output, as in a run.

    Raises:
        ModelError: It cannot be loaded, or the choice of signature or output is not unique.
    """
    settings = settings.model_copy(update={"path": _absolute(settings.path)})
    prepare_devices()
    path = local_path(settings)
    model = open_model(path, settings)
    description = describe_open_model(path, model)
    layout = read_layout(model)
    units, reading, reason = _read_output(settings, model, layout, description)
    return Inspection(
        model=settings,
        description=description,
        height=layout.height,
        width=layout.width,
        channels=layout.channels,
        num_units=units,
        reading=reading,
        reading_reason=reason,
        labels_problem=_labels_problem(description, units),
    )


def _absolute(path: str) -> str:
    return path if "://" in path else storage.absolute(os.path.expanduser(path))


def _read_output(
    settings: ModelSettings, model: OpenModel, layout: InputLayout, description: ModelDescription
) -> tuple[int | None, Reading, str]:
    """Return the width of the output, its meaning, and the reason."""
    try:
        probes = dict(_probe(model, layout))
    except Exception as error:  # noqa: BLE001  a model is foreign code: why it fails on noise is what there is to say
        said = f"the model fails on a probe of noise: {first_line(error)}"
        return description.num_classes, None, f"{said}; declare model.output and model.activation"
    units = next(iter(probes.values())).shape[1]
    readings: dict[str, Reading] = {}
    reasons: dict[str, str] = {}
    for value_range, rows in probes.items():
        try:
            reading = resolve(settings, description.head, rows, units)
        except ConfigError as error:
            readings[value_range], reasons[value_range] = None, str(error)
        else:
            readings[value_range], reasons[value_range] = reading, reading.reason
    if len({reading and (reading.output, reading.activation) for reading in readings.values()}) > 1:
        each = "; ".join(f"with {value_range}: {reason}" for value_range, reason in reasons.items())
        return units, None, f"what the output means depends on preprocess.value_range: {each}"
    first = next(iter(readings))
    return units, readings[first], reasons[first]


def _probe(model: OpenModel, layout: InputLayout) -> Iterator[tuple[ValueRange, Scores]]:
    """Yield the model's answers to a few images of noise under each range that its values may have."""
    import tensorflow as tf

    count = layout.batch or _FEWEST_PROBES
    height, width = layout.height or _USUAL_SIZE, layout.width or _USUAL_SIZE
    noise = np.random.default_rng(0).integers(0, 256, (count, height, width, 3), np.uint8)
    images = tf.constant([encode_png(image) for image in noise] if layout.layout == "bytes" else noise)
    # What cannot be scaled takes its values as they are.
    ranges: tuple[ValueRange, ...] = ("0_1", "-1_1", "0_255") if model.input.dtype in FLOATS else ("0_255",)
    for value_range in ranges:
        normalise = build_normalise(model, layout, PreprocessSettings(value_range=value_range))
        raw = model.call(normalise(images))
        yield value_range, as_rows(tf.cast(raw, tf.float32).numpy(), count)


def _labels_problem(description: ModelDescription, units: int | None) -> str | None:
    if description.labels is None or units is None:
        return None
    try:
        load_labels(
            LabelSettings(), 2 if units == 1 else units, storage.read_bytes, description.labels, one_unit=units == 1
        )
    except InputError as error:
        return str(error)
    return None
