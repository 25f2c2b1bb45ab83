"""Export: a Keras model becomes a SavedModel with our named signature and static shapes, in a chosen lowering."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from edge_dl.bundle import (
    BeamsSpec,
    EncoderSpec,
    SequenceSpec,
    Signature,
    StateSpec,
    StreamSpec,
    TensorSpec,
    parse_stream,
)
from edge_dl.converters.messages import one_line
from edge_dl.converters.signature import Inputs, describe_inputs, name_outputs, output_names
from edge_dl.errors import EdgeError, StageError, UsageError
from edge_dl.files import read_json, write_json
from edge_dl.names import unique_names
from edge_dl.variants import Lowering

SAVED_MODEL = "saved_model"
RECORD = "export.json"
PREDICT = "predict"
STEP = "step"
STREAM = "stream"
DEFAULT_BEAMS = 4  # hypotheses that a decoder takes at a time, unless asked otherwise

__all__ = [
    "Export", "LayerRecord", "describe_inputs", "export", "name_outputs", "read_export", "require_tensorflow",
    "save_signature", "trace_signature",
]  # fmt: skip


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
        stream: how a session feeds a `stream` model.
        encoder: of a `decode` model, what is called before the steps; the signature is that of a step.
        beams: of a `decode` model, the step for several hypotheses.
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
    stream: StreamSpec | None = None
    encoder: EncoderSpec | None = None
    beams: BeamsSpec | None = None
    keras_inputs: Mapping[str, str] = field(default_factory=dict)
    keras_outputs: Mapping[str, str] = field(default_factory=dict)
    layers: tuple[LayerRecord, ...] = ()
    made_by: Mapping[str, str] = field(default_factory=dict)

    @property
    def saved_model(self) -> Path:
        """Folder of the SavedModel."""
        return self.folder / SAVED_MODEL

    @property
    def clip_inputs(self) -> tuple[TensorSpec, ...]:
        """The signature's inputs; of a stream those of a whole clip, of a `decode` the encoder's too."""
        if self.encoder is not None and self.sequence is not None:
            fed = [spec for spec in self.signature.inputs if spec.name in self.sequence.inputs]
            return (*self.encoder.inputs, *fed)
        if self.stream is None:
            return self.signature.inputs
        (spec,) = self.signature.inputs
        return (TensorSpec(spec.name, (spec.shape[0], self.stream.clip, *spec.shape[2:]), spec.dtype),)

    @property
    def parts(self) -> tuple[Export, ...]:
        """One export a signature, that of the main graph first; itself where it has one only."""
        if self.encoder is None:
            return (self,)
        step = replace(self, encoder=None, beams=None)
        encode = Signature(self.encoder.key, self.encoder.inputs, self.encoder.outputs)
        found = [step, replace(step, signature=encode, sequence=None)]
        if self.beams is not None:
            found.append(replace(step, signature=self._beams(self.beams)))
        return tuple(found)

    def _beams(self, beams: BeamsSpec) -> Signature:
        """The step's signature with `beams.count` rows of all that a step feeds and gives."""
        assert self.sequence is not None
        step, fed = self.signature, self.sequence.inputs

        def many(spec: Any) -> Any:
            return replace(spec, shape=(spec.shape[0] * beams.count, *spec.shape[1:]))

        return Signature(
            beams.key,
            tuple(many(spec) if spec.name in fed else spec for spec in step.inputs),
            tuple(many(spec) for spec in step.outputs),
            tuple(many(state) for state in step.states),
        )

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
        described, sequence = value["signature"], value["sequence"]
        signature = Signature(
            key=described["key"],
            inputs=tuple(_tensor_spec(item) for item in described["inputs"]),
            outputs=tuple(_tensor_spec(item) for item in described["outputs"]),
            states=tuple(StateSpec(**{**item, "shape": tuple(item["shape"])}) for item in described["states"]),
        )
        return Export(
            folder=folder,
            lowering=Lowering(value["lowering"]),
            batch=int(value["batch"]),
            signature=signature,
            sequence=None
            if sequence is None
            else SequenceSpec(tuple(sequence["inputs"]), int(sequence["steps"]), dict(sequence["outputs"])),
            stream=None if value.get("stream") is None else parse_stream(value["stream"], signature),
            encoder=None
            if value.get("encoder") is None
            else EncoderSpec(
                value["encoder"]["key"],
                tuple(_tensor_spec(item) for item in value["encoder"]["inputs"]),
                tuple(_tensor_spec(item) for item in value["encoder"]["outputs"]),
            ),
            beams=None if value.get("beams") is None else BeamsSpec(**value["beams"]),
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
    beams: int = DEFAULT_BEAMS,
) -> Export:
    """Write `model` as a SavedModel with named signatures, static shapes and recurrent layers in a lowering.

    Args:
        model: a built `keras.Model`; it is not changed. Needs Keras' TensorFlow backend.
        folder: where `saved_model/` and `export.json` go; what is there already is replaced.
        lowering: how recurrent layers are written; `Lowering.NONE` leaves the model as Keras traces it.
        batch: static batch size.
        input_shapes: per input name, the shape without the batch axis, where the model leaves an axis free.
        beams: of a `decode` model with a batch of 1, hypotheses that its decoder also takes at a time; below 2: none.

    Raises:
        UsageError: an axis is free and not given, a name is unknown, or the batch is not positive.
        RefusedError: the lowering cannot carry a layer; see `find_refusals`.
        StageError: TensorFlow could not trace or save the model.
    """
    from edge_dl.converters.layers import find_recurrent
    from edge_dl.converters.refusals import find_refusals, watch_calls

    require_tensorflow()
    inputs = describe_inputs(model, batch=batch, input_shapes=input_shapes)
    for refusal in find_refusals(model, lowering, input_shapes=input_shapes):
        raise refusal.error(lowering)
    if lowering.decodes:
        return _export_decode(model, Path(folder), lowering, inputs, batch, beams if batch == 1 and beams > 1 else 0)
    states: tuple[StateSpec, ...] = ()
    sequence = stream = None
    if lowering is Lowering.STREAM:
        from edge_dl.converters.streaming import trace_stream

        streamed = trace_stream(model, inputs)
        concrete, specs, states = streamed.concrete, streamed.inputs, streamed.states
        stream, notes = streamed.stream, streamed.notes
    elif lowering is Lowering.STEP:
        from edge_dl.converters.stepping import trace_step

        traced = trace_step(model, inputs, watch_calls(model, inputs))
        concrete, specs, states = traced.concrete, traced.inputs, traced.states
        sequence, notes = traced.sequence, traced.notes
    else:
        concrete, notes = _trace_whole(model, inputs, lowering)
        specs = inputs.specs
    outputs, keras_outputs = _describe_outputs(model, concrete, states)
    record = Export(
        folder=Path(folder),
        lowering=lowering,
        batch=batch,
        signature=Signature(STREAM if stream else STEP if sequence else PREDICT, specs, outputs, states),
        sequence=sequence,
        stream=stream,
        keras_inputs=inputs.keras_names,
        keras_outputs=keras_outputs,
        layers=tuple(LayerRecord(item.path, item.kind, notes.get(item.path, "")) for item in find_recurrent(model)),
        made_by=versions(),
    )
    save_signature(concrete, record)
    return record


