"""Arrays in an .npz, in one of four layouts.

1. `x_train`, `y_train`, `x_test`, `y_test`, perhaps `x_val`, `y_val` (also written `x_validation`);
2. `X`, `y` with `is_test` (samples,) true for test samples, perhaps `is_validation`, and perhaps `subject`, `speaker`
   or `group` (samples,);
3. `x/NAME`, `y/NAME` with several named inputs and targets, with the same optional `is_test` and `group`.

Inputs of layouts 1 and 2 become `sequence` (rank 3; rank 2 of fractions is one feature), `tokens` (rank 2 of whole
numbers) or `image` (rank 4; rank 3 where data.input is "image"). `labels`, an array of text, names the classes.

4. `tokens`, one stream of token numbers (tokens,) for a language model, perhaps with `vocabulary`, an array of text.

A model that is trained already needs no targets: layouts 1 to 3 may leave all of them out.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edge_dl.data.dataset import Split, output_name
from edge_dl.data.files import DataFile
from edge_dl.data.source import Source
from edge_dl.data.tokens import check_language_model, cut_stream
from edge_dl.data.validation import check_array, check_classes, check_finite
from edge_dl.errors import UsageError
from edge_dl.files import load_npz
from edge_dl.names import values_under
from edge_dl.recipe import DataConfig, Task

GROUPS = ("subject", "speaker", "group")
LAYOUTS = "x_train, y_train, x_test, y_test (x_val, y_val); or X, y, is_test (subject); or x/NAME, y/NAME; or tokens"


def read(file: DataFile, config: DataConfig, task: Task | None) -> Source:
    """Read an .npz.

    Raises:
        UsageError: the file is damaged, holds pickled objects, or has none of the layouts.
    """
    arrays = _load(file)
    names = {name.lower(): name for name in arrays}
    if any(name.startswith("x/") for name in arrays):
        return _named(arrays, file, task)
    if "x_train" in names:
        return _parts(arrays, names, file, config, task)
    if "x" in names:
        return _flagged(arrays, names, file, config, task)
    if "tokens" in names:
        return _stream(arrays, names, file, config, task)
    raise UsageError(
        f"An .npz must hold {LAYOUTS}.",
        received=f"{file} with {', '.join(sorted(arrays)) or 'no arrays'}",
    )


def _load(file: DataFile) -> dict[str, np.ndarray]:
    if not file.member:
        return load_npz(file.path)
    import tempfile

    with tempfile.NamedTemporaryFile(suffix=".npz") as temporary:
        temporary.write(file.content())
        temporary.flush()
        return load_npz(Path(temporary.name))


def _parts(
    arrays: dict[str, np.ndarray], names: dict[str, str], file: DataFile, config: DataConfig, task: Task | None
) -> Source:
    raw: dict[str, tuple[np.ndarray, np.ndarray | None]] = {}
    targeted = any(name.startswith("y_") for name in names)
    for part, endings in (("train", ("train",)), ("test", ("test",)), ("validation", ("val", "validation", "valid"))):
        for ending in endings:
            has_x, has_y = f"x_{ending}" in names, f"y_{ending}" in names
            if has_x != has_y and targeted:
                there, lacking = ("x", "y") if has_x else ("y", "x")
                raise UsageError(
                    "Inputs and targets come in pairs.",
                    received=f"{file} with {there}_{ending} but no {lacking}_{ending}",
                )
            if has_x:
                raw[part] = (arrays[names[f"x_{ending}"]], arrays[names[f"y_{ending}"]] if has_y else None)
    if "test" not in raw:
        raw = {"all": raw["train"]}
    elif "train" in raw and raw["train"][0].shape[1:] != raw["test"][0].shape[1:]:
        raise UsageError(
            "All parts must have the same shape of sample.",
            received=f"x_train {raw['train'][0].shape}, x_test {raw['test'][0].shape}",
        )
    labels = _text_list(arrays, names, "labels", file)
    given = {part: y for part, (_, y) in raw.items() if y is not None}
    targets, labels = encode_targets(given, task, labels) if given else ({}, labels)
    parts: dict[str, Split] = {}
    start = 0
    groups = {}
    for part, (x, _) in raw.items():
        index = np.arange(start, start + len(x))
        parts[part] = as_split(x, targets.get(part), index, task, f"x_{part}", kind=config.input)
        start += len(x)
        group = next((names[f"{key}_{part}"] for key in GROUPS if f"{key}_{part}" in names), None)
        if group is not None:
            groups[part] = _per_sample(arrays[group], len(x), group)
    return _source(file, parts, groups, labels, next(iter(raw.values()))[0])


def _flagged(
    arrays: dict[str, np.ndarray], names: dict[str, str], file: DataFile, config: DataConfig, task: Task | None
) -> Source:
    x = arrays[names["x"]]
    labels = _text_list(arrays, names, "labels", file)
    targets, labels = encode_targets({"all": arrays[names["y"]]}, task, labels) if "y" in names else ({}, labels)
    whole = as_split(x, targets.get("all"), np.arange(len(x)), task, "X", kind=config.input)
    parts, groups = _cut(whole, arrays, names)
    return _source(file, parts, groups, labels, x)


def _named(arrays: dict[str, np.ndarray], file: DataFile, task: Task | None) -> Source:
    x, y = values_under(arrays, "x/"), values_under(arrays, "y/")
    names = {name.lower(): name for name in arrays}
    labels = _text_list(arrays, names, "labels", file)
    if y and task in (Task.CLASSIFICATION, Task.LABELLING, Task.EMBEDDING):
        # `labels` name the classes of the first output; further outputs belong to a model of the user's own.
        name = next(iter(y))
        encoded, labels = encode_targets({"all": y[name]}, task, labels)
        y[name] = encoded["all"]
    for name, array in {**x, **y}.items():
        check_array(array, name)
    weight = values_under(arrays, "weight/")
    for name, array in weight.items():
        if name not in y:
            raise UsageError("weight/NAME goes with y/NAME.", received=f"weight/{name} beside y/{', y/'.join(y)}")
        check_array(array, f"weight/{name}")
    counts = {name: len(array) for name, array in {**x, **y, **{f"weight/{n}": a for n, a in weight.items()}}.items()}
    if len(set(counts.values())) > 1:
        raise UsageError("Every array must hold the same number of samples.", received=str(counts))
    index = arrays["index"].astype(np.int64) if "index" in arrays else np.arange(next(iter(counts.values())))
    weights = {name: array.astype(np.float32) for name, array in weight.items()} or None
    whole = Split({n: _plain(a) for n, a in x.items()}, {n: _plain(a) for n, a in y.items()}, index, weights)
    parts, groups = _cut(whole, arrays, names)
    return _source(file, parts, groups, labels, next(iter(x.values())))


def _stream(
    arrays: dict[str, np.ndarray], names: dict[str, str], file: DataFile, config: DataConfig, task: Task | None
) -> Source:
    check_language_model(task)
    stream = arrays[names["tokens"]]
    check_array(stream, "tokens")
    if stream.ndim != 1 or stream.dtype.kind not in "iu":
        raise UsageError("tokens must be one stream of whole numbers.", received=f"{stream.dtype} {stream.shape}")
    if stream.min() < 0:
        raise UsageError("Token numbers must not be negative.", received=str(int(stream.min())))
    vocabulary = _text_list(arrays, names, "vocabulary", file)
    return cut_stream(stream, config, vocabulary, name=file.name.removesuffix(".npz"), source=str(file))


def _cut(
    whole: Split, arrays: dict[str, np.ndarray], names: dict[str, str]
) -> tuple[dict[str, Split], dict[str, np.ndarray]]:
    group = next((names[key] for key in GROUPS if key in names), None)
    groups = _per_sample(arrays[group], len(whole), group) if group else None
    if "is_test" not in names:
        return {"all": whole}, {} if groups is None else {"all": groups}
    flags = {"test": _per_sample(arrays[names["is_test"]], len(whole), "is_test").astype(bool)}
    if "is_validation" in names:
        flags["validation"] = _per_sample(arrays[names["is_validation"]], len(whole), "is_validation").astype(bool)
        both = flags["test"] & flags["validation"]
        if both.any():
            raise UsageError(
                "No sample may stand in two parts.",
                received=f"row {int(np.argmax(both))} in both is_test and is_validation",
            )
    flags["train"] = ~np.any(list(flags.values()), axis=0)
    for part, flag in flags.items():
        if not flag.any():
            raise UsageError("Every part needs samples.", received=f"none in the {part} part")
    parts = {part: whole.take(np.flatnonzero(flag)) for part, flag in flags.items()}
    return parts, {} if groups is None else {part: groups[flag] for part, flag in flags.items()}


def _per_sample(array: np.ndarray, count: int, name: str) -> np.ndarray:
    if array.shape != (count,):
        raise UsageError(f"{name} must hold one value a sample.", received=f"shape {array.shape} for {count} samples")
    return array


def _text_list(arrays: dict[str, np.ndarray], names: dict[str, str], key: str, file: DataFile) -> tuple[str, ...]:
    if key not in names:
        return ()
    labels = arrays[names[key]]
    if labels.ndim != 1 or labels.dtype.kind not in "US":
        raise UsageError(f"{key} must be a list of text.", received=f"{file}: {labels.dtype} {labels.shape}")
    return tuple(label.decode("utf-8", "replace") if isinstance(label, bytes) else str(label) for label in labels)


def _source(
    file: DataFile, parts: dict[str, Split], groups: dict[str, np.ndarray], labels: tuple[str, ...], x: np.ndarray
) -> Source:
    # Whole-number features of rank 3 are pixels or counts in one unit: scaled apart, a pixel that is almost always
    # black would become a huge outlier.
    scaling = "shared" if x.dtype.kind in "iu" and x.ndim == 3 else "feature"
    stem = file.name.removesuffix(".npz")
    return Source(stem, parts, groups, labels, source=str(file), scaling=scaling)


def as_split(
    x: np.ndarray, y: np.ndarray | None, index: np.ndarray, task: Task | None, where: str, *, kind: str = ""
) -> Split:
    """A part with its arrays named for `task`.

    Args:
        x: (samples, steps, features), (samples, steps), (samples, height, width, channels), (samples, height, width) of
            `kind` "image", or any shape when the task is not known.
        y: targets, first axis the sample; classes already numbered. None: there are none.
        index: (samples,) row in the source.
        task: names the target; None: `target`.
        where: what to call the inputs in messages.
        kind: "sequence", "image", or "" for what the rank tells.

    Raises:
        UsageError: the inputs are empty, not numbers or of the wrong rank.
    """
    check_array(x, where)
    if y is not None and len(x) != len(y):
        raise UsageError(
            "Inputs and targets must hold the same number of samples.", received=f"{where}: {len(x)} and {len(y)}"
        )
    index = index.astype(np.int64)
    if task is None:
        return Split({"input": _plain(x)}, {} if y is None else {"target": _plain(y)}, index)
    targets = {} if y is None else {output_name(task): y}
    if kind == "image" or (not kind and x.ndim == 4):
        return Split({"image": _pictures(x, where)}, targets, index)
    if x.ndim == 2 and x.dtype.kind in "iu":
        if x.min() < 0:
            raise UsageError("Token numbers must not be negative.", received=f"{int(x.min())} in {where}")
        return Split({"tokens": x.astype(np.int32)}, targets, index)
    if x.ndim == 2:
        x = x[:, :, None]
    if x.ndim != 3:
        raise UsageError(
            "Inputs must be (samples, steps, features), or (samples, steps) for one feature or tokens, or pictures "
            "(samples, height, width, channels).",
            received=f"{where} of shape {x.shape}",
            todo="For a model of your own, name the arrays x/NAME and y/NAME: they may have any shape.",
        )
    return Split({"sequence": _finite32(x, where)}, targets, index)


def encode_targets(
    targets: dict[str, np.ndarray], task: Task | None, labels: tuple[str, ...] = ()
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Targets of all parts as the task wants them, with class names.

    Classes given as text are numbered in sorted order; numbers are kept. Without `labels` there are as many classes as
    the largest number in the training part says.

    Raises:
        UsageError: a label is negative, fractional, unknown in the training part, or the rank is wrong.
    """
    for name, array in targets.items():
        if array.dtype == object:
            check_array(array, f"{name} y")
    if task in (Task.CLASSIFICATION, Task.LABELLING, Task.EMBEDDING):
        targets = {name: _squeeze(array, 2 if task is Task.LABELLING else 1) for name, array in targets.items()}
        first = next((part for part in ("train", "all") if part in targets), next(iter(targets)))
        if targets[first].dtype.kind in "US":
            names = labels or tuple(str(item) for item in np.unique(targets[first]))
            return {part: _numbered(array, names, part) for part, array in targets.items()}, names
        classes = {part: check_classes(array, f"{part} y") for part, array in targets.items()}
        return classes, labels or _counted(classes[first])
    if task is Task.LANGUAGE_MODEL:
        return {part: check_classes(array, f"{part} y") for part, array in targets.items()}, ()
    if task in (Task.REGRESSION, Task.FORECAST):
        rank = 2 if task is Task.REGRESSION else 3
        for part, array in targets.items():
            check_array(array, f"{part} y")
            if array.ndim == rank - 1:
                targets = {**targets, part: array[..., None]}
        return {part: _finite32(array, f"{part} y") for part, array in targets.items()}, ()
    return targets, labels


