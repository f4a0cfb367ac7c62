"""RunConfig: everything that a run can be told in a file, and load_config, which reads one."""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import Field, PrivateAttr, ValidationError

from pipeline.config_errors import explain
from pipeline.yaml_text import parse_yaml
from transforms import storage
from transforms.contest import ContestPlan
from transforms.errors import ConfigError
from transforms.load_plan import LoadPlan, SecondInput, load_rows
from transforms.redaction import redact_value, says_secret
from transforms.scoring import ScorerPlan
from transforms.settings import (
    BatchSettings,
    CalibrationSettings,
    ChallengerSettings,
    DecodeSettings,
    GoldenSettings,
    HealthSettings,
    InputSettings,
    LabelSettings,
    LimitSettings,
    LoadSettings,
    ModelSettings,
    PreprocessSettings,
    PriceSettings,
    ReportSettings,
    ResultSettings,
    Settings,
    WriteSettings,
)

_PATH_KEYS = (
    ("model", "path"),
    ("model", "hub_cache"),
    ("labels", "path"),
    ("labels", "thresholds"),
    ("challenger", "model", "path"),
    ("challenger", "model", "hub_cache"),
    ("challenger", "labels", "path"),
    ("challenger", "labels", "thresholds"),
    ("golden", "path"),
)
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


class RunConfig(Settings):
    """The whole configuration of a run. Only model.path and preprocess.value_range are required."""

    model: ModelSettings
    """Which model, and what its output means."""
    labels: LabelSettings = Field(default_factory=LabelSettings)
    """The names of the classes."""
    preprocess: PreprocessSettings
    """How an image becomes the model's input."""
    calibration: CalibrationSettings = Field(default_factory=CalibrationSettings)
    """How probabilities are mended so that 80% means 80%."""
    challenger: ChallengerSettings | None = None
    """A second model that scores the same images in the same pass."""
    results: ResultSettings = Field(default_factory=ResultSettings)
    """What the scores table holds."""
    limits: LimitSettings = Field(default_factory=LimitSettings)
    """How many failed images a published run may have."""
    health: HealthSettings = Field(default_factory=HealthSettings)
    """Whether tonight's answers are distributed like a baseline's, judged before a run is published."""
    golden: GoldenSettings = Field(default_factory=GoldenSettings)
    """Photos whose probabilities are known, scored before each run."""
    report: ReportSettings = Field(default_factory=ReportSettings)
    """The report that every run leaves beside its manifest."""
    prices: PriceSettings = Field(default_factory=PriceSettings)
    """What a night costs, for its prediction."""
    input: InputSettings = Field(default_factory=InputSettings)
    """How inputs are listed."""
    decode: DecodeSettings = Field(default_factory=DecodeSettings)
    """Limits that keep hostile files from costing memory or time."""
    load: LoadSettings = Field(default_factory=LoadSettings)
    """How many images are read and decoded at a time."""
    batch: BatchSettings = Field(default_factory=BatchSettings)
    """How many images the model sees at a time."""
    write: WriteSettings = Field(default_factory=WriteSettings)
    """How the Parquet files are cut."""
    _secrets: tuple[tuple[tuple[str, ...], str], ...] = PrivateAttr(())
    """The names that lead to a setting, and the value of a variable in it whose name says secret; from load_config."""

    def told(self) -> dict[str, Any]:
        """Return the configuration as a manifest may tell it: without secrets."""
        told: dict[str, Any] = redact_value(self.model_dump(mode="json"))
        for (*sections, key), secret in self._secrets:
            section = _inner(told, sections)
            if section is not None:  # a challenger may have been left out by an override
                section[key] = redact_value(section[key], [secret])
        return told

    def scorer_plan(self) -> ScorerPlan:
        """Return what a worker needs to score."""
        return ScorerPlan(
            model=self.model,
            preprocess=self.preprocess,
            decode=self.decode,
            labels=self.labels,
            calibration=self.calibration,
            results=self.results,
            batch_size=None if self.batch.size == "auto" else self.batch.size,
        )

    def challenger_plan(self) -> ScorerPlan | None:
        """Return what a worker needs to score with the challenger; None where there is none."""
        rival = self.challenger
        if rival is None:
            return None
        return replace(
            self.scorer_plan(),
            model=rival.model,
            preprocess=rival.preprocess or self.preprocess,
            labels=rival.labels or self.labels,
            calibration=rival.calibration or self.calibration,
        )

    def contest_plan(self) -> ContestPlan:
        """Return what a worker needs to score with all models that there are."""
        return ContestPlan(self.scorer_plan(), self.challenger_plan())

    def without_challenger(self) -> "RunConfig":
        """Return the same configuration for the first model alone."""
        return self if self.challenger is None else self.model_copy(update={"challenger": None})

    def load_plan(
        self, height: int, width: int, *, encoded: bool = False, second: SecondInput | None = None
    ) -> LoadPlan:
        """Return what a worker needs to load images.

        Args:
            height: Rows of the model's input.
            width: Columns of it.
            encoded: The model takes encoded bytes.
            second: What a challenger is given, where it gets other pixels.
        """
        rows = load_rows(height, width)
        if second is not None:
            rows = min(rows, load_rows(second.height, second.width))
        return LoadPlan(
            decode=self.decode,
            preprocess=self.preprocess,
            height=height,
            width=width,
            load=self.load,
            batch_size=rows if self.batch.size == "auto" else self.batch.size,
            encoded=encoded,
            second=second,
        )


