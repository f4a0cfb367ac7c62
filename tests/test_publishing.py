"""Publishing: the ledger law, the limits, and a kill after every single step."""

import hashlib
import json
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.runs import tree
from transforms import moving, publishing, storage
from transforms.errors import ConfigError, ExitCode, FailureCode, Stage
from transforms.layout import ALL_TABLES, RunLayout, Table
from transforms.outcomes import Outcome, is_published, read_attempt, read_outcome
from transforms.part_files import PartWriter
from transforms.part_groups import GroupWriter, TableFiles
from transforms.publishing import ChallengerFacts, Ledger, RunFacts, complete, publish
from transforms.records import Failure, ImageRef, WrittenFile
from transforms.settings import LimitSettings, WriteSettings
from transforms.staging import Adopted, StagedTable, claim_staging
from transforms.tables import FAILURES_SCHEMA, failures_batch

pytest_plugins = ["tests.s3_store"]

SCORES = pa.schema([pa.field("image_path", pa.string(), nullable=False)])
RIVALS: dict[Table, pa.Schema] = {"scores_challenger": SCORES, "failures_challenger": FAILURES_SCHEMA}


def facts_for(output: Path | str, run_id: str = "night", **changes: Any) -> RunFacts:
    """A run of paths only."""
    values: dict[str, Any] = {
        "layout": RunLayout(str(output), run_id),
        "limits": LimitSettings(),
        "write": WriteSettings(),
        "schemas": {"scores": SCORES, "failures": FAILURES_SCHEMA},
        "file_metadata": {},
        "manifest": {"model_id": "m"},
    }
    return RunFacts(**{**values, **changes})


def rival_facts(output: Path | str, **changes: Any) -> RunFacts:
    """A run of paths with a challenger."""
    schemas = {"scores": SCORES, "failures": FAILURES_SCHEMA, **RIVALS}
    return facts_for(output, schemas=schemas, challenger=ChallengerFacts({}, {"model_id": "r"}), **changes)


def claim(facts: RunFacts) -> Adopted:
    """Begin or continue it."""
    rivals = [] if facts.challenger is None else [StagedTable(table, schema, {}) for table, schema in RIVALS.items()]
    return claim_staging(facts.layout, {"model": "m"}, SCORES, {}, rivals)


def stage(facts: RunFacts, *files: list[str]) -> list[WrittenFile]:
    """Begin a run, and write staged scores files with these paths; with a challenger, it fails on the last of each."""
    claim(facts)
    return stage_again(facts, *files)


def stage_again(facts: RunFacts, *files: list[str]) -> list[WrittenFile]:
    """Write staged files as a job does that has no launcher any more."""
    written = []
    for paths in files:
        if facts.challenger is not None:
            tables: list[Table] = ["scores", *RIVALS]
            group = GroupWriter(
                [TableFiles(table, facts.layout.staged_table(table), facts.schemas[table], {}) for table in tables],
                facts.write,
            )
            failed = Failure(ImageRef(paths[-1], None, None), Stage.SCORE, FailureCode.MODEL_ERROR, "no", 0)
            scores = [pa.record_batch({"image_path": part}, schema=SCORES) for part in (paths, paths[:-1])]
            group.write(dict(zip(tables, (*scores, failures_batch([failed])), strict=True)))
            written += group.close()
            continue
        writer = PartWriter(facts.layout.staged_table("scores"), "scores", SCORES, {}, facts.write)
        writer.write(pa.record_batch({"image_path": paths}, schema=SCORES))
        written += writer.close()
    return written


def published_paths(output: Path, run_id: str = "night") -> list[str]:
    """What a query over the published scores reads."""
    folder = output / "scores" / f"run_id={run_id}"
    return sorted(
        path for file in folder.iterdir() for path in pq.read_table(file, partitioning=None)["image_path"].to_pylist()
    )


