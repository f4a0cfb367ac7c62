"""What reads published runs, on one with a challenger: its table keeps the same promises, and is read by the same."""

import json
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from pipeline.after.compare import compare
from pipeline.after.evaluate import evaluate
from pipeline.after.leftovers import find_leftovers
from pipeline.after.published import find_run
from pipeline.after.truth import read_truth
from pipeline.after.verify import verify
from pipeline.cli import main
from pipeline.config import load_config
from tests.conftest import ROOT
from tests.model_zoo import fails_on_some, pooled_model
from tests.runs import make_photos, run_quietly, small_config
from tests.test_verify import change_manifest, renew_entry
from transforms.errors import InputError

RIVAL = "scores_challenger/run_id=night/part-00000-of-00001.parquet"
LOST = "failures_challenger/run_id=night/part-00000-of-00001.parquet"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six photos and a file that is none; the challenger fails on about a third of them."""
    folder = tmp_path_factory.mktemp("published")
    make_photos(folder / "photos", 12)
    (folder / "photos" / "bad.png").write_bytes(b"no image")
    rival = pooled_model(folder / "rival", classes=3, head=fails_on_some)
    challenger = {"model": {"path": str(rival), "output": "logits", "activation": "sigmoid"}}
    config = small_config(
        pooled_model(folder / "first"), challenger=challenger, limits={"max_failure_rate": 0.5}, batch={"size": 1}
    )
    run_quietly(config, [folder / "photos"], folder / "out", run_id="night")
    return folder / "out"


@pytest.fixture
def output(published: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(published, tmp_path / "out"))


def broken(output: Path) -> dict[str, int]:
    """Which promises are broken, and how often."""
    return {promise.name: promise.broken for promise in verify(str(output)).broken}


def rewrite(output: Path, name: str, change: Callable[[pa.Table], pa.Table]) -> None:
    """Change a file, and let the manifest say that it is so."""
    table = pq.read_table(output / name, partitioning=None)
    pq.write_table(change(table), output / name)
    renew_entry(output, name)


def test_a_whole_run_keeps_every_promise(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the rows of all four tables, and nothing left unchecked that either model promises."""
    found = verify(str(output))
    assert found.broken == ()
    assert found.rows["scores"] == 12
    assert found.rows["scores_challenger"] + found.rows["failures_challenger"] == 12
    assert 0 < found.rows["failures_challenger"] < 12
    assert found.files == 4
    # Sums are the first model's promise, positive labels the second's.
    assert all(promise.skipped is None for promise in found.promises)
    assert main(["verify", str(output)]) == 0
    assert f"{found.rows['scores_challenger']} rows of scores_challenger" in capsys.readouterr().out


def test_an_image_that_the_challenger_lost_is_named(output: Path) -> None:
    """And one that it has and the first model has not; their number alone would not show either."""
    paths = pq.read_table(output / RIVAL, partitioning=None)["image_path"].to_pylist()
    renamed = pa.array(["/other.png", *paths[1:]])
    rewrite(output, RIVAL, lambda table: table.set_column(0, table.schema.field(0), renamed))
    (promise,) = verify(str(output)).broken
    assert (promise.name, promise.broken) == ("paths", 2)
    assert promise.example == f"{paths[0]} is in scores and in none of the challenger's tables"
    rewrite(output, RIVAL, lambda table: table.slice(1))
    assert broken(output) == {"paths": 1, "ledger": 1, "pages": 1}


def test_an_image_that_is_twice_in_the_challengers_tables_is_named(output: Path) -> None:
    """In both of them, as in scores and failures."""
    failed = pq.read_table(output / LOST, partitioning=None)["image_path"][0].as_py()
    paths = pq.read_table(output / RIVAL, partitioning=None)["image_path"].to_pylist()
    renamed = pa.array([failed, *paths[1:]])
    rewrite(output, RIVAL, lambda table: table.set_column(0, table.schema.field(0), renamed))
    (promise,) = verify(str(output)).broken
    assert promise.name == "paths"
    assert promise.example == f"{failed} is in {RIVAL} and in {LOST}"