def load_config(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> RunConfig:
    """Read a YAML configuration.

    `${NAME}` in a text is an environment variable; the value of one whose name says that it is secret is not told.
    Relative paths in the file start at the file's folder, those in overrides and those that begin with a variable at
    the working directory. An empty section is as if left out.

    Args:
        path: A YAML file, on a disk or in a bucket (gs://, s3://).
        overrides: `key.sub=value`, the value in YAML: `limits.max_failure_rate=0.01`.

    Raises:
        ConfigError: The file cannot be read, or says something that is not allowed; every problem is named.
    """
    source = f"config {path}"
    try:
        text, folder = _read(path)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror or str(error) if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"{source} cannot be read: {reason}") from error
    written = parse_yaml(text, source)
    if not isinstance(written, dict):
        raise ConfigError(f"{source} must be a mapping with model: and preprocess:, got {written!r:.60}")
    values = _expand(written, source)
    _resolve_paths(values, written, folder)
    for override in overrides:
        _override(values, override)
    try:
        # A section whose lines are all comments is empty, not wrong.
        config = RunConfig.model_validate({key: value for key, value in values.items() if value is not None})
    except ValidationError as error:
        raise ConfigError(explain(error, str(path), RunConfig)) from error
    config._secrets = tuple(secret for given in (written, *map(_nested, overrides)) for secret in _secrets_of(given))
    return config


def _read(path: str | os.PathLike[str]) -> tuple[str, str]:
    """Return a file's text and its folder, which relative paths in it start from."""
    name = os.fspath(path)
    if storage.is_remote(name):
        return storage.read_bytes(name).decode(), storage.parent(name)
    file = Path(name)
    return file.read_text(encoding="utf-8"), str(file.resolve().parent)


def _nested(override: str) -> dict[str, Any]:
    """Return what a valid override says as the file would say it."""
    key, _, text = override.partition("=")
    value = parse_yaml(text, override)
    for name in reversed(key.strip().split(".")):
        value = {name: value}
    return dict(value)


def _secrets_of(written: Any, names: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    if isinstance(written, dict):
        for name, inner in written.items():
            yield from _secrets_of(inner, (*names, name))
    elif len(names) > 1:
        for variable in filter(says_secret, _VARIABLE.findall(str(written))):
            yield names, os.environ[variable]


def _expand(value: Any, source: str) -> Any:
    """Return a copy of a value with the environment's variables in its texts."""
    if isinstance(value, dict):
        return {key: _expand(inner, source) for key, inner in value.items()}
    if isinstance(value, list):
        return [_expand(inner, source) for inner in value]
    if not isinstance(value, str):
        return value

    def replace(match: re.Match[str]) -> str:
        found = os.environ.get(match[1])
        if found is None:
            raise ConfigError(
                f"{source} uses ${{{match[1]}}}, and the environment variable is not set; export {match[1]}=..., or "
                "write the value there"
            )
        return found

    return _VARIABLE.sub(replace, value)


def _resolve_paths(values: dict[str, Any], written: dict[str, Any], folder: str) -> None:
    for *sections, key in _PATH_KEYS:
        parent, source = _inner(values, sections), _inner(written, sections)
        if isinstance(parent, dict) and isinstance(text := parent.get(key), str):
            # What begins with a variable is the operator's path, not the file's; and a cache is on a disk.
            here = _VARIABLE.match(source[key]) or (key == "hub_cache" and storage.is_remote(folder))
            parent[key] = _resolved(text, os.getcwd() if here else folder)


def _inner(values: Any, names: Sequence[str]) -> Any:
    for name in names:
        values = values.get(name) if isinstance(values, dict) else None
    return values


def _resolved(text: str, folder: str) -> str:
    if text.startswith("file://"):
        return storage.absolute(text)
    if "://" in text or not text:
        return text
    expanded = os.path.expanduser(text)
    return (
        storage.absolute(expanded, folder)
        if storage.is_remote(folder)
        else os.path.normpath(os.path.join(folder, expanded))
    )


def _override(values: dict[str, Any], override: str) -> None:
    source = f"--set {override}"
    key, separator, text = override.partition("=")
    names = key.strip().split(".")
    if not separator or not all(names):
        raise ConfigError(f"{source}: write key.sub=value, limits.max_failure_rate=0.01 for example")
    value = _expand(parse_yaml(text, source), source)
    if tuple(names) in _PATH_KEYS and isinstance(value, str):
        value = _resolved(value, os.getcwd())
    for name in names[:-1]:
        inner = values.get(name)
        if inner is None:
            inner = values[name] = {}
        if not isinstance(inner, dict):
            raise ConfigError(f"{source}: {name} is a value, not a section")
        values = inner
    values[names[-1]] = value