@pytest.mark.parametrize(
    ("ledger", "mismatch"),
    [
        (Ledger(0, 0, 0, 0, 0, 0), None),  # an empty run
        (Ledger(10, 2, 8, 5, 2, 1), None),  # everything at once
        (Ledger(10, 1, 8, 5, 2, 1), "listed 10 is not unique 8 + duplicates 1: +1"),  # one lost in the shuffle
        (Ledger(10, 2, 8, 4, 2, 1), "unique 8 is not scored 4 + failed 2 + skipped 1: +1"),  # one without a row
        (Ledger(10, 2, 8, 6, 2, 1), "unique 8 is not scored 6 + failed 2 + skipped 1: -1"),  # one with two rows
    ],
)
def test_the_ledger_law(ledger: Ledger, mismatch: str | None) -> None:
    """Listed = unique + duplicates, and unique = scored + failed + skipped; what breaks is said with its sign."""
    assert ledger.mismatch() == mismatch


def test_a_ledger_that_does_not_add_up_publishes_nothing(tmp_path: Path) -> None:
    """Exit 4, the difference in the message and in refused.json, staged files kept."""
    facts = facts_for(tmp_path)
    files = stage(facts, ["a", "b"])
    outcome = publish(facts, files, Ledger(3, 0, 3, 2, 0, 0))
    assert outcome.exit_code == ExitCode.LEDGER_MISMATCH
    assert outcome.message == (
        "the ledger of run night does not add up: unique 3 is not scored 2 + failed 0 + skipped 0: +1; nothing is "
        f"published; what was scored is kept in {tmp_path}/runs/night/_staging"
    )
    assert read_attempt(facts.layout) == outcome
    assert not (tmp_path / "scores").exists()
    assert Path(files[0].path).exists()


def stage_failures(facts: RunFacts, *codes: FailureCode) -> list[WrittenFile]:
    """Write one staged failures file: an image a code."""
    writer = PartWriter(facts.layout.staged_table("failures"), "failures", FAILURES_SCHEMA, {}, facts.write)
    refs = [ImageRef(f"bad{number}", None, None) for number in range(len(codes))]
    writer.write(failures_batch([Failure(ref, Stage.READ, code, "", 0) for ref, code in zip(refs, codes, strict=True)]))
    return writer.close()


def test_a_refusal_says_what_was_allowed_and_the_ways_out(tmp_path: Path) -> None:
    """Exit 3: the failures that an allowance took, the limit, the codes, and the flag of the operator's decision."""
    facts = facts_for(tmp_path, limits=LimitSettings(allowances={"not_found": 1}))
    files = stage(facts, ["a", "b"]) + stage_failures(facts, *[FailureCode.NOT_FOUND] * 2, FailureCode.EMPTY_FILE)
    outcome = publish(facts, files, Ledger(6, 0, 6, 2, 3, 1))
    assert outcome.exit_code == ExitCode.TOO_MANY_FAILURES
    assert outcome.message == (
        "3 of 5 images failed; 2 of 4 (50.00%) besides 1 not_found of limits.allowances, limits.max_failure_rate "
        "allows 5.00%: 2 not_found, 1 empty_file; nothing is published; what was scored is kept in "
        f"{tmp_path}/runs/night/_staging; mend the cause, raise the limit, or expect a code (limits.allowances), and "
        "run again with --run-id night: scored images are not scored again; with --publish-anyway besides, the run is "
        "published in spite of its limits"
    )
    assert read_attempt(facts.layout) == outcome
    assert not (tmp_path / "scores").exists()
    assert all(Path(file.path).exists() for file in files)


def test_publish_anyway_overrides_the_limits_and_records_by_how_much(tmp_path: Path) -> None:
    """Exit 0, now and for whoever asks later; the manifest says what was overridden."""
    facts = facts_for(tmp_path, publish_anyway=True)
    files = stage(facts, ["a", "b"]) + stage_failures(facts, FailureCode.NOT_FOUND)
    outcome = publish(facts, files, Ledger(3, 0, 3, 2, 1, 0))
    assert outcome.exit_code == ExitCode.PUBLISHED
    assert outcome.message == (
        f"run night is published in {tmp_path} in spite of its limits: 1 of 3 images failed (33.33%), "
        "limits.max_failure_rate allows 5.00%"
    )
    assert published_paths(tmp_path) == ["a", "b"]
    overridden = json.loads(Path(facts.layout.manifest).read_text())["limits_overridden"]
    assert (overridden["failed"], overridden["scored"], overridden["value"]) == (1, 2, 0.05)


