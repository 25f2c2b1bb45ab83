"""Models that a user brings: .keras, .h5 and SavedModel folders, loaded with clear errors."""

from __future__ import annotations

import contextlib
import importlib
import json
import sys
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from edge_dl.converters.messages import one_line
from edge_dl.errors import EdgeError, UsageError

SAVE_AGAIN = "Save the model again with model.save('name.keras')."


def load_model(path: str | Path, custom: Sequence[str] = (), unsafe: bool = False) -> Any:
    """Load a Keras model, ready for `find_refusals` and `export`.

    Args:
        path: a .keras file, or an .h5 file that Keras 3 can read.
        custom: the user's own classes and functions as "module:name" (the current folder is searched too).
        unsafe: whether Lambda layers, which run code that the file holds, may be loaded, and SavedModels inside it
            that were not named as a backbone on this machine.

    Returns:
        The `keras.Model`, not compiled.

    Raises:
        UsageError: the file is missing, cut off, no model, holds a Lambda layer, needs a class that `custom` does not
            name, or is a SavedModel, which holds no Keras layers any more.
    """
    path = Path(path)
    if not path.exists():
        raise UsageError("The model file must exist.", received=str(path))
    if path.is_dir():
        raise _folder_error(path)
    objects = dict(load_custom(item) for item in custom)
    if zipfile.is_zipfile(path):
        config = _read_config(path)
    elif path.suffix == ".keras":
        raise UsageError(
            "A .keras file must be a whole zip archive.",
            received=f"{path} ({path.stat().st_size} bytes, cut off or not a model)",
            todo="Copy it again, or save the model again.",
        )
    elif _is_hdf5(path):
        config = _read_hdf5_config(path)
    else:
        raise UsageError(
            "A model must be a .keras file or an .h5 file that holds the architecture too.",
            received=f"{path}, which is neither",
            todo=SAVE_AGAIN,
        )
    if not unsafe:
        lambdas = [name for kind, name, _ in _classes(config) if kind == "Lambda"]
        if lambdas:
            raise UsageError(
                "A Lambda layer runs code that the model file holds, so it is not loaded.",
                received=f"{path} with Lambda layer {', '.join(repr(name) for name in lambdas)}",
                todo="Write it as a layer of your own and name it with --custom module:Class, or pass --unsafe if you "
                "trust the file.",
            )
    return _load(path, objects, unsafe, {kind: module for kind, _, module in _classes(config)})


def load_custom(item: str) -> tuple[str, Any]:
    """Import a user's class or function named "module:name"; returns the name and the object.

    Raises:
        UsageError: the text is not of that form, or the import fails.
    """
    module_name, separator, name = item.partition(":")
    if not separator or not module_name or not name:
        raise UsageError("A custom class is named as module:Class.", received=item)
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # The user's module may fail in any way.
        raise UsageError(
            "The module of a custom class must be importable.", received=f"{item} ({type(error).__name__}: {error})"
        ) from error
    if not hasattr(module, name):
        raise UsageError("The module must hold the custom class.", received=f"{item}: {module_name} has no {name}")
    return name, getattr(module, name)


def is_saved_model(path: str | Path) -> bool:
    """Whether `path` is a SavedModel folder."""
    return (Path(path) / "saved_model.pb").is_file()


def _folder_error(path: Path) -> UsageError:
    if is_saved_model(path):
        return UsageError(
            "A SavedModel holds operators, not Keras layers, so its recurrent layers cannot be lowered again.",
            received=str(path),
            todo="Give the .keras file for lowerings; the SavedModel itself converts as it is, with the lowering none.",
        )
    return UsageError(
        "A model must be a .keras file, an .h5 file or a SavedModel folder (with saved_model.pb).",
        received=f"{path}, a folder without saved_model.pb",
    )


