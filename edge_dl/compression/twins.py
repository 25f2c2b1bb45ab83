"""tf-keras twins of Keras 3 layers: the same settings, under the names that tf-keras has for them.

A layer without weights of its own to train that tf-keras does not know, or knows otherwise (resizing, scaling, an
operator of `keras.ops`, a user's layer), is carried over as it is: both compute with TensorFlow.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable
from typing import Any

import keras
import tf_keras

from edge_dl.converters.messages import one_line
from edge_dl.errors import RefusedError
from edge_dl.models import AdditiveAttentionPooling, HubFeatures

# Layers whose weights tensorflow-model-optimization may change, or around which it places its quantizers. Everything
# about them is in their settings; what differs between the two packages shows in their outputs, which are compared.
KNOWN = (
    "Activation", "ActivityRegularization", "Add", "Average", "AveragePooling1D", "AveragePooling2D",
    "AveragePooling3D", "BatchNormalization", "Concatenate", "Conv1D", "Conv1DTranspose", "Conv2D", "Conv2DTranspose",
    "Conv3D", "Conv3DTranspose", "Cropping1D", "Cropping2D", "Cropping3D", "Dense", "DepthwiseConv1D",
    "DepthwiseConv2D", "Dropout", "ELU", "EinsumDense", "Embedding", "Flatten", "GRU", "GaussianDropout",
    "GaussianNoise", "GlobalAveragePooling1D", "GlobalAveragePooling2D", "GlobalAveragePooling3D",
    "GlobalMaxPooling1D", "GlobalMaxPooling2D", "GlobalMaxPooling3D", "GroupNormalization", "LSTM",
    "LayerNormalization", "LeakyReLU", "Masking", "MaxPooling1D", "MaxPooling2D", "MaxPooling3D", "Maximum", "Minimum",
    "Multiply", "PReLU", "Permute", "ReLU", "RepeatVector", "Reshape", "SeparableConv1D", "SeparableConv2D",
    "SimpleRNN", "Softmax", "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D", "Subtract",
    "UnitNormalization", "UpSampling1D", "UpSampling2D", "UpSampling3D", "ZeroPadding1D", "ZeroPadding2D",
    "ZeroPadding3D",
)  # fmt: skip
_RENAMED = {"LeakyReLU": {"negative_slope": "alpha"}}
# What these do in training alone is left out where a model was built to be called with training=False.
_RATES = ("rate", "stddev")
# Said otherwise (name, type, whether it trains), or decides only first weights and random numbers.
_NOT_CARRIED = ("name", "dtype", "trainable", "seed")

_carried: dict[str, Callable[..., Any]] = {}
_numbers = itertools.count()


def make_twin(layer: keras.layers.Layer, name: str, *, frozen: bool = False) -> tf_keras.layers.Layer:
    """The tf-keras layer that computes what `layer` does; its weights are not copied yet.

    Everything trains, also what transfer learning had frozen; but a BatchNormalization that was frozen stays in
    inference mode.

    Args:
        layer: a Keras 3 layer that is no model.
        name: the twin's name.
        frozen: whether the model calls it with training=False.

    Raises:
        RefusedError: it has weights to train, and tf-keras has no such layer or no such setting.
    """
    kind = type(layer).__name__
    if type(layer) is keras.layers.Bidirectional:
        forward = make_twin(layer.forward_layer, layer.forward_layer.name.removeprefix("forward_"), frozen=frozen)
        return tf_keras.layers.Bidirectional(forward, merge_mode=layer.merge_mode, name=name)
    if type(layer) is keras.layers.TimeDistributed:
        inner = make_twin(layer.layer, layer.layer.name, frozen=frozen)
        if isinstance(inner, Carried):
            raise _refusal(layer, f"it holds {type(layer.layer).__name__}, which tf-keras does not know")
        return tf_keras.layers.TimeDistributed(inner, name=name)
    if type(layer) is AdditiveAttentionPooling:
        return AttentionPooling(layer.units, name=name)
    if isinstance(layer, HubFeatures):
        raise _refusal(layer, "it is a SavedModel, which holds operators and no layers")
    if kind in KNOWN and type(layer) is getattr(keras.layers, kind):
        return _translated(layer, name, frozen)
    if layer.trainable_variables:
        raise _refusal(layer, f"{kind} has weights that train, and tf-keras has no such layer")
    return Carried.around(layer, name)


def _translated(layer: keras.layers.Layer, name: str, frozen: bool) -> tf_keras.layers.Layer:
    kind = type(layer).__name__
    twin_class = getattr(tf_keras.layers, kind)
    known = inspect.signature(twin_class.__init__).parameters
    defaults = inspect.signature(type(layer).__init__).parameters
    settings: dict[str, Any] = {}
    for key, value in layer.get_config().items():
        twin_key = _RENAMED.get(kind, {}).get(key, key)
        if key in _NOT_CARRIED or key.endswith("initializer"):
            continue
        if key.endswith(("regularizer", "constraint")) or key in ("activation", "recurrent_activation"):
            value = _function(layer, key, value)
        if twin_key in known or (value is not None and key == "activity_regularizer"):
            settings[twin_key] = 0.0 if frozen and key in _RATES else value
        elif value and (key not in defaults or value != defaults[key].default):
            raise _refusal(layer, f"tf-keras does not know the setting {key}={value!r}")
    try:
        twin = twin_class(**settings, name=name, dtype="float32")
    except (TypeError, ValueError) as error:
        raise _refusal(layer, one_line(error)) from None
    if isinstance(twin, tf_keras.layers.BatchNormalization):
        twin.trainable = bool(layer.trainable) and not frozen
    return twin


def _function(layer: keras.layers.Layer, key: str, value: Any) -> Any:
    """An activation, a regularizer or a constraint of a layer's settings as tf-keras has it."""
    if value is None or isinstance(value, str):
        named: Any = value
    else:
        inner = value.get("config")
        named = inner if isinstance(inner, str) else {"class_name": value.get("class_name"), "config": inner}
    module = {"activation": "activations", "regularizer": "regularizers", "constraint": "constraints"}
    try:
        return getattr(tf_keras, module[key.rsplit("_", 1)[-1]]).get(named)
    except (TypeError, ValueError, AttributeError):
        shown = named if isinstance(named, str) else (named or {}).get("class_name")
        raise _refusal(layer, f"tf-keras does not know {key}={shown!r}") from None