def test_publish_anyway_of_a_good_run_overrides_nothing(tmp_path: Path) -> None:
    """The flag alone leaves no record."""
    facts = facts_for(tmp_path, publish_anyway=True)
    assert "in spite" not in publish(facts, stage(facts, ["a"]), Ledger(1, 0, 1, 1, 0, 0)).message
    assert json.loads(Path(facts.layout.manifest).read_text())["limits_overridden"] is None


def test_publish_anyway_never_overrides_the_ledger(tmp_path: Path) -> None:
    """Exit 4 as ever: an image without a row is no matter of opinion."""
    facts = facts_for(tmp_path, publish_anyway=True)
    files = stage(facts, ["a"]) + stage_failures(facts, FailureCode.NOT_FOUND)
    outcome = publish(facts, files, Ledger(3, 0, 3, 1, 1, 0))
    assert outcome.exit_code == ExitCode.LEDGER_MISMATCH
    assert "unique 3 is not scored 1 + failed 1 + skipped 0: +1" in outcome.message
    assert not (tmp_path / "scores").exists()


def test_orphans_are_deleted_and_never_published(tmp_path: Path) -> None:
    """A file that no committed bundle reported goes with the staging folder."""
    facts = facts_for(tmp_path)
    files = stage(facts, ["a"], ["b"], ["a"])
    publish(facts, files[:2], Ledger(2, 0, 2, 2, 0, 0))
    assert published_paths(tmp_path) == ["a", "b"]
    assert not Path(facts.layout.staging).exists()


def test_publishing_twice_is_publishing_once(tmp_path: Path) -> None:
    """A runner may repeat the step: the second time it finds the run published."""
    facts = facts_for(tmp_path)
    files = stage(facts, ["a"])
    first = publish(facts, files, Ledger(1, 0, 1, 1, 0, 0))
    before = tree(tmp_path)
    assert publish(facts, files, Ledger(1, 0, 1, 1, 0, 0)) == first
    assert tree(tmp_path) == before


def test_what_is_scored_again_after_publishing_changes_nothing_and_goes(tmp_path: Path) -> None:
    """A cluster that lost a machine after publishing, before its job ended, repeats it all: files of other names."""
    facts = facts_for(tmp_path)
    first = publish(facts, stage(facts, ["a", "b"]), Ledger(2, 0, 2, 2, 0, 0))
    before = tree(tmp_path)
    again = stage_again(facts, ["b"], ["a"])
    orphan = stage_again(facts, ["a"])
    assert publish(facts, again, Ledger(2, 0, 2, 2, 0, 0)) == first
    assert not Path(orphan[0].path).exists()
    assert tree(tmp_path) == before


def test_what_is_scored_again_while_a_plan_waits_is_not_published(tmp_path: Path) -> None:
    """A worker is lost once the plan is written: what the plan names is published, other files of the same rows go."""
    facts = facts_for(tmp_path)
    files = stage(facts, ["a", "b"])

    class LostError(Exception):
        pass

    def lose(_: RunLayout) -> bool:
        raise LostError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(publishing, "complete", lose)
        with pytest.raises(LostError):
            publish(facts, files, Ledger(2, 0, 2, 2, 0, 0))
    outcome = publish(facts, stage_again(facts, ["b"], ["a"]), Ledger(2, 0, 2, 2, 0, 0))
    assert outcome.exit_code == ExitCode.PUBLISHED
    (entry,) = (e for e in json.loads(Path(facts.layout.manifest).read_text())["files"] if e["table"] == "scores")
    assert (entry["rows"], entry["sha256"]) == (2, files[0].sha256)
    assert published_paths(tmp_path) == ["a", "b"]
    assert not Path(facts.layout.staging).exists()


