"""Find a published run, and read its tables one row group at a time.

Only what the manifest names is read, and only of a run that has its _SUCCESS: a run under way, one that broke off
and one that was refused are told apart, each with its way out.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from transforms import storage
from transforms.errors import InputError
from transforms.layout import ALL_TABLES, CHALLENGER_TABLES, RunLayout, Table, absolute_folder, is_run_id
from transforms.outcomes import MANIFEST_VERSION, is_published
from transforms.settings import CalibrationSettings
from transforms.tables import METADATA_PREFIX

T = TypeVar("T")
UNREADABLE = (OSError, pa.ArrowException, UnicodeDecodeError)
"""What reading a damaged Parquet file raises; names in its footer that are no text the last."""
_FORMS = "give the --output folder of runs (the newest is read), <output>/runs/<id> or <output>/scores/run_id=<id>"


@dataclass(frozen=True)
class PublishedRun:
    """One published run and what its probabilities mean."""

    layout: RunLayout
    """Where it lies."""
    manifest: dict[str, Any]
    """Its manifest.json."""
    schema: pa.Schema
    """Of the table."""
    labels: tuple[str, ...]
    """The names of the C classes, in the order of the probabilities."""
    num_units: int
    """Columns of the model's output: 1 for a one-unit head, else C."""
    output: str
    """logits or probabilities: what the model returned, and what the column `logits` holds."""
    activation: str
    """softmax, sigmoid or none."""
    calibration: CalibrationSettings
    """What the published probabilities were calibrated with."""
    thresholds: tuple[float, ...] | None
    """From which probability on each label counts as positive; None where that has no meaning, or no file says it."""
    table: Table = "scores"
    """Which of its tables this is: scores, or scores_challenger."""

    @property
    def model_id(self) -> str:
        """The model that has scored the table."""
        return str((self.manifest if self.table == "scores" else self.manifest["challenger"])["model_id"])

    @property
    def name(self) -> str:
        """What a person calls it: the run's id, and which of two models."""
        return self.layout.run_id if self.table == "scores" else f"{self.layout.run_id} (challenger)"

    @property
    def fingerprints(self) -> dict[str, str]:
        """What makes its scores what they are."""
        told = self.manifest if self.table == "scores" else self.manifest["challenger"]
        return dict(told.get("fingerprints") or {})

    @property
    def failures_tables(self) -> tuple[Table, ...]:
        """Where the images are that have no row: the challenger was asked only for what the first model scored."""
        return ("failures",) if self.table == "scores" else ("failures", "failures_challenger")

    @property
    def one_unit(self) -> bool:
        """Whether one output speaks for two classes."""
        return self.num_units == 1

    @property
    def independent(self) -> bool:
        """Whether an image may have several labels or none."""
        return self.activation == "sigmoid" and not self.one_unit

    @property
    def has_logits(self) -> bool:
        """Whether the run kept the model's raw output."""
        return "logits" in self.schema.names

    def row_groups(self, table: Table) -> "Iterator[RowGroup]":
        """Yield the pieces of a table in the order of its files.

        Raises:
            InputError: A file that the manifest names is missing or is no Parquet file.
        """
        for entry in self.manifest["files"]:
            if entry["table"] == table:
                path = storage.join(self.layout.output, entry["path"])
                with _open(path, self.layout.run_id) as file:
                    for index in range(file.num_row_groups):
                        yield RowGroup(file, index)


class RowGroup(NamedTuple):
    """Some thousand rows of a table: what is read at once. Valid until the next one is asked for."""

    file: pq.ParquetFile
    """Open."""
    number: int
    """In this file."""

    def read(self, columns: Sequence[str]) -> pa.Table:
        """Read some columns whole."""
        return self.file.read_row_group(self.number, columns=list(columns))


def matrix(column: pa.ChunkedArray) -> npt.NDArray[np.float32]:
    """Return a column of lists of equal length as one array.

    Args:
        column: N lists of C numbers: probabilities or logits.

    Returns:
        float32[N, C], without a copy where Arrow holds them in one piece.
    """
    lists = column.combine_chunks()
    return np.asarray(lists.flatten().to_numpy()).reshape(len(lists), -1)


