"""Fitting a calibration from a run: from logits and from probabilities alike, measured on images of its own."""

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import yaml

from pipeline import cli
from pipeline.after import calibrate as calibrating
from pipeline.after.calibrate import Calibration, calibrate
from pipeline.after.calibrate_text import calibration_text, write_lines
from pipeline.after.published import find_run
from pipeline.after.truth import read_truth
from pipeline.config import RunConfig, load_config
from tests.digits import Digits, write_truth
from tests.published_runs import publish_scores
from tests.runs import read_table, run_quietly
from transforms import calibration
from transforms.errors import ConfigError, InputError
from transforms.interpretation import Interpretation, to_probabilities
from transforms.probabilities import sigmoid, softmax
from transforms.settings import CalibrationSettings

SOFTMAX = Interpretation("logits", "softmax", 4, "")


def calibration_of(run_folder: object, truth: Path, **options: Any) -> Calibration:
    """Calibrate a published run."""
    run = find_run(str(run_folder))
    return calibrate(run, read_truth(str(truth), run.labels, independent=run.independent), **options)


def calibrated(
    folder: Path, probabilities: npt.ArrayLike, truth: list[Any], options: dict[str, Any] | None = None, **run: Any
) -> Calibration:
    """Publish probabilities and calibrate them."""
    paths = [f"/{i:05}.png" for i in range(len(truth))]
    publish_scores(folder / "out", paths, probabilities, group_rows=100, **run)
    return calibration_of(
        folder / "out", write_truth(folder / "t.csv", zip(paths, truth, strict=True)), **(options or {})
    )


def classified(rows: int = 500, seed: int = 0) -> tuple[npt.NDArray[np.float32], list[int]]:
    """Logits of four classes, three times as large as the truth that is drawn from them warrants."""
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 2, (rows, 4))
    truth = (softmax(x).cumsum(axis=1) > rng.random((rows, 1))).argmax(axis=1)
    return (3 * x).astype(np.float32), truth.tolist()


def labelled(rows: int = 500) -> tuple[npt.NDArray[np.float32], list[str]]:
    """Logits of three labels, and the labels as a truth file has them; the first label's logits are twice too large."""
    rng = np.random.default_rng(1)
    x = rng.normal(0, 2, (rows, 3))
    holds = rng.random(x.shape) < sigmoid(x)
    x[:, 0] *= 2
    return x.astype(np.float32), [";".join(map(str, np.flatnonzero(row))) for row in holds]


def test_the_temperature_is_that_of_the_logits(tmp_path: Path) -> None:
    """The same number as fitting by hand; before is what was published, after is what a run with it publishes."""
    x, truth = classified()
    found = calibrated(tmp_path, softmax(x), truth, raw=x)
    expected = calibration.fit_temperature(x, np.array(truth))
    assert found.source == "logits"
    assert found.settings.temperature == pytest.approx(expected, rel=1e-5)
    assert 2.5 < expected < 3.5
    after = to_probabilities(x, SOFTMAX, found.settings)
    for quality, p in ((found.before, softmax(x)), (found.after, after)):
        assert quality.nll == pytest.approx(calibration.nll(p, np.array(truth)))
        assert quality.brier == pytest.approx(calibration.brier(p, np.array(truth)))
        assert quality.ece == pytest.approx(calibration.ece(p, np.array(truth)))
    assert found.after.nll < found.before.nll
    assert (found.fitted_on, found.measured_on, found.held_out) == (500, 500, False)


def test_probabilities_serve_where_logits_were_not_kept(tmp_path: Path) -> None:
    """Their logarithms are the logits up to a constant that no temperature sees."""
    x, truth = classified()
    with_logits = calibrated(tmp_path / "with", softmax(x), truth, raw=x)
    without = calibrated(tmp_path / "without", softmax(x), truth)
    assert without.source == "probabilities"
    assert without.settings.temperature == pytest.approx(with_logits.settings.temperature, rel=1e-4)
    assert without.after == pytest.approx(with_logits.after, rel=1e-4)


@pytest.mark.parametrize("keeps_logits", [True, False])
def test_a_fit_replaces_the_calibration_that_the_run_had(tmp_path: Path, keeps_logits: bool) -> None:
    """Temperature: the run had 2, and what comes out is the model's own, as if it had had none."""
    x, truth = classified()
    raw = {"raw": x} if keeps_logits else {}
    had = CalibrationSettings(temperature=2.0)
    fresh = calibrated(tmp_path / "fresh", softmax(x), truth, raw=x)
    found = calibrated(tmp_path / "had", softmax(x / 2), truth, calibration=had, **raw)
    assert found.settings.temperature == pytest.approx(fresh.settings.temperature, rel=1e-4)
    assert found.before.nll == pytest.approx(calibration.nll(softmax(x / 2), np.array(truth)))  # as published


