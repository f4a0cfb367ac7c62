"""Whole runs with a challenger: each model's table is that of a run of its own, whatever happens on the way."""

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from pipeline.config import RunConfig
from pipeline.in_memory import score_in_memory
from pipeline.run_records import RunResult
from pipeline.summary import summary
from tests.model_zoo import bytes_model, fails_on_some, poisoned_by_white, pooled_model, short_of_memory
from tests.runs import bytes_config, make_photos, read_table, run_quietly, small_config, tree
from transforms.contest import Contest
from transforms.errors import ConfigError, ExitCode
from transforms.layout import RunLayout
from transforms.loading import load_one, to_batch
from transforms.records import ImageRef

RIVAL_PREPROCESS = {"value_range": "-1_1", "resize": "shortest_edge", "crop_pct": 0.9}
RIVAL_SHAPE = (None, 10, 12, 3)


class Models(dict[str, Path]):
    """Models of different inputs, classes and troubles, each built when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    def __missing__(self, name: str) -> Path:
        shapes: dict[str, dict[str, Any]] = {
            "first": {},
            "rival": {"shape": RIVAL_SHAPE, "classes": 7},
            "same": {"classes": 5},
            "poisoned": {"head": poisoned_by_white},
            "nan": {"head": lambda logits: fails_on_some(logits, np.nan)},
            "small": {"head": short_of_memory(4)},
        }
        self[name] = pooled_model(self._folder / name, **shapes[name])
        return self[name]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """By name."""
    return Models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """PNGs, JPEGs that are scaled down by one factor for both models, by two, and by none; a file that is no image."""
    folder = tmp_path_factory.mktemp("photos")
    make_photos(folder, 9)
    for number, (width, height) in enumerate([(100, 75), (400, 300), (75, 100), (30, 20), (260, 200)]):
        noise = np.random.default_rng(number).integers(0, 256, (height // 5, width // 5, 3), np.uint8)
        Image.fromarray(noise).resize((width, height)).save(folder / f"large{number}.jpg", quality=90)
    Image.new("RGB", (8, 6), "white").save(folder / "white.png")
    (folder / "bad.png").write_bytes(b"no image")
    return folder


def config_of(first: Path, rival: Path | None = None, /, **sections: Any) -> RunConfig:
    """Two models of logits, one image a batch: another order of images then changes no bit."""
    limits = {"max_failure_rate": 0.5}
    values: dict[str, Any] = {"batch": {"size": 1}, "limits": limits, "load": {"threads": 2}, **sections}
    if rival is not None:
        section = {"model": {"path": str(rival), "output": "logits", "activation": "softmax"}}
        values["challenger"] = {**section, **values.get("challenger", {})}
    return small_config(first, **values)


def rivals(models: dict[str, Path], **sections: Any) -> RunConfig:
    """The first model and one of another size, other classes and sigmoid."""
    challenger = {
        "model": {"path": str(models["rival"]), "output": "logits", "activation": "sigmoid"},
        "preprocess": RIVAL_PREPROCESS,
    }
    return config_of(models["first"], models["rival"], challenger=challenger, **sections)


def rival_alone(models: dict[str, Path], **sections: Any) -> RunConfig:
    """The challenger of `rivals` as the model of a run."""
    values = rivals(models, **sections).model_dump()
    challenger = values.pop("challenger")
    return RunConfig.model_validate({**values, **{name: part for name, part in challenger.items() if part is not None}})


def rows(table: pa.Table, *paths: str) -> list[dict[str, Any]]:
    """The rows of a table by path, without its times; with paths, only of these."""
    found = table.sort_by("image_path").drop_columns(
        [name for name in ("scored_at", "failed_at") if name in table.schema.names]
    )
    return [row for row in found.to_pylist() if not paths or row["image_path"] in paths]


def tables_of(layout: RunLayout) -> dict[str, pa.Table]:
    """All tables of a run with a challenger."""
    return {
        name: read_table(layout, name) for name in ("scores", "failures", "scores_challenger", "failures_challenger")
    }


class Runs(NamedTuple):
    """The same photos three times."""

    both: RunResult
    """With a challenger."""
    first: RunResult
    """The first model alone."""
    second: RunResult
    """The challenger alone, as the model of a run."""


@pytest.fixture(scope="module")
def runs(models: dict[str, Path], photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Published."""
    folder, config = tmp_path_factory.mktemp("runs"), rivals(models)
    return Runs(
        run_quietly(config, [photos], folder / "both"),
        run_quietly(config.without_challenger(), [photos], folder / "first"),
        run_quietly(rival_alone(models), [photos], folder / "second"),
    )


