"""Tokens a second of translating, greedy and with 4 beams, one thread, beside what else a user would run.

Run from the repository: .venv/bin/python benchmarks/translation_speed.py RUN [--sentences 60] [--rounds 5]

RUN is a run folder of `edge-dl run translate`. Every engine runs the same search (`edge_dl.runtime.search`) on the same
test sentences as token numbers:

    LiteRT VARIANT        bundles of the run
    ONNX Runtime          the same exported signatures by tf2onnx, float32, and its weights in int8 (dynamic)
    TensorFlow            the same exported signatures as compiled functions of TensorFlow
    Keras                 the Keras model's own greedy loop: `predict` on the target so far for every token

Engines take turns, in an order drawn anew each round. Keras translates `--keras` sentences a round, drawn anew too, and
every engine translates the same ones once more, greedily: only rates over the same sentences are compared. Given are
the median over rounds of tokens a second, its ratio to LiteRT float32 in the same round with a bootstrap interval,
milliseconds to the first token, and the memory that a fresh process needs to translate two sentences, greedily and with
4 beams, beside what Python and NumPy take (not for TensorFlow and Keras).

Tokens are counted with the end of a sentence where the model ended it.

Needs `pip install tf2onnx onnx onnxruntime` beside edge-dl[train,convert].
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from edge_dl.converters.exporting import Export, read_export
from edge_dl.files import read_json, write_atomic, write_json
from edge_dl.runfolder import installed_versions, machine
from edge_dl.runtime import SessionDecoder, open_session
from edge_dl.runtime.search import Search, search
from edge_dl.text import END, Tables

RESULT = Path(__file__).parent / "results" / "translation_speed"
BEAMS = 4
Tensors = dict[str, np.ndarray]


class Signatures(Protocol):
    """The exported signatures in some runtime: by name, tensors in and out."""

    def __call__(self, key: str, tensors: Tensors) -> Tensors:
        """Run the signature `key`."""


class SignatureDecoder:
    """`edge_dl.runtime.search.Decoder` over exported signatures."""

    def __init__(self, export: Export, run: Signatures) -> None:
        self.export, self.run = export, run
        assert export.encoder is not None
        assert export.sequence is not None
        self.beams = BEAMS
        self.steps = export.sequence.steps
        (self.target,) = export.sequence.inputs
        (self.source,) = (spec.name for spec in export.encoder.inputs)
        self.length = export.encoder.inputs[0].shape[1]
        self.kept = [spec.name for spec in export.signature.inputs if spec.name != self.target]
        self.attends = "attention" in {spec.name for spec in export.signature.outputs}

    def begin(self, source: np.ndarray) -> None:
        padded = np.zeros((1, self.length), np.int32)
        padded[0, : len(source)] = source
        self.encoded = self.run("encode", {self.source: padded})
        self.states: Tensors = {}

    def step(self, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        rows = len(tokens)
        if not self.states:
            for state in self.export.signature.states:
                first = self.encoded[state.initial] if state.initial else np.zeros(state.shape, state.dtype)
                self.states[state.input] = np.repeat(first, rows, axis=0)
        fed = {self.target: tokens[:, None].astype(np.int32), **{name: self.encoded[name] for name in self.kept}}
        answers = self.run("decode_step" if rows == 1 else "decode_beams", {**fed, **self.states})
        self.states = {state.input: answers[state.output] for state in self.export.signature.states}
        attention = answers["attention"].reshape(rows, -1) if self.attends else None
        return answers["next_token"].reshape(rows, -1), attention

    def reorder(self, parents: np.ndarray) -> None:
        self.states = {name: value[parents] for name, value in self.states.items()}


def tensorflow_signatures(export: Export) -> Signatures:
    import tensorflow as tf

    loaded = tf.saved_model.load(str(export.saved_model))

    def run(key: str, tensors: Tensors) -> Tensors:
        found = loaded.signatures[key](**{name: tf.constant(value) for name, value in tensors.items()})
        return {name: value.numpy() for name, value in found.items()}

    return run


def onnx_files(export: Export, folder: Path) -> dict[str, dict[str, Path]]:
    """The signatures in ONNX, by precision and key."""
    from onnxruntime.quantization import quantize_dynamic

    made: dict[str, dict[str, Path]] = {"float32": {}, "int8 weights": {}}
    for key in ("encode", "decode_step", "decode_beams"):
        plain, small = folder / f"{key}.onnx", folder / f"{key}.int8.onnx"
        what = ["--saved-model", str(export.saved_model), "--signature_def", key, "--opset", "17"]
        command = [sys.executable, "-m", "tf2onnx.convert", *what, "--output", str(plain)]
        subprocess.run(command, check=True, capture_output=True)
        quantize_dynamic(plain, small)
        made["float32"][key], made["int8 weights"][key] = plain, small
    return made


def onnx_signatures(files: Mapping[str, str | Path]) -> Signatures:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = 1, 1
    options.log_severity_level = 3
    sessions = {
        key: onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        for key, path in files.items()
    }
    # tf2onnx may write "target:0" for "target".
    names = {key: {item.name.split(":")[0]: item.name for item in one.get_inputs()} for key, one in sessions.items()}
    given = {key: [item.name.split(":")[0] for item in one.get_outputs()] for key, one in sessions.items()}

    def run(key: str, tensors: Tensors) -> Tensors:
        fed = {real: tensors[name] for name, real in names[key].items()}
        return dict(zip(given[key], sessions[key].run(None, fed), strict=True))

    return run


def keras_loop(run: Path, longest: int) -> Callable[[np.ndarray], int]:
    """Tokens of one translation by the Keras model."""
    import keras

    import edge_dl.models
    from edge_dl.models.translating import greedy_loop

    edge_dl.models.register()
    model = keras.saving.load_model(run / "train" / "model.keras", compile=False)

    def count(source: np.ndarray) -> int:
        tokens = len(greedy_loop(model, source, longest))
        return tokens + (tokens < longest)  # It goes on to the limit unless it is ended.

    return count


def engines(run: Path, exports: dict[str, Export], onnx: dict[str, dict[str, Path]]) -> dict[str, Any]:
    """Decoders by name; bundles first."""
    found: dict[str, Any] = {
        f"LiteRT {path.parent.name}": SessionDecoder(open_session(path.parent, threads=1))
        for path in sorted((run / "variants").glob("*/manifest.json"))
    }
    for precision, files in onnx.items():
        found[f"ONNX Runtime {precision}"] = SignatureDecoder(exports["onnx"], onnx_signatures(files))
    found["TensorFlow float32"] = SignatureDecoder(exports["decode"], tensorflow_signatures(exports["decode"]))
    return found


def tokens_of(decoder: Any, sources: Sequence[np.ndarray], beams: int) -> tuple[float, int]:
    """Seconds and tokens of all translations."""
    settings = Search(beams=beams)
    started = time.perf_counter()
    found = [search(decoder, source, settings)[0] for source in sources]
    return time.perf_counter() - started, sum(len(one.tokens) + one.finished for one in found)


def first_token(decoder: Any, sources: Sequence[np.ndarray]) -> float:
    """Median milliseconds from a sentence's tokens to its translation's first."""
    times = []
    for source in sources:
        started = time.perf_counter()
        decoder.begin(source)
        decoder.step(np.array([2], np.int32))[0].argmax()
        times.append(time.perf_counter() - started)
    return 1e3 * float(np.median(times))


def memory_of(
    label: str, run: Path, sources: Sequence[np.ndarray], export: Path, files: dict[str, Path] | None
) -> float | None:
    """MB that a fresh process needs to translate two sentences, more than one that only imports NumPy.

    Args:
        label: the engine's name.
        run: the run folder.
        sources: sentences as token numbers.
        export: folder of the export that ONNX Runtime was given.
        files: the ONNX models by signature; None for other engines.
    """
    if label.startswith("LiteRT"):
        setup = (
            "from edge_dl.runtime import SessionDecoder, open_session\n"
            f"decoder = SessionDecoder(open_session({str(run / 'variants' / label.split()[1])!r}, threads=1))\n"
        )
    elif files is not None:
        named = {key: str(path) for key, path in files.items()}
        setup = (
            "import sys\n"
            f"sys.path.insert(0, {str(Path(__file__).resolve().parent)!r})\n"
            "from pathlib import Path\n"
            "from edge_dl.converters.exporting import read_export\n"
            "from translation_speed import SignatureDecoder, onnx_signatures\n"
            f"files = {named!r}\n"
            f"decoder = SignatureDecoder(read_export(Path({str(export)!r})), onnx_signatures(files))\n"
        )
    else:
        return None
    work = (
        "from edge_dl.runtime.search import Search, search\n"
        f"for source in {[source.tolist() for source in sources[:2]]!r}:\n"
        f"    for beams in (1, {BEAMS}):\n"
        "        search(decoder, np.array(source, np.int32), Search(beams=beams))\n"
        "import sys\n"
        # Either would be most of what is measured, and is no part of the engine.
        "assert not {'tensorflow', 'keras'} & set(sys.modules)\n"
    )
    peak = "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))\n"

    def measured(code: str) -> float:
        done = subprocess.run([sys.executable, "-c", code + peak], check=True, capture_output=True, text=True)
        return int(done.stdout.split()[-1]) / 1024

    return measured("import numpy as np\n" + setup + work) - measured("import numpy as np\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--sentences", type=int, default=60)
    parser.add_argument("--keras", type=int, default=2, help="sentences that Keras translates a round")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}
    run: Path = options.run
    tables = Tables.read(run / "data" / "text.json")
    exports = {name: read_export(run / "export" / name) for name in ("decode", "decode-unroll")}
    # ONNX has no operator for TensorFlow's lists of tensors in loops: it gets the encoder that is written out.
    exports["onnx"] = exports["decode-unroll"]
    items = read_json(run / "data" / "sentences.json")["test"]
    encoded = [np.array([*tables.source.encode(item["source"]), END], np.int32) for item in items]
    decode = exports["decode"]
    assert decode.encoder is not None
    assert decode.sequence is not None
    encoded = [source for source in encoded if len(source) <= decode.encoder.inputs[0].shape[1]]
    sources = [encoded[place] for place in np.linspace(0, len(encoded) - 1, options.sentences).round().astype(int)]
    with tempfile.TemporaryDirectory() as folder:
        onnx = onnx_files(exports["onnx"], Path(folder))
        decoders = engines(run, exports, onnx)
        loop = keras_loop(run, decode.sequence.steps)
        rng = np.random.default_rng(0)
        rates: dict[tuple[str, int], list[float]] = {(name, beams): [] for name in decoders for beams in (1, BEAMS)}
        # Over Keras' sentences of each round, greedily: long ones and short ones have other rates.
        few: dict[str, list[float]] = {name: [] for name in (*decoders, "Keras predict")}
        loop(sources[0])
        for decoder in decoders.values():
            for beams in (1, BEAMS):
                tokens_of(decoder, sources[:2], beams)
        turns = [*rates, ("Keras predict", 1)]
        for _ in range(options.rounds):
            drawn = rng.choice(len(sources), min(options.keras, len(sources)), replace=False)
            chosen = [sources[place] for place in drawn]
            for name, beams in [turns[place] for place in rng.permutation(len(turns))]:
                if name not in decoders:
                    started = time.perf_counter()
                    count = sum(loop(source) for source in chosen)
                    few[name].append(count / (time.perf_counter() - started))
                    continue
                seconds, count = tokens_of(decoders[name], sources, beams)
                rates[name, beams].append(count / seconds)
                if beams == 1:
                    seconds, count = tokens_of(decoders[name], chosen, beams)
                    few[name].append(count / seconds)
        first = {name: first_token(decoder, sources) for name, decoder in decoders.items()}
        memory = {
            name: memory_of(
                name, run, sources, run / "export" / "decode-unroll", onnx.get(name.removeprefix("ONNX Runtime "))
            )
            for name in decoders
        }
    facts = machine()
    lines = [
        f"$ python benchmarks/translation_speed.py {' '.join(sys.argv[1:])}",
        f"{facts['processor']}, {facts['cores']} cores; one thread; {len(sources)} sentences, "
        f"{np.mean([len(source) for source in sources]):.1f} tokens each; vocabulary "
        f"{decode.signature.outputs[-1].shape[-1]}, source and target of at most {decode.sequence.steps} tokens",
        "",
        f"{'':32} {'beams':>5} {'tokens/s':>9} {'of LiteRT float32':>18} {'interval':>15} {'first, ms':>10} {'MB':>6}",
    ]
    results = []
    for name, beams in turns:
        base = "LiteRT decode-float32"
        values, others = (rates[name, beams], rates[base, beams]) if name in decoders else (few[name], few[base])
        ratios = np.log(np.array(values) / np.array(others))
        low, high = np.exp(np.percentile(rng.choice(ratios, (4000, len(ratios))).mean(axis=1), (2.5, 97.5)))
        results.append(
            {
                "engine": name,
                "beams": beams,
                "tokens_per_second": float(np.median(values)),
                "ratio": float(np.exp(ratios.mean())),
                "interval": [float(low), float(high)],
                "first_token_ms": first.get(name) if beams == 1 else None,
                "memory_mb": memory.get(name) if beams == 1 else None,
            }
        )
        entry = results[-1]
        shown = [f"{entry[key]:.{digits}f}" if entry[key] is not None else "" for key, digits in
                 (("first_token_ms", 2), ("memory_mb", 0))]  # fmt: skip
        lines.append(
            f"{name:32} {beams:>5} {entry['tokens_per_second']:9.0f} {entry['ratio']:18.3f} "
            f"{low:7.3f}-{high:7.3f} {shown[0]:>10} {shown[1]:>6}"
        )
    count = min(options.keras, len(sources))
    lines += ["", f"Greedily, over the {count} sentences of each round that Keras translated too:"]
    for name in decoders:
        against = np.array(few[name]) / np.array(few["Keras predict"])
        lines.append(
            f"{name}: {np.median(against):.0f} times Keras' own greedy loop "
            f"(rounds: {against.min():.0f} to {against.max():.0f})"
        )
    text = "\n".join(lines) + "\n"
    print(text)
    write_atomic(RESULT.with_suffix(".txt"), text)
    write_json(RESULT.with_suffix(".json"), {"machine": facts, "versions": installed_versions(), "results": results})


if __name__ == "__main__":
    main()
