"""Image networks for classification: a plain CNN, and the residual network of MLPerf Tiny.

A network takes `image` (batch, height, width, channels), uint8 as a camera gives it, and gives `label` (batch, classes)
probabilities. Cast, resize and scaling are in the graph: every target computes them alike. Layers carry stable names.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from edge_dl.data.dataset import Dataset, output_name
from edge_dl.errors import UsageError
from edge_dl.models.heads import classify
from edge_dl.models.resizing import Resize
from edge_dl.models.scaling import Standardize
from edge_dl.models.settings import below_one, not_negative, one_of
from edge_dl.recipe import ImageConfig, Task

INPUT = "image"
POOLINGS = {"max": keras.layers.MaxPooling2D, "average": keras.layers.AveragePooling2D}


def build(task: Task, config: ImageConfig, dataset: Dataset) -> keras.Model:
    """A network for pictures, shaped for `dataset`, with scaling fitted on its training part.

    Args:
        task: classification.
        config: the network.
        dataset: gives the pictures' size, the classes and the scaling.

    Raises:
        UsageError: a setting is unknown, out of range or does not fit the task, or the data holds no pictures.
    """
    _check(task, config, dataset)
    pictures = dataset.train.x[INPUT]
    inputs = keras.Input(pictures.shape[1:], dtype=pictures.dtype.name, name=INPUT)
    h = Standardize.fitted(pictures, name="standardize")(inputs)
    if config.size and pictures.shape[1:3] != (config.size, config.size):
        h = Resize(config.size, config.size, name="resize")(h)
    h = NETWORKS[config.network](h, config)
    if config.dense:
        h = keras.layers.Dense(config.dense, activation="relu", kernel_regularizer=_penalty(config), name="dense")(h)
    if config.dropout:
        h = keras.layers.Dropout(config.dropout, name="dropout")(h)
    name = output_name(task)
    output = classify(h, len(dataset.labels), name, _penalty(config))
    return keras.Model({INPUT: inputs}, {name: output}, name=config.network)


def cnn(h: Any, config: ImageConfig) -> Any:
    """Convolution, ReLU, pooling, as often as `filters` says (twice: 32 and 64 channels), flattened."""
    for number, filters in enumerate(config.filters or (32, 64), start=1):
        h = _convolution(h, filters, config, name=f"conv_{number}", activation="relu")
        if min(h.shape[1:3]) > 1:
            h = POOLINGS[config.pooling](2, name=f"pool_{number}")(h)
    return keras.layers.Flatten(name="flatten")(h)


def resnet8(h: Any, config: ImageConfig) -> Any:
    """ResNet-8, the image classification network of MLPerf Tiny (Banbury et al. 2021, after He et al. 2015).

    One convolution and three residual stages of two, with batch normalization; 78,666 weights for 32x32x3 and ten
    classes. https://github.com/mlcommons/tiny
    """
    stages = config.filters or (16, 32, 64)
    h = _normalized(_convolution(h, stages[0], config, name="conv"), "conv", relu=True)
    for number, filters in enumerate(stages, start=1):
        stride = 1 if number == 1 else 2
        name = f"stage_{number}"
        branch = _convolution(h, filters, config, name=f"{name}_conv_1", strides=stride)
        branch = _normalized(branch, f"{name}_conv_1", relu=True)
        branch = _normalized(_convolution(branch, filters, config, name=f"{name}_conv_2"), f"{name}_conv_2")
        if stride != 1 or h.shape[-1] != filters:
            h = _convolution(h, filters, config, name=f"{name}_shortcut", size=1, strides=stride)
        h = keras.layers.Add(name=f"{name}_add")([h, branch])
        h = keras.layers.ReLU(name=f"{name}_relu")(h)
    return keras.layers.GlobalAveragePooling2D(name="pool")(h)


NETWORKS: dict[str, Callable[[Any, ImageConfig], Any]] = {"cnn": cnn, "resnet8": resnet8}


def _convolution(
    h: Any, filters: int, config: ImageConfig, *, name: str, size: int = 3, strides: int = 1, activation: Any = None
) -> Any:
    return keras.layers.Conv2D(
        filters,
        size,
        strides=strides,
        padding="same",
        activation=activation,
        kernel_initializer="he_normal",
        kernel_regularizer=_penalty(config),
        name=name,
    )(h)


def _normalized(h: Any, name: str, *, relu: bool = False) -> Any:
    h = keras.layers.BatchNormalization(name=f"{name}_norm")(h)
    return keras.layers.ReLU(name=f"{name}_relu")(h) if relu else h


def _penalty(config: ImageConfig) -> Any:
    return keras.regularizers.L2(config.l2) if config.l2 else None


def check_pictures(dataset: Dataset) -> None:
    """Raises UsageError where the data holds no pictures."""
    array = dataset.train.x.get(INPUT)
    if array is None or array.ndim != 4:
        received = ", ".join(f"{name} {item.shape}" for name, item in dataset.train.x.items())
        raise UsageError(
            "An image network needs pictures: (samples, height, width, channels).",
            received=received,
            todo="For arrays without a channel axis set data.input=image.",
        )


def _check(task: Task, config: ImageConfig, dataset: Dataset) -> None:
    one_of("model.network", config.network, NETWORKS)
    one_of("model.pooling", config.pooling, POOLINGS)
    if task is not Task.CLASSIFICATION:
        raise UsageError("This image network classifies.", received=f"task {task.value}")
    check_pictures(dataset)
    if config.filters and min(config.filters) < 1:
        raise UsageError("model.filters must be at least 1.", received=str(config.filters))
    below_one(config, "dropout")
    not_negative(config, "dense", "size", "l2")
