"""Golden photos: what is kept of them, which changes stop a run, and what the run then says."""

import base64
import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from pipeline import cli
from pipeline.before import golden as golden_checks
from pipeline.before.golden import check_golden, make_golden
from pipeline.config import RunConfig
from pipeline.in_memory import score_in_memory
from tests.model_zoo import pooled_model
from tests.runs import make_photos, run_quietly, small_config, tree
from transforms.errors import ConfigError, InputError
from transforms.scoring import Scorer


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SavedModel of four classes."""
    return pooled_model(tmp_path_factory.mktemp("model") / "pooled")


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    """Three photos in a folder of their own."""
    return make_photos(tmp_path / "photos", 3)


@pytest.fixture
def golden(model: Path, photos: list[Path], tmp_path: Path) -> Path:
    """Their golden file, in the folder above."""
    make_golden(small_config(model), [str(photos[0].parent)], str(tmp_path / "golden.json"))
    return tmp_path / "golden.json"


def checked(golden: Path, model: Path, /, **sections: Any) -> Any:
    """Check a configuration against a golden file."""
    settings = {"path": str(golden), **sections.pop("golden", {})}
    config = small_config(model, golden=settings, **sections)
    return check_golden(Scorer(config.scorer_plan()), config)


def refusal(golden: Path, model: Path, /, **sections: Any) -> str:
    """Return what the check says when it fails."""
    with pytest.raises(ConfigError) as raised:
        checked(golden, model, **sections)
    return str(raised.value)


def edit(golden: Path, **values: Any) -> None:
    """Change a golden file."""
    golden.write_text(json.dumps({**json.loads(golden.read_text()), **values}))


def test_a_golden_file_holds_what_the_model_says(model: Path, photos: list[Path], golden: Path) -> None:
    """Paths from the file's own folder, hashes of the bytes, all probabilities bit for bit, the top ones to read."""
    config = small_config(model)
    scorer = Scorer(config.scorer_plan())
    content = json.loads(golden.read_text())
    assert (content["golden_version"], content["num_classes"]) == (1, 4)
    assert (content["model_id"], content["fingerprints"]) == (scorer.classifier.model_id, scorer.fingerprints)
    assert {"tensorflow", "pillow", "simplejpeg"} <= set(content["versions"])
    assert [image["path"] for image in content["images"]] == ["photos/000.png", "photos/001.png", "photos/002.png"]
    scores = score_in_memory(map(str, photos), config, scorer).scores.to_pylist()
    for photo, image, row in zip(photos, content["images"], scores, strict=True):
        assert image["sha256"] == hashlib.sha256(photo.read_bytes()).hexdigest()
        kept = np.frombuffer(base64.b64decode(image["probabilities"]), "<f4")
        np.testing.assert_array_equal(kept, np.array(row["probabilities"], np.float32))
        assert [(entry["index"], entry["label"]) for entry in image["top"]] == [
            (entry["index"], entry["label"]) for entry in row["top_k"]
        ]


