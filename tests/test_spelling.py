"""Spelling a stream: frames and words of the whole sound, whatever the chunks; `edge-dl listen` on a trained model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import stream_bundles
from sound_files import wav
from stream_bundles import LABELS, RATE, network, sound
from training_recipe import train_on
from typer.testing import CliRunner

from edge_dl import data, models
from edge_dl.checks.edits import edit_distance
from edge_dl.cli.main import app
from edge_dl.errors import UsageError
from edge_dl.recipe import SpeechConfig, apply_overrides
from edge_dl.runtime import SpellingSession, StreamSession, open_session
from edge_dl.runtime.ctc import best_path
from edge_dl.training.recipes import RECIPES

WORDS = ("_blank_", *LABELS)
CLIP = 3 * RATE  # long enough for several words
# So many samples behind a clip, some of them no whole packet.
MORE = 5_431


def config(padding: str) -> SpeechConfig:
    return SpeechConfig("ctc", padding=padding, bands=16, units=(12, 12))


@pytest.fixture(scope="module", params=["valid", "causal"])
def spelled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[keras.Model, Path, str]:
    """A network for one clip with random weights, its stream, and its padding."""
    model = network(config(request.param), CLIP)
    head = model.get_layer("head")
    scores = np.asarray(keras.Model(model.inputs, head.output)({"sound": sound(CLIP, seed=20, count=4)}))
    factor = 3 / scores.std(axis=(0, 1))  # Untrained answers are all alike: here every class has its frames.
    head.kernel.assign(np.asarray(head.kernel) * factor)
    head.bias.assign((np.asarray(head.bias) - scores.mean(axis=(0, 1))) * factor)
    folder = tmp_path_factory.mktemp("spelling")
    made = stream_bundles.bundle(model, folder, task="transcription", labels=WORDS)
    return model, made.folder, request.param


def longer(model: keras.Model, padding: str, length: int) -> keras.Model:
    """The same network for a sound of another length."""
    other = network(config(padding), length)
    return with_weights(other, model)


def with_weights(other: keras.Model, model: keras.Model) -> keras.Model:
    other.set_weights(model.get_weights())
    normalize, fitted = other.get_layer("normalize"), model.get_layer("normalize")
    normalize.mean, normalize.factor = fitted.mean, fitted.factor  # Fitted on other data: constants are no weights.
    return other


def heard(session: SpellingSession, samples: np.ndarray, size: int) -> list[Any]:
    frames = [frame for start in range(0, len(samples), size) for frame in session.push(samples[start : start + size])]
    return frames + session.finish()


@pytest.mark.parametrize("length", [CLIP, CLIP + MORE, CLIP - 1_777])
def test_frames_and_words_are_those_of_the_whole_sound(spelled: tuple[keras.Model, Path, str], length: int) -> None:
    model, folder, padding = spelled
    samples = sound(length, seed=21)[0]
    found = heard(SpellingSession(folder), samples, 333)
    whole = model if length == CLIP else longer(model, padding, length)
    answer = np.asarray(whole({"sound": samples[None]})["words"])[0]
    assert len(answer) - 1 <= len(found) <= len(answer)
    assert length != CLIP or len(found) == len(answer)
    np.testing.assert_allclose(np.stack([frame.values for frame in found]), answer[: len(found)], atol=1e-4)
    said = best_path(answer[: len(found)])
    assert len(said) > 2
    assert [frame.word.label for frame in found if frame.word] == [WORDS[number] for number in said]


def test_chunks_of_any_length_spell_the_same_and_the_next_stream_begins_anew(
    spelled: tuple[keras.Model, Path, str],
) -> None:
    _, folder, _ = spelled
    samples = sound(CLIP + MORE, seed=22)[0]
    session = SpellingSession(folder)
    whole = heard(session, samples, len(samples))
    assert session.heard == 0
    for size in (53, 4_000):
        pieces = heard(session, samples, size)
        assert [frame.start for frame in pieces] == [frame.start for frame in whole]
        for left, right in zip(pieces, whole, strict=True):
            np.testing.assert_array_equal(left.values, right.values)
            assert left.word == right.word


def test_words_say_where_they_came_up_and_when_they_were_known(spelled: tuple[keras.Model, Path, str]) -> None:
    _, folder, _ = spelled
    session = SpellingSession(folder)
    samples = sound(2 * CLIP, seed=23)[0]
    for start in range(0, len(samples), 100):
        for frame in session.push(samples[start : start + 100]):
            if frame.word:
                assert frame.word.start == frame.start
                assert frame.word.start < frame.word.end <= session.heard < frame.word.end + session.packet
                assert frame.word.score == frame.values.max()
    starts = [frame.start for frame in session.push(samples)]
    assert set(np.diff(starts)) == {640}  # Four features, 20 ms from one to the next, make a frame.


def test_a_short_stream_says_nothing(spelled: tuple[keras.Model, Path, str]) -> None:
    _, folder, _ = spelled
    session = SpellingSession(folder)
    assert session.finish() == []
    assert session.push(np.zeros(10, np.int16)) == []
    assert [frame.start for frame in session.finish()] in ([], [0])
    assert session.heard == 0


def test_only_what_transcribes_spells(spelled: tuple[keras.Model, Path, str], tmp_path: Path) -> None:
    _, folder, _ = spelled
    with pytest.raises(UsageError, match="SpellingSession spells"):
        StreamSession(folder)
    session = open_session(folder)
    assert session.manifest is not None
    session.manifest = {**session.manifest, "task": "labelling"}
    with pytest.raises(UsageError, match="must give words for each frame"):
        SpellingSession(session)


def listen(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["listen", *arguments])


@pytest.mark.parametrize("option", ["--threshold", "--smoothing", "--refractory"])
def test_spelling_has_no_threshold(spelled: tuple[keras.Model, Path, str], tmp_path: Path, option: str) -> None:
    (tmp_path / "a.wav").write_bytes(wav(np.zeros(CLIP), RATE))
    found = listen(str(spelled[1]), str(tmp_path / "a.wav"), option, "0.5")
    assert found.exit_code == 2
    assert option in found.stderr
    assert "most likely path" in found.stderr


@pytest.mark.slow
def test_a_trained_model_spells_a_recording(tmp_path: Path) -> None:
    """Made words, several strings one behind the other: what is said, and what the whole sound's best path says."""
    settings = {
        "data.samples": 256, "data.words": "1,3", "model.units": "24,32", "model.bands": 20, "model.padding": "valid",
        "training.epochs": 20, "training.batch_size": 8, "training.learning_rate": 5e-3,
    }  # fmt: skip
    train_on("tensorflow", "speech-ctc", settings, tmp_path)
    recipe = apply_overrides(RECIPES["speech-ctc"], settings)
    dataset = data.load(recipe.data, recipe.task)
    models.register()
    model = keras.models.load_model(tmp_path / "train" / "model.keras")
    made = stream_bundles.bundle(model, tmp_path / "stream", task="transcription", labels=dataset.labels)

    strings = slice(0, 20)
    samples = dataset.test.x["sound"][strings].ravel()
    said = [dataset.labels[number] for row in dataset.test.y["words"][strings] for number in row if number]
    (tmp_path / "a.wav").write_bytes(wav(samples / 32_768, dataset.rate))
    plain = listen(str(made.folder), str(tmp_path / "a.wav"))
    assert plain.exit_code == 0, plain.output
    lines = [line.split() for line in plain.stdout.splitlines()]
    assert f"{len(lines)} words" in plain.stderr
    told = listen(str(made.folder), str(tmp_path / "a.wav"), "--json").stdout
    spelled = [json.loads(line) for line in told.splitlines()]
    words = [line["detection"]["label"] for line in spelled]
    assert words == [word for _, word, _ in lines]
    times = [line["seconds"] for line in spelled]
    assert times == sorted(times)
    assert 0 < times[0] < times[-1] < len(samples) / dataset.rate

    split = replace(dataset.train, x={"sound": samples[None]})
    whole = models.build(recipe.task, recipe.model, replace(dataset, train=split))
    answer = np.asarray(with_weights(whole, model)({"sound": samples[None]})["words"])[0]
    assert words == [dataset.labels[number] for number in best_path(answer)]
    assert len(set(words)) > 3
    assert edit_distance(words, said) < 0.3 * len(said)
