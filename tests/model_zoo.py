"""Small real models made on the fly, each with the numbers it has to return reckoned by NumPy.

The models average an image over its area and multiply by a matrix: simple enough to be checked by hand,
real enough to go through every loader.
"""

import io
import tarfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

HEIGHT, WIDTH, CLASSES = 6, 8, 4


def weights(channels: int = 3, classes: int = CLASSES) -> npt.NDArray[np.float32]:
    """The matrix of every model here: float32[channels, classes], the same on every call."""
    return np.random.default_rng(7).normal(size=(channels, classes)).astype(np.float32)


def photos(count: int, height: int = HEIGHT, width: int = WIDTH, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Random pixels, uint8[count, height, width, 3]."""
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), np.uint8)


def expected_logits(values: npt.NDArray[Any], classes: int = CLASSES) -> npt.NDArray[np.float32]:
    """What the models return for normalised values[N, H, W, channels], reckoned in float64."""
    pooled = np.asarray(values, np.float64).mean(axis=(1, 2))
    return (pooled @ weights(values.shape[-1], classes)).astype(np.float32)


def softmax(logits: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Softmax of small logits, in float64."""
    exponentials = np.exp(np.asarray(logits, np.float64))
    return (exponentials / exponentials.sum(axis=1, keepdims=True)).astype(np.float32)


def expected_softmax(values: npt.NDArray[Any], classes: int = CLASSES) -> npt.NDArray[np.float32]:
    """Softmax of expected_logits."""
    return softmax(expected_logits(values, classes))


def pooled_model(
    path: Path,
    *,
    shape: Sequence[int | None] | None = (None, HEIGHT, WIDTH, 3),
    dtype: str = "float32",
    layout: str = "NHWC",
    channels: int = 3,
    classes: int = CLASSES,
    signature: str = "serving_default",
    head: Callable[[Any], Any] = lambda logits: {"logits": logits},
    asset: tuple[str, str] | None = None,
) -> Path:
    """Save a SavedModel that pools, multiplies, and passes the logits through head.

    Args:
        path: Where to save it.
        shape: Of its input, batch first, in its layout.
        dtype: Of its input.
        layout: NHWC or NCHW.
        channels: Of its input.
        classes: Width of the logits.
        signature: Name of its signature.
        head: float32[N, classes] logits -> the outputs by name.
        asset: Name and content of a file in its assets.
    """
    import tensorflow as tf

    area = [2, 3] if layout == "NCHW" else [1, 2]

    class Pooled(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.matrix = tf.Variable(weights(channels, classes))
            if asset is not None:
                source = path.parent / asset[0]
                source.write_text(asset[1], encoding="utf-8")
                self.asset = tf.saved_model.Asset(str(source))

        @tf.function(input_signature=[tf.TensorSpec(shape, dtype, name="images")])
        def score(self, images: Any) -> Any:
            return head(tf.reduce_mean(tf.cast(images, tf.float32), area) @ self.matrix)

    module = Pooled()
    tf.saved_model.save(module, str(path), signatures={signature: module.score})
    return path


def short_of_memory(most: int) -> Callable[[Any], Any]:
    """Make a head that truly runs out of memory on more images than `most`: it asks for 4 TB an image.

    Args:
        most: Images a call that still fit.

    Returns:
        For pooled_model.
    """
    import tensorflow as tf

    def head(logits: Any) -> Any:
        images = tf.shape(logits, tf.int64)[0]
        numbers = tf.where(images > most, images * 10**12, 0)
        # Of no numbers the sum is 0.
        return {"logits": logits + tf.reduce_sum(tf.random.uniform([numbers]))}

    return head


def poisoned_by_white(logits: Any) -> Any:
    """Fail on a batch that holds a white image, as an op of a model may fail; for pooled_model with value_range 0_1."""
    import tensorflow as tf

    white = weights().sum(axis=0)
    poisoned = tf.reduce_all(tf.abs(logits - white) < 1e-4, axis=1, keepdims=True)
    return {"logits": tf.debugging.check_numerics(tf.where(poisoned, np.inf, logits), "poisoned")}


def fails_on_some(logits: Any, value: float = np.inf) -> Any:
    """Return a value that is no probability for about a third of the images, always the same; for pooled_model."""
    import tensorflow as tf

    third = tf.math.floormod(tf.floor(logits[:, :1] * 1e4), 3.0) == 0.0
    return {"logits": tf.where(third, value, logits)}


def callable_model(
    path: Path,
    *,
    training: Sequence[bool] = (True, False),
    name: str = "__call__",
    batches: Sequence[int | None] = (2, None),
) -> Path:
    """Save a SavedModel without signatures; with training=True it returns logits of 100 times the size.

    Args:
        path: Where to save it.
        training: The values of the argument `training` that it is traced with.
        name: Of the function.
        batches: The batch sizes that it is traced with, in this order.
    """
    import tensorflow as tf

    def call(self: Any, images: Any, training: bool = False, mask: Any = None) -> Any:
        assert mask is None
        logits = tf.reduce_mean(images, [1, 2]) @ self.matrix
        return {"logits": logits * 100.0 if training else logits}

    module = type("Callable", (tf.Module,), {name: tf.function(call)})()
    module.matrix = tf.Variable(weights())
    for value in training:
        for batch in batches:
            spec = tf.TensorSpec([batch, HEIGHT, WIDTH, 3], tf.float32)
            getattr(module, name).get_concrete_function(spec, training=value)
    tf.saved_model.save(module, str(path), signatures={})
    return path


def two_input_model(path: Path) -> Path:
    """Save a SavedModel that takes images and a temperature."""
    import tensorflow as tf

    class Two(tf.Module):
        @tf.function(
            input_signature=[
                tf.TensorSpec([None, HEIGHT, WIDTH, 3], tf.float32, name="images"),
                tf.TensorSpec([], tf.float32, name="temperature"),
            ]
        )
        def score(self, images: Any, temperature: Any) -> Any:
            return {"scores": tf.reduce_mean(images, [1, 2]) * temperature}

    module = Two()
    tf.saved_model.save(module, str(path), signatures={"serving_default": module.score})
    return path


def table_model(path: Path) -> Path:
    """Save a SavedModel that adds a number from a hash table: it cannot be frozen."""
    import tensorflow as tf

    class Table(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.matrix = tf.Variable(weights())
            numbers = tf.lookup.KeyValueTensorInitializer(["shift"], [0.5], tf.string, tf.float32)
            self.table = tf.lookup.StaticHashTable(numbers, 0.0)

        @tf.function(input_signature=[tf.TensorSpec([None, HEIGHT, WIDTH, 3], tf.float32, name="images")])
        def score(self, images: Any) -> Any:
            logits = tf.reduce_mean(images, [1, 2]) @ self.matrix
            return {"logits": logits + self.table.lookup(tf.constant("shift"))}

    module = Table()
    tf.saved_model.save(module, str(path), signatures={"serving_default": module.score})
    return path


def bytes_model(
    path: Path,
    *,
    shape: Sequence[int | None] = (None,),
    head: Callable[[Any], Any] = lambda logits: {"logits": logits},
) -> Path:
    """Save a SavedModel that takes encoded images and decodes, resizes and scales them itself, to 0_1.

    Args:
        path: Where to save it.
        shape: Of its input.
        head: float32[N, classes] logits -> the outputs by name.
    """
    import tensorflow as tf

    class Bytes(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.matrix = tf.Variable(weights())

        @tf.function(input_signature=[tf.TensorSpec(shape, tf.string, name="image_bytes")])
        def score(self, encoded: Any) -> Any:
            def decode(one: Any) -> Any:
                image = tf.io.decode_image(one, channels=3, expand_animations=False)
                return tf.image.resize(image, [HEIGHT, WIDTH]) / 255.0

            images = tf.map_fn(decode, encoded, fn_output_signature=tf.TensorSpec([HEIGHT, WIDTH, 3], tf.float32))
            return head(tf.reduce_mean(images, [1, 2]) @ self.matrix)

    module = Bytes()
    tf.saved_model.save(module, str(path), signatures={"serving_default": module.score})
    return path


def tf1_model(
    path: Path,
    *,
    tag_sets: Sequence[Sequence[str]] = (("serve",),),
    signature: str = "serving_default",
    resource_variables: bool = False,
) -> Path:
    """Save a SavedModel as TensorFlow 1 did, its answer softmaxed.

    Args:
        path: Where to save it.
        tag_sets: Tags of each of its graphs; graph i multiplies the logits by i + 1.
        signature: Name of its signature.
        resource_variables: Keep the matrix in a resource variable, not in a reference variable.
    """
    import tensorflow as tf

    v1 = tf.compat.v1
    builder = v1.saved_model.Builder(str(path))
    for i, tags in enumerate(tag_sets):
        with v1.Graph().as_default() as graph, v1.Session(graph=graph) as session:
            images = v1.placeholder(tf.float32, [None, HEIGHT, WIDTH, 3], name="images")
            matrix = v1.get_variable(
                "matrix", [3, CLASSES], initializer=v1.constant_initializer(weights()), use_resource=resource_variables
            )
            scores = tf.nn.softmax(tf.matmul(tf.reduce_mean(images, [1, 2]), matrix) * float(i + 1))
            session.run(v1.global_variables_initializer())
            definition = v1.saved_model.signature_def_utils.predict_signature_def(
                {"images": images}, {"scores": scores}
            )
            if i == 0:
                builder.add_meta_graph_and_variables(session, list(tags), signature_def_map={signature: definition})
            else:
                builder.add_meta_graph(list(tags), signature_def_map={signature: definition})
    builder.save()
    return path


def keras_model(activation: str | None = "softmax", *, classes: int = CLASSES, dtype: str = "float32") -> Any:
    """Build a Keras model that returns expected_logits, or their softmax or sigmoid.

    Args:
        activation: Of its last layer.
        classes: Width of its output.
        dtype: float32, or a policy such as mixed_float16.
    """
    import keras

    model = keras.Sequential(
        [
            keras.Input((HEIGHT, WIDTH, 3), name="images"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(classes, activation=activation, dtype=dtype, use_bias=False, name="scores"),
        ]
    )
    model.layers[-1].set_weights([weights(3, classes)])
    return model


def save_keras(model: Any, path: Path) -> Path:
    """Save a Keras model as .keras, .h5 or .weights.h5, by the path's suffix."""
    with warnings.catch_warnings():
        # Keras 3 calls np.array on variables, whose __array__ does not know NumPy 2's copy keyword.
        warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
        if path.name.endswith(".weights.h5"):
            model.save_weights(path)
        else:
            model.save(path)
    return path


def pack(folder: Path, outer: str = ".", links: Sequence[tuple[str, str]] = ()) -> bytes:
    """Pack a SavedModel as a TF Hub archive, a .tar.gz.

    Args:
        folder: The SavedModel.
        outer: The folder that it lies in inside the archive.
        links: Symbolic links to add, as name and target.
    """
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        archive.add(folder, arcname=outer)
        for name, target in links:
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, target
            archive.addfile(link)
    return packed.getvalue()
