"""What attempts leave behind: each kind is found with its reason, and goes or stays as it should."""

import json
import os
import socket
import time
from pathlib import Path

import pytest

from pipeline.after.leftovers import Leftover, Survey, delete_leftover, find_leftovers, parse_age
from pipeline.after.leftovers_text import leftovers_text
from pipeline.cli import main
from tests.published_runs import publish_scores
from tests.runs import tree
from transforms import moving, publishing, storage
from transforms.claims import RunClaim, TakenError
from transforms.errors import ConfigError
from transforms.layout import RunLayout
from transforms.outcomes import is_published
from transforms.publishing import complete
from transforms.staging import claim_staging
from transforms.tables import FAILURES_SCHEMA

pytest_plugins = ["tests.s3_store", "tests.gcs_store"]

DAY = 86400.0
TEMPORARY = f"{'0a' * 16}.tmp"


def survey(output: Path | str) -> Survey:
    """What there is in two days' time, when all of it is old."""
    return find_leftovers(str(output), DAY, time.time() + 2 * DAY)


def only(output: Path | str) -> Leftover:
    """The one leftover."""
    (leftover,) = survey(output).old
    return leftover


def interrupt(output: Path | str, run_id: str = "noon") -> RunLayout:
    """Leave what an attempt leaves that is killed while it scores."""
    layout = RunLayout(str(output), run_id)
    claim_staging(layout, {"model": "m"}, FAILURES_SCHEMA, {})
    storage.write_bytes(f"{layout.staged_table('scores')}/a.parquet", b"closed")
    storage.write_bytes(f"{layout.staged_table('scores')}/b.parquet.open", b"open")
    return layout


def publish(output: Path | str, run_id: str = "night") -> RunLayout:
    """Publish a run."""
    publish_scores(output, ["/a.png", "/b.png"], [[0.5, 0.5], [1.0, 0.0]], run_id=run_id)
    return RunLayout(str(output), run_id)


