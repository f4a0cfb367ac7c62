"""Golden images: photos whose probabilities are known, scored before a run to see that nothing has changed.

A new decoder, another library, a setting or a model that was exchanged under the same name: each changes all scores
of a night without an error. The probabilities of a few photos, kept in a file, show it before the first image.
"""

import base64
import binascii
import hashlib
import importlib.metadata
import logging
import os
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.config import RunConfig
from pipeline.in_memory import InMemoryResult, score_in_memory
from transforms import storage
from transforms.errors import ConfigError, ImageError, InputError
from transforms.inputs import BadName, check_not_empty, list_input, parse_input
from transforms.reading import read_image_bytes
from transforms.scoring import Scorer

_LOG = logging.getLogger(__name__)

MOST_IMAGES = 1000
_PACKAGES = ("tensorflow", "keras", "numpy", "pillow", "simplejpeg", "opencv-python-headless")
_PARTS = {"model": "the model", "preprocessing": "the preprocessing", "scoring": "calibration, labels or results"}


class _Stored(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class GoldenClass(_Stored):
    """One of the strongest classes of a photo, for a person who reads the file, and to see that labels are the same."""

    index: int
    """Class index."""
    label: str
    """Its name."""
    probability: float
    """Its probability."""


class GoldenImage(_Stored):
    """One photo and what the model says of it."""

    path: str
    """Relative to the file's folder, or absolute."""
    sha256: str
    """Of the photo's bytes."""
    top: tuple[GoldenClass, ...]
    """The strongest classes."""
    probabilities: str
    """All of them: float32, little-endian, base64."""


class GoldenFile(_Stored):
    """What is expected of a configuration."""

    golden_version: Literal[1]
    """Of this format."""
    model_id: str
    """The model that scored the photos."""
    num_classes: int
    """C."""
    fingerprints: dict[str, str]
    """Of model, preprocessing and scoring, as in a run's manifest."""
    versions: dict[str, str]
    """Of the libraries that decode and compute."""
    images: tuple[GoldenImage, ...] = Field(min_length=1)
    """The photos."""


class GoldenResult(NamedTuple):
    """A check that has passed."""

    images: int
    """How many photos were scored."""
    largest_difference: float
    """Of a probability from the expected one."""


def make_golden(config: RunConfig, inputs: Sequence[str], output: str) -> GoldenFile:
    """Score photos and write what came out as what is expected from now on.

    Args:
        config: How to score.
        inputs: Files, folders, globs, manifests; MOST_IMAGES photos at most.
        output: The JSON file to write; photos are named relative to its folder.

    Raises:
        ConfigError: A photo cannot be scored, or there are too many, or the file cannot be written.
    """
    place = storage.absolute(output)
    paths = _list(config, inputs)
    scorer = Scorer(config.scorer_plan())
    scored = _vectors(score_in_memory(paths, config.without_challenger(), scorer), paths)
    golden = GoldenFile(
        golden_version=1,
        model_id=scorer.classifier.model_id,
        num_classes=scorer.meaning.num_classes,
        fingerprints=scorer.fingerprints,
        versions=_versions(),
        images=tuple(
            GoldenImage(
                path=_relative(path, storage.parent(place)),
                sha256=_digest(path, config),
                top=_top(scored[path], scorer, config.results.top_k),
                probabilities=base64.b64encode(scored[path].astype("<f4").tobytes()).decode(),
            )
            for path in paths
        ),
    )
    try:
        storage.write_bytes(place, (golden.model_dump_json(indent=2) + "\n").encode())
    except OSError as error:
        raise ConfigError(f"golden file {output} cannot be written: {error}") from error
    return golden


def check_golden(scorer: Scorer, config: RunConfig) -> GoldenResult | None:
    """Score the golden photos of a configuration, and refuse to go on when they have drifted.

    Args:
        scorer: Of this configuration; a challenger is not checked, for it is on trial.
        config: Names the file and the tolerance.

    Returns:
        How close they are; None where the configuration names no golden file.

    Raises:
        ConfigError: A probability differs from the expected one by more than the tolerance, a label has another
            name, a photo cannot be scored, or the file cannot be read.
    """
    if config.golden.path is None:
        return None
    where = f"golden.path {config.golden.path}"
    golden = _read(config.golden.path, where)
    changes = _changes(golden, scorer)
    classes = scorer.meaning.num_classes
    if golden.num_classes != classes:
        raise ConfigError(
            f"{where} expects {golden.num_classes} classes, model {scorer.classifier.model_id} has {classes}; "
            f"{_advice(changes)}"
        )
    expected = np.stack([_decode(image, golden, where) for image in golden.images])
    folder = storage.parent(storage.absolute(config.golden.path))
    paths = [storage.absolute(image.path, folder) for image in golden.images]
    scored = _vectors(score_in_memory(paths, config.without_challenger(), scorer), paths)
    got = np.stack([scored[path] for path in paths])
    difference = np.abs(got.astype(np.float64) - expected)
    altered = [_digest(path, config) != image.sha256 for path, image in zip(paths, golden.images, strict=True)]
    drifted = np.flatnonzero(difference.max(axis=1) > config.golden.tolerance)
    if len(drifted):
        worst, place = (int(i) for i in np.unravel_index(difference.argmax(), difference.shape))
        if altered[worst]:
            changes = ["the bytes of this photo", *changes]
        raise ConfigError(
            f"golden check failed: {len(drifted)} of {len(paths)} photos drifted over golden.tolerance "
            f"{config.golden.tolerance:g}, the most {golden.images[worst].path}: class {place} "
            f"({scorer.labels[place]}) was {expected[worst, place]:.4f} and is {got[worst, place]:.4f} now; "
            f"{_advice(changes)}"
        )
    _check_labels(golden, scorer)
    for image, is_altered in zip(golden.images, altered, strict=True):
        if is_altered:
            _LOG.warning("the bytes of golden photo %s have changed, its probabilities have not", image.path)
    result = GoldenResult(len(paths), float(difference.max()))
    _LOG.info("golden check passed: %d photos, largest difference %.2g", *result)
    return result


def _list(config: RunConfig, inputs: Sequence[str]) -> list[str]:
    paths: dict[str, None] = {}
    for text in inputs:
        source = parse_input(text)
        check_not_empty(source, config.input)
        for entry in list_input(source, config.input):
            if isinstance(entry, BadName):
                raise InputError(f"golden photo {entry.path} cannot be named: {entry.error.message}")
            paths[entry.path] = None
            if len(paths) > MOST_IMAGES:
                raise InputError(
                    f"input {text} names more than {MOST_IMAGES} photos; golden photos are scored before each run, "
                    "a few that differ are enough"
                )
    return list(paths)


def _vectors(result: InMemoryResult, paths: Iterable[str]) -> dict[str, npt.NDArray[np.float32]]:
    """Return float32[C] by path."""
    failures = {row["image_path"]: row for row in result.failures.to_pylist()}
    for path in paths:
        if path in failures:
            raise ConfigError(
                f"golden photo {path} cannot be scored: {failures[path]['code']}: {failures[path]['message']}"
            )
    column = result.scores["probabilities"].combine_chunks()
    vectors = np.asarray(column.flatten().to_numpy()).reshape(len(column), -1)
    return dict(zip(result.scores["image_path"].to_pylist(), vectors, strict=True))


def _digest(path: str, config: RunConfig) -> str:
    try:
        return hashlib.sha256(read_image_bytes(path, config.decode.max_file_bytes).data).hexdigest()
    except ImageError as error:
        raise ConfigError(f"golden photo {path} cannot be read: {error}") from error


def _top(vector: npt.NDArray[np.float32], scorer: Scorer, count: int) -> tuple[GoldenClass, ...]:
    order = np.argsort(-vector, kind="stable")[:count]
    return tuple(
        GoldenClass(index=int(i), label=scorer.labels[i], probability=round(float(vector[i]), 6)) for i in order
    )


def _relative(path: str, folder: str) -> str:
    if storage.is_remote(path) or storage.is_remote(folder):
        return path.removeprefix(folder + "/")
    return os.path.relpath(path, folder)


def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in _PACKAGES}


