"""A backbone from TensorFlow Hub: a SavedModel that turns pictures into feature vectors, as a Keras layer.

By Hub's convention for image feature vectors it takes (batch, height, width, 3) float32 from 0 to 1 and gives (batch,
features) float32: https://www.tensorflow.org/hub/common_saved_model_apis/images. `tensorflow_hub.KerasLayer` is for
Keras 2 alone, and `keras.layers.TFSMLayer` names a folder of this machine in the model file.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from edge_dl.errors import UsageError
from edge_dl.models.hub_files import Files, is_trusted, read_folder, unpacked, write_folder

_SIGNATURE = "serving_default"
CONVENTION = (
    "A backbone's SavedModel must turn pictures (batch, height, width, 3), float32 from 0 to 1, into vectors "
    "(batch, features) float32, as TensorFlow Hub's image feature vectors do."
)


@dataclass
class _Opened:
    """A loaded SavedModel. Keras does not look into plain objects: what is in here is not tracked twice.

    Attributes:
        files: the SavedModel, as it was published.
        loaded: what TensorFlow made of it; its variables live as long as this.
        call: pictures -> vectors, in inference mode.
        weights: Keras variables around the SavedModel's own.
        published: digests of their values as they were published.
    """

    files: Files
    loaded: Any
    call: Callable[[Any], Any]
    weights: list[keras.Variable]
    published: list[str]


@keras.saving.register_keras_serializable(package="edge_dl")
class HubFeatures(keras.layers.Layer):
    """Feature vectors (batch, features) of pictures (batch, height, width, 3) from 0 to 1, by a SavedModel.

    It is always called in inference mode, also where its weights train. The SavedModel travels inside the .keras file;
    weights that training changed are stored like other layers' and put into it when it is loaded. Make it with
    `HubFeatures.reading`. TensorFlow only.

    Args:
        features: numbers of a vector.
        size: height and width of the pictures.
        source: the handle or path it was made from, for the record.
    """

    def __init__(self, features: int, size: tuple[int, int], source: str = "", **kwargs: Any) -> None:
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)
        self.features, self.source = int(features), source
        self.height, self.width = (int(side) for side in size)
        self._opened: _Opened | None = None
        self._refusal: UsageError | None = None
        self._tuned: Mapping[str, np.ndarray] = {}

    @classmethod
    def reading(cls, files: Files, size: int, source: str, **kwargs: Any) -> HubFeatures:
        """The layer around a SavedModel.

        Args:
            files: the SavedModel.
            size: side of the pictures in pixels where the SavedModel leaves it free.
            source: the handle or path it comes from.
            kwargs: passed to the layer, such as `name`.

        Raises:
            UsageError: Keras runs on another backend, the SavedModel cannot be loaded, or it is no image feature
                vector.
        """
        loaded = _load(files, source)
        sides = _fixed_size(loaded) or (size, size)
        call, concrete = _function(loaded, sides, source)
        try:
            vectors = np.asarray(call(np.zeros((1, *sides, 3), np.float32)))
        except Exception as error:  # A graph may fail in any way.
            raise UsageError(CONVENTION, received=f"{source} ({type(error).__name__}: {error})") from None
        if vectors.ndim != 2 or len(vectors) != 1 or vectors.dtype != np.float32:
            raise UsageError(
                CONVENTION,
                received=f"{source}, which gives {vectors.dtype} of shape {vectors.shape} for one picture",
                todo="Take the model's feature-vector variant.",
            )
        layer = cls(vectors.shape[1], sides, source, **kwargs)
        layer._enter(files, loaded, call, concrete)
        return layer

    def call(self, inputs: Any) -> Any:
        """Vectors of pictures."""
        vectors = self.require().call(inputs)
        vectors.set_shape((inputs.shape[0], self.features))
        return vectors

    def require(self) -> _Opened:
        """The SavedModel.

        Raises:
            UsageError: there is none, or it was not loaded.
        """
        if self._opened is None:
            raise self._refusal or UsageError(
                "A backbone from TensorFlow Hub computes with its SavedModel.",
                received=f"layer {self.name!r} without one",
                todo="Load the whole .keras file that it was saved in, or build the model anew.",
            )
        return self._opened

    def compute_output_shape(self, input_shape: Any) -> Any:
        """(batch, features)."""
        return (input_shape[0], self.features)

    @property
    def widest(self) -> int:
        """A guess at the most numbers that one of its operators keeps of a picture.

        Eight times the picture: MobileNetV2 keeps 96 channels at half the resolution.
        """
        return 8 * math.prod((self.height, self.width, 3))

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        config = super().get_config()
        return {**config, "features": self.features, "size": [self.height, self.width], "source": self.source}

    def save_assets(self, path: Any) -> None:
        """Write the SavedModel into the .keras file."""
        if self._opened is not None:
            write_folder(self._opened.files, path)

    def load_assets(self, path: Any) -> None:
        """Open the SavedModel of a .keras file.

        Keras would wrap what is raised here: `require` raises it.
        """
        if self._opened is None:
            try:
                self._open(read_folder(Path(path)))
            except UsageError as error:
                self._refusal = error

    def _open(self, files: Files) -> None:
        if not is_trusted(files):
            raise UsageError(
                "A SavedModel is a program that can read and write files: inside a model file from elsewhere it is not "
                "loaded.",
                received=f"layer {self.name!r}, made from {self.source or 'an unknown source'}",
                todo="If you trust it, give the .keras file itself with --unsafe; or train again here, with --force "
                "and --set model.backbone=HANDLE.",
            )
        loaded = _load(files, self.source)
        self._enter(files, loaded, *_function(loaded, (self.height, self.width), self.source))

    def save_own_variables(self, store: Any) -> None:
        """Store the weights that are not as they were published."""
        if self._opened is None:
            return
        for number, (weight, published) in enumerate(zip(self._opened.weights, self._opened.published, strict=True)):
            if _digest(weight) != published:
                store[str(number)] = keras.ops.convert_to_numpy(weight)

    def load_own_variables(self, store: Any) -> None:
        """Take the weights that training changed; Keras gives them before the SavedModel."""
        self._tuned = {key: np.asarray(store[key]) for key in store.keys()}  # noqa: SIM118 - Keras' store is no dict.
        self._put_tuned()

    def _put_tuned(self) -> None:
        if self._opened is not None:
            for key, value in self._tuned.items():
                self._opened.weights[int(key)].assign(value)

    def _enter(self, files: Files, loaded: Any, call: Callable[[Any], Any], concrete: Any) -> None:
        """Make the SavedModel's variables this layer's weights: the very same, not copies."""
        # In a file, the SavedModel comes after the layers were built, and a built layer takes no more weights.
        locked = self._tracker.locked
        self._tracker.unlock()
        listed = getattr(loaded, "trainable_variables", None)
        able = {id(item) for item in (concrete.trainable_variables if listed is None else listed)}
        weights = []
        for item in _in_order(loaded, concrete):
            weight = keras.Variable(
                initializer=item,
                shape=tuple(item.shape),
                dtype=item.dtype.name,
                trainable=id(item) in able,
                name=item.name.split(":")[0].replace("/", "_"),
            )
            weights.append(weight)
            self._track_variable(weight)
        if locked:
            self._tracker.lock()
        self._opened = _Opened(files, loaded, call, weights, [_digest(weight) for weight in weights])
        self._put_tuned()


def _load(files: Files, source: str) -> Any:
    if keras.backend.backend() != "tensorflow":
        raise UsageError(
            "A backbone from TensorFlow Hub is TensorFlow's graph: it trains and computes on TensorFlow alone.",
            received=f"{source} on {keras.backend.backend()}",
            todo="Set training.backend=tensorflow (KERAS_BACKEND=tensorflow).",
        )
    import tensorflow as tf

    try:
        with unpacked(files) as folder:
            loaded = tf.saved_model.load(folder)
    except Exception as error:  # The loader raises whatever protobuf and TensorFlow raise.
        raise UsageError(
            "A backbone's SavedModel must be readable.",
            received=f"{source} ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''})",
            todo="It may be cut off: download it again.",
        ) from None
    if hasattr(loaded, "graph"):  # TensorFlow wraps graphs of its first version into one function.
        raise UsageError(
            "A backbone must be a TF2 SavedModel.",
            received=f"{source}, a SavedModel of TensorFlow 1",
            todo="Take the model's TF2 version.",
        )
    return loaded


def _functions(loaded: Any) -> list[Any]:
    """The SavedModel's traced functions of pictures: of its call, or else of its signature."""
    if hasattr(loaded, "__call__") and hasattr(loaded.__call__, "concrete_functions"):  # noqa: B004 - restored ones.
        return list(loaded.__call__.concrete_functions)
    signatures = dict(loaded.signatures)
    return [signatures[_SIGNATURE]] if _SIGNATURE in signatures else list(signatures.values())[:1]