@pytest.mark.parametrize("keeps_logits", [True, False])
def test_a_platt_fit_replaces_the_pairs_that_the_run_had(tmp_path: Path, keeps_logits: bool) -> None:
    """Sigmoid: each label had a pair of its own."""
    x, truth = labelled()
    raw = {"raw": x} if keeps_logits else {}
    had = CalibrationSettings(platt_a=(0.5, 1.0, 2.0), platt_b=(0.0, 1.0, -1.0))
    fresh = calibrated(tmp_path / "fresh", sigmoid(x), truth, raw=x, activation="sigmoid")
    published = sigmoid(calibration.apply(x, had))
    found = calibrated(tmp_path / "had", published, truth, activation="sigmoid", calibration=had, **raw)
    assert found.settings.platt_a == pytest.approx(fresh.settings.platt_a, rel=1e-3)
    assert found.settings.platt_b == pytest.approx(fresh.settings.platt_b, abs=1e-3)


def test_kept_logits_of_a_model_with_probabilities_are_probabilities(tmp_path: Path) -> None:
    """The column holds what the model returned: one that ends in softmax returned no logits."""
    x, truth = classified()
    p = softmax(x)
    found = calibrated(tmp_path, p, truth, raw=p, returns="probabilities")
    expected = calibration.fit_temperature(calibration.to_logits(p, "softmax"), np.array(truth))
    assert found.settings.temperature == pytest.approx(expected, rel=1e-4)


def test_each_label_has_a_pair_of_its_own_when_asked(tmp_path: Path) -> None:
    """The first label's logits are twice as large as they should be, those of the others are right."""
    x, truth = labelled(2000)
    found = calibrated(tmp_path, sigmoid(x), truth, {"per_label": True}, raw=x, activation="sigmoid")
    assert found.settings.platt_a == pytest.approx((0.5, 1.0, 1.0), abs=0.15)
    assert found.settings.platt_b == pytest.approx((0.0, 0.0, 0.0), abs=0.2)
    assert found.after.nll < found.before.nll


def test_one_unit_is_fitted_by_its_positive_class(tmp_path: Path) -> None:
    """From its logit, and from [1 - p, p], whose ratio is exact at both ends."""
    rng = np.random.default_rng(2)
    x = np.concatenate([rng.normal(0, 4, 400), [60.0, -60.0]]).astype(np.float32)[:, None]
    truth = (rng.random(402) < sigmoid(x / 2)[:, 0]).astype(int).tolist()
    p = sigmoid(np.concatenate([-x, x], axis=1))
    run: dict[str, Any] = {"activation": "sigmoid", "num_units": 1}
    found = calibrated(tmp_path / "with", p, truth, raw=x, **run)
    without = calibrated(tmp_path / "without", p, truth, **run)
    expected = calibration.fit_platt(x, np.array(truth, bool)[:, None])
    assert (found.settings.platt_a, found.settings.platt_b) == pytest.approx(expected, rel=1e-4)
    assert without.settings.platt_a == pytest.approx(found.settings.platt_a, rel=1e-4)
    assert without.after == pytest.approx(found.after, rel=1e-4)


def test_held_out_images_are_measured_and_not_fitted(tmp_path: Path) -> None:
    """Fit and measure share no image; the seed decides which, the order of the rows does not."""
    x, truth = classified(101)
    fitted, measured = {}, {}
    for seed in (0, 1):
        found = calibrated(tmp_path / str(seed), softmax(x), truth, {"holdout": 0.3, "seed": seed}, raw=x)
        assert (found.fitted_on, found.measured_on, found.held_out) == (71, 30, True)
        out = np.zeros(101, bool)
        out[np.random.default_rng(seed).permutation(101)[:30]] = True
        y = np.array(truth)
        assert found.settings.temperature == pytest.approx(calibration.fit_temperature(x[~out], y[~out]), rel=1e-5)
        assert found.before.nll == pytest.approx(calibration.nll(softmax(x[out]), y[out]))
        assert found.after.nll == pytest.approx(
            calibration.nll(to_probabilities(x[out], SOFTMAX, found.settings), y[out])
        )
        fitted[seed], measured[seed] = found.settings, found.before
    assert fitted[0] != fitted[1]
    order = np.random.default_rng(9).permutation(101)
    paths = [f"/{i:05}.png" for i in order]
    publish_scores(tmp_path / "shuffled", paths, softmax(x[order]), raw=x[order], group_rows=7)
    shuffled = calibration_of(tmp_path / "shuffled", tmp_path / "0" / "t.csv", holdout=0.3)
    assert shuffled.settings.temperature == pytest.approx(fitted[0].temperature, rel=1e-5)
    assert shuffled.before == pytest.approx(measured[0])


