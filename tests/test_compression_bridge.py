"""The bridge to tf-keras: equal outputs for every layer, weights both ways, and what cannot be carried is named."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest

from edge_dl import data, models
from edge_dl.compression.bridge import Bridge, answers, load
from edge_dl.errors import RefusedError
from edge_dl.training.recipes import RECIPES

layers = keras.layers
BUILT_IN = ("rnn", "lstm", "gru", "forecast", "adding", "cnn", "resnet8")


def scramble(model: keras.Model, seed: int = 0) -> keras.Model:
    """Weights as training leaves them: nothing is zero or one any more, statistics of normalization included."""
    rng = np.random.default_rng(seed)
    model.set_weights([np.abs(rng.normal(0.3, 0.3, w.shape)) + 0.05 if w.ndim == 1 else rng.normal(0, 0.4, w.shape)
                       for w in model.get_weights()])  # fmt: skip
    return model


def one_layer(layer: Any, shape: tuple[int, ...], dtype: str = "float32") -> keras.Model:
    inputs = keras.Input(shape, dtype=dtype, name="x")
    return scramble(keras.Model(inputs, layer(inputs)))


def samples(model: keras.Model, count: int = 6) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    found = {}
    for tensor in model.inputs:
        shape = (count, *tensor.shape[1:])
        whole = tensor.dtype.startswith(("int", "uint"))
        array = rng.integers(0, 9, shape) if whole else rng.normal(0, 1, shape)
        found[tensor.name] = array.astype(tensor.dtype)
    return found


IMAGE, SEQUENCE = (12, 10, 4), (7, 5)
LAYERS: dict[str, tuple[Callable[[], Any], tuple[int, ...]]] = {
    "dense": (lambda: layers.Dense(5, activation="tanh", kernel_regularizer=keras.regularizers.L2(1e-3)), (4,)),
    "conv": (lambda: layers.Conv2D(3, 3, strides=2, padding="same", activation="relu"), IMAGE),
    "conv-dilated": (lambda: layers.Conv2D(3, 3, dilation_rate=2, use_bias=False), IMAGE),
    "conv-groups": (lambda: layers.Conv2D(4, 1, groups=2), IMAGE),
    "conv-transposed": (lambda: layers.Conv2DTranspose(3, 3, strides=2), IMAGE),
    "conv-1d-causal": (lambda: layers.Conv1D(3, 3, padding="causal"), SEQUENCE),
    "depthwise": (lambda: layers.DepthwiseConv2D(3, depth_multiplier=2, padding="same"), IMAGE),
    "separable": (lambda: layers.SeparableConv2D(3, 3), IMAGE),
    "batch-norm": (lambda: layers.BatchNormalization(momentum=0.9, epsilon=1e-2), IMAGE),
    "layer-norm": (lambda: layers.LayerNormalization(), SEQUENCE),
    "relu-6": (lambda: layers.ReLU(6.0), IMAGE),
    "leaky-relu": (lambda: layers.LeakyReLU(negative_slope=0.2), IMAGE),
    "p-relu": (lambda: layers.PReLU(shared_axes=[1, 2]), IMAGE),
    "swish": (lambda: layers.Activation("swish"), IMAGE),
    "softmax": (lambda: layers.Activation("softmax"), (5,)),
    "max-pool": (lambda: layers.MaxPooling2D(2), IMAGE),
    "average-pool": (lambda: layers.AveragePooling2D(3, padding="same"), IMAGE),
    "global-pool": (lambda: layers.GlobalAveragePooling2D(keepdims=True), IMAGE),
    "padding": (lambda: layers.ZeroPadding2D(((0, 1), (2, 0))), IMAGE),
    "cropping": (lambda: layers.Cropping2D(((1, 2), (0, 1))), IMAGE),
    "flatten": (lambda: layers.Flatten(), IMAGE),
    "reshape": (lambda: layers.Reshape((5, 7)), SEQUENCE),
    "dropout": (lambda: layers.Dropout(0.5), (4,)),
    "upsampling": (lambda: layers.UpSampling2D(2, interpolation="bilinear"), IMAGE),
    "lstm": (lambda: layers.LSTM(6, return_sequences=True, recurrent_dropout=0.2), SEQUENCE),
    "gru": (lambda: layers.GRU(6, go_backwards=True), SEQUENCE),
    "simple-rnn": (lambda: layers.SimpleRNN(6), SEQUENCE),
    "bidirectional": (lambda: layers.Bidirectional(layers.LSTM(4, name="cell")), SEQUENCE),
    "time-distributed": (lambda: layers.TimeDistributed(layers.Dense(3)), SEQUENCE),
    "rescaling": (lambda: layers.Rescaling(1 / 127.5, -1.0), IMAGE),
    "resizing": (lambda: layers.Resizing(5, 7), IMAGE),
    "center-crop": (lambda: layers.CenterCrop(6, 6), IMAGE),
    "unit-norm": (lambda: layers.UnitNormalization(), (5,)),
    "standardize": (lambda: models.Standardize([1.0, 2.0, 3.0, 4.0], [0.5, 1.0, 2.0, 0.1]), IMAGE),
    "attention-pooling": (lambda: models.AdditiveAttentionPooling(6), SEQUENCE),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_computes_the_same_there(name: str) -> None:
    make, shape = LAYERS[name]
    model = one_layer(make(), shape)
    bridge = Bridge(model)
    assert bridge.prove(samples(model)) <= 1e-5


def mobilenet_like() -> keras.Model:
    """The layers of MobileNet V1 with our edges: bytes in, cropped, resized, scaled."""
    inputs = keras.Input((40, 36, 3), dtype="uint8", name="image")
    h = layers.CenterCrop(36, 36)(inputs)
    h = layers.Rescaling(1 / 127.5, -1.0)(layers.Resizing(32, 32)(h))
    h = layers.ZeroPadding2D(((0, 1), (0, 1)))(h)
    h = layers.ReLU(6.0)(layers.BatchNormalization()(layers.Conv2D(8, 3, strides=2, use_bias=False)(h)))
    h = layers.DepthwiseConv2D(3, padding="same", use_bias=False)(h)
    h = layers.ReLU(6.0)(layers.BatchNormalization()(h))
    h = layers.Reshape((1, 1, 8))(layers.GlobalAveragePooling2D()(h))
    h = layers.Flatten()(layers.Conv2D(6, 1)(layers.Dropout(0.1)(h)))
    outputs = layers.Activation("softmax", name="label")(layers.Dense(5)(h))
    return scramble(keras.Model({"image": inputs}, {"label": outputs}))


def test_a_whole_network_keeps_names_and_comes_back() -> None:
    model = mobilenet_like()
    bridge = Bridge(model)
    x = samples(model)
    assert bridge.prove(x) <= 1e-5
    assert bridge.outputs == ["label"]
    changed = {name: [array * 1.1 for array in arrays] for name, arrays in bridge.read_source().items()}
    load(bridge.model, changed)
    with pytest.raises(RefusedError, match="must give the Keras model's outputs"):
        bridge.prove(x)
    bridge.write_back(changed)
    assert bridge.prove(x) <= 1e-5


@pytest.mark.parametrize("name", BUILT_IN)
def test_our_recipes_networks_are_carried(name: str) -> None:
    recipe = RECIPES[name]
    dataset = data.load(recipe.data, recipe.task, seed=0)
    model = models.build(recipe.task, recipe.model, dataset)
    bridge = Bridge(model, {key: array.shape[1:] for key, array in dataset.train.x.items()})
    assert bridge.prove({key: array[:16] for key, array in dataset.test.x.items()}) <= 1e-5


@keras.saving.register_keras_serializable(package="tests")
class Gate(keras.layers.Layer):
    """Weights that tf-keras knows nothing of."""

    def build(self, shape: Any) -> None:
        self.scale = self.add_weight(shape=(shape[-1],), initializer="ones")

    def call(self, inputs: Any) -> Any:
        return inputs * self.scale


def test_a_layer_with_weights_that_tf_keras_does_not_know_is_named() -> None:
    with pytest.raises(RefusedError, match=r"Layer 'my_gate' \(Gate\).*has weights that train"):
        Bridge(one_layer(Gate(name="my_gate"), (4,)))


def test_frozen_weights_of_an_unknown_layer_are_no_obstacle() -> None:
    model = one_layer(Gate(name="my_gate", trainable=False), (4,))
    assert Bridge(model).prove(samples(model)) <= 1e-5


def test_a_layer_that_computes_otherwise_is_named() -> None:
    """tf-keras has another hard sigmoid: 0.2 x + 0.5 instead of x / 6 + 0.5."""
    inputs = keras.Input((6,))
    h = layers.Dense(4, name="first")(inputs)
    h = layers.Dense(4, activation="hard_sigmoid", name="second")(h)
    model = scramble(keras.Model(inputs, layers.Dense(2, name="third")(h)))
    with pytest.raises(RefusedError, match=r"Layer 'second' \(Dense\) is the first that computes otherwise"):
        Bridge(model).prove(samples(model))


def test_a_model_connected_by_code_is_refused() -> None:
    class Own(keras.Model):
        def __init__(self) -> None:
            super().__init__(name="by_code")
            self.head = layers.Dense(2)

        def call(self, inputs: Any) -> Any:
            return self.head(inputs)

    model = Own()
    model(np.zeros((1, 3), np.float32))
    with pytest.raises(RefusedError, match=r"'by_code' .*connected by code"):
        Bridge(model)


def test_operators_of_keras_ops_and_shared_layers_are_carried() -> None:
    first, second = keras.Input((5,), name="first"), keras.Input((5,), name="second")
    shared = layers.Dense(4, name="shared")
    h = keras.ops.concatenate([shared(first), keras.ops.maximum(shared(second), 0.1)], axis=-1) * 2.0
    model = scramble(keras.Model([first, second], [layers.Dense(3, name="head")(h), h]))
    assert Bridge(model).prove(samples(model)) <= 1e-5


def test_a_nested_model_is_written_out_and_its_inference_mode_kept() -> None:
    inner_input = keras.Input(IMAGE)
    h = layers.BatchNormalization(name="norm")(layers.Conv2D(3, 3, name="conv")(inner_input))
    inner = keras.Model(inner_input, layers.Dropout(0.5, name="drop")(h), name="inner")
    inputs = keras.Input(IMAGE, name="x")
    h = layers.Conv2D(4, 3, padding="same", name="conv")(inputs)
    model = scramble(keras.Model(inputs, layers.GlobalAveragePooling2D()(inner(h, training=False))))
    bridge = Bridge(model)
    x = samples(model)
    assert bridge.prove(x) <= 1e-5
    names = [layer.name for layer in bridge.model.layers]
    assert "conv" in names
    assert "inner_conv" in names
    # The tf-keras model is trained: what was called in inference mode must stay in it.
    np.testing.assert_allclose(bridge.model(x["x"], training=True), answers(model, [x["x"]])[0], atol=1e-5)


def test_a_batch_normalization_that_was_frozen_stays_frozen_and_the_rest_trains() -> None:
    inputs = keras.Input(IMAGE)
    h = layers.Conv2D(3, 3, name="conv", trainable=False)(inputs)
    model = keras.Model(inputs, layers.BatchNormalization(name="norm", trainable=False)(h))
    bridge = Bridge(model)
    assert [weight.name for weight in bridge.model.trainable_weights] == ["conv/kernel:0", "conv/bias:0"]
