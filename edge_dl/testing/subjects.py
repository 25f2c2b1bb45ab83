"""What a test names, as one thing: a bundle with inputs and expected answers.

A bundle brings golden samples. A bare .tflite comes with a reference (a Keras model, a file of one, a function, or its
answers) and is wrapped into a bundle in a temporary folder, so that it goes to every target the way bundles do.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edge_dl.bundle import GOLDEN, MANIFEST, Bundle, Limits, Manifest, Signature, TensorSpec, read_bundle, write_bundle
from edge_dl.checks.inspection import inspect_model
from edge_dl.checks.jobs import bundle_case
from edge_dl.checks.limits import limits_for
from edge_dl.checks.metrics import CLASS_TASKS
from edge_dl.checks.weights import guess_quantization
from edge_dl.errors import UsageError
from edge_dl.files import load_npz
from edge_dl.recipe import Task
from edge_dl.runtime import open_session, run_guarded
from edge_dl.variants import Lowering, Quantization

NOISE_SAMPLES = 32
NOISE_SEED = 0
MODEL_SECONDS = 600.0
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Subject:
    """What is checked.

    Attributes:
        bundle: the model as a bundle.
        name: what the user named, for messages.
        arguments: what `check_parity` takes, but for who answers.
        source: where inputs and expected answers come from, for messages.
        sibling: the float32 variant to compare operators with; None without one.
        no_sibling: why there is none.
    """

    bundle: Bundle
    name: str
    arguments: Mapping[str, Any]
    source: str
    sibling: Path | None = None
    no_sibling: str = ""


@contextlib.contextmanager
def open_subject(
    variant: Any,
    reference: Any = None,
    inputs: Any = None,
    *,
    truth: Any = None,
    limits: Limits | None = None,
    required: Sequence[str] = (),
    task: str = "",
    labels: Sequence[str] = (),
    float32: Any = None,
    custom: Sequence[str] = (),
    needs_reference: bool = False,
) -> Iterator[Subject]:
    """Make a subject of what a test names; a temporary bundle is there for as long as the block runs.

    Args:
        variant: a bundle's folder or a .tflite.
        reference: a `keras.Model`, a path (.keras, .h5, SavedModel, .tflite: a model; .npz: its answers), a function
            from inputs by name to outputs by name, or the answers themselves. None: a bundle's golden answers.
        inputs: an .npz (x/<name> or <name>), arrays by name, or one array; the sample axis first. None: a bundle's
            golden inputs, or seeded noise for a .tflite that takes real numbers.
        truth: true answers by output name, or one array, for the task metric; an .npz of inputs may hold them too
            (y/<name>).
        limits: limits that take the place of the bundle's own or the defaults, where they are not None.
        required: names of the limits that the test itself gave, which must be possible to check.
        task: what a .tflite answers; "" is told from `min_top1` and `truth`.
        labels: class names of a .tflite.
        float32: the float32 variant (bundle or .tflite) to find the first different operator with; None: beside it.
        custom: classes that a .keras file needs, as "module:name".
        needs_reference: whether a .tflite must come with a reference.

    Raises:
        UsageError: something is missing, or names and shapes do not fit; the message says what to do.
        StageError: the reference or the .tflite crashed.
    """
    path = _existing(variant, "A bundle's folder or a .tflite must exist.")
    if needs_reference and reference is None and not path.is_dir():
        raise UsageError(
            "A .tflite is checked against a reference.",
            received=f"{path} alone",
            todo="Give reference=: a Keras model, a .keras file, or its answers; or name a bundle: it has golden ones.",
        )
    given, more_truth = _arrays_of(inputs, "x/")
    with tempfile.TemporaryDirectory(prefix="edge-dl-") as folder:
        if path.is_dir():
            subject = _of_bundle(path, reference, given, custom)
        else:
            subject = _of_model(path, Path(folder) / "bundle", reference, given, task, labels, limits, custom, truth)
        arguments = dict(subject.arguments)
        if truth is not None or more_truth:
            wanted = list(arguments["reference"])
            found = more_truth if truth is None else _named(truth, wanted, "true answer")
            arguments["targets"] = _fitted(found, wanted, "true answers", strict=truth is not None)
        chosen = {name: value for name, value in vars(limits or Limits()).items() if value is not None}
        arguments["limits"] = replace(arguments["limits"], **chosen)
        _check_possible(required, arguments)
        sibling, why = _sibling(path, subject.bundle.manifest, float32, reference)
        yield replace(subject, arguments=arguments, sibling=sibling, no_sibling=why)


def _of_bundle(folder: Path, reference: Any, given: Arrays | None, custom: Sequence[str]) -> Subject:
    arguments = bundle_case(folder)
    bundle = read_bundle(folder)
    source = "the bundle's golden samples"
    if given is not None and reference is None:
        raise UsageError(
            "Inputs of your own need a reference that answers them.",
            received="inputs without reference",
            todo="Give reference=: a Keras model, a .keras file, or its answers (.npz or arrays).",
        )
    if given is not None:
        arguments["inputs"] = _fitted(given, [spec.name for spec in bundle.manifest.inputs], "inputs")
        arguments["targets"] = {}
    if reference is not None:
        answers, where = _answers(reference, arguments["inputs"], custom)
        arguments["reference"] = _fitted(answers, [spec.name for spec in bundle.manifest.signature.outputs], "answers")
        source = f"{where} on {'the golden inputs' if given is None else 'your inputs'}"
    return Subject(bundle, str(folder), arguments, source)


def _of_model(
    path: Path,
    folder: Path,
    reference: Any,
    given: Arrays | None,
    task: str,
    labels: Sequence[str],
    limits: Limits | None,
    custom: Sequence[str],
    truth: Any,
) -> Subject:
    inspected = inspect_model(path)  # A damaged file is told before a child is started.
    kind = guess_quantization(inspected)
    edges: Edges = run_guarded(
        "edge_dl.testing.subjects:describe", (str(path), given), timeout=MODEL_SECONDS, variant=path.name
    )
    outputs = [spec.name for spec in edges.outputs]
    if reference is None:  # Timing only: whatever the model answers is right.
        answers, where = edges.answers, "the model's own answers"
    else:
        found, where = _answers(reference, edges.inputs_used, custom)
        answers = _fitted(found, outputs, "answers")
    on = "your inputs" if given is not None else "noise (standard normal, always the same)"
    if not task and (truth is not None or (limits and limits.min_top1 is not None)):
        task = _class_task(answers, truth)
    manifest = Manifest(
        name=path.stem, variant=path.stem, lowering=Lowering.NONE.value, quantization=kind.value,
        task=task or "unknown", signature=Signature(edges.key, edges.inputs, edges.outputs),
        made_by={"edge_dl": "test"}, limits=limits_for(kind),
    )  # fmt: skip
    bundle = write_bundle(
        folder, path.read_bytes(), manifest, golden_inputs=edges.inputs_used, golden_outputs=answers, labels=labels
    )
    return Subject(bundle, str(path), bundle_case(folder), f"{where} on {on}")


# --- a bare .tflite ---


@dataclass(frozen=True)
class Edges:
    """What a .tflite takes and gives: signature, inputs that were used, and its answers to them on this machine."""

    key: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    inputs_used: Arrays
    answers: Arrays


def describe(path: str, given: Arrays | None) -> Edges:
    """Describe a .tflite and answer inputs (None: noise) with it; called in a child process.

    Raises:
        UsageError: it has no signature, or takes what cannot be made up.
    """
    session = open_session(path)
    if not session.interpreter.signature:
        raise UsageError(
            "A .tflite must name its inputs and outputs in a signature.",
            received=path,
            todo="Convert from a SavedModel or a Keras model, or make a bundle: `edge-dl convert`.",
        )
    names = list(session.inputs)
    inputs = _noise(session) if given is None else _fitted(given, names, "inputs")
    answers = session.predict(inputs)
    static_inputs = tuple(
        TensorSpec(name, _static(spec.shape, inputs[name].shape, session.batch), *spec[2:])
        for name, spec in session.inputs.items()
    )
    static_outputs = tuple(
        TensorSpec(name, _static(spec.shape, answers[name].shape, session.batch), *spec[2:])
        for name, spec in session.outputs.items()
    )
    return Edges(session.interpreter.signature, static_inputs, static_outputs, inputs, answers)


def _static(shape: tuple[int, ...], samples: tuple[int, ...], batch: int) -> tuple[int, ...]:
    """A shape with free sizes filled in: a batch of one, the others as in `samples`, whose first axis is the sample."""
    sizes = (1, *samples[1:]) if batch else samples[1:]
    return tuple(size if size != -1 else real for size, real in zip(shape, sizes, strict=True))


def _noise(session: Any) -> Arrays:
    generator = np.random.default_rng(NOISE_SEED)
    found = {}
    for name, spec in session.inputs.items():
        shape = tuple(spec.shape[1:] if session.batch else spec.shape)
        if (np.dtype(spec.dtype).kind != "f" and not spec.scale) or -1 in shape:
            raise UsageError(
                "Only inputs of real numbers and fixed sizes can be made up.",
                received=f"input {name!r}: {spec.dtype} {list(spec.shape)}",
                todo="Give inputs=: an .npz or arrays by name, the sample axis first.",
            )
        found[name] = generator.standard_normal((NOISE_SAMPLES, *shape)).astype("float32")
    return found


# --- the reference ---


def _answers(reference: Any, inputs: Arrays, custom: Sequence[str]) -> tuple[Arrays, str]:
    """Expected answers by name, and where they come from."""
    keras = sys.modules.get("keras")  # A model in memory has imported it; nothing else needs it.
    if keras is not None and isinstance(reference, keras.Model):
        from edge_dl.converters.sources import KerasSource

        return source_answers(KerasSource(reference), inputs), f"the Keras model {reference.name!r}"
    if isinstance(reference, (str, os.PathLike)):
        path = _existing(reference, "The reference must exist.")
        if path.suffix == ".npz":
            return _arrays_of(path, "y/")[0] or {}, path.name
        arguments = (str(path), inputs, tuple(custom))
        answers = run_guarded("edge_dl.testing.subjects:model_answers", arguments, timeout=MODEL_SECONDS)
        return answers, path.name
    if callable(reference):
        answers = reference(dict(inputs))
        if not isinstance(answers, Mapping):
            answers = {"": answers}
        return {name: np.asarray(value) for name, value in answers.items()}, "your function"
    return _arrays_of(reference, "y/")[0] or {}, "your answers"


def model_answers(path: str, inputs: Arrays, custom: tuple[str, ...]) -> Arrays:
    """A model file's float32 answers; called in a child process."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from edge_dl.converters.sources import open_source

    return source_answers(open_source(path, custom), inputs)


