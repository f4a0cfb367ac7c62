"""Whole runs on FnApiRunner, judged by what an analyst reads back."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.beginning import _asks_for
from pipeline.broken_off import broken_off
from pipeline.config import load_config
from pipeline.in_memory import score_in_memory
from pipeline.run import run
from pipeline.run_records import RunRequest
from tests import model_zoo
from tests.hub_server import HubServer
from tests.model_zoo import pooled_model
from tests.runs import make_photo, make_photos, read_table, run_quietly, small_config, tree
from transforms.claims import RunClaim
from transforms.contest import Contest
from transforms.errors import ConfigError, ExitCode, InputError, ModelError, RunError
from transforms.layout import RunLayout
from transforms.ledger import Ledger
from transforms.publishing_plan import write_plan


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SavedModel of four classes."""
    return pooled_model(tmp_path_factory.mktemp("model") / "pooled")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of ten photos."""
    make_photos(tmp_path / "photos", 10)
    return tmp_path / "photos"


def test_every_image_becomes_one_row_or_one_failure(model: Path, photos: Path, tmp_path: Path) -> None:
    """Good, empty, false, cut, missing and repeated entries: each ends where it belongs, and the ledger adds up."""
    (photos / "empty.jpg").write_bytes(b"")
    (photos / "text.jpg").write_text("this is no picture")
    whole = make_photo(tmp_path / "whole.jpg", 1, (64, 64)).read_bytes()
    (photos / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    manifest = tmp_path / "more.txt"
    manifest.write_text("photos/000.png\nphotos/missing.jpg\n")

    config = small_config(model, limits={"max_failure_rate": 0.5})
    result = run_quietly(config, [photos, f"@{manifest}"], tmp_path / "out", run_id="night")

    assert result.outcome.exit_code == ExitCode.PUBLISHED
    assert result.outcome.ledger == Ledger(listed=15, duplicates=1, unique=14, scored=10, failed=4, skipped=0)
    scores = read_table(result.layout, "scores")
    assert scores["image_path"].to_pylist() == [str(photos / f"{number:03}.png") for number in range(10)]
    failures = read_table(result.layout, "failures").select(["image_path", "stage", "code"]).to_pylist()
    assert failures == [
        {"image_path": str(photos / "cut.jpg"), "stage": "decode", "code": "truncated_image"},
        {"image_path": str(photos / "empty.jpg"), "stage": "read", "code": "empty_file"},
        {"image_path": str(photos / "missing.jpg"), "stage": "read", "code": "not_found"},
        {"image_path": str(photos / "text.jpg"), "stage": "decode", "code": "unsupported_format"},
    ]
    assert set(result.outcome.failures_by_code) == {"truncated_image", "empty_file", "not_found", "unsupported_format"}


def test_both_roads_give_the_same_rows(model: Path, photos: Path, tmp_path: Path) -> None:
    """Beam and the plain loop agree on every column but the time, value for value."""
    (photos / "text.jpg").write_text("this is no picture")
    # Batches of one: the two roads fill their batches in another order, and that order may change the last bit.
    config = small_config(model, batch={"size": 1}, results={"logits": True}, limits={"max_failure_rate": 0.5})
    result = run_quietly(config, [photos], tmp_path / "out")
    plain = score_in_memory([str(path) for path in sorted(photos.iterdir())], config)
    for table, rows, time in (("scores", plain.scores, "scored_at"), ("failures", plain.failures, "failed_at")):
        beam = read_table(result.layout, table).drop_columns([time])
        expected = rows.sort_by("image_path").drop_columns([time])
        assert beam.column_names == expected.column_names
        assert beam.to_pylist() == expected.to_pylist()
        assert len(beam)


def test_a_published_run_lies_as_designed(model: Path, photos: Path, tmp_path: Path) -> None:
    """Tables, manifest, pointer and _SUCCESS are where design.md says, the manifest is true, staging is gone."""
    output = tmp_path / "out"
    result = run_quietly(small_config(model), [photos], output, run_id="2026-11-22")
    assert set(tree(output)) == {
        "scores/run_id=2026-11-22/part-00000-of-00001.parquet",
        "failures/run_id=2026-11-22/part-00000-of-00001.parquet",
        "runs/2026-11-22/manifest.json",
        "runs/2026-11-22/_SUCCESS",
        "latest.json",
    }
    assert not (output / "runs/2026-11-22/_staging").exists()
    manifest = json.loads((output / "runs/2026-11-22/manifest.json").read_text())
    assert manifest["ledger"] == result.outcome.ledger.to_json()
    assert [file["rows"] for file in manifest["files"]] == [10, 0]
    for file in manifest["files"]:
        path = output / file["path"]
        assert path.stat().st_size == file["size_bytes"]
        assert pq.read_metadata(path).num_rows == file["rows"]
    assert set(manifest["fingerprints"]) == {"model", "preprocessing", "scoring"}
    assert manifest["config"]["preprocess"]["value_range"] == "0_1"
    assert json.loads((output / "latest.json").read_text())["run_id"] == "2026-11-22"


def test_the_same_run_id_again_changes_no_byte(model: Path, photos: Path, tmp_path: Path) -> None:
    """A published run is never touched: the second call says so and exits 0."""
    output = tmp_path / "out"
    run_quietly(small_config(model), [photos], output, run_id="night")
    before = tree(output)
    again = run_quietly(small_config(model), [photos], output, run_id="night")
    assert again.found == f"run night is already published in {output}: nothing was done"
    assert again.outcome.exit_code == 0
    assert tree(output) == before


def test_overwrite_replaces_a_run_and_leaves_nothing_of_it(model: Path, photos: Path, tmp_path: Path) -> None:
    """The old part files are gone even where the new run has fewer."""
    output = tmp_path / "out"
    first = run_quietly(small_config(model, write={"rows_per_file": 2}), [photos], output, run_id="night")
    assert len(list(Path(first.layout.published_table("scores")).iterdir())) > 1
    for photo in sorted(photos.iterdir())[3:]:
        photo.unlink()
    second = run_quietly(small_config(model), [photos], output, run_id="night", overwrite=True)
    assert second.found is None
    assert read_table(second.layout, "scores")["image_path"].to_pylist() == [
        str(photos / f"{number:03}.png") for number in range(3)
    ]
    assert json.loads((output / "runs/night/manifest.json").read_text())["ledger"]["scored"] == 3


def test_too_many_failures_publish_nothing(model: Path, photos: Path, tmp_path: Path) -> None:
    """Over the limit: exit 3, the reason names the codes, and what was scored is kept for the next attempt."""
    (photos / "empty.jpg").write_bytes(b"")
    output = tmp_path / "out"
    config = small_config(model, limits={"max_failure_rate": 0.01})
    refused = run_quietly(config, [photos], output, run_id="night")
    assert refused.outcome.exit_code == ExitCode.TOO_MANY_FAILURES
    assert refused.outcome.message == (
        "1 of 11 images failed (9.09%), limits.max_failure_rate allows 1.00%: 1 empty_file; nothing is published; "
        f"what was scored is kept in {output}/runs/night/_staging; mend the cause, raise the limit, or expect a code "
        "(limits.allowances), and run again with --run-id night: scored images are not scored again; with "
        "--publish-anyway besides, the run is published in spite of its limits"
    )
    assert not (output / "scores").exists()
    assert not (output / "latest.json").exists()

    make_photo(photos / "empty.jpg", 99)
    mended = run_quietly(config, [photos], output, run_id="night")
    assert mended.outcome.exit_code == ExitCode.PUBLISHED
    assert mended.adopted == 10
    assert mended.outcome.ledger == Ledger(11, 0, 11, 11, 0, 0)
    assert len(read_table(mended.layout, "scores")) == 11
    assert not (output / "runs/night/refused.json").exists()


def test_a_refused_replacement_says_how_it_is_continued(model: Path, photos: Path, tmp_path: Path) -> None:
    """With --overwrite: without, the old run is found published, and that says that work lies beside it."""
    output = tmp_path / "out"
    run_quietly(small_config(model), [photos], output, run_id="night")
    (photos / "empty.jpg").write_bytes(b"")
    config = small_config(model, limits={"max_failure_rate": 0.01})
    refused = run_quietly(config, [photos], output, run_id="night", overwrite=True)
    assert refused.outcome.exit_code == ExitCode.TOO_MANY_FAILURES
    assert " and run again with --run-id night --overwrite: scored images are not " in refused.outcome.message
    found = run_quietly(config, [photos], output, run_id="night", publish_anyway=True).found
    assert found == (
        f"run night is already published in {output}: nothing was done; an attempt to replace it has left its work in "
        f"{output}/runs/night/_staging: continue it with --overwrite"
    )
    replaced = run_quietly(config, [photos], output, run_id="night", publish_anyway=True, overwrite=True)
    assert (replaced.outcome.exit_code, replaced.adopted) == (ExitCode.PUBLISHED, 10)
    assert run_quietly(config, [photos], output, run_id="night").found == (
        f"run night is already published in {output}: nothing was done"
    )


def test_an_interrupted_replacement_says_how_it_is_continued() -> None:
    """Whatever stopped it."""
    for interrupted in (False, True):
        said = str(broken_off(ValueError("no"), RunLayout("/out", "n1"), interrupted=interrupted, overwrite=True))
        assert said.endswith("finished files are kept, run again with --run-id n1 --overwrite to continue")


def test_max_failures_counts_images(model: Path, photos: Path, tmp_path: Path) -> None:
    """A count may be the limit as well as a rate."""
    (photos / "empty.jpg").write_bytes(b"")
    config = small_config(model, limits={"max_failure_rate": 1.0, "max_failures": 0})
    refused = run_quietly(config, [photos], tmp_path / "out", run_id="night")
    assert refused.outcome.exit_code == ExitCode.TOO_MANY_FAILURES
    assert refused.outcome.message.startswith("1 of 11 images failed, limits.max_failures allows 0: 1 empty_file;")


def test_publish_anyway_publishes_a_refused_run_without_scoring_it_again(
    model: Path, photos: Path, tmp_path: Path
) -> None:
    """The operator decides: all rows are adopted, only the failed image is tried again, the manifest says so."""
    (photos / "empty.jpg").write_bytes(b"")
    config = small_config(model, limits={"max_failure_rate": 0.01})
    refused = run_quietly(config, [photos], tmp_path / "out", run_id="night")
    assert refused.outcome.exit_code == ExitCode.TOO_MANY_FAILURES
    assert Path(refused.layout.refused).exists()
    result = run_quietly(config, [photos], tmp_path / "out", run_id="night", publish_anyway=True)
    assert result.outcome.exit_code == ExitCode.PUBLISHED
    assert result.adopted == 10
    assert result.counts.get("scored_images", 0) == 0
    assert result.outcome.ledger == Ledger(11, 0, 11, 10, 1, 0)
    assert len(read_table(result.layout, "scores")) == 10
    assert read_table(result.layout, "failures")["code"].to_pylist() == ["empty_file"]
    manifest = json.loads(Path(result.layout.manifest).read_text())
    assert manifest["limits_overridden"]["message"] == (
        "1 of 11 images failed (9.09%), limits.max_failure_rate allows 1.00%"
    )


def test_allowed_failures_do_not_refuse_a_run(model: Path, photos: Path, tmp_path: Path) -> None:
    """A manifest that names images long gone is expected to; one more than expected is over the limit."""
    listed = tmp_path / "list.txt"
    listed.write_text("".join(f"{path}\n" for path in [*sorted(photos.iterdir()), "gone1.png", "gone2.png"]))
    for allowed, exit_code in ((2, ExitCode.PUBLISHED), (1, ExitCode.TOO_MANY_FAILURES)):
        config = small_config(model, limits={"max_failures": 0, "allowances": {"not_found": allowed}})
        result = run_quietly(config, [f"@{listed}"], tmp_path / "out", run_id=f"allows{allowed}")
        assert result.outcome.exit_code == exit_code
        assert result.outcome.ledger == Ledger(12, 0, 12, 10, 2, 0)


def test_a_run_is_continued_by_its_id(model: Path, photos: Path, tmp_path: Path) -> None:
    """Closed files of a broken attempt are adopted, an overlapping and a torn one are not, and the rest is scored."""
    output = tmp_path / "out"
    config = small_config(model, write={"rows_per_file": 4}, limits={"max_failures": 0})
    (photos / "empty.jpg").write_bytes(b"")
    broken = run_quietly(config, [photos], output, run_id="night")  # refused: leaves its staging folder as a crash does
    staged = sorted(Path(broken.layout.staged_table("scores")).iterdir())
    assert [pq.read_metadata(path).num_rows for path in staged].count(4) == 2
    overlapping = staged[0].with_name(f"retried-{staged[0].name.partition('-')[2]}")
    overlapping.write_bytes(staged[0].read_bytes())
    staged[1].with_name(f"torn-{staged[1].name.partition('-')[2]}").write_bytes(staged[1].read_bytes()[:100])
    staged[1].with_name("half.parquet.open").write_bytes(b"PAR1")
    make_photo(photos / "empty.jpg", 99)

    result = run_quietly(config, [photos], output, run_id="night")
    assert result.outcome.exit_code == 0
    assert result.adopted == 10
    paths = read_table(result.layout, "scores")["image_path"].to_pylist()
    assert paths == sorted(str(path) for path in photos.iterdir())
    assert result.outcome.ledger == Ledger(11, 0, 11, 11, 0, 0)


def test_a_row_whose_image_is_gone_stays_and_is_counted(model: Path, photos: Path, tmp_path: Path) -> None:
    """An image that an earlier attempt has scored and that is not listed any more still adds up."""
    config = small_config(model, limits={"max_failures": 0})
    (photos / "empty.jpg").write_bytes(b"")
    run_quietly(config, [photos], tmp_path / "out", run_id="night")
    (photos / "empty.jpg").unlink()
    (photos / "000.png").unlink()
    result = run_quietly(config, [photos], tmp_path / "out", run_id="night")
    assert result.outcome.ledger == Ledger(listed=10, duplicates=0, unique=10, scored=10, failed=0, skipped=0)


def test_another_configuration_cannot_continue_a_run(model: Path, photos: Path, tmp_path: Path) -> None:
    """One run never mixes two ways of scoring."""
    (photos / "empty.jpg").write_bytes(b"")
    strict = {"max_failures": 0}
    run_quietly(small_config(model, limits=strict), [photos], tmp_path / "out", run_id="night")
    other = small_config(model, limits=strict, preprocess={"value_range": "-1_1"})
    with pytest.raises(ConfigError, match="run night was begun with other preprocessing: one run never mixes two"):
        run_quietly(other, [photos], tmp_path / "out", run_id="night")


def test_a_run_without_its_identity_begins_anew(model: Path, photos: Path, tmp_path: Path) -> None:
    """Nobody knows what its rows were made with: all are scored again, with what is asked for now."""
    strict = {"max_failures": 0}
    (photos / "empty.jpg").write_bytes(b"")
    broken = run_quietly(small_config(model, limits=strict), [photos], tmp_path / "out", run_id="night")
    Path(broken.layout.staged_identity).unlink()
    (photos / "empty.jpg").unlink()
    other = small_config(model, limits=strict, preprocess={"value_range": "-1_1"})
    result = run_quietly(other, [photos], tmp_path / "out", run_id="night")
    assert (result.adopted, result.outcome.ledger) == (0, Ledger(10, 0, 10, 10, 0, 0))


@pytest.mark.parametrize("other", ["inputs", "model_id"])
def test_other_inputs_or_another_name_cannot_continue_a_run(
    model: Path, photos: Path, tmp_path: Path, other: str
) -> None:
    """What an interrupted attempt has scored belongs to its inputs: rows of others would be mixed in."""
    (photos / "empty.jpg").write_bytes(b"")
    run_quietly(small_config(model, limits={"max_failures": 0}), [photos], tmp_path / "out", run_id="night")
    make_photos(tmp_path / "more", 2)
    inputs: list[Path | str] = [tmp_path / "more"] if other == "inputs" else [photos]
    config = small_config(model, model={"name": "other"} if other == "model_id" else {})
    with pytest.raises(ConfigError, match=f"run night was begun with other {other}: one run never mixes two"):
        run_quietly(config, inputs, tmp_path / "out", run_id="night")


def test_an_edited_manifest_is_another_input(model: Path, photos: Path, tmp_path: Path) -> None:
    """Rows of lines that were taken out must not stay."""
    assert photos == tmp_path / "photos"
    listed = tmp_path / "list.txt"
    listed.write_text("photos/000.png\nphotos/001.png\nphotos/missing.png\n")
    config = small_config(model, limits={"max_failures": 0})
    assert run_quietly(config, [f"@{listed}"], tmp_path / "out", run_id="night").outcome.exit_code == 3
    listed.write_text("photos/001.png\n")
    with pytest.raises(ConfigError, match="begun with other inputs"):
        run_quietly(config, [f"@{listed}"], tmp_path / "out", run_id="night")


def test_a_refused_overwrite_says_so_and_leaves_the_old_run(model: Path, photos: Path, tmp_path: Path) -> None:
    """Exit 3 of the new attempt, not the 0 of the run that it would have replaced."""
    output = tmp_path / "out"
    run_quietly(small_config(model), [photos], output, run_id="night")
    before = tree(output)
    for name in ("a.jpg", "b.jpg"):
        (photos / name).write_bytes(b"")
    refused = run_quietly(small_config(model), [photos], output, run_id="night", overwrite=True)
    assert refused.outcome.exit_code == ExitCode.TOO_MANY_FAILURES
    assert refused.outcome.ledger == Ledger(12, 0, 12, 10, 2, 0)
    after = tree(output)
    assert {name: after[name] for name in before} == before
    # Asked again without --overwrite, the published run is what counts.
    again = run_quietly(small_config(model), [photos], output, run_id="night")
    assert again.found is not None
    assert again.outcome.exit_code == 0


def test_names_are_kept_to_the_letter(model: Path, tmp_path: Path) -> None:
    """Spaces, percent signs, hashes, brackets, quotes and any script: scored under their own names."""
    names = [
        "with space.png", "percent%20.png", "100%d %s.png", "hash#1.png", "photo[1].png", "quote'single.png",
        'quote"double.png', "star*.png", "question?.png", "semi;colon.png", "comma,name.png", "back\\slash.png",
        "ünïcödé.png", "写真.png", "emoji_🐈.png", "-dash.png", "a&b=c.png", "{brace}.png", "tab\there.png",
    ]  # fmt: skip
    folder = tmp_path / "odd [folder] #1"
    for seed, name in enumerate(names):
        make_photo(folder / name, seed)
    listed = tmp_path / "odd.txt"
    listed.write_text("".join(f"{folder / name}\n" for name in names))
    expected = sorted(str(folder / name) for name in names)
    for run_id, source in (("folder", str(folder)), ("manifest", f"@{listed}")):
        result = run_quietly(small_config(model), [source], tmp_path / "out", run_id=run_id)
        assert read_table(result.layout, "scores")["image_path"].to_pylist() == expected


def test_direct_runner_gives_the_same_rows(model: Path, photos: Path, tmp_path: Path) -> None:
    """Beam's default local runner, whichever it takes, gives what the local profile gives."""
    config = small_config(model, batch={"size": 1})
    flags = [], ["--runner=DirectRunner"]
    here, direct = (
        read_table(
            run_quietly(config, [photos], tmp_path / "out", run_id=f"n{len(some)}", beam_flags=some).layout, "scores"
        ).drop_columns(["scored_at"])
        for some in flags
    )
    assert here.to_pylist() == direct.to_pylist()
    assert len(here) == 10


