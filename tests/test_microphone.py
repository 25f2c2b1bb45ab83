"""`edge-dl listen --microphone` with the real sounddevice and PortAudio, on devices that ALSA makes of files.

ALSA's plugin `file` reads what it records from a file, as fast as it is asked, over the plugin `null`, no hardware.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
from ctypes.util import find_library
from pathlib import Path

import numpy as np
import pytest
import stream_bundles
from sound_files import wav
from stream_bundles import CLIP, RATE, network, sound

from edge_dl.recipe import SpeechConfig

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("sounddevice") is None, reason="sounddevice is not installed"),
    pytest.mark.skipif(find_library("portaudio") is None, reason="PortAudio is not installed (libportaudio2)"),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="it needs ALSA, which is Linux's"),
]

# `narrow` records through a converter that has no rates below 4 kHz. PortAudio 19.6 stops with an assertion where every
# device of the list could be opened, so there is one that cannot.
DEVICES = """
pcm.null {{ type null }}
pcm.desk {{
    type file
    slave.pcm "null"
    file "/dev/null"
    infile "{recording}"
    format "raw"
}}
pcm.narrow {{
    type plug
    slave {{ pcm "desk" rate 8000 format S16_LE }}
}}
pcm.absent {{ type hw card 31 }}
"""

# The real stream, ended as PortAudio ends one whose device is gone, or behind a computer that was too slow.
CHANGED = """
import sys
import sounddevice
from edge_dl.cli.main import main

HOW = sys.argv.pop(1)

class Stream(sounddevice.InputStream):
    reads = 0

    def read(self, count):
        self.reads += 1
        if self.reads == 100 and HOW == "gone":
            self.abort()
        data, lost = super().read(count)
        return data, lost or (self.reads in (60, 70) and HOW == "slow")

sounddevice.InputStream = Stream
main()
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = network(SpeechConfig("ds-cnn", padding="valid", bands=16, units=(8, 8)))
    return stream_bundles.bundle(model, tmp_path_factory.mktemp("microphone")).folder


@pytest.fixture
def room(tmp_path: Path) -> dict[str, str]:
    """The environment of a process whose only microphones are made of a recording of three seconds."""
    recording = tmp_path / "recording.raw"
    recording.write_bytes(sound(3 * CLIP, seed=31)[0].tobytes())
    (tmp_path / "asound.conf").write_text(DEVICES.format(recording=recording))
    return {**os.environ, "ALSA_CONFIG_PATH": str(tmp_path / "asound.conf"), "PYTHONUNBUFFERED": "1"}


def start(arguments: list[str], room: dict[str, str], program: str = "", how: str = "") -> subprocess.Popen[str]:
    head = ["-c", program, how] if program else ["-m", "edge_dl"]
    return subprocess.Popen(
        [sys.executable, *head, "listen", *arguments, "--microphone"],
        env=room, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_a_microphone_is_heard_like_a_file_until_it_is_interrupted(
    bundle: Path, room: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "a.wav").write_bytes(wav(sound(3 * CLIP, seed=31)[0] / 32_768, RATE))
    options = [str(bundle), "--scores", "--json"]
    listening = start([*options, "--device", "desk"], room)
    try:
        assert listening.stdout is not None
        file = subprocess.run(
            [sys.executable, "-m", "edge_dl", "listen", *options[:1], str(tmp_path / "a.wav"), *options[1:]],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        expected = [json.loads(line) for line in file.stdout.splitlines()]
        assert len(expected) > 40
        assert [json.loads(listening.stdout.readline()) for _ in expected] == expected
        # What follows is a device's silence, or its last sound again; nothing ends it but Ctrl-C.
        listening.send_signal(signal.SIGINT)
        _, told = listening.communicate(timeout=60)
    finally:
        listening.kill()
    assert listening.returncode == 0
    assert " s heard, " in told
    assert "Traceback" not in told


def refused(arguments: list[str], room: dict[str, str], program: str = "", how: str = "") -> tuple[int, str]:
    listening = start(arguments, room, program, how)
    try:
        _, told = listening.communicate(timeout=60)
    finally:
        listening.kill()
    assert "Traceback" not in told
    return listening.returncode, " ".join(told.split())


def at_rate(bundle: Path, rate: int) -> list[str]:
    """Take a bundle for one of another rate."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["stream"]["rate"] = rate
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    return [str(bundle)]


def test_a_rate_that_the_device_does_not_have_is_refused(room: dict[str, str], tmp_path: Path, bundle: Path) -> None:
    shutil.copytree(bundle, tmp_path / "bundle")
    code, told = refused([*at_rate(tmp_path / "bundle", 2_000), "--device", "narrow"], room)
    assert code == 2
    assert "must record one channel at 2,000 Hz" in told
    assert "narrow: " in told
    assert "Invalid sample rate" in told
    assert "It records at 8,000, 16,000" in told


def test_a_device_that_is_not_there_is_refused_with_those_that_are(bundle: Path, room: dict[str, str]) -> None:
    for name in ("kitchen", "17"):
        code, told = refused([str(bundle), "--device", name], room)
        assert code == 2
        assert "The microphone must exist." in told
        assert name in told
        assert "desk, narrow" in told


def test_no_device_at_all_is_said(bundle: Path, room: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "asound.conf").write_text("pcm.absent { type hw card 31 }\n")
    code, told = refused([str(bundle)], room)
    assert code == 2
    assert "The microphone must exist." in told
    assert "No device here records" in told


def test_a_device_that_goes_away_ends_with_one_line(bundle: Path, room: dict[str, str]) -> None:
    code, told = refused([str(bundle), "--device", "desk"], room, CHANGED, "gone")
    assert code == 3
    assert "The microphone must go on recording." in told
    assert "PaErrorCode" in told


def test_lost_sound_is_said_and_counted(bundle: Path, room: dict[str, str]) -> None:
    listening = start([str(bundle), "--device", "desk", "--scores"], room, CHANGED, "slow")
    try:
        assert listening.stdout is not None
        for _ in range(60):
            listening.stdout.readline()
        listening.send_signal(signal.SIGINT)
        _, told = listening.communicate(timeout=60)
    finally:
        listening.kill()
    assert listening.returncode == 0
    assert told.count("sound was lost: it came faster than it was heard") == 1
    assert "sound lost 2 times" in told
    assert np.char.count(told, "0:01.18") == 1  # After 59 chunks of 20 ms.
