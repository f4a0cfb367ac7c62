"""Read a published run again, and hold it to every promise that it makes: what was published is still there, unchanged.

Files are read twice: whole, for their digest, and a row group at a time, for what their rows say. Memory: a row group,
and 8 bytes for each row of all tables, by which a path that is there twice is found.
"""

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from pipeline.after.published import UNREADABLE, PublishedRun, describe_run, locate_run, read_manifest
from pipeline.after.report_contradiction import report_contradiction
from pipeline.after.verify_manifest import File, Manifest, contradictions, split_files
from pipeline.after.verify_paths import PathsOfRun
from pipeline.after.verify_rows import failure_breaches, score_breaches
from transforms import distributions, storage
from transforms.distributions import Distributions
from transforms.errors import InputError
from transforms.layout import ALL_TABLES, CHALLENGER_TABLES, TABLES, RunLayout, Table
from transforms.tables import FAILURES_SCHEMA, METADATA_PREFIX, scores_schema

PROMISES = {
    "manifest": "manifest.json is whole, of this run, and names files of all its tables, each once",
    "files": "each file is there, with its size and SHA-256",
    "pages": "each file has its rows, and pages that are what was written",
    "strays": "no other file lies in the folders of its tables",
    "schemas": "each table has its columns, and its files say the same of themselves",
    "ledger": "listed = unique + duplicates, unique = scored + failed + skipped, as the files hold them",
    "failures": "failures_by_code is what the failures tables hold",
    "answers": "distributions is what the scores table holds",
    "identity": "the fingerprints of the manifest are those of its files",
    "codes": "stages and codes of failures are documented ones",
    "paths": "no path is there twice, neither in a table nor in both of a model; a challenger has those of scores",
    "model": "one model has scored all rows of a table",
    "sizes": "widths and heights are over 0",
    "logits": "probabilities are what the logits give, where those were kept",
    "finite": "probabilities are finite",
    "range": "probabilities lie in [0, 1]",
    "sums": "rows sum to 1",
    "predicted": "the predicted class is the strongest, of equal ones the first",
    "top_k": "top_k holds the strongest classes in order, with their probabilities",
    "margin": "margin is p1 - p2",
    "entropy": "entropy is that of the probabilities",
    "positive": "positive_labels are those over their threshold",
    "report": "report.json, where there is one, tells of this run as it is published",
    "latest": "latest.json, where it points to this run, points to what is there",
}
"""What is checked, in this order."""

_BEHIND_ANSWERS = ("files", "pages", "schemas", "ledger", "finite", "range", "predicted", "margin", "entropy")


class Promise(NamedTuple):
    """One promise, and whether it is kept."""

    name: str
    """One of PROMISES."""
    broken: int
    """How many files, rows, paths or entries break it; 0 where it is kept."""
    example: str | None
    """What is wrong with the first of them, and where."""
    skipped: str | None
    """Why it was not checked; None where it was."""


class Verification(NamedTuple):
    """A run held to its promises."""

    run_id: str
    """The run."""
    output: str
    """Where it lies."""
    rows: dict[str, int]
    """By table, as their files say."""
    files: int
    """Of both tables, as the manifest says."""
    promises: tuple[Promise, ...]
    """All of PROMISES, in their order."""

    @property
    def broken(self) -> tuple[Promise, ...]:
        """Those that are not kept."""
        return tuple(promise for promise in self.promises if promise.broken)

    def to_json(self) -> dict[str, Any]:
        """Return everything as what json.dumps takes."""
        return {**self._asdict(), "promises": [promise._asdict() for promise in self.promises]}


def verify(text: str) -> Verification:
    """Hold a published run to its promises.

    Args:
        text: As find_run takes it.

    Raises:
        InputError: There is no published run, or the storage does not give it.
    """
    layout = locate_run(text)
    checks = _Checks(layout)
    try:
        checks.everything(text)
    except OSError as error:
        reason = str(error).split("\n")[0]
        raise InputError(f"run {text} cannot be read to its end: {reason}; nothing is said of it, try again") from error
    return checks.result()


