"""What a model comes from: a Keras file, a SavedModel or a .tflite, behind one small interface.

A SavedModel and a .tflite hold graphs, not layers: they convert as they are (`Lowering.NONE`).
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from edge_dl.bundle import Signature, TensorSpec
from edge_dl.converters.exporting import DEFAULT_BEAMS
from edge_dl.converters.messages import one_line
from edge_dl.errors import RefusedError, UsageError
from edge_dl.names import unique_names
from edge_dl.variants import Lowering


class Source(Protocol):
    """A model that can be described, exported and asked."""

    def describe(self, shapes: Mapping[str, Sequence[int]], data: Mapping[str, Sequence[int]]) -> dict[str, Any]:
        """Kind, recurrent layers with their steps, lowerings with their refusals, and the shapes of free inputs.

        Args:
            shapes: input shapes as the user gave them, without the batch axis.
            data: shapes of a split's inputs, taken for axes that are free and not given.

        Returns:
            "kind", "layers" [{"path", "kind", "steps"}], "allowed" [lowering], "refusals" {lowering: [{"layer",
            "reason", "todo"}]}, "by_name" the same for lowerings that are made only when asked for by name,
            "decoding" the lowerings with which an encoder and its decoder can be told apart, "tokens" whether what the
            decoder is fed are tokens that it said, "encoder_steps" steps of the layers that are not the decoder's,
            "shapes" {input: shape} to export with.
        """

    def export(
        self,
        folder: Path,
        lowering: Lowering,
        *,
        batch: int,
        input_shapes: Mapping[str, Sequence[int]] | None,
        beams: int = DEFAULT_BEAMS,
    ) -> dict[str, Any]:
        """Write an export; returns its record."""

    def whole_inputs(self, export: Path) -> tuple[TensorSpec, ...]:
        """Inputs of the whole model (not of one time step) by our names, with the exported shapes."""

    def predict(self, x: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The model's float32 answers, by our names; sample axis first on both sides."""


def open_source(path: str, custom: tuple[str, ...] = (), unsafe: bool = False) -> Source:
    """Open a model file or folder. One model is kept open: a worker's jobs are about the same one.

    Raises:
        UsageError: the path holds no model that can be read.
    """
    file = Path(path)
    if not file.exists():
        raise UsageError("The model must exist.", received=path)
    stamp = max(item.stat().st_mtime_ns for item in [file, *file.glob("*.pb")])
    return _open(path, custom, unsafe, stamp)


@functools.lru_cache(maxsize=1)
def _open(path: str, custom: tuple[str, ...], unsafe: bool, stamp: int) -> Source:
    file = Path(path)
    if file.is_dir():
        return SavedModelSource(file)
    if is_tflite(file):
        return TfliteSource(file)
    # The exporter traces with TensorFlow, whatever backend the model was trained on.
    os.environ["KERAS_BACKEND"] = "tensorflow"
    from edge_dl.converters.loading import load_model

    return KerasSource(load_model(path, custom=custom, unsafe=unsafe))


def is_tflite(path: Path) -> bool:
    """Whether a file is a .tflite by its name or by the identifier inside."""
    if path.suffix == ".tflite":
        return True
    with path.open("rb") as file:
        return file.read(8)[4:] == b"TFL3"


