"""Sets that need no download: they come with packages that are installed anyway, or are generated."""

from __future__ import annotations

import platform

import numpy as np

from edge_dl.data import vowels
from edge_dl.data.dataset import Split, output_name
from edge_dl.data.sentences import Pairs
from edge_dl.data.series import Series, cut_windows
from edge_dl.data.sounds import RATES
from edge_dl.data.source import Source
from edge_dl.data.tokens import cut_text
from edge_dl.data.toy_pairs import toy_pairs
from edge_dl.errors import UsageError
from edge_dl.recipe import DataConfig, Task
from edge_dl.runtime.samples import FULL_SCALE, to_samples


def digits_rows(config: DataConfig, task: Task | None, *, seed: int) -> Source:
    """Scikit-learn's 1,797 handwritten digits, read row by row: (8 steps, 8 pixels), 10 classes.

    Raises:
        UsageError: the task is not classification, or scikit-learn is not installed.
    """
    images, target = _digits("digits-rows", task, Task.CLASSIFICATION)
    split = Split({"sequence": images.astype(np.float32)}, {"label": target}, np.arange(len(images)))
    return _digits_source("digits-rows", split, "shared")


def digits(config: DataConfig, task: Task | None, *, seed: int) -> Source:
    """Scikit-learn's 1,797 handwritten digits as grey pictures: (8, 8, 1) uint8 from 0 to 255, 10 classes.

    Raises:
        UsageError: the task is neither classification nor embedding, or scikit-learn is not installed.
    """
    images, target = _digits("digits", task, Task.CLASSIFICATION, Task.EMBEDDING)
    assert task is not None  # It is one of the allowed.
    # The source counts 17 shades; a picture has 256.
    pictures = np.rint(images * (255 / 16)).astype(np.uint8)[..., None]
    return _digits_source(
        "digits", Split({"image": pictures}, {output_name(task): target}, np.arange(len(images))), "feature"
    )


def _digits(name: str, task: Task | None, *allowed: Task) -> tuple[np.ndarray, np.ndarray]:
    check_task(name, task, *allowed)
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise UsageError(
            "The built-in digits come with scikit-learn.",
            received="no scikit-learn",
            todo="Install it: pip install 'edge-dl[train]'.",
        ) from None
    found = load_digits()
    return found.images, found.target.astype(np.int32)


def _digits_source(name: str, split: Split, scaling: str) -> Source:
    return Source(
        name,
        {"all": split},
        labels=tuple(str(digit) for digit in range(10)),
        source="scikit-learn load_digits: test part of Optical Recognition of Handwritten Digits, UCI (Alpaydin & "
        "Kaynak 1998)",
        licence="CC BY 4.0",
        scaling=scaling,
    )


def check_task(name: str, task: Task | None, *allowed: Task) -> None:
    """Refuse a task that a set has no targets for.

    Raises:
        UsageError: `task` is not one of `allowed`.
    """
    if task not in allowed:
        raise UsageError(
            f"{name} is data for {' or '.join(item.value for item in allowed)}.",
            received=task.value if task else "no task",
        )