def kill_before_publishing(output: Path, monkeypatch: pytest.MonkeyPatch) -> RunLayout:
    """Leave a plan that nobody has begun to carry out."""
    with monkeypatch.context() as patched:
        patched.setattr(publishing, "complete", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            publish(output)
    return RunLayout(str(output), "night")


def test_a_folder_of_published_runs_holds_none(tmp_path: Path) -> None:
    """However old they are."""
    publish(tmp_path)
    publish(tmp_path, "morning")
    assert survey(tmp_path) == Survey((), ())


def test_what_is_younger_than_the_limit_may_be_at_work(tmp_path: Path) -> None:
    """Its newest file decides, whichever that is."""
    interrupt(tmp_path)
    found = find_leftovers(str(tmp_path), DAY, time.time() + DAY - 60)
    assert found.old == ()
    assert [leftover.name for leftover in found.young] == ["noon"]


def test_an_interrupted_attempt_goes_whole(tmp_path: Path) -> None:
    """With what it has scored, which is said."""
    layout = interrupt(tmp_path)
    publish(tmp_path)
    before = tree(tmp_path / "scores") | tree(tmp_path / "failures") | tree(tmp_path / "runs" / "night")
    leftover = only(tmp_path)
    assert leftover.why == "the attempt did not come to its end"
    assert leftover.lost == "1 files of scored images, which running again would keep"
    assert (leftover.name, leftover.file_count, leftover.planned, leftover.stays) == ("noon", 3, False, False)
    assert leftover.size_bytes == len(b"closed") + len(b"open") + Path(layout.staged_identity).stat().st_size
    assert delete_leftover(str(tmp_path), leftover)
    assert not Path(layout.run_folder).exists()
    assert before == tree(tmp_path / "scores") | tree(tmp_path / "failures") | tree(tmp_path / "runs" / "night")
    assert survey(tmp_path) == Survey((), ())


def test_a_refused_run_goes_whole(tmp_path: Path) -> None:
    """Its reason is in refused.json, its scored images in the staging folder."""
    publish_scores(tmp_path, ["/a.png"], [[0.5, 0.5]], failed=["/b.png"], max_failure_rate=0.1)
    leftover = only(tmp_path)
    assert leftover.why == "it was refused, and nobody has mended the cause and run it again"
    assert leftover.lost == "1 files of scored images, which running again would keep"
    assert delete_leftover(str(tmp_path), leftover)
    assert not (tmp_path / "runs" / "night").exists()


@pytest.mark.parametrize("refused", [True, False])
def test_what_lies_beside_a_published_run_goes_without_it(tmp_path: Path, refused: bool) -> None:
    """Of an attempt to replace it, and of a write that broke off."""
    layout = publish(tmp_path)
    before = tree(tmp_path)
    interrupt(tmp_path, "night")
    storage.write_bytes(f"{layout.manifest}.{TEMPORARY}", b"half")
    for name in layout.refusal if refused else ():
        storage.write_bytes(name, b"{}")
    leftover = only(tmp_path)
    end = "was refused" if refused else "did not come to its end"
    assert leftover.why == f"it is published, and an attempt to replace it {end}"
    assert leftover.file_count == 4 + 3 * refused
    assert delete_leftover(str(tmp_path), leftover)
    assert tree(tmp_path) == before


def test_the_report_of_a_published_run_stays(tmp_path: Path) -> None:
    """And a half-written one goes."""
    layout = publish(tmp_path)
    for report in layout.reports:
        storage.write_bytes(report, b"{}")
    before = tree(tmp_path)
    assert survey(tmp_path) == Survey((), ())
    for report in (*layout.reports, layout.report("html", refused=True)):
        storage.write_bytes(f"{report}.{TEMPORARY}", b"half")
    leftover = only(tmp_path)
    assert (leftover.why, leftover.file_count) == (
        "it is published, and a write beside it did not come to its end", 3,
    )  # fmt: skip
    assert delete_leftover(str(tmp_path), leftover)
    assert tree(tmp_path) == before


def test_a_report_without_a_run_goes(tmp_path: Path) -> None:
    """Somebody has deleted the rest by hand."""
    layout = RunLayout(str(tmp_path), "night")
    for report in layout.reports:
        storage.write_bytes(report, b"{}")
    assert delete_leftover(str(tmp_path), only(tmp_path))
    assert not Path(layout.run_folder).exists()


def test_clearing_up_after_publishing_is_finished(tmp_path: Path) -> None:
    """Killed after _SUCCESS: the plan is carried out, nothing is lost."""
    layout = publish(tmp_path)
    before = tree(tmp_path)
    manifest = json.loads(Path(layout.manifest).read_text())
    storage.write_bytes(layout.plan, json.dumps({"manifest": manifest, "moves": []}).encode())
    leftover = only(tmp_path)
    assert (leftover.why, leftover.lost, leftover.planned) == (
        "it is published, and clearing up after that was interrupted", None, False,
    )  # fmt: skip
    assert delete_leftover(str(tmp_path), leftover)
    assert tree(tmp_path) == before


def test_a_plan_is_marked_and_says_what_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Running again would publish it at once."""
    layout = kill_before_publishing(tmp_path, monkeypatch)
    leftover = only(tmp_path)
    assert leftover.why == "publishing it was interrupted; run again with --run-id night to complete it"
    assert leftover.lost == "2 scored and 0 failed images, ready to be published"
    assert leftover.planned
    assert complete(layout)
    assert survey(tmp_path) == Survey((), ())


def test_a_plan_goes_before_what_it_moves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed while it is deleted, it leaves nothing that could be taken for a run to complete."""
    layout = kill_before_publishing(tmp_path, monkeypatch)
    leftover = only(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(moving, "delete_folder", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            delete_leftover(str(tmp_path), leftover)
    assert not complete(layout)
    leftover = only(tmp_path)
    assert (leftover.planned, leftover.why) == (False, "the attempt did not come to its end")
    assert delete_leftover(str(tmp_path), leftover)
    assert not (tmp_path / "runs" / "night").exists()


@pytest.mark.parametrize("pointer", ["night", "morning"])
def test_a_run_that_lacks_nothing_but_its_success_stays_where_latest_points_to_it(tmp_path: Path, pointer: str) -> None:
    """Killed before the last steps of publishing: its manifest is the plan's, and no older run is lost with it."""
    layout = publish(tmp_path)
    Path(layout.success).unlink()
    manifest = json.loads(Path(layout.manifest).read_text())
    storage.write_bytes(layout.plan, json.dumps({"manifest": manifest, "moves": []}).encode())
    storage.write_bytes(layout.latest, json.dumps({"run_id": pointer}).encode())
    before = tree(tmp_path)
    leftover = only(tmp_path)
    assert (leftover.planned, leftover.stays) == (True, pointer == "night")
    assert leftover.why == "publishing it was interrupted; run again with --run-id night to complete it"
    assert delete_leftover(str(tmp_path), leftover) is (pointer == "morning")
    assert list(tree(tmp_path)) == (list(before) if pointer == "night" else ["latest.json"])


def test_a_pointer_never_loses_its_run(tmp_path: Path) -> None:
    """Not even one that others have half deleted."""
    publish(tmp_path)
    for name in ("_SUCCESS", "manifest.json"):
        (tmp_path / "runs" / "night" / name).unlink()
    leftover = only(tmp_path)
    assert leftover.why == "latest.json points to it; publish another run, or delete both by hand"
    assert not delete_leftover(str(tmp_path), leftover)


def test_a_plan_to_replace_a_published_run_goes_without_it(tmp_path: Path) -> None:
    """Before its first step: the old run is whole."""
    layout = publish(tmp_path)
    before = tree(tmp_path)
    storage.write_bytes(layout.plan, b'{"manifest": {"ledger": {"scored": 7, "failed": 1}}, "moves": []}')
    leftover = only(tmp_path)
    assert leftover.why == "a run to replace it is ready; run again with --run-id night and --overwrite to publish it"
    assert leftover.lost == "7 scored and 1 failed images, ready to be published"
    assert leftover.planned
    assert delete_leftover(str(tmp_path), leftover)
    assert tree(tmp_path) == before
    assert is_published(layout)


@pytest.mark.parametrize(
    ("plan", "why"),
    [
        (b'{"manifest": {}, "moves": []}', "its replacement by another run of that id was interrupted half-way; run "
         "again with --run-id night to complete it"),
        (None, "it has a manifest and no _SUCCESS, as if someone had taken it back; delete it by hand"),
    ],
)  # fmt: skip
def test_what_is_left_of_a_published_run_is_never_deleted(tmp_path: Path, plan: bytes | None, why: str) -> None:
    """Its tables may be all there is of it."""
    layout = publish(tmp_path)
    Path(layout.success).unlink()
    if plan is not None:
        storage.write_bytes(layout.plan, plan)
    before = tree(tmp_path)
    leftover = only(tmp_path)
    assert (leftover.why, leftover.stays) == (why, True)
    assert not delete_leftover(str(tmp_path), leftover)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("content", [b"{", b"[]"])
def test_a_damaged_plan_is_one_that_nobody_can_complete(tmp_path: Path, content: bytes) -> None:
    """It counts as a plan nevertheless: what it was to publish is not known."""
    layout = interrupt(tmp_path)
    storage.write_bytes(layout.plan, content)
    leftover = only(tmp_path)
    assert (leftover.planned, leftover.lost) == (True, "? scored and ? failed images, ready to be published")
    assert delete_leftover(str(tmp_path), leftover)
    assert survey(tmp_path) == Survey((), ())


def test_tables_of_no_run_and_half_written_files_are_found(tmp_path: Path) -> None:
    """Strays of the output folder; folders and files that are not ours are left alone."""
    publish(tmp_path)
    before = tree(tmp_path)
    storage.write_bytes(f"{tmp_path}/scores/run_id=ghost/part-00000-of-00001.parquet", b"stray")
    storage.write_bytes(f"{tmp_path}/latest.json.{TEMPORARY}", b"half")
    (tmp_path / "failures" / "run_id=hollow").mkdir()
    for name in ("scores/notes.txt", "notes/x.tmp", "x.tmp"):
        storage.write_bytes(f"{tmp_path}/{name}", b"mine")
        before |= {name: tree(tmp_path)[name]}
    found = survey(tmp_path).old
    assert [(leftover.name, leftover.why) for leftover in found] == [
        ("ghost", "tables of a run that has neither manifest nor staged files"),
        ("hollow", "tables of a run that has neither manifest nor staged files"),
        (f"latest.json.{TEMPORARY}", "a write that did not come to its end"),
    ]
    assert [delete_leftover(str(tmp_path), leftover) for leftover in found] == [True] * 3
    assert tree(tmp_path) == before
    assert not (tmp_path / "failures" / "run_id=hollow").exists()


@pytest.mark.parametrize(
    "name",
    ["scores/run_id=", "scores/run_id=..", "failures/run_id=a b", "scores/notes", "runs/.trash", "runs/notes"],
)
def test_folders_that_are_not_ours_are_left_alone(tmp_path: Path, name: str) -> None:
    """Whatever somebody keeps there; an empty name or .. would be all runs, or all output."""
    publish(tmp_path)
    storage.write_bytes(f"{tmp_path}/{name}/mine.txt", b"mine")
    assert survey(tmp_path) == Survey((), ())


def test_what_has_changed_since_it_was_listed_stays(tmp_path: Path) -> None:
    """An attempt that began again while somebody thought about the question."""
    layout = interrupt(tmp_path)
    leftover = only(tmp_path)
    storage.write_bytes(f"{layout.staged_table('scores')}/c.parquet", b"closed")
    before = tree(tmp_path)
    assert not delete_leftover(str(tmp_path), leftover)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("store", ["bucket", "gcs_bucket"])
def test_a_store_is_cleaned_as_a_disk_is(store: str, request: pytest.FixtureRequest) -> None:
    """Folders are prefixes there."""
    bucket = request.getfixturevalue(store)
    publish(f"{bucket}/out")
    interrupt(f"{bucket}/out")
    interrupt(f"{bucket}/out", "night")
    storage.write_bytes(f"{bucket}/out/failures/run_id=ghost/part-00000-of-00001.parquet", b"stray")
    before = {file.path for file in storage.list_folder(f"{bucket}/out")}
    found = survey(f"{bucket}/out").old
    assert [leftover.name for leftover in found] == ["ghost", "night", "noon"]
    assert [delete_leftover(f"{bucket}/out", leftover) for leftover in found] == [True] * 3
    gone = before - {file.path for file in storage.list_folder(f"{bucket}/out")}
    assert len(gone) == 7
    assert all("/_staging/" in path or "run_id=ghost" in path for path in gone)
    assert survey(f"{bucket}/out") == Survey((), ())


@pytest.mark.parametrize(("text", "seconds"), [("24h", 86400), ("1.5d", 129600), (" 90m ", 5400), ("0s", 0)])
def test_ages_are_numbers_with_a_unit(text: str, seconds: float) -> None:
    """As people write them."""
    assert parse_age(text) == seconds


@pytest.mark.parametrize("text", ["24", "h", "-1h", "1w", "1h30m", ""])
def test_what_is_no_age_is_refused(text: str) -> None:
    """With an example."""
    with pytest.raises(ConfigError) as caught:
        parse_age(text)
    assert str(caught.value) == f"--older-than must be a number with s, m, h or d, got {text!r}; 24h for example"


def test_a_folder_without_runs_is_refused(tmp_path: Path) -> None:
    """Nobody wants to clean that."""
    with pytest.raises(ConfigError) as caught:
        find_leftovers(str(tmp_path), DAY, 0.0)
    assert str(caught.value) == f"output {tmp_path} holds no runs: there is neither runs nor scores nor failures in it"


def test_the_list_says_what_goes_and_what_stays() -> None:
    """Name, age, size, reason, and what is lost."""

    def leftover(name: str, lost: str | None, size: int, hours: float) -> Leftover:
        newest = int((10 * DAY - hours * 3600) * 1e9)
        return Leftover(name, "because", lost, False, False, (), (), (), 3, size, newest)

    going = [leftover("noon", "2 files", 1_234_567, 50), leftover("x\x1b", None, 999, 1.5)]
    assert leftovers_text(going, [(leftover("night", None, 2 * 10**9, 0.01), "it is young")], "/out", 10 * DAY) == (
        "2 leftovers in /out, 1.2 MB:\n"
        "  noon  2 days old, 3 files, 1.2 MB\n"
        "    because\n"
        "    is lost: 2 files\n"
        "  x\\x1b  90 minutes old, 3 files, 999 bytes\n"
        "    because\n"
        "1 stay:\n"
        "  night  36 seconds old, 3 files, 2.0 GB\n"
        "    it is young"
    )


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A terminal, and what is answered on it."""
    answers: list[str] = []

    def answer(_: str) -> str:
        if not answers:
            raise EOFError
        return answers.pop()

    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("builtins.input", answer)
    return answers


@pytest.mark.parametrize("answers", [["n"], [""], ["maybe"], []])
def test_the_command_deletes_nothing_unless_told_to(
    tmp_path: Path, terminal: list[str], answers: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Any answer but yes is no, the end of the input too."""
    terminal += answers
    interrupt(tmp_path)
    before = tree(tmp_path)
    assert main(["clean", str(tmp_path), "--older-than", "0s"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "nothing was deleted"
    assert tree(tmp_path) == before


@pytest.mark.parametrize("answer", ["y", "YES "])
def test_the_command_deletes_what_is_agreed_on(
    tmp_path: Path,
    terminal: list[str],
    answer: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """But not what running again could still publish: that needs more than a y."""
    terminal.append(answer)
    layout = kill_before_publishing(tmp_path, monkeypatch)
    interrupt(tmp_path)
    assert main(["clean", str(tmp_path), "--older-than", "0s"]) == 0
    out = capsys.readouterr().out
    assert (
        "    publishing it was interrupted; run again with --run-id night to complete it; only --yes deletes it: "
        "2 scored and 0 failed images, ready to be published\n"
    ) in out
    assert out.splitlines()[-1] == "deleted noon"
    assert not (tmp_path / "runs" / "noon").exists()
    assert Path(layout.plan).exists()


def test_without_a_terminal_nothing_is_deleted_unless_yes_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A scheduler has nobody to ask: exit 2, and with --yes everything that is old goes."""
    monkeypatch.setattr("sys.stdin.isatty", lambda: False)
    kill_before_publishing(tmp_path, monkeypatch)
    interrupt(tmp_path)
    before = tree(tmp_path)
    arguments = ["clean", str(tmp_path), "--older-than", "0s"]
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert said.out.startswith(f"1 leftovers in {tmp_path}, ")
    assert said.err == (
        "score-images: nothing was deleted: there is no terminal to ask on; give --yes to delete what is listed\n"
    )
    assert tree(tmp_path) == before
    assert main(["clean", str(tmp_path), "--yes"]) == 0  # all of it is younger than a day
    assert "younger than 24h: it may be at work" in capsys.readouterr().out
    assert tree(tmp_path) == before
    assert main([*arguments, "--yes"]) == 0
    out = capsys.readouterr().out
    assert "    is lost: 2 scored and 0 failed images, ready to be published\n" in out
    assert out.splitlines()[-2:] == ["deleted night", "deleted noon"]
    assert tree(tmp_path) == {}
    assert main([*arguments, "--yes"]) == 0
    assert capsys.readouterr().out == f"0 leftovers in {tmp_path}, 0 bytes\n"


ME = f"process {os.getpid()} on host {socket.gethostname()} since "


@pytest.mark.parametrize("kind", ["attempt", "beside a published run", "plan", "refusal", "tables"])
def test_a_run_at_work_is_passed_over_whatever_its_age(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its claim counts, and who has it is said; nothing of it is touched, not with --yes either."""
    layout = RunLayout(str(tmp_path), "night")
    if kind == "plan":
        kill_before_publishing(tmp_path, monkeypatch)
    elif kind == "refusal":
        storage.write_bytes(layout.refused, b"{}")
    elif kind == "tables":
        storage.write_bytes(layout.part("scores", 0, 1), b"stray")
    else:
        if kind != "attempt":
            publish(tmp_path)
        interrupt(tmp_path, "night")
    idle = survey(tmp_path)
    assert len(idle.old) == 1
    with RunClaim(layout) as claim:
        claim.take()
        before = tree(tmp_path)
        found = survey(tmp_path)
        assert (found.old, found.young) == ((), ())
        assert [leftover.name for leftover, _ in found.busy] == ["night"]
        assert found.busy[0][1].startswith(ME)
        with pytest.raises(TakenError, match="run night is being worked on by process"):
            delete_leftover(str(tmp_path), idle.old[0])
        assert main(["clean", str(tmp_path), "--older-than", "0s", "--yes"]) == 0
        out = capsys.readouterr().out.splitlines()
        assert out[:2] == [f"0 leftovers in {tmp_path}, 0 bytes", "1 stay:"]
        assert out[3].startswith(f"    is being worked on by {ME}")
        assert tree(tmp_path) == before
    assert survey(tmp_path) == idle


def test_a_run_that_is_begun_after_it_was_listed_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """While somebody thinks about the question; the others go."""
    layout = interrupt(tmp_path)
    interrupt(tmp_path, "other")
    claim = RunClaim(layout)

    def answer(_: str) -> str:
        claim.take()
        return "y"

    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("builtins.input", answer)
    with claim:
        assert main(["clean", str(tmp_path), "--older-than", "0s"]) == 0
        kept, deleted = capsys.readouterr().out.splitlines()[-2:]
        assert kept.startswith(f"kept noon: it is being worked on by {ME}")
        assert deleted == "deleted other"
        assert Path(layout.staged_identity).exists()
        assert Path(layout.lock).exists()


def test_while_a_run_is_deleted_nobody_begins_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who comes is told, as by any launcher."""
    layout = interrupt(tmp_path)
    leftover = only(tmp_path)
    told: list[str | None] = []

    def delete(folder: str) -> None:
        with RunClaim(layout) as claim:
            told.append(claim.worker())
        monkeypatch.undo()
        moving.delete_folder(folder)

    monkeypatch.setattr(moving, "delete_folder", delete)
    assert delete_leftover(str(tmp_path), leftover)
    assert len(told) == 1
    assert str(told[0]).startswith(ME)
    assert not Path(layout.run_folder).exists()


@pytest.mark.parametrize("staged", [True, False])
def test_the_claim_of_a_killed_launcher_goes_with_its_run(tmp_path: Path, staged: bool) -> None:
    """Nobody holds the lock: the file is worth nothing."""
    layout = RunLayout(str(tmp_path), "noon")
    if staged:
        interrupt(tmp_path)
    storage.write_bytes(layout.lock, b"{}")
    leftover = only(tmp_path)
    assert (leftover.name, leftover.why) == ("noon", "the attempt did not come to its end")
    assert delete_leftover(str(tmp_path), leftover)
    assert not Path(layout.run_folder).exists()
    assert survey(tmp_path) == Survey((), ())


@pytest.mark.parametrize("state", ["attempt", "refused", "published", "tables"])
def test_what_somebody_keeps_in_a_folder_of_ours_stays(tmp_path: Path, state: str) -> None:
    """Only what bears our names goes; the folder stays with the rest."""
    layout = RunLayout(str(tmp_path), "noon")
    if state == "published":
        publish(tmp_path, "noon")
    if state == "refused":
        storage.write_bytes(layout.refused, b"{}")
    if state == "tables":
        storage.write_bytes(layout.part("scores", 0, 1), b"stray")
    published = tree(tmp_path) if state == "published" else {}
    if state in ("attempt", "published"):
        interrupt(tmp_path)
    kept = (
        f"{layout.run_folder}/thesis.docx",
        f"{layout.run_folder}/thesis.docx.{TEMPORARY}",
        f"{layout.run_folder}/old/manifest.json.{TEMPORARY}",
        f"{layout.published_table('scores')}/part-of-mine.parquet",
    )
    for name in kept:
        storage.write_bytes(name, b"mine")
    assert delete_leftover(str(tmp_path), only(tmp_path))
    assert set(tree(tmp_path)) == set(published) | {name.removeprefix(f"{tmp_path}/") for name in kept}
    assert survey(tmp_path) == Survey((), ())


def test_a_deletion_that_is_killed_leaves_nothing_that_passes_for_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After each file: the rest is still found, and nothing of it is taken for a published run that lost something."""
    layout = publish(tmp_path)
    Path(layout.success).unlink()
    manifest = json.loads(Path(layout.manifest).read_text())
    storage.write_bytes(layout.plan, json.dumps({"manifest": manifest, "moves": []}).encode())
    storage.write_bytes(layout.latest, b'{"run_id": "morning"}')
    real, deletions = moving.delete_file, 0

    def delete_one_and_die(file: str) -> None:
        real(file)
        raise ZeroDivisionError

    while True:
        leftover = only(tmp_path)
        assert not leftover.stays
        if not leftover.files:
            break
        with monkeypatch.context() as patched:
            patched.setattr(moving, "delete_file", delete_one_and_die)
            with pytest.raises(ZeroDivisionError):
                delete_leftover(str(tmp_path), leftover)
        deletions += 1
    assert deletions == 4  # manifest, plan, a part of each table
    assert delete_leftover(str(tmp_path), only(tmp_path))
    assert list(tree(tmp_path)) == ["latest.json"]


def test_a_folder_whose_name_is_no_text_is_passed_over_and_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """It is nobody's run, and no reason to clean nothing."""
    interrupt(tmp_path)
    os.mkdir(os.fsencode(tmp_path / "runs") + b"/\xff")
    assert main(["clean", str(tmp_path), "--older-than", "0s", "--yes"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "deleted noon"
    assert f"{tmp_path}/runs holds a folder that is passed over: its name '\\udcff' is not valid UTF-8" in caplog.text
    assert os.listdir(os.fsencode(tmp_path / "runs")) == [b"\xff"]


def test_an_output_that_stores_do_not_agree_on_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """Before any request."""
    assert main(["clean", "s3://bucket//x"]) == 2
    assert capsys.readouterr().err == (
        "score-images: folder s3://bucket//x has two slashes in a row, and a store has no such folders; write "
        "s3://bucket/x\n"
    )


def test_a_run_at_work_in_a_store_is_passed_over(bucket: str) -> None:
    """Its claim is an object with a heartbeat; without it the run goes, and the claim that was taken for that, too."""
    layout = interrupt(f"{bucket}/out")
    with RunClaim(layout) as claim:
        claim.take()
        found = survey(f"{bucket}/out")
        assert (found.old, [leftover.name for leftover, _ in found.busy]) == ((), ["noon"])
    assert delete_leftover(f"{bucket}/out", only(f"{bucket}/out"))
    assert list(storage.list_folder(f"{bucket}/out")) == []
    assert not storage.is_folder(layout.run_folder)