class KerasSource:
    """A Keras model."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self._inputs: Any = None

    def describe(self, shapes: Mapping[str, Sequence[int]], data: Mapping[str, Sequence[int]]) -> dict[str, Any]:
        """Everything, from the layers."""
        from edge_dl.converters.cutting import find_cut
        from edge_dl.converters.layers import find_recurrent
        from edge_dl.converters.refusals import encoder_call, find_refusals, watch_calls
        from edge_dl.converters.signature import describe_inputs

        # Two sizes for free axes tell which inputs have one.
        small, large = (describe_inputs(self.model, input_shapes=shapes, free_size=size).specs for size in (3, 5))
        free = [spec.name for spec, other in zip(small, large, strict=True) if spec.shape != other.shape]
        shapes = {**shapes, **fill_free([spec.name for spec in small], free, data)}
        inputs = describe_inputs(self.model, input_shapes=shapes)
        layers = find_recurrent(self.model)
        steps: dict[str, int] = {}
        refusals = {}
        if layers:
            for lowering in (Lowering.WHILE, Lowering.UNROLL, Lowering.FUSED, Lowering.STEP):
                found = find_refusals(self.model, lowering, input_shapes=shapes)
                refusals[lowering.value] = [{"layer": r.layer, "reason": r.reason, "todo": r.todo} for r in found]
        by_name = {Lowering.STREAM: find_refusals(self.model, Lowering.STREAM, input_shapes=shapes)}
        for lowering in (Lowering.DECODE, Lowering.DECODE_UNROLL) if layers else ():
            by_name[lowering] = find_refusals(self.model, lowering, input_shapes=shapes)
        decoding = [item for item, found in by_name.items() if item.decodes and not found]
        allowed = [name for name, found in refusals.items() if not found]
        cut = find_cut(self.model, inputs)[0] if decoding else None
        if allowed or cut is not None:  # A layer that no lowering knows cannot be watched either.
            for call in watch_calls(self.model, inputs, encoder_call(cut) if cut is not None else None):
                steps[call.path] = steps.get(call.path, 0) + call.steps
        encoder_steps = sum(steps.values())
        for item in layers:
            if cut is not None and id(item.layer) in cut.decoder:
                said = next(spec for spec in inputs.specs if spec.name == cut.target)
                steps[item.path] = steps.get(item.path, 0) + said.shape[1]
        return {
            "kind": "keras",
            "layers": [{"path": item.path, "kind": item.kind, "steps": steps.get(item.path, 0)} for item in layers],
            "allowed": allowed or [Lowering.NONE.value],
            "decoding": [item.value for item in decoding],
            "tokens": cut is not None and cut.says_tokens(),
            "encoder_steps": encoder_steps,
            "refusals": refusals,
            "by_name": {
                item.value: [{"layer": r.layer, "reason": r.reason, "todo": r.todo} for r in found]
                for item, found in by_name.items()
            },
            "shapes": {name: list(shape) for name, shape in shapes.items()},
        }

    def export(
        self,
        folder: Path,
        lowering: Lowering,
        *,
        batch: int,
        input_shapes: Mapping[str, Sequence[int]] | None,
        beams: int = DEFAULT_BEAMS,
    ) -> dict[str, Any]:
        """Write an export through `exporting.export`."""
        from edge_dl.converters.exporting import export

        return export(self.model, folder, lowering, batch=batch, input_shapes=input_shapes, beams=beams).to_json()

    def whole_inputs(self, export: Path) -> tuple[TensorSpec, ...]:
        """Inputs by our names; where an export takes a step or a packet of one, the whole length is put back."""
        from edge_dl.converters.exporting import read_export

        record = read_export(export)
        steps = record.sequence
        return tuple(
            TensorSpec(spec.name, (spec.shape[0], steps.steps, *spec.shape[2:]), spec.dtype)
            if steps is not None and spec.name in steps.inputs
            else spec
            for spec in record.clip_inputs
        )

    def predict(self, x: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The Keras model's answers."""
        import tensorflow as tf

        from edge_dl.converters.lowering import as_reference
        from edge_dl.converters.signature import describe_inputs, name_outputs

        if self._inputs is None:
            shapes = {name: array.shape[1:] for name, array in x.items()}
            self._inputs = describe_inputs(self.model, input_shapes=shapes)
        inputs = self._inputs

        def call(tensors: Mapping[str, Any]) -> dict[str, Any]:
            return name_outputs(self.model, self.model(inputs.pack(tensors), training=False))

        with as_reference(self.model):
            outputs = call({name: tf.constant(array) for name, array in x.items()})
        return {name: np.asarray(value) for name, value in outputs.items()}


def fill_free(names: Sequence[str], free: Sequence[str], data: Mapping[str, Sequence[int]]) -> dict[str, list[int]]:
    """Shapes for the inputs `free` out of a split's; a single input takes a single array, whatever it is called."""
    if len(names) == 1 and len(data) == 1:
        data = {names[0]: next(iter(data.values()))}
    data = dict(zip(unique_names(list(data)), data.values(), strict=True))
    return {name: list(data[name]) for name in free if name in data}


