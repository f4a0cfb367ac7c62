"""Plans of publishing: carried out only where they can be, and never at the cost of what is published."""

import json
import os
import shutil
import tempfile
from pathlib import Path

import pytest

from tests.runs import tree
from tests.test_publishing import facts_for, published_paths, stage
from transforms import moving, publishing, storage
from transforms.errors import ConfigError, ExitCode, RunError
from transforms.layout import RunLayout
from transforms.ledger import Ledger
from transforms.outcomes import is_published, read_outcome
from transforms.publishing import RunFacts, complete, publish
from transforms.publishing_plan import check_places, read_plan

pytest_plugins = ["tests.s3_store"]
ONE, TWO = Ledger(1, 0, 1, 1, 0, 0), Ledger(2, 0, 2, 2, 0, 0)


class KilledError(Exception):
    """Stands for kill -9."""


def planned(output: str, *, overwrite: bool = True) -> RunFacts:
    """Publish a run of old rows and kill the one that replaces it right after its plan is written."""
    if overwrite:
        publish(facts_for(output), stage(facts_for(output), ["old1"], ["old2"]), TWO)
    facts = facts_for(output, overwrite=overwrite, manifest={"model_id": "new"})
    files = stage(facts, ["new1"], ["new2"])

    def kill(_: RunLayout) -> None:
        raise KilledError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(publishing, "complete", kill)
        with pytest.raises(KilledError):
            publish(facts, files, TWO)
    return facts


@pytest.mark.parametrize("harm", ["gone", "cut"])
def test_staged_file_that_is_not_as_it_was_publishes_nothing(tmp_path: Path, harm: str) -> None:
    """Found before the plan is written: exit 130, and the run that would have been replaced is untouched."""
    publish(facts_for(str(tmp_path)), stage(facts_for(str(tmp_path)), ["old"]), ONE)
    facts = facts_for(str(tmp_path), overwrite=True)
    files = stage(facts, ["new1"], ["new2"])
    before = {name: seen for name, seen in tree(tmp_path).items() if "_staging" not in name}
    if harm == "gone":
        os.unlink(files[1].path)
    else:
        os.truncate(files[1].path, 10)
    with pytest.raises(
        RunError, match=r"the staged file .* is gone or has changed .* run again with --run-id night"
    ) as e:
        publish(facts, files, TWO)
    assert e.value.exit_code == ExitCode.INTERRUPTED
    assert {name: seen for name, seen in tree(tmp_path).items() if "_staging" not in name} == before
    assert read_plan(facts.layout) is None


@pytest.mark.parametrize("overwrite", [True, False])
@pytest.mark.parametrize("harm", ["gone", "cut", "all gone"])
def test_plan_that_cannot_be_completed_touches_nothing(tmp_path: Path, harm: str, overwrite: bool) -> None:
    """What was published stays published, whole; the message says how to go on."""
    facts = planned(str(tmp_path), overwrite=overwrite)
    plan = read_plan(facts.layout)
    assert plan is not None
    scores = [move for move in plan.moves if "/scores/" in move.target]
    for move in scores if harm == "all gone" else scores[1:]:
        if harm == "cut":
            os.truncate(move.source, 10)
        else:
            os.unlink(move.source)
    before = tree(tmp_path)
    with pytest.raises(
        ConfigError, match=r"cannot be completed: .* nothing was touched; delete .*/publish.json and run"
    ):
        complete(facts.layout)
    assert tree(tmp_path) == before
    assert is_published(facts.layout) == overwrite
    if overwrite:
        assert published_paths(tmp_path) == ["old1", "old2"]


