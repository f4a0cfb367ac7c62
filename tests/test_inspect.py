"""What `score-images inspect` says of a model, and that a run reads the model in the same way."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from pipeline.before import inspect_text
from pipeline.before.inspect_model import Inspection, inspect_model
from pipeline.before.inspect_text import FILL_IN, config_text, inspection_text
from pipeline.cli import main
from pipeline.config import load_config
from tests import model_zoo
from tests.hub_server import HubServer
from tests.model_zoo import HEIGHT, WIDTH, keras_model, pooled_model, save_keras
from transforms.errors import ConfigError
from transforms.scoring import Scorer
from transforms.settings import ModelSettings


class Facts(NamedTuple):
    """What inspect has to find."""

    format: str
    layout: str
    size: tuple[int | None, int | None]
    classes: int | None
    head: str | None
    reading: tuple[str, str] | None
    to_fill_in: frozenset[str] = frozenset({"preprocess.value_range"})
    """The settings that say FILL_IN."""


def hidden_softmax(logits: Any) -> Any:
    """A softmax that the graph does not show."""
    import tensorflow as tf

    return {"scores": tf.sqrt(tf.square(tf.nn.softmax(logits)))}


def hidden_sigmoid(logits: Any) -> Any:
    """A sigmoid that the graph does not show, over labels that do not exclude each other."""
    import tensorflow as tf

    return {"scores": tf.sqrt(tf.square(tf.nn.sigmoid(logits)))}


def clipped(logits: Any) -> Any:
    """An output that fits two readings."""
    import tensorflow as tf

    return {"scores": tf.clip_by_value(logits[:, :1], 0.1, 0.9)}


def mixture(logits: Any) -> Any:
    """Probabilities that come out of a linear layer."""
    import tensorflow as tf

    mixed = tf.constant([[0.9, 0.1, 0.5, 0.3], [0.2, 0.8, 0.4, 0.6], [0.7, 0.2, 0.9, 0.1], [0.3, 0.6, 0.2, 0.8]])
    return {"scores": tf.sqrt(tf.square(tf.nn.softmax(logits))) @ mixed}


def by_range(logits: Any) -> Any:
    """Logits of pixels from 0 to 255, and a softmax of smaller ones: foolish, and possible."""
    import tensorflow as tf

    return {"scores": tf.where(tf.reduce_max(tf.abs(logits)) > 5.0, logits, tf.nn.softmax(logits))}


MODELS: dict[str, tuple[Callable[[Path], Path], Facts]] = {
    "logits": (
        pooled_model,
        Facts("savedmodel", "NHWC", (HEIGHT, WIDTH), 4, "linear", ("logits", "softmax")),
    ),
    "free size": (  # the config asks for the size as well
        lambda path: pooled_model(path, shape=(None, None, None, 3)),
        Facts("savedmodel", "NHWC", (None, None), 4, "linear", ("logits", "softmax"),
              frozenset({"preprocess.value_range", "preprocess.height", "preprocess.width"})),
    ),
    "channels first, grey, fixed batch": (
        lambda path: pooled_model(path, shape=(3, 1, HEIGHT, WIDTH), layout="NCHW", channels=1),
        Facts("savedmodel", "NCHW", (HEIGHT, WIDTH), 4, "linear", ("logits", "softmax")),
    ),
    "uint8": (  # takes pixels as they are: nothing to ask
        lambda path: pooled_model(path, dtype="uint8"),
        Facts("savedmodel", "NHWC", (HEIGHT, WIDTH), 4, "linear", ("logits", "softmax"), frozenset()),
    ),
    "one unit": (
        lambda path: pooled_model(path, classes=1),
        Facts("savedmodel", "NHWC", (HEIGHT, WIDTH), 2, "linear", ("logits", "sigmoid")),
    ),
    "encoded images": (
        model_zoo.bytes_model,
        Facts("savedmodel", "bytes", (None, None), 4, "linear", ("logits", "softmax"), frozenset()),
    ),
    "TensorFlow 1": (
        model_zoo.tf1_model,
        Facts("savedmodel", "NHWC", (HEIGHT, WIDTH), 4, "softmax", ("probabilities", "softmax")),
    ),
    "function": (
        model_zoo.callable_model,
        Facts("savedmodel", "NHWC", (HEIGHT, WIDTH), 4, "linear", ("logits", "softmax")),
    ),
    "keras": (
        lambda path: save_keras(keras_model("sigmoid"), path.with_suffix(".keras")),
        Facts("keras", "NHWC", (HEIGHT, WIDTH), 4, "sigmoid", ("probabilities", "sigmoid")),
    ),
    "hdf5": (
        lambda path: save_keras(keras_model("softmax"), path.with_suffix(".h5")),
        Facts("hdf5", "NHWC", (HEIGHT, WIDTH), 4, "softmax", ("probabilities", "softmax")),
    ),
    "hidden softmax": (  # the probe tells
        lambda path: pooled_model(path, head=hidden_softmax),
        Facts("savedmodel", "NHWC", (HEIGHT, WIDTH), 4, None, ("probabilities", "softmax")),
    ),
    "hidden sigmoid, encoded images": (
        lambda path: model_zoo.bytes_model(path, head=hidden_sigmoid),
        Facts("savedmodel", "bytes", (None, None), 4, None, ("probabilities", "sigmoid"), frozenset()),
    ),
    "ambiguous": (
        lambda path: pooled_model(path, head=clipped),
        Facts("savedmodel", "NHWC", (HEIGHT, WIDTH), 2, None, None,
              frozenset({"preprocess.value_range", "model.output", "model.activation"})),
    ),
    "mixture": (  # a linear head whose probe says otherwise
        lambda path: pooled_model(path, head=mixture),
        Facts("savedmodel", "NHWC", (HEIGHT, WIDTH), 4, "linear", None,
              frozenset({"preprocess.value_range", "model.output", "model.activation"})),
    ),
    "depends on the range": (
        lambda path: pooled_model(path, head=by_range),
        Facts("savedmodel", "NHWC", (HEIGHT, WIDTH), 4, None, None,
              frozenset({"preprocess.value_range", "model.output", "model.activation"})),
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Inspection]:
    """Every model, inspected."""
    folder = tmp_path_factory.mktemp("inspect")
    return {
        name: inspect_model(ModelSettings(path=str(make(folder / str(i)))))
        for i, (name, (make, _)) in enumerate(MODELS.items())
    }


@pytest.mark.parametrize("name", MODELS)
def test_models_are_told_apart(zoo: dict[str, Inspection], name: str) -> None:
    """Format, layout, size, classes, head and meaning, of every kind of model."""
    found, facts = zoo[name], MODELS[name][1]
    reading = found.reading and (found.reading.output, found.reading.activation)
    about = found.description
    assert facts[:-1] == (
        about.format, about.layout, (found.height, found.width), found.num_classes, about.head, reading
    )  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_a_run_reads_the_model_as_inspect_does(zoo: dict[str, Inspection], tmp_path: Path, name: str) -> None:
    """The printed text is a configuration: refused for what says FILL_IN, by name; filled in, it loads the model."""
    found, facts = zoo[name], MODELS[name][1]
    config = tmp_path / "config.yaml"
    config.write_text(inspection_text(found), encoding="utf-8")
    values = {
        "preprocess.value_range": "0_255", "preprocess.height": 5, "preprocess.width": 7, "model.output": "logits",
        "model.activation": "sigmoid",
    }  # fmt: skip
    filled = [f"{key}={values[key]}" for key in sorted(facts.to_fill_in)]
    for missing in range(len(filled)):
        with pytest.raises(ConfigError) as refused:
            load_config(config, filled[:missing])
        message = str(refused.value)
        assert message.count(FILL_IN) == len(filled) - missing
        assert all(key in message for key in sorted(facts.to_fill_in)[missing:])
    scorer = Scorer(load_config(config, filled).scorer_plan())
    if found.reading is not None:
        assert (scorer.meaning.output, scorer.meaning.activation) == facts.reading
    assert scorer.meaning.num_classes == found.num_classes
    assert scorer.classifier.fingerprint == found.description.fingerprint


def test_why_a_reading_is_open_is_said(zoo: dict[str, Inspection]) -> None:
    """Two readings, or one a range: never a guess."""
    assert "Two readings fit: logits that happen to lie in [0, 1] (then write model.output: logits), or" in (
        zoo["ambiguous"].reading_reason
    )
    reason = zoo["depends on the range"].reading_reason
    assert reason.startswith("what the output means depends on preprocess.value_range: with 0_1: output probabilities,")
    assert "; with 0_255: output logits, because the probe's values run from" in reason


def test_a_model_that_fails_on_noise_is_described_all_the_same(tmp_path: Path) -> None:
    """What it said stands where its reading would be."""
    import tensorflow as tf

    def picky(logits: Any) -> Any:
        with tf.control_dependencies([tf.debugging.assert_less(tf.shape(logits)[0], 1, "no images, please")]):
            return {"scores": tf.sqrt(logits)}

    found = inspect_model(ModelSettings(path=str(pooled_model(tmp_path / "m", head=picky))))
    assert (found.reading, found.num_units) == (None, 4)
    assert "the model fails on a probe of noise: " in found.reading_reason
    assert "no images, please" in found.reading_reason


def test_fixed_batch_and_few_classes_are_in_the_config(zoo: dict[str, Inspection]) -> None:
    """A batch is a multiple of what the model takes, top_k no more than the classes."""
    text = config_text(zoo["channels first, grey, fixed batch"])
    assert "\nbatch:\n  size: 15  # a multiple of 3, the number of images that the model takes\n" in text
    assert "\nresults:\n  top_k: 4  # it has no more classes\n" in text
    assert "it gets their luminance" in text


@pytest.mark.parametrize("name", MODELS)
def test_commented_choices_can_be_taken(zoo: dict[str, Inspection], tmp_path: Path, name: str) -> None:
    """Without their # the choices stand at the right place, and are settings that there are."""
    choice = re.compile(
        r"^( *)# (?= *(labels|path|mean|std|resize|crop_pct|interpolation|channel_order):)", re.MULTILINE
    )
    taken = choice.sub(r"\1", config_text(zoo[name]))
    config = tmp_path / "config.yaml"
    config.write_text(taken)
    keys = {"model.output", "model.activation"} & MODELS[name][1].to_fill_in
    filled = ["preprocess.value_range=0_1", "preprocess.height=5", "preprocess.width=7", *(f"{k}=auto" for k in keys)]
    loaded = load_config(config, filled)
    if zoo[name].description.layout != "bytes":
        assert (loaded.preprocess.crop_pct, loaded.preprocess.resize) == (0.875, "shortest_edge")
    assert loaded.labels.path == str(tmp_path / "labels.txt")


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        (["ant", "bee", "cat", "dog"], None),
        (["ant", "bee", "cat"], "if the model's class 0 is a background class that the labels leave out"),
    ],
)
def test_labels_that_do_not_fit_are_named(tmp_path: Path, names: list[str], problem: str | None) -> None:
    """1000 names for 1001 classes: the offset is asked for, not guessed."""
    model = pooled_model(tmp_path / "m", asset=("labels.txt", "\n".join(names)))
    found = inspect_model(ModelSettings(path=str(model)))
    text = inspection_text(found)
    assert f"# labels      {len(names)} in its assets: 'ant', 'bee', 'cat'" in text
    if problem is None:
        assert found.labels_problem is None
        assert "labels:" not in config_text(found)
    else:
        assert problem in str(found.labels_problem)
        config = tmp_path / "config.yaml"
        config.write_text(text)
        with pytest.raises(ConfigError, match="labels.offset"):
            load_config(config, ["preprocess.value_range=0_1"])
        plan = load_config(config, ["preprocess.value_range=0_1", "labels.offset=-1"]).scorer_plan()
        assert Scorer(plan).labels == ("background", *names)


