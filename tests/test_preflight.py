"""Preflight: what would fail is said with all its reasons, what is said of a night comes true, and nothing stays."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.before.findings import Preflight, preflight_json
from pipeline.before.golden import make_golden
from pipeline.before.preflight import PreflightRequest, preflight
from pipeline.before.preflight_page import preflight_page
from pipeline.before.preflight_text import preflight_text
from pipeline.cli import main
from pipeline.config import RunConfig
from pipeline.rehearsal import rehearse
from tests.model_zoo import bytes_model, pooled_model
from tests.runs import bytes_config, make_photos, read_table, run_quietly, small_config, tree, write_config
from transforms.claims import RunClaim
from transforms.contest import Contest
from transforms.layout import RunLayout
from transforms.records import ImageRef
from transforms.resizing import fit

HOSTILE = '<script>"x"</script>'


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of four classes that takes no time."""
    return pooled_model(tmp_path_factory.mktemp("model") / "pooled")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 photos, four of them without a byte."""
    folder = tmp_path_factory.mktemp("inputs") / "photos"
    for path in make_photos(folder, 120)[::30]:
        path.write_bytes(b"")
    return folder


def tried(config: RunConfig, photos: Path, output: Path | str, **request: Any) -> Preflight:
    """A preflight that measures its pace for a tenth of a second."""
    values = {"inputs": [str(photos)], "samples": 60, "pictures": 5, "seconds": 0.1, **request}
    return preflight(PreflightRequest(config=lambda: config, output=str(output), **values))


def checks_of(found: Preflight) -> dict[str, tuple[str, str]]:
    """State and text of each check, by name."""
    return {check.name: (check.state, check.text) for check in found.checks}


@pytest.fixture(scope="module")
def night(model: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Preflight, Path]:
    """A preflight with a rehearsal, and the output that it was asked for."""
    output = tmp_path_factory.mktemp("output") / "not" / "yet"
    return tried(small_config(model), photos, output, rehearse=rehearse), output


def test_a_night_without_a_fault_has_no_reasons(night: tuple[Preflight, Path]) -> None:
    """Every check has been made, and passed."""
    checks = checks_of(night[0])
    assert night[0].reasons == []
    assert [name for name, (state, _) in checks.items() if state == "ok"] == [
        "configuration", "output", "input", "model", "labels", "failures", "rehearsal", "disk space",
    ]  # fmt: skip
    assert checks["golden images"] == ("note", "none are configured: golden.path is left out")
    assert checks["input"][1] == "120 images, counted; 60 sampled"
    assert checks["rehearsal"][1].startswith("a run of 8 images into a temporary folder took ")


def test_nothing_stays(night: tuple[Preflight, Path]) -> None:
    """Folders that were made for the probe are gone again."""
    assert not night[1].exists()
    assert not night[1].parent.exists()


def test_files_of_an_output_stay_as_they_are(model: Path, photos: Path, tmp_path: Path) -> None:
    """A published run is told of, and not touched."""
    run_quietly(small_config(model), [photos], tmp_path, run_id="night")
    before = tree(tmp_path)
    found = tried(small_config(model), photos, tmp_path, run_id="night")
    assert checks_of(found)["run id"] == (
        "note",
        "run night is already published: a run of that id does nothing, unless with --overwrite",
    )
    assert found.reasons == []
    assert tree(tmp_path) == before


def test_a_run_that_is_worked_on_is_told(model: Path, photos: Path, tmp_path: Path) -> None:
    """Another launcher has claimed the id."""
    with RunClaim(RunLayout(str(tmp_path), "night")) as claim:
        claim.take()
        state, text = checks_of(tried(small_config(model), photos, tmp_path, run_id="night"))["run id"]
    assert state == "note"
    assert text.startswith("run night is being worked on by process ")


def test_failures_of_the_sample_are_counted_by_code_with_intervals(model: Path, photos: Path, tmp_path: Path) -> None:
    """All images tried: exactly four of 120; half of them: an interval around what was found."""
    everything = tried(small_config(model), photos, tmp_path, samples=500)
    assert everything.trial is not None
    assert everything.trial.failures_by_code == {"empty_file": 4}
    assert everything.failure_rate == (4 / 120, 4 / 120, 4 / 120)
    half = tried(small_config(model), photos, tmp_path)
    assert half.trial is not None
    rate = half.failure_rate
    assert rate is not None
    assert rate.low < rate.share == len(half.trial.failures) / 60 < rate.high


def test_a_night_with_too_many_failures_would_fail(model: Path, photos: Path, tmp_path: Path) -> None:
    """Surely, when all images were tried."""
    config = small_config(model, limits={"max_failure_rate": 0.03})
    found = tried(config, photos, tmp_path, samples=500)
    assert found.reasons == [
        "failures: at least 3.33% of the images will fail, limits.max_failure_rate allows 3.00%; "
        "the night would not be published"
    ]


def test_the_output_of_the_night_is_as_large_as_predicted(
    night: tuple[Preflight, Path], model: Path, photos: Path, tmp_path: Path
) -> None:
    """Within a tenth, from half of the images."""
    predicted = night[0].prediction
    assert predicted is not None
    layout = run_quietly(small_config(model), [photos], tmp_path).layout
    for table, expected in (("scores", predicted.scores_bytes), ("failures", predicted.failures_bytes)):
        real = sum(path.stat().st_size for path in Path(layout.published_table(table)).iterdir())
        assert expected == pytest.approx(real, rel=0.1), table


def test_the_pictures_are_the_pixels_that_the_model_is_given_and_its_answers_those_of_a_run(
    night: tuple[Preflight, Path], model: Path, photos: Path, tmp_path: Path
) -> None:
    """Bit for bit those of the functions that a run uses, and the labels and probabilities of its table."""
    from PIL import Image

    config = small_config(model)
    rows = {
        row["image_path"]: row
        for row in read_table(run_quietly(config, [photos], tmp_path).layout, "scores").to_pylist()
    }
    assert night[0].trial is not None
    assert len(night[0].trial.seen) == 5
    for one in night[0].trial.seen:
        pixels = fit(np.asarray(Image.open(one.path).convert("RGB")), config.preprocess, 6, 8)
        np.testing.assert_array_equal(one.pixels, pixels)
        top = [(entry["label"], entry["probability"]) for entry in rows[one.path]["top_k"]]
        assert [answer.label for answer in one.top] == [label for label, _ in top]
        assert [answer.probability for answer in one.top] == pytest.approx([value for _, value in top])


def test_a_model_that_decodes_itself_has_pictures_of_the_images(photos: Path, tmp_path: Path) -> None:
    """There are no pixels of ours to show."""
    found = tried(bytes_config(bytes_model(tmp_path / "model")), photos, tmp_path / "out")
    assert found.reasons == []
    assert preflight_page(found).count("data:image/jpeg") == 5
    assert "The model decodes images itself" in preflight_page(found)


def test_all_reasons_are_told_at_once(model: Path, photos: Path, tmp_path: Path) -> None:
    """An output that is a file, an input that is not there, golden images that have drifted, too many failures."""
    config = small_config(model)
    golden = tmp_path / "golden.json"
    make_golden(config, [str(photos / "001.png"), str(photos / "002.png")], str(golden))
    changed = small_config(
        model,
        golden={"path": str(golden), "tolerance": 0.0},
        preprocess={"value_range": "0_255"},
        limits={"max_failures": 0},
        health={"baseline": "gone"},
    )
    taken = tmp_path / "file"
    taken.write_text("no folder")
    found = tried(changed, photos, taken / "out", inputs=[str(photos), str(tmp_path / "nowhere")], samples=500)
    reasons = "\n".join(found.reasons)
    assert [reason.partition(":")[0] for reason in found.reasons] == [
        "output", "input", "golden images", "baseline", "failures",
    ]  # fmt: skip
    assert "give a folder or bucket that this process may write" in reasons
    assert "matches nothing" in reasons
    assert "golden check failed: 2 of 2 photos drifted" in reasons
    assert "limits.max_failures allows 0" in reasons


@pytest.mark.parametrize(
    ("sections", "name", "text"),
    [
        ({"labels": {"path": "{labels}"}}, "model", "labels"),
        ({"results": {"top_k": 9}}, "model", "results.top_k must be at most the number of classes, got 9"),
        ({"model": {"path": "/gone/model"}}, "model", "/gone/model"),
        ({"model": {"output": "probabilities"}}, "model", "probabilities"),
    ],
)
def test_a_model_that_contradicts_its_configuration_would_fail(
    model: Path, photos: Path, tmp_path: Path, sections: dict[str, Any], name: str, text: str
) -> None:
    """With the reason that a run would give; the rest is checked all the same."""
    labels = tmp_path / "labels.txt"
    labels.write_text("one\ntwo\n")
    if "labels" in sections:
        sections = {"labels": {"path": str(labels)}}
    found = tried(small_config(model, **sections), photos, tmp_path / "out")
    checks = checks_of(found)
    assert checks[name][0] == "bad"
    assert text in checks[name][1]
    assert checks["output"][0] == checks["input"][0] == "ok"


def test_a_disk_that_is_too_small_would_fail(
    model: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The free space is what the system says."""
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    (reason,) = tried(small_config(model), photos, tmp_path).reasons
    assert re.fullmatch(
        r"disk space: [0-9.]+ KB are needed at .*, 1 KB are free; make room there, or give another output", reason
    )


