"""The names of everything in a run's directory, and the fingerprints that say what made it.

<output>/scores/run_id=<id>/part-00000-of-00004.parquet
<output>/failures/run_id=<id>/part-00000-of-00001.parquet
<output>/scores_challenger/run_id=<id>/...    with a challenger: what it says of the images in scores
<output>/failures_challenger/run_id=<id>/...  with a challenger: those of them that it could not score
<output>/runs/<id>/manifest.json      files, ledger, fingerprints, versions, configuration
<output>/runs/<id>/_SUCCESS           written last
<output>/runs/<id>/refused.json       why a finished run was not published
<output>/runs/<id>/report.html        the published run for people, report.json for programs
<output>/runs/<id>/refused_report.html  the same of an attempt that was refused, and refused_report.json
<output>/runs/<id>/_staging/...       gone after publishing
<output>/runs/<id>/_claim.lock        who works on it, on a local disk; gone at the end
<output>/runs/<id>/_claims/...        who works on it, in a remote store; gone at the end
<output>/latest.json                  pointer to the newest published run
"""

import hashlib
import json
import posixpath
import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from transforms import storage
from transforms.errors import ConfigError

Table = Literal["scores", "failures", "scores_challenger", "failures_challenger"]
TABLES: tuple[Table, ...] = ("scores", "failures")
"""Those of every run."""
CHALLENGER_TABLES: tuple[Table, ...] = ("scores_challenger", "failures_challenger")
"""Those of a run with a challenger besides: what a second model says of the images in `scores`, or why it does not."""
ALL_TABLES = (*TABLES, *CHALLENGER_TABLES)
ReportKind = Literal["json", "html"]
REPORT_KINDS: tuple[ReportKind, ...] = ("json", "html")

_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
LATEST = "latest"
"""Means the run that was published last, so that no run may be called so."""


def is_run_id(name: str) -> bool:
    """Tell whether a name can be a run's: a folder's name and a partition's value."""
    return _RUN_ID.fullmatch(name) is not None


def check_run_id(run_id: str) -> str:
    """Return a run id that can be a folder's name and a partition's value.

    Raises:
        ConfigError: It cannot.
    """
    if not is_run_id(run_id):
        raise ConfigError(
            f"run id {run_id!r} is not allowed: use 1 to 128 letters, digits, '.', '_' or '-', starting with a "
            "letter or digit, 2026-11-22 for example"
        )
    if run_id == LATEST:
        raise ConfigError(f"run id {LATEST!r} is not allowed: it means the run that was published last; use another")
    return run_id


def absolute_folder(text: str) -> str:
    """Return the one name of the folder or URL that holds all runs, or of one run's folder.

    Keys of single images stay letter for letter, whatever is in them. Below a folder there are many requests, and
    clients and stores do not agree on what an empty part, `.` or `..` of a key means.

    Raises:
        ConfigError: It is no place of a known kind, or a URL with such a part.

    >>> absolute_folder("s3://bucket/nightly/")
    's3://bucket/nightly'
    """
    folder = storage.absolute(text).rstrip("/") or "/"
    if storage.is_remote(folder):
        odd = next((part for part in folder.partition("://")[2].split("/") if part in ("", ".", "..")), None)
        if odd is not None:
            what = f"has the part {odd!r}" if odd else "has two slashes in a row"
            raise ConfigError(f"folder {folder} {what}, and a store has no such folders; write {_plain(folder)}")
    return folder


def _plain(url: str) -> str:
    scheme, _, rest = url.partition("://")
    # A step up from the bucket leads nowhere: normpath leaves it out.
    bucket, _, key = rest.partition("/")
    return f"{scheme}://{bucket}{posixpath.normpath('/' + key.lstrip('/'))}".rstrip("/")


def new_run_id(now: datetime) -> str:
    """Make a run id that sorts by time and does not collide.

    >>> new_run_id(datetime(2026, 11, 22, 2, 30, tzinfo=UTC))[:17]
    '20261122T023000Z-'
    """
    return f"{now.astimezone(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(2)}"


@dataclass(frozen=True)
class RunLayout:
    """Where one run keeps its files."""

    output: str
    """Absolute folder or URL that all runs share."""
    run_id: str
    """The run's own name."""

    @property
    def run_folder(self) -> str:
        """The folder of the run's manifest."""
        return storage.join(self.output, "runs", self.run_id)

    def again(self, *, overwrite: bool) -> str:
        """What a person is told who may continue this run; one that replaces a published run needs --overwrite again.

        >>> RunLayout("/out", "n1").again(overwrite=True)
        'run again with --run-id n1 --overwrite'
        """
        return f"run again with --run-id {self.run_id}{' --overwrite' if overwrite else ''}"

    @property
    def manifest(self) -> str:
        """The manifest of the published run."""
        return storage.join(self.run_folder, "manifest.json")

    @property
    def success(self) -> str:
        """The empty file that is written last: with it the run is published, without it it is not."""
        return storage.join(self.run_folder, "_SUCCESS")

    @property
    def refused(self) -> str:
        """Why a run that came to its end was not published."""
        return storage.join(self.run_folder, "refused.json")

    def report(self, kind: ReportKind, *, refused: bool) -> str:
        """The report of the published run, or of the attempt that was refused.

        >>> RunLayout("/out", "n1").report("html", refused=False)
        '/out/runs/n1/report.html'
        """
        return storage.join(self.run_folder, f"{'refused_' if refused else ''}report.{kind}")

    @property
    def refusal(self) -> tuple[str, ...]:
        """Everything that an attempt leaves that was refused, the refusal itself first."""
        return (self.refused, *(self.report(kind, refused=True) for kind in REPORT_KINDS))

    @property
    def reports(self) -> tuple[str, ...]:
        """The report of the published run."""
        return tuple(self.report(kind, refused=False) for kind in REPORT_KINDS)

    @property
    def lock(self) -> str:
        """The file whose lock says on a local disk who works on the run."""
        return storage.join(self.run_folder, "_claim.lock")

    @property
    def claims(self) -> str:
        """The folder of the objects that say in a remote store who works on the run."""
        return storage.join(self.run_folder, "_claims")

    @property
    def staging(self) -> str:
        """The folder of everything that is not published yet."""
        return storage.join(self.run_folder, "_staging")

    @property
    def plan(self) -> str:
        """What publishing will do, written before its first step, so that it can be completed after a kill."""
        return storage.join(self.staging, "publish.json")

    @property
    def staged_identity(self) -> str:
        """What the staged files were made with: another configuration must not add to them."""
        return storage.join(self.staging, "identity.json")

    @property
    def latest(self) -> str:
        """The pointer to the newest published run."""
        return storage.join(self.output, "latest.json")

    def staged_table(self, table: Table) -> str:
        """The folder of a table's staged files."""
        return storage.join(self.staging, table)

    def published_table(self, table: Table) -> str:
        """The folder of a table's published files."""
        return storage.join(self.output, table, f"run_id={self.run_id}")

    def part(self, table: Table, index: int, count: int) -> str:
        """The published name of a part file.

        >>> RunLayout("/out", "n1").part("scores", 0, 4)
        '/out/scores/run_id=n1/part-00000-of-00004.parquet'
        """
        return storage.join(self.published_table(table), f"part-{index:05d}-of-{count:05d}.parquet")


def fingerprint(value: Any) -> str:
    """Return a hex SHA-256 of a JSON-like value; equal values give equal fingerprints in every process.

    >>> fingerprint({"a": 1, "b": [2]}) == fingerprint({"b": [2], "a": 1})
    True
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