def test_without_a_change_the_check_passes(golden: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In any working directory, and with a tolerance of nothing at all."""
    monkeypatch.chdir(model)
    assert checked(golden, model, golden={"tolerance": 0}) == (3, 0.0)


def test_without_a_golden_file_nothing_is_scored(model: Path) -> None:
    """The default."""
    config = small_config(model)
    assert check_golden(Scorer(config.scorer_plan()), config) is None


def test_photos_and_golden_file_move_together(golden: Path, model: Path, tmp_path: Path) -> None:
    """Paths are relative: a folder copied to another machine is as good."""
    shutil.copytree(tmp_path / "photos", tmp_path / "elsewhere" / "photos")
    shutil.move(golden, tmp_path / "elsewhere" / "golden.json")
    shutil.rmtree(tmp_path / "photos")
    assert checked(tmp_path / "elsewhere" / "golden.json", model).images == 3


@pytest.mark.parametrize(
    ("sections", "change"),
    [
        # a setting, what is said to have changed
        ({"preprocess": {"value_range": "-1_1"}}, r"the preprocessing \(fingerprint \w{12}, now \w{12}\)"),
        ({"calibration": {"temperature": 0.1}}, r"calibration, labels or results \(fingerprint \w{12}, now \w{12}\)"),
    ],
)
def test_a_changed_setting_stops_with_photo_class_and_numbers(
    golden: Path, model: Path, sections: dict[str, Any], change: str
) -> None:
    """The worst photo, its class, what was expected, what came out, and which part changed."""
    message = refusal(golden, model, **sections)
    found = re.fullmatch(
        r"golden check failed: 3 of 3 photos drifted over golden\.tolerance 0\.02, the most "
        r"(?P<photo>photos/00\d\.png): class (?P<place>\d) \((?P<label>\d)\) was (?P<was>0\.\d{4}) and is "
        rf"(?P<now>0\.\d{{4}}) now; changed since the file was made: {change}; mend it, or, where the change is meant, "
        r"make the golden file again with score-images golden make",
        message,
    )
    assert found, message
    config = small_config(model)
    photo = str(golden.parent / found["photo"])
    expected = score_in_memory([photo], config).scores.to_pylist()[0]["probabilities"]
    now = score_in_memory([photo], small_config(model, **sections)).scores.to_pylist()[0]["probabilities"]
    place = int(found["place"])
    assert (found["label"], found["was"], found["now"]) == (
        str(place), f"{expected[place]:.4f}", f"{now[place]:.4f}",
    )  # fmt: skip
    assert abs(now[place] - expected[place]) == max(abs(a - b) for a, b in zip(now, expected, strict=True))


def test_another_model_under_the_same_path_is_found(golden: Path, tmp_path: Path) -> None:
    """Exchanged in place: the configuration is the same, the model is not."""
    sharper = pooled_model(tmp_path / "pooled", head=lambda logits: {"logits": logits * 9.0})
    assert re.search(
        r"changed since the file was made: the model \(fingerprint \w{12}, now \w{12}\);", refusal(golden, sharper)
    )


def test_other_bytes_of_a_photo_are_found(golden: Path, model: Path, photos: list[Path]) -> None:
    """It is the photo that changed, not the pipeline: only this one drifts."""
    Image.new("RGB", (8, 6), (255, 0, 0)).save(photos[1])
    message = refusal(golden, model)
    assert "1 of 3 photos drifted over golden.tolerance 0.02, the most photos/001.png: class" in message
    assert "changed since the file was made: the bytes of this photo; mend it" in message


def test_other_bytes_of_the_same_pixels_pass_with_a_warning(
    golden: Path, model: Path, photos: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    """Saved anew without loss: nothing has drifted, and it is said."""
    Image.open(photos[1]).save(photos[1], compress_level=0)
    assert checked(golden, model, golden={"tolerance": 0}).images == 3
    assert [
        record.message
        for record in caplog.records
        if record.name.startswith("pipeline.") and record.levelname == "WARNING"
    ] == ["the bytes of golden photo photos/001.png have changed, its probabilities have not"]


def test_another_library_is_found(golden: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The decoder gives other pixels since an upgrade."""
    monkeypatch.setattr(golden_checks, "_versions", lambda: {"pillow": "99.0"})
    before = json.loads(golden.read_text())
    edit(golden, images=[{**before["images"][0], "probabilities": as_text([1, 0, 0, 0])}])
    assert f"changed since the file was made: pillow ({before['versions']['pillow']}, now 99.0); mend" in refusal(
        golden, model
    )


def test_a_drift_without_a_known_change_points_to_the_machine(golden: Path, model: Path) -> None:
    """Everything that is recorded is the same."""
    before = json.loads(golden.read_text())
    edit(golden, images=[{**before["images"][0], "probabilities": as_text([1, 0, 0, 0])}])
    message = refusal(golden, model)
    assert "class 0 (0) was 1.0000 and is 0." in message
    assert "so look at the machine: its device, and the precision that it computes in" in message


def test_the_tolerance_is_the_largest_difference_allowed(golden: Path, model: Path) -> None:
    """Just below the difference it fails, just above it passes and tells the difference."""
    before = json.loads(golden.read_text())
    for image in before["images"]:
        vector = np.frombuffer(base64.b64decode(image["probabilities"]), "<f4").copy()
        vector[2] += np.float32(0.1)
        image["probabilities"] = as_text(vector)
    edit(golden, images=before["images"])
    assert checked(golden, model, golden={"tolerance": 0.101}).largest_difference == pytest.approx(0.1, abs=1e-6)
    assert "golden.tolerance 0.099, the most photos/" in refusal(golden, model, golden={"tolerance": 0.099})


def test_other_names_of_the_same_classes_are_found(golden: Path, model: Path, tmp_path: Path) -> None:
    """The numbers agree, and every answer would carry a wrong name."""
    (tmp_path / "labels.txt").write_text("3\n2\n1\n0\n")
    message = refusal(golden, model, labels={"path": str(tmp_path / "labels.txt")})
    assert re.search(r"class (\d), among the strongest of photos/000\.png, was called \1 and is called \d now", message)
    assert "mend labels.path" in message


def test_another_number_of_classes_is_refused(golden: Path, tmp_path: Path) -> None:
    """Nothing can be compared."""
    message = refusal(golden, pooled_model(tmp_path / "five", classes=5))
    assert re.search(r"golden\.json expects 4 classes, model five@\w+ has 5; changed since .*: the model \(", message)


def test_a_photo_that_cannot_be_scored_is_refused(golden: Path, model: Path, photos: list[Path]) -> None:
    """Lost or damaged: without its photo there is no check."""
    photos[2].write_bytes(b"no photo")
    assert f"golden photo {photos[2]} cannot be scored: unsupported_format: " in refusal(golden, model)
    photos[2].unlink()
    assert f"golden photo {photos[2]} cannot be scored: not_found: there is no such file" in refusal(golden, model)


def as_text(vector: Any) -> str:
    """Encode probabilities as a golden file does."""
    return base64.b64encode(np.asarray(vector, "<f4").tobytes()).decode()


DAMAGED = [
    # of the file or of its first photo, message
    ({"golden_version": 2}, {}, "is no golden file: golden_version: Input should be 1; write one with score-images"),
    ({"images": []}, {}, "is no golden file: images: Tuple should have at least 1 item"),
    ({"colour": "red"}, {}, "is no golden file: colour: Extra inputs are not permitted"),
    ({}, {"probabilities": "!"}, "the probabilities of photos/000.png are damaged: "),
    ({}, {"probabilities": as_text([1, 2])}, "are damaged: 4 finite numbers are due, got 2"),
    ({}, {"probabilities": as_text([1, 2, 3, np.nan])}, "are damaged: 4 finite numbers are due, got 4"),
    ({}, {"probabilities": as_text([1, 2, 3, 4])[:-5]}, "the probabilities of photos/000.png are damaged: "),
]


@pytest.mark.parametrize(("file", "image", "message"), DAMAGED)
def test_a_damaged_golden_file_is_named(
    golden: Path, model: Path, file: dict[str, Any], image: dict[str, Any], message: str
) -> None:
    """It is no reason to pass."""
    before = json.loads(golden.read_text())
    edit(golden, **{"images": [{**before["images"][0], **image}], **file})
    found = refusal(golden, model)
    assert found.startswith(f"golden.path {golden}")
    assert message in found


def test_a_missing_golden_file_is_named(model: Path, tmp_path: Path) -> None:
    """A configuration that asks for the check gets it, or stops; a file of something else is none."""
    assert f"golden.path {tmp_path}/none.json cannot be read" in refusal(tmp_path / "none.json", model)
    (tmp_path / "text.json").write_text("hello")
    assert "text.json is no golden file: Invalid JSON" in refusal(tmp_path / "text.json", model)


def test_only_whole_photos_become_golden(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be scored is named; what matches nothing, too; and a few are enough."""
    make_photos(tmp_path / "photos", 3)
    (tmp_path / "photos" / "cut.png").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"golden photo .*/cut\.png cannot be scored: empty_file"):
        make_golden(small_config(model), [str(tmp_path / "photos")], str(tmp_path / "golden.json"))
    with pytest.raises(InputError, match="matches nothing"):
        make_golden(small_config(model), [str(tmp_path / "nowhere")], str(tmp_path / "golden.json"))
    monkeypatch.setattr(golden_checks, "MOST_IMAGES", 2)
    with pytest.raises(InputError, match="names more than 2 photos; golden photos are scored before each run"):
        make_golden(small_config(model), [str(tmp_path / "photos")], str(tmp_path / "golden.json"))
    assert not (tmp_path / "golden.json").exists()


def test_a_golden_file_that_cannot_be_written_is_named(model: Path, photos: list[Path]) -> None:
    """Below a file there is no folder."""
    with pytest.raises(ConfigError, match=r"golden file .*/golden\.json cannot be written"):
        make_golden(small_config(model), [str(photos[0])], str(photos[1] / "golden.json"))


def test_the_wrong_value_range_never_starts_a_run(golden: Path, model: Path, tmp_path: Path) -> None:
    """The run stops before it has written anything."""
    right = small_config(model, golden={"path": str(golden)})
    wrong = small_config(model, golden={"path": str(golden)}, preprocess={"value_range": "-1_1"})
    before = tree(tmp_path)
    with pytest.raises(ConfigError, match=r"golden check failed: .* the preprocessing \(fingerprint"):
        run_quietly(wrong, [tmp_path / "photos"], tmp_path / "out")
    assert tree(tmp_path) == before
    assert run_quietly(right, [tmp_path / "photos"], tmp_path / "out").outcome.exit_code == 0


def test_the_commands_make_and_check(
    model: Path, photos: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Make, name it in the configuration (relative to it), check; a drift is exit code 2."""
    values = small_config(model).model_dump(mode="json", exclude={"golden"})
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(values))
    assert cli.main(["golden", "check", "--config", str(file)]) == 2
    assert "names no golden file: write golden.path, after score-images golden make" in capsys.readouterr().err
    make = ["golden", "make", "--config", str(file), "--input", str(photos[0]), str(photos[1])]
    assert cli.main([*make, "--input", str(photos[2]), "--output", str(tmp_path / "golden.json")]) == 0
    assert re.search(r"golden\.json holds the probabilities of 3 photos by pooled@\w+\n", capsys.readouterr().out)
    file.write_text(yaml.safe_dump({**values, "golden": {"path": "golden.json"}}))
    assert cli.main(["golden", "check", "--config", str(file)]) == 0
    assert capsys.readouterr().out == "golden check passed: 3 photos, largest difference 0, golden.tolerance 0.02\n"
    assert cli.main(["golden", "check", "--config", str(file), "--set", "preprocess.value_range=-1_1"]) == 2
    assert capsys.readouterr().err.startswith("score-images: golden check failed: 3 of 3 photos drifted")


def test_squashing_a_photo_instead_of_cropping_is_found(
    lite0_directory: Path, image_data_dir: Path, tmp_path: Path
) -> None:
    """A real network on a real photo: the wrong resize moves its probabilities by more than the default tolerance."""
    preprocess = {"crop_pct": 0.875, "value_range": "0_255", "mean": [127] * 3, "std": [128] * 3}
    photos = [str(path) for path in sorted((image_data_dir / "photos").iterdir())[:4]]
    values = {
        "model": {"path": str(lite0_directory), "output": "logits"},
        "preprocess": preprocess,
        "batch": {"size": 4},
    }
    make_golden(RunConfig.model_validate(values), photos, str(tmp_path / "golden.json"))
    config = RunConfig.model_validate({**values, "golden": {"path": str(tmp_path / "golden.json")}})
    result = check_golden(Scorer(config.scorer_plan()), config)
    assert result is not None
    assert result.largest_difference < 1e-5
    squashed = config.model_copy(update={"preprocess": config.preprocess.model_copy(update={"resize": "exact"})})
    with pytest.raises(ConfigError, match="golden check failed: "):
        check_golden(Scorer(squashed.scorer_plan()), squashed)
