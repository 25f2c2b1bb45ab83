"""Bundles that translate, for tests: small encoder-decoders with random weights and vocabularies of made words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import translation_models as networks

from edge_dl.bundle import Bundle, Limits, Manifest, TranslationSpec, write_bundle
from edge_dl.converters import export
from edge_dl.converters.quantization import quantize
from edge_dl.text import END, SPECIAL, Normalization, Subwords, Tables
from edge_dl.variants import Lowering, Quantization, VariantSpec

TABLES = "text.json"
SOURCE = tuple(f"▁{letter}" for letter in "abcdefghijklmnopqrstuvwxyz")
TARGET = tuple(f"▁{letter}{letter}" for letter in "abcdefghijklmnopqrstuvwxyzéèàùçâêîôû")


def tables() -> Tables:
    """Words of one letter, to words of two."""
    source, target = (
        Subwords("word", SPECIAL + words, (0.0,) * 4 + (-1.0,) * len(words), Normalization())
        for words in (SOURCE, TARGET)
    )
    return Tables(source, target)


def lively(model: Any, seed: int = 0) -> Any:
    """Give a model answers that differ: those of random weights hardly do, and never end."""
    for layer in model.layers:
        if layer.name.endswith("_embedding"):
            layer.embeddings.assign(30 * np.asarray(layer.embeddings))
    head = model.get_layer("next_token")
    head.kernel.assign(4 * np.asarray(head.kernel))
    bias = np.random.default_rng(seed).normal(0, 0.3, head.bias.shape)
    bias[END] = 1.7
    head.bias.assign(bias)
    return model


def bundle(
    model: Any,
    folder: Path,
    quantization: Quantization = Quantization.FLOAT32,
    *,
    beams: int = 4,
    words: Tables | None = None,
    task: str = "translation",
    lowering: Lowering = Lowering.DECODE,
) -> Bundle:
    """Export a model with the lowering `decode`, quantize it and write its bundle, all in this process.

    `words` are the tables that travel; None leaves them out, as for a model whose tokens are not ours.
    """
    shapes = {"source": (networks.SOURCE,), "target": (networks.TARGET,)}
    record = export(model, folder / "export", lowering, input_shapes=shapes, beams=beams)
    spec = VariantSpec(lowering, quantization)
    made = quantize(record, spec, folder / "model.tflite", None)
    assert made.encoder is not None
    data = networks.sentences(2)
    given = {"source": data["x/source"], "target": data["x/target"]}
    answers = model(given if isinstance(model.input, dict) else list(given.values()))
    outputs = [item.name for item in record.signature.outputs]
    members, translation = {}, None
    if words is not None:
        words.write(folder / TABLES)
        members[TABLES] = (folder / TABLES).read_bytes()
        attention = "attention" if "attention" in outputs else None
        translation = TranslationSpec(TABLES, "source", "target", "next_token", attention)
    return write_bundle(
        folder / spec.name,
        made.path.read_bytes(),
        Manifest(
            name=model.name,
            variant=spec.name,
            lowering=spec.lowering.value,
            quantization=quantization.value,
            task=task,
            signature=made.signature,
            sequence=record.sequence,
            encoder=made.encoder,
            beams=record.beams,
            translation=translation,
            limits=Limits(),
        ),
        golden_inputs=given,
        golden_outputs={name: np.asarray(value) for name, value in answers.items()},
        members=members,
    )