def test_images_that_all_fail_are_all_told(model: Path, tmp_path: Path) -> None:
    """Nothing can be timed, nothing can be predicted, and the reason is there."""
    manifest = tmp_path / "list.txt"
    manifest.write_text("".join(f"/gone/{number}.jpg\n" for number in range(30)))
    found = tried(small_config(model), tmp_path, tmp_path / "out", inputs=[f"@{manifest}"])
    assert found.prediction is None
    assert found.reasons[0].startswith("failures: at least 100.00% of the images will fail")
    assert preflight_json(found)["failures"]["by_code"]["not_found"]["sampled"] == 30
    assert "not_found" in preflight_page(found)


def test_a_challenger_is_loaded_timed_and_counted(model: Path, photos: Path, tmp_path: Path) -> None:
    """Its table is part of the predicted output, within a tenth; the rehearsal is of both models."""
    config = small_config(model, challenger={"model": {"path": str(pooled_model(tmp_path / "other", classes=6)),
                                             "output": "logits", "activation": "softmax"}})  # fmt: skip
    found = tried(config, photos, tmp_path / "out", rehearse=rehearse)
    assert found.reasons == []
    assert found.prediction is not None
    layout = run_quietly(config, [photos], tmp_path / "out").layout
    real = {path: path.stat().st_size for path in (tmp_path / "out").glob(f"*/run_id={layout.run_id}/*.parquet")}
    assert {path.parts[-3] for path in real} == {"scores", "failures", "scores_challenger", "failures_challenger"}
    assert found.prediction.output_bytes == pytest.approx(sum(real.values()), rel=0.1)


