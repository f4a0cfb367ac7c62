"""Planted drift in whole runs: it trips the gate, and two halves of the same photos do not."""

import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from pipeline.cli import main
from pipeline.config import RunConfig, load_config
from tests.model_zoo import pooled_model
from tests.runs import run_quietly, small_config, write_config
from transforms.errors import ExitCode
from transforms.outcomes import Outcome

CONFIG = Path(__file__).parent.parent / "configs" / "demo.yaml"
GATE = {"baseline": "latest", "on_drift": "refuse"}


def paint(folder: Path, colours: np.ndarray) -> Path:
    """Write one small picture a colour."""
    folder.mkdir()
    for number, colour in enumerate(colours):
        Image.new("RGB", (8, 6), tuple(int(value) for value in colour)).save(folder / f"{number}.png")
    return folder


def test_a_night_of_other_pictures_closes_the_gate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """From the command line: two nights of all colours pass, a reddish one ends with 5, --publish-anyway with 0."""
    rng = np.random.default_rng(4)
    nights = {
        "first": paint(tmp_path / "a", rng.integers(0, 256, (300, 3))),
        "second": paint(tmp_path / "b", rng.integers(0, 256, (300, 3))),
        "red": paint(tmp_path / "c", rng.integers((200, 0, 0), (256, 40, 40), (300, 3))),
    }
    config = write_config(small_config(pooled_model(tmp_path / "model"), health=GATE), tmp_path / "config.yaml")
    output = tmp_path / "out"

    def run_night(run_id: str, *more: str) -> int:
        command = ["run", "--config", str(config), "--input", str(nights[run_id]), "--output", str(output)]
        return main([*command, "--run-id", run_id, *more])

    assert [run_night("first"), run_night("second")] == [0, 0]
    said = capsys.readouterr().out
    assert f"  health    not judged: no run is published in {output} yet" in said
    assert "  health    like run first: class mix PSI 0.0" in said
    assert run_night("red") == ExitCode.HEALTH_GATE_CLOSED
    said = capsys.readouterr().out
    assert said.startswith("the answers of run red have drifted from run second: class mix PSI ")
    assert not (output / "scores" / "run_id=red").exists()
    assert run_night("red", "--publish-anyway") == 0
    said = capsys.readouterr().out
    assert said.startswith(f"run red is published in {output} in spite of the health gate; its answers have drift")
    assert "  resumed   300 of the scored images come from an earlier attempt" in said
    (warning,) = (record for record in caplog.records if record.levelname == "WARNING")
    assert warning.getMessage().startswith("the answers of run red have drifted from run second: class mix")
    told = json.loads((output / "runs" / "red" / "manifest.json").read_text(encoding="utf-8"))
    assert (told["health"]["overridden"], told["distributions"]["rows"]) == (True, 300)


def test_a_baseline_that_is_gone_is_told_before_anything_is_scored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 2, in one line, and nothing is staged."""
    pictures = paint(tmp_path / "a", np.zeros((2, 3)))
    config = write_config(
        small_config(pooled_model(tmp_path / "model"), health={"baseline": "2026-01-01"}), tmp_path / "config.yaml"
    )
    output = tmp_path / "out"
    assert main(["run", "--config", str(config), "--input", str(pictures), "--output", str(output)]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"score-images: the baseline, run 2026-01-01, is not published in {output}; name another run in "
        "health.baseline, or leave it out to compare with none"
    )
    assert not output.exists()


@pytest.fixture(scope="module")
def demo(lite0_directory: Path) -> RunConfig:
    """The demo's model with a gate that refuses."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("DEMO_MODEL", str(lite0_directory))
        return load_config(CONFIG, ["health.baseline=first", "health.on_drift=refuse"])


def crops(photos: Sequence[Path], each: int, seed: int) -> list[tuple[str, bytes]]:
    """So many crops of every photo, of 80 to 95% of its sides, some mirrored: name and JPEG."""
    rng = np.random.default_rng(seed)
    made = []
    for path in photos:
        with Image.open(path) as opened:
            photo = opened.convert("RGB")
        for number in range(each):
            width, height = (int(side * rng.uniform(0.8, 0.95)) for side in photo.size)
            x, y = (int(rng.integers(0, room + 1)) for room in (photo.width - width, photo.height - height))
            crop = photo.crop((x, y, x + width, y + height))
            if rng.random() < 0.5:
                crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            made.append((f"{path.stem}_{number}.jpg", as_jpeg(crop)))
    return made


