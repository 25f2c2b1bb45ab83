"""Transfer learning: a backbone that was trained on many pictures, with a new head, or as it is to compare pictures.

A network takes `image` (batch, height, width, channels) uint8 as the camera gives it and gives `label` (batch, classes)
probabilities, or `embedding` (batch, features): vectors of length 1 whose product says how alike two pictures are. Cut
to a square, cast, resize and scaling are in the graph. The backbone's layers stand in the model itself, not in a model
inside it: quantizers and pruners find them by name. A SavedModel from TensorFlow Hub, which holds no layers, is one
layer of the model.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from edge_dl.data.dataset import Dataset, output_name
from edge_dl.errors import StageError, UsageError
from edge_dl.models.heads import classify
from edge_dl.models.hub import HubFeatures
from edge_dl.models.hub_files import is_handle, read_backbone, trust
from edge_dl.models.images import INPUT, check_pictures
from edge_dl.models.resizing import Resize
from edge_dl.models.settings import below_one, not_negative
from edge_dl.recipe import Task, TransferConfig

FEATURES = "features"
IMAGENET, NONE = "imagenet", "none"
BACKBONES: dict[str, Callable[..., keras.Model]] = {
    # Howard et al. 2017; Sandler et al. 2018; Howard et al. 2019.
    "mobilenet": keras.applications.MobileNet,
    "mobilenet_v2": keras.applications.MobileNetV2,
    "mobilenet_v3_small": keras.applications.MobileNetV3Small,
    "mobilenet_v3_large": keras.applications.MobileNetV3Large,
}


def build(task: Task, config: TransferConfig, dataset: Dataset) -> keras.Model:
    """A backbone with its weights and a new head, shaped for `dataset`.

    Args:
        task: classification or embedding.
        config: backbone, weights and head.
        dataset: gives the pictures' size and the classes.

    Raises:
        UsageError: a setting is unknown or out of range, the weights' file is not there or is another backbone's, the
            SavedModel is no image feature vector, or the data holds no pictures.
        StageError: weights or a SavedModel could not be downloaded.
    """
    _check(task, config, dataset)
    pictures = dataset.train.x[INPUT]
    inputs = keras.Input(pictures.shape[1:], dtype=pictures.dtype.name, name=INPUT)
    if is_handle(config.backbone):
        model_name = "hub"
        h = _hub_features(inputs, config)
    else:
        model_name = config.backbone
        size = config.size or min(inputs.shape[1:3])
        # From -1 to 1, as the backbones were trained.
        h = _backbone(_prepare(inputs, config.crop, (size, size), 1 / 127.5, -1.0), config)
        h = keras.layers.GlobalAveragePooling2D(name=FEATURES)(h)
    name = output_name(task)
    if task is Task.EMBEDDING:
        h = keras.layers.UnitNormalization(name=name, dtype="float32")(h)
        return keras.Model({INPUT: inputs}, {name: h}, name=model_name)
    penalty = keras.regularizers.L2(config.l2) if config.l2 else None
    if config.dense:
        h = keras.layers.Dense(config.dense, activation="relu", kernel_regularizer=penalty, name="dense")(h)
    if config.dropout:
        h = keras.layers.Dropout(config.dropout, name="dropout")(h)
    return keras.Model({INPUT: inputs}, {name: classify(h, len(dataset.labels), name, penalty)}, name=model_name)


def is_pretrained(config: TransferConfig) -> bool:
    """Whether the backbone comes with weights that are worth keeping at first."""
    return config.weights != NONE


def unfreeze(model: keras.Model, layers: int) -> None:
    """Let the backbone's last `layers` layers with weights train, and no earlier ones; the head always does.

    Batch normalization is left out and stays in inference mode: its statistics are of many more pictures than a user
    has (https://keras.io/guides/transfer_learning/). 0 freezes the whole backbone. A SavedModel counts as one layer,
    and trains what its publisher lets train.

    Raises:
        UsageError: layers are to train, and the backbone is a SavedModel in which nothing can.
    """
    names = [layer.name for layer in model.layers]
    backbone = model.layers[: names.index(FEATURES) + 1]
    able = [layer for layer in backbone if layer.weights and not isinstance(layer, keras.layers.BatchNormalization)]
    chosen = set(map(id, able[max(0, len(able) - layers) :] if layers else ()))
    for layer in backbone:
        layer.trainable = id(layer) in chosen
    features = backbone[-1]
    if layers and isinstance(features, HubFeatures) and not features.trainable_weights:
        raise UsageError(
            "Fine-tuning needs a backbone with weights that train.",
            received=f"{features.source}, a SavedModel without trainable variables",
            todo="Set training.fine_tune_epochs=0: the head trains on the backbone as it is.",
        )


def _hub_features(inputs: Any, config: TransferConfig) -> Any:
    files = read_backbone(config.backbone)
    size = config.size or min(inputs.shape[1:3])
    layer = HubFeatures.reading(files, size, config.backbone, name=FEATURES)
    trust(files)
    return layer(_prepare(inputs, config.crop, (layer.height, layer.width), 1 / 255, 0.0))


def _prepare(inputs: Any, crop: bool, size: tuple[int, int], factor: float, offset: float) -> Any:
    """(batch, height, width, 1 or 3) bytes -> (batch, *size, 3) times the factor plus the offset."""
    height, width, channels = inputs.shape[1:]
    h = inputs
    side = min(height, width)
    if height != width and crop:
        down, right = (height - side) // 2, (width - side) // 2
        cut = ((down, height - side - down), (right, width - side - right))
        h = keras.layers.Cropping2D(cut, name="crop")(h)
    if tuple(h.shape[1:3]) != size:
        h = Resize(*size, name="resize")(h)
    h = keras.layers.Rescaling(factor, offset, name="rescale")(h)
    if channels == 1:
        h = keras.layers.Concatenate(name="grey_to_rgb")([h, h, h])
    return h


def _backbone(h: Any, config: TransferConfig) -> Any:
    make = BACKBONES[config.backbone]
    settings: dict[str, Any] = {"alpha": config.alpha, "include_top": False}
    if config.backbone.startswith("mobilenet_v3"):
        settings["include_preprocessing"] = False  # Ours stands before it.
    flat = make(input_tensor=h, input_shape=tuple(h.shape[1:]), weights=None, **settings)
    if is_pretrained(config):
        # A model of its own to read into: some weight files are read by the order of all layers.
        plain = _read_weights(make, tuple(h.shape[1:]), config, settings)
        flat.set_weights(plain.get_weights())
    return flat.output


def _read_weights(
    make: Callable[..., keras.Model], shape: tuple[int, ...], config: TransferConfig, settings: dict[str, Any]
) -> keras.Model:
    if config.weights == IMAGENET:
        try:
            return make(input_shape=shape, weights=IMAGENET, **settings)
        except ValueError as error:
            raise UsageError(
                f"{config.backbone} must have a size and a width that ImageNet weights are published for.",
                received=f"model.size={config.size}, model.alpha={config.alpha} ({error})",
            ) from None
        except Exception as error:
            # Keras' download raises a plain Exception for an address that cannot be reached.
            raise StageError(
                "ImageNet weights are downloaded, once, by Keras.",
                stage="train",
                received=f"{type(error).__name__}: {error}",
                todo="Connect this machine, or fetch the file elsewhere and give it with --weights FILE.",
            ) from error
    model = make(input_shape=shape, weights=None, **settings)
    before = _kernels(model)
    try:
        with warnings.catch_warnings():
            # Keras warns of groups that a file has under another name; whether weights were read is looked at below.
            warnings.simplefilter("ignore")
            model.load_weights(os.path.expanduser(config.weights))
        left = [name for name, kernel in _kernels(model).items() if np.array_equal(kernel, before[name])]
        # Keras may leave what a file does not have as it was, and only warn: a backbone of random numbers.
        wrong = f"no weights of {', '.join(left[:3])}{' and others' if len(left) > 3 else ''}" if left else ""
    except (ValueError, KeyError, OSError) as error:
        wrong = str(error).splitlines()[0]
    if wrong:
        raise UsageError(
            f"The weights must be those of {config.backbone} with alpha {config.alpha:g}, without its top.",
            received=f"{config.weights} ({wrong})",
            todo="Set model.backbone and model.alpha to what the file was saved from.",
        )
    return model


def _kernels(model: keras.Model) -> dict[str, np.ndarray]:
    return {
        weight.path: keras.ops.convert_to_numpy(weight) for weight in model.weights if weight.path.endswith("kernel")
    }


def _check(task: Task, config: TransferConfig, dataset: Dataset) -> None:
    if is_handle(config.backbone):
        if config.weights != IMAGENET:
            raise UsageError(
                "A SavedModel brings its own weights.",
                received=f"model.weights={config.weights} with model.backbone={config.backbone}",
                todo="Leave --weights and model.weights out.",
            )
    elif config.backbone not in BACKBONES:
        raise UsageError(
            f"model.backbone must be one of {', '.join(BACKBONES)}, or a SavedModel of TensorFlow Hub.",
            received=config.backbone,
            todo="A SavedModel is named by its URL, or by its path with a / in it: ./folder, model.tar.gz.",
        )
    if task not in (Task.CLASSIFICATION, Task.EMBEDDING):
        raise UsageError("A backbone classifies or embeds.", received=f"task {task.value}")
    check_pictures(dataset)
    channels = dataset.train.x[INPUT].shape[-1]
    if channels not in (1, 3):
        raise UsageError("A backbone takes grey or RGB pictures.", received=f"{channels} channels")
    if not config.alpha > 0:
        raise UsageError("model.alpha must be above 0.", received=str(config.alpha))
    if config.weights not in (IMAGENET, NONE) and not Path(os.path.expanduser(config.weights)).is_file():
        raise UsageError(
            "Weights must be `imagenet`, `none` or an existing file.",
            received=config.weights or "nothing",
            todo="Give a .weights.h5 file of the backbone without its top: --weights FILE.",
        )
    if 0 < config.size < 32:
        raise UsageError("model.size must be at least 32 pixels.", received=str(config.size))
    below_one(config, "dropout")
    not_negative(config, "dense", "size", "l2")