def test_small_blocks_give_the_same_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are measured in blocks that bound the memory; where they are cut does not show."""
    x, truth = classified()
    whole = calibrated(tmp_path / "whole", softmax(x), truth)
    monkeypatch.setattr(calibrating, "_BLOCK_ELEMENTS", 30)
    assert calibrated(tmp_path / "blocks", softmax(x), truth).after == pytest.approx(whole.after, rel=1e-12)


@pytest.mark.heavy
def test_calibrating_the_photos_lowers_nll_on_the_other_half(
    lite0_directory: Path, image_data_dir: Path, tmp_path: Path
) -> None:
    """EfficientNet-Lite0 on 200 photos: fitted on 100, better on the other 100, whichever of three splits."""
    config = RunConfig.model_validate(
        {
            "model": {"path": str(lite0_directory), "output": "logits", "activation": "softmax"},
            "preprocess": {"crop_pct": 0.875, "value_range": "0_255", "mean": [127] * 3, "std": [128] * 3},
        }
    )
    layout = run_quietly(config, [image_data_dir / "photos"], tmp_path / "out").layout
    run = find_run(layout.output)
    truth = read_truth(
        str(image_data_dir / "photos.csv"), run.labels, independent=False, path_column="file",
        label_column="class_index",
    )  # fmt: skip
    for seed in range(3):
        found = calibrate(run, truth, holdout=0.5, seed=seed)
        assert (found.fitted_on, found.measured_on, found.counts.matched_by) == (100, 100, "file name")
        assert found.after.nll < found.before.nll, seed


@pytest.mark.heavy
def test_a_run_with_the_printed_lines_publishes_what_was_measured(
    digits: Digits, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The loop closes: fit, paste the lines into a configuration, score again, measure the same numbers."""
    truth = write_truth(tmp_path / "t.csv", zip(digits.photos, digits.numbers, strict=True))
    arguments = ["--scores", digits.layouts["ten"].run_folder, "--truth", str(truth)]
    assert cli.main(["calibrate", *arguments, "--write", str(tmp_path / "lines.yaml")]) == 0
    lines = (tmp_path / "lines.yaml").read_text()
    assert lines.startswith("# Fitted on 240 images of run ten; belongs to model ten@")
    assert capsys.readouterr().out.endswith("\n\n" + lines.split("\n", 1)[1])

    values = digits.configs["ten"].model_dump(mode="json", exclude={"calibration"})
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values) + lines)
    again = run_quietly(load_config(tmp_path / "config.yaml"), list(digits.photos), tmp_path / "out").layout
    found = calibration_of(digits.layouts["ten"].run_folder, truth)
    after = calibration_of(again.run_folder, truth)
    assert after.before == pytest.approx(found.after, rel=1e-6)
    assert after.settings.temperature == pytest.approx(found.settings.temperature, rel=1e-5)
    assert found.after.nll < found.before.nll
    tops = [read_table(layout, "scores")["predicted_index"].to_pylist() for layout in (again, digits.layouts["ten"])]
    assert tops[0] == tops[1]  # a temperature changes no answer


REFUSED: list[tuple[dict[str, Any], dict[str, Any], list[Any], str]] = [
    # run, options, truth of three images, message
    ({"activation": "none"}, {}, [0, 1, 1], "run night has activation none: nobody says how its probabilities arose"),
    ({}, {"per_label": True}, [0, 1, 1], "--per-label is for independent labels; the classes of run night exclude"),
    ({}, {"holdout": 1.0}, [0, 1, 1], "--holdout must be a share of the images over 0 and under 1, got 1; 0.5 is"),
    ({}, {"holdout": math.nan}, [0, 1, 1], "--holdout must be a share of the images over 0 and under 1, got nan"),
    ({}, {"holdout": 0.1}, [0, 1, 1], "--holdout 0.1 of 3 matched images leaves none to measure on; give a truth of"),
    ({}, {"holdout": 0.9}, [0, 1, 1], "--holdout 0.9 of 3 matched images leaves none to fit on; give a truth of more"),
    ({}, {}, [0, 1, 0], "temperature cannot be fitted: below 0.01 the likelihood still rises"),  # no mistake
    ({"activation": "sigmoid"}, {}, ["0;1"] * 3, "each label holds for all of the 3 images of the fit, which leaves"),
    ({"activation": "sigmoid"}, {"per_label": True}, ["0", "", "0"],
     "label 1 holds for none of the 3 images of the fit, which leaves nothing to fit; leave --per-label out, or give"),
    ({"activation": "sigmoid", "num_units": 1}, {}, [0, 0, 0], "label 1 holds for none of the 3 images of the fit"),
    ({"activation": "sigmoid"}, {}, ["1", "0", "1"], "Platt's slope of all labels is -"),  # the wrong way round
    ({"activation": "sigmoid", "calibration": CalibrationSettings(platt_a=0.0, platt_b=1.0)}, {}, ["0", "", "0"],
     "run night was published with calibration.platt_a 0, which forgets what the model said"),
]  # fmt: skip