def _fixed_size(loaded: Any) -> tuple[int, int] | None:
    """Height and width of the pictures, where every traced function has the same fixed ones."""
    import tensorflow as tf

    found = set()
    for function in _functions(loaded):
        specs = tf.nest.flatten(function.structured_input_signature)
        shapes = [spec.shape for spec in specs if isinstance(spec, tf.TensorSpec) and spec.shape.rank == 4]
        found |= {tuple(shape[1:3]) for shape in shapes[:1]}
    if len(found) != 1 or None in (sides := next(iter(found))):
        return None
    return sides


def _function(loaded: Any, size: tuple[int, int], source: str) -> tuple[Callable[[Any], Any], Any]:
    """Pictures -> vectors in inference mode, and its traced function, which tells the variables."""
    import tensorflow as tf

    spec = tf.TensorSpec((None, *size, 3), tf.float32)
    functions = _functions(loaded)
    reason = "no function and no signature"
    if functions and functions[0] not in dict(loaded.signatures).values():
        for mode in ({"training": False}, {}):
            try:
                return functools.partial(loaded.__call__, **mode), loaded.__call__.get_concrete_function(spec, **mode)
            except (TypeError, ValueError):
                known = [function.structured_input_signature for function in functions]
                reason = f"functions of {'; '.join(map(str, known))}, called with {spec}"
    elif functions:
        [signature] = functions
        _, taken = signature.structured_input_signature
        if len(taken) == 1 and len(signature.structured_outputs) == 1:
            [name], [answer] = taken, signature.structured_outputs
            if spec.is_compatible_with(taken[name]) or taken[name].is_compatible_with(spec):
                return lambda images: signature(**{name: tf.convert_to_tensor(images)})[answer], signature
        reason = f"a signature of {taken}, called with {spec}"
    raise UsageError(CONVENTION, received=f"{source} with {' '.join(reason.split())[:400]}")


def _in_order(loaded: Any, concrete: Any) -> list[Any]:
    """The variables that inference reads, in the order of the file: a function traced here has them in any order."""
    read = {id(item) for item in concrete.variables}
    found = {id(item): item for function in _functions(loaded) for item in function.variables}
    return [item for key, item in found.items() if key in read]


def _digest(weight: keras.Variable) -> str:
    return hashlib.sha256(np.ascontiguousarray(keras.ops.convert_to_numpy(weight)).tobytes()).hexdigest()