@pytest.mark.parametrize(
    ("change", "promise"),
    [
        (lambda m: m["ledger"].update(challenger_scored=0), "ledger"),
        (lambda m: m["ledger"].pop("challenger_failed"), "ledger"),
        (lambda m: m["challenger"].update(failures_by_code={"model_error": 1}), "failures"),
        (lambda m: m["challenger"].update(model_id="other@1"), "model"),
        (lambda m: m["challenger"]["fingerprints"].update(model="0"), "identity"),
        (lambda m: m["challenger"].update(num_classes=4), "schemas"),
        (lambda m: m["challenger"].update(activation="softmax"), "schemas"),
        (lambda m: m.update(challenger=None), "manifest"),
        (lambda m: m["files"].pop(), "manifest"),
    ],
)
def test_what_the_manifest_says_of_the_challenger_is_held_to_its_files(
    output: Path, change: Callable[[dict[str, Any]], object], promise: str
) -> None:
    """As what it says of the first model."""
    change_manifest(output, change)
    assert promise in broken(output)


def test_the_challengers_rows_are_held_to_their_arithmetic(output: Path) -> None:
    """With its own labels, thresholds and activation."""
    place = pq.read_schema(output / RIVAL).get_field_index("margin")

    def shift(table: pa.Table) -> pa.Table:
        margin = pc.add(table["margin"], pa.scalar(0.5, pa.float32()))
        return table.set_column(place, table.schema.field(place), margin)

    rewrite(output, RIVAL, shift)
    assert broken(output) == {"margin": pq.read_metadata(output / RIVAL).num_rows}