@pytest.mark.parametrize(("run", "options", "truth", "message"), REFUSED)
def test_what_cannot_be_fitted_is_refused(
    tmp_path: Path, run: dict[str, Any], options: dict[str, Any], truth: list[Any], message: str
) -> None:
    """Nothing is made up from a truth that does not say enough."""
    with pytest.raises((ConfigError, InputError), match=re.escape(message)):
        calibrated(tmp_path, [[0.9, 0.1], [0.2, 0.8], [0.7, 0.3]], truth, options, **run)


def test_without_scipy_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plain installation has no SciPy."""
    monkeypatch.setattr("pipeline.after.extras.find_spec", lambda _name: None)
    message = "score-images calibrate needs scipy, not installed here: pip install 'score-images[evaluate]'"
    with pytest.raises(ConfigError, match=re.escape(message)):
        calibrated(tmp_path, [[0.9, 0.1]], [0])


def test_text_says_on_which_images_it_was_measured(tmp_path: Path) -> None:
    """The same ones flatter; and a fit that gains nothing is called so."""
    x, truth = classified(200)
    text = calibration_text(calibrated(tmp_path / "a", softmax(x), truth))
    assert "run night of model toy@1: temperature fitted from its probabilities\n" in text
    assert (
        "  fit       on 200 images, before and after measured on the same ones, which flatters the fit; --hold" in text
    )
    assert re.search(r"\n\ncalibration:\n  temperature: \d\.\d+$", text)
    assert "did not fall" not in text
    text = calibration_text(calibrated(tmp_path / "b", softmax(x), truth, {"holdout": 0.5}))
    assert "  fit       on 100 images, before and after measured on the 100 others\n" in text
    x, truth = classified(200, seed=3)
    right = calibration.fit_temperature(x, np.array(truth))
    had = CalibrationSettings(temperature=float(f"{right:.6g}"))
    text = calibration_text(calibrated(tmp_path / "c", softmax(x / had.temperature), truth, raw=x, calibration=had))
    assert "NLL did not fall: the published probabilities are as good as this fit makes them" in text


def test_lines_of_many_labels_are_a_list_a_line(tmp_path: Path) -> None:
    """Platt's pairs as YAML that load_config reads back."""
    x, truth = labelled()
    found = calibrated(tmp_path, sigmoid(x), truth, {"per_label": True}, activation="sigmoid")
    lines = found.config_lines()
    assert re.fullmatch(r"calibration:\n  platt_a: \[.*\]\n  platt_b: \[.*\]\n", lines)
    assert CalibrationSettings.model_validate(yaml.safe_load(lines)["calibration"]) == found.settings


def test_a_file_is_never_overwritten(tmp_path: Path) -> None:
    """--write config.yaml would replace a whole configuration by two lines."""
    x, truth = classified(50)
    found = calibrated(tmp_path, softmax(x), truth)
    (tmp_path / "config.yaml").write_text("model: ...")
    with pytest.raises(ConfigError, match="there is a file already, and these lines are no whole configuration"):
        write_lines(found, str(tmp_path / "config.yaml"))
    assert (tmp_path / "config.yaml").read_text() == "model: ..."
    with pytest.raises(ConfigError, match=r"--write .*/lines\.yaml cannot be written"):
        write_lines(found, str(tmp_path / "config.yaml" / "lines.yaml"))


def test_the_command_prints_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Everything, for a program."""
    x, truth = classified(50)
    found = calibrated(tmp_path, softmax(x), truth)
    arguments = ["--scores", str(tmp_path / "out"), "--truth", str(tmp_path / "t.csv")]
    assert cli.main(["calibrate", *arguments, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["settings"] == {"temperature": found.settings.temperature}
    assert printed["before"] == found.before._asdict()
    assert (printed["source"], printed["counts"]["matched"]) == ("probabilities", 50)