def _counted(classes: np.ndarray) -> tuple[str, ...]:
    """Names "0", "1", ... for unnamed classes; a gap is refused here, before a huge number makes a huge list."""
    found = np.unique(classes)
    if len(found) and int(found[-1]) != len(found) - 1:
        missing = int(np.argmax(found != np.arange(len(found))))
        raise UsageError(
            "Every class needs samples in the training part: classes are numbered 0, 1, 2 and so on without gaps.",
            received=f"no training sample of class {missing}, the largest label is {int(found[-1])}",
            todo="Number the classes without gaps, or name them with text labels.",
        )
    return tuple(str(number) for number in found)


def _squeeze(array: np.ndarray, rank: int) -> np.ndarray:
    return array[..., 0] if array.ndim == rank + 1 and array.shape[-1] == 1 else array


def _numbered(array: np.ndarray, names: tuple[str, ...], part: str) -> np.ndarray:
    numbers = {name: number for number, name in enumerate(names)}
    values, inverse = np.unique(array, return_inverse=True)
    unknown = [str(value) for value in values if str(value) not in numbers]
    if unknown:
        raise UsageError(
            "Every class needs samples in the training part.",
            received=f"{part} labels that are not known: {', '.join(unknown[:5])}",
        )
    mapped = np.array([numbers[str(value)] for value in values], np.int32)
    return mapped[inverse.reshape(array.shape)]


