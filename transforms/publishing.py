"""Publish a finished run, or say why not: the ledger law, the limits, and the steps that no kill can spoil.

The order is fixed. The plan, which is the whole new manifest, is written first, and checked; a run that is replaced
loses its _SUCCESS and its manifest.json; the files move to their published names; manifest.json, _SUCCESS and
latest.json are written; then the staging folder goes, the plan last. A kill at any point is completed by carrying the
plan out again.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from transforms import moving, storage
from transforms.distributions import measure
from transforms.errors import ConfigError, ExitCode
from transforms.health import Health, HealthPlan, judge
from transforms.layout import ALL_TABLES, RunLayout, Table
from transforms.ledger import Ledger
from transforms.limits import Overrun, find_overrun
from transforms.outcomes import MANIFEST_VERSION, Outcome, is_published, read_json, read_manifest, read_outcome
from transforms.part_files import write_empty_file
from transforms.publishing_plan import FOLDERS, carry_out, check_feasible, check_staged, read_plan, write_plan
from transforms.records import WrittenFile
from transforms.settings import LimitSettings, WriteSettings


@dataclass(frozen=True)
class ChallengerFacts:
    """What is known of a challenger before a run starts; picklable."""

    file_metadata: dict[str, str]
    """Key-value metadata of its scores files."""
    manifest: dict[str, Any]
    """What the manifest says of it under `challenger`: fingerprints, classes, how it runs."""


@dataclass(frozen=True)
class RunFacts:
    """What is known of a run before it starts; picklable."""

    layout: RunLayout
    """Where it goes."""
    limits: LimitSettings
    """How many failures it may have."""
    write: WriteSettings
    """How its files are cut."""
    schemas: dict[str, pa.Schema]
    """Of each table that the run has, for a table without rows."""
    file_metadata: dict[str, str]
    """Key-value metadata of the scores files."""
    manifest: dict[str, Any]
    """What goes into the manifest as it is: inputs, fingerprints, versions, configuration, times."""
    overwrite: bool = False
    """Replace a run that is published under this id."""
    publish_anyway: bool = False
    """Publish in spite of limits and health; never in spite of the ledger."""
    health: HealthPlan | None = None
    """How its answers are judged; None for tables without answers, whose distributions nobody asks for."""
    challenger: ChallengerFacts | None = None
    """Of a second model; None where there is none."""

    @property
    def metadata(self) -> dict[str, dict[str, str]]:
        """Key-value metadata of the files of each table that has some."""
        return {
            "scores": self.file_metadata,
            **({} if self.challenger is None else {"scores_challenger": self.challenger.file_metadata}),
        }


def publish(facts: RunFacts, files: Sequence[WrittenFile], ledger: Ledger) -> Outcome:
    """Publish the staged files of a run if its ledger adds up, its failures are few enough, and its answers healthy.

    Args:
        facts: The run.
        files: What committed bundles have written, and what was adopted.
        ledger: Counted from data.

    Returns:
        The outcome, which also lies in manifest.json or refused.json, for a launcher that is gone.
    """
    layout = facts.layout
    done = is_published(layout) and (not facts.overwrite or _is_made_of(layout, files, ledger))
    if done or storage.stat(layout.plan) is not None:
        # A runner may carry this step out again after it has succeeded, or after it was killed half-way.
        complete(layout)
        if storage.stat(layout.staged_identity) is None:
            # A runner that scores again after publishing stages again. Without an identity it is nobody's; with one
            # it belongs to a launcher that has begun this run anew, to replace it.
            _leave_staging(layout)
        return read_outcome(layout)
    codes = _failures_by_code(files, "failures")
    rival_codes = _failures_by_code(files, "failures_challenger")
    overrun = None if ledger.mismatch() else find_overrun(codes, ledger.scored, facts.limits)
    refusal = _refusal(facts, ledger, codes, overrun)
    health: dict[str, Any] = {}
    if refusal is None:
        check_staged(layout, files, overwrite=facts.overwrite)
        health, refusal = _examine(facts, files, ledger, codes)
    if refusal is not None:
        refusal = refusal._replace(challenger_failures_by_code=rival_codes)
        # Staging may hold files of attempts that failed, too: the report tells of these.
        entries = [_entry(layout, file, file.path) for file in files]
        rival = {} if facts.challenger is None else {"challenger": facts.challenger.manifest}
        refused = {"outcome": refusal.to_json(), "run": {**facts.manifest, **rival}, "files": entries, **health}
        storage.write_bytes(layout.refused, _json(refused))
        return refusal
    empty = _empty_tables(facts, files)
    check_staged(layout, empty, overwrite=facts.overwrite)
    files = [*files, *empty]
    entries, staged = _published_names(layout, files)
    manifest = {
        "manifest_version": MANIFEST_VERSION,
        "run_id": layout.run_id,
        **facts.manifest,
        "challenger": facts.challenger and {**facts.challenger.manifest, "failures_by_code": rival_codes},
        "published_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "ledger": ledger.to_json(),
        "failures_by_code": codes,
        "limits_overridden": overrun.record() if overrun else None,
        "files": entries,
        **health,
    }
    write_plan(layout, manifest, staged)
    complete(layout)
    return read_outcome(layout)


def _is_made_of(layout: RunLayout, files: Sequence[WrittenFile], ledger: Ledger) -> bool:
    """Tell whether a published run is made of these very files."""
    try:
        manifest = read_manifest(layout, "")
        digests = {entry["sha256"] for entry in manifest["files"]}
        return bool(manifest["ledger"] == ledger.to_json()) and {file.sha256 for file in files} <= digests
    except (ConfigError, KeyError, TypeError):
        return False  # what cannot be read is not what was just published


def _refusal(facts: RunFacts, ledger: Ledger, codes: dict[str, int], overrun: Overrun | None) -> Outcome | None:
    kept = f"nothing is published; what was scored is kept in {facts.layout.staging}"
    mismatch = ledger.mismatch()
    if mismatch is not None:
        message = f"the ledger of run {facts.layout.run_id} does not add up: {mismatch}; {kept}"
        return Outcome(ExitCode.LEDGER_MISMATCH, message, ledger, codes)
    if overrun is None or facts.publish_anyway:
        return None
    reasons = ", ".join(f"{count} {code}" for code, count in codes.items())
    message = (
        f"{overrun}: {reasons}; {kept}; mend the cause, raise the limit, or expect a code (limits.allowances), and "
        f"{facts.layout.again(overwrite=facts.overwrite)}: scored images are not scored again; with --publish-anyway "
        "besides, the run is published in spite of its limits"
    )
    return Outcome(ExitCode.TOO_MANY_FAILURES, message, ledger, codes)


def _examine(
    facts: RunFacts, files: Sequence[WrittenFile], ledger: Ledger, codes: dict[str, int]
) -> tuple[dict[str, Any], Outcome | None]:
    """Count the answers of a run and judge them: what is told of them, and the refusal where there is one."""
    plan = facts.health
    if plan is None:
        return {}, None
    scores = [file.path for file in files if file.table == "scores"]
    answers = measure(scores, plan.labels, independent=plan.independent)
    told: dict[str, Any] = {"health": None, "distributions": answers.to_json()}
    if plan.settings.baseline is None:
        return told, None
    health = judge(answers, plan)
    stops = bool(health.breaches) and plan.settings.on_drift == "refuse"
    told["health"] = {**health.to_json(), "overridden": stops and facts.publish_anyway}
    refused = stops and not facts.publish_anyway
    return told, _unhealthy(facts, health, ledger, codes) if refused else None


def _unhealthy(facts: RunFacts, health: Health, ledger: Ledger, codes: dict[str, int]) -> Outcome:
    run_id = facts.layout.run_id
    message = (
        f"the answers of run {run_id} have {health}; nothing is published; what was scored is kept in "
        f"{facts.layout.staging}; look for the cause in images, model and configuration; if it is mended, score anew "
        "under another run id; if the images have really changed, "
        f"{facts.layout.again(overwrite=facts.overwrite)} --publish-anyway, and name {run_id} in health.baseline where "
        "the old one is pinned"
    )
    return Outcome(ExitCode.HEALTH_GATE_CLOSED, message, ledger, codes, str(health), True)


def _failures_by_code(files: Sequence[WrittenFile], table: Table) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for codes in storage.in_threads(_codes, (file.path for file in files if file.table == table)):
        counts.update(codes)
    return dict(counts.most_common())


def _codes(path: str) -> Counter[str]:
    filesystem, inner = storage.filesystem(path)
    with filesystem.open_input_file(inner) as opened:
        return Counter(pq.ParquetFile(opened).read(columns=["code"]).column("code").to_pylist())


def _empty_tables(facts: RunFacts, files: Sequence[WrittenFile]) -> list[WrittenFile]:
    # A query over a table without files fails; over one without rows it says: no rows.
    present = {file.table for file in files}
    return [
        write_empty_file(
            facts.layout.staged_table(table),
            table,
            facts.schemas[table],
            facts.metadata.get(table, {}),
            facts.write,
        )
        for table in ALL_TABLES
        if table in facts.schemas and table not in present
    ]


def _published_names(layout: RunLayout, files: Sequence[WrittenFile]) -> tuple[list[dict[str, Any]], list[str]]:
    entries, places = [], []
    for table in ALL_TABLES:
        staged = sorted((file for file in files if file.table == table), key=lambda file: file.path)
        for index, file in enumerate(staged):
            target = layout.part(table, index, len(staged))
            places.append(file.path)
            entries.append(_entry(layout, file, target))
    return entries, places


def _entry(layout: RunLayout, file: WrittenFile, path: str) -> dict[str, Any]:
    return {
        "table": file.table,
        "path": path.removeprefix(layout.output.rstrip("/") + "/"),
        "rows": file.rows,
        "size_bytes": file.size_bytes,
        "sha256": file.sha256,
    }


def complete(layout: RunLayout) -> bool:
    """Carry a written plan out, from wherever it was interrupted; without one, do nothing.

    Returns:
        Whether there was a plan.
    """
    plan = read_plan(layout)
    if plan is None:
        return False
    manifest = plan.manifest
    if is_published(layout) and _same_run(layout, manifest):
        # Killed between _SUCCESS and the end; another run may have been published since.
        if _is_newest(layout, manifest):
            storage.write_bytes(layout.latest, _json(_pointer(layout, manifest)))
        _leave_staging(layout)
        return True
    check_feasible(layout, plan)
    moving.delete_file(layout.success)  # from here on the old run is not published, and the new one will be
    # Whoever follows latest.json without looking for _SUCCESS finds no manifest, not an old one of new files.
    moving.delete_file(layout.manifest)
    # Nor a report of other rows than there are.
    for stale in (*layout.reports, *layout.refusal):
        moving.delete_file(stale)
    carry_out(layout, plan)
    storage.write_bytes(layout.manifest, _manifest_json(manifest))
    storage.write_bytes(layout.success, b"")
    storage.write_bytes(layout.latest, _json(_pointer(layout, manifest)))
    _leave_staging(layout)
    return True


def _leave_staging(layout: RunLayout) -> None:
    # The plan goes last: whoever is killed before leaves it to the next one, and no file that nobody looks for.
    for name in (*ALL_TABLES, *FOLDERS):
        moving.delete_folder(storage.join(layout.staging, name))
    moving.delete_file(layout.staged_identity)
    moving.delete_folder(layout.staging)


def _is_newest(layout: RunLayout, manifest: dict[str, Any]) -> bool:
    """Tell whether no run is pointed to that was published after this one."""
    if storage.stat(layout.latest) is None:
        return True
    pointer = read_json(layout.latest, "delete it, and run again")
    told = pointer.get("published_at") if isinstance(pointer, dict) else None
    # One that says nothing is damaged: nobody can follow it.
    return not isinstance(told, str) or told <= manifest["published_at"]


def _same_run(layout: RunLayout, manifest: dict[str, Any]) -> bool:
    try:
        return bool(read_json(layout.manifest, "") == manifest)
    except ConfigError:
        return False  # it is missing or damaged: whatever it was of, it is not of this run


def _pointer(layout: RunLayout, manifest: dict[str, Any]) -> dict[str, Any]:
    return {
        "run_id": layout.run_id,
        "published_at": manifest["published_at"],
        "manifest": f"runs/{layout.run_id}/manifest.json",
        **{
            table: f"{table}/run_id={layout.run_id}"
            for table in ALL_TABLES
            if any(entry["table"] == table for entry in manifest["files"])
        },
    }


def pending_manifest(layout: RunLayout) -> dict[str, Any] | None:
    """Return the manifest of a publishing that was interrupted; None where there is none.

    Raises:
        ConfigError: The plan is damaged.
    """
    plan = read_plan(layout)
    return None if plan is None else plan.manifest


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def _manifest_json(manifest: dict[str, Any]) -> bytes:
    # A file a line: easier to read than a value a line, and ten times faster to write where there are 100,000.
    head, name, tail = json.dumps({**manifest, "files": []}, indent=2, ensure_ascii=False).rpartition('"files": [')
    files = ",\n    ".join(json.dumps(entry, ensure_ascii=False) for entry in manifest["files"])
    return f"{head}{name}\n    {files}\n  {tail}\n".encode()