def test_a_job_that_works_on_after_publishing_leaves_a_run_that_was_begun_anew_alone(tmp_path: Path) -> None:
    """Somebody replaces the run meanwhile: what they have staged, and the identity of it, stay."""
    facts = facts_for(tmp_path)
    publish(facts, stage(facts, ["a"]), Ledger(1, 0, 1, 1, 0, 0))
    theirs = stage(facts, ["b"])
    publish(facts, stage_again(facts, ["a"]), Ledger(1, 0, 1, 1, 0, 0))
    assert Path(theirs[0].path).exists()
    assert Path(facts.layout.staged_identity).exists()
    assert published_paths(tmp_path) == ["a"]


def test_repeating_an_overwrite_keeps_the_new_run(tmp_path: Path) -> None:
    """The repeated step of an overwriting run does not replace what it has just published."""
    publish(facts_for(tmp_path), stage(facts_for(tmp_path), ["old"]), Ledger(1, 0, 1, 1, 0, 0))
    facts = facts_for(tmp_path, overwrite=True, manifest={"model_id": "new"})
    files = stage(facts, ["new"])
    first = publish(facts, files, Ledger(1, 0, 1, 1, 0, 0))
    assert publish(facts, files, Ledger(1, 0, 1, 1, 0, 0)) == first
    assert published_paths(tmp_path) == ["new"]


class KilledError(Exception):
    """Stands for kill -9 at a call of the storage."""


STEPS = (
    (storage, "write_bytes"),
    (moving, "_transfer"),
    (os, "rename"),
    (moving, "delete_file"),
    (moving, "delete_folder"),
)


def kill_after(monkeypatch: pytest.MonkeyPatch, calls: int) -> None:
    """Let that many steps of publishing happen, half of the next one, and none after it."""
    left = [calls]
    at_a_time = threading.Lock()

    def counted(real: Any, half: Any) -> Any:
        def call(*args: Any) -> Any:
            with at_a_time:
                left[0] -= 1
                if left[0] == -1:
                    half(*args)
                if left[0] < 0:
                    raise KilledError
                return real(*args)

        return call

    # A copy within a store and a rename on a disk are done or not.
    halves = {"delete_folder": half_of_a_folder}
    for module, name in STEPS:
        half = halves.get(name, lambda *_: None)
        monkeypatch.setattr(module, name, counted(getattr(module, name), half))


def half_of_a_folder(path: str) -> None:
    """A folder is deleted file by file, in an order that nobody knows: the plan may be the first."""
    if storage.is_folder(path):
        for file in sorted(storage.list_folder(path), key=lambda file: not file.path.endswith("publish.json"))[:1]:
            filesystem, inner = storage.filesystem(file.path)
            filesystem.delete_file(inner)


def rows_of(output: str, manifest: dict[str, Any]) -> tuple[str, ...]:
    """The scored paths of a manifest, of files that have the digests it gives."""
    paths: list[str] = []
    for entry in manifest["files"]:
        data = storage.read_bytes(storage.join(output, entry["path"]))
        assert hashlib.sha256(data).hexdigest() == entry["sha256"], entry["path"]
        if entry["table"] == "scores":
            paths += pq.read_table(pa.BufferReader(data))["image_path"].to_pylist()
    return tuple(sorted(paths))


def by_pointer(output: str) -> tuple[str, ...] | None:
    """What a reader sees who follows latest.json to the manifest to the files; None where the manifest is missing."""
    pointer = json.loads(storage.read_bytes(storage.join(output, "latest.json")))
    path = storage.join(output, pointer["manifest"])
    return None if storage.stat(path) is None else rows_of(output, json.loads(storage.read_bytes(path)))


def by_success(layout: RunLayout) -> tuple[str, ...] | None:
    """What a reader sees who asks for _SUCCESS first, and for every file of the folder; None where it is missing."""
    if not is_published(layout):
        return None
    manifest = json.loads(storage.read_bytes(layout.manifest))
    folders = [folder for folder in map(layout.published_table, ALL_TABLES) if storage.is_folder(folder)]
    listed = {file.path for folder in folders for file in storage.list_folder(folder)}
    assert listed == {storage.join(layout.output, entry["path"]) for entry in manifest["files"]}
    return rows_of(layout.output, manifest)