class SavedModelSource:
    """A SavedModel folder with a serving signature."""

    def __init__(self, folder: Path) -> None:
        import tensorflow as tf

        if not (folder / "saved_model.pb").is_file():
            raise UsageError(
                "A model folder must be a SavedModel, with saved_model.pb.",
                received=str(folder),
                todo="Name a .keras, .h5 or .tflite file, or a SavedModel folder.",
            )
        try:
            self._loaded = tf.saved_model.load(str(folder))
        except Exception as error:  # The loader raises whatever protobuf and TensorFlow raise.
            raise UsageError(
                "A SavedModel must be readable.", received=f"{folder} ({type(error).__name__}: {one_line(error, 200)})"
            ) from None
        signatures = dict(self._loaded.signatures)
        if not signatures:
            raise UsageError(
                "A SavedModel needs a signature to be converted.",
                received=str(folder),
                todo="Save it with tf.saved_model.save(model, folder, signatures=...) or model.export(folder).",
            )
        self.folder = folder
        self.key = "serving_default" if "serving_default" in signatures else next(iter(signatures))
        self._function = signatures[self.key]

    def describe(self, shapes: Mapping[str, Sequence[int]], data: Mapping[str, Sequence[int]]) -> dict[str, Any]:
        """No layers: only `none` is possible."""

        _, keywords = self._function.structured_input_signature
        names = unique_names(list(keywords))
        for name, spec in zip(names, keywords.values(), strict=True):
            if not spec.shape.rank:
                raise UsageError(
                    "Every input must have a batch axis first, and a known number of axes.",
                    received=f"input {name!r} of {self.folder} with shape {spec.shape}",
                    todo="Save the model again with a signature of known shapes.",
                )
        free = [name for name, spec in zip(names, keywords.values(), strict=True) if None in spec.shape[1:]]
        return _graph_only("saved_model", {**fill_free(names, free, data), **shapes})

    def export(
        self,
        folder: Path,
        lowering: Lowering,
        *,
        batch: int,
        input_shapes: Mapping[str, Sequence[int]] | None,
        beams: int = DEFAULT_BEAMS,
    ) -> dict[str, Any]:
        """Save the signature again under our key, with a static batch."""
        import tensorflow as tf

        from edge_dl.converters.exporting import Export, save_signature, trace_signature
        from edge_dl.converters.specializing import holds_lists, specialize

        if lowering is not Lowering.NONE:
            raise no_layers("A SavedModel", lowering)
        given = dict(input_shapes or {})
        _, keywords = self._function.structured_input_signature
        theirs = list(keywords)
        names = unique_names(theirs)
        specs = []
        for name, key in zip(names, theirs, strict=True):
            shape = list(keywords[key].shape)
            wanted = given.get(name, given.get(key, shape[1:]))
            full = (batch if shape[0] is None else int(shape[0]), *wanted)
            if None in full:
                raise UsageError(
                    "Every axis must have a fixed size on the device.",
                    received=f"input {name!r} of shape {tuple(shape)}",
                    todo=f"Give the shape without the batch axis, for example {name}=50,6.",
                )
            specs.append(TensorSpec(name, tuple(int(size) for size in full), keywords[key].dtype.name))
        keys = sorted(self._function.structured_outputs)
        results = dict(zip(keys, unique_names(keys), strict=True))

        if holds_lists(self._function):
            function = specialize(self._function, specs[0].shape[0])
        else:

            def function(tensors: Mapping[str, Any]) -> Any:
                return self._function(**tensors)

        def predict(**tensors: Any) -> dict[str, Any]:
            outputs = function({key: tensors[name] for name, key in zip(names, theirs, strict=True)})
            return {results[key]: tf.identity(value) for key, value in outputs.items()}

        concrete = trace_signature(predict, specs)
        outputs = tuple(
            TensorSpec(name, tuple(value.shape), value.dtype.name)
            for name, value in concrete.structured_outputs.items()
        )
        record = Export(
            folder=folder,
            lowering=lowering,
            batch=batch,
            signature=Signature("predict", tuple(specs), outputs),
            keras_inputs=dict(zip(names, theirs, strict=True)),
            keras_outputs={name: key for key, name in results.items()},
            made_by={"tensorflow": tf.__version__},
        )
        save_signature(concrete, record)
        return record.to_json()

    def whole_inputs(self, export: Path) -> tuple[TensorSpec, ...]:
        """Inputs by our names."""
        from edge_dl.converters.exporting import read_export

        return read_export(export).signature.inputs

    def predict(self, x: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The signature's answers."""
        import tensorflow as tf

        _, keywords = self._function.structured_input_signature
        names = dict(zip(unique_names(list(keywords)), keywords, strict=True))
        keys = sorted(self._function.structured_outputs)
        results = dict(zip(keys, unique_names(keys), strict=True))
        static = next(iter(keywords.values())).shape[0]
        size = int(static) if static else len(next(iter(x.values())))
        pieces = []
        for start in range(0, len(next(iter(x.values()))), size):
            part = {names[name]: tf.constant(array[start : start + size]) for name, array in x.items()}
            pieces.append({results[key]: np.asarray(value) for key, value in self._function(**part).items()})
        return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}


