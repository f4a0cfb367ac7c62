"""The chain of a nightly delta: which published runs it follows, and which of their rows it may rely on.

A run that is a delta records the runs that it followed, newest first: its chain. So the chain of the next night is
that run and its chain. The newest row of a path decides, as in a query over all nights: where that row was made with
other fingerprints, or of another version of the file, the image is scored again.
"""

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from transforms import storage
from transforms.errors import ConfigError
from transforms.layout import LATEST, RunLayout, check_run_id
from transforms.outcomes import is_published, latest_run_id, read_manifest
from transforms.tables import FINGERPRINT_KEY, METADATA_PREFIX

_COLUMNS = ("image_path", "image_version", "scored_at")
_WITHOUT = "give another run to --since-run, or leave --since-run out to score every image"
_WAY_OUT = f"restore it, {_WITHOUT}"
_GONE = "it is gone"
# A year of nights is some hundred manifests and folders to look at.
_THREADS = 16


class EarlierFile(NamedTuple):
    """One scores file of an earlier run."""

    path: str
    """Where it lies."""
    size_bytes: int
    """Bytes that it must have."""
    run_id: str
    """Whose it is."""
    reusable: bool
    """Whether its run has the fingerprints of the new one; the rows of any other only say that older ones are old."""
    fingerprints: Mapping[str, str]
    """What its run was made with: it must say the same of itself."""


class EarlierRow(NamedTuple):
    """What a row of an earlier run says of its image."""

    scored_at_us: int
    """Microseconds since the epoch, UTC."""
    version: str | None
    """Of the image that was scored; None where the row may not be relied on."""


class EarlierRun(NamedTuple):
    """One published run of a chain."""

    run_id: str
    """Its name."""
    files: tuple[EarlierFile, ...]
    """Its scores."""
    rows: int
    """In them; 0 where none may be relied on."""
    useless: str
    """Why its rows may not be relied on; empty where they may."""


@dataclass(frozen=True)
class Chain:
    """The runs that a delta follows."""

    runs: tuple[EarlierRun, ...]
    """Newest first; none where no run was published yet."""

    @property
    def run_id(self) -> str | None:
        """The newest one."""
        return self.runs[0].run_id if self.runs else None

    @property
    def used(self) -> tuple[EarlierRun, ...]:
        """The runs up to the oldest one that may be relied on: what lies behind it says nothing."""
        count = max((number for number, run in enumerate(self.runs, start=1) if not run.useless), default=0)
        return self.runs[:count]

    @property
    def files(self) -> list[EarlierFile]:
        """The files of the used runs."""
        return [file for run in self.used for file in run.files]

    def record(self) -> dict[str, Any]:
        """Return what a manifest says of it: JSON-like."""
        chain = [run.run_id for run in self.runs if run.useless != _GONE]
        return {
            "run_id": self.run_id,
            "chain": chain,
            "used": [run.run_id for run in self.used if run.useless != _GONE],
        }

    def __str__(self) -> str:
        if not self.runs:
            return "no run is published yet that this one could follow: every image is scored"
        parts: list[str] = []
        for useless, group in itertools.groupby(self.runs, lambda run: run.useless):
            runs = list(group)
            ids = list(dict.fromkeys((runs[0].run_id, runs[-1].run_id)))
            parts += [f"0 of {' to '.join(ids)} ({useless})"] if useless else [f"{r.rows} of {r.run_id}" for r in runs]
        return f"since run {self.run_id}: rows that may be relied on: {', '.join(parts)}"


def check_since(layout: RunLayout, since: str) -> None:
    """Refuse a name that no earlier run can have.

    Raises:
        ConfigError: It is no run id, or that of the new run.
    """
    if since != LATEST and check_run_id(since) == layout.run_id:
        raise ConfigError(_relies_on_itself(layout, since, "is the run itself"))


def find_chain(layout: RunLayout, since: str) -> tuple[str, ...]:
    """Return the ids of the runs that a delta follows, newest first.

    Args:
        layout: The new run.
        since: The id of a published run of the same output, or `latest`.

    Returns:
        The run and its own chain; nothing for `latest` where no run was published yet.

    Raises:
        ConfigError: The run is not published, its manifest is damaged, or it is the new run or a delta of it.
    """
    first = latest_run_id(layout) if since == LATEST else since
    if first is None:
        return ()
    if first == layout.run_id:
        raise ConfigError(_relies_on_itself(layout, since, f"is {first}, the run itself"))
    recorded = _manifest(layout, first, first).get("since_run") or {}
    chain = (first, *recorded.get("chain", ()))
    if layout.run_id in chain:
        what = f"is a delta of {layout.run_id}" if since == first else f"is {first}, a delta of {layout.run_id}"
        raise ConfigError(_relies_on_itself(layout, since, what))
    return chain


def open_chain(
    layout: RunLayout,
    chain: Sequence[str],
    fingerprints: Mapping[str, str],
    challenger: Mapping[str, str] | None = None,
) -> Chain:
    """Look at the runs of a chain: which of them may be relied on, and whether their files are there.

    Args:
        layout: The new run.
        chain: From find_chain.
        fingerprints: Of the new run.
        challenger: Of its challenger; None without one. A run with another one, or none, has no rows of this one: an
            image that was skipped for it would be missing in the challenger's table of all nights.

    Raises:
        ConfigError: The first run, or one that it has used, is not published any more; or a file that is needed is
            missing or has another size.
    """
    if not chain:
        return Chain(())
    recorded = _manifest(layout, chain[0], chain[0]).get("since_run") or {}
    needed = {chain[0], *recorded.get("used", ())}
    with ThreadPoolExecutor(_THREADS) as pool:
        expected = (fingerprints, challenger)
        opened = Chain(tuple(pool.map(lambda run_id: _open_run(layout, run_id, chain[0], needed, expected), chain)))
        list(pool.map(lambda run: _check_files(layout, run), opened.used))
    return opened


