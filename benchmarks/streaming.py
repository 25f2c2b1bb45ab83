"""Streams: what a packet costs beside the whole-clip model, whether they are equal, and how well long sound is heard.

Run from the repository:

    .venv/bin/python benchmarks/streaming.py cost [--networks ds-cnn,lstm] [--rounds 30]
    .venv/bin/python benchmarks/streaming.py listen RUN [--minutes 30]

`cost` makes every speech recipe's network with model.padding=valid for one second of 16 kHz, untrained (speed does not
depend on it), as a stream and as a whole clip. Both take turns; a row says the median over rounds of each round's
median call of `StreamSession.push` with one packet (Python and states included), of the interpreter alone, and of the
whole clip; `inside_..` is the same with the states in the file (conversion.internal_states). `transformer/0.5` has
model.attention_window=0.5. `equal` is the largest difference between the stream's scores and the whole-clip Keras
model's: for streams equal on a window, over 50 windows; for those equal from the start, over 20 clips, each from fresh
states.

`listen` takes the run folder of a speech recipe trained on vowel-words with stream variants:

    edge-dl run speech-cnn --set model.padding=valid --set conversion.lowerings=auto,stream --out RUN

It lays words of new voices into coloured noise, with unknown words among them, and counts at several thresholds. Words
are made by a synthesizer: the numbers say that the pipeline works, not how well people are heard.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edge_dl.bundle import read_bundle, write_bundle
from edge_dl.checks.spotting import Spoken, match
from edge_dl.data import vowels
from edge_dl.data.noise import coloured_noise
from edge_dl.files import read_json, write_atomic, write_json
from edge_dl.runfolder import installed_versions, machine
from edge_dl.runtime import Detector, StreamSession, open_session

RESULTS = Path(__file__).parent / "results"
RATE, CLASSES = 16_000, 12
QUANTIZATIONS = ("float32", "dynamic", "int8")
THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
CHUNK = 0.02  # seconds


def sounds(count: int, length: int, seed: int) -> np.ndarray:
    """Words and noise, (count, length) int16."""
    rng = np.random.default_rng(seed)
    voices = [vowels.random_voice(rng) for _ in range(count)]
    chosen = rng.integers(0, len(vowels.LABELS), count)
    return np.stack([
        vowels.record(vowels.LABELS[label], voice, length, RATE, rng)
        for label, voice in zip(chosen, voices, strict=True)
    ])  # fmt: skip


def network(name: str, x: np.ndarray) -> Any:
    """A recipe's network with valid padding; `transformer/SECONDS`: with attention to so many seconds."""
    import keras

    from edge_dl import models
    from edge_dl.data import Dataset, Split
    from edge_dl.recipe import SpeechConfig, Task
    from edge_dl.training.recipes import RECIPES

    name, _, window = name.partition("/")
    recipe = next(
        item for item in RECIPES.values() if isinstance(item.model, SpeechConfig) and item.model.network == name
    )
    settings = dataclasses.replace(recipe.model, padding="valid", attention_window=float(window or 0))
    split = Split({"sound": x}, {"label": np.arange(len(x), dtype=np.int32) % CLASSES}, np.arange(len(x)))
    labels = tuple(str(number) for number in range(CLASSES))
    data = Dataset("sounds", Task.CLASSIFICATION, split, split, split, labels=labels, rate=RATE)
    keras.utils.set_random_seed(0)
    model = models.build(Task.CLASSIFICATION, settings, data)
    # Untrained answers are all alike, or all 0 and 1: an error must show.
    head = model.get_layer("head")
    scores = np.asarray(keras.Model(model.inputs, head.output)([x]))
    head.kernel.assign(np.asarray(head.kernel) * 2 / scores.std(axis=0).mean())
    head.bias.assign(-scores.mean(axis=0) * 2 / scores.std(axis=0).mean())
    return model


