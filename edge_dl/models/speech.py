"""Speech networks that recognize words: a separable CNN, convolution with a GRU, an LSTM, a transformer, and CTC.

A network takes `sound` (batch, samples) int16 as a microphone gives it, and gives `label` (batch, classes)
probabilities, or `words` (batch, frames, classes), of which class 0 is the blank (`edge_dl.runtime.ctc`). The layers
`features` and `normalize` make (batch, frames, features) of the samples and are the same for all of them; what comes
after is the network. Layers carry stable names.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from edge_dl.data.dataset import Dataset, output_name
from edge_dl.errors import UsageError
from edge_dl.models.heads import classify
from edge_dl.models.masking import SpectrumMasking
from edge_dl.models.normalizing import RunningNormalization, UtteranceNormalization
from edge_dl.models.positions import LearnedPositions
from edge_dl.models.scaling import Standardize
from edge_dl.models.settings import below_one, not_negative, one_of
from edge_dl.models.spectra import TRANSFORMS, SpeechFeatures
from edge_dl.models.windowed_attention import WindowedSelfAttention
from edge_dl.recipe import SpeechConfig, Task
from edge_dl.runtime.spectra import Spectrum, features

INPUT = "sound"
NORMALIZATIONS = ("fitted", "utterance", "running", "none")
PADDINGS = ("same", "valid", "causal")
# Above it telephones and MP3 have nothing, and speech has little.
HIGHEST = 7_600.0
_TOKEN_FRAMES = 2  # frames from one answer of `_along_time` to the next
# Mean and deviation of a feature are known well enough from so many sounds.
FITTED_SOUNDS = 1_000


def build(task: Task, config: SpeechConfig, dataset: Dataset) -> keras.Model:
    """A network for sounds, shaped for `dataset`, with normalization fitted on its training part.

    Args:
        task: classification, or transcription for the network "ctc".
        config: features and network.
        dataset: gives the sounds' length and rate, and the classes.

    Raises:
        UsageError: a setting is unknown, out of range or does not fit the task, or the data holds no sounds.
    """
    _check(task, config, dataset)
    sounds = dataset.train.x[INPUT]
    spectrum = spectrum_of(config, dataset.rate)
    inputs = keras.Input(sounds.shape[1:], dtype="int16", name=INPUT)
    h = SpeechFeatures(dataclasses.asdict(spectrum), config.transform, name="features")(inputs)
    h = _normalize(h, config, sounds, spectrum)
    if config.mask_time or config.mask_bands:
        h = SpectrumMasking(config.mask_time, config.mask_bands, name="mask")(h)
    h = NETWORKS[config.network](h, config)
    if task is Task.TRANSCRIPTION:
        _require_frames(h.shape[1], dataset.train.y[output_name(task)].shape[1])
    if config.dropout:
        h = keras.layers.Dropout(config.dropout, name="dropout")(h)
    name = output_name(task)
    output = classify(h, len(dataset.labels), name, _penalty(config))
    return keras.Model({INPUT: inputs}, {name: output}, name=config.network.replace("-", "_"))


def spectrum_of(config: SpeechConfig, rate: int) -> Spectrum:
    """The features that `config` asks for of sounds with `rate` samples a second.

    Raises:
        UsageError: they do not fit together.
    """
    return Spectrum(
        rate,
        round(config.window * rate),
        round(config.hop * rate),
        config.bands,
        config.lowest,
        config.highest or min(HIGHEST, rate / 2),
        config.coefficients,
    )


def ds_cnn(h: Any, config: SpeechConfig) -> Any:
    """DS-CNN, the keyword spotting network of MLPerf Tiny (Banbury et al. 2021, after Zhang et al. 2017).

    A convolution of 10 frames and 4 bands with stride 2, four depthwise separable ones of 3x3, all with batch
    normalization. https://github.com/mlcommons/tiny
    """
    first, *others = config.units or (64,) * 5
    h = keras.layers.Reshape((*h.shape[1:], 1), name="picture")(h)
    h = _convolution(h, first, config, name="conv", size=(10, 4), strides=2)
    if config.dropout:
        h = keras.layers.Dropout(config.dropout / 2, name="dropout_conv")(h)
    for number, filters in enumerate(others, start=1):
        name = f"separable_{number}"
        h, padding = _padded(h, (3, 3), (1, 1), config, f"{name}_pad")
        h = keras.layers.DepthwiseConv2D(
            3, padding=padding, use_bias=False, depthwise_regularizer=_penalty(config), name=f"{name}_depthwise"
        )(h)
        h = keras.layers.BatchNormalization(name=f"{name}_depthwise_norm")(h)
        h = keras.layers.ReLU(name=f"{name}_depthwise_relu")(h)
        h = _convolution(h, filters, config, name=f"{name}_pointwise", size=1)
    return keras.layers.GlobalAveragePooling2D(name="pool")(h)


def crnn(h: Any, config: SpeechConfig) -> Any:
    """Two convolutions over time and bands, then a GRU (Arik et al. 2017): (16, 32, 64) channels and units."""
    first, second, *recurrent = config.units or (16, 32, 64)
    h = keras.layers.Reshape((*h.shape[1:], 1), name="picture")(h)
    h = _convolution(h, first, config, name="conv_1", size=(5, 5), strides=2)
    h = _convolution(h, second, config, name="conv_2", size=(3, 3), strides=(1, 2))
    h = keras.layers.Reshape((h.shape[1], h.shape[2] * h.shape[3]), name="frames")(h)
    return _recurrent(h, keras.layers.GRU, recurrent, config)


def lstm(h: Any, config: SpeechConfig) -> Any:
    """LSTM layers over the frames, their answers averaged: (96, 96) units."""
    return _recurrent(h, keras.layers.LSTM, config.units or (96, 96), config)


def transformer(h: Any, config: SpeechConfig) -> Any:
    """A keyword transformer (Berg, O'Connor & Cruz 2021): three blocks of self-attention, 64 units each, averaged.

    Two frames become one token by a convolution with stride 2; where a token stands is learned. Blocks normalize before
    attention and before the dense layers (Xiong et al. 2020), which needs no warm-up. With `attention_window`, a token
    attends to those that long before it and no others, and where they stand is told by their distance.
    """
    blocks = config.units or (64,) * 3
    h = _along_time(h, config, blocks[0], "tokens")
    window = attention_tokens(config)
    if not window:
        h = LearnedPositions(name="positions")(h)
    for number, units in enumerate(blocks, start=1):
        name = f"block_{number}"
        branch = keras.layers.LayerNormalization(name=f"{name}_attention_norm")(h)
        if window:
            branch = WindowedSelfAttention(config.heads, window, name=f"{name}_attention")(branch)
        else:
            branch = keras.layers.MultiHeadAttention(config.heads, units // config.heads, name=f"{name}_attention")(
                branch, branch
            )
        h = keras.layers.Add(name=f"{name}_attention_add")([h, _dropout(branch, config, f"{name}_attention_dropout")])
        branch = keras.layers.LayerNormalization(name=f"{name}_dense_norm")(h)
        branch = keras.layers.Dense(
            2 * units, activation="relu", kernel_regularizer=_penalty(config), name=f"{name}_dense_1"
        )(branch)
        branch = keras.layers.Dense(units, kernel_regularizer=_penalty(config), name=f"{name}_dense_2")(branch)
        h = keras.layers.Add(name=f"{name}_dense_add")([h, _dropout(branch, config, f"{name}_dense_dropout")])
    h = keras.layers.LayerNormalization(name="norm")(h)
    return keras.layers.GlobalAveragePooling1D(name="pool")(h)


def attention_tokens(config: SpeechConfig) -> int:
    """Tokens that one of a transformer attends to, its own among them; 0: all of the clip's."""
    return round(config.attention_window / (_TOKEN_FRAMES * config.hop))


def ctc(h: Any, config: SpeechConfig) -> Any:
    """Two convolutions over time with stride 2, then GRU layers (Amodei et al. 2016): (96, 128) channels and units.

    An answer for each fourth frame: with a hop of 20 ms, 80 ms, in which nobody says two words. Both ways, the layers
    hear what comes after a word too; one way, they can go along with a stream.
    """
    channels, *recurrent = config.units or (96, 128)
    for number in (1, 2):
        h = _along_time(h, config, channels, f"conv_{number}", use_bias=False, kernel_initializer="he_normal")
        h = keras.layers.BatchNormalization(name=f"conv_{number}_norm")(h)
        h = keras.layers.ReLU(name=f"conv_{number}_relu")(h)
        h = _dropout(h, config, f"dropout_conv_{number}")
    for number, size in enumerate(recurrent, start=1):
        name = f"gru_{number}"
        layer = keras.layers.GRU(size, return_sequences=True, name=f"{name}_cell" if config.bidirectional else name)
        h = (keras.layers.Bidirectional(layer, name=name) if config.bidirectional else layer)(h)
        h = _dropout(h, config, f"dropout_{number}") if number < len(recurrent) else h
    return h


NETWORKS: dict[str, Callable[[Any, SpeechConfig], Any]] = {
    "ds-cnn": ds_cnn,
    "crnn": crnn,
    "lstm": lstm,
    "transformer": transformer,
    "ctc": ctc,
}
# Layers that a network has at least.
_LEAST_UNITS = {"ds-cnn": 1, "crnn": 3, "lstm": 1, "transformer": 1, "ctc": 2}


def _normalize(h: Any, config: SpeechConfig, sounds: np.ndarray, spectrum: Spectrum) -> Any:
    if config.normalization == "none":
        return h
    if config.normalization == "utterance":
        return UtteranceNormalization(name="normalize")(h)
    chosen = np.linspace(0, len(sounds) - 1, min(len(sounds), FITTED_SOUNDS)).astype(int)
    fitted = Standardize.fitted(features(sounds[chosen], spectrum), name="normalize")
    if config.normalization == "running":
        return RunningNormalization(fitted.mean, fitted.factor, config.memory, name="normalize")(h)
    return fitted(h)


def _convolution(
    h: Any,
    filters: int,
    config: SpeechConfig,
    *,
    name: str,
    size: int | tuple[int, int],
    strides: int | tuple[int, int] = 1,
) -> Any:
    sizes = (size, size) if isinstance(size, int) else size
    steps = (strides, strides) if isinstance(strides, int) else strides
    h, padding = _padded(h, sizes, steps, config, f"{name}_pad")
    h = keras.layers.Conv2D(
        filters,
        size,
        strides=strides,
        padding=padding,
        use_bias=False,
        kernel_initializer="he_normal",
        kernel_regularizer=_penalty(config),
        name=name,
    )(h)
    h = keras.layers.BatchNormalization(name=f"{name}_norm")(h)
    return keras.layers.ReLU(name=f"{name}_relu")(h)


def _padded(
    h: Any, size: tuple[int, int], strides: tuple[int, int], config: SpeechConfig, name: str
) -> tuple[Any, str]:
    """(batch, frames, bands, channels) with the zeros that `config.padding` asks for, and how to convolve then.

    Bands are always padded as "same" does; frames beyond the sound's ends are what the setting is about.
    """
    if config.padding == "same" or size == (1, 1):
        return h, "same"
    if config.padding == "valid":
        _require_frames_for(h.shape[1], size[0])
    before = size[0] - 1 if config.padding == "causal" else 0
    bands = h.shape[2]
    missing = max((math.ceil(bands / strides[1]) - 1) * strides[1] + size[1] - bands, 0)
    sides = (missing // 2, missing - missing // 2)
    if before or missing:
        h = keras.layers.ZeroPadding2D(((before, 0), sides), name=name)(h)
    return h, "valid"


def _along_time(h: Any, config: SpeechConfig, channels: int, name: str, **settings: Any) -> Any:
    """A convolution of 5 frames with stride 2 over (batch, frames, channels)."""
    if config.padding == "valid":
        _require_frames_for(h.shape[1], 5)
    return keras.layers.Conv1D(
        channels,
        5,
        strides=_TOKEN_FRAMES,
        padding=config.padding,
        kernel_regularizer=_penalty(config),
        name=name,
        **settings,
    )(h)


def _require_frames_for(frames: int, size: int) -> None:
    if frames < size:
        raise UsageError(
            "model.padding=valid must leave frames for every convolution.",
            received=f"{frames} frames for one of {size}",
            todo="Give longer sounds, fewer layers, or model.padding=causal.",
        )


def _recurrent(h: Any, cell: Any, units: tuple[int, ...] | list[int], config: SpeechConfig) -> Any:
    kind = cell.__name__.lower()
    for number, size in enumerate(units, start=1):
        h = cell(size, return_sequences=True, name=f"{kind}_{number}")(h)
        h = _dropout(h, config, f"dropout_{number}") if number < len(units) else h
    return keras.layers.GlobalAveragePooling1D(name="pool")(h)


def _dropout(h: Any, config: SpeechConfig, name: str) -> Any:
    return keras.layers.Dropout(config.dropout, name=name)(h) if config.dropout else h


def _penalty(config: SpeechConfig) -> Any:
    return keras.regularizers.L2(config.l2) if config.l2 else None


def _require_frames(frames: int, words: int) -> None:
    """The same word many times has the longest path: a blank stands before each."""
    if frames < 2 * words:
        raise UsageError(
            "A sound needs two answers for each word that it may hold.",
            received=f"{frames} for {words} words",
            todo="Raise data.seconds or lower model.hop.",
        )


def _check(task: Task, config: SpeechConfig, dataset: Dataset) -> None:
    one_of("model.network", config.network, NETWORKS)
    one_of("model.transform", config.transform, TRANSFORMS)
    one_of("model.normalization", config.normalization, NORMALIZATIONS)
    one_of("model.padding", config.padding, PADDINGS)
    wanted = Task.TRANSCRIPTION if config.network == "ctc" else Task.CLASSIFICATION
    if task is not wanted:
        raise UsageError(f"The network {config.network} is for {wanted.value}.", received=f"task {task.value}")
    if config.bidirectional and config.network != "ctc":
        raise UsageError("model.bidirectional is for the network ctc.", received=f"model.network={config.network}")
    array = dataset.train.x.get(INPUT)
    if array is None or array.ndim != 2 or array.dtype != np.int16 or not dataset.rate:
        received = ", ".join(f"{name} {item.dtype} {item.shape}" for name, item in dataset.train.x.items())
        raise UsageError(
            "A speech network needs sounds: (samples, length) int16 of a known rate.",
            received=received,
            todo="Give a folder or archive of wav files.",
        )
    least = _LEAST_UNITS[config.network]
    if config.units and (min(config.units) < 1 or len(config.units) < least):
        raise UsageError(
            f"model.units of {config.network} must name at least {least} layers, each of at least 1.",
            received=str(config.units),
        )
    not_negative(config, "l2", "attention_window")
    if config.attention_window and config.network != "transformer":
        raise UsageError("model.attention_window is for the network transformer.", received=f"{config.network}")
    # A hop of nothing is refused with the features.
    if config.attention_window and config.hop > 0 and attention_tokens(config) < 2:
        raise UsageError(
            "model.attention_window must hold two tokens at least.",
            received=f"{config.attention_window:g} s, with a token each {_TOKEN_FRAMES * config.hop:g} s",
        )
    if config.network == "transformer":
        sizes = set(config.units or (64,))
        if len(sizes) > 1 or config.heads < 1 or min(sizes) % config.heads:
            raise UsageError(
                "All blocks of a transformer must have one number of units, and model.heads must divide it.",
                received=f"model.units={config.units}, model.heads={config.heads}",
            )
    below_one(config, "dropout", "mask_time", "mask_bands", "memory")