def test_each_table_is_that_of_a_run_of_its_own(runs: Runs) -> None:
    """Letter for letter and bit for bit: rows, failures, schemas and what the files say of themselves."""
    tables, first, second = tables_of(runs.both.layout), runs.first.layout, runs.second.layout
    assert rows(tables["scores"]) == rows(read_table(first, "scores"))
    assert rows(tables["failures"]) == rows(read_table(first, "failures"))
    assert rows(tables["scores_challenger"]) == rows(read_table(second, "scores"))
    assert tables["failures_challenger"].num_rows == 0
    assert tables["scores"].schema == read_table(first, "scores").schema
    assert tables["scores_challenger"].schema == read_table(second, "scores").schema
    alone = runs.first.outcome.ledger
    assert runs.both.outcome.ledger == alone._replace(challenger_scored=15, challenger_failed=0)


def test_manifest_and_summary_tell_of_both(runs: Runs) -> None:
    """Fingerprints and counts of each; a run without a challenger says nothing but that it had none."""
    both, other = runs.both, runs.second
    manifest = json.loads(Path(both.layout.manifest).read_text())
    alone = json.loads(Path(other.layout.manifest).read_text())
    challenger = manifest["challenger"]
    assert challenger.pop("failures_by_code") == {}
    assert challenger == {name: alone[name] for name in challenger}
    assert {"model_id", "fingerprints", "execution", "num_classes"} < set(challenger)
    assert (alone["challenger"], "challenger_scored" in alone["ledger"]) == (None, False)
    assert {entry["table"] for entry in alone["files"]} == {"scores", "failures"}
    assert json.loads(Path(both.layout.latest).read_text())["scores_challenger"].startswith("scores_challenger/run_id=")
    assert "scores_challenger" not in Path(other.layout.latest).read_text()
    assert "\n  challenger  of 15: 15 scored + 0 failed\n" in summary(both)
    assert f"\n  challenger  {both.layout.published_table('scores_challenger')}\n" in summary(both)
    assert "challenger" not in summary(other)
    assert both.counts["challenged_images"] == 15


@pytest.mark.parametrize("quarantine", [False, pytest.param(True, marks=pytest.mark.heavy)])
def test_both_roads_give_the_same_tables(models: dict[str, Path], photos: Path, runs: Runs, quarantine: bool) -> None:
    """The pipeline with its threads, and the plain loop, with a worker process as well."""
    config = rivals(models, decode={"quarantine": quarantine})
    tables = tables_of(runs.both.layout)
    plain = score_in_memory(sorted(str(path) for path in photos.iterdir()), config)
    assert plain.scores_challenger is not None
    assert plain.failures_challenger is not None
    assert rows(plain.scores) == rows(tables["scores"])
    assert rows(plain.failures) == rows(tables["failures"])
    assert rows(plain.scores_challenger) == rows(tables["scores_challenger"])
    assert rows(plain.failures_challenger) == rows(tables["failures_challenger"]) == []


@pytest.mark.parametrize(
    ("rival", "code", "says"),
    [
        ("poisoned", "model_error", "the model failed on this image: "),
        ("nan", "non_finite_output", "the model returned NaN or infinite values for this image"),
    ],
)
def test_what_the_challenger_fails_on_costs_it_alone(
    models: dict[str, Path], photos: Path, tmp_path: Path, runs: Runs, rival: str, code: str, says: str
) -> None:
    """Its rows of these images, with the reason it would have had alone; no limit of the run, no row of the first."""
    config = config_of(models["first"], models[rival], limits={"max_failures": 1, "max_failure_rate": 0.5})
    both = run_quietly(config, [photos], tmp_path / "both")
    alone = score_in_memory(sorted(str(path) for path in photos.iterdir()), config_of(models[rival]))
    tables = tables_of(both.layout)
    assert rows(tables["scores"]) == rows(read_table(runs.first.layout, "scores"))
    assert rows(tables["scores_challenger"]) == rows(alone.scores)
    failed = rows(tables["failures_challenger"])
    alone_failed = [row for row in rows(alone.failures) if row["stage"] == "score"]
    # TensorFlow's messages name functions by numbers of their own.
    assert [{**row, "message": ""} for row in failed] == [{**row, "message": ""} for row in alone_failed]
    assert 0 < len(failed) < 15
    assert all((row["code"], row["stage"]) == (code, "score") and says in row["message"] for row in failed)
    assert both.outcome.exit_code is ExitCode.PUBLISHED
    assert both.outcome.challenger_failures_by_code == {code: len(failed)}
    assert both.outcome.ledger.challenger_scored == 15 - len(failed)
    assert f"challenger  of 15: {15 - len(failed)} scored + {len(failed)} failed ({len(failed)} {code})" in summary(
        both
    )


