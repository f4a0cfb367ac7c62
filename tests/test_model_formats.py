"""Every format a team brings, each loaded for real, and the clear word for each that cannot be loaded."""

import contextlib
import logging
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import model_zoo
from transforms.errors import ModelError
from transforms.model_descriptions import ModelDescription, describe_model
from transforms.models import Classifier, load_model
from transforms.settings import ModelSettings, PreprocessSettings

UNIT_RANGE = PreprocessSettings(value_range="0_1")
PIXELS = model_zoo.photos(3)


def load(path: Path, **settings: Any) -> Classifier:
    """Load a model whose pixels go from 0 to 1."""
    return load_model(ModelSettings(path=str(path), **settings), UNIT_RANGE)


def describe(path: Path, **settings: Any) -> ModelDescription:
    """Describe a model."""
    return describe_model(ModelSettings(path=str(path), **settings))


def refusal(path: Path, **settings: Any) -> str:
    """Return the text by which a model is refused."""
    with pytest.raises(ModelError) as caught:
        load(path, **settings)
    return str(caught.value)


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one model of each common kind."""
    folder = tmp_path_factory.mktemp("zoo")
    model_zoo.pooled_model(folder / "pooled", head=lambda logits: {"logits": logits})
    model_zoo.callable_model(folder / "callable")
    model_zoo.tf1_model(folder / "tf1")
    model_zoo.tf1_model(folder / "tf1_tags", tag_sets=(("train",), ("serve",), ("serve", "gpu")))
    model_zoo.tf1_model(folder / "hub_module", tag_sets=((), ("train",)), signature="image_classification")
    model_zoo.save_keras(model_zoo.keras_model(), folder / "model.keras")
    model_zoo.save_keras(model_zoo.keras_model(), folder / "model.h5")
    return folder


SOFTMAX = model_zoo.expected_softmax(PIXELS / 255)
LOGITS = model_zoo.expected_logits(PIXELS / 255)


@pytest.mark.parametrize(
    ("name", "settings", "expected", "format_", "signature"),
    [
        ("pooled", {}, LOGITS, "savedmodel", "serving_default"),
        ("pooled", {"signature": "serving_default", "output_name": "logits"}, LOGITS, "savedmodel", "serving_default"),
        # No signature: __call__, its trace for inference
        ("callable", {}, LOGITS, "savedmodel", "__call__"),
        # TensorFlow 1, one graph, reference variables
        ("tf1", {}, SOFTMAX, "savedmodel", "serving_default"),
        ("tf1", {"tags": ("serve",)}, SOFTMAX, "savedmodel", "serving_default"),
        # Several graphs: [serve] is the second, which doubles the logits
        ("tf1_tags", {}, model_zoo.softmax(2 * LOGITS), "savedmodel", "serving_default"),
        ("tf1_tags", {"tags": ("gpu", "serve")}, model_zoo.softmax(3 * LOGITS), "savedmodel", "serving_default"),
        # A Hub module of TensorFlow 1: the graph without tags is the one for inference
        ("hub_module", {}, SOFTMAX, "savedmodel", "image_classification"),
        ("model.keras", {}, SOFTMAX, "keras", None),
        ("model.h5", {}, SOFTMAX, "hdf5", None),
    ],
)
def test_each_format_returns_the_numbers_of_its_matrix(
    zoo: Path, name: str, settings: dict[str, Any], expected: np.ndarray, format_: str, signature: str | None
) -> None:
    """Whatever the format, predict returns what NumPy reckons, from a frozen graph."""
    model = load(zoo / name, **settings)
    np.testing.assert_allclose(model.predict(PIXELS), expected, atol=2e-6)
    assert (model.description.format, model.description.signature) == (format_, signature)
    assert model.description.frozen, model.description.frozen_reason
    assert model.description.parameter_count == 12
    assert model.description.head == ("linear" if expected is LOGITS else "softmax")


@pytest.mark.parametrize("signature", ["default", "image_classification"])
def test_signatures_of_hub_modules_are_found(tmp_path: Path, signature: str) -> None:
    """Without model.signature, the two names that Hub image modules use are tried after serving_default."""
    assert describe(model_zoo.pooled_model(tmp_path / "m", signature=signature)).signature == signature


def test_another_signature_is_taken_only_by_name(tmp_path: Path) -> None:
    """A single signature of another name is not guessed to be the right one: it could return features."""
    path = model_zoo.pooled_model(tmp_path / "m", signature="image_feature_vector")
    assert refusal(path) == (
        f"{path} has none of the signatures serving_default, default, image_classification; "
        "choose one with model.signature: image_feature_vector"
    )
    assert load(path, signature="image_feature_vector").num_classes == 4


def test_unknown_signature_names_the_nearest(zoo: Path) -> None:
    """A typo in model.signature is answered with the nearest valid name."""
    assert refusal(zoo / "pooled", signature="serving_defualt") == (
        f"model.signature 'serving_defualt' is not in {zoo / 'pooled'}; "
        "did you mean 'serving_default'? Valid: serving_default"
    )


def test_function_can_be_asked_for_by_name(tmp_path: Path) -> None:
    """model.signature also names a function of a SavedModel that has no signature of that name."""
    path = model_zoo.callable_model(tmp_path / "m", name="classify", training=(False,))
    assert describe(path).signature == describe(path, signature="classify").signature == "classify"


def test_function_saved_only_for_training_is_refused(tmp_path: Path) -> None:
    """A trace with training=True has dropout on and batch norms off: it is never used for scoring."""
    path = model_zoo.callable_model(tmp_path / "m", training=(True,))
    assert refusal(path) == (
        f"function '__call__' of {path} was only saved with training=True; export it with a signature for inference"
    )


@pytest.mark.parametrize("batches", [(2, None), (None, 2)])
def test_trace_of_the_freest_shape_is_taken(tmp_path: Path, batches: tuple[int | None, ...]) -> None:
    """Of several traces of a function the one that takes any number of images is used, in whatever order they lie."""
    path = model_zoo.callable_model(tmp_path / "m", batches=batches, training=(False,))
    assert describe(path).input_shape == (None, 6, 8, 3)


def test_unknown_tags_list_the_graphs(zoo: Path) -> None:
    """Tags that name no graph are answered with those that do."""
    assert refusal(zoo / "tf1_tags", tags=("tpu",)) == (
        f"model.tags ['tpu'] is not in {zoo / 'tf1_tags'}; its graphs have the tags [train]; [serve]; [gpu, serve]"
    )


def test_several_graphs_without_a_usual_one_need_tags(tmp_path: Path) -> None:
    """Which of several graphs is meant is not guessed."""
    path = model_zoo.tf1_model(tmp_path / "m", tag_sets=(("a",), ("b",)))
    assert refusal(path) == f"{path} holds 2 graphs; choose one with model.tags: [a]; [b]"


def test_several_inputs_are_refused_with_the_list(tmp_path: Path) -> None:
    """A model of two inputs is no image classifier; the text names both."""
    path = model_zoo.two_input_model(tmp_path / "m")
    assert refusal(path) == (
        f"signature 'serving_default' of {path} takes 2 inputs (images float32[?, 6, 8, 3]; temperature float32[]), "
        "an image classifier takes one; export a signature that fixes the others"
    )


def test_several_outputs_are_chosen_by_name(tmp_path: Path) -> None:
    """Of several outputs one has to be named; class numbers are no scores."""
    import tensorflow as tf

    def head(logits: Any) -> Any:
        return {"probs": tf.nn.softmax(logits), "logits": logits, "classes": tf.argmax(logits, 1)}

    path = model_zoo.pooled_model(tmp_path / "m", head=head)
    where, listed = (
        f"signature 'serving_default' of {path}",
        "classes int64[?]; logits float32[?, 4]; probs float32[?, 4]",
    )
    assert refusal(path) == f"{where} has 3 outputs; choose one with model.output_name: {listed}"
    assert refusal(path, output_name="prob") == (
        f"model.output_name 'prob' is not an output of {where}; did you mean 'probs'? Valid: classes, logits, probs"
    )
    assert refusal(path, output_name="classes") == (
        f"output classes int64[?] of {where} holds no scores: those are float16, bfloat16, float32, float64; "
        f"choose another with model.output_name: {listed}"
    )
    np.testing.assert_allclose(load(path, output_name="logits").predict(PIXELS), LOGITS, atol=2e-6)
    np.testing.assert_allclose(load(path, output_name="probs").predict(PIXELS), SOFTMAX, atol=2e-6)


def remove_graph(path: Path) -> None:
    """Leave variables/ without saved_model.pb."""
    (path / "saved_model.pb").unlink()


def damage_graph(path: Path) -> None:
    """Cut saved_model.pb in the middle."""
    content = (path / "saved_model.pb").read_bytes()
    (path / "saved_model.pb").write_bytes(content[: len(content) // 2])


def empty_graph(path: Path) -> None:
    """Leave a saved_model.pb of no bytes."""
    (path / "saved_model.pb").write_bytes(b"")


def remove_weights(path: Path) -> None:
    """Leave a graph without its variables."""
    shutil.rmtree(path / "variables")


def move_down(path: Path) -> None:
    """Put the model one folder deeper, as TensorFlow Serving wants it."""
    path.rename(path.with_name("inner"))
    path.mkdir()
    path.with_name("inner").rename(path / "1")


def empty_folder(path: Path) -> None:
    """Leave the folder with nothing in it."""
    shutil.rmtree(path)
    path.mkdir()


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (shutil.rmtree, "model.path {} does not exist; give a SavedModel directory, a TF Hub handle"),
        (
            empty_folder,
            "model.path {} is an empty folder; a SavedModel directory has saved_model.pb and variables/ in it",
        ),
        (remove_graph, "model.path {} holds no saved_model.pb, only assets, fingerprint.pb, variables; a SavedModel"),
        (damage_graph, "{}/saved_model.pb is corrupted (Error parsing message"),
        (empty_graph, "{}/saved_model.pb is corrupted: it holds no graph; copy or export the model again"),
        (remove_weights, "the SavedModel {} cannot be loaded: "),
        (move_down, "model.path {} holds no saved_model.pb, but 1 of its subfolders does: give {}/1"),
    ],
)
def test_a_folder_that_is_no_model_is_named_with_what_it_lacks(
    zoo: Path, tmp_path: Path, harm: Callable[[Path], None], said: str
) -> None:
    """Each way in which a folder is no SavedModel has its own text, in one line, with the path."""
    path = shutil.copytree(zoo / "pooled", tmp_path / "m")
    harm(path)
    text = refusal(path)
    assert text.startswith(said.format(path, path))
    assert "\n" not in text


def test_files_of_unknown_kind_are_refused(zoo: Path, tmp_path: Path) -> None:
    """A file that is no Keras file says what is supported; saved_model.pb itself points to its folder."""
    (tmp_path / "model.onnx").write_bytes(b"x")
    assert refusal(tmp_path / "model.onnx") == (
        f"model.path {tmp_path / 'model.onnx'} is a file of an unknown kind; give a SavedModel directory, "
        "a TF Hub handle (https://...), or a .keras, .h5 or .hdf5 file"
    )
    file = zoo / "pooled" / "saved_model.pb"
    assert refusal(file) == f"model.path {file} is one file of a SavedModel; give its directory {file.parent}"


@pytest.fixture(scope="module")
def lambdas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keras files with a Lambda layer that halves the pixels."""
    import keras

    folder = tmp_path_factory.mktemp("lambdas")
    layers = [keras.layers.Lambda(lambda x: x * 0.5), *model_zoo.keras_model(None).layers]
    model = keras.Sequential([keras.Input((6, 8, 3)), *layers])
    model_zoo.save_keras(model, folder / "model.keras")
    model_zoo.save_keras(model, folder / "model.h5")
    return folder