def _export_decode(model: Any, folder: Path, lowering: Lowering, inputs: Inputs, batch: int, beams: int) -> Export:
    from edge_dl.converters.cutting import find_cut
    from edge_dl.converters.decoding import BEAMS, trace_decode
    from edge_dl.converters.layers import find_recurrent

    cut, refusals = find_cut(model, inputs)
    if cut is None:
        raise refusals[0].error(lowering)
    traced = trace_decode(cut, lowering, beams=beams)
    own = output_names(model)
    record = Export(
        folder=folder,
        lowering=lowering,
        batch=batch,
        signature=traced.step,
        sequence=traced.sequence,
        encoder=EncoderSpec(traced.encode.key, traced.encode.inputs, traced.encode.outputs),
        beams=BeamsSpec(BEAMS, beams) if beams else None,
        keras_inputs=inputs.keras_names,
        keras_outputs=dict(zip(unique_names(own), own, strict=True)),
        layers=tuple(
            LayerRecord(item.path, item.kind, traced.notes.get(item.path, "")) for item in find_recurrent(model)
        ),
        made_by=versions(),
    )
    save_signatures(traced.functions, record)
    return record


def require_tensorflow() -> None:
    """Check that Keras runs on TensorFlow, which alone can trace for TFLite.

    Raises:
        UsageError: Keras was imported with another backend.
    """
    import keras

    if keras.backend.backend() != "tensorflow":
        raise UsageError(
            "A model is exported by Keras' TensorFlow backend, whatever backend it was trained on.",
            received=f"KERAS_BACKEND={keras.backend.backend()}",
            todo="Set KERAS_BACKEND=tensorflow, load the .keras file and export it.",
        )


