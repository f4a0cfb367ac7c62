"""A run that has come to its end, published or refused: what it says of itself, and the files that hold its rows."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import pyarrow.parquet as pq

from pipeline.after.published import (
    UNREADABLE,
    PublishedRun,
    describe_run,
    locate_layout,
    read_json,
    read_manifest,
    why_unpublished,
)
from transforms import storage
from transforms.errors import ExitCode, InputError
from transforms.layout import RunLayout, absolute_folder, check_run_id
from transforms.ledger import Ledger
from transforms.outcomes import is_published


class TableFile(NamedTuple):
    """One closed Parquet file, published or staged."""

    table: str
    """scores or failures; whatever else a manifest names."""
    path: str
    """Where it lies."""
    rows: int
    """As it was counted when it was written."""


@dataclass(frozen=True)
class EndedRun:
    """How a run has ended, and what of."""

    layout: RunLayout
    """Where it lies."""
    exit_code: ExitCode
    """PUBLISHED, or why not."""
    message: str
    """For the operator."""
    facts: dict[str, Any]
    """The manifest; of a refused run what its manifest would have said of it."""
    ledger: dict[str, int]
    """Where every image went: transforms.ledger.Ledger, as it was written."""
    failures_by_code: dict[str, int]
    """Rows of the failures table, by code."""
    files: tuple[TableFile, ...]
    """What its tables are made of."""

    @property
    def refused(self) -> bool:
        """Whether it came to its end and was not published."""
        return self.exit_code is not ExitCode.PUBLISHED

    def paths(self, table: str) -> list[str]:
        """Return the files of a table, in their order."""
        return [file.path for file in self.files if file.table == table]

    def rows(self, table: str) -> int:
        """Return how many rows the files of a table have."""
        return sum(file.rows for file in self.files if file.table == table)

    def description(self, table: str = "scores") -> PublishedRun | None:
        """Return what the files of scores say of the run; None where there is no such file: nothing was scored.

        Args:
            table: scores, or scores_challenger for what a second model says.

        Raises:
            InputError: A file cannot be read.
        """
        first = next(iter(self.paths(table)), None)
        if first is None:
            return None
        filesystem, inner = storage.filesystem(first)
        try:
            with filesystem.open_input_file(inner) as stream:
                schema = pq.read_schema(stream)
        except UNREADABLE as error:
            raise InputError(f"run {self.layout.run_id}: {first} cannot be read: {_first_line(error)}") from error
        return describe_run(self.layout, self.facts, schema, first)


def find_ended(text: str, run_id: str | None = None) -> EndedRun:
    """Find a run that was published or refused.

    Args:
        text: As find_run takes it; with a run_id, the folder of all runs.
        run_id: The run; None takes what text means, of an output the newest published one.

    Raises:
        InputError: There is no such run, or it has not come to its end.
    """
    try:
        layout = RunLayout(absolute_folder(text), check_run_id(run_id)) if run_id else _located(text)
        if is_published(layout):
            return read_ended(layout, refused=False)
        if storage.stat(layout.refused) is not None:
            return read_ended(layout, refused=True)
        raise InputError(why_unpublished(f"{text} {run_id}" if run_id else text, layout))
    except OSError as error:
        raise InputError(f"run {text} cannot be looked for: {error}") from error


def _located(text: str) -> RunLayout:
    try:
        return locate_layout(text)
    except InputError as error:
        raise InputError(f"{error}; with the folder, --run-id names a run that was refused") from error


def read_ended(layout: RunLayout, *, refused: bool) -> EndedRun:
    """Read how a run has ended.

    Args:
        layout: The run.
        refused: Read its refusal, and not what is published under its id.

    Raises:
        InputError: What lies there is missing or damaged.
    """
    if not refused:
        manifest = read_manifest(layout, layout.run_id)
        return _ended(layout, layout.manifest, manifest, manifest, ExitCode.PUBLISHED, "")
    said = read_json(layout.refused, layout.run_id)
    try:
        outcome, facts = said["outcome"], {**said["run"], "health": said.get("health")}
        code, message = ExitCode(outcome["exit_code"]), str(outcome["message"])
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(layout, layout.refused) from error
    return _ended(layout, layout.refused, {**outcome, "files": said.get("files")}, facts, code, message)


def _ended(
    layout: RunLayout, source: str, said: dict[str, Any], facts: dict[str, Any], code: ExitCode, message: str
) -> EndedRun:
    try:
        files = [
            TableFile(str(entry["table"]), storage.join(layout.output, entry["path"]), int(entry["rows"]))
            for entry in said["files"]
        ]
        overridden = facts.get("limits_overridden")
        published = f"published in spite of its limits: {overridden['message']}" if overridden else "published"
        codes = {str(name): int(count) for name, count in said["failures_by_code"].items()}
        Ledger(**said["ledger"])
        return EndedRun(layout, code, message or published, dict(facts), dict(said["ledger"]), codes, tuple(files))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(layout, source) from error


def _damaged(layout: RunLayout, source: str) -> InputError:
    return InputError(
        f"run {layout.run_id}: {source} is damaged or of another version; score-images verify says what is wrong with "
        "a published run, a refused one is run again"
    )


def _first_line(error: BaseException) -> str:
    return str(error).split("\n")[0]