def as_jpeg(image: Image.Image) -> bytes:
    """Encode it well."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def blurred(data: bytes, radius: float) -> bytes:
    """The same image out of focus."""
    with Image.open(io.BytesIO(data)) as image:
        return as_jpeg(image.filter(ImageFilter.GaussianBlur(radius)))


def write(folder: Path, images: Sequence[tuple[str, bytes]]) -> Path:
    """Write images; a name that comes again is another image."""
    folder.mkdir()
    for number, (name, data) in enumerate(images):
        (folder / f"{number}_{name}").write_bytes(data)
    return folder


def score(demo: RunConfig, folder: Path, output: Path, run_id: str) -> Outcome:
    """Run, and print what the gate says (seen with -s)."""
    outcome = run_quietly(demo, [folder], output, run_id=run_id).outcome
    print(f"\n{run_id}: {outcome.exit_code!r} {outcome.health}")  # noqa: T201
    return outcome


@pytest.mark.heavy
def test_halves_of_real_photos_pass_and_blurred_ones_do_not(
    demo: RunConfig, image_data_dir: Path, tmp_path: Path
) -> None:
    """All 200 photos, eight crops each, in two halves: the second passes; out of focus it does not."""
    images = crops(sorted((image_data_dir / "photos").iterdir()), 8, 1)
    order = np.random.default_rng(2).permutation(len(images))
    halves = [[images[number] for number in half] for half in np.split(order, 2)]
    output = tmp_path / "out"
    assert score(demo, write(tmp_path / "a", halves[0]), output, "first").exit_code == ExitCode.PUBLISHED
    second = score(demo, write(tmp_path / "b", halves[1]), output, "second")
    assert (second.exit_code, second.health.partition(":")[0]) == (ExitCode.PUBLISHED, "like run first")
    soft = [(name, blurred(data, 3)) for name, data in halves[1]]
    third = score(demo, write(tmp_path / "c", soft), output, "third")
    assert third.exit_code == ExitCode.HEALTH_GATE_CLOSED
    assert "confidence PSI" in third.health


@pytest.mark.heavy
def test_halves_of_few_real_photos_pass_and_blurred_ones_do_not(
    demo: RunConfig, image_data_dir: Path, tmp_path: Path
) -> None:
    """The 200 photos as they are, a hundred a night: so small a sample is judged only when it is asked for."""
    photos = [(path.name, path.read_bytes()) for path in sorted((image_data_dir / "photos").iterdir())]
    small = demo.model_copy(update={"health": demo.health.model_copy(update={"min_images": 100})})
    output = tmp_path / "out"
    score(small, write(tmp_path / "a", photos[::2]), output, "first")
    second = score(small, write(tmp_path / "b", photos[1::2]), output, "second")
    assert (second.exit_code, second.drifted) == (ExitCode.PUBLISHED, False)
    soft = write(tmp_path / "c", [(name, blurred(data, 5)) for name, data in photos[1::2]])
    assert score(small, soft, output, "third").exit_code == ExitCode.HEALTH_GATE_CLOSED


@pytest.mark.heavy
def test_a_class_of_real_photos_tripled_closes_the_gate(demo: RunConfig, image_data_dir: Path, tmp_path: Path) -> None:
    """Twenty photos, forty crops a night of each: with 120 of one it is refused, and the class is named."""
    photos = sorted((image_data_dir / "photos").iterdir())[::10]
    output = tmp_path / "out"
    score(demo, write(tmp_path / "a", crops(photos, 40, 1)), output, "first")
    night = crops(photos, 40, 2)
    second = score(demo, write(tmp_path / "b", night), output, "second")
    assert (second.exit_code, second.drifted) == (ExitCode.PUBLISHED, False)
    shark = photos[0]
    assert shark.stem.endswith("great_white_shark")
    third = score(demo, write(tmp_path / "c", night + crops([shark], 80, 3)), output, "third")
    assert third.exit_code == ExitCode.HEALTH_GATE_CLOSED
    assert 'class "great white shark, white shark, ' in third.health