def source_answers(source: Any, inputs: Arrays) -> Arrays:
    """A `converters.sources.Source`'s answers, inputs renamed where both sides have one."""
    from edge_dl.converters.jobs import predict

    if hasattr(source, "model"):
        from edge_dl.converters.signature import describe_inputs

        names = [spec.name for spec in describe_inputs(source.model, free_size=1).specs]
        inputs = _fitted(inputs, names, "inputs of the reference")
    return {name: np.asarray(value) for name, value in predict(source, inputs).items()}


# --- names ---


def _arrays_of(value: Any, prefix: str) -> tuple[Arrays | None, Arrays]:
    """Arrays by name of an .npz, a mapping or one array (named ""); and an .npz' true answers (y/) beside inputs."""
    if value is None:
        return None, {}
    if isinstance(value, (str, os.PathLike)):
        arrays = load_npz(Path(value))
        own = {name[len(prefix) :]: array for name, array in arrays.items() if name.startswith(prefix)}
        truth = {name[2:]: array for name, array in arrays.items() if name.startswith("y/")} if prefix == "x/" else {}
        return own or arrays, truth
    return _named(value, [""], "array"), {}


def _named(value: Any, wanted: Sequence[str], what: str) -> Arrays:
    arrays = dict(value) if isinstance(value, Mapping) else {wanted[0] if len(wanted) == 1 else "": value}
    try:
        return {str(name): np.asarray(array) for name, array in arrays.items()}
    except ValueError as error:
        raise UsageError(f"Every {what} must be an array, not ragged.", received=str(error)) from None


