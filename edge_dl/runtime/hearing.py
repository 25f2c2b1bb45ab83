"""Where a stream of sound comes from: a wav file, a pipe, a microphone, each as chunks of int16 samples, one channel.

Nothing is resampled: another rate is refused, since a filter that is not the one of training would be heard.
The standard library reads the files; a microphone needs the package sounddevice.
"""

from __future__ import annotations

import io
import wave
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from edge_dl.errors import StageError, UsageError

CHUNK_SECONDS = 0.02
# Hz that microphones are asked for, where one does not have the model's.
RATES = (8_000, 16_000, 22_050, 32_000, 44_100, 48_000)


def wav_chunks(file: str | Path | BinaryIO, rate: int) -> Iterator[np.ndarray]:
    """Chunks of a wav file: PCM of 8, 16, 24 or 32 bits; channels are averaged.

    Args:
        file: a path, or an open file, which may be a pipe.
        rate: samples a second that the model wants.

    Raises:
        UsageError: it is no wav file of PCM samples, or has another rate.
    """
    name = str(file) if isinstance(file, (str, Path)) else "standard input"
    try:
        opened = wave.open(name if isinstance(file, (str, Path)) else file, "rb")  # noqa: SIM115 (closed below)
    except (wave.Error, EOFError, OSError) as error:
        raise UsageError("A sound must be a wav file of PCM samples.", received=f"{name} ({error})") from None
    with opened:
        if opened.getframerate() != rate:
            raise other_rate(rate, opened.getframerate())
        channels, width = opened.getnchannels(), opened.getsampwidth()
        count = max(1, round(CHUNK_SECONDS * rate))
        while data := opened.readframes(count):
            whole = len(data) - len(data) % (channels * width)
            if whole:
                yield _samples(data[:whole], channels, width)


def pipe_chunks(file: Any, rate: int) -> Iterator[np.ndarray]:
    """Chunks of a pipe: a wav file, or bare 16-bit samples in the order of bytes that PCs have (s16le), one channel.

    Args:
        file: a binary file, as `sys.stdin.buffer`.
        rate: samples a second that the model wants; bare samples are taken to have it.

    Raises:
        UsageError: a wav file of another rate.
    """
    if not hasattr(file, "peek"):
        file = io.BufferedReader(file)
    if file.peek(4)[:4] == b"RIFF":
        yield from wav_chunks(file, rate)
        return
    size = 2 * max(1, round(CHUNK_SECONDS * rate))
    rest = b""
    while data := file.read1(size):
        data = rest + data
        whole = len(data) // 2 * 2
        rest = data[whole:]
        if whole:
            yield np.frombuffer(data[:whole], "<i2").astype(np.int16)


def microphone_chunks(rate: int, device: str = "", overrun: Callable[[], None] = lambda: None) -> Iterator[np.ndarray]:
    """Chunks of a microphone, for ever.

    Args:
        rate: samples a second; the device must record with it.
        device: part of its name, or its number; empty: the system's own choice.
        overrun: called when sound was lost, since it was not taken in time; the stream goes on behind the gap.

    Raises:
        UsageError: there is no package sounddevice, no such device, or it does not record one channel at this rate.
        StageError: the device stopped, as one does that is unplugged.
    """
    try:
        import sounddevice
    except (ImportError, OSError) as error:  # OSError: the package without PortAudio.
        raise UsageError(
            "A microphone needs the package sounddevice and the library PortAudio.",
            received=str(error),
            todo="pip install 'edge-dl[microphone]' (Linux: apt-get install libportaudio2 too), or use a pipe: "
            f"arecord -q -t raw -f S16_LE -c 1 -r {rate} | edge-dl listen BUNDLE -",
        ) from None
    chosen: Any = int(device) if device.isdecimal() else device or None
    count = max(1, round(CHUNK_SECONDS * rate))
    try:
        # By its number from here on: what is open may have the name of what is not.
        number = sounddevice.query_devices(chosen, "input")["index"]
    except (ValueError, sounddevice.PortAudioError) as error:
        names = [str(item["name"]) for item in sounddevice.query_devices() if item["max_input_channels"]]
        raise UsageError(
            "The microphone must exist.",
            received=str(error),
            todo=f"Name one with --device: {', '.join(names)}." if names else "No device here records.",
        ) from None
    try:
        stream = sounddevice.InputStream(rate, blocksize=count, device=number, channels=1, dtype="int16")
    except sounddevice.PortAudioError as error:
        able = [other for other in RATES if _records(sounddevice, number, other)]
        rates = f"It records at {', '.join(f'{other:,}' for other in able)} Hz. " if able else ""
        raise UsageError(
            f"The microphone must record one channel at {rate:,} Hz.",
            received=f"{sounddevice.query_devices(number)['name']}: {error}",
            todo=f"{rates}Choose another with --device, or resample in a pipe: "
            f"arecord -q -t wav -f S16_LE -c 1 -r {[48_000, *able][-1]} | sox -t wav - -t wav -r {rate} - | "
            "edge-dl listen BUNDLE -",
        ) from None
    try:
        with stream:
            while True:
                data, lost = stream.read(count)
                if lost:
                    overrun()
                yield np.asarray(data)[:, 0]
    except sounddevice.PortAudioError as error:
        raise StageError(
            "The microphone must go on recording.",
            stage="listen",
            received=str(error),
            todo="Is it still plugged in?",
        ) from None


def _records(sounddevice: Any, device: int, rate: int) -> bool:
    try:
        sounddevice.check_input_settings(device=device, channels=1, dtype="int16", samplerate=rate)
    except sounddevice.PortAudioError:
        return False
    return True


def other_rate(wanted: int, received: int) -> UsageError:
    """The error for a stream of another rate than the model's; a model's rate of 0 is not known."""
    if not wanted:
        return UsageError(
            "A stream's rate can be held to the model's only where the bundle names one.",
            received=f"{received:,} samples a second",
            todo="Leave the rate out.",
        )
    return UsageError(
        f"A stream must come with the model's own rate, {wanted:,} samples a second: nothing is resampled here.",
        received=f"{received:,} samples a second",
        todo=f"Record at {wanted:,} Hz, or resample before: sox in.wav -r {wanted} out.wav.",
    )


def _samples(data: bytes, channels: int, width: int) -> np.ndarray:
    """One channel of int16 from a wav file's bytes."""
    if width == 1:  # 8 bits are stored around 128.
        values = (np.frombuffer(data, np.uint8).astype(np.int32) - 128) << 8
    elif width == 3:
        values = np.frombuffer(data, np.uint8).reshape(-1, 3)[:, 1:].copy().view("<i2")[:, 0].astype(np.int32)
    else:
        values = np.frombuffer(data, f"<i{width}").astype(np.int64) >> (8 * width - 16)
    mono = values.reshape(-1, channels)
    return (mono[:, 0] if channels == 1 else np.rint(mono.mean(axis=1))).astype(np.int16)
