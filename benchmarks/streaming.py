"""Streams: what a packet costs beside the whole-clip model, whether they are equal, and how well long sound is heard.

Run from the repository:

    .venv/bin/python benchmarks/streaming.py cost [--networks ds-cnn,lstm] [--rounds 30]
    .venv/bin/python benchmarks/streaming.py listen RUN [--minutes 30]
    .venv/bin/python benchmarks/streaming.py spell RUN

`cost` makes every speech recipe's network with model.padding=valid for one second of 16 kHz, untrained (speed does not
depend on it), as a stream and as a whole clip. Both take turns; a row says the median over rounds of each round's
median call of `StreamSession.push` with one packet (Python and states included), of the interpreter alone, and of the
whole clip; `inside_..` is the same with the states in the file (conversion.internal_states). `transformer/0.5` has
model.attention_window=0.5. `equal` is the largest difference between the stream's scores and the whole-clip Keras
model's: for streams equal on a window, over 50 windows; for those equal from the start, over 20 clips, each from fresh
states.

`listen` takes the run folder of a speech recipe with stream variants and counts at several thresholds:

    edge-dl run speech-cnn --set model.padding=valid --set conversion.lowerings=auto,stream --out RUN
    edge-dl run speech-cnn --data speech_commands.zip --set model.padding=valid ... --out RUN

Of a data set it lays every recording of a word of the test part, once, into noise, with pauses of 1.5 to 3.5 s: noise
from white to brown, and the test part's own recordings of silence. Words of the class unknown are among them. Of made
speech it lays words of new voices into coloured noise for so many minutes: those numbers say that the pipeline works,
not how well people are heard.

`misses` are words that were not heard, those for which another one was heard (`wrong`) among them. False alarms are all
detections that are no hit; `in_pauses` are those where nothing was said, `other_words_taken` unknown words for which
something was heard. A delay counts from where a word ends: the last hundredth of a second within 20 dB of its loudest.

`spell` takes the run folder of speech-ctc with stream variants:

    edge-dl run speech-ctc --data digits.zip --set model.padding=valid --set conversion.lowerings=auto,stream --out RUN

All strings of the test part stand one behind the other in one stream that is never reset. Its words are held to all
that was said, and so are those of the same variant from fresh states for each string (`alone`): the difference is what
it costs to listen for long.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from edge_dl.bundle import read_bundle, write_bundle
from edge_dl.checks.edits import edit_distance
from edge_dl.checks.spotting import Spoken, match
from edge_dl.data import Dataset, read, vowels
from edge_dl.data.noise import coloured_noise, level
from edge_dl.files import read_json, write_atomic, write_json
from edge_dl.runfolder import installed_versions, machine
from edge_dl.runtime import Detector, SpellingSession, StreamSession, open_session
from edge_dl.runtime.ctc import best_path
from edge_dl.runtime.wordless import is_noise, is_word

RESULTS = Path(__file__).parent / "results"
RATE, CLASSES = 16_000, 12
QUANTIZATIONS = ("float32", "dynamic", "int8")
THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
CHUNK = 0.02  # seconds
PAUSE = (1.5, 3.5)  # seconds, shortest and longest
SNRS = (20.0, 10.0)  # dB
LOUDNESS = -25.0  # dB of full scale, of the words


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
    from edge_dl.data import Split
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


@dataclasses.dataclass(frozen=True)
class Said:
    """A word to be laid into a recording: its class, samples (samples,) in which it has level 1, where it stands."""

    label: str
    samples: np.ndarray
    start: int
    stop: int


@dataclasses.dataclass(frozen=True)
class Recording:
    """A long sound and what is said in it.

    Attributes:
        sound: (samples,) int16.
        spoken: words that the model knows.
        others: words that it does not know.
        noise: what is behind them.
        snr: level of the words over that of the noise, in dB, before each is made louder or quieter by up to 6.
    """

    sound: np.ndarray
    spoken: list[Spoken]
    others: list[Spoken]
    noise: str
    snr: float


def made_words(minutes: float, rate: int, rng: np.random.Generator) -> list[Said]:
    """Words of new voices for so many minutes, a third of them unknown ones."""
    words, seconds = [], 0.0
    while seconds < 60 * minutes:
        voice = vowels.random_voice(rng)
        known = rng.random() < 2 / 3
        label = str(rng.choice(vowels.WORDS)) if known else vowels.UNKNOWN
        samples = vowels.speak(label if known else vowels._unknown_word(rng), voice, rate, rng)
        words.append(Said(label, samples, 0, len(samples)))
        seconds += len(samples) / rate + sum(PAUSE) / 2
    return words


def test_words(data: Dataset, rng: np.random.Generator) -> list[Said]:
    """Every test recording of a word once, in random order."""
    size, fade = data.rate // 100, data.rate // 20
    words = []
    for row in rng.permutation(len(data.test)):
        label, sound = data.labels[data.test.y["label"][row]], data.test.x["sound"][row].astype(float)
        if is_noise(label) or not sound.any():
            continue
        # Where it is said: from the first to the last hundredth of a second within 20 dB of the loudest.
        frames = level(sound[: len(sound) // size * size].reshape(-1, size))
        loud = np.flatnonzero(frames > 0.1 * frames.max())
        start, stop = loud[0] * size, (loud[-1] + 1) * size
        places = np.arange(len(sound)) + 0.5
        edges = np.minimum(1, np.minimum(places, places[::-1]) / fade)  # Its own noise comes and goes.
        words.append(Said(label, sound * edges / level(sound[start:stop]), start, stop))
    return words


def coloured(length: int, rate: int, rng: np.random.Generator) -> np.ndarray:
    """Noise from white to brown, another every minute, of level 1."""
    piece = 60 * rate
    return np.concatenate([coloured_noise(1, piece, rng)[0] for _ in range(-(-length // piece))])[:length]


def recorded(clips: np.ndarray, length: int, rate: int, rng: np.random.Generator) -> np.ndarray:
    """Recordings of noise (clips, samples) at random one behind the other, faded into each other, each of level 1."""
    fade = rate // 20
    rise = np.sin(np.linspace(0, np.pi / 2, fade))
    found = np.zeros(length + clips.shape[1])
    for place in range(0, length, clips.shape[1] - fade):
        clip = clips[rng.integers(len(clips))].astype(float)
        clip /= level(clip)
        clip[:fade] *= rise
        clip[-fade:] *= rise[::-1]
        found[place : place + len(clip)] += clip
    return found[:length]


def lay(
    words: list[Said], kind: str, make: Callable[[int], np.ndarray], snr: float, rate: int, rng: np.random.Generator
) -> Recording:
    """Words laid into noise that `make` makes of a length, with pauses between them."""
    pauses = np.rint(rng.uniform(*PAUSE, len(words)) * rate).astype(int)
    length = 5 * rate + sum(len(word.samples) for word in words) + int(pauses.sum())
    sound = make(length) * 10 ** (-snr / 20)
    spoken, others = [], []
    place = 2 * rate
    for word, pause in zip(words, pauses, strict=True):
        sound[place : place + len(word.samples)] += word.samples * 10 ** (rng.uniform(-6, 6) / 20)
        said = Spoken(word.label, place + word.start, place + word.stop)
        (spoken if is_word(word.label) else others).append(said)
        place += len(word.samples) + int(pause)
    sound *= 32768 * 10 ** (LOUDNESS / 20)
    return Recording(np.clip(np.rint(sound), -32768, 32767).astype(np.int16), spoken, others, kind, snr)


def recordings(data: Dataset, minutes: float) -> Iterator[Recording]:
    """What is listened to: made words of new voices, or the words of a data set's test part."""
    rng = np.random.default_rng(11)
    rate = data.rate
    if data.synthetic:
        words = made_words(minutes, rate, rng)
        yield lay(words, "coloured", lambda length: coloured(length, rate, rng), 15.0, rate, rng)
        return
    words = test_words(data, rng)
    numbers = [number for number, label in enumerate(data.labels) if is_noise(label)]
    clips = data.test.x["sound"][np.isin(data.test.y["label"], numbers)]
    clips = clips[clips.any(axis=1)]
    for snr in SNRS:
        yield lay(words, "coloured", lambda length: coloured(length, rate, rng), snr, rate, rng)
        if len(clips):
            yield lay(words, "recorded", lambda length: recorded(clips, length, rate, rng), snr, rate, rng)