def test_prices_make_a_prediction_of_money(model: Path, photos: Path, tmp_path: Path) -> None:
    """An hour for 3,600 is a second for one."""
    found = tried(small_config(model, prices={"machine_hour": 3600, "currency": "EUR"}), photos, tmp_path)
    assert found.prediction is not None
    assert found.prediction.costs == {"machine": pytest.approx(found.prediction.duration.total)}
    assert "EUR (machine " in preflight_text(found)


def test_names_are_told_as_text(tmp_path: Path) -> None:
    """Labels and paths that want to be HTML or to move a terminal's cursor."""
    labels = tmp_path / "labels.json"
    labels.write_text(json.dumps([HOSTILE, "\x1b[31mred", "c", "d"]))
    model = pooled_model(tmp_path / "model")
    folder = tmp_path / '<b>"q"'
    make_photos(folder, 3)
    (folder / "\x1b[2J.png").write_bytes(b"")
    found = tried(small_config(model, labels={"path": str(labels)}), folder, tmp_path / "out")
    page, text = preflight_page(found), preflight_text(found)
    assert "<script" not in page
    assert "<b>" not in page.replace('<div class="card"><b>', "")
    assert "&lt;script&gt;" in page
    assert "\x1b" not in page + text
    assert "\\x1b[2J.png" in page