@pytest.mark.parametrize(
    ("overwrite", "before", "after"),
    [
        (False, facts_for, facts_for),
        (True, facts_for, facts_for),
        (True, facts_for, rival_facts),  # gets a challenger
        (True, rival_facts, facts_for),  # loses it
    ],
)
@pytest.mark.parametrize("place", ["local", pytest.param("store", marks=pytest.mark.heavy)])
def test_a_kill_at_any_step_is_completed(
    tmp_path: Path,
    place: str,
    overwrite: bool,
    before: Callable[..., RunFacts],
    after: Callable[..., RunFacts],
    request: pytest.FixtureRequest,
) -> None:
    """After each step in turn: a reader sees the old state or the new one, whole; the next call completes the new.

    Only while a run is being replaced is there neither: no _SUCCESS and no manifest, whatever latest.json says.
    """
    root = str(tmp_path) if place == "local" else request.getfixturevalue("bucket")
    ledger, seen = Ledger(2, 0, 2, 2, 0, 0), set()
    if after is rival_facts:
        ledger = ledger._replace(challenger_scored=0, challenger_failed=2)
    for calls in range(60):
        output = storage.join(root, f"kill{calls}")
        evening = facts_for(output, run_id="evening")
        publish(evening, stage(evening, ["evening"]), Ledger(1, 0, 1, 1, 0, 0))
        if overwrite:
            publish(before(output), stage(before(output), ["old1", "old2"], ["old3"]), Ledger(3, 0, 3, 3, 0, 0))
        facts = after(output, overwrite=overwrite, manifest={"model_id": "new"})
        files = stage(facts, ["a"], ["b"])
        with pytest.MonkeyPatch.context() as patch:
            kill_after(patch, calls)
            try:
                publish(facts, files, ledger)
                killed = False
            except KilledError:
                killed = True
        old, new = (("old1", "old2", "old3") if overwrite else None), ("a", "b")
        pointed, published = by_pointer(output), by_success(facts.layout)
        seen.add((pointed, published))
        assert published in (old, new, None)
        if overwrite:
            # What the pointer leads to is whole at any time, also an instant after _SUCCESS went or before it comes.
            assert pointed == published or (published is None and pointed in (old, new))
        else:
            # The pointer never comes before _SUCCESS.
            assert pointed == ("evening",) or (pointed, published) == (new, new)
        if not killed:
            assert calls > 5
            assert (pointed, published) == (new, new)
            assert ((None, None) in seen) == overwrite
            assert not storage.is_folder(facts.layout.staging)
            return
        # The next attempt: what a plan says is completed; without a plan the staged files are adopted again.
        completed = complete(facts.layout)
        if not completed and published != new:
            assert published == old
            adopted = claim(facts)
            assert adopted.rows == 2
            publish(facts, adopted.files, ledger)
            completed = True
        assert by_pointer(output) == by_success(facts.layout) == new
        assert json.loads(storage.read_bytes(facts.layout.manifest))["model_id"] == "new"
        assert not [file for file in storage.list_folder(facts.layout.run_folder) if "_staging" in file.path]
        assert not completed or not storage.is_folder(facts.layout.staging)  # else killed when nothing was in it
    pytest.fail("publishing takes more than 60 steps")


@pytest.mark.parametrize(
    ("since", "latest"),
    [
        (None, "night"),  # killed between _SUCCESS and latest.json
        ("1999-01-01T00:00:00+00:00", "night"),  # the pointer is of an older run
        ("2999-01-01T00:00:00+00:00", "morning"),  # another run was published before this one was completed
    ],
)
def test_completing_the_end_never_points_back_to_an_older_run(tmp_path: Path, since: str | None, latest: str) -> None:
    """A run that has its _SUCCESS becomes the latest only where none was published after it."""
    facts = facts_for(tmp_path)
    files = stage(facts, ["a"])
    kept: list[bytes] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(publishing, "_leave_staging", lambda layout: kept.append(storage.read_bytes(layout.plan)))
        publish(facts, files, Ledger(1, 0, 1, 1, 0, 0))
    pointer = tmp_path / "latest.json"
    if since is None:
        pointer.unlink()
    else:
        pointer.write_text(json.dumps({"run_id": "morning", "published_at": since}))
    assert complete(facts.layout)
    assert json.loads(pointer.read_text())["run_id"] == latest
    assert not Path(facts.layout.staging).exists()