def near(word: Spoken, end: int, rate: int) -> bool:
    return word.start < end <= word.end + rate


def hear(run: Path, minutes: float) -> list[dict[str, Any]]:
    rows = []
    for said in recordings(read(run / "data"), minutes):
        for bundle in sorted(path.parent for path in run.glob("variants/stream-*/manifest.json")):
            session = StreamSession(bundle)
            rate, chunk = session.rate, round(CHUNK * session.rate)
            scores = []
            started, began = time.process_time(), time.perf_counter()
            for start in range(0, len(said.sound), chunk):
                scores += session.push(said.sound[start : start + chunk])
            seconds = len(said.sound) / rate
            load, wall = (time.process_time() - started) / seconds, (time.perf_counter() - began) / seconds
            for threshold in THRESHOLDS:
                detector = Detector(session.labels, threshold, session.detector.pause)
                heard = [found for score in scores if (found := detector.hear(score.smoothed, score.end))]
                result = match(said.spoken, heard, rate=rate, length=len(said.sound))
                nowhere = [item for item in heard if not any(near(word, item.end, rate)
                           for word in (*said.spoken, *said.others))]  # fmt: skip
                rows.append({
                    "noise": said.noise, "snr_db": said.snr, "variant": bundle.name, "threshold": threshold,
                    "minutes": seconds / 60, "words": result.words, "hits": result.hits, "misses": result.misses,
                    "wrong": result.wrong, "false_alarms_an_hour": result.false_alarms_an_hour,
                    "other_words": len(said.others),
                    "other_words_taken": sum(any(near(word, item.end, rate) for item in heard) for word in said.others),
                    "in_pauses_an_hour": len(nowhere) / result.hours,
                    "delay_p50_s": result.delay(), "delay_p90_s": result.delay(0.9),
                    "cpu_share_of_real_time": load, "wall_share_of_real_time": wall,
                })  # fmt: skip
                print(rows[-1], file=sys.stderr, flush=True)
    return rows


