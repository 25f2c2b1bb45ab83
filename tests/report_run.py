"""A run folder as the stages leave it, small and quick to make: real digits, real parity checks, made-up models.

The reference is a softmax over distances to class means; variants are the reference with noise, so that some pass,
some fail and some are undecided.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from edge_dl.bundle import Limits, Manifest, Signature, TensorSpec
from edge_dl.checks import Candidate, Comparison, LatencyReport, Speed, Verdict, check_parity, select
from edge_dl.files import read_json, save_npz, write_json
from edge_dl.recipe import ConversionConfig, DataConfig, Recipe, RecurrentConfig, Task, to_json
from edge_dl.variants import VariantSpec

BYTES = {"float32": 92_400, "float16": 47_900, "dynamic": 25_800, "int8": 27_100, "int16x8": 28_300, "int4": 15_200}
NOISE = {"float32": 1e-7, "float16": 2e-4, "dynamic": 4e-3, "int8": 0.12, "int16x8": 1e-3, "int4": 0.04}
SPEED = {"while": 84e-6, "unroll": 66e-6, "fused": 98e-6, "step": 320e-6, "none": 50e-6}
QUICKER = {"float32": 1.0, "float16": 1.01, "dynamic": 0.62, "int8": 0.8, "int16x8": 2.4, "int4": 0.7}
VARIANTS = (
    "while-float32",
    "while-float16",
    "while-dynamic",
    "while-int4",
    "unroll-float32",
    "unroll-dynamic",
    "unroll-int8",
    "unroll-int16x8",
    "fused-float32",
    "fused-dynamic",
    "step-float32",
    "step-dynamic",
)


def digits(labels: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sequences (n, 8, 8), classes (n,), and softmax scores (n, 10) of a nearest-mean classifier."""
    rng = np.random.default_rng(3)
    means = rng.uniform(0, 16, (len(labels), 8, 8))
    y = rng.integers(0, len(labels), 360)
    x = (means[y] + rng.normal(0, 14, (360, 8, 8))).clip(0, 16).astype(np.float32)
    logits = -np.square(x[:, None] - means[None]).sum(axis=(2, 3)) / 180
    return x, y.astype(np.int32), softmax(logits)


def softmax(logits: np.ndarray) -> np.ndarray:
    scores = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (scores / scores.sum(axis=1, keepdims=True)).astype(np.float32)


def make_run(
    run: Path,
    *,
    labels: tuple[str, ...] = tuple("0123456789"),
    variants: tuple[str, ...] = VARIANTS,
    synthetic: bool = False,
    lowerings: tuple[str, ...] = ("while", "unroll", "fused", "step"),
) -> Path:
    """Write a run folder up to and including its checks; returns `run`."""
    recipe = Recipe(
        name="lstm",
        summary="Handwritten digits, read row by row.",
        task=Task.CLASSIFICATION,
        data=DataConfig(source="digits"),
        model=RecurrentConfig(units=(64,)),
        conversion=ConversionConfig(lowerings=lowerings),
    )
    x, y, scores = digits(labels)
    record = {
        "format": 1,
        "recipe": to_json(recipe),
        "command": ["edge-dl", "run", "lstm", "--out", "runs/my run"],
        "versions": {
            "python": "3.11.9",
            "edge-dl": "0.1.0",
            "numpy": "2.2.0",
            "tensorflow": "2.21.0",
            "keras": "3.15.1",
        },
        "git": "0123456789abcdef0123456789abcdef01234567",
        "machine": {
            "system": "Linux",
            "release": "6.1.0",
            "architecture": "x86_64",
            "processor": "A Processor @ 2.60GHz",
            "cores": 2,
        },
        "stages": {
            name: {"status": "done", "digest": "0", "seconds": 1.5 * place + 0.2}
            for place, name in enumerate(("data", "train", "export", "convert", "verify", "bench"))
        },
    }
    write_json(run / "run.json", record)
    index = np.arange(1000, 1360)
    save_npz(run / "data/test.npz", {"x/sequence": x, "y/label": y, "index": index})
    write_json(run / "data/dataset.json", dataset(labels, synthetic))
    write_json(run / "train/history.json", history())
    write_json(run / "train/gradient_flow.json", gradient_flow())
    save_npz(run / "export/reference.npz", {"y/label": scores})
    for name in variants:
        make_variant(run, name, x, y, scores, labels, index)
    make_latency(run, [name for name in variants if (run / f"checks/{name}.json").is_file()])
    return run


def make_latency(run: Path, names: list[str]) -> None:
    """Latency reports, and comparisons with the first variant."""
    comparisons = []
    for name in names:
        spec = VariantSpec.parse(name)
        p50 = SPEED[spec.lowering.value] * QUICKER[spec.quantization.value] * 1e3
        report = LatencyReport(
            name,
            p50_ms=p50,
            p90_ms=p50 * 1.08,
            p99_ms=p50 * 1.4,
            load_ms=1.9,
            first_call_ms=p50 * 3,
            peak_memory_mb=61.5,
            memory_before_mb=58.0,
            calls=4000,
            steady=True,
            runtime="litert",
            runtime_version="2.3.0",
            processor="A Processor @ 2.60GHz",
            cores=2,
        )
        write_json(run / f"bench/{name}.json", report.to_json())
        first = VariantSpec.parse(names[0])
        ratio = p50 / (SPEED[first.lowering.value] * QUICKER[first.quantization.value] * 1e3)
        verdict = Speed.FASTER if ratio < 0.97 else Speed.SLOWER if ratio > 1.03 else Speed.NO_DIFFERENCE
        if name != names[0]:
            found = Comparison(name, names[0], ratio, ratio * 0.97, ratio * 1.03, 0.95, 0.02, verdict)
            comparisons.append(found.to_json())
    if names:
        write_json(run / "bench/selection.json", select([candidate(run, name) for name in names]).to_json())
        write_json(run / "bench/comparisons.json", {"baseline": names[0], "comparisons": comparisons})


