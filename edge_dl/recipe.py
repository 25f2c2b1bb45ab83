"""Recipes as data: frozen dataclasses, overridable from the command line or a YAML file.

A recipe says what to train on, what to train, how, and what the results are held to. It holds no code: the catalogue
is `edge_dl.training.recipes`, and `apply_overrides` turns `training.epochs=3` into another recipe.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, TypeVar, Union

from edge_dl.bundle import Limits
from edge_dl.errors import UsageError
from edge_dl.variants import Quantization


class Task(str, Enum):
    """What the model answers; decides loss, metrics and checks."""

    CLASSIFICATION = "classification"  # one class a sequence
    LABELLING = "labelling"  # one class a time step
    REGRESSION = "regression"  # one number vector a sequence
    FORECAST = "forecast"  # the next `horizon` steps of a series
    LANGUAGE_MODEL = "language-model"  # the next token, at every step
    EMBEDDING = "embedding"  # a vector of length 1: what is alike lies close
    TRANSCRIPTION = "transcription"  # the words of a sound, in their order
    TRANSLATION = "translation"  # a sentence for a sentence, token by token


@dataclass(frozen=True)
class DataConfig:
    """Where the data comes from and how it becomes windows.

    Attributes:
        source: a name from `edge-dl data list`, or a path.
        form: the on-disk form (`edge_dl.data.forms`); empty: told by the file name.
        input: "sequence" or "image": what arrays without a channel axis are; empty: pictures where there is one.
        size: height and width in pixels of what the camera gives, which pictures in files are fitted to; empty: as they
            come where all are alike, else a square of their median short side, at most 256.
        fit: how pictures of another shape are fitted to that size: "crop" (scaled until they cover it, cut at the
            middle) or "stretch" (all of it is seen, out of proportion).
        rate: samples a second that sounds in files are brought to, in Hz; 0: 16,000 where most have that or more, else
            8,000.
        seconds: length that sounds in files are brought to; 0: as they come where all are alike, else 1. Of joined
            strings: 0: that of the most words of mean length with the longest pauses.
        words: fewest and most words of a string that is joined from single ones (transcription).
        pause: shortest and longest pause between two words of a string, in seconds (transcription).
        split: column of manifest.csv that says which part a sound is in; empty: the first whose name starts with split.
        validation: share of the training part held out when the source has no validation part. Where the source
            names groups (subjects, speakers), whole groups are held out; a series is cut by time.
        test: share held out when the source has no test part.
        boundaries: rows of a series where validation and test begin and where the data ends; empty: by the shares.
        missing: missing values of a series: "refuse", or "forward" (the last known value; leading gaps are dropped).
        limit: use at most so many samples of each split (a quick try); 0 means all.
        window: time steps an input window holds (CSV series, text); 0: as the source gives. Of sentence pairs: the
            most tokens of a side, marks of begin and end included; 0: what nearly all training pairs need.
        horizon: steps to predict (forecast).
        stride: steps between two windows; 0: 1 for a series, the window's length for text.
        target: name of the column to predict (CSV); empty: every column. Of sentence pairs in one file a language: the
            ending of the files to translate into.
        columns: names of the input columns (CSV); empty: every numeric one.
        season: steps in a season, for the seasonal baseline (forecast); 0: none.
        level: "character" or "word" (language model); "subword" too (sentence pairs).
        vocabulary: largest vocabulary, most frequent first; 0: no limit. Of sentence pairs: for each side.
        length: sequence length of generated tasks (adding problem).
        samples: number of training samples of generated tasks, and of joined strings.
    """

    source: str
    form: str = ""
    input: str = ""
    size: tuple[int, ...] = ()
    fit: str = "crop"
    rate: int = 0
    seconds: float = 0.0
    words: tuple[int, ...] = (3, 7)
    pause: tuple[float, ...] = (0.05, 0.3)
    split: str = ""
    validation: float = 0.15
    test: float = 0.2
    boundaries: tuple[int, ...] = ()
    missing: str = "refuse"
    limit: int = 0
    window: int = 0
    horizon: int = 0
    stride: int = 0
    target: str = ""
    columns: tuple[str, ...] = ()
    season: int = 0
    level: str = "character"
    vocabulary: int = 0
    length: int = 0
    samples: int = 0


@dataclass(frozen=True)
class RecurrentConfig:
    """A recurrent network.

    Attributes:
        cell: "rnn", "lstm" or "gru".
        units: units of each stacked layer.
        bidirectional: whether every layer reads both ways.
        residual: whether a layer's input is added to its output where the sizes allow it.
        dropout: dropout between layers.
        recurrent_dropout: dropout on the recurrent state.
        pooling: how a sequence becomes one vector: "last", "mean", "max" or "attention" (additive attention).
        embedding: size of token embeddings (token inputs only).
        dense: units of a hidden dense layer before the head; 0: none.
        scaling: how inputs are scaled inside the graph, fitted on the training part: "feature" (each feature by its
            own mean and deviation), "shared" (one mean and deviation), "none", or "auto" (what the data set asks for).
        difference: predict the change from the last observed value instead of the value itself (forecast only).
        family: tells this kind of network from others in a run's record.
    """

    cell: str = "lstm"
    units: tuple[int, ...] = (64,)
    bidirectional: bool = False
    residual: bool = False
    dropout: float = 0.0
    recurrent_dropout: float = 0.0
    pooling: str = "last"
    embedding: int = 32
    dense: int = 0
    scaling: str = "auto"
    difference: bool = False
    family: str = "recurrent"


@dataclass(frozen=True)
class ImageConfig:
    """An image network: uint8 pictures in, scaled, resized and classified inside the graph.

    Attributes:
        network: a name from `edge_dl.models.images.NETWORKS`, such as "cnn" or "resnet8".
        filters: channels of each convolution or stage; empty: the network's own.
        dense: units of a hidden dense layer before the head; 0: none.
        pooling: "max" or "average", where the network leaves the choice.
        dropout: dropout before the head.
        size: side in pixels that pictures are resized to in the graph; 0: as they come.
        l2: L2 penalty on kernels.
        family: tells this kind of network from others in a run's record.
    """

    network: str = "cnn"
    filters: tuple[int, ...] = ()
    dense: int = 0
    pooling: str = "max"
    dropout: float = 0.0
    size: int = 0
    l2: float = 0.0
    family: str = "image"


@dataclass(frozen=True)
class TransferConfig:
    """A backbone trained on many pictures, with a new head: uint8 pictures in, everything else inside the graph.

    Attributes:
        backbone: a name from `edge_dl.models.transfer.BACKBONES`, such as "mobilenet" or "mobilenet_v2"; or a TF2
            SavedModel as TensorFlow Hub publishes image feature vectors: its URL, owner/model/tensorFlow2/variation/
            version of Kaggle, or a path with a / in it of a folder or .tar.gz.
        alpha: width of the backbone: its factor on every layer's channels (not of a SavedModel).
        size: side in pixels that pictures are resized to in the graph; 0: the shorter side as it comes. A SavedModel of
            pictures of one size decides by itself.
        crop: cut frames that are not square at the middle; otherwise they are stretched.
        weights: "imagenet" (downloaded by Keras), a weights file of the backbone without its top, or "none" (trained
            from the start). A SavedModel brings its own.
        dense: units of a hidden dense layer before the head; 0: none.
        dropout: dropout before the head.
        l2: L2 penalty on the head's kernels.
        family: tells this kind of network from others in a run's record.
    """

    backbone: str = "mobilenet"
    alpha: float = 1.0
    size: int = 224
    crop: bool = True
    weights: str = "imagenet"
    dense: int = 0
    dropout: float = 0.2
    l2: float = 0.0
    family: str = "transfer"


@dataclass(frozen=True)
class SpeechConfig:
    """A speech network: int16 samples in, features, normalization and classes inside the graph.

    Attributes:
        network: a name from `edge_dl.models.speech.NETWORKS`, such as "ds-cnn" or "crnn".
        window: length of a frame, in seconds.
        hop: time from the start of one frame to the next, in seconds.
        bands: mel bands.
        lowest: where the first band starts, in Hz.
        highest: where the last band ends, in Hz; 0: at half the rate of the samples, at most 7,600.
        coefficients: MFCC to compute of the bands; 0: the bands themselves, as logarithms.
        transform: how a frame becomes its spectrum: "rfft" or "matmul" (`edge_dl.models.SpeechFeatures`).
        normalization: "fitted" (each feature by its mean and deviation over the training part), "utterance" (over the
            sound itself), "running" (by what was heard so far, for streams) or "none".
        memory: share of the running mean that stays from frame to frame (running normalization only).
        padding: what convolutions see beyond the ends of a sound: "same" (zeros on both sides), "valid" (nothing:
            fewer frames come out) or "causal" (zeros before its start alone). A stream has no end, so "same" cannot
            stream.
        units: channels or units of each layer or block; empty: the network's own.
        heads: attention heads (transformer only).
        attention_window: seconds that a token's attention looks back over, with none ahead (transformer only), so that
            a stream keeps keys and values; 0: the whole sound, both ways.
        bidirectional: whether recurrent layers read both ways (ctc only): better, and no stream can be transcribed.
        dropout: dropout between layers and before the head.
        l2: L2 penalty on kernels.
        mask_time: longest mask over frames in training, as a share of them (SpecAugment); 0: none.
        mask_bands: widest mask over features in training, as a share of them (SpecAugment); 0: none.
        family: tells this kind of network from others in a run's record.
    """

    network: str = "ds-cnn"
    window: float = 0.03
    hop: float = 0.02
    bands: int = 40
    lowest: float = 20.0
    highest: float = 0.0
    coefficients: int = 0
    transform: str = "rfft"
    normalization: str = "fitted"
    memory: float = 0.98
    padding: str = "same"
    units: tuple[int, ...] = ()
    heads: int = 2
    attention_window: float = 0.0
    bidirectional: bool = False
    dropout: float = 0.0
    l2: float = 0.0
    mask_time: float = 0.0
    mask_bands: float = 0.0
    family: str = "speech"


@dataclass(frozen=True)
class Seq2SeqConfig:
    """An encoder that reads a sentence and a decoder that says another, token by token.

    Attributes:
        cell: "lstm" or "gru", of encoder and decoder.
        units: units of each layer, the same in the encoder (both directions together) and the decoder, which starts
            from the encoder's last states.
        embedding: size of token embeddings, on both sides.
        bidirectional: whether the encoder reads both ways.
        attention: how the decoder looks back at the source: "additive" (Bahdanau et al. 2015), "multiplicative" (Luong
            et al. 2015, "general"), or "none": all it knows is the encoder's last states (Sutskever et al. 2014).
        input_feeding: whether a step is told what the last one's attention found (Luong et al. 2015, section 3.3).
        residual: whether a layer's input is added to its output where the sizes allow it.
        dropout: dropout of embeddings, between layers and before the head; not between the layers of a decoder with
            input feeding, which are steps of one loop.
        family: tells this kind of network from others in a run's record.
    """

    cell: str = "lstm"
    units: tuple[int, ...] = (256,)
    embedding: int = 128
    bidirectional: bool = True
    attention: str = "additive"
    input_feeding: bool = True
    residual: bool = False
    dropout: float = 0.2
    family: str = "seq2seq"


Network = RecurrentConfig | ImageConfig | TransferConfig | SpeechConfig | Seq2SeqConfig
"""What a recipe says of its model; `family` tells which it is."""


@dataclass(frozen=True)
class TrainingConfig:
    """How the model is trained.

    Attributes:
        epochs: largest number of epochs.
        batch_size: samples a step.
        optimizer: "adam", "adamw", "sgd" or "rmsprop".
        learning_rate: (peak) learning rate.
        schedule: "constant", "cosine" (to zero over all epochs) or "plateau" (halved when validation loss stalls).
        plateau: epochs without a better validation loss that make a plateau.
        warmup: epochs of linear warm-up before the schedule.
        weight_decay: decoupled weight decay.
        label_smoothing: share of the target spread over all classes.
        clip_norm: limit of the global gradient norm; 0: none.
        clip_value: limit of each gradient element; 0: none.
        patience: epochs without a better validation loss before training stops; 0: never. The best weights are kept.
        noise: standard deviation of Gaussian noise added to inputs during training, in units of each feature's own.
        gain: standard deviation of a random factor around 1 on each feature of a training sample; of a sound, on its
            level.
        rotation: standard deviation, in radians, of a random rotation of a training sample whose features are
            three-axis sensors, one after the other.
        zoom: random cut of a training picture, at least 1 - zoom of each side, scaled back to the full size.
        brightness: largest random change of a training picture's brightness, as a share of the full range.
        contrast: largest random change of a training picture's contrast, as a share of it.
        shift: random shift of a training picture or sound, at most this share of its side or length; what comes in
            repeats a picture's edge, and is silence in a sound.
        flip: turn every other training picture around, left to right.
        speed: largest random change of a training sound's speed (and so its pitch), as a share of it.
        background: loudest noise mixed with a training sound, as a share of the sound's own level: parts of training
            sounds whose class is silence or noise, recordings in `_background_noise_`, and made noise.
        balance: weigh training samples so that every class counts the same.
        fine_tune_epochs: epochs of a second phase that trains the last layers of a pretrained backbone too (transfer
            learning only); in the first phase the backbone is frozen.
        fine_tune_layers: layers of the backbone that the second phase trains, counted from its end.
        fine_tune_rate: (peak) learning rate of the second phase.
        mixed_precision: train in float16/bfloat16 where the device is fast at it.
        use_validation: train on the validation part too, once the settings are chosen; there are no validation curves
            then, and no early stopping.
        seed: seeds weights, shuffling, dropout and splits.
        backend: "tensorflow", "jax" or "torch"; empty: $KERAS_BACKEND or tensorflow.
        steps_per_execution: batches a call of the compiled step; 0: chosen by the trainer.
        jit_compile: "auto", "on" or "off" (XLA).
    """

    epochs: int = 20
    batch_size: int = 64
    optimizer: str = "adam"
    learning_rate: float = 1e-3
    schedule: str = "constant"
    plateau: int = 3
    warmup: int = 0
    weight_decay: float = 0.0
    label_smoothing: float = 0.0
    clip_norm: float = 1.0
    clip_value: float = 0.0
    patience: int = 0
    noise: float = 0.0
    gain: float = 0.0
    rotation: float = 0.0
    zoom: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    shift: float = 0.0
    flip: bool = False
    speed: float = 0.0
    background: float = 0.0
    balance: bool = False
    fine_tune_epochs: int = 0
    fine_tune_layers: int = 0
    fine_tune_rate: float = 1e-4
    mixed_precision: bool = False
    use_validation: bool = False
    seed: int = 0
    backend: str = ""
    steps_per_execution: int = 0
    jit_compile: str = "auto"


class Method(str, Enum):
    """How training makes a model smaller."""

    PRUNE = "prune"  # weights to zero
    CLUSTER = "cluster"  # few different weights
    QAT = "qat"  # quantization-aware training: int8, with training that knows of it


@dataclass(frozen=True)
class CompressionConfig:
    """Training that makes a trained model smaller, through tensorflow-model-optimization.

    Attributes:
        methods: any of prune, cluster and qat, done in this order, each keeping what those before it reached: prune and
            qat together are PQAT, cluster and qat CQAT, all three PCQAT. Empty: none.
        sparsity: share of the weights that pruning sets to zero.
        schedule: "constant" (at once) or "polynomial" (more and more; Zhu & Gupta 2017).
        begin: share of the pruning's steps before the first weight is set to zero.
        end: share of the pruning's steps after which the sparsity is reached (polynomial).
        clusters: different values that a kernel may have after clustering.
        epochs: epochs of each method.
        learning_rate: at first; falls to zero over each method's epochs, by half a cosine; 0: a tenth of
            training.learning_rate, or training.fine_tune_rate where a backbone was fine-tuned.
        skip: names of layers to leave alone.
    """

    methods: tuple[Method, ...] = ()
    sparsity: float = 0.5
    schedule: str = "polynomial"
    begin: float = 0.0
    end: float = 0.5
    clusters: int = 16
    epochs: int = 5
    learning_rate: float = 0.0
    skip: tuple[str, ...] = ()


@dataclass(frozen=True)
class ConversionConfig:
    """Which variants to make.

    Attributes:
        lowerings: lowering names; "auto" converts every lowering that the model allows and picks the fastest that
            passes parity.
        quantizations: quantizations to make of each lowering.
        integer_io: whether int8, int16x8 and qat variants take and give integers; a picture then goes into int8 as its
            bytes less 128, and no operator there computes in float.
        per_channel: whether int8 and int16x8 weights have one scale a channel, or one a tensor.
        batch: static batch size.
        beams: hypotheses that a decoder also takes at a time, with a batch of 1; below 2: none.
        split_signatures: whether bundles of an encoder and a decoder also hold each as a file of its own, encode.tflite
            and decode.tflite, for runtimes that know one signature a file.
        internal_states: whether `step` and `stream` variants keep their states in the file instead of taking and giving
            them, with a signature `reset` that sets them back to zero.
        calibration_samples: training samples for calibration.
        time_limit: seconds one conversion may take.
        runtime: runtimes that every variant must load in, e.g. "tflite-runtime==2.14.0"
            (`edge_dl.checks.runtime_profiles`): what can be made so that it does is, and the rest is refused.
    """

    lowerings: tuple[str, ...] = ("auto",)
    quantizations: tuple[Quantization, ...] = (
        Quantization.FLOAT32,
        Quantization.FLOAT16,
        Quantization.DYNAMIC,
        Quantization.INT8,
        Quantization.INT16X8,
    )
    integer_io: bool = False
    per_channel: bool = True
    batch: int = 1
    beams: int = 4
    split_signatures: bool = False
    internal_states: bool = False
    calibration_samples: int = 200
    time_limit: float = 600.0
    runtime: tuple[str, ...] = ()


@dataclass(frozen=True)
class ChecksConfig:
    """What variants are held to.

    Attributes:
        samples: test samples that parity and task metric use; 0: all.
        max_drop: largest loss of the task metric (share of accuracy or of words, or relative loss of an error metric).
        limits: limits by quantization name; a quantization without an entry uses the defaults of
            `edge_dl.checks.limits`.
        threads: interpreter threads for latency.
        rounds: rounds of a latency comparison; 0: the default of `edge_dl.checks.latency`.
    """

    samples: int = 0
    max_drop: float = 0.01
    limits: Mapping[str, Limits] = field(default_factory=dict)
    threads: int = 1
    rounds: int = 0


@dataclass(frozen=True)
class Recipe:
    """A named workload: everything that `edge-dl run NAME` needs to know."""

    name: str
    summary: str
    task: Task
    data: DataConfig
    model: Network = field(default_factory=RecurrentConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    conversion: ConversionConfig = field(default_factory=ConversionConfig)
    checks: ChecksConfig = field(default_factory=ChecksConfig)
    compression: CompressionConfig = field(default_factory=CompressionConfig)


T = TypeVar("T")


def apply_overrides(recipe: T, overrides: Mapping[str, Any]) -> T:
    """A copy of a dataclass with dotted keys replaced, each value converted to its field's type.

    Args:
        recipe: a (nested) frozen dataclass, usually a `Recipe`.
        overrides: e.g. {"training.epochs": "3", "model.units": "64,64"}; values are text as typed on the command line,
            or the plain values that a YAML file holds.

    Raises:
        UsageError: an unknown key (the message names the nearest known ones) or a value of the wrong type.
    """
    for key, value in overrides.items():
        recipe = _replace(recipe, key, key.split("."), value)
    return recipe


def flatten(mapping: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings, as a YAML file holds them, as one mapping with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in mapping.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def to_json(recipe: Any) -> Any:
    """The recipe as plain JSON values; `from_json` reads it back."""
    return dataclasses.asdict(recipe, dict_factory=lambda items: {key: _plain(value) for key, value in items})


def from_json(cls: type[T], value: Mapping[str, Any]) -> T:
    """Build dataclass `cls` from what `to_json` gave.

    Raises:
        UsageError: a key is unknown, missing, or a value has the wrong type.
    """
    known = _fields(cls)
    for key in value:
        if key not in known:
            raise _unknown_key(key, known)
    missing = [
        item.name
        for item in dataclasses.fields(cls)  # type: ignore[arg-type]
        if item.default is dataclasses.MISSING
        and item.default_factory is dataclasses.MISSING
        and item.name not in value
    ]
    if missing:
        raise UsageError(f"Keys {', '.join(missing)} must be given.", received=", ".join(sorted(value)) or "nothing")
    return cls(**{key: _convert(item, known[key], key) for key, item in value.items()})


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return value


def _fields(cls: Any) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _unknown_key(key: str, known: Mapping[str, Any]) -> UsageError:
    near = difflib.get_close_matches(key.split(".")[-1], known, n=3, cutoff=0.5)
    hint = f"Did you mean {', '.join(near)}? " if near else ""
    return UsageError("A recipe has no such key.", received=key, todo=f"{hint}Known keys: {', '.join(sorted(known))}.")


def _replace(node: Any, full_key: str, path: list[str], value: Any) -> Any:
    known = _fields(type(node))
    name = path[0]
    if name not in known:
        raise _unknown_key(full_key, known)
    current = getattr(node, name)
    if name == "family":
        raise UsageError("A recipe's kind of network is fixed.", received=full_key, todo="Choose another recipe.")
    if len(path) == 1:
        if dataclasses.is_dataclass(current):
            raise UsageError(
                "A key must name a single setting.",
                received=full_key,
                todo=f"Add one of its keys: {', '.join(f'{full_key}.{key}' for key in _fields(type(current)))}.",
            )
        return dataclasses.replace(node, **{name: _convert(value, known[name], full_key)})
    if isinstance(current, Mapping):
        # limits.int8.min_top1=0.9: the middle part is a quantization's name.
        value_type = typing.get_args(known[name])[1]
        entry, rest = path[1], path[2:]
        if not rest:
            raise UsageError("A key must name a single setting.", received=full_key)
        _check_quantization(entry, full_key)
        changed = _replace(current.get(entry, value_type()), full_key, rest, value)
        return dataclasses.replace(node, **{name: {**current, entry: changed}})
    if not dataclasses.is_dataclass(current):
        raise UsageError("A recipe has no such key.", received=full_key, todo=f"{name} is a single setting.")
    return dataclasses.replace(node, **{name: _replace(current, full_key, path[1:], value)})


def _convert(value: Any, kind: Any, key: str) -> Any:
    """Convert `value` (text or a plain value) to the annotated type `kind`."""
    origin = typing.get_origin(kind)
    if origin in (Union, types.UnionType):
        options = [option for option in typing.get_args(kind) if option is not type(None)]
        if all(dataclasses.is_dataclass(option) for option in options):
            return _convert(value, _of_family(value, options, key), key)
        if value is None or (isinstance(value, str) and value.lower() in ("none", "null")):
            return None
        return _convert(value, options[0], key)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        if not isinstance(value, Mapping):
            raise _wrong_type(key, value, "a mapping of settings")
        return from_json(kind, value)
    if origin is tuple:
        items = value
        if isinstance(value, str):
            items = [item.strip() for item in value.strip("[]() ").split(",") if item.strip()]
        elif isinstance(value, (int, float)):
            items = [value]
        if not isinstance(items, (list, tuple)):
            raise _wrong_type(key, value, "a list")
        return tuple(_convert(item, typing.get_args(kind)[0], key) for item in items)
    if isinstance(kind, type) and issubclass(kind, Enum):
        try:
            return kind(value.value if isinstance(value, Enum) else value)
        except ValueError:
            raise _wrong_type(key, value, "one of " + ", ".join(item.value for item in kind)) from None
    if origin is not None:  # Mapping[str, X]
        if not isinstance(value, Mapping):
            raise _wrong_type(key, value, "a mapping")
        for name in value:
            _check_quantization(name, f"{key}.{name}")
        return {str(name): _convert(item, typing.get_args(kind)[1], f"{key}.{name}") for name, item in value.items()}
    return _scalar(value, kind, key)


def _of_family(value: Any, options: list[Any], key: str) -> Any:
    """The dataclass whose `family` a mapping names; the first where it names none."""
    family = value.get("family", options[0].family) if isinstance(value, Mapping) else None
    for option in options:
        if option.family == family:
            return option
    raise _wrong_type(f"{key}.family", family, "one of " + ", ".join(option.family for option in options))


def _check_quantization(name: Any, key: str) -> None:
    """The only mapping in a recipe is `limits`, by quantization."""
    known = [item.value for item in Quantization]
    if name not in known:
        raise UsageError("Limits are set by quantization.", received=key, todo=f"Known are: {', '.join(known)}.")


def _scalar(value: Any, kind: Any, key: str) -> Any:
    if kind is bool:
        named = {
            "true": True,
            "yes": True,
            "on": True,
            "1": True,
            "false": False,
            "no": False,
            "off": False,
            "0": False,
        }
        if isinstance(value, bool):
            return value
        if str(value).lower() in named:
            return named[str(value).lower()]
        raise _wrong_type(key, value, "true or false")
    if isinstance(value, bool) and kind in (int, float):
        raise _wrong_type(key, value, "a number")
    try:
        if kind is int:
            if isinstance(value, float) and not value.is_integer():
                raise ValueError
            return int(value)
        if kind is float:
            number = float(value)
            if not math.isfinite(number):  # JSON could not hold it, and no setting means it.
                raise ValueError
            return number
    except (TypeError, ValueError, OverflowError):
        raise _wrong_type(key, value, "a whole number" if kind is int else "a number") from None
    if kind is str:
        if not isinstance(value, (str, int, float)):
            raise _wrong_type(key, value, "text")
        return str(value)
    return value


def _wrong_type(key: str, value: Any, expected: str) -> UsageError:
    return UsageError(f"{key} must be {expected}.", received=repr(value))