def _refusal(layer: Any, reason: str) -> RefusedError:
    return RefusedError(
        f"Layer {layer.name!r} ({type(layer).__name__}) cannot be carried to tf-keras: {reason}.",
        todo="Compression works through tf-keras: use a layer that both have, or compress the model without it.",
    )


@tf_keras.utils.register_keras_serializable(package="edge_dl")
class Carried(tf_keras.layers.Layer):
    """A Keras 3 layer or operator without weights to train, called as it is.

    tensorflow-model-optimization copies a model by its layers' settings, so these hold the key of a table in this
    process. Make it with `Carried.around`.

    Args:
        key: where the layer stands in the table.
    """

    def __init__(self, key: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.key = key

    @classmethod
    def around(cls, operation: Callable[..., Any], name: str) -> Carried:
        """The twin of a Keras 3 layer, or of any function of a list of tensors or one tensor."""
        key = f"{name}/{next(_numbers)}"
        _carried[key] = operation
        return cls(key, name=name, dtype="float32")

    def _set_dtype_policy(self, dtype: Any) -> None:
        super()._set_dtype_policy(dtype)
        self._autocast = False  # Bytes and whole numbers go in as they come.

    def call(self, inputs: Any, training: Any = None) -> Any:
        """What the Keras 3 layer gives."""
        operation = _carried[self.key]
        if getattr(operation, "_call_has_training_arg", False):
            return operation(inputs, training=bool(training) if isinstance(training, (bool, int)) else False)
        return operation(inputs)

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {**super().get_config(), "key": self.key}


@tf_keras.utils.register_keras_serializable(package="edge_dl")
class AttentionPooling(tf_keras.layers.Layer):
    """Twin of `edge_dl.models.AdditiveAttentionPooling`; without masks.

    Args:
        units: size of the hidden layer that scores a step.
    """

    def __init__(self, units: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units = units
        self.hidden = tf_keras.layers.Dense(units, activation="tanh", name="hidden")
        self.score = tf_keras.layers.Dense(1, use_bias=False, name="score")

    def build(self, input_shape: Any) -> None:
        """Make the weights for (batch, steps, features)."""
        self.hidden.build(input_shape)
        self.score.build((*input_shape[:-1], self.units))
        super().build(input_shape)

    def call(self, inputs: Any) -> Any:
        """Pool (batch, steps, features) to (batch, features)."""
        weights = keras.ops.softmax(self.score(self.hidden(inputs)), axis=1)
        return keras.ops.sum(weights * inputs, axis=1)

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {**super().get_config(), "units": self.units}