def candidate(run: Path, name: str) -> Candidate:
    spec = VariantSpec.parse(name)
    parity, bench = read_json(run / f"checks/{name}.json"), read_json(run / f"bench/{name}.json")
    return Candidate(
        name,
        spec.lowering.value,
        spec.quantization.value,
        Verdict(parity["verdict"]),
        parity["message"],
        bench["p50_ms"],
        BYTES[spec.quantization.value],
    )


def dataset(labels: tuple[str, ...], synthetic: bool) -> dict[str, Any]:
    shapes = {
        "x": {"sequence": {"shape": [360, 8, 8], "dtype": "float32"}},
        "y": {"label": {"shape": [360], "dtype": "int32"}},
    }
    return {
        "name": "digits",
        "task": "classification",
        "labels": list(labels),
        "synthetic": synthetic,
        "source": "https://archive.ics.uci.edu/dataset/80",
        "licence": "CC BY 4.0",
        "sha256": "9f" * 32,
        "vocabulary": [],
        "level": "",
        "scaling": "shared",
        "forecast": None,
        "notes": ["Split by position."],
        "splits": {
            part: {"samples": samples, **shapes}
            for part, samples in (("train", 1222), ("validation", 215), ("test", 360))
        },
    }


def history(epochs: int = 20) -> dict[str, Any]:
    """Training history that overfits a little at the end."""
    rng = np.random.default_rng(5)
    rows = []
    for epoch in range(1, epochs + 1):
        loss = 2.3 * np.exp(-epoch / 4) + 0.02
        validation = 2.3 * np.exp(-epoch / 4.4) + 0.08 + 0.004 * max(0, epoch - 14) + rng.normal(0, 0.01)
        rows.append(
            {
                "epoch": epoch,
                "seconds": 0.9,
                "learning_rate": 1e-3,
                "loss": loss,
                "validation_loss": float(validation),
                "accuracy": float(1 - loss / 2.6),
                "validation_accuracy": float(1 - validation / 2.6),
            }
        )
    return {
        "epochs": rows,
        "backend": "tensorflow 2.21.0",
        "device": "CPU",
        "precision": "float32",
        "parameters": 19_338,
        "best_epoch": 15,
        "samples_per_second": 1357.0,
    }


def gradient_flow(steps: int = 50) -> dict[str, Any]:
    t = np.arange(steps)
    return {
        "steps": t.tolist(),
        "curves": {
            "untrained": (1e-7 * 10 ** (t / steps * 5)).tolist(),
            "trained": (1e-4 * 10 ** (t / steps * 2)).tolist(),
        },
    }


def make_variant(
    run: Path, name: str, x: np.ndarray, y: np.ndarray, scores: np.ndarray, labels: tuple[str, ...], index: np.ndarray
) -> None:
    """One variant: a refused or crashed conversion for some names, else a bundle and a real parity report."""
    spec = VariantSpec.parse(name)
    quantization, lowering = spec.quantization.value, spec.lowering.value
    if name == "while-int8":
        make_outcome(
            run,
            name,
            "crashed",
            "The converter died on SIGSEGV while it made while-int8.",
            "Use unroll-int8: the converter cannot quantize a WHILE loop.",
            signal="SIGSEGV",
        )
        return
    if lowering == "fused" and quantization.startswith("int"):
        make_outcome(
            run,
            name,
            "refused",
            "Quantization to 16x8-bit not yet supported for op: 'UNIDIRECTIONAL_SEQUENCE_LSTM'",
            "Use unroll-int16x8.",
        )
        return
    make_outcome(run, name, "converted", "", "")
    signature = Signature("predict", (TensorSpec("sequence", (1, 8, 8)),), (TensorSpec("label", (1, scores.shape[1])),))
    manifest = Manifest(
        name="lstm",
        variant=name,
        lowering=lowering,
        quantization=quantization,
        task="classification",
        signature=signature,
        limits=Limits(max_drop=0.01),
        min_runtime_version="2.3.0",
        made_by={"edge_dl": "0.1.0", "tool": "ai-edge-quantizer dynamic_wi8_afp32"},
    )
    # Only the manifest is written: a report reads sizes from it, and nothing here could fill a model.tflite.
    size = BYTES[quantization] + 900 * len(lowering)
    files = {"model.tflite": {"sha256": "0" * 64, "bytes": size}}
    write_json(run / f"variants/{name}/manifest.json", dataclasses.replace(manifest, files=files).to_json())
    rng = np.random.default_rng(len(name))
    noisy = softmax(np.log(scores + 1e-9) + rng.normal(0, NOISE[quantization] * 6, scores.shape))
    known = {row.tobytes(): answer for row, answer in zip(x, noisy, strict=True)}
    report = check_parity(
        lambda inputs: {"label": np.stack([known[row.tobytes()] for row in inputs["sequence"]])},
        {"sequence": x},
        {"label": scores},
        {"label": y},
        task=Task.CLASSIFICATION,
        labels=labels,
        index=index,
        quantization=quantization,
        variant=name,
    )
    write_json(run / f"checks/{name}.json", report.to_json())


def make_outcome(run: Path, name: str, status: str, message: str, todo: str, signal: str = "") -> None:
    write_json(
        run / f"variants/{name}.json",
        {
            "variant": name,
            "status": status,
            "message": message,
            "todo": todo,
            "seconds": 1.25,
            "tool": "TFLiteConverter",
            "signal": signal,
        },
    )