@pytest.mark.parametrize("place", ["local", "store"])
def test_part_of_the_old_run_is_never_taken_for_one_of_the_new(
    tmp_path: Path, place: str, request: pytest.FixtureRequest
) -> None:
    """They have the same names, and may have the same size: the digest decides."""
    output = str(tmp_path) if place == "local" else request.getfixturevalue("bucket")
    facts = planned(output)
    plan = read_plan(facts.layout)
    assert plan is not None
    moving.delete_file(plan.moves[0].source)
    with pytest.raises(
        ConfigError, match=r"is gone or has changed, and is not at .*part-00000-of-00002.parquet either"
    ):
        complete(facts.layout)
    assert is_published(facts.layout)
    assert "model_id" in json.loads(storage.read_bytes(facts.layout.manifest))
    assert json.loads(storage.read_bytes(facts.layout.manifest))["model_id"] == "m"


def test_plan_is_carried_out_where_its_output_is_now(tmp_path: Path) -> None:
    """The folder of runs was moved, or is reached by a link: paths in the plan are relative to it."""
    planned(str(tmp_path / "here"))
    (tmp_path / "here").rename(tmp_path / "there")
    (tmp_path / "link").symlink_to(tmp_path / "there")
    assert complete(RunLayout(str(tmp_path / "link"), "night"))
    assert published_paths(tmp_path / "there") == ["new1", "new2"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        "null",
        "7",
        '{"manifest": {}, "moves": []}',
        '{"manifest": {"files": []}, "moves": [["a", "b"]]}',
    ],
)
def test_damaged_plan_is_named_with_the_way_out(tmp_path: Path, text: str) -> None:
    """Whatever stands in it, and before anything is touched."""
    facts = planned(str(tmp_path))
    Path(facts.layout.plan).write_text(text)
    with pytest.raises(ConfigError, match=r"publish.json is damaged; delete .*publish.json to publish anew"):
        complete(facts.layout)
    assert published_paths(tmp_path) == ["old1", "old2"]
    assert is_published(facts.layout)


@pytest.mark.parametrize("text", [None, "", "{}", "[]", '{"manifest_version": 1}'])
def test_run_with_a_damaged_manifest_can_be_replaced(tmp_path: Path, text: str | None) -> None:
    """As the message about it says; asked for its outcome it is one clear line."""
    facts = facts_for(str(tmp_path))
    publish(facts, stage(facts, ["old"]), ONE)
    if text is None:
        os.unlink(facts.layout.manifest)
    else:
        Path(facts.layout.manifest).write_text(text)
    with pytest.raises(ConfigError, match="replace the run with --overwrite, or delete its _SUCCESS"):
        read_outcome(facts.layout)
    again = facts_for(str(tmp_path), overwrite=True)
    assert publish(again, stage(again, ["new"]), ONE).exit_code == ExitCode.PUBLISHED
    assert published_paths(tmp_path) == ["new"]


def test_tables_on_another_disk_are_refused_before_anything_is_scored(tmp_path: Path) -> None:
    """No folder can be exchanged across disks, and a run that was published must not be lost over it."""
    other = Path(tempfile.mkdtemp(dir="/dev/shm")) if Path("/dev/shm").is_dir() else None  # noqa: S108  another disk
    if other is None or other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second file system")
    try:
        (tmp_path / "scores").symlink_to(other)
        with pytest.raises(ConfigError, match=r"lie on different disks, .* put all of .* on one disk"):
            check_places(RunLayout(str(tmp_path), "night"))
        facts = facts_for(str(tmp_path))
        with pytest.raises(ConfigError, match="lie on different disks"):
            publish(facts, stage(facts, ["a"]), ONE)
    finally:
        shutil.rmtree(other)


def test_files_that_somebody_changes_meanwhile_are_not_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the moves, before _SUCCESS, every file has the size that the manifest says."""
    facts = planned(str(tmp_path), overwrite=False)
    real = moving.exchange_folder

    def exchange_and_harm(new: str, place: str, old: str) -> None:
        real(new, place, old)
        for path in Path(place).iterdir():
            os.truncate(path, 3)

    monkeypatch.setattr(moving, "exchange_folder", exchange_and_harm)
    with pytest.raises(
        ConfigError, match=r"run night is not published: .* is not what was staged; somebody else writes"
    ):
        complete(facts.layout)
    assert not is_published(facts.layout)
    assert not Path(facts.layout.latest).exists()