class TfliteSource:
    """A .tflite file, taken as it is."""

    def __init__(self, file: Path) -> None:
        from ai_edge_litert.interpreter import Interpreter

        from edge_dl.converters import tensors

        self.file = file
        self._signature = tensors.signature_of(tensors.read(file))
        try:
            self._interpreter = Interpreter(model_path=str(file), num_threads=1)
            self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise UsageError("A .tflite must load in LiteRT.", received=f"{file} ({one_line(error, 300)})") from None

    def describe(self, shapes: Mapping[str, Sequence[int]], data: Mapping[str, Sequence[int]]) -> dict[str, Any]:
        """No layers: only `none` is possible."""
        return _graph_only("tflite", {})

    def export(
        self,
        folder: Path,
        lowering: Lowering,
        *,
        batch: int,
        input_shapes: Mapping[str, Sequence[int]] | None,
        beams: int = DEFAULT_BEAMS,
    ) -> dict[str, Any]:
        """Nothing to write: the file is the export."""
        if lowering is not Lowering.NONE:
            raise no_layers("A .tflite", lowering)
        return {"signature": None}

    def whole_inputs(self, export: Path) -> tuple[TensorSpec, ...]:
        """Inputs by the signature's names, or the tensors' where there is no signature."""
        return self._signature.inputs

    def predict(self, x: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The file's own answers, one static batch at a time."""
        indices = self._indices()
        batch = self._signature.inputs[0].shape[0]
        total = len(next(iter(x.values())))
        pieces: dict[str, list[np.ndarray]] = {}
        for start in range(0, total, batch):
            rows = np.arange(start, start + batch) % total
            for name, array in x.items():
                self._interpreter.set_tensor(indices[0][name], array[rows])
            self._interpreter.reset_all_variables()
            self._interpreter.invoke()
            for name, index in indices[1].items():
                pieces.setdefault(name, []).append(self._interpreter.get_tensor(index))
        return {name: np.concatenate(values)[:total] for name, values in pieces.items()}

    def _indices(self) -> tuple[dict[str, int], dict[str, int]]:
        signatures = self._interpreter._get_full_signature_list()
        if signatures:
            first = next(iter(signatures.values()))
            return dict(first["inputs"]), dict(first["outputs"])
        details = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        inputs, outputs = ({item["name"]: int(item["index"]) for item in side} for side in details)
        return inputs, outputs


def _graph_only(kind: str, shapes: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    return {
        "kind": kind,
        "layers": [],
        "allowed": [Lowering.NONE.value],
        "refusals": {},
        "shapes": {name: list(shape) for name, shape in shapes.items()},
    }


def no_layers(what: str, lowering: Lowering) -> RefusedError:
    """The error for a lowering of something that holds no layers."""
    return RefusedError(
        f"{what} holds no Keras layers that could be written as {lowering.value}.",
        todo="Start from the .keras file, or leave conversion.lowerings at auto.",
    )