def find_run(text: str, table: Table | None = None) -> PublishedRun:
    """Find a published run by any of its folders.

    Args:
        text: The output folder of runs, whose latest.json names the run; or the folder of one run, `runs/<id>`; or
            that of one of its tables, `scores/run_id=<id>`. Local, s3:// or gs://.
        table: Whose scores: `scores`, or those of the challenger, `scores_challenger`; None for the challenger's where
            the text is the folder of one of its tables, else the first model's.

    Raises:
        InputError: There is no run, or it is not published, or it had no challenger.
    """
    layout = locate_run(text)
    manifest = read_manifest(layout, text)
    if table is None:
        of_challenger = map(layout.published_table, CHALLENGER_TABLES)
        table = "scores_challenger" if absolute_folder(text) in of_challenger else "scores"
    first = _first_scores(manifest, text, table)
    with _open(storage.join(layout.output, first), layout.run_id) as file:
        return describe_run(layout, manifest, file.schema_arrow, first, table)


def _first_scores(manifest: dict[str, Any], text: str, table: Table) -> str:
    try:
        named = [str(entry["path"]) for entry in manifest["files"] if entry["table"] == table]
    except (KeyError, TypeError):
        named = []
    if not named and table != "scores":
        raise InputError(f"run {text} had no challenger: it has no table {table}; leave --table out for its scores")
    if not named:
        raise InputError(f"run {text}: its manifest names no file of scores; score-images verify says what is wrong")
    return named[0]


def locate_run(text: str) -> RunLayout:
    """Find a published run, as find_run does, without reading what it says of itself.

    Raises:
        InputError: There is no run, or it is not published.
    """
    try:
        layout = locate_layout(text)
        if not is_published(layout):
            raise InputError(why_unpublished(text, layout))
    except OSError as error:
        raise InputError(f"run {text} cannot be looked for: {error}") from error
    return layout


def read_manifest(layout: RunLayout, text: str) -> dict[str, Any]:
    """Read the manifest of a published run.

    Args:
        layout: The run.
        text: What messages call it.

    Raises:
        InputError: It cannot be read, or is of a version that this program does not know.
    """
    manifest = read_json(layout.manifest, text)
    if manifest.get("manifest_version") != MANIFEST_VERSION:
        raise InputError(
            f"run {text}: its manifest is of version {manifest.get('manifest_version')}, this score-images reads "
            f"version {MANIFEST_VERSION}; install the version that wrote it ({_writer(manifest)})"
        )
    return manifest


def locate_layout(text: str) -> RunLayout:
    """Find the run that any of its folders means, published or not.

    Raises:
        InputError: It is none of the folders of a run.
        OSError: The storage does not answer.
    """
    folder = absolute_folder(text)
    above, name = storage.parent(folder), folder.rpartition("/")[2]
    kind = above.rpartition("/")[2]
    pointer = RunLayout(folder, "").latest
    if storage.stat(pointer) is not None:
        run_id = read_json(pointer, text).get("run_id")
        if not isinstance(run_id, str) or not is_run_id(run_id):
            raise InputError(
                f"run {text}: {pointer} names no run, its run_id is {json.dumps(run_id)[:60]}; "
                f"give <output>/runs/<id> instead, or publish a run anew"
            )
        return RunLayout(folder, run_id)
    if kind in ALL_TABLES and name.startswith("run_id="):
        return RunLayout(storage.parent(above), name.removeprefix("run_id="))
    if kind == "runs" and name:
        return RunLayout(storage.parent(above), name)
    if storage.is_folder(storage.join(folder, "runs")):
        raise InputError(
            f"run {text}: there is a folder of runs, but none was ever published (no latest.json); {_FORMS}"
        )
    raise InputError(f"run {text}: there is no run at {folder}; {_FORMS}")