def test_names_cannot_leave_their_comment(tmp_path: Path) -> None:
    """A line end of YAML's in a model's own names adds nothing to the configuration."""
    model = pooled_model(tmp_path / "x\x85y \u2028write: here", head=hidden_softmax)
    found = inspect_model(ModelSettings(path=str(model)))
    config = tmp_path / "config.yaml"
    config.write_text(inspection_text(found), encoding="utf-8")
    assert load_config(config, ["preprocess.value_range=0_1"]).model.path == str(model)


def test_the_command_prints_text_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The text says what is known and what to fill in; the JSON holds the same facts."""
    model = pooled_model(tmp_path / "pooled", asset=("labels.txt", "ant\nbee\ncat\ndog\n"))
    assert main(["inspect", str(model)]) == 0
    text = capsys.readouterr().out.splitlines()
    assert text[:7] == [
        f"# model       {model}",
        "# format      savedmodel",
        f"# fingerprint {inspect_model(ModelSettings(path=str(model))).description.fingerprint}",
        "# signatures  serving_default",
        "# input       images float32[?, 6, 8, 3], NHWC: colour images of 6 x 8",
        "# output      logits float32[?, 4]",
        "# classes     4",
    ]
    assert text[7].startswith("# head        linear: the output is computed by MatMul")
    assert "# parameters  12" in text
    assert "# batch       any number of images" in text
    assert "# labels      4 in its assets: 'ant', 'bee', 'cat', ..." in text
    assert "  value_range: FILL_IN" in text
    assert main(["inspect", str(model), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["description"]["labels"] == ["ant", "bee", "cat", "dog"]
    assert found["description"]["outputs"] == [{"name": "logits", "dtype": "float32", "shape": [None, 4]}]
    assert (found["height"], found["width"], found["channels"], found["num_classes"]) == (6, 8, 3, 4)
    assert found["reading"]["output"] == "logits"


def test_choices_are_those_of_the_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Signature, output and tags are passed on, and written into the configuration."""
    model = model_zoo.tf1_model(tmp_path / "m", tag_sets=(["serve"], ["serve", "gpu"]), signature="classify")
    assert main(["inspect", str(model), "--signature", "classify", "--tags", "serve,gpu"]) == 0
    out = capsys.readouterr().out
    assert "\n  signature: classify\n  tags: [serve, gpu]\n" in out
    both = pooled_model(tmp_path / "both", head=lambda logits: {"logits": logits, "twice": 2.0 * logits})
    assert main(["inspect", str(both), "--output-name", "twice"]) == 0
    assert "\n  output_name: twice\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "does not exist; give a SavedModel directory"),
        ([""], "MODEL is empty"),
        (["both"], "has 2 outputs; choose one with model.output_name: logits float32[?, 4]; twice float32[?, 4]"),
        (["both", "--output-name", "twise"], "did you mean 'twice'?"),
        (["both", "--signature", "default"], "Valid: serving_default"),
        (["https://127.0.0.1:9/m/1"], "cannot be downloaded"),
    ],
)
def test_what_cannot_be_inspected_is_one_line_and_exit_2(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    said: str,
) -> None:
    """The same words as at the start of a run."""
    pooled_model(tmp_path / "both", head=lambda logits: {"logits": logits, "twice": 2.0 * logits})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("TFHUB_CACHE_DIR", str(tmp_path / "cache"))
    assert main(["inspect", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("score-images: ")
    assert said in err


def test_a_hub_handle_is_inspected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Downloaded into the cache, and written into the configuration as the handle."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("TFHUB_CACHE_DIR", str(tmp_path / "cache"))
    server = HubServer()
    try:
        handle = server.serve("/pooled/1", model_zoo.pack(pooled_model(tmp_path / "m")))
        assert main(["inspect", handle]) == 0
    finally:
        server.close()
    assert f"\n  path: {handle}\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("猫/models", "猫/models"),
        ("cat\u202estac", '"cat\\u202Estac"'),
        ("cat\x9b2J", '"cat\\x9B2J"'),
        ("a\nb", '"a\\nb"'),
    ],
)
def test_names_in_the_configuration_cannot_act(name: str, text: str) -> None:
    """They come from the model; YAML's escapes say the same and do nothing to a terminal."""
    assert inspect_text._scalar(name) == text
    assert yaml.safe_load(text) == name
