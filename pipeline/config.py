"""RunConfig: everything that a run can be told in a file, and load_config, which reads one."""

import difflib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, Field, ValidationError

from transforms.errors import ConfigError
from transforms.loading import LoadPlan, load_rows
from transforms.scoring import ScorerPlan
from transforms.settings import (
    BatchSettings,
    CalibrationSettings,
    DecodeSettings,
    GoldenSettings,
    InputSettings,
    LabelSettings,
    LimitSettings,
    LoadSettings,
    ModelSettings,
    PreprocessSettings,
    ResultSettings,
    Settings,
    WriteSettings,
)

_PATH_KEYS = (
    ("model", "path"),
    ("model", "hub_cache"),
    ("labels", "path"),
    ("labels", "thresholds"),
    ("golden", "path"),
)
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


class _Loader(yaml.SafeLoader):
    """YAML 1.2's numbers and booleans: in YAML 1.1, 0_255 is an octal number and `no` is false."""


_OLD_TAGS = {"tag:yaml.org,2002:int", "tag:yaml.org,2002:bool"}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _OLD_TAGS]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"[-+]?(?:0|[1-9][0-9]*)$"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)


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
    results: ResultSettings = Field(default_factory=ResultSettings)
    """What the scores table holds."""
    limits: LimitSettings = Field(default_factory=LimitSettings)
    """How many failed images a published run may have."""
    golden: GoldenSettings = Field(default_factory=GoldenSettings)
    """Photos whose probabilities are known, scored before each run."""
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

    def load_plan(self, height: int, width: int, *, encoded: bool = False) -> LoadPlan:
        """Return what a worker needs to load images for a model of that input size, or for one that takes bytes."""
        return LoadPlan(
            decode=self.decode,
            preprocess=self.preprocess,
            height=height,
            width=width,
            load=self.load,
            batch_size=load_rows(height, width) if self.batch.size == "auto" else self.batch.size,
            encoded=encoded,
        )


def load_config(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> RunConfig:
    """Read a YAML configuration.

    `${NAME}` in a text is an environment variable. Relative paths in the file start at the file's folder, those in
    overrides at the working directory.

    Args:
        path: A YAML file.
        overrides: `key.sub=value`, the value in YAML: `limits.max_failure_rate=0.01`.

    Raises:
        ConfigError: The file cannot be read, or says something that is not allowed; every problem is named.
    """
    file = Path(path)
    try:
        values = _load_yaml(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(f"config {path} cannot be read: {reason}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"config {path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"config {path} must be a mapping with model: and preprocess:, got {values!r:.60}")
    _resolve_paths(values, file.resolve().parent)
    for override in overrides:
        _override(values, override)
    try:
        return RunConfig.model_validate(_expand_variables(values, str(path)))
    except ValidationError as error:
        raise ConfigError(explain(error, str(path), RunConfig)) from error


def _load_yaml(text: str) -> Any:
    return yaml.load(text, _Loader)  # noqa: S506  a SafeLoader with fewer resolvers


def _resolve_paths(values: dict[str, Any], folder: Path) -> None:
    for section, key in _PATH_KEYS:
        parent = values.get(section)
        if isinstance(parent, dict) and isinstance(text := parent.get(key), str):
            parent[key] = _resolved(text, folder)


def _resolved(text: str, folder: Path) -> str:
    if "://" in text or text.startswith("$"):
        return text
    return os.path.normpath(folder / Path(text).expanduser())


def _override(values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    names = key.split(".")
    if not separator or not all(names):
        raise ConfigError(f"--set {override}: write key.sub=value, limits.max_failure_rate=0.01 for example")
    try:
        value = _load_yaml(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {override}: the value is not valid YAML") from error
    if tuple(names) in _PATH_KEYS and isinstance(value, str):
        value = _resolved(value, Path.cwd())
    for name in names[:-1]:
        inner = values.setdefault(name, {})
        if inner is None:
            inner = values[name] = {}
        if not isinstance(inner, dict):
            raise ConfigError(f"--set {override}: {name} is a value, not a section")
        values = inner
    values[names[-1]] = value


def _expand_variables(value: Any, path: str) -> Any:
    if isinstance(value, dict):
        return {key: _expand_variables(inner, path) for key, inner in value.items()}
    if isinstance(value, list):
        return [_expand_variables(inner, path) for inner in value]
    if not isinstance(value, str):
        return value

    def replace(match: re.Match[str]) -> str:
        found = os.environ.get(match[1])
        if found is None:
            raise ConfigError(f"config {path} uses ${{{match[1]}}}, and the environment variable is not set")
        return found

    return _VARIABLE.sub(replace, value)


def explain(error: ValidationError, source: str, model: type[BaseModel]) -> str:
    """Say in one line a problem what is wrong with a configuration: key, value, what is allowed."""
    lines = []
    for problem in error.errors():
        location = [part for part in problem["loc"] if isinstance(part, str)]
        key = ".".join(str(part) for part in problem["loc"] if not str(part).startswith(("function-", "constrained-")))
        if problem["type"] == "extra_forbidden":
            lines.append(f"{key} is not a setting{_nearest(model, location)}")
        elif problem["type"] == "missing":
            lines.append(f"{key} is missing{_description(model, location)}")
        elif problem["type"] == "value_error":
            lines.append(str(problem["ctx"]["error"]))
        else:
            message = problem["msg"][:1].lower() + problem["msg"][1:]
            lines.append(f"{key}: {message}, got {problem['input']!r:.80}")
    problems = "; ".join(lines)
    return f"config {source}: {problems}"


def _section(model: type[BaseModel], location: Sequence[str]) -> type[BaseModel] | None:
    for name in location:
        field = model.model_fields.get(name)
        if field is None or not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            return None
        model = field.annotation
    return model


def _nearest(model: type[BaseModel], location: Sequence[str]) -> str:
    section = _section(model, location[:-1])
    if section is None:
        return ""
    names = list(section.model_fields)
    close = difflib.get_close_matches(location[-1], names, n=1, cutoff=0.6)
    allowed = f"allowed here: {', '.join(names)}"
    return f"; did you mean {close[0]}? ({allowed})" if close else f"; {allowed}"


def _description(model: type[BaseModel], location: Sequence[str]) -> str:
    section = _section(model, location[:-1])
    field = section.model_fields.get(location[-1]) if section else None
    return f": {field.description}" if field and field.description else ""