def _plain(array: np.ndarray) -> np.ndarray:
    """Floating point as float32, whole numbers as they are (64-bit ones as int32 where they fit)."""
    if array.dtype.kind == "f":
        return array.astype(np.float32)
    if array.dtype.itemsize == 8 and array.size and np.abs(array).max() < 1 << 31:
        return array.astype(np.int32)
    return array


def _pictures(array: np.ndarray, where: str) -> np.ndarray:
    """(samples, height, width, channels): whole numbers from 0 to 255 as uint8, fractions as float32."""
    if array.ndim == 3:
        array = array[..., None]
    if array.ndim != 4:
        raise UsageError(
            "Pictures must be (samples, height, width, channels), or (samples, height, width) for grey ones.",
            received=f"{where} of shape {array.shape}",
        )
    if array.dtype.kind not in "iub":
        return _finite32(array, where)
    if array.min() < 0 or array.max() > 255:
        raise UsageError(
            "Pictures of whole numbers go from 0 to 255.", received=f"{array.min()} to {array.max()} in {where}"
        )
    return array.astype(np.uint8)


def _finite32(array: np.ndarray, where: str) -> np.ndarray:
    check_finite(array, where)
    with np.errstate(over="ignore"):
        converted = array.astype(np.float32)
    check_finite(converted, f"{where} (as float32)")
    return converted