def why_unpublished(text: str, layout: RunLayout) -> str:
    """Say what is known of a run that is not published, and what to do."""
    if storage.stat(layout.refused) is not None:
        try:
            reason = read_json(layout.refused, text)["outcome"]["message"]
        except (KeyError, TypeError):
            reason = f"{layout.refused} does not say why; run again with --run-id {layout.run_id}"
        return f"run {text} was not published: {reason}"
    if storage.is_folder(layout.run_folder):
        return (
            f"run {text} is not published: it is under way, or it broke off; wait for it, or run it again with "
            f"--run-id {layout.run_id} to complete it"
        )
    return f"run {text}: there is no run {layout.run_id} in {layout.output}; {_FORMS}"


def read_json(path: str, text: str) -> dict[str, Any]:
    """Read a JSON object of a run.

    Args:
        path: The file.
        text: What messages call the run.

    Raises:
        InputError: It cannot be read, or is no JSON object.
    """
    try:
        content = json.loads(storage.read_bytes(path))
    except (OSError, ValueError) as error:
        raise InputError(f"run {text}: {path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"run {text}: {path} must hold a JSON object, got {json.dumps(content)[:60]}")
    return content


def _writer(manifest: dict[str, Any]) -> str:
    versions = manifest.get("versions")
    known = versions.get("score-images") if isinstance(versions, dict) else None
    return f"score-images {known or 'unknown'}"


def describe_run(
    layout: RunLayout, manifest: dict[str, Any], schema: pa.Schema, first: str, table: Table = "scores"
) -> PublishedRun:
    """Read what a file of scores says of its run.

    Args:
        layout: The run.
        manifest: Its manifest.
        schema: Of the file, with its key-value metadata.
        first: The file's name, for messages.
        table: Its table.

    Raises:
        InputError: The file does not say all of it, or not in a form that can be read.
    """
    try:
        found = {
            key.decode().removeprefix(METADATA_PREFIX): value.decode() for key, value in (schema.metadata or {}).items()
        }
        return PublishedRun(
            layout=layout,
            manifest=manifest,
            schema=schema,
            labels=_each(str, found, "labels"),
            num_units=_units(found["num_units"]),
            output=_one_of(("logits", "probabilities"), found["output"], "output"),
            activation=_one_of(("softmax", "sigmoid", "none"), found["activation"], "activation"),
            calibration=CalibrationSettings.model_validate_json(found["calibration"]),
            thresholds=_each(float, found, "thresholds") if "thresholds" in found else None,
            table=table,
        )
    except KeyError as error:
        raise InputError(
            f"run {layout.run_id}: {first} does not say its {error.args[0]} ({_writer(manifest)} wrote it, or another "
            "tool has rewritten it); score the images again"
        ) from error
    except ValueError as error:
        reason = str(error).split("\n")[0]
        raise InputError(
            f"run {layout.run_id}: what {first} says of itself cannot be read: {reason}; score the images again"
        ) from error


def _each(kind: type[T], found: Mapping[str, str], name: str) -> tuple[T, ...]:
    values = json.loads(found[name])
    if not isinstance(values, list) or not all(type(value) is kind for value in values):
        raise ValueError(f"{name} must be a list of {kind.__name__}, got {found[name][:60]}")
    return tuple(values)


def _units(text: str) -> int:
    if int(text) < 1:
        raise ValueError(f"num_units must be at least 1, got {text}")
    return int(text)


def _one_of(allowed: Sequence[str], value: str, name: str) -> str:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value[:60]}")
    return value


@contextlib.contextmanager
def _open(path: str, run_id: str) -> Iterator[pq.ParquetFile]:
    filesystem, inner = storage.filesystem(path)
    with contextlib.ExitStack() as closing:
        try:
            stream = closing.enter_context(filesystem.open_input_file(inner))
            file = pq.ParquetFile(stream)
        except UNREADABLE as error:
            reason = str(error).split("\n")[0]
            raise InputError(
                f"run {run_id}: {path} is in the manifest and cannot be read: {reason}; the run's files were moved, "
                "deleted or damaged after it was published"
            ) from error
        yield file
