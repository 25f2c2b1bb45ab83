"""Calibration samples: what a full-integer conversion looks at to choose the ranges of its integers.

Samples come from the training split, chosen by a seed and kept with their row numbers. Made-up data gives made-up
ranges, so it is used only when it is asked for by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edge_dl.bundle import EncoderSpec, SequenceSpec, Signature, StreamSpec, TensorSpec
from edge_dl.errors import UsageError
from edge_dl.files import load_npz, save_npz

# From {input name: array} to {output name: array}.
Caller = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]

INDEX = "index"
RANDOM = "random"
STEP_SEQUENCES = 64  # sequences that a step model is run over to see its states
STEP_SAMPLES = 600  # time steps of those that are shown to the converter
MAX_EXTREMES = 24  # extra steps that let states come back in at the largest value at which they went out


@dataclass(frozen=True)
class Calibration:
    """Samples for calibration.

    Attributes:
        x: by input name, arrays with the sample axis first.
        index: row of each sample in the training split; empty for random data.
    """

    x: Mapping[str, np.ndarray]
    index: np.ndarray

    def __len__(self) -> int:
        return len(next(iter(self.x.values())))


def choose_indices(labels: np.ndarray | None, total: int, count: int, seed: int) -> np.ndarray:
    """Rows of the training split to calibrate with, sorted.

    Args:
        labels: one class a row, for stratified sampling; None, or anything but one whole number a row: plain sampling.
        total: rows in the training split.
        count: rows wanted; all of them when there are fewer.
        seed: the same seed gives the same rows.

    Returns:
        int64 array of min(count, total) different rows. With labels, every class gets its share and, where `count`
        allows, at least one row.
    """
    if count < 1:
        raise UsageError("Calibration needs at least one sample.", received=str(count))
    rng = np.random.default_rng(seed)
    count = min(count, total)
    if labels is None or labels.shape != (total,) or not np.issubdtype(labels.dtype, np.integer):
        return np.sort(rng.permutation(total)[:count]).astype(np.int64)
    # A row's place in its class, as a share: taking the smallest first fills all classes evenly.
    order = rng.permutation(total)
    place = np.empty(total)
    for label in np.unique(labels):
        rows = order[labels[order] == label]
        place[rows] = np.arange(len(rows)) / len(rows)
    # Equal places (every class's first row has 0) are told apart by the same permutation.
    ranked = order[np.argsort(place[order], kind="stable")]
    return np.sort(ranked[:count]).astype(np.int64)


def from_split(x: Mapping[str, np.ndarray], y: Mapping[str, np.ndarray], *, count: int, seed: int) -> Calibration:
    """Take samples out of a training split.

    Raises:
        UsageError: the split is empty, ragged between inputs, or holds NaN or infinity.
    """
    sizes = {name: len(array) for name, array in x.items()}
    if not sizes or min(sizes.values()) == 0 or len(set(sizes.values())) != 1:
        raise UsageError("The training split must hold equally many samples of every input.", received=str(sizes))
    labels = next(iter(y.values())) if len(y) == 1 else None
    index = choose_indices(labels, next(iter(sizes.values())), count, seed)
    calibration = Calibration({name: array[index] for name, array in x.items()}, index)
    check_finite(calibration)
    return calibration


def random_calibration(inputs: Sequence[TensorSpec], *, count: int, seed: int) -> Calibration:
    """Normally distributed numbers (0 or 1 for integer inputs): only for a look at size and speed.

    The ranges that come out of it mean nothing, so neither does the accuracy of the converted model.
    """
    rng = np.random.default_rng(seed)
    x = {}
    for spec in inputs:
        shape = (count, *spec.shape[1:])
        values = rng.normal(size=shape) if spec.dtype.startswith("float") else rng.integers(0, 2, size=shape)
        x[spec.name] = values.astype(spec.dtype)
    return Calibration(x, np.zeros(0, np.int64))


def check_finite(calibration: Calibration) -> None:
    """Raises UsageError when a sample holds NaN or infinity: one of them would stretch a range over all numbers."""
    for name, array in calibration.x.items():
        if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
            row = int(np.argwhere(~np.isfinite(array))[0][0])
            raise UsageError(
                "Calibration samples must be finite.",
                received=f"NaN or infinity in input {name!r}, sample {row}",
                todo="Clean the training data.",
            )


def check_inputs(calibration: Calibration, inputs: Sequence[TensorSpec], sequence: SequenceSpec | None) -> None:
    """Check that samples fit a model's inputs.

    Args:
        inputs: inputs of the exported signature (for `step`, those of one time step).
        sequence: for `step`, which inputs are fed one step at a time.

    Raises:
        UsageError: an input is missing or has another shape.
    """
    for spec in inputs:
        if spec.name not in calibration.x:
            raise UsageError(
                "Calibration samples must hold every input of the model.",
                received=f"{', '.join(calibration.x)}, without {spec.name!r}",
            )
        shape = calibration.x[spec.name].shape[1:]
        wanted = spec.shape[1:]
        if sequence is not None and spec.name in sequence.inputs:
            shape, wanted = shape[1:], wanted[1:]
        if tuple(shape) != tuple(wanted):
            raise UsageError(
                "Calibration samples must have the shape of the model's input.",
                received=f"{spec.name!r} of shape {tuple(shape)} for {tuple(wanted)}",
            )


def save(calibration: Calibration, path: str | Path) -> None:
    """Write samples and their row numbers to a .npz."""
    save_npz(path, {f"x/{name}": array for name, array in calibration.x.items()} | {INDEX: calibration.index})


def read(path: str | Path) -> Calibration:
    """Read what `save` wrote.

    Raises:
        UsageError: the file holds no samples, or samples that are not finite.
    """
    arrays = load_npz(path)
    x = {name[2:]: array for name, array in arrays.items() if name.startswith("x/")}
    if not x or min(map(len, x.values())) == 0 or len({len(array) for array in x.values()}) != 1:
        raise UsageError(
            "A calibration file holds equally many samples of every input, as x/<input>.",
            received=f"{path} with {', '.join(arrays) or 'nothing'}",
        )
    calibration = Calibration(x, arrays.get(INDEX, np.zeros(0, np.int64)))
    check_finite(calibration)
    return calibration


def batches(calibration: Calibration, inputs: Sequence[TensorSpec]) -> Iterator[dict[str, np.ndarray]]:
    """Samples as a whole-sequence signature takes them, one static batch after the other.

    The last batch is filled up from the beginning when the samples do not divide evenly.
    """
    batch = inputs[0].shape[0]
    total = len(calibration)
    for start in range(0, total, batch):
        rows = np.arange(start, start + batch) % total
        yield {spec.name: calibration.x[spec.name][rows].astype(spec.dtype) for spec in inputs}


def decode_batches(
    encode: str | Path,
    step: str | Path,
    encoder: EncoderSpec,
    signature: Signature,
    sequence: SequenceSpec,
    calibration: Calibration,
    *,
    seed: int = 0,
) -> tuple[list[dict[str, np.ndarray]], list[dict[str, np.ndarray]]]:
    """What an encoder takes, and what a step of its decoder takes while it is told what it should have said.

    Args:
        encode: the float32 .tflite of the encoder alone.
        step: that of the step alone.
        encoder: the encoder's signature.
        signature: the step's, with states.
        sequence: which inputs are fed step by step.
        calibration: whole samples.
        seed: chooses the sampled steps.
    """
    run = step_runner(encode, Signature(encoder.key, encoder.inputs, encoder.outputs))
    steps = step_batches(step, signature, sequence, calibration, seed=seed, encode=(run, encoder.inputs))
    return list(batches(calibration, encoder.inputs)), steps


def step_batches(
    model: str | Path,
    signature: Signature,
    sequence: SequenceSpec,
    calibration: Calibration,
    *,
    seed: int = 0,
    encode: tuple[Caller, Sequence[TensorSpec]] | None = None,
) -> list[dict[str, np.ndarray]]:
    """What a `step` model takes at single time steps, with the states that it really gets into.

    The float32 step model runs over whole training sequences; inputs and states of sampled steps are kept. Beside them
    come the steps at which a state is largest or smallest, and those that take such a state as input: with equal ranges
    for a state's input and output, the converter gives both the same scale.

    Args:
        model: the float32 .tflite of the same export.
        signature: its signature, with states.
        sequence: which inputs are fed step by step.
        calibration: whole sequences.
        seed: chooses the sampled steps.
        encode: what is called before the steps, which gives what is not fed and what states start from, and what it
            takes; None where there is no encoder.

    Returns:
        A list of {input or state name: array with the batch axis}.
    """
    run = step_runner(model, signature)
    batch = signature.inputs[0].shape[0]
    feeds: list[dict[str, np.ndarray]] = []
    results: list[dict[str, np.ndarray]] = []
    for start in range(0, min(len(calibration), STEP_SEQUENCES * batch), batch):
        rows = np.arange(start, start + batch) % len(calibration)
        sources = encode[1] if encode else ()
        given = {spec.name: calibration.x[spec.name][rows].astype(spec.dtype) for spec in sources}
        encoded = encode[0](given) if encode else {}
        whole = {
            spec.name: encoded[spec.name]
            if encode and spec.name not in sequence.inputs
            else calibration.x[spec.name][rows].astype(spec.dtype)
            for spec in signature.inputs
        }
        states = {state.input: np.zeros(state.shape, state.dtype) for state in signature.states}
        states |= {state.input: encoded[state.initial] for state in signature.states if state.initial}
        steps = whole[sequence.inputs[0]].shape[1]
        for step in range(steps):
            feed = {
                name: value[:, step : step + 1] if name in sequence.inputs else value for name, value in whole.items()
            } | states
            outputs = run(feed)
            feeds.append(feed)
            results.append({state.input: outputs[state.output] for state in signature.states})
            states = dict(results[-1])
    rng = np.random.default_rng(seed)
    chosen = set(rng.permutation(len(feeds))[:STEP_SAMPLES].tolist())
    for state in signature.states:
        values = np.stack([result[state.input].reshape(-1) for result in results])
        chosen |= {int(values.max(axis=1).argmax()), int(values.min(axis=1).argmin())}
    samples = [feeds[index] for index in sorted(chosen)]
    return samples + _returning_extremes(run, signature, samples)


def stream_batches(
    model: str | Path, signature: Signature, stream: StreamSpec, calibration: Calibration, *, seed: int = 0
) -> list[dict[str, np.ndarray]]:
    """What a `stream` model takes in single packets, with the states that it really gets into.

    The float32 stream model runs over whole clips, one after another without a pause, as sound comes to a device; the
    extremes of every state are among what is kept, as for `step_batches`.

    Args:
        model: the float32 .tflite of the same export.
        signature: its signature, with states.
        stream: how it is fed.
        calibration: whole clips.
        seed: chooses the sampled packets.
    """
    from edge_dl.converters.stream_walk import walk_stream

    run = step_runner(model, signature)
    batch = signature.inputs[0].shape[0]
    (clips,) = calibration.x.values()
    count = max(min(len(clips) // batch, STEP_SEQUENCES), 1)
    rows = np.arange(count * batch) % len(clips)
    sound = clips[rows].reshape(batch, -1, *clips.shape[2:]).astype(signature.inputs[0].dtype)
    feeds, results = [], []
    for feed, outputs in walk_stream(run, signature.states, stream, sound):
        feeds.append(feed)
        results.append({state.input: outputs[state.output] for state in signature.states})
    rng = np.random.default_rng(seed)
    chosen = set(rng.permutation(len(feeds))[:STEP_SAMPLES].tolist())
    for state in signature.states:
        highest = [float(result[state.input].max()) for result in results]
        lowest = [float(result[state.input].min()) for result in results]
        for number in (int(np.argmax(highest)), int(np.argmin(lowest))):
            chosen |= {number, min(number + 1, len(feeds) - 1)}
    return [feeds[index] for index in sorted(chosen)]


def _returning_extremes(
    run: Any, signature: Signature, samples: Sequence[Mapping[str, np.ndarray]]
) -> list[dict[str, np.ndarray]]:
    """More samples, until no state leaves the model beyond the range in which that state enters it."""
    low: dict[str, float] = {}
    high: dict[str, float] = {}
    for state in signature.states:
        low[state.input] = min(float(sample[state.input].min()) for sample in samples)
        high[state.input] = max(float(sample[state.input].max()) for sample in samples)
    extra: list[dict[str, np.ndarray]] = []
    queue = list(samples)
    while queue and len(extra) < MAX_EXTREMES:
        feed = queue.pop(0)
        outputs = run(feed)
        states = {state.input: outputs[state.output] for state in signature.states}
        if any(value.min() < low[name] or value.max() > high[name] for name, value in states.items()):
            following = {**feed, **states}
            for name, value in states.items():
                low[name] = min(low[name], float(value.min()))
                high[name] = max(high[name], float(value.max()))
            extra.append(following)
            queue.append(following)
    return extra


def step_runner(model: str | Path, signature: Signature) -> Any:
    """A function from {input or state name: array} to {output name: array} that calls a step model once."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(model), num_threads=1)
    runner = interpreter.get_signature_runner(signature.key)

    def run(feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: np.array(value) for name, value in runner(**feed).items()}

    run.interpreter = interpreter  # type: ignore[attr-defined]  # The runner does not keep it alive.
    return run
