"""Export: a Keras model becomes a SavedModel with our named signature and static shapes, in a chosen lowering."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from edge_dl.bundle import SequenceSpec, Signature, StateSpec, TensorSpec
from edge_dl.errors import EdgeError, StageError, UsageError
from edge_dl.files import read_json, write_json
from edge_dl.variants import Lowering

SAVED_MODEL = "saved_model"
RECORD = "export.json"
PREDICT = "predict"
STEP = "step"


@dataclass(frozen=True)
class LayerRecord:
    """A recurrent layer and how it was written.

    Attributes:
        path: where it is in the model.
        kind: its class.
        how: the lowering's choices in words, e.g. "loop over 10 blocks of 5 steps".
    """

    path: str
    kind: str
    how: str = ""


@dataclass(frozen=True)
class Export:
    """What `export` wrote: a SavedModel and everything that a manifest says about signature and sequence.

    Attributes:
        folder: holds `saved_model/` and `export.json`.
        lowering: how recurrent layers are written.
        batch: static batch size.
        signature: inputs, outputs and states by our names, as the manifest holds them (not quantized yet).
        sequence: how a session feeds a `step` model; None for whole inputs.
        keras_inputs: our input name -> the Keras model's own name.
        keras_outputs: our output name -> the Keras model's own name.
        layers: recurrent layers, in model order.
        made_by: package versions.
    """

    folder: Path
    lowering: Lowering
    batch: int
    signature: Signature
    sequence: SequenceSpec | None = None
    keras_inputs: Mapping[str, str] = field(default_factory=dict)
    keras_outputs: Mapping[str, str] = field(default_factory=dict)
    layers: tuple[LayerRecord, ...] = ()
    made_by: Mapping[str, str] = field(default_factory=dict)

    @property
    def saved_model(self) -> Path:
        """Folder of the SavedModel."""
        return self.folder / SAVED_MODEL

    def to_json(self) -> dict[str, Any]:
        """Plain JSON value; `folder` is left out, since an export may be moved."""
        value = asdict(self)
        del value["folder"]
        value["lowering"] = self.lowering.value
        return value


def read_export(folder: str | Path) -> Export:
    """Read what `export` wrote into `folder`.

    Raises:
        UsageError: the folder holds no whole export.
    """
    folder = Path(folder)
    if not (folder / SAVED_MODEL / "saved_model.pb").is_file():
        raise UsageError("An export folder holds a SavedModel.", received=str(folder), todo="Export the model again.")
    value = read_json(folder / RECORD)
    try:
        signature, sequence = value["signature"], value["sequence"]
        return Export(
            folder=folder,
            lowering=Lowering(value["lowering"]),
            batch=int(value["batch"]),
            signature=Signature(
                key=signature["key"],
                inputs=tuple(_tensor_spec(item) for item in signature["inputs"]),
                outputs=tuple(_tensor_spec(item) for item in signature["outputs"]),
                states=tuple(StateSpec(**{**item, "shape": tuple(item["shape"])}) for item in signature["states"]),
            ),
            sequence=None
            if sequence is None
            else SequenceSpec(tuple(sequence["inputs"]), int(sequence["steps"]), dict(sequence["outputs"])),
            keras_inputs=dict(value["keras_inputs"]),
            keras_outputs=dict(value["keras_outputs"]),
            layers=tuple(LayerRecord(**item) for item in value["layers"]),
            made_by=dict(value["made_by"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(
            f"{RECORD} must be an export record.", received=f"{folder / RECORD} ({error})", todo="Export again."
        ) from None


def _tensor_spec(value: Mapping[str, Any]) -> TensorSpec:
    return TensorSpec(**{**value, "shape": tuple(value["shape"])})


def export(
    model: Any,
    folder: str | Path,
    lowering: Lowering,
    *,
    batch: int = 1,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
) -> Export:
    """Write `model` as a SavedModel with one named signature, static shapes and recurrent layers in a lowering.

    Args:
        model: a built `keras.Model`; it is not changed. Needs Keras' TensorFlow backend.
        folder: where `saved_model/` and `export.json` go; what is there already is replaced.
        lowering: how recurrent layers are written; `Lowering.NONE` leaves the model as Keras traces it.
        batch: static batch size.
        input_shapes: per input name, the shape without the batch axis, where the model leaves an axis free.

    Raises:
        UsageError: an axis is free and not given, a name is unknown, or the batch is not positive.
        RefusedError: the lowering cannot carry a layer; see `find_refusals`.
        StageError: TensorFlow could not trace or save the model.
    """
    import tensorflow as tf

    from edge_dl.converters.layers import find_recurrent
    from edge_dl.converters.lowering import find_refusals, lowered

    folder = Path(folder)
    inputs = describe_inputs(model, batch=batch, input_shapes=input_shapes)
    for refusal in find_refusals(model, lowering):
        raise refusal.error(lowering)

    def predict(**tensors: Any) -> dict[str, Any]:
        outputs = model(inputs.pack(tensors), training=False)
        return {name: tf.identity(value) for name, value in name_outputs(model, outputs).items()}

    with lowered(model, lowering):
        concrete = _trace(predict, inputs.specs)
    outputs = tuple(_output_spec(name, value) for name, value in concrete.structured_outputs.items())
    layers = tuple(LayerRecord(item.path, item.kind) for item in find_recurrent(model))
    record = Export(
        folder=folder,
        lowering=lowering,
        batch=batch,
        signature=Signature(PREDICT, inputs.specs, outputs),
        keras_inputs=inputs.keras_names,
        keras_outputs=dict(zip((spec.name for spec in outputs), output_names(model), strict=False)),
        layers=layers,
        made_by=_versions(),
    )
    _save(concrete, record)
    return record


@dataclass(frozen=True)
class Inputs:
    """A model's inputs by our names.

    Attributes:
        specs: name, static shape and type of each, in the model's order.
        keras_names: our name -> Keras' name.
        pack: turns tensors by our names into the structure that the model is called with.
    """

    specs: tuple[TensorSpec, ...]
    keras_names: Mapping[str, str]
    pack: Callable[[Mapping[str, Any]], Any]


def describe_inputs(model: Any, *, batch: int = 1, input_shapes: Mapping[str, Sequence[int]] | None = None) -> Inputs:
    """Names, static shapes and types of a Keras model's inputs.

    Raises:
        UsageError: an axis is free and not given in `input_shapes`, a name there is unknown, or the model takes text.
    """
    import keras

    if batch < 1:
        raise UsageError("The batch size must be at least 1.", received=str(batch))
    tensors = keras.tree.flatten(model.inputs) if getattr(model, "inputs", None) else []
    structure = getattr(getattr(model, "_functional", None) or model, "_inputs_struct", None)
    keras_names = [tensor.name for tensor in tensors]
    names = unique_names(keras_names)
    given = dict(input_shapes or {})
    specs = []
    for name, keras_name, tensor in zip(names, keras_names, tensors, strict=True):
        shape = tuple(tensor.shape[1:])
        wanted = given.pop(name, given.pop(keras_name, None))
        if wanted is not None:
            wanted = tuple(int(size) for size in wanted)
            if len(wanted) != len(shape) or any(
                b not in (None, a) or a < 1 for a, b in zip(wanted, shape, strict=True)
            ):
                raise UsageError(
                    f"The shape given for input {name!r} must fit the model.", received=f"{wanted} for {shape}"
                )
            shape = wanted
        if None in shape:
            raise UsageError(
                "Every axis must have a fixed size on the device.",
                received=f"input {name!r} of shape {tuple('?' if size is None else size for size in shape)}",
                todo=f"Give the shape without the batch axis, for example --shape {name}="
                + ",".join("50" if size is None else str(size) for size in shape)
                + ".",
            )
        dtype = keras.backend.standardize_dtype(tensor.dtype)
        if dtype == "string":
            raise UsageError("A model on a device takes numbers.", received=f"input {name!r} of text")
        specs.append(TensorSpec(name, (batch, *shape), dtype))
    if given:
        raise UsageError("The model has no such input.", received=", ".join(given), todo=f"Inputs: {', '.join(names)}.")

    def pack(values: Mapping[str, Any]) -> Any:
        flat = [values[name] for name in names]
        return keras.tree.pack_sequence_as(structure, flat)

    return Inputs(tuple(specs), dict(zip(names, keras_names, strict=True)), pack)


def output_names(model: Any) -> list[str]:
    """Keras' names of a model's outputs, in the order in which their structure is flattened."""
    import keras

    functional = getattr(model, "_functional", None) or model
    structure = getattr(functional, "_outputs_struct", None)
    if isinstance(structure, dict):
        return [str(path[0]) for path, _ in keras.tree.flatten_with_path(structure)]
    names = list(getattr(functional, "output_names", None) or [])
    return names


def name_outputs(model: Any, outputs: Any) -> dict[str, Any]:
    """What a model returned, as a flat mapping by our output names."""
    import keras

    flat = keras.tree.flatten(outputs)
    names = output_names(model)
    if len(names) != len(flat):
        names = ["output"] if len(flat) == 1 else [f"output_{index}" for index in range(len(flat))]
    return dict(zip(unique_names(names), flat, strict=True))


def unique_names(names: Sequence[str]) -> list[str]:
    """Names made of letters, digits and underscores, each once: "a b/c" -> "a_b_c", a second "x" -> "x_1"."""
    result: list[str] = []
    for name in names:
        plain = re.sub(r"[^0-9A-Za-z_]", "_", name) or "tensor"
        if not re.match(r"[A-Za-z]", plain):
            plain = f"t{plain}"
        candidate, number = plain, 0
        while candidate in result:
            number += 1
            candidate = f"{plain}_{number}"
        result.append(candidate)
    return result


def _trace(function: Callable[..., dict[str, Any]], specs: Sequence[TensorSpec]) -> Any:
    import tensorflow as tf

    # The model's Python is Keras' own business: autograph must not rewrite it.
    traced = tf.function(function, autograph=False)
    signature = {spec.name: tf.TensorSpec(spec.shape, spec.dtype, name=spec.name) for spec in specs}
    try:
        return traced.get_concrete_function(**signature)
    except EdgeError:
        raise
    except Exception as error:  # The user's layers may raise anything.
        text = " ".join(str(error).split())
        raise StageError(
            "TensorFlow must be able to trace the model with static shapes.",
            stage="export",
            received=f"{type(error).__name__}: {text[:600]}",
        ) from error


def _output_spec(name: str, value: Any) -> TensorSpec:
    shape = value.shape.as_list() if value.shape.rank is not None else [None]
    if None in shape:
        raise StageError(
            "Every output must have a static shape on the device.",
            stage="export",
            received=f"output {name!r} of shape {shape}",
            todo="Give the shapes of all inputs, or take operators out of the model whose result size depends on data.",
        )
    return TensorSpec(name, tuple(shape), value.dtype.name)


def _save(concrete: Any, record: Export) -> None:
    import tensorflow as tf

    folder = record.folder
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RECORD).unlink(missing_ok=True)
    shutil.rmtree(record.saved_model, ignore_errors=True)
    module = tf.Module()
    # SavedModel stores only variables that hang on the saved object.
    module.variables_of_model = list(concrete.graph.variables)
    tf.saved_model.save(module, str(record.saved_model), signatures={record.signature.key: concrete})
    # The record comes last: a folder with a record is a whole export.
    write_json(folder / RECORD, record.to_json())


def _versions() -> dict[str, str]:
    import keras
    import tensorflow as tf

    from edge_dl import __version__

    return {"edge_dl": __version__, "tensorflow": tf.__version__, "keras": keras.__version__}
