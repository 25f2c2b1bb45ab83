"""StreamSession and `edge-dl listen`: chunks of any length, one rate, smoothing, refractory time, sources."""

from __future__ import annotations

import io
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stream_bundles
from sound_files import wav
from stream_bundles import CLIP, LABELS, RATE, network, sound
from typer.testing import CliRunner

from edge_dl.cli.main import app
from edge_dl.errors import UsageError
from edge_dl.recipe import SpeechConfig
from edge_dl.runtime import StreamSession, agent, hearing, open_session


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = network(SpeechConfig("ds-cnn", padding="valid", bands=16, units=(8, 8)))
    return stream_bundles.bundle(model, tmp_path_factory.mktemp("listen")).folder


@pytest.fixture
def session(bundle: Path) -> StreamSession:
    return StreamSession(bundle)


def scripted(session: StreamSession, values: list[list[float]]) -> None:
    """Let the model answer what a test says, once a clip has been heard."""
    answers = iter(values)
    real = session.session.packet

    def packet(samples: Any) -> Any:
        real(samples)
        if session._calls < session._first:
            return {"label": np.zeros(len(LABELS), np.float32)}
        return {"label": np.asarray(next(answers), np.float32)}

    session.session.packet = packet  # type: ignore[method-assign]


def hear(session: StreamSession, count: int) -> list[Any]:
    """`count` scores."""
    first = (session._first + 1) * session.packet - session._lead
    return session.push(np.zeros(first + (count - 1) * session.packet, np.int16))


def test_chunks_of_any_length_give_the_same(bundle: Path) -> None:
    samples = sound(2 * CLIP, seed=4)[0]
    whole = StreamSession(bundle).push(samples)
    one = StreamSession(bundle)
    pieces = [score for start in range(0, len(samples), 53) for score in one.push(samples[start : start + 53])]
    assert len(whole) == len(pieces) > 20
    for left, right in zip(whole, pieces, strict=True):
        assert left.end == right.end
        np.testing.assert_array_equal(left.values, right.values)
    assert one.heard == len(samples)
    assert one.push(np.zeros(0, np.int16)) == []


def test_whoever_records_may_use_its_array_again(bundle: Path) -> None:
    """As callbacks of audio libraries and `readinto` do: chunks that are no whole packet are copied."""
    samples = sound(2 * CLIP, seed=5)[0]
    expected = StreamSession(bundle).push(samples)
    session, buffer, found = StreamSession(bundle), np.zeros(100, np.int16), []
    for part in samples.reshape(-1, 100):
        buffer[:] = part
        found += session.push(buffer)
    np.testing.assert_array_equal([score.values for score in found], [score.values for score in expected])


def test_scores_begin_with_the_first_whole_clip(session: StreamSession) -> None:
    scores = session.push(np.zeros(CLIP - session.packet, np.int16))
    assert scores == []
    (first, *_) = session.push(np.zeros(session.packet, np.int16))
    assert CLIP - session.packet < first.end <= CLIP


def test_reset_forgets(session: StreamSession) -> None:
    samples = sound(CLIP, seed=6)[0]
    before = session.push(samples)
    session.push(sound(3_000, seed=7)[0])
    session.reset()
    after = session.push(samples)
    np.testing.assert_array_equal(before[0].values, after[0].values)
    assert session.heard == CLIP


def test_floats_are_samples_too(bundle: Path) -> None:
    samples = sound(CLIP, seed=8)[0]
    (one, *_), (other, *_) = StreamSession(bundle).push(samples), StreamSession(bundle).push(samples / 32768)
    np.testing.assert_array_equal(one.values, other.values)


def test_another_rate_is_refused_with_both(session: StreamSession) -> None:
    with pytest.raises(UsageError, match="8,000 samples a second") as error:
        session.push(np.zeros(10, np.int16), rate=16_000)
    assert "16,000" in str(error.value)
    assert session.push(np.zeros(10, np.int16), rate=RATE) == []
    assert "Leave the rate out" in str(hearing.other_rate(0, RATE))


@pytest.mark.parametrize(
    "samples",
    [np.zeros((2, 10), np.int16), np.zeros(10, np.int32), np.full(10, np.nan), np.zeros(10, "U1")],
    ids=["two channels", "int32", "nan", "text"],
)
def test_what_is_no_sound_is_refused(session: StreamSession, samples: np.ndarray) -> None:
    with pytest.raises(UsageError):
        session.push(samples)