def block(call: Callable[[], Any], count: int) -> float:
    """Median seconds of `count` calls."""
    times = []
    for _ in range(count):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def difference(model: Any, bundle: Path) -> float:
    """The largest difference between the stream's scores and the whole-clip Keras model's."""
    session = StreamSession(bundle, smoothing=0)
    stream = session.session.stream
    assert stream is not None
    if stream["equal"] == "window":
        long = np.concatenate(sounds(3, RATE, 7))
        got = np.stack([score.values for score in session.push(long)])[:50]
        windows = np.stack([long[i * session.packet :][:RATE] for i in range(len(got))])
    else:
        windows = sounds(20, RATE, 8)
        got = np.stack([session.session.predict(clip)["label"] for clip in windows])
    return float(np.abs(got - np.asarray(model({"sound": windows})["label"])).max())


def inside(bundle: Path) -> Path:
    """The same bundle with its states in the file."""
    from edge_dl.converters import packing, tensors
    from edge_dl.converters.internal_states import RESET, keep_states

    opened = read_bundle(bundle)
    model = tensors.read(opened.model)
    keep_states(model, opened.manifest.signature)
    signature = dataclasses.replace(opened.manifest.signature, states=())
    inputs, outputs = opened.golden()
    made = write_bundle(
        bundle.with_name(f"{bundle.name}-inside"), packing.pack(model),
        dataclasses.replace(opened.manifest, signature=signature, reset=RESET),
        golden_inputs=inputs, golden_outputs=outputs,
    )  # fmt: skip
    return made.folder


def cost(names: list[str], rounds: int) -> list[dict[str, Any]]:
    from edge_dl.converters import convert

    x = sounds(48, RATE, 1)
    rows = []
    for name in names:
        model = network(name, x)
        recurrent = name in ("crnn", "lstm")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.keras"
            model.save(path)
            whole = "while" if recurrent else "none"
            made = convert(
                path, Path(folder) / "run", lowering=(whole, "stream"), quantization=QUANTIZATIONS,
                data={"sound": x}, task="classification",
            )  # fmt: skip
            variants = Path(folder) / "run" / "variants"
            there = {outcome.variant for outcome in made if outcome.ok}
            for quantization in QUANTIZATIONS:
                stream = f"stream-{quantization}"
                # TensorFlow's converter cannot quantize a loop to integers: its int8 weights are compared then.
                clip = f"{whole}-{quantization}" if recurrent else quantization
                clip = clip if clip in there else f"{whole}-dynamic"
                if missing := {stream, clip} - there:
                    rows.append({"network": name, "variant": stream, "error": f"not made: {', '.join(missing)}"})
                    continue
                rows.append(
                    {"network": name, "variant": stream, "beside": clip}
                    | measure(variants / stream, variants / clip, x, rounds)
                    | ({"equal": difference(model, variants / stream)} if quantization == "float32" else {})
                )
                print(rows[-1], file=sys.stderr, flush=True)
    return rows


def measure(stream: Path, clip: Path, x: np.ndarray, rounds: int) -> dict[str, Any]:
    session = StreamSession(stream)
    packet = x[0, : session.packet]
    session.push(x[0])
    interpreter = session.session.interpreter
    whole = open_session(clip).bare(x[:1])
    within = StreamSession(inside(stream))
    within.push(x[0])
    calls = {
        "push": lambda: session.push(packet),
        "interpreter": interpreter.run,
        "inside_push": lambda: within.push(packet),
        "inside_interpreter": within.session.interpreter.run,
        "clip": whole,
    }
    for call in calls.values():
        block(call, 5)
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            times[name].append(block(call, 20 if name == "clip" else 100))
    found = {name: statistics.median(values) for name, values in times.items()}
    ratios = [push / clip for push, clip in zip(times["push"], times["clip"], strict=True)]
    milliseconds = 1_000 * session.packet / RATE
    share = statistics.median(ratios)
    return {
        "packet_ms": milliseconds,
        "equal_on": session.session.stream["equal"],  # type: ignore[index]
        "push_us": 1e6 * found["push"],
        "interpreter_us": 1e6 * found["interpreter"],
        "clip_us": 1e6 * found["clip"],
        "share_of_clip": share,
        "share_of_clip_for_20_ms": share * 20 / milliseconds,
        "states": len(session.session.states),
        "inside_push_us": 1e6 * found["inside_push"],
        "inside_interpreter_us": 1e6 * found["inside_interpreter"],
        "bytes": (stream / "model.tflite").stat().st_size,
    }


