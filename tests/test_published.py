"""Finding a published run by any of its folders, and refusing everything that is none."""

import json
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.after.published import find_run
from tests.published_runs import publish_scores
from transforms.errors import ConfigError, ExitCode, InputError
from transforms.layout import RunLayout
from transforms.settings import CalibrationSettings

HALVES = [[0.5, 0.5], [0.25, 0.75], [1.0, 0.0]]


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """A folder with two published runs, `morning` the newer one."""
    publish_scores(tmp_path / "out", ["/a.png", "/b.png", "/c.png"], HALVES, run_id="night", failed=["/d.png"])
    publish_scores(tmp_path / "out", ["/a.png"], HALVES[:1], run_id="morning")
    return tmp_path / "out"


@pytest.mark.parametrize(
    ("folder", "run_id"),
    [
        ("", "morning"),  # the output folder: its newest run
        ("runs/night", "night"),
        ("runs/night/", "night"),
        ("scores/run_id=night", "night"),
        ("failures/run_id=night", "night"),
    ],
)
def test_a_run_is_found_by_each_of_its_folders(output: Path, folder: str, run_id: str) -> None:
    """Where a user stands, there is a name for the run."""
    run = find_run(f"{output}/{folder}")
    assert run.layout == RunLayout(str(output), run_id)
    assert run.manifest["run_id"] == run_id


