"""The bundle: the folder that travels to a device, and the contract with everything that runs there.

A bundle holds `model.tflite`, `manifest.json` (what the model takes and gives, with the hash of every member),
`golden.npz` (inputs with the Keras model's answers) and, where there are any, `labels.txt`. The format is described in
ARCHITECTURE.md. Nothing in a bundle is trusted: names, types, shapes and hashes are checked before a file is used.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edge_dl.errors import UsageError
from edge_dl.files import load_npz, member_path, read_json, save_npz, sha256_file, write_atomic, write_json

FORMAT = 1
MODEL = "model.tflite"
GOLDEN = "golden.npz"
LABELS = "labels.txt"
MANIFEST = "manifest.json"

# A few samples and their answers are a small part of this; an archive made to fill the memory is more.
MOST_GOLDEN_BYTES = 1 << 30

DTYPES = ("float32", "float16", "int8", "uint8", "int16", "int32", "int64", "bool")
SEQUENCE_OUTPUTS = ("each", "last")
STREAM_EQUALITIES = ("window", "start")


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a signature.

    Attributes:
        name: the signature's name for it.
        shape: static shape with the batch axis first.
        dtype: element type as NumPy names it.
        scale: quantization step in the tensor's real unit; 0.0 when the tensor is not quantized.
        zero_point: the integer that stands for 0.0.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    scale: float = 0.0
    zero_point: int = 0


@dataclass(frozen=True)
class StateSpec:
    """A state that a model which remembers takes as `input` and gives back as `output`.

    It starts at real zero, or at what the encoder's output `initial` holds. `scale` and `zero_point` are those of the
    input; `output_scale` and `output_zero_point` those of the output. After each of the first `silent` calls it is set
    back to zero: what came out was not made of the stream yet.
    """

    input: str
    output: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    scale: float = 0.0
    zero_point: int = 0
    output_scale: float = 0.0
    output_zero_point: int = 0
    silent: int = 0
    initial: str = ""


@dataclass(frozen=True)
class Signature:
    """What the model takes and gives, by name."""

    key: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    states: tuple[StateSpec, ...] = ()


@dataclass(frozen=True)
class SequenceSpec:
    """How a session runs a `step` model over a whole sequence.

    Attributes:
        inputs: names of the inputs that are fed one time step at a time; the others are given whole at every step.
        steps: number of time steps of the whole-sequence model.
        outputs: per output, "each" (every step's answer, stacked on axis 1) or "last".
    """

    inputs: tuple[str, ...]
    steps: int
    outputs: Mapping[str, str]


@dataclass(frozen=True)
class StreamOutput:
    """How an output comes out of a stream.

    Attributes:
        kind: "last": one answer a call; "each": frames, some a call.
        first: for "last" the call (counted from 0) that gives the first whole clip's answer, for "each" the place of
            the clip's frame 0 among all frames that the calls give.
        frames: for "each", frames of a whole clip; for "last" 1.
    """

    kind: str
    first: int
    frames: int = 1


@dataclass(frozen=True)
class StreamSpec:
    """How a session runs a `stream` model. Slots are what its input's second axis counts: samples, or frames.

    Attributes:
        input: the input that is streamed, `packet` slots a call.
        packet: slots a call.
        lead: slots of zeros in front of the stream.
        clip: slots of the whole-clip model.
        rate: slots a second where they are samples of sound; 0: not known.
        late: slots that the answer of a call does not look at yet, at the end of what was given.
        equal: "window": answer i is the whole-clip model's on slots i * packet to i * packet + clip; "start": answer 0
            is the whole-clip model's on the stream's first `clip` slots, and later ones remember all since its start.
        outputs: by name.
        recomputed: layers that are given the whole last clip at every call.
    """

    input: str
    packet: int
    lead: int
    clip: int
    rate: int
    late: int
    equal: str
    outputs: Mapping[str, StreamOutput]
    recomputed: tuple[str, ...] = ()


@dataclass(frozen=True)
class EncoderSpec:
    """The signature that a session calls once before the steps of a `decode` model.

    Attributes:
        key: the signature's key in the file.
        inputs: what it takes.
        outputs: what it gives: inputs of the step by the same names, and states' first values (`StateSpec.initial`).
    """

    key: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True)
class BeamsSpec:
    """The signature that takes a step for several hypotheses of one source.

    Inputs, outputs and states are named as those of the step. What is fed step by step, outputs and states have `count`
    rows; what the encoder gives has one.
    """

    key: str
    count: int


@dataclass(frozen=True)
class TranslationSpec:
    """What a bundle that translates says of its tokens.

    Attributes:
        tables: the member that holds both vocabularies.
        source: the input for the source's tokens.
        target: the input for the tokens so far.
        output: the output with the next token's probabilities.
        attention: the output with weights over the source's tokens; None: the model has none.
    """

    tables: str
    source: str
    target: str
    output: str
    attention: str | None = None


@dataclass(frozen=True)
class Limits:
    """Parity limits of a variant against the float32 Keras model; None means not checked.

    Attributes:
        max_abs: largest absolute difference of any output element, in units of max(1, largest absolute value of the
            reference's output): one limit serves softmax outputs and temperatures.
        min_cosine: smallest cosine similarity of an output over all samples.
        min_snr_db: smallest signal-to-noise ratio of an output over all samples, in decibels.
        min_top1: smallest share of samples with the same arg max (classification only).
        max_drop: largest loss of the task metric, in the metric's own unit (0.005 is half a point of accuracy or BLEU).
        min_identical: smallest share of sentences that are translated token for token as by the reference
            (translation only).
    """

    max_abs: float | None = None
    min_cosine: float | None = None
    min_snr_db: float | None = None
    min_top1: float | None = None
    max_drop: float | None = None
    min_identical: float | None = None


@dataclass(frozen=True)
class Manifest:
    """Everything that a runtime must know about a bundle's model. Written as manifest.json."""

    name: str
    variant: str
    lowering: str
    quantization: str
    task: str
    signature: Signature
    sequence: SequenceSpec | None = None
    stream: StreamSpec | None = None
    encoder: EncoderSpec | None = None
    beams: BeamsSpec | None = None
    translation: TranslationSpec | None = None
    limits: Limits = field(default_factory=Limits)
    labels: str | None = None
    made_by: Mapping[str, str] = field(default_factory=dict)
    min_runtime_version: str = ""
    threshold: float | None = None  # similarity of two embeddings from which they are called the same
    rate: int | None = None  # samples a second of the sound that the model takes, in Hz; another rate is to be refused
    reset: str | None = None  # the file keeps its states itself: the signature that, fed zeros, sets them back
    files: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    format: int = FORMAT

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What a session's `predict` takes: the signature's inputs, or the encoder's and those fed step by step."""
        if self.encoder is None:
            return self.signature.inputs
        fed = self.sequence.inputs if self.sequence is not None else ()
        return (*self.encoder.inputs, *(spec for spec in self.signature.inputs if spec.name in fed))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON value, with `format` first."""
        value = dataclasses.asdict(self)
        if value["limits"]["min_identical"] is None:  # Readers of other tasks' bundles need not know it.
            del value["limits"]["min_identical"]
        optional = ("sequence", "stream", "encoder", "beams", "translation", "labels", "threshold", "rate", "reset")
        for name in optional:
            if value[name] is None:
                del value[name]
        for state in value["signature"]["states"]:
            for name in ("silent", "initial"):
                if not state[name]:
                    del state[name]
        return {"format": value.pop("format"), **value}


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk whose hashes matched when it was opened."""

    folder: Path
    manifest: Manifest

    @property
    def model(self) -> Path:
        """Path of the .tflite file."""
        return self.folder / MODEL

    def labels(self) -> tuple[str, ...]:
        """Class names in output order; empty when the model has none."""
        if self.manifest.labels is None:
            return ()
        text = member_path(self.folder, self.manifest.labels).read_bytes().decode("utf-8")
        # Not splitlines: a label may hold other characters that count as line ends, such as U+2028.
        return tuple(text.split("\n")[:-1])

    def golden(self) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Golden inputs and outputs by name, each with the sample axis first and no batch axis."""
        arrays = load_npz(self.folder / GOLDEN, limit=MOST_GOLDEN_BYTES)
        inputs = {name[3:]: array for name, array in arrays.items() if name.startswith("in/")}
        outputs = {name[4:]: array for name, array in arrays.items() if name.startswith("out/")}
        return inputs, outputs


def write_bundle(
    folder: str | Path,
    model: bytes,
    manifest: Manifest,
    *,
    golden_inputs: Mapping[str, np.ndarray],
    golden_outputs: Mapping[str, np.ndarray],
    labels: Sequence[str] = (),
    members: Mapping[str, bytes] | None = None,
) -> Bundle:
    """Write a bundle; the manifest comes last, so a folder with a manifest is a whole bundle.

    Args:
        folder: where to write; made when missing. Members that are there already are replaced.
        model: content of the .tflite file.
        manifest: what to write as manifest.json; its `files` and `labels` are filled in here.
        golden_inputs: by input name, arrays with the sample axis first and no batch axis.
        golden_outputs: the reference answers by output name, likewise.
        labels: class names in output order.
        members: further files by name, e.g. vocabularies.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)
    write_atomic(folder / MODEL, model)
    golden = {f"in/{name}": array for name, array in golden_inputs.items()}
    golden |= {f"out/{name}": array for name, array in golden_outputs.items()}
    save_npz(folder / GOLDEN, golden)
    names = [MODEL, GOLDEN]
    if labels:
        for label in labels:
            if not label or any(character in label for character in "\r\n"):
                raise UsageError("A label must be one line of text.", received=repr(label))
        write_atomic(folder / LABELS, "".join(f"{label}\n" for label in labels))
        names.append(LABELS)
    for name, content in (members or {}).items():
        if name in (MODEL, GOLDEN, LABELS, MANIFEST):
            raise UsageError("A further member of a bundle must have a name of its own.", received=name)
        write_atomic(member_path(folder, name), content)
        names.append(name)
    files = {name: {"sha256": sha256_file(folder / name), "bytes": (folder / name).stat().st_size} for name in names}
    manifest = dataclasses.replace(manifest, files=files, labels=LABELS if labels else None)
    write_json(folder / MANIFEST, manifest.to_json())
    return Bundle(folder, manifest)


def read_bundle(folder: str | Path) -> Bundle:
    """Open a bundle: read its manifest, check every field and the hash of every member.

    Raises:
        UsageError: the folder is no bundle, the manifest is not of format 1, a member is missing, escapes the folder,
            or does not have the hash that the manifest states.
    """
    folder = Path(folder)
    if not (folder / MANIFEST).is_file():
        raise UsageError(
            f"A bundle is a folder that holds {MANIFEST}.",
            received=str(folder),
            todo="Name a folder that `edge-dl convert` wrote.",
        )
    manifest = parse_manifest(read_json(folder / MANIFEST))
    for name, entry in manifest.files.items():
        path = member_path(folder, name)
        if not path.is_file():
            raise UsageError("Every member that the manifest names must exist.", received=f"{folder} without {name}")
        if path.stat().st_size != entry["bytes"] or sha256_file(path) != entry["sha256"]:
            raise UsageError(
                "A bundle's member must have the hash that its manifest states.",
                received=f"{path}, which has another content",
                todo="Copy the bundle again or make it again: it was changed or cut off on the way.",
            )
    return Bundle(folder, manifest)


def parse_manifest(value: Any) -> Manifest:
    """Build a `Manifest` from parsed JSON, checking every field.

    Raises:
        UsageError: a field is missing, unknown to this format, or of the wrong type; the message names it.
    """
    fields = _mapping(value, "manifest")
    if fields.get("format") != FORMAT:
        raise UsageError(
            f"This version of edge-dl reads bundles of format {FORMAT}.",
            received=f"format {fields.get('format')!r}",
            todo="Install the version of edge-dl that made the bundle, or make the bundle again.",
        )
    files = _mapping(fields.get("files"), "files")
    for name, entry in files.items():
        _text(_mapping(entry, f"files[{name!r}]").get("sha256"), f"files[{name!r}].sha256")
        _integer(entry.get("bytes"), f"files[{name!r}].bytes", low=0)
    for name in (MODEL, GOLDEN):
        if name not in files:
            raise _field_error("files", f"no entry for {name}")
    labels = fields.get("labels")
    if labels is not None and _text(labels, "labels") not in files:
        raise _field_error("labels", f"{labels!r}, which is not among the files")
    made_by = _mapping(fields.get("made_by", {}), "made_by")
    sequence = fields.get("sequence")
    signature = _signature(fields.get("signature"))
    encoder = _encoder(fields.get("encoder"), signature, sequence)
    beams = fields.get("beams")
    if beams is not None:
        beams = _mapping(beams, "beams")
        beams = BeamsSpec(_text(beams.get("key"), "beams.key"), _integer(beams.get("count"), "beams.count", low=2))
        if encoder is None:
            raise _field_error("beams", "beams of a model without an encoder")
    fed = None if sequence is None else _sequence(sequence, signature)
    translation = fields.get("translation")
    return Manifest(
        name=_text(fields.get("name"), "name"),
        variant=_text(fields.get("variant"), "variant"),
        lowering=_text(fields.get("lowering"), "lowering"),
        quantization=_text(fields.get("quantization"), "quantization"),
        task=_text(fields.get("task"), "task"),
        signature=signature,
        sequence=fed,
        stream=None if fields.get("stream") is None else parse_stream(fields["stream"], signature),
        encoder=encoder,
        beams=beams,
        translation=None if translation is None else _translation(translation, signature, fed, encoder, set(files)),
        limits=_limits(fields.get("limits", {})),
        labels=labels,
        made_by={str(key): _text(item, f"made_by.{key}") for key, item in made_by.items()},
        min_runtime_version=_text(fields.get("min_runtime_version", ""), "min_runtime_version", empty=True),
        threshold=None if fields.get("threshold") is None else _number(fields["threshold"], "threshold"),
        rate=None if fields.get("rate") is None else _integer(fields["rate"], "rate", low=1),
        reset=None if fields.get("reset") is None else _reset(fields["reset"], signature),
        files=files,
    )


def _reset(value: Any, signature: Signature) -> str:
    key = _text(value, "reset")
    if signature.states or key == signature.key:
        raise _field_error("reset", f"{key!r} of a model that takes its states, or whose own key that is")
    return key


def _field_error(name: str, received: str) -> UsageError:
    return UsageError(
        f"The bundle's manifest breaks its format at {name!r}.",
        received=received,
        todo="Make the bundle again with `edge-dl convert`.",
    )


def _mapping(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _field_error(name, f"{type(value).__name__} instead of an object")
    return value


def _list(value: Any, name: str) -> list[Any]:
    if not isinstance(value, list):
        raise _field_error(name, f"{type(value).__name__} instead of a list")
    return value


def _text(value: Any, name: str, *, empty: bool = False) -> str:
    if not isinstance(value, str) or (not value and not empty):
        raise _field_error(name, f"{value!r} instead of text")
    return value


def _integer(value: Any, name: str, *, low: int | None = None) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or (low is not None and value < low):
        raise _field_error(name, f"{value!r} instead of a whole number" + ("" if low is None else f" from {low}"))
    return value


def _number(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _field_error(name, f"{value!r} instead of a finite number")
    try:
        number = float(value)
    except OverflowError:  # An integer of hundreds of digits.
        number = math.inf
    if not math.isfinite(number):
        raise _field_error(name, "a number that is not finite")
    return number


def _shape(value: Any, name: str) -> tuple[int, ...]:
    return tuple(_integer(size, name, low=0) for size in _list(value, name))


def _dtype(value: Any, name: str) -> str:
    if value not in DTYPES:
        raise _field_error(name, f"{value!r} instead of one of {', '.join(DTYPES)}")
    return str(value)


def _scale(value: Any, name: str) -> float:
    scale = _number(value, name)
    if scale < 0:
        raise _field_error(name, f"{value!r} instead of a scale from 0.0")
    return scale


def _tensor(value: Any, name: str) -> TensorSpec:
    fields = _mapping(value, name)
    return TensorSpec(
        name=_text(fields.get("name"), f"{name}.name"),
        shape=_shape(fields.get("shape"), f"{name}.shape"),
        dtype=_dtype(fields.get("dtype"), f"{name}.dtype"),
        scale=_scale(fields.get("scale", 0.0), f"{name}.scale"),
        zero_point=_integer(fields.get("zero_point", 0), f"{name}.zero_point"),
    )


def _state(value: Any, name: str) -> StateSpec:
    fields = _mapping(value, name)
    return StateSpec(
        input=_text(fields.get("input"), f"{name}.input"),
        output=_text(fields.get("output"), f"{name}.output"),
        shape=_shape(fields.get("shape"), f"{name}.shape"),
        dtype=_dtype(fields.get("dtype"), f"{name}.dtype"),
        scale=_scale(fields.get("scale", 0.0), f"{name}.scale"),
        zero_point=_integer(fields.get("zero_point", 0), f"{name}.zero_point"),
        output_scale=_scale(fields.get("output_scale", 0.0), f"{name}.output_scale"),
        output_zero_point=_integer(fields.get("output_zero_point", 0), f"{name}.output_zero_point"),
        silent=_integer(fields.get("silent", 0), f"{name}.silent", low=0),
        initial=_text(fields.get("initial", ""), f"{name}.initial", empty=True),
    )


def _signature(value: Any) -> Signature:
    fields = _mapping(value, "signature")
    signature = Signature(
        key=_text(fields.get("key"), "signature.key"),
        inputs=tuple(_tensor(item, "signature.inputs") for item in _list(fields.get("inputs"), "signature.inputs")),
        outputs=tuple(_tensor(item, "signature.outputs") for item in _list(fields.get("outputs"), "signature.outputs")),
        states=tuple(_state(item, "signature.states") for item in _list(fields.get("states", []), "signature.states")),
    )
    for kind, specs, names in (
        ("inputs", signature.inputs, [state.input for state in signature.states]),
        ("outputs", signature.outputs, [state.output for state in signature.states]),
    ):
        names += [spec.name for spec in specs]
        if not specs or len(set(names)) != len(names):
            raise _field_error(f"signature.{kind}", f"{names} instead of one or more different names")
    return signature


def _sequence(value: Any, signature: Signature) -> SequenceSpec:
    fields = _mapping(value, "sequence")
    outputs = _mapping(fields.get("outputs"), "sequence.outputs")
    if set(outputs) != {spec.name for spec in signature.outputs}:
        raise _field_error("sequence.outputs", f"{sorted(outputs)} instead of every output's name")
    for name, kind in outputs.items():
        if kind not in SEQUENCE_OUTPUTS:
            raise _field_error(f"sequence.outputs[{name!r}]", f"{kind!r} instead of one of {SEQUENCE_OUTPUTS}")
    inputs = tuple(_text(item, "sequence.inputs") for item in _list(fields.get("inputs"), "sequence.inputs"))
    if not inputs or not set(inputs) <= {spec.name for spec in signature.inputs}:
        raise _field_error("sequence.inputs", f"{list(inputs)} instead of names of inputs")
    return SequenceSpec(inputs=inputs, steps=_integer(fields.get("steps"), "sequence.steps", low=1), outputs=outputs)


def _encoder(value: Any, signature: Signature, sequence: Any) -> EncoderSpec | None:
    """What the manifest says of an encoder, checked against the step's signature."""
    starts = {state.initial for state in signature.states if state.initial}
    if value is None:
        if starts:
            raise _field_error("signature.states", f"{sorted(starts)} of an encoder that there is not")
        return None
    if sequence is None:
        raise _field_error("encoder", "an encoder without a sequence that is decoded")
    fields = _mapping(value, "encoder")
    encoder = EncoderSpec(
        key=_text(fields.get("key"), "encoder.key"),
        inputs=tuple(_tensor(item, "encoder.inputs") for item in _list(fields.get("inputs"), "encoder.inputs")),
        outputs=tuple(_tensor(item, "encoder.outputs") for item in _list(fields.get("outputs"), "encoder.outputs")),
    )
    given = {spec.name: spec.shape for spec in encoder.outputs}
    fed = _sequence(sequence, signature).inputs
    wanted = {spec.name: spec.shape for spec in signature.inputs if spec.name not in fed}
    wanted |= {state.initial: state.shape for state in signature.states if state.initial}
    for name, shape in wanted.items():
        if given.get(name) != shape:
            raise _field_error("encoder.outputs", f"{name!r} of shape {given.get(name)} where a step takes {shape}")
    names = [spec.name for spec in encoder.inputs]
    if not names or len({*names, *fed}) != len(names) + len(fed) or len(given) != len(encoder.outputs):
        raise _field_error("encoder.inputs", f"{names} instead of one or more different names")
    return encoder


def _translation(
    value: Any, signature: Signature, sequence: SequenceSpec | None, encoder: EncoderSpec | None, files: set[str]
) -> TranslationSpec:
    fields = _mapping(value, "translation")
    attention = fields.get("attention")
    spec = TranslationSpec(
        **{name: _text(fields.get(name), f"translation.{name}") for name in ("tables", "source", "target", "output")},
        attention=None if attention is None else _text(attention, "translation.attention"),
    )
    outputs = {item.name for item in signature.outputs}
    known: dict[str, set[str]] = {
        "tables": files,
        "source": {item.name for item in (encoder.inputs if encoder else ())},
        "target": set(sequence.inputs if sequence else ()),
        "output": outputs,
        "attention": outputs,
    }
    for name, names in known.items():
        if getattr(spec, name) is not None and getattr(spec, name) not in names:
            raise _field_error(f"translation.{name}", f"{getattr(spec, name)!r}, which the bundle does not have")
    return spec


def parse_stream(value: Any, signature: Signature) -> StreamSpec:
    """Build a `StreamSpec` from parsed JSON, checking every field against the model's signature.

    Raises:
        UsageError: a field is missing, of the wrong type, or does not fit.
    """
    fields = _mapping(value, "stream")
    outputs = {}
    for name, entry in _mapping(fields.get("outputs"), "stream.outputs").items():
        item = _mapping(entry, f"stream.outputs[{name!r}]")
        kind = item.get("kind")
        if kind not in SEQUENCE_OUTPUTS:
            raise _field_error(f"stream.outputs[{name!r}]", f"{kind!r} instead of one of {SEQUENCE_OUTPUTS}")
        first, frames = (
            _integer(item.get(key), f"stream.outputs[{name!r}].{key}", low=0) for key in ("first", "frames")
        )
        outputs[name] = StreamOutput(str(kind), first, frames)
    if set(outputs) != {spec.name for spec in signature.outputs}:
        raise _field_error("stream.outputs", f"{sorted(outputs)} instead of every output's name")
    fed = [spec for spec in signature.inputs if spec.name == fields.get("input")]
    packet = _integer(fields.get("packet"), "stream.packet", low=1)
    if len(fed) != 1 or len(signature.inputs) != 1 or len(fed[0].shape) < 2 or fed[0].shape[1] != packet:
        raise _field_error("stream.input", f"{fields.get('input')!r}, which does not take {packet} slots a call")
    if fields.get("equal") not in STREAM_EQUALITIES:
        raise _field_error("stream.equal", f"{fields.get('equal')!r} instead of one of {STREAM_EQUALITIES}")
    lead = _integer(fields.get("lead"), "stream.lead", low=0)
    if lead >= packet:
        raise _field_error("stream.lead", f"{lead}, which is a packet of {packet} or more")
    clip = _integer(fields.get("clip"), "stream.clip", low=1)
    late = _integer(fields.get("late"), "stream.late", low=0)
    if late > clip:
        raise _field_error("stream.late", f"{late}, which is more than a clip of {clip}")
    for name, output in outputs.items():
        shape = next(spec.shape for spec in signature.outputs if spec.name == name)
        if output.kind == "each" and (len(shape) < 2 or shape[1] < 1):
            raise _field_error(f"stream.outputs[{name!r}]", f"frames of an output of shape {shape}")
        calls = output.first + 1 if output.kind == "last" else (output.first + output.frames) / shape[1]
        # The clip's answer comes with the packet that it ends in, or as much later as frames are late.
        if (calls - 1) * packet > lead + clip + late:
            raise _field_error(f"stream.outputs[{name!r}]", f"an answer after {calls:g} packets of {packet}")
    recomputed = _list(fields.get("recomputed", []), "stream.recomputed")
    return StreamSpec(
        input=fed[0].name,
        packet=packet,
        lead=lead,
        clip=clip,
        rate=_integer(fields.get("rate"), "stream.rate", low=0),
        late=late,
        equal=str(fields["equal"]),
        outputs=outputs,
        recomputed=tuple(_text(item, "stream.recomputed") for item in recomputed),
    )


def _limits(value: Any) -> Limits:
    fields = _mapping(value, "limits")
    known = [item.name for item in dataclasses.fields(Limits)]
    for name in fields:
        if name not in known:
            raise _field_error(f"limits.{name}", f"an unknown limit; known are {', '.join(known)}")
    return Limits(**{name: None if item is None else _number(item, f"limits.{name}") for name, item in fields.items()})