def test_the_challengers_table_is_evaluated_by_itself(
    output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By --table or by its folder: its labels, its model, and as failed what either model has failed on."""
    run = find_run(str(output), "scores_challenger")
    assert (run.table, run.labels, run.independent) == ("scores_challenger", ("0", "1", "2"), True)
    assert run.model_id.startswith("rival@")
    assert find_run(f"{output}/scores_challenger/run_id=night") == run
    assert find_run(f"{output}/failures_challenger/run_id=night") == run
    assert find_run(f"{output}/runs/night").model_id.startswith("first@")
    truth = tmp_path / "truth.csv"
    names = [f"{number:03}.png" for number in range(12)]
    truth.write_text("image_path,label\n" + "".join(f"{name},1\n" for name in [*names, "bad.png"]))
    counts = evaluate(run, read_truth(str(truth), run.labels, independent=True)).counts
    rows = verify(str(output)).rows
    assert (counts.matched, counts.truth_failed) == (rows["scores_challenger"], rows["failures_challenger"] + 1)
    arguments = ["evaluate", "--scores", str(output), "--truth", str(truth), "--json"]
    assert main([*arguments, "--table", "scores_challenger"]) == 0
    assert json.loads(capsys.readouterr().out)["model_id"] == run.model_id
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["model_id"].startswith("first@")


def test_the_two_models_of_one_run_are_compared(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each table with its own answers, labels and failures, as the two tables say."""
    first, second = (f"{output}/{table}/run_id=night" for table in ("scores", "scores_challenger"))
    found = compare(find_run(first), find_run(second), 20)
    answers = [
        {row["image_path"]: row for row in pq.read_table(folder, partitioning=None).to_pylist()}
        for folder in (first, second)
    ]
    shared = answers[0].keys() & answers[1].keys()
    flips = sum(answers[0][path]["predicted_label"] != answers[1][path]["predicted_label"] for path in shared)
    joined = found.joined
    assert (joined.images, joined.flips) == (len(answers[1]), flips)
    assert flips > 0
    assert (joined.only_first, joined.only_first_failed) == (12 - len(shared), 12 - len(shared))
    assert [(side.name, side.images, side.failed) for side in found.sides] == [
        ("night", 12, 1),
        ("night (challenger)", len(shared), 13 - len(shared)),
    ]
    assert [side.model_id.partition("@")[0] for side in found.sides] == ["first", "rival"]
    assert found.names.only_first == ("3",)
    rival = Counter(row["predicted_label"] for row in answers[1].values())
    assert {shift.label: shift.now for shift in found.all_images.shifts if shift.now} == dict(rival)
    assert found.all_images.confidences[1].counts.sum() == len(shared)
    moved = {movement.image_path: movement.now[0].label for movement in found.movements}
    assert moved == {path: answers[1][path]["predicted_label"] for path in shared}
    assert main(["compare", first, second]) == 0
    assert capsys.readouterr().out.startswith("run night (challenger) compared with run night\n")


def test_a_challenger_is_not_compared_with_itself(output: Path) -> None:
    """The message names both tables."""
    run = find_run(str(output), "scores_challenger")
    with pytest.raises(InputError) as refused:
        compare(run, run)
    assert str(refused.value) == (
        "run night (challenger) cannot be compared with itself; give two runs, <output>/runs/<id> each, or the models "
        "of one, <output>/scores/run_id=<id> and <output>/scores_challenger/run_id=<id>"
    )


def test_a_run_without_a_challenger_has_no_table_of_one(published: Path, tmp_path: Path) -> None:
    """The message says what to leave out."""
    manifest = json.loads((published / "runs/night/manifest.json").read_text())
    manifest["files"] = [entry for entry in manifest["files"] if "challenger" not in entry["table"]]
    shutil.copytree(published / "runs", tmp_path / "runs")
    (tmp_path / "runs/night/manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError) as refused:
        find_run(f"{tmp_path}/runs/night", "scores_challenger")
    assert str(refused.value) == (
        f"run {tmp_path}/runs/night had no challenger: it has no table scores_challenger; leave --table out for its "
        "scores"
    )


def test_the_queries_of_the_documentation_run(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the run of these tests: each image that differs, and the failures by code."""
    import duckdb

    (output.parent / "scores").symlink_to(output)
    monkeypatch.chdir(output.parent)
    text = (ROOT / "docs" / "challenger.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```sql\n(.*?)```", text, re.DOTALL)
    differ, failed = [duckdb.sql(query).fetchall() for query in block.split(";") if query.strip()]
    rows = verify(str(output)).rows
    assert 0 < len(differ) <= rows["scores_challenger"]
    assert failed == [("non_finite_output", rows["failures_challenger"])]


def test_the_configuration_of_the_documentation_is_valid(tmp_path: Path) -> None:
    """With and without what is left out."""
    text = (ROOT / "docs" / "challenger.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    for lines in (block, block.replace("# labels", "labels").replace("# pre", "pre").replace("# cal", "cal")):
        (tmp_path / "c.yaml").write_text(f"model: {{path: m}}\npreprocess: {{value_range: 0_1}}\n{lines}")
        assert load_config(tmp_path / "c.yaml").challenger is not None


def test_clean_finds_the_tables_of_a_challenger(output: Path) -> None:
    """Those of a published run stay; without manifest and _SUCCESS they are nobody's, like scores."""
    far = 10.0**10
    assert find_leftovers(str(output), 0.0, far).old == ()
    shutil.rmtree(output / "runs")
    (output / "latest.json").unlink()
    (leftover,) = find_leftovers(str(output), 0.0, far).old
    assert {f"{output}/{RIVAL}", f"{output}/{LOST}"} < set(leftover.files)
    for table in ("scores", "failures"):
        shutil.rmtree(output / table)
    (leftover,) = find_leftovers(str(output), 0.0, far).old
    assert set(leftover.files) == {f"{output}/{RIVAL}", f"{output}/{LOST}"}