def test_a_relative_folder_is_found(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As typed on the command line."""
    monkeypatch.chdir(output.parent)
    assert find_run("out").layout.output == str(output)


def test_an_output_folder_may_itself_be_called_runs(tmp_path: Path) -> None:
    """What lies in the folder counts, not what it is called."""
    publish_scores(tmp_path / "runs" / "nightly", ["/a.png"], HALVES[:1])
    assert find_run(str(tmp_path / "runs" / "nightly")).layout.run_id == "night"


def test_a_run_says_what_its_probabilities_mean(tmp_path: Path) -> None:
    """Labels, activation, outputs and calibration come from the files themselves."""
    calibration = CalibrationSettings(platt_a=2.0, platt_b=-1.0)
    publish_scores(
        tmp_path, ["/a.png"], [[0.5, 0.5]], labels=["no", "yes"], activation="sigmoid", returns="probabilities",
        num_units=1, raw=[[0.5]], calibration=calibration,
    )  # fmt: skip
    run = find_run(str(tmp_path))
    assert (run.labels, run.activation, run.output) == (("no", "yes"), "sigmoid", "probabilities")
    assert (run.one_unit, run.independent, run.has_logits, run.calibration) == (True, False, True, calibration)


def test_two_outputs_are_two_labels_and_one_output_is_not(tmp_path: Path) -> None:
    """Both have two columns that may sum to 1: the number of outputs tells them apart."""
    publish_scores(tmp_path / "two", ["/a.png"], [[0.5, 0.5]], activation="sigmoid")
    assert find_run(str(tmp_path / "two")).independent


def test_a_table_is_read_a_row_group_at_a_time(output: Path) -> None:
    """Columns of some rows, in the order of the files."""
    groups = [group.read(["image_path"]) for group in find_run(f"{output}/runs/night").row_groups("scores")]
    assert [group["image_path"].to_pylist() for group in groups] == [["/a.png", "/b.png"], ["/c.png"]]


def test_files_that_the_manifest_does_not_name_are_not_read(output: Path) -> None:
    """A stray file beside the published ones is no part of the run."""
    (output / "scores" / "run_id=night" / "stray.parquet").write_bytes(b"stray")
    groups = find_run(f"{output}/runs/night").row_groups("scores")
    assert sum(group.read(["image_path"]).num_rows for group in groups) == 3


def refusal(run: object) -> str:
    """Return what is said of something that is no published run."""
    with pytest.raises(InputError) as raised:
        find_run(str(run))
    return str(raised.value)


def test_no_run_is_named_with_the_forms_that_are_one(tmp_path: Path) -> None:
    """An empty folder."""
    assert refusal(tmp_path) == (
        f"run {tmp_path}: there is no run at {tmp_path}; give the --output folder of runs (the newest is read), "
        "<output>/runs/<id> or <output>/scores/run_id=<id>"
    )


def test_a_run_that_is_not_there_is_named(output: Path) -> None:
    """A wrong id in a right folder."""
    assert f"there is no run noon in {output}; give" in refusal(output / "runs" / "noon")


def test_a_run_that_broke_off_is_refused_with_its_way_on(output: Path) -> None:
    """Without _SUCCESS it is not published, whatever else lies there."""
    (output / "runs" / "night" / "_SUCCESS").unlink()
    for form in ("runs/night", "scores/run_id=night"):
        assert refusal(output / form) == (
            f"run {output / form} is not published: it is under way, or it broke off; wait for it, or run it again "
            "with --run-id night to complete it"
        )


def test_a_refused_run_is_refused_with_its_reason(tmp_path: Path) -> None:
    """Why it was not published is known, and said."""
    outcome = publish_scores(tmp_path, ["/a.png"], HALVES[:1], failed=["/b.png"], max_failure_rate=0.1)
    assert outcome.exit_code == ExitCode.TOO_MANY_FAILURES
    assert refusal(tmp_path / "runs" / "night").startswith(
        f"run {tmp_path}/runs/night was not published: 1 of 2 images failed (50.00%)"
    )
    assert "there is a folder of runs, but none was ever published" in refusal(tmp_path)


def test_a_missing_file_of_the_manifest_is_named(output: Path) -> None:
    """A half of a run is no run."""
    lost = output / "scores" / "run_id=night" / "part-00000-of-00001.parquet"
    run = find_run(f"{output}/runs/night")
    lost.unlink()
    with pytest.raises(InputError, match=re.escape(f"{lost} is in the manifest and cannot be read")):
        list(run.row_groups("scores"))


def test_a_file_that_is_no_parquet_is_named(output: Path) -> None:
    """Damage after publishing."""
    first = output / "scores" / "run_id=night" / "part-00000-of-00001.parquet"
    first.write_bytes(b"PAR1 and nothing else")
    assert f"{first} is in the manifest and cannot be read" in refusal(output / "runs" / "night")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "manifest.json cannot be read: Expecting property name"),  # cut
        ("[]", "manifest.json must hold a JSON object, got []"),  # of another tool
        ('{"manifest_version": 2, "versions": []}',
         "install the version that wrote it (score-images unknown)"),
        ('{"manifest_version": 1}', "its manifest names no file of scores; score-images verify says what is wrong"),
        ('{"manifest_version": 1, "files": [5]}', "its manifest names no file of scores"),
        ('{"manifest_version": 1, "files": [{"table": "failures", "path": "x"}]}',
         "its manifest names no file of scores"),
        (json.dumps({"manifest_version": 2, "versions": {"score-images": "9.0"}}),  # of the future
         "its manifest is of version 2, this score-images reads version 1; install the version that wrote it "
         "(score-images 9.0)"),
    ],
)  # fmt: skip
def test_a_manifest_that_cannot_be_understood_is_refused(output: Path, content: str, message: str) -> None:
    """Nothing is guessed from the files around it."""
    (output / "runs" / "night" / "manifest.json").write_text(content)
    assert message in refusal(output / "runs" / "night")


def test_scores_that_lost_their_description_are_refused(output: Path) -> None:
    """Another tool has rewritten a file without its key-value metadata."""
    first = output / "scores" / "run_id=night" / "part-00000-of-00001.parquet"
    pq.write_table(pq.read_table(first, partitioning=None).replace_schema_metadata(None), first)
    assert "part-00000-of-00001.parquet does not say its labels (score-images 0.1.0 wrote it" in refusal(
        output / "runs" / "night"
    )


@pytest.mark.parametrize(
    ("pointer", "says"),
    [
        ("{}", "names no run, its run_id is null; give <output>/runs/<id> instead, or publish a run anew"),
        ('{"run_id": 5}', "names no run, its run_id is 5; give"),
        ('{"run_id": "../x"}', 'names no run, its run_id is "../x"; give'),
        ("null", "must hold a JSON object, got null"),
        ("{", "cannot be read: Expecting property name"),
    ],
)
def test_a_pointer_that_names_no_run_is_refused(output: Path, pointer: str, says: str) -> None:
    """With the way around it."""
    (output / "latest.json").write_text(pointer)
    assert refusal(output).startswith(f"run {output}: {output}/latest.json {says}")
    assert find_run(f"{output}/runs/night").layout.run_id == "night"


@pytest.mark.parametrize("content", ["{}", '{"outcome": []}', '{"outcome": {}}'])
def test_a_refusal_without_a_reason_is_told_as_one(output: Path, content: str) -> None:
    """It was refused: that much is known."""
    folder = output / "runs" / "night"
    (folder / "_SUCCESS").unlink()
    (folder / "refused.json").write_text(content)
    assert refusal(folder) == (
        f"run {folder} was not published: {folder}/refused.json does not say why; run again with --run-id night"
    )


def test_a_folder_of_a_store_with_an_empty_part_is_refused() -> None:
    """Before any request."""
    with pytest.raises(ConfigError) as caught:
        find_run("s3://bucket//x")
    assert str(caught.value) == (
        "folder s3://bucket//x has two slashes in a row, and a store has no such folders; write s3://bucket/x"
    )


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("labels", b"[0, 1]", "labels must be a list of str, got [0, 1]"),
        ("labels", b"{}", "labels must be a list of str, got {}"),
        ("labels", b"[", "Expecting value"),
        ("labels", b"\xff", "'utf-8' codec can't decode byte 0xff"),
        ("num_units", b"two", "invalid literal for int()"),
        ("num_units", b"0", "num_units must be at least 1, got 0"),
        ("output", b"wishes", "output must be one of logits, probabilities, got wishes"),
        ("activation", b"relu", "activation must be one of softmax, sigmoid, none, got relu"),
        ("calibration", b"[]", "1 validation error for CalibrationSettings"),
        ("thresholds", b'["a"]', 'thresholds must be a list of float, got ["a"]'),
    ],
)
def test_a_description_that_cannot_be_read_is_refused(output: Path, key: str, value: bytes, says: str) -> None:
    """What it says, and what it should."""
    first = output / "scores" / "run_id=night" / "part-00000-of-00001.parquet"
    table = pq.read_table(first, partitioning=None)
    said = {**table.schema.metadata, f"score_images.{key}".encode(): value}
    pq.write_table(table.replace_schema_metadata(said), first)
    found = refusal(output / "runs" / "night")
    assert found.startswith("run night: what scores/run_id=night/part-00000-of-00001.parquet says of itself cannot be")
    assert f"read: {says}" in found