def test_the_challenger_is_not_asked_for_what_the_first_model_has_not_scored(
    models: dict[str, Path], photos: Path, tmp_path: Path, runs: Runs
) -> None:
    """The law: rows of scores are rows of the challenger's two tables; its neighbours in the batch are scored."""
    config = config_of(models["poisoned"], models["first"], batch={"size": 4})
    tables = tables_of(run_quietly(config, [photos], tmp_path / "out").layout)
    white = str(photos / "white.png")
    assert [row["image_path"] for row in rows(tables["failures"]) if row["stage"] == "score"] == [white]
    assert tables["scores_challenger"]["image_path"].to_pylist() == tables["scores"]["image_path"].to_pylist()
    assert white not in tables["scores"]["image_path"].to_pylist()
    alone = read_table(runs.first.layout, "scores")
    np.testing.assert_allclose(
        np.array(tables["scores_challenger"]["probabilities"].to_pylist()),
        np.array([row["probabilities"] for row in rows(alone) if row["image_path"] != white]),
        atol=1e-6,
    )


@pytest.mark.heavy
def test_a_challenger_that_runs_out_of_memory_is_halved(
    models: dict[str, Path], photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its calls, and not those of the first model."""
    config = config_of(models["first"], models["small"], batch={"size": 8}, load={"threads": 1})
    result = run_quietly(config, [photos], tmp_path / "out")
    assert result.outcome.ledger.challenger_scored == 15
    assert result.counts["challenge_out_of_memory_calls"] >= 1
    assert result.counts.get("score_out_of_memory_calls", 0) == 0
    assert "the device ran out of memory on 8 images: from now on 4 a call" in caplog.text


def test_an_answer_that_cannot_be_trusted_costs_the_challenger_its_batch(
    models: dict[str, Path], photos: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Declared probabilities that are none: the first model would end the run over it, the challenger does not."""
    challenger = {"model": {"path": str(models["same"]), "output": "probabilities", "activation": "softmax"}}
    with pytest.raises(ConfigError, match=r"^challenger: .*probabilities"):
        Contest(config_of(models["first"], models["same"], challenger=challenger).contest_plan())
    contest = Contest(config_of(models["first"], models["same"]).contest_plan())
    assert contest.challenger is not None
    contest.challenger.meaning = replace(contest.challenger.meaning, output="probabilities")
    plan = config_of(models["first"]).load_plan(6, 8)
    for _ in range(2):
        images = [load_one(ImageRef(str(photos / f"{number:03}.png"), None, None), plan) for number in range(3)]
        contested = contest.score(to_batch(images, plan))
        assert contested.champion.rows.num_rows == 3
        assert contested.challenger is not None
        assert contested.challenger.rows.num_rows == 0
        messages = {failure.message for failure in contested.challenger.failures}
        assert len(messages) == 1
        assert messages.pop().startswith("the challenger's answer to the batch of this image cannot be trusted: ")
        assert [failure.code for failure in contested.challenger.failures] == ["model_error"] * 3
    assert caplog.text.count("the challenger scores none of 3 images, and goes on with the next: ") == 1


def staged_files(layout: RunLayout, table: str) -> list[Path]:
    """The closed staged files of a table."""
    return sorted(Path(layout.staging, table).glob("*.parquet"))


@pytest.mark.parametrize(
    "lost",
    [
        "scores_challenger",
        pytest.param("failures_challenger", marks=pytest.mark.heavy),
        pytest.param("scores", marks=pytest.mark.heavy),
        pytest.param(None, marks=pytest.mark.heavy),
    ],
)
def test_a_continued_run_keeps_whole_groups_only(
    models: dict[str, Path], photos: Path, tmp_path: Path, lost: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    """A file is lost of what a refused attempt has staged: its group is scored again, for both models; no other is."""
    folder = tmp_path / "photos"
    shutil.copytree(photos, folder)
    config = config_of(
        models["first"], models["nan"], write={"rows_per_file": 4}, limits={"max_failures": 0}, load={"threads": 1}
    )
    layout = RunLayout(str(tmp_path / "out"), "night")
    refused = run_quietly(config, [folder], tmp_path / "out", run_id="night")
    assert refused.outcome.exit_code is ExitCode.TOO_MANY_FAILURES
    assert refused.outcome.challenger_failures_by_code["non_finite_output"] > 0
    before = scored_at(layout, staged=True)
    kept = dict(before)
    if lost is not None:
        victim = staged_files(layout, lost)[0]
        group = victim.name.partition("-")[0]
        victim.unlink()
        kept = {path: value for path, value in before.items() if value[1] != group}
        assert 0 < len(kept) < len(before)
    (folder / "bad.png").unlink()
    result = run_quietly(config, [folder], tmp_path / "out", run_id="night")
    assert result.outcome.exit_code is ExitCode.PUBLISHED
    assert result.adopted == len(kept)
    after = scored_at(layout)
    assert {path: after[path][0] for path in kept} == {path: value[0] for path, value in kept.items()}
    assert ("not adopted" in caplog.text) == (lost is not None)
    fresh = tables_of(run_quietly(config, [folder], tmp_path / "fresh").layout)
    assert {name: rows(table) for name, table in tables_of(layout).items()} == {
        name: rows(table) for name, table in fresh.items()
    }
    assert not Path(layout.staging).exists()


def scored_at(layout: RunLayout, *, staged: bool = False) -> dict[str, tuple[Any, str]]:
    """When each image was scored by the first model, and the group of its file."""
    import pyarrow.parquet as pq

    folder = Path(layout.staging, "scores") if staged else Path(layout.published_table("scores"))
    found = {}
    for path in folder.glob("*.parquet"):
        for row in pq.read_table(path, partitioning=None).to_pylist():
            found[row["image_path"]] = (row["scored_at"], path.name.partition("-")[0])
    return found


@pytest.mark.heavy
def test_another_challenger_does_not_continue_a_run(models: dict[str, Path], photos: Path, tmp_path: Path) -> None:
    """Nor does none: one run never mixes two."""
    config = config_of(models["first"], models["same"], limits={"max_failures": 0})
    assert run_quietly(config, [photos], tmp_path, run_id="n").outcome.exit_code is ExitCode.TOO_MANY_FAILURES
    for other in (config.without_challenger(), rivals(models)):
        with pytest.raises(ConfigError, match="run n was begun with other challenger: one run never mixes two"):
            run_quietly(other, [photos], tmp_path, run_id="n")


@pytest.mark.heavy
def test_replacing_a_run_takes_its_challenger_away(models: dict[str, Path], photos: Path, tmp_path: Path) -> None:
    """And brings one: whoever reads the folders finds the tables of the manifest and no others."""
    both, output = rivals(models), tmp_path / "out"
    for config in (both, both.without_challenger(), both):
        run_quietly(config, [photos], output, run_id="n", overwrite=True)
        manifest = json.loads((output / "runs/n/manifest.json").read_text())
        parts = {name for name in tree(output) if name.endswith(".parquet")}
        assert parts == {entry["path"] for entry in manifest["files"]}
        assert (output / "scores_challenger" / "run_id=n").exists() == (config.challenger is not None)


@pytest.mark.heavy
def test_a_delta_relies_on_runs_of_the_same_challenger(models: dict[str, Path], photos: Path, tmp_path: Path) -> None:
    """With another one, or one for the first time, every image is scored again; without one, none is."""
    output, both = tmp_path / "out", rivals(models)
    first = run_quietly(both.without_challenger(), [photos], output, run_id="n1")
    assert first.outcome.ledger.scored == 15
    nights = [("n2", both, 0), ("n3", both, 15), ("n4", config_of(models["first"], models["same"]), 0)]
    nights.append(("n5", both.without_challenger(), 15))
    for run_id, config, skipped in nights:
        ledger = run_quietly(config, [photos], output, run_id=run_id, since_run="latest").outcome.ledger
        assert (ledger.skipped, ledger.scored) == (skipped, 15 - skipped), run_id
    record = json.loads((output / "runs/n2/manifest.json").read_text())["since_run"]
    assert record == {"run_id": "n1", "chain": ["n1"], "used": []}


@pytest.mark.heavy
def test_models_of_encoded_images_share_the_bytes(photos: Path, tmp_path: Path) -> None:
    """Both decode in their graphs; the challenger's labels and calibration are its own."""
    first, rival = bytes_model(tmp_path / "first"), bytes_model(tmp_path / "rival", head=lambda x: {"logits": x * 2.0})
    calibration = {"temperature": 2.0}
    section = {"model": {"path": str(rival), "output": "logits", "activation": "softmax"}, "calibration": calibration}
    config = bytes_config(first, batch={"size": 1}, limits={"max_failure_rate": 0.5}, challenger=section)
    tables = tables_of(run_quietly(config, [photos], tmp_path / "out").layout)
    for row, other in zip(rows(tables["scores"]), rows(tables["scores_challenger"]), strict=True):
        assert row["image_path"] == other["image_path"]
        np.testing.assert_allclose(row["probabilities"], other["probabilities"], atol=1e-6)


def test_what_does_not_go_in_one_pass_is_refused(models: dict[str, Path], tmp_path: Path) -> None:
    """Before an image is read, with the way out."""
    encoded = bytes_model(tmp_path / "bytes")
    with pytest.raises(ConfigError) as refused:
        preprocess = {"value_range": "0_255"}
        Contest(config_of(models["first"], encoded, challenger={"preprocess": preprocess}).contest_plan())
    assert str(refused.value) == (
        f"challenger: {encoded} takes encoded images and {models['first']} takes pixels: one pass loads images for one "
        "kind of model; score the challenger in a run of its own"
    )
    with pytest.raises(ConfigError) as refused:
        Contest(config_of(models["first"], models["rival"]).contest_plan())
    assert str(refused.value) == (
        "challenger: preprocess.height is 6, but the model's signature takes 10; leave preprocess.height and "
        "preprocess.width out to take them from the model"
    )
    with pytest.raises(ConfigError, match=rf"^challenger: model\.path {tmp_path / 'none'} does not exist"):
        Contest(config_of(models["first"], tmp_path / "none").contest_plan())
    with pytest.raises(ConfigError, match="the configuration has a challenger: give a Contest of both models, or none"):
        contest = Contest(config_of(models["first"]).contest_plan())
        score_in_memory([], rivals(models), contest.champion)


def test_pixels_are_shared_where_they_are_the_same(models: dict[str, Path]) -> None:
    """Ranges, means and channels are the graph's business; sizes, crops and filters make other pixels."""
    for preprocess, shares in (
        (None, True),
        ({"value_range": "-1_1", "channel_order": "bgr", "mean": [0.1, 0.2, 0.3]}, True),
        ({"crop_pct": 0.9}, False),
        ({"interpolation": "nearest"}, False),
    ):
        base = config_of(models["first"]).preprocess.model_dump(exclude_none=True)
        section = {} if preprocess is None else {"preprocess": {**base, **preprocess}}
        contest = Contest(config_of(models["first"], models["same"], challenger=section).contest_plan())
        assert (contest.second_input is None) == shares, preprocess
    assert contest.second_input is not None
    assert contest.second_input.preprocess.interpolation == "nearest"


def test_both_models_share_the_slots_of_their_device(models: dict[str, Path]) -> None:
    """As many calls at a time as for one."""
    contest = Contest(config_of(models["first"], models["same"], model={"calls_in_flight": 2}).contest_plan())
    assert contest.challenger is not None
    assert contest.challenger.slots is contest.champion.slots
    assert contest.calls_in_flight == 2


@pytest.mark.heavy
def test_batch_sizes_are_measured_for_each(
    models: dict[str, Path], photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The manifest says what each came to."""
    caplog.set_level(logging.INFO)
    result = run_quietly(config_of(models["first"], models["small"], batch={"size": "auto"}), [photos], tmp_path)
    manifest = json.loads(Path(result.layout.manifest).read_text())
    said = [manifest["execution"]["batch_size"], manifest["challenger"]["execution"]["batch_size"]]
    assert [text.startswith("batch size 4, because 8 images ran out of memory") for text in said] == [False, True]