def spell(run: Path) -> list[dict[str, Any]]:
    data = read(run / "data")
    sounds = data.test.x["sound"]
    said = [int(number) for row in data.test.y["words"] for number in row if number]
    rows = []
    for bundle in sorted(path.parent for path in run.glob("variants/stream-*/manifest.json")):
        session = SpellingSession(bundle)
        sound, chunk = sounds.ravel(), round(CHUNK * session.rate)
        frames = []
        started, began = time.process_time(), time.perf_counter()
        for start in range(0, len(sound), chunk):
            frames += session.push(sound[start : start + chunk])
        frames += session.finish()
        seconds = len(sound) / session.rate
        load, wall = (time.process_time() - started) / seconds, (time.perf_counter() - began) / seconds
        words = [frame.word for frame in frames if frame.word]
        heard = [session.labels.index(word.label) for word in words]
        alone = [word for answer in session.session.predict(sounds)["words"] for word in best_path(answer)]
        rows.append({
            "variant": bundle.name, "packet_ms": 1_000 * session.packet / session.rate, "minutes": seconds / 60,
            "strings": len(sounds), "words": len(said),
            "word_error_rate": edit_distance(heard, said) / len(said),
            "word_error_rate_alone": edit_distance(alone, said) / len(said),
            # From where a word comes up in the best path to where its frame was known.
            "delay_p50_s": float(np.median([word.end - word.start for word in words])) / session.rate,
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
    spelling = commands.add_parser("spell")
    spelling.add_argument("run", type=Path)
    options = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if options.command == "cost":
        rows = cost(options.networks.split(","), options.rounds)
    elif options.command == "listen":
        rows = hear(options.run, options.minutes)
    else:
        rows = spell(options.run)
    facts: dict[str, Any] = {"machine": machine(), "versions": installed_versions(), "load": os.getloadavg()}
    if options.command != "cost":
        results = read_json(options.run / "results.json") if (options.run / "results.json").is_file() else {}
        facts["recipe"] = recipe = results.get("recipe")
        if recipe:  # Where the data lay is nobody's business.
            recipe["data"]["source"] = Path(recipe["data"]["source"]).name
    name = RESULTS / "_".join(
        ["streaming", options.command, *([options.run.name] if options.command != "cost" else [])]
    )
    write_json(name.with_suffix(".json"), {**facts, "rows": rows})
    shown = f"machine: {facts['machine']}\nload average before: {facts['load']}\n\n{table(rows)}\n"
    write_atomic(name.with_suffix(".txt"), shown.encode())
    print(shown)


if __name__ == "__main__":
    main()