def _is_hdf5(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(8) == b"\x89HDF\r\n\x1a\n"


def _read_config(path: Path) -> Any:
    try:
        with zipfile.ZipFile(path) as archive:
            return json.loads(archive.read("config.json"))
    except (KeyError, ValueError, OSError, zipfile.BadZipFile, RuntimeError) as error:
        raise UsageError(
            "A .keras file must hold config.json.",
            received=f"{path} ({error})",
            todo="It is cut off or not a Keras model. " + SAVE_AGAIN,
        ) from None


def _read_hdf5_config(path: Path) -> Any:
    import h5py

    try:
        with h5py.File(path, "r") as file:
            text = file.attrs.get("model_config")
    except OSError as error:
        raise UsageError("An .h5 file must be whole.", received=f"{path} ({error})", todo=SAVE_AGAIN) from None
    if text is None:
        raise UsageError(
            "An .h5 file must hold the architecture, not the weights alone.",
            received=str(path),
            todo="Build the model in Python, load the weights into it, and save it as .keras.",
        )
    return json.loads(text)


def _classes(config: Any) -> Iterator[tuple[str, str, str]]:
    """(class name, layer name, module) of every object in a Keras configuration."""
    if isinstance(config, dict):
        if isinstance(config.get("class_name"), str):
            inner = config.get("config")
            name = inner.get("name", "") if isinstance(inner, dict) else ""
            yield config["class_name"], str(name), str(config.get("module") or "")
        for value in config.values():
            yield from _classes(value)
    elif isinstance(config, list):
        for value in config:
            yield from _classes(value)


def _load(path: Path, objects: dict[str, Any], unsafe: bool, modules: dict[str, str]) -> Any:
    import keras

    from edge_dl import models
    from edge_dl.models.hub_files import trusting

    models.register()  # Models of our own recipes load without a --custom.
    try:
        with _keras2_settings(), trusting(unsafe):
            model = keras.models.load_model(path, custom_objects=objects, compile=False, safe_mode=not unsafe)
    except EdgeError:
        raise
    except Exception as error:  # Keras raises many types here, the user's own classes any.
        raise _load_error(path, error, objects, modules) from error
    if not isinstance(model, keras.Model):
        raise UsageError("The file must hold a Keras model.", received=f"{path}, which holds {type(model).__name__}")
    for layer in model._flatten_layers():
        if isinstance(layer, models.HubFeatures):
            layer.require()
    return model


@contextlib.contextmanager
def _keras2_settings() -> Iterator[None]:
    """Let Keras 3 read recurrent layers that Keras 2 (tf-keras) wrote with a setting that Keras 3 knows no more."""
    import keras

    layers = keras.layers

    def reader(own: Any) -> Any:
        def from_config(kind: Any, config: dict[str, Any], **settings: Any) -> Any:
            config = dict(config)
            if config.pop("time_major", False):
                raise UsageError(
                    "A recurrent layer must take (batch, time, features).",
                    received=f"layer {config.get('name')!r} with time_major=True, which Keras 3 does not have",
                    todo="Build the model without it, transposing its input, and save it again.",
                )
            return own.__func__(kind, config, **settings)

        return classmethod(from_config)

    before = {kind: kind.__dict__["from_config"] for kind in (layers.RNN, layers.SimpleRNN, layers.GRU, layers.LSTM)}
    for kind, own in before.items():
        kind.from_config = reader(own)
    try:
        yield
    finally:
        for kind, own in before.items():
            kind.from_config = own


def _load_error(path: Path, error: Exception, objects: dict[str, Any], modules: dict[str, str]) -> UsageError:
    text = one_line(error, limit=None)
    for pattern in ("Could not locate class '", "Unknown layer: '", "Could not locate function '", "Unknown object: '"):
        if pattern in text:
            name = text.split(pattern, 1)[1].split("'", 1)[0]
            return UsageError(
                "A class of your own must be named when the model is loaded.",
                received=f"{path}, which needs {name}" + (f"; given: {', '.join(objects)}" if objects else ""),
                todo=f"Add --custom {modules.get(name) or 'module'}:{name}.",
            )
    return UsageError(
        "Keras must be able to load the model file.",
        received=f"{path} ({type(error).__name__}: {one_line(text)})",
        todo="It may be cut off, or made by another version. " + SAVE_AGAIN,
    )