def test_several_bundles_lose_nothing(model: Path, photos: Path, tmp_path: Path) -> None:
    """With two workers there are two bundles, two writers, and still every row once."""
    config = small_config(model, batch={"size": 3})
    result = run_quietly(config, [photos], tmp_path / "out", beam_flags=["--direct_num_workers=2"])
    assert result.outcome.ledger == Ledger(10, 0, 10, 10, 0, 0)
    assert len(set(read_table(result.layout, "scores")["image_path"].to_pylist())) == 10


@pytest.mark.parametrize(
    ("sections", "error", "message"),
    [
        ({"results": {"top_k": 5}}, ConfigError, "results.top_k must be at most the number of classes, got 5 for 4"),
        ({"model": {"path": "/nowhere/model"}}, ModelError, "/nowhere/model"),
        ({"model": {"signature": "serving_defualt"}}, ModelError, "serving_default"),
        ({"preprocess": {"height": 7, "width": 8}}, ModelError, "7"),
    ],
)
def test_a_wrong_configuration_stops_before_anything_is_written(
    model: Path, photos: Path, tmp_path: Path, sections: dict, error: type[Exception], message: str
) -> None:
    """The error names the value, and the output folder is not even made."""
    with pytest.raises(error, match=message):
        run_quietly(small_config(model, **sections), [photos], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_labels_of_the_wrong_length_name_both_counts(model: Path, photos: Path, tmp_path: Path) -> None:
    """Three labels for four classes are refused."""
    (tmp_path / "labels.txt").write_text("a\nb\nc\n")
    with pytest.raises(ConfigError, match=r"3 labels.*4 classes"):
        run_quietly(small_config(model, labels={"path": str(tmp_path / "labels.txt")}), [photos], tmp_path / "out")


def test_an_input_that_matches_nothing_is_named(model: Path, tmp_path: Path) -> None:
    """A typo in a path is no empty run."""
    with pytest.raises(InputError, match="input .*/nothing matches nothing"):
        run_quietly(small_config(model), [tmp_path / "nothing"], tmp_path / "out")


def test_logits_that_are_probabilities_stop_the_run(tmp_path: Path, photos: Path) -> None:
    """Declared logits whose rows sum to 1 would be flattened by a second softmax: exit 2, with the reason."""
    import tensorflow as tf

    model = pooled_model(tmp_path / "softmax", head=lambda logits: {"p": tf.nn.softmax(logits)})
    with pytest.raises((ConfigError, RunError), match=r"sum.* to 1|logits"):
        run_quietly(small_config(model), [photos], tmp_path / "out")


def test_rows_of_a_poisoned_image_do_not_cost_their_neighbours(tmp_path: Path, photos: Path) -> None:
    """A model that fails on one image of a batch, and says NaN to another, leaves eight rows and two failures."""
    import tensorflow as tf

    make_photo(photos / "black.png", 0)
    from PIL import Image

    Image.new("RGB", (12, 9), (0, 0, 0)).save(photos / "black.png")
    Image.new("RGB", (12, 9), (255, 255, 255)).save(photos / "white.png")

    def head(logits: tf.Tensor) -> dict[str, tf.Tensor]:
        # White pools to exactly the sum of the matrix's rows, black to zero.
        is_black = tf.reduce_all(tf.equal(logits, 0.0), axis=1)
        with tf.control_dependencies([tf.debugging.Assert(tf.logical_not(tf.reduce_any(is_black)), ["poison"])]):
            logits = tf.identity(logits)
        white = tf.constant(np.sum(_weights(), axis=0), tf.float32)
        is_white = tf.reduce_all(tf.abs(logits - white) < 1e-4, axis=1)
        return {"logits": tf.where(is_white[:, None], tf.constant(np.nan, tf.float32), logits)}

    model = pooled_model(tmp_path / "poison", head=head)
    config = small_config(model, limits={"max_failure_rate": 0.5}, batch={"size": 12})
    result = run_quietly(config, [photos], tmp_path / "out")
    assert result.outcome.ledger == Ledger(12, 0, 12, 10, 2, 0)
    failures = read_table(result.layout, "failures")
    assert failures["code"].to_pylist() == ["model_error", "non_finite_output"]
    assert failures["stage"].to_pylist() == ["score", "score"]


def _weights() -> np.ndarray:
    from tests.model_zoo import weights

    return weights()


@pytest.mark.parametrize("how", ["continued", "the same again", "something else", "other inputs"])
def test_a_killed_publishing_is_completed(model: Path, photos: Path, tmp_path: Path, how: str) -> None:
    """With the plan written and nothing done yet, the next call with the same id publishes without scoring.

    Only one that overwrites with something else goes on, to replace what has been completed.
    """
    output = tmp_path / "out"
    result = run_quietly(small_config(model), [photos], output, run_id="night")
    layout = RunLayout(str(output), "night")
    manifest = json.loads(Path(layout.manifest).read_text())
    # Back to the moment after the plan was written.
    moves = []
    for file in manifest["files"]:
        staged = Path(layout.staged_table(file["table"])) / f"{file['sha256'][:8]}.parquet"
        staged.parent.mkdir(parents=True, exist_ok=True)
        (output / file["path"]).rename(staged)
        moves.append(str(staged))
    write_plan(layout, manifest, moves)
    for path in (layout.success, layout.manifest, layout.latest):
        Path(path).unlink()

    if how == "other inputs":
        make_photos(tmp_path / "more", 2)
        replaced = run_quietly(small_config(model), [tmp_path / "more"], output, run_id="night", overwrite=True)
        assert replaced.found is None
        assert replaced.outcome.ledger == Ledger(2, 0, 2, 2, 0, 0)
        return
    if how == "something else":
        other = small_config(model, results={"top_k": 1})
        replaced = run_quietly(other, [photos], output, run_id="night", overwrite=True)
        assert replaced.found is None
        assert {len(row) for row in read_table(layout, "scores")["top_k"].to_pylist()} == {1}
        return
    overwrites = {"overwrite": True} if how == "the same again" else {}
    again = run_quietly(small_config(model), [photos], output, run_id="night", **overwrites)
    assert again.found == f"run night was scored before, and its publishing is complete now: {output}"
    assert again.outcome == result.outcome
    assert len(read_table(layout, "scores")) == 10
    assert not Path(layout.staging).exists()
    assert Path(layout.success).exists()


@pytest.mark.parametrize("output", ["", " ", "half\udcff"])
def test_outputs_that_name_no_folder_are_refused(model: Path, photos: Path, output: str) -> None:
    """An unset variable in a script must not publish into the working directory."""
    with pytest.raises(ConfigError, match="output"):
        run(RunRequest(small_config(model), [str(photos)], output))


@pytest.mark.parametrize("output", ["s3://bucket//x", "gs://bucket/x/../y"])
def test_outputs_that_stores_do_not_agree_on_are_refused(model: Path, photos: Path, output: str) -> None:
    """Before any request, with the folder that was meant."""
    with pytest.raises(ConfigError, match=f"folder {output} has .*, and a store has no such folders; write "):
        run(RunRequest(small_config(model), [str(photos)], output))


def test_an_output_below_a_file_is_refused(model: Path, photos: Path, tmp_path: Path) -> None:
    """One sentence, not the operating system's traceback."""
    (tmp_path / "file").write_text("")
    for output in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ConfigError, match=f"output {output} cannot be"):
            run_quietly(small_config(model), [photos], output)