@pytest.mark.parametrize(
    "setting", [{"threshold": 1.5}, {"smoothing": -1}, {"refractory": -0.1}, {"refractory": float("inf")}]
)
def test_settings_are_checked(bundle: Path, setting: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        StreamSession(bundle, **setting)


def test_scores_are_smoothed_over_the_last_ones(bundle: Path) -> None:
    session = StreamSession(bundle, smoothing=3 * 320 / RATE)  # Three packets.
    scripted(session, [[0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 0], [0, 0, 1, 0]])
    smoothed = np.stack([score.smoothed for score in hear(session, 4)])
    np.testing.assert_allclose(smoothed[:, 1], [1, 1 / 2, 1 / 3, 0], atol=1e-6)


def test_a_word_fires_once_and_again_after_the_refractory_time(bundle: Path) -> None:
    session = StreamSession(bundle, threshold=0.6, smoothing=0, refractory=3 * 320 / RATE)
    yes, no, silence, unsure = [0, 0.9, 0.1, 0], [0, 0, 1, 0], [1, 0, 0, 0], [0, 0.5, 0.5, 0]
    scripted(session, [unsure, silence, yes, yes, no, no, silence])
    fired = [score.detection and score.detection.label for score in hear(session, 7)]
    assert fired == [None, None, "yes", None, None, "no", None]


def test_scores_that_are_no_numbers_are_no_words_and_valid_json(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model in float can overflow. What it heard is nothing then, and JSON has no word for NaN."""
    (tmp_path / "a.wav").write_bytes(content(np.zeros(2 * CLIP)))
    answer = {"label": np.array([0.1, np.nan, 0.2, np.inf], np.float32)}
    monkeypatch.setattr(agent.Session, "packet", lambda *_: answer)
    assert all(score.detection is None for score in StreamSession(bundle).push(np.zeros(2 * CLIP, np.int16)))
    found = listen(str(bundle), str(tmp_path / "a.wav"), "--scores", "--json")
    assert found.exit_code == 0, found.output
    lines = [json.loads(line, parse_constant=pytest.fail) for line in found.stdout.splitlines()]
    assert len(lines) > 20
    assert list(lines[-1]["scores"].values()) == [0.1, None, 0.2, None]
    assert lines[-1]["detection"] is None


def test_labels_are_those_of_the_classes(bundle: Path) -> None:
    session = open_session(bundle)
    session.labels = ["yes", "no"]
    with pytest.raises(UsageError, match="2 labels for 4 classes"):
        StreamSession(session)
    session.labels = []
    assert StreamSession(session).labels == ("0", "1", "2", "3")


def test_other_lowerings_do_not_listen(bundle: Path, tmp_path: Path) -> None:
    nothing = listen(str(tmp_path), "-", stdin=b"")
    assert nothing.exit_code == 2
    assert "no run folder with a `stream` variant" in nothing.stderr
    session = open_session(bundle)
    session.stream = None
    with pytest.raises(UsageError, match="Only a stream model listens"):
        StreamSession(session)


def test_whole_clips_run_from_fresh_states(bundle: Path) -> None:
    clips = sound(CLIP, seed=10, count=3)
    session = open_session(bundle)
    together = session.predict(clips)["label"]
    session.packet(np.full(320, 999, np.int16))
    alone = np.stack([session.predict(clip)["label"] for clip in clips[::-1]])[::-1]
    np.testing.assert_array_equal(together, alone)
    with pytest.raises(UsageError, match="A packet has shape"):
        session.packet(np.zeros(10, np.int16))
    with pytest.raises(UsageError, match="A sample of input"):
        session.predict(clips[:, :100])


# --- where sound comes from ---


def content(samples: np.ndarray, rate: int = RATE, bits: int = 16) -> bytes:
    return wav(samples / 32768, rate, bits)


@pytest.mark.parametrize("bits", [8, 16, 24, 32])
def test_wav_files_are_read_in_chunks(tmp_path: Path, bits: int) -> None:
    samples = sound(1_000, seed=11)[0] // 256 * 256
    (tmp_path / "a.wav").write_bytes(content(samples, bits=bits))
    chunks = list(hearing.wav_chunks(tmp_path / "a.wav", RATE))
    assert len(chunks) > 5
    np.testing.assert_array_equal(np.concatenate(chunks), samples)


def test_channels_are_averaged(tmp_path: Path) -> None:
    left = sound(500, seed=12)[0] // 2 * 2
    (tmp_path / "a.wav").write_bytes(wav(np.stack([left, np.zeros(500)], axis=1) / 32768, RATE))
    np.testing.assert_array_equal(np.concatenate(list(hearing.wav_chunks(tmp_path / "a.wav", RATE))), left // 2)


def test_a_pipe_holds_bare_samples_or_a_wav_file() -> None:
    samples = sound(1_001, seed=13)[0]
    for data in (samples.tobytes(), content(samples)):
        chunks = hearing.pipe_chunks(io.BufferedReader(io.BytesIO(data)), RATE)  # type: ignore[arg-type]
        np.testing.assert_array_equal(np.concatenate(list(chunks)), samples)


@pytest.mark.parametrize("data", [b"", b"no sound at all", content(sound(100)[0])[:30]])
def test_what_is_no_wav_file_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.wav").write_bytes(data)
    with pytest.raises(UsageError, match="must be a wav file"):
        list(hearing.wav_chunks(tmp_path / "a.wav", RATE))


def test_a_microphone_needs_sounddevice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(UsageError, match="arecord"):
        next(hearing.microphone_chunks(RATE))


def listen(*arguments: str, stdin: bytes | None = None) -> Any:
    return CliRunner().invoke(app, ["listen", *arguments], input=stdin)


def test_a_run_listens_with_the_smallest_stream_that_did_not_fail(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(content(sound(CLIP, seed=14)[0]))
    shutil.copytree(bundle, tmp_path / "variants" / "stream-float32")
    # Smaller, so preferred, and no bundle that could be opened.
    (tmp_path / "variants" / "stream-int8").mkdir()
    (tmp_path / "variants" / "stream-int8" / "manifest.json").write_text("{}")
    arguments = (str(tmp_path), str(tmp_path / "a.wav"))
    assert listen(*arguments).exit_code == 2
    (tmp_path / "checks").mkdir()
    (tmp_path / "checks" / "stream-int8.json").write_text(json.dumps({"verdict": "fail"}))
    assert listen(*arguments).exit_code == 0
    (tmp_path / "checks" / "stream-int8.json").unlink()
    rows = [{"variant": "stream-int8", "verdict": "fail"}, {"variant": "stream-float32", "verdict": "pass"}]
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "selection.json").write_text(json.dumps({"chosen": "int8", "rows": rows}))
    assert listen(*arguments).exit_code == 0


def test_listen_prints_words(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(content(sound(3 * CLIP, seed=14)[0]))
    plain = listen(str(bundle), str(tmp_path / "a.wav"), "--threshold", "0.0")
    assert plain.exit_code == 0, plain.output
    assert "3.0 s heard" in plain.stderr
    assert "of real time" in plain.stderr
    found = listen(str(bundle), str(tmp_path / "a.wav"), "--scores", "--json")
    lines = [json.loads(line) for line in found.stdout.splitlines()]
    assert len(lines) > 40
    assert set(lines[0]["scores"]) == set(LABELS)
    assert [line["seconds"] for line in lines] == sorted(line["seconds"] for line in lines)


def test_listen_reads_standard_input(bundle: Path) -> None:
    found = listen(str(bundle), "-", "--scores", stdin=sound(CLIP + 2_000, seed=15)[0].tobytes())
    assert found.exit_code == 0
    assert len(found.stdout.splitlines()) >= 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Name one thing to listen to"),
        (["a.wav", "--microphone"], "Name one thing to listen to"),
        (["other.wav", "--device", "USB"], "--device chooses a microphone"),
        (["missing.wav"], "The sound must exist"),
        (["other.wav"], "16,000 samples a second"),
    ],
)
def test_listen_says_what_is_wrong(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("other.wav").write_bytes(content(sound(100)[0], rate=16_000))
    found = listen(str(bundle), *arguments)
    assert found.exit_code == 2
    assert message in " ".join(found.stderr.split())


@pytest.mark.parametrize(
    "change",
    [
        {"packet": 321}, {"packet": 320.0}, {"lead": -1}, {"lead": 320}, {"clip": 0}, {"late": 10**9},
        {"input": "noise"},
        {"equal": "hardly"}, {"outputs": {}}, {"outputs": {"label": {"kind": "last", "first": 10**9, "frames": 1}}},
        {"outputs": {"label": {"kind": "some", "first": 1, "frames": 1}}},
    ],
    ids=str,
)  # fmt: skip
def test_a_stream_that_does_not_fit_its_model_is_refused(bundle: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(bundle, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["stream"] |= change
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UsageError):
        open_session(folder)
    if "equal" not in change and change.get("clip") != 0:  # What the agent uses, it checks by itself.
        with pytest.raises(UsageError):
            agent.Session(str(folder), check_hashes=False)