def test_runs_of_two_names_published_at_once_are_both_whole(tmp_path: Path) -> None:
    """Two launchers, one output: latest.json is one of the two pointers, never a mixture."""
    for attempt in range(20):
        output = tmp_path / f"out{attempt}"
        all_facts = [facts_for(output, run_id=run_id, manifest={"model_id": run_id}) for run_id in ("one", "two")]
        staged = [stage(facts, [facts.layout.run_id]) for facts in all_facts]
        together = threading.Barrier(2)

        def launch(facts: RunFacts, files: list[WrittenFile], together: threading.Barrier = together) -> Outcome:
            together.wait(60)
            return publish(facts, files, Ledger(1, 0, 1, 1, 0, 0))

        with ThreadPoolExecutor(2) as pool:
            outcomes = list(pool.map(launch, all_facts, staged))
        assert [outcome.exit_code for outcome in outcomes] == [0, 0]
        assert [by_success(facts.layout) for facts in all_facts] == [("one",), ("two",)]
        assert by_pointer(str(output)) in (("one",), ("two",))


@pytest.mark.parametrize("damage", ["", "{", "[]x"])
def test_damaged_records_say_what_to_do(tmp_path: Path, damage: str) -> None:
    """A torn plan, manifest or identity is a sentence with a way out, not a traceback."""
    facts = facts_for(tmp_path)
    layout = facts.layout
    files = stage(facts, ["a"])
    Path(layout.plan).write_text(damage)
    with pytest.raises(ConfigError, match=f"{layout.plan} is damaged; delete {layout.plan} to publish anew"):
        complete(layout)
    Path(layout.plan).unlink()
    publish(facts, files, Ledger(1, 0, 1, 1, 0, 0))
    Path(layout.manifest).write_text(damage)
    with pytest.raises(ConfigError, match=f"{layout.manifest} is damaged; replace the run with --overwrite"):
        read_outcome(layout)
    Path(layout.manifest).unlink()
    with pytest.raises(ConfigError, match=f"{layout.manifest} is missing; replace the run with --overwrite"):
        read_outcome(layout)
    stage(facts, ["a"])
    Path(layout.staged_identity).write_text(damage)
    with pytest.raises(ConfigError, match="is damaged: nobody can tell what the staged files were made with"):
        claim_staging(layout, {"model": "m"}, SCORES, {})


def test_a_damaged_staged_file_is_scored_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One byte changed in any page: the file is not adopted, and the log says so."""
    facts = facts_for(tmp_path)
    good, bad = stage(facts, ["a", "b"], [f"image-{i}" for i in range(500)])
    data = bytearray(Path(bad.path).read_bytes())
    data[len(data) // 4] ^= 0x10
    Path(bad.path).write_bytes(bytes(data))
    adopted = claim_staging(facts.layout, {"model": "m"}, SCORES, {})
    assert [file.path for file in adopted.files] == [good.path]
    assert adopted.files == (good,)
    assert f"staged file {bad.path} is damaged and not adopted" in caplog.text


def test_staging_of_something_else_is_refused(tmp_path: Path) -> None:
    """The identity that a run was begun with is the one it is continued with."""
    layout = RunLayout(str(tmp_path), "night")
    claim_staging(layout, {"model": "a", "preprocessing": "p"}, SCORES, {})
    with pytest.raises(ConfigError) as caught:
        claim_staging(layout, {"model": "b", "preprocessing": "p"}, SCORES, {})
    assert str(caught.value) == (
        "run night was begun with other model: one run never mixes two; give what it was begun with, another --run-id, "
        f"or delete {tmp_path}/runs/night/_staging to start it anew"
    )


def test_a_table_without_rows_can_be_queried(tmp_path: Path) -> None:
    """No failure is an empty failures table, not a missing one."""
    facts = facts_for(tmp_path)
    publish(facts, stage(facts, ["a"]), Ledger(1, 0, 1, 1, 0, 0))
    (part,) = (tmp_path / "failures" / "run_id=night").iterdir()
    assert pq.read_schema(part).names == FAILURES_SCHEMA.names
    assert pq.read_metadata(part).num_rows == 0