def _trace_whole(model: Any, inputs: Inputs, lowering: Lowering) -> tuple[Any, dict[str, str]]:
    import tensorflow as tf

    from edge_dl.converters.lowering import lowered

    def predict(**tensors: Any) -> dict[str, Any]:
        outputs = model(inputs.pack(tensors), training=False)
        return {name: tf.identity(value) for name, value in name_outputs(model, outputs).items()}

    with lowered(model, lowering) as notes:
        return trace_signature(predict, inputs.specs), notes


def trace_signature(function: Callable[..., dict[str, Any]], specs: Sequence[TensorSpec]) -> Any:
    """Trace a function of named tensors with static shapes.

    Raises:
        StageError: TensorFlow could not.
    """
    import tensorflow as tf

    # The model's Python is Keras' own business: autograph must not rewrite it.
    traced = tf.function(function, autograph=False)
    signature = {spec.name: tf.TensorSpec(spec.shape, spec.dtype, name=spec.name) for spec in specs}
    try:
        return traced.get_concrete_function(**signature)
    except EdgeError:
        raise
    except Exception as error:  # The user's layers may raise anything.
        raise StageError(
            "TensorFlow must be able to trace the model with static shapes.",
            stage="export",
            received=f"{type(error).__name__}: {one_line(error, 600)}",
        ) from error


def _describe_outputs(
    model: Any, concrete: Any, states: Sequence[StateSpec]
) -> tuple[tuple[TensorSpec, ...], dict[str, str]]:
    """A traced model's outputs in the model's own order, and our name -> Keras' name."""
    own = output_names(model)
    keras_outputs = dict(zip(unique_names(own), own, strict=True))
    traced = {name: value for name, value in concrete.structured_outputs.items() if name not in _next(states)}
    if set(keras_outputs) != set(traced):  # A subclassed model names nothing.
        keras_outputs = {name: name for name in traced}
    return tuple(output_spec(name, traced[name]) for name in keras_outputs), keras_outputs


def _next(states: Sequence[StateSpec]) -> set[str]:
    return {state.output for state in states}


def output_spec(name: str, value: Any) -> TensorSpec:
    """Name, shape and type of a traced output.

    Raises:
        StageError: its shape is not static.
    """
    shape: list[Any] = value.shape.as_list() if value.shape.rank is not None else [None]
    if None in shape:
        raise StageError(
            "Every output must have a static shape on the device.",
            stage="export",
            received=f"output {name!r} of shape {shape}",
            todo="Give the shapes of all inputs, or take operators out of the model whose result size depends on data.",
        )
    return TensorSpec(name, tuple(shape), value.dtype.name)


def save_signature(concrete: Any, record: Export) -> None:
    """Write a traced function as a SavedModel under the record's signature key, and the record beside it."""
    save_signatures({record.signature.key: concrete}, record)


def save_signatures(functions: Mapping[str, Any], record: Export) -> None:
    """Write traced functions as a SavedModel by their signature keys, and the record beside it."""
    import tensorflow as tf

    folder = record.folder
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RECORD).unlink(missing_ok=True)
    shutil.rmtree(record.saved_model, ignore_errors=True)
    module = tf.Module()
    # SavedModel stores only variables that hang on the saved object.
    variables = [variable for concrete in functions.values() for variable in concrete.graph.variables]
    module.variables_of_model = list({id(variable): variable for variable in variables}.values())
    tf.saved_model.save(module, str(record.saved_model), signatures=dict(functions))
    # The record comes last: a folder with a record is a whole export.
    write_json(folder / RECORD, record.to_json())


def versions() -> dict[str, str]:
    """Versions of what writes an export."""
    import keras
    import tensorflow as tf

    from edge_dl import __version__

    return {"edge_dl": __version__, "tensorflow": tf.__version__, "keras": keras.__version__}