def _read(path: str, where: str) -> GoldenFile:
    try:
        return GoldenFile.model_validate_json(storage.read_bytes(storage.absolute(path)))
    except OSError as error:
        raise ConfigError(f"{where} cannot be read: {error}") from error
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(map(str, problem["loc"]))
        raise ConfigError(
            f"{where} is no golden file: {key + ': ' if key else ''}{problem['msg']}; "
            "write one with score-images golden make"
        ) from error


def _decode(image: GoldenImage, golden: GoldenFile, where: str) -> npt.NDArray[np.float32]:
    try:
        vector = np.frombuffer(base64.b64decode(image.probabilities, validate=True), "<f4")
    except (binascii.Error, ValueError) as error:
        raise ConfigError(f"{where}: the probabilities of {image.path} are damaged: {error}") from error
    if len(vector) != golden.num_classes or not np.isfinite(vector).all():
        raise ConfigError(
            f"{where}: the probabilities of {image.path} are damaged: {golden.num_classes} finite numbers are due, "
            f"got {len(vector)}"
        )
    return vector


def _check_labels(golden: GoldenFile, scorer: Scorer) -> None:
    for image in golden.images:
        for entry in image.top:
            label = scorer.labels[entry.index]
            if label != entry.label:
                raise ConfigError(
                    f"golden check failed: class {entry.index}, among the strongest of {image.path}, was called "
                    f"{entry.label} and is called {label} now; mend labels.path, or, where the change is meant, make "
                    "the golden file again with score-images golden make"
                )


def _changes(golden: GoldenFile, scorer: Scorer) -> list[str]:
    now = scorer.fingerprints
    changes = [
        f"{name} (fingerprint {golden.fingerprints.get(part, 'none')[:12]}, now {now[part][:12]})"
        for part, name in _PARTS.items()
        if golden.fingerprints.get(part) != now[part]
    ]
    versions = _versions()
    changes += [
        f"{name} ({golden.versions.get(name, 'none')}, now {version})"
        for name, version in versions.items()
        if golden.versions.get(name) != version
    ]
    return changes


def _advice(changes: Sequence[str]) -> str:
    if changes:
        found = f"changed since the file was made: {', '.join(changes)}"
    else:
        found = (
            "model, settings, photo and libraries are those that the file was made with, so look at the machine: its "
            "device, and the precision that it computes in"
        )
    return f"{found}; mend it, or, where the change is meant, make the golden file again with score-images golden make"