def test_the_command_prints_writes_and_returns_2_where_the_night_would_fail(
    model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page, the JSON and the text say the same; with --log-format json standard output is that JSON."""
    config = write_config(small_config(model), tmp_path / "config.json")
    files = ["--html", str(tmp_path / "page.html"), "--json", str(tmp_path / "found.json")]
    command = ["preflight", "--config", str(config), "--input", str(photos), "--output", str(tmp_path / "out")]
    quick = ["--seconds", "0.1", "--samples", "20"]
    assert main([*command, *quick, *files]) == 0
    assert capsys.readouterr().out.startswith("preflight: nothing stands against the night\n  ok    configuration")
    told = json.loads((tmp_path / "found.json").read_text())
    assert told["ready"] is True
    assert told["images"]["count"] == 120
    assert told["prediction"]["duration_seconds"]["total"] > 0
    assert "ready" in (tmp_path / "page.html").read_text()
    assert main([*command, *quick, "--set", "limits.max_failure_rat=0.1", "--input", "/gone", *files]) == 2
    said = capsys.readouterr().out
    assert said.startswith("preflight: the night would fail, for 2 reasons\n")
    assert "did you mean max_failure_rate" in said
    assert "input /gone matches nothing" in said
    told = json.loads((tmp_path / "found.json").read_text())
    assert told["ready"] is False
    monkeypatch.setattr("pipeline.logs.is_json", lambda: True)  # --log-format json, whose log pytest has taken
    assert main([*command, *quick, "--set", "limits.max_failure_rat=0.1", "--input", "/gone"]) == 2
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line) == told


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--samples", "0"], "--samples must be 1 to 10000, got 0"),
        (["--pictures", "500"], "--pictures must be 0 to 200, got 500"),
        (["--seconds", "0"], "--seconds must be over 0, got 0.0"),
        (["--list-seconds", "nan"], "--list-seconds must be over 0, got nan"),
    ],
)
def test_arguments_out_of_range_are_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything is imported."""
    assert main(["preflight", "--config", "c", "--input", "i", "--output", "o", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_rehearsal_that_fails_is_a_reason(model: Path, photos: Path, tmp_path: Path) -> None:
    """What would stop the run stops the rehearsal first."""

    def broken(*_: object) -> tuple[int, float]:
        raise OSError("no room for temporary files")

    found = tried(small_config(model), photos, tmp_path, rehearse=broken)
    assert found.reasons == ["rehearsal: no room for temporary files"]


def test_the_pace_is_that_of_a_slow_loader(model: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four threads that sleep 20 ms an image: 5 ms an image, whatever the model does meanwhile."""
    import time

    from pipeline.before import pace

    def slow(*args: Any, **kwargs: Any) -> Any:
        time.sleep(0.02)
        return load(*args, **kwargs)

    load = pace.load_one
    monkeypatch.setattr(pace, "load_one", slow)
    config = small_config(model, load={"threads": 4})
    contest = Contest(config.contest_plan())
    refs = [ImageRef(str(photos / "001.png"), None, None)]
    found = pace.measure_pace(refs, config.load_plan(6, 8), contest, config.write, 0.005, 1.0)
    assert found.seconds == pytest.approx(0.005, rel=0.5)
    assert found.images >= 60