def recording(minutes: float, rate: int, seed: int) -> tuple[np.ndarray, list[Spoken], int]:
    """Noise with a word every three seconds or so, int16; what was said in it; how many unknown words (a third)."""
    rng = np.random.default_rng(seed)
    length = round(60 * minutes * rate)
    piece = 60 * rate
    sound = np.concatenate([coloured_noise(1, piece, rng)[0] for _ in range(-(-length // piece))])[:length]
    sound *= 10 ** (-15 / 20)  # 15 dB below the words, which have level 1.
    spoken, unknown = [], 0
    place = 2 * rate
    while place < length - 3 * rate:
        voice = vowels.random_voice(rng)
        known = rng.random() < 2 / 3
        word = str(rng.choice(vowels.WORDS)) if known else vowels._unknown_word(rng)
        said = vowels.speak(word, voice, rate, rng) * 10 ** (rng.uniform(-6, 6) / 20)
        sound[place : place + len(said)] += said
        if known:
            spoken.append(Spoken(word, place, place + len(said)))
        unknown += not known
        place += len(said) + round(rng.uniform(1.5, 3.5) * rate)
    loudness = 10 ** (-25 / 20)
    return np.clip(np.rint(sound * loudness * 32768), -32768, 32767).astype(np.int16), spoken, unknown


def hear(run: Path, minutes: float) -> list[dict[str, Any]]:
    rows = []
    for bundle in sorted(path.parent for path in run.glob("variants/stream-*/manifest.json")):
        session = StreamSession(bundle)
        sound, spoken, unknown = recording(minutes, session.rate, 11)
        chunk = round(CHUNK * session.rate)
        scores = []
        started, began = time.process_time(), time.perf_counter()
        for start in range(0, len(sound), chunk):
            scores += session.push(sound[start : start + chunk])
        seconds = len(sound) / session.rate
        load, wall = (time.process_time() - started) / seconds, (time.perf_counter() - began) / seconds
        for threshold in THRESHOLDS:
            detector = Detector(session.labels, threshold, session.detector.pause)
            heard = [found for score in scores if (found := detector.hear(score.smoothed, score.end))]
            result = match(spoken, heard, rate=session.rate, length=len(sound))
            rows.append({
                "variant": bundle.name, "threshold": threshold, "minutes": seconds / 60, "words": result.words,
                "unknown_words": unknown,
                "hits": result.hits, "misses": result.misses, "wrong": result.wrong,
                "false_alarms_an_hour": result.false_alarms_an_hour,
                "delay_p50_s": result.delay(), "delay_p90_s": result.delay(0.9),
                "cpu_share_of_real_time": load, "wall_share_of_real_time": wall,
            })  # fmt: skip
            print(rows[-1], file=sys.stderr, flush=True)
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    keys = list(dict.fromkeys(key for row in rows for key in row))

    def text(value: Any) -> str:
        return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)

    lines = [keys] + [[text(row.get(key)) for key in keys] for row in rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(keys))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    costs = commands.add_parser("cost")
    costs.add_argument("--networks", default="ds-cnn,crnn,lstm,transformer,transformer/0.5,transformer/1.0")
    costs.add_argument("--rounds", type=int, default=30)
    listening = commands.add_parser("listen")
    listening.add_argument("run", type=Path)
    listening.add_argument("--minutes", type=float, default=30.0)
    options = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if options.command == "cost":
        rows = cost(options.networks.split(","), options.rounds)
    else:
        rows = hear(options.run, options.minutes)
    facts: dict[str, Any] = {"machine": machine(), "versions": installed_versions(), "load": os.getloadavg()}
    if options.command == "listen":
        results = read_json(options.run / "results.json") if (options.run / "results.json").is_file() else {}
        facts["recipe"] = results.get("recipe")
    name = RESULTS / ("streaming_cost" if options.command == "cost" else f"streaming_listen_{options.run.name}")
    write_json(name.with_suffix(".json"), {**facts, "rows": rows})
    shown = f"machine: {facts['machine']}\nload average before: {facts['load']}\n\n{table(rows)}\n"
    write_atomic(name.with_suffix(".txt"), shown.encode())
    print(shown)


if __name__ == "__main__":
    main()