class _Checks:
    """Gathers what is found on the way through one run."""

    def __init__(self, layout: RunLayout) -> None:
        self._layout = layout
        self._broken: dict[str, tuple[int, str]] = {}
        self._skipped: dict[str, str] = {}
        self._files: list[File] = []
        self._rows: dict[str, int] = dict.fromkeys(TABLES, 0)
        self._codes: dict[str, Counter[str]] = {table: Counter() for table in ALL_TABLES}
        self._paths = PathsOfRun(layout.output)
        self._runs: dict[Table, PublishedRun] = {}
        self._metadata: dict[Table, dict[bytes, bytes]] = {}
        self._top_k: dict[Table, int] = {}
        self._answers: Distributions | None = None

    def result(self) -> Verification:
        promises = []
        for name in PROMISES:
            count, example = self._broken.get(name, (0, None))
            promises.append(Promise(name, count, example, None if count else self._skipped.get(name)))
        layout = self._layout
        return Verification(layout.run_id, layout.output, dict(self._rows), len(self._files), tuple(promises))

    def _add(self, promise: str, example: str, count: int = 1) -> None:
        before, first = self._broken.get(promise, (0, example))
        self._broken[promise] = before + count, first

    def _skip(self, promises: Sequence[str], reason: str) -> None:
        self._skipped.update(dict.fromkeys(promises, reason))

    def everything(self, text: str) -> None:
        try:
            content = read_manifest(self._layout, text)
            manifest = Manifest.model_validate(content)
        except InputError as error:
            self._add("manifest", str(error))
        except ValidationError as error:
            first = error.errors()[0]
            self._add("manifest", f"{'.'.join(map(str, first['loc']))}: {first['msg']}", error.error_count())
        if "manifest" in self._broken:
            self._skip(list(PROMISES), "there is no whole manifest to hold it against")
            return
        self._check_manifest(manifest)
        self._rows = dict.fromkeys(manifest.tables, 0)
        for file in self._files:
            if self._has_its_bytes(file):
                self._check_table_file(file, manifest, content)
        self._check_strays()
        self._check_counts(manifest)
        self._check_answers(manifest)
        self._check_paths(manifest)
        self._say_what_is_not_due()
        self._check_report(content)
        self._check_pointer(manifest)

    def _check_manifest(self, manifest: Manifest) -> None:
        if manifest.run_id != self._layout.run_id:
            self._add("manifest", f"it says run_id {manifest.run_id}")
        self._files, wrong = split_files(manifest, self._layout)
        for example in wrong:
            self._add("manifest", example)
        for table in manifest.tables:
            if all(file.table != table for file in self._files):
                self._add("manifest", f"it names no file of the table {table}")

    def _has_its_bytes(self, file: File) -> bool:
        """Check a file's bytes; tell whether there are any."""
        path = storage.join(self._layout.output, file.path)
        found = storage.stat(path)
        if found is None:
            self._add("files", f"{file.path} is not there")
            return False
        if found.size_bytes != file.size_bytes:
            self._add("files", f"{file.path} has {found.size_bytes:,} bytes, the manifest says {file.size_bytes:,}")
        elif (digest := storage.read_digest(path)) != file.sha256:
            self._add("files", f"{file.path} has SHA-256 {digest}, the manifest says {file.sha256}")
        return True

    def _check_table_file(self, file: File, manifest: Manifest, content: dict[str, Any]) -> None:
        path = storage.join(self._layout.output, file.path)
        filesystem, inner = storage.filesystem(path)
        with filesystem.open_input_file(inner) as stream:
            try:
                parquet = pq.ParquetFile(stream, page_checksum_verification=True)
                schema = parquet.schema_arrow
            except UNREADABLE as error:
                self._add("pages", f"{file.path} is no Parquet file: {_first_line(error)}")
                return
            rows = parquet.metadata.num_rows
            self._rows[file.table] += rows
            if rows != file.rows:
                self._add("pages", f"{file.path} has {rows} rows, the manifest says {file.rows}")
            known = self._has_its_schema(file, schema, manifest, content)
            for number in range(parquet.num_row_groups):
                try:
                    group = parquet.read_row_group(number)
                    group.validate(full=True)  # reading does not ask whether texts are UTF-8
                except UNREADABLE as error:
                    self._add("pages", f"row group {number} of {file.path}: {_first_line(error)}")
                    continue
                if known:
                    self._check_rows(file, manifest, group, number)

    def _has_its_schema(self, file: File, schema: pa.Schema, manifest: Manifest, content: dict[str, Any]) -> bool:
        """Check a file's columns and what it says of itself; tell whether its rows can be understood."""
        if _is_of_failures(file.table):
            return self._equals(file, schema, FAILURES_SCHEMA)
        ours = METADATA_PREFIX.encode()
        metadata = {key: value for key, value in (schema.metadata or {}).items() if key.startswith(ours)}
        run = self._runs.get(file.table)
        if run is None:
            try:
                run = describe_run(self._layout, content, schema, file.path, file.table)
            except InputError as error:
                self._add("schemas", f"{file.path}: {_first_line(error)}")
                return False
            self._runs[file.table] = run
            self._metadata[file.table] = metadata
            for promise, example in contradictions(manifest.model_of(file.table), run, metadata):
                self._add(promise, example)
        known = self._metadata[file.table]
        if metadata != known:
            keys = {*metadata, *known}
            other = min(key.decode(errors="backslashreplace") for key in keys if metadata.get(key) != known.get(key))
            self._add("schemas", f"{file.path} has another {other} than the files before it")
            return False
        classes, thresholds = len(run.labels), run.thresholds
        if thresholds is not None and len(thresholds) != classes:
            self._add("schemas", f"{file.path} has {len(thresholds)} thresholds for {classes} labels")
            return False
        said = manifest.model_of(file.table).num_classes
        if said not in (None, classes):
            self._add("schemas", f"{file.path} has {classes} labels, the manifest says {said} classes")
        return self._equals(file, schema, scores_schema(classes, with_logits=run.has_logits))

    def _equals(self, file: File, found: pa.Schema, expected: pa.Schema) -> bool:
        if found.equals(expected):
            return True
        if found.names != expected.names:
            what = f"its columns are {', '.join(found.names)}; they should be {', '.join(expected.names)}"
        else:
            is_, should = next(pair for pair in zip(found, expected, strict=True) if pair[0] != pair[1])
            what = f"{should.name} is {_kind(is_)}; it should be {_kind(should)}"
        self._add("schemas", f"{file.path}: {what}")
        return False

    def _say_what_is_not_due(self) -> None:
        runs = list(self._runs.values())
        if runs and all(run.activation != "softmax" and not run.one_unit for run in runs):
            self._skip(["sums"], f"activation {runs[0].activation} does not say so")
        if runs and all(run.activation == "sigmoid" and run.thresholds is None for run in runs):
            self._skip(["positive"], "the files do not say their thresholds")

    def _check_rows(self, file: File, manifest: Manifest, group: pa.Table, number: int) -> None:
        paths = group["image_path"].to_pylist()
        self._paths.add(file.table, storage.join(self._layout.output, file.path), number, paths)
        if not paths:
            return
        run = self._runs.get(file.table)
        if run is None:
            self._codes[file.table].update(group["code"].to_pylist())
            breaches = failure_breaches(group)
        else:
            breaches = score_breaches(group, run, self._entries_of_top_k(run, manifest, group))
            if file.table == "scores":
                self._count_answers(group, run)
        for breach in breaches:
            if breach.broken.any():
                first = int(breach.broken.argmax())
                example = f"{paths[first]} in {file.path}: {breach.says(first)}"
                self._add(breach.promise, example, int(breach.broken.sum()))

    def _count_answers(self, group: pa.Table, run: PublishedRun) -> None:
        try:
            found = distributions.count(group, run.labels, independent=run.independent)
        except ValueError as error:
            self._skip(["answers"], f"the rows cannot be counted: {error}")
            return
        self._answers = found if self._answers is None else self._answers + found

    def _check_answers(self, manifest: Manifest) -> None:
        if manifest.distributions is None:
            self._skip(["answers"], "the manifest does not say them")
        elif broken := next((name for name in _BEHIND_ANSWERS if name in self._broken), None):
            self._skip(["answers"], f"{broken} is broken, and they follow from it")
        elif self._answers is not None and "answers" not in self._skipped:
            found = self._answers.to_json()
            for name, value in manifest.distributions.items():
                if value != found.get(name):
                    self._add("answers", f"the manifest says other {name} than the files hold")

    def _entries_of_top_k(self, run: PublishedRun, manifest: Manifest, group: pa.Table) -> int:
        # A manifest that does not say it leaves it to the first row: all have as many.
        entries = self._top_k.setdefault(run.table, manifest.config.results.top_k or len(group["top_k"][0]))
        return min(max(entries, 1), len(run.labels))

    def _check_strays(self) -> None:
        for table in ALL_TABLES:
            folder = self._layout.published_table(table)
            named = {storage.join(self._layout.output, file.path) for file in self._files}
            for found in storage.list_folder(folder, missing_ok=True):
                if found.path not in named:
                    self._add("strays", found.path.removeprefix(storage.join(self._layout.output, "")))

    def _check_counts(self, manifest: Manifest) -> None:
        ledger = manifest.ledger
        if mismatch := ledger.mismatch():
            self._add("ledger", mismatch)
        for name, count in ledger.to_json().items():
            if count < 0:
                self._add("ledger", f"it says {name} {count}")
        counts = zip(ALL_TABLES, ("scored", "failed", "challenger_scored", "challenger_failed"), strict=True)
        for table, name in counts:
            count, rows = getattr(ledger, name), self._rows.get(table)
            if count != rows:
                self._add("ledger", f"it says {name} {count}, and the files of {table} have {rows} rows")
        said: dict[Table, dict[str, int]] = {"failures": manifest.failures_by_code}
        if manifest.challenger is not None:
            said["failures_challenger"] = manifest.challenger.failures_by_code
        for failures, by_code in said.items():
            found = self._codes[failures]
            whose = "" if failures == "failures" else " of the challenger"
            for code in sorted({*found, *by_code}):
                if found[code] != by_code.get(code, 0):
                    it_says = f"it says {by_code.get(code, 0)} {code}{whose}"
                    self._add("failures", f"{it_says}, and the files have {found[code]}")

    def _check_paths(self, manifest: Manifest) -> None:
        for tables in (TABLES, CHALLENGER_TABLES):
            for example in self._paths.repeated(tables):
                self._add("paths", example)
        if manifest.challenger is not None:
            for difference in self._paths.differences():
                self._add("paths", difference.example, difference.images)

    def _check_report(self, manifest: dict[str, Any]) -> None:
        path = self._layout.report("json", refused=False)
        if storage.stat(path) is None:
            return
        try:
            wrong = report_contradiction(json.loads(storage.read_bytes(path)), manifest)
        except ValueError as error:
            wrong = f"it is no JSON: {_first_line(error)}"
        if wrong is not None:
            self._add("report", f"{path}: {wrong}; score-images report makes it again")

    def _check_pointer(self, manifest: Manifest) -> None:
        if storage.stat(self._layout.latest) is None:
            return
        try:
            pointer = json.loads(storage.read_bytes(self._layout.latest))
            points_here = pointer["run_id"] == self._layout.run_id
        except (ValueError, KeyError, TypeError) as error:
            self._add("latest", f"latest.json is no pointer: {type(error).__name__}: {error}")
            return
        for name in ("manifest", *manifest.tables) if points_here else ():
            place = storage.join(self._layout.output, str(pointer.get(name)))
            if not (storage.stat(place) if name == "manifest" else storage.is_folder(place)):
                self._add("latest", f"its {name} is {pointer.get(name)}, which is not there")


def _is_of_failures(table: Table) -> bool:
    return table in ("failures", "failures_challenger")


def _kind(field: pa.Field) -> str:
    return f"{field.type}{'' if field.nullable else ' not null'}"


def _first_line(error: Exception) -> str:
    return str(error).split("\n")[0]