@pytest.mark.parametrize("name", ["model.keras", "model.h5"])
def test_lambda_layer_needs_trust(lambdas: Path, name: str) -> None:
    """A Lambda layer is Python code: it is refused unless the operator trusts the file."""
    path = lambdas / name
    assert refusal(path) == (
        f"{path} carries Python code in 1 Lambda layer, which loading it would run; set model.trust: true if the file "
        "is of your own making, or export it as a SavedModel"
    )
    np.testing.assert_allclose(load(path, trust=True).predict(PIXELS), LOGITS / 2, atol=2e-6)


def test_keras_file_writes_nothing_outside_of_its_temporary_folder(
    zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keras unpacks all that such an archive holds: names that lead out, absolute ones and links go nowhere else."""
    path = Path(shutil.copy(zoo / "model.keras", tmp_path / "m.keras"))
    link = zipfile.ZipInfo("assets/link")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(path, "a") as archive:
        for name in ("../outside.txt", "assets/../../../outside.txt", f"{tmp_path}/absolute.txt", "assets/x"):
            archive.writestr(name, "planted")
        archive.writestr(link, str(tmp_path))
        archive.writestr("assets/link/through.txt", "planted")
    work = tmp_path / "a" / "b" / "temporary"
    work.mkdir(parents=True)
    monkeypatch.setattr(tempfile, "tempdir", str(work))
    with contextlib.suppress(ModelError):
        load(path)
    outside = [file for file in tmp_path.rglob("*") if not file.is_relative_to(work) and not file.is_dir()]
    assert outside == [path]


@pytest.mark.parametrize("name", ["model.keras", "model.h5", "model.hdf5"])
def test_damaged_keras_file_is_refused(tmp_path: Path, name: str) -> None:
    """A Keras file that is none is named with its path."""
    (tmp_path / name).write_bytes(b"no model at all")
    assert refusal(tmp_path / name).startswith(f"{tmp_path / name} is no Keras file, or is corrupted: ")


def test_truncated_keras_files_are_refused(zoo: Path, tmp_path: Path) -> None:
    """A Keras file that was cut off is refused, not read in part."""
    for name in ("model.keras", "model.h5"):
        content = (zoo / name).read_bytes()
        (tmp_path / name).write_bytes(content[: len(content) * 2 // 3])
        assert refusal(tmp_path / name).startswith(f"{tmp_path / name} is no Keras file, or is corrupted: ")


def test_keras_weights_without_a_model_are_refused(tmp_path: Path) -> None:
    """Weights alone do not say what they are the weights of."""
    model_zoo.save_keras(model_zoo.keras_model(), tmp_path / "m.weights.h5")
    assert "holds weights without a model" in refusal(tmp_path / "m.weights.h5")


def test_keras_model_with_classes_of_its_own_says_how_to_export(tmp_path: Path) -> None:
    """A layer class that is not in the file cannot be loaded here; the text says what can."""
    import keras

    class Halve(keras.layers.Layer):
        def call(self, x: Any) -> Any:
            return x * 0.5

    model = keras.Sequential([keras.Input((6, 8, 3)), Halve(), *model_zoo.keras_model().layers])
    model_zoo.save_keras(model, tmp_path / "m.keras")
    text = refusal(tmp_path / "m.keras")
    assert text.startswith(f"the Keras file {tmp_path / 'm.keras'} cannot be loaded: Could not locate class 'Halve'")
    assert "loads once exported there with model.export(folder)" in text


def test_signature_of_a_keras_file_is_refused(zoo: Path) -> None:
    """A setting that cannot take effect is not passed over in silence."""
    assert refusal(zoo / "model.keras", signature="serving_default") == (
        f"model.signature and model.tags belong to SavedModels, {zoo / 'model.keras'} is a Keras file; leave them out"
    )


def test_keras_outputs_are_named_by_dict_or_layer(tmp_path: Path) -> None:
    """The names of a Keras model's outputs are the keys of its dict, or the layers that make them."""
    import keras

    images = keras.Input((6, 8, 3))
    pooled = keras.layers.GlobalAveragePooling2D()(images)
    heads = [keras.layers.Dense(n, name=name)(pooled) for n, name in ((4, "species"), (2, "indoor"))]
    model_zoo.save_keras(keras.Model(images, heads), tmp_path / "list.keras")
    model_zoo.save_keras(keras.Model(images, {"a": heads[0], "b": heads[1]}), tmp_path / "dict.keras")
    assert "species float32[?, 4]; indoor float32[?, 2]" in refusal(tmp_path / "list.keras")
    assert load(tmp_path / "list.keras", output_name="indoor").num_classes == 2
    assert load(tmp_path / "dict.keras", output_name="a").num_classes == 4


def test_keras_export_and_save_load_as_saved_models(tmp_path: Path) -> None:
    """model.export and tf.saved_model.save both make directories that load."""
    import tensorflow as tf

    model = model_zoo.keras_model()
    model.export(tmp_path / "exported", verbose=False)
    tf.saved_model.save(model, str(tmp_path / "saved"))
    for name in ("exported", "saved"):
        np.testing.assert_allclose(load(tmp_path / name).predict(PIXELS), SOFTMAX, atol=2e-6)


def test_hash_table_runs_unfrozen_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What cannot be frozen runs as it is, with the reason in the description and the log."""
    with caplog.at_level(logging.INFO, logger="transforms"):
        model = load(model_zoo.table_model(tmp_path / "m"))
    np.testing.assert_allclose(model.predict(PIXELS), LOGITS + 0.5, atol=2e-6)
    assert not model.description.frozen
    assert model.description.frozen_reason == "it holds 1 lookup table or other resources"
    assert "The model runs unfrozen: it holds 1 lookup table or other resources" in caplog.messages


def test_labels_are_found_in_assets(tmp_path: Path) -> None:
    """A label file in the assets is read; a vocabulary of another length is none."""
    names = "cat\ndog\nföx\nowl\n"
    labelled = model_zoo.pooled_model(tmp_path / "a", asset=("labels.txt", names))
    lines = model_zoo.pooled_model(tmp_path / "b", asset=("names.txt", names))
    vocabulary = model_zoo.pooled_model(tmp_path / "c", asset=("words.txt", "a\nb\n"))
    assert describe(labelled).labels == describe(lines).labels == ["cat", "dog", "föx", "owl"]
    assert describe(vocabulary).labels is None


def test_saved_model_as_text_loads(zoo: Path, tmp_path: Path) -> None:
    """A saved_model.pbtxt serves as well as a saved_model.pb; a damaged one is named."""
    from google.protobuf import text_format
    from tensorflow.core.protobuf import saved_model_pb2

    path = shutil.copytree(zoo / "pooled", tmp_path / "m")
    proto = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())
    (path / "saved_model.pb").unlink()
    (path / "saved_model.pbtxt").write_text(text_format.MessageToString(proto))
    np.testing.assert_allclose(load(path).predict(PIXELS), LOGITS, atol=2e-6)
    (path / "saved_model.pbtxt").write_text("meta_graphs {")
    assert refusal(path).startswith(f"{path}/saved_model.pbtxt is corrupted (")


def test_parameters_of_a_model_saved_frozen_are_counted(tmp_path: Path) -> None:
    """A model whose weights are constants in its graph has as many parameters as one with variables."""
    import tensorflow as tf

    module = tf.Module()
    module.score = tf.function(
        lambda images: {"logits": tf.reduce_mean(images, [1, 2]) @ tf.constant(model_zoo.weights())},
        input_signature=[tf.TensorSpec([None, 6, 8, 3], tf.float32, name="images")],
    )
    tf.saved_model.save(module, str(tmp_path / "m"), signatures={"serving_default": module.score})
    assert describe(tmp_path / "m").parameter_count == 12


def test_labels_that_are_no_text_are_refused(tmp_path: Path) -> None:
    """A label file in another encoding than UTF-8 is named, not guessed at."""
    path = model_zoo.pooled_model(tmp_path / "m", asset=("labels.txt", "cat\n"))
    (path / "assets" / "labels.txt").write_bytes("fö\n".encode("latin-1"))
    assert refusal(path).startswith(f"{path}/assets/labels.txt is not text in UTF-8: ")