def adding(config: DataConfig, task: Task | None, *, seed: int) -> Source:
    """The adding problem (Hochreiter & Schmidhuber 1997, experiment 4): remember two numbers of a long sequence.

    Each step has a number drawn from U(0, 1) and a marker; two steps are marked, one in each half; the target is the
    sum of the two marked numbers. Always answering 1 has a mean squared error of 1/6. `config.length` steps (100),
    `config.samples` training samples (10,000); validation and test have a fifth of that each, at least 100.

    Raises:
        UsageError: the task is not regression, or the length is below 4.
    """
    check_task("adding", task, Task.REGRESSION)
    length, samples = config.length or 100, config.samples or 10_000
    if length < 4:
        raise UsageError("The adding problem needs at least 4 steps.", received=f"data.length={length}")
    rng = np.random.default_rng([seed, length])
    other = max(100, samples // 5)
    parts = {}
    start = 0
    for part, count in (("train", samples), ("validation", other), ("test", other)):
        numbers = rng.uniform(0, 1, (count, length)).astype(np.float32)
        markers = np.zeros_like(numbers)
        rows = np.arange(count)
        first = rng.integers(0, length // 2, count)
        second = rng.integers(length // 2, length, count)
        markers[rows, first] = 1
        markers[rows, second] = 1
        total = (numbers[rows, first] + numbers[rows, second])[:, None]
        x = np.stack([numbers, markers], axis=-1)
        parts[part] = Split({"sequence": x}, {"value": total}, np.arange(start, start + count))
        start += count
    return Source(
        f"adding-{length}",
        parts,
        source=f"generated: adding problem (Hochreiter & Schmidhuber 1997), {length} steps, seed {seed}",
        synthetic=True,
    )


def python_topics(config: DataConfig, task: Task | None, *, seed: int) -> Source:
    """English text for a language model: the help topics that CPython ships for `help("TOPIC")`.

    The text differs a little between Python versions; the data hash says which one a run had.

    Raises:
        UsageError: the task is not language model, or this Python was packaged without `pydoc_data`.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise UsageError(
            "The built-in text comes with CPython's pydoc_data.",
            received="a Python that was packaged without it",
            todo="Use data.source=tiny-shakespeare or a text file instead.",
        ) from None
    text = "\n\n".join(str(topics[name]).strip() for name in sorted(topics))
    version = platform.python_version()
    return cut_text(
        text,
        config,
        task,
        name="python-topics",
        source=f"pydoc_data.topics of CPython {version}",
        licence="PSF-2.0",
    )


def seasonal(config: DataConfig, task: Task | None, *, seed: int) -> Source:
    """A generated hourly series: a slow trend, a daily and a weekly cycle, and noise that remembers (AR(1), 0.8).

    `config.samples` rows (4,000); a day is `config.season` rows (24).
    """
    rows, day = config.samples or 4_000, config.season or 24
    rng = np.random.default_rng([seed, rows])
    time = np.arange(rows)
    noise = np.zeros(rows)
    shocks = rng.normal(0, 0.5, rows)
    for row in range(1, rows):
        noise[row] = 0.8 * noise[row - 1] + shocks[row]
    value = (
        20
        + 3 * np.sin(2 * np.pi * time / (rows * 0.7))
        + 5 * np.sin(2 * np.pi * time / day)
        + 2 * np.sin(2 * np.pi * time / (7 * day) + 1)
        + noise
    )
    return cut_windows(
        Series(value[:, None], ("value",)),
        config,
        task,
        name="seasonal",
        source=f"generated: trend, two cycles and AR(1) noise, {rows} rows, seed {seed}",
        synthetic=True,
    )


def toy_translation(config: DataConfig, task: Task | None, *, seed: int) -> Pairs:
    """Made sentence pairs, English to French: numbers and dates to words, and a few hundred sentences.

    Raises:
        UsageError: the task is not translation.
    """
    check_task("toy-translation", task, Task.TRANSLATION)
    return Pairs(
        "toy-translation",
        toy_pairs(seed),
        source=f"generated: numbers, dates and composed sentences, English to French, seed {seed}",
        synthetic=True,
        notes=("A toy: its sentences are put together from a few hundred words.",),
    )


def vowel_words(config: DataConfig, task: Task | None, *, seed: int) -> Source:
    """Words of vowels from a formant synthesizer, with silence and unknown words; every part has voices of its own.

    `config.samples` training sounds (800) of `config.seconds` (1) at `config.rate` (8,000 Hz); validation has a
    fifth of that and test as many, each at least 100. A voice speaks 20 of them.

    For transcription, words alone and without noise, to be joined: three times each of 40 voices for training, and of
    12 for validation and test each.

    Raises:
        UsageError: the task is neither classification nor transcription, the rate is one that nothing records with,
            or a word does not fit into the length.
    """
    check_task("vowel-words", task, Task.CLASSIFICATION, Task.TRANSCRIPTION)
    if task is Task.TRANSCRIPTION:
        return _single_words(config, seed=seed)
    samples, rate, seconds = config.samples or 800, config.rate or 8_000, config.seconds or 1.0
    if not RATES[0] <= rate <= RATES[1] or seconds < 0.9:
        raise UsageError(
            f"Made words need at least 0.9 seconds, and a rate of {RATES[0]} to {RATES[1]} Hz.",
            received=f"data.seconds={seconds:g}, data.rate={rate}",
        )
    rng = np.random.default_rng([seed, samples])
    # With 800 in the test a variant that gets three answers more wrong is still seen to hold a limit of one point; with
    # half of them one answer leaves that undecided, and calibration alone moves int8 by one to three answers.
    validation, test = max(100, samples // 5), max(100, samples)
    parts = {}
    start = 0
    for part, count in (("train", samples), ("validation", validation), ("test", test)):
        voices = [vowels.random_voice(rng) for _ in range(-(-count // 20))]
        y = rng.permutation(np.arange(count, dtype=np.int32) % len(vowels.LABELS))
        length = round(seconds * rate)
        x = np.stack(
            [vowels.record(vowels.LABELS[y[row]], voices[row // 20], length, rate, rng) for row in range(count)]
        )
        parts[part] = Split({"sound": x}, {"label": y}, np.arange(start, start + count))
        start += count
    return Source(
        "vowel-words",
        parts,
        labels=vowels.LABELS,
        source=f"generated: words of vowels by a formant synthesizer, {rate} Hz, seed {seed}",
        synthetic=True,
        rate=rate,
    )


def _single_words(config: DataConfig, *, seed: int) -> Source:
    rate = config.rate or 8_000
    if not RATES[0] <= rate <= RATES[1]:
        raise UsageError(f"Made words need a rate of {RATES[0]} to {RATES[1]} Hz.", received=f"data.rate={rate}")
    rng = np.random.default_rng([seed, rate])
    parts, speakers = {}, []
    start = 0
    for part, voices in (("train", 40), ("validation", 12), ("test", 12)):
        said, words = [], []
        for voice in (vowels.random_voice(rng) for _ in range(voices)):
            for number, word in enumerate(vowels.WORDS * 3):
                said.append(0.1 * FULL_SCALE * vowels.speak(word, voice, rate, rng))
                words.append(number % len(vowels.WORDS))
        count = len(said)
        speakers += [f"{part} {number}" for number in np.repeat(np.arange(voices), count // voices)]
        sound = np.zeros((count, rate), np.int16)  # The longest word of the slowest voice is 0.83 s.
        for row, samples in enumerate(said):
            sound[row, : len(samples)] = to_samples(samples)
        parts[part] = Split({"sound": sound}, {"label": np.array(words, np.int32)}, np.arange(start, start + count))
        start += count
    return Source(
        "vowel-words",
        parts,
        labels=vowels.WORDS,
        source=f"generated: words of vowels by a formant synthesizer, {rate} Hz, seed {seed}",
        synthetic=True,
        rate=rate,
        speakers=np.array(speakers),
    )
