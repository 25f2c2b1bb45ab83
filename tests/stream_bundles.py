"""Stream bundles for tests: speech networks on noise, with weights that are not at their start, and any Keras model."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import keras
import numpy as np

from edge_dl import models
from edge_dl.bundle import Bundle, Limits, Manifest, write_bundle
from edge_dl.converters import export
from edge_dl.converters.calibration import Calibration
from edge_dl.converters.internal_states import RESET, keep_inside
from edge_dl.converters.quantization import quantize
from edge_dl.data import Dataset, Split
from edge_dl.recipe import SpeechConfig, Task
from edge_dl.variants import Lowering, Quantization, VariantSpec

RATE, CLIP = 8_000, 8_000
LABELS = ("_silence_", "yes", "no", "stop")


def sound(length: int, seed: int = 0, count: int = 1) -> np.ndarray:
    """Noise whose loudness changes, (count, length) int16."""
    rng = np.random.default_rng(seed)
    level = 1_000 * np.exp(np.cumsum(rng.normal(0, 0.02, (count, length)), axis=1))
    return np.clip(np.rint(rng.standard_normal((count, length)) * level), -32768, 32767).astype(np.int16)


def dataset(length: int = CLIP) -> Dataset:
    def part(count: int, seed: int) -> Split:
        labels = np.arange(count, dtype=np.int32) % len(LABELS)
        return Split({"sound": sound(length, seed, count)}, {"label": labels}, np.arange(count))

    return Dataset("noise", Task.CLASSIFICATION, part(12, 1), part(4, 2), part(4, 3), labels=LABELS, rate=RATE)


def network(config: SpeechConfig, length: int = CLIP) -> keras.Model:
    """A speech network whose batch normalizations and biases have seen something."""
    keras.utils.set_random_seed(0)
    data = dataset(length)
    if config.network == "ctc":
        data = strings(data)
    model = models.build(data.task, config, data)
    shake(model)
    head = model.get_layer("head")
    head.kernel.assign(10 * np.asarray(head.kernel))  # Untrained answers hardly differ: errors must show.
    return model


def strings(data: Dataset) -> Dataset:
    """The same sounds as strings of one word each."""

    def words(split: Split) -> Split:
        return dataclasses.replace(split, y={"words": split.y["label"][:, None] + 1})

    parts = {part: words(getattr(data, part)) for part in ("train", "validation", "test")}
    return dataclasses.replace(data, task=Task.TRANSCRIPTION, labels=("_blank_", *data.labels), **parts)


def shake(model: keras.Model) -> None:
    """Give weights that start at zero or one, which hide what is forgotten, other values."""
    rng = np.random.default_rng(5)
    for variable in model.variables:
        value = np.asarray(variable)
        if value.dtype == np.float32 and value.size and np.all(value == value.flat[0]):
            variable.assign((value + rng.uniform(0.1, 0.6, value.shape)).astype(np.float32))


def bundle(
    model: Any,
    folder: Path,
    quantization: Quantization = Quantization.FLOAT32,
    samples: np.ndarray | None = None,
    integer_io: bool = False,
    task: str = "classification",
    labels: tuple[str, ...] = LABELS,
    internal_states: bool = False,
) -> Bundle:
    """Export a model as a stream, quantize it and write its bundle, all in this process."""
    record = export(model, folder / "export", Lowering.STREAM)
    spec = VariantSpec(Lowering.STREAM, quantization, integer_io)
    assert record.stream is not None
    name = record.stream.input
    calibration = None if samples is None else Calibration({name: samples}, np.zeros(0, np.int64))
    made = quantize(record, spec, folder / "model.tflite", calibration)
    if internal_states:
        made = keep_inside(made)
    (given,) = record.signature.inputs
    clip = np.zeros((1, record.stream.clip, *given.shape[2:]), given.dtype)
    outputs = {item.name: np.zeros((1, *item.shape[1:]), item.dtype) for item in record.signature.outputs}
    classes = record.signature.outputs[0].shape[-1]
    return write_bundle(
        folder / "bundle",
        made.path.read_bytes(),
        Manifest(
            name=model.name,
            variant=spec.name,
            lowering=spec.lowering.value,
            quantization=quantization.value,
            task=task,
            signature=made.signature,
            stream=record.stream,
            limits=Limits(),
            reset=RESET if internal_states else None,
        ),
        golden_inputs={name: clip},
        golden_outputs=outputs,
        labels=labels if classes == len(labels) else (),
    )