def _fitted(arrays: Arrays, wanted: Sequence[str], what: str, *, strict: bool = True) -> Arrays:
    """Arrays under the names that are wanted: by name; one for one; or `output_0`, `output_1`, .. in order."""
    if set(wanted) <= set(arrays):
        return {name: arrays[name] for name in wanted}
    if len(wanted) == 1 and len(arrays) == 1:
        return {wanted[0]: next(iter(arrays.values()))}
    # What Keras calls the outputs of a model that returns a list.
    if len(wanted) == len(arrays) and sorted(wanted) == sorted(f"output_{number}" for number in range(len(wanted))):
        return {f"output_{number}": array for number, array in enumerate(arrays.values())}
    if not strict:
        return {name: arrays[name] for name in wanted if name in arrays}
    raise UsageError(
        f"The {what} must have the names that are asked for.",
        received=", ".join(repr(name) for name in arrays) or "nothing",
        todo=f"Name them {', '.join(wanted)}.",
    )


# --- what can be checked ---


def _class_task(answers: Arrays, truth: Any) -> str:
    array = next(iter(answers.values()))
    if truth is not None and np.asarray(next(iter(_named(truth, [""], "array").values()))).dtype.kind == "f":
        return Task.REGRESSION.value
    return Task.LABELLING.value if array.ndim > 2 else Task.CLASSIFICATION.value