def test_thresholds_of_a_softmax_model_are_refused(model: Path, photos: Path, tmp_path: Path) -> None:
    """A setting that nothing heeds is a mistake."""
    with pytest.raises(ConfigError, match=r"labels.thresholds 0.7 is for sigmoid"):
        run_quietly(small_config(model, labels={"thresholds": 0.7}), [photos], tmp_path / "out")


def test_unknown_beam_flags_are_refused(model: Path, photos: Path, tmp_path: Path) -> None:
    """Beam would drop a misspelt flag with a warning."""
    with pytest.raises(ConfigError, match="--direct_num_wrokers=2 after -- is no flag of Apache Beam"):
        run_quietly(small_config(model), [photos], tmp_path / "out", beam_flags=["--direct_num_wrokers=2"])


def test_secrets_reach_no_file_of_a_run(
    model: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token in the model's handle, a signed URL in a manifest, a key among flags, a secret of the environment."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("LABELS_TOKEN", "s3cret-folder")
    (tmp_path / "s3cret-folder").mkdir()
    (tmp_path / "s3cret-folder" / "labels.txt").write_text("a\nb\nc\nd\n")
    (photos / "list.txt").write_text("000.png\nhttps://me:s3cret@host/a.png?sig=s3cret\n")
    hub = HubServer()
    try:
        handle = f"{hub.serve('/cats/1', model_zoo.pack(model))}?token=s3cret"
        (tmp_path / "c.yaml").write_text(
            json.dumps(
                {
                    **small_config(model).model_dump(mode="json"),
                    "model": {"path": handle, "hub_cache": str(tmp_path / "cache"), "output": "logits"},
                    "labels": {"path": f"{tmp_path}/${{LABELS_TOKEN}}/labels.txt"},
                    "limits": {"max_failure_rate": 0.6},
                }
            )
        )
        request = RunRequest(
            load_config(tmp_path / "c.yaml"), [f"@{photos}/list.txt"], str(tmp_path / "out"), run_id="night",
            beam_flags=["--s3_secret_access_key=s3cret", "--direct_num_workers=1"], show_progress=False,
        )  # fmt: skip
        layout = run(request).layout
        strict = load_config(tmp_path / "c.yaml", ["limits.max_failure_rate=0.1"])
        refused = run(replace(request, run_id="refused", config=strict))
        assert refused.outcome.exit_code == ExitCode.TOO_MANY_FAILURES
    finally:
        hub.close()
    manifest = json.loads(Path(layout.manifest).read_text())
    assert manifest["config"]["model"]["path"] == handle.replace("token=s3cret", "***")
    assert manifest["config"]["labels"]["path"] == f"{tmp_path}/***/labels.txt"
    assert manifest["beam_flags"] == ["--s3_secret_access_key=***", "--direct_num_workers=1"]
    assert _asks_for(request, manifest)
    (failure,) = read_table(layout, "failures").to_pylist()
    assert (failure["image_path"], failure["message"]) == (
        f"{photos}/list.txt#2",
        "storage scheme https:// of https://***@host/a.png?*** is not supported; use local, s3:// or gs://",
    )
    scores = read_table(layout, "scores")
    assert manifest["model_id"].startswith("1@")
    assert scores["model_id"].to_pylist() == [manifest["model_id"]]
    told = [json.dumps(scores.to_pylist(), default=str), str(scores.schema.metadata)]
    told += [path.read_text() for path in (tmp_path / "out").rglob("*.json")]
    assert len(told) == 6  # manifest, pointer, refusal, and the identity of what was refused
    assert not [text for text in told if "s3cret" in text]


def test_run_ids_that_cannot_be_folders_are_refused(model: Path, photos: Path, tmp_path: Path) -> None:
    """A run id becomes a folder and a partition."""
    with pytest.raises(ConfigError, match="run id '../up' is not allowed"):
        run(RunRequest(small_config(model), [str(photos)], str(tmp_path / "out"), run_id="../up"))


def test_a_contradiction_that_only_real_images_show_stops_the_run(tmp_path: Path) -> None:
    """The probe looks like logits, the photos' rows are probabilities: exit 2, with the reason and no traceback."""
    import tensorflow as tf
    from PIL import Image

    def head(logits: tf.Tensor) -> dict[str, tf.Tensor]:
        grey = tf.reduce_all(tf.abs(logits - logits[:, :1] * (_grey() / _grey()[0])) < 1e-4, axis=1)
        return {"logits": tf.where(grey[:, None], tf.nn.softmax(logits), logits)}

    model = pooled_model(tmp_path / "turncoat", head=head)
    for level in range(1, 9):
        path = tmp_path / "photos" / f"{level}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (12, 9), (level * 28,) * 3).save(path)
    config = small_config(model, batch={"size": 8})
    with pytest.raises(RunError) as caught:
        run_quietly(config, [tmp_path / "photos"], tmp_path / "out", run_id="night")
    assert caught.value.exit_code == ExitCode.WRONG_INPUT
    assert "softmax" in str(caught.value)
    assert "Traceback" not in str(caught.value)
    assert "while running" not in str(caught.value)
    assert not (tmp_path / "out" / "scores").exists()


def _grey() -> np.ndarray:
    """The logits of a grey image, up to its level: float32[4]."""
    return _weights().sum(axis=0)


@pytest.mark.parametrize("stage", ["scoring", "publishing"])
def test_a_run_that_somebody_works_on_is_refused(model: Path, photos: Path, tmp_path: Path, stage: str) -> None:
    """Who is second touches nothing, also where a plan lies there that its owner may be carrying out."""
    layout = RunLayout(str(tmp_path / "out"), "night")
    with RunClaim(layout) as claim:
        claim.take()
        if stage == "publishing":
            Path(layout.staging).mkdir()
            Path(layout.plan).write_text("{}")
        before = tree(tmp_path / "out")
        with pytest.raises(ConfigError, match=f"run night is being worked on by process {os.getpid()} on host "):
            run_quietly(small_config(model), [photos], tmp_path / "out", run_id="night")
        assert tree(tmp_path / "out") == before


def test_a_run_that_was_published_while_the_model_was_loaded_is_found(
    model: Path, photos: Path, tmp_path: Path
) -> None:
    """Loading takes seconds, in which another launcher may begin and finish: nothing is scored again."""
    config, output = small_config(model), tmp_path / "out"
    trees = []

    def loading() -> Contest:
        run_quietly(config, [photos], output, run_id="night")
        trees.append(tree(output))
        return Contest(config.contest_plan())

    result = run_quietly(config, [photos], output, run_id="night", loading=loading)
    assert result.found == f"run night is already published in {output}: nothing was done"
    assert trees == [tree(output)]