def _open_run(
    layout: RunLayout,
    run_id: str,
    first: str,
    needed: Collection[str],
    expected: tuple[Mapping[str, str], Mapping[str, str] | None],
) -> EarlierRun:
    if run_id not in needed and not is_published(RunLayout(layout.output, run_id)):
        # The nights of an old model are deleted one day: nobody has used them since.
        return EarlierRun(run_id, (), 0, _GONE)
    manifest = _manifest(layout, run_id, first)
    made_with, (fingerprints, challenger) = manifest["fingerprints"], expected
    others = [name for name in sorted({*made_with, *fingerprints}) if made_with.get(name) != fingerprints.get(name)]
    if challenger is not None and (manifest.get("challenger") or {}).get("fingerprints") != challenger:
        others.append("challenger")
    different = ", ".join(others)
    scores = [entry for entry in manifest["files"] if entry["table"] == "scores"]
    files = tuple(
        EarlierFile(storage.join(layout.output, entry["path"]), entry["size_bytes"], run_id, not different, made_with)
        for entry in scores
    )
    if different:
        return EarlierRun(run_id, files, 0, f"other {different}")
    return EarlierRun(run_id, files, sum(entry["rows"] for entry in scores), "")


def _relies_on_itself(layout: RunLayout, since: str, what: str) -> str:
    return (
        f"--since-run {since} {what}: run {layout.run_id} cannot rely on rows that it replaces; give a run that was "
        f"published before it, or leave --since-run out to score every image"
    )


def _manifest(layout: RunLayout, run_id: str, first: str) -> dict[str, Any]:
    earlier = RunLayout(layout.output, run_id)
    if not is_published(earlier):
        if run_id == first:
            raise ConfigError(f"run {run_id} is not published in {layout.output}; {_WITHOUT}")
        raise ConfigError(f"run {run_id}, which run {first} relies on, is gone from {layout.output}; {_WAY_OUT}")
    manifest = read_manifest(earlier, _WAY_OUT)
    if "fingerprints" not in manifest or "files" not in manifest:
        raise ConfigError(f"{earlier.manifest} is damaged: it names no fingerprints or no files; {_WAY_OUT}")
    return manifest


def _check_files(layout: RunLayout, run: EarlierRun) -> None:
    """Hold the files of a run to its manifest by their sizes: one listing a run, however many files it has."""
    folder = RunLayout(layout.output, run.run_id).published_table("scores")
    found = {file.path: file.size_bytes for file in storage.list_folder(folder, missing_ok=True)}
    for file in run.files:
        size = found.get(file.path)
        if size is None:
            raise ConfigError(f"{file.path} of run {run.run_id} is missing; {_WAY_OUT}")
        _check_size(file, size)


def _check_size(file: EarlierFile, size: int) -> None:
    if size != file.size_bytes:
        stated = f"it has {size:,} bytes, its manifest says {file.size_bytes:,}"
        raise ConfigError(f"{file.path} of run {file.run_id} is damaged: {stated}; {_WAY_OUT}")


def _check_fingerprints(file: EarlierFile, metadata: Mapping[bytes, bytes] | None) -> None:
    # As bytes: damaged ones need not be UTF-8.
    prefix = f"{METADATA_PREFIX}{FINGERPRINT_KEY}".encode()
    found = {key.removeprefix(prefix): value for key, value in (metadata or {}).items() if key.startswith(prefix)}
    stated = {name.encode(): str(value).encode() for name, value in file.fingerprints.items()}
    if different := sorted(name for name in {*found, *stated} if found.get(name) != stated.get(name)):
        names = ", ".join(name.decode(errors="replace") for name in different)
        raise ConfigError(
            f"{file.path} of run {file.run_id} was replaced: it was made with other {names} than its manifest said; "
            f"{_WAY_OUT}"
        )


def read_earlier_rows(file: EarlierFile) -> Iterator[tuple[str, EarlierRow]]:
    """Yield path and row of every image in a scores file, reading no other column.

    The run may have been replaced since its chain was opened: size and fingerprints must still be those.

    Raises:
        ConfigError: The file is another one, a page is not what was written, or it cannot be read.
    """
    filesystem, inner = storage.filesystem(file.path)
    try:
        with filesystem.open_input_file(inner) as opened:
            _check_size(file, opened.size())
            parquet = pq.ParquetFile(opened, page_checksum_verification=True)
            _check_fingerprints(file, parquet.metadata.metadata)
            for batch in parquet.iter_batches(columns=list(_COLUMNS)):
                paths, versions, times = (batch.column(name) for name in _COLUMNS)
                known = versions.to_pylist() if file.reusable else [None] * len(paths)
                rows = map(EarlierRow, times.cast(pa.int64()).to_pylist(), known)
                yield from zip(paths.to_pylist(), rows, strict=True)
    except (OSError, KeyError, pa.ArrowException) as error:
        reason = str(error).split("\n")[0]
        raise ConfigError(f"{file.path} of run {file.run_id} cannot be read: {reason}; {_WAY_OUT}") from error