def _check_possible(required: Sequence[str], arguments: Mapping[str, Any]) -> None:
    """A limit that a test gives and that nothing is held to would pass whatever the model does."""
    task = arguments["task"]
    if "min_top1" in required and (not task or Task(task) not in CLASS_TASKS):
        raise UsageError(
            "min_top1 needs a model that answers with classes.",
            received=f"the task {str(getattr(task, 'value', task)) or 'unknown'!r}",
            todo="Give max_abs, min_cosine or min_snr_db, or say task='classification'.",
        )
    if "max_drop" in required and not arguments["targets"]:
        raise UsageError(
            "max_drop needs true answers to compute the task metric with.",
            received="none",
            todo="Give truth=, or an .npz of inputs that holds y/<output>.",
        )


def _sibling(path: Path, manifest: Manifest, chosen: Any, reference: Any) -> tuple[Path | None, str]:
    """The float32 variant of the same lowering, or why there is none."""
    if chosen is not None:
        return _existing(chosen, "The float32 variant must exist."), ""
    if isinstance(reference, (str, os.PathLike)) and Path(reference).suffix == ".tflite":
        return Path(reference), ""
    if manifest.quantization == Quantization.FLOAT32.value:
        return None, "this is the float32 variant: what differs was there before the quantization"
    lowering = manifest.lowering
    name = Quantization.FLOAT32.value if lowering == Lowering.NONE.value else f"{lowering}-{Quantization.FLOAT32.value}"
    bundle = path.parent / name
    if path.is_dir() and (bundle / MANIFEST).is_file() and (bundle / GOLDEN).is_file():
        return bundle, ""
    exported = path.parent.parent / "export" / lowering / "float32.tflite"
    # A step model's states stand in its bundle.
    if path.is_dir() and exported.is_file() and lowering not in (Lowering.STEP.value, Lowering.STREAM.value):
        return exported, ""
    return None, f"there is no float32 variant beside it ({name}); name one with float32="


def _existing(value: Any, rule: str) -> Path:
    if not isinstance(value, (str, os.PathLike)):
        raise UsageError(rule, received=f"{type(value).__name__} {re.sub(' +', ' ', repr(value))[:80]}")
    path = Path(value)
    if not path.exists():
        raise UsageError(rule, received=str(path))
    return path
