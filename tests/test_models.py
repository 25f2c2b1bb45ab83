"""Models: names, shapes, scaling, attention against NumPy, learning, saving, and what is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_dl.data import Dataset, ForecastInfo, Split, load
from edge_dl.errors import UsageError
from edge_dl.recipe import DataConfig, RecurrentConfig, Task

keras = pytest.importorskip("keras", reason="models need Keras: pip install 'edge-dl[train]'")

from edge_dl.models import (  # noqa: E402
    AdditiveAttentionPooling,
    LastObservation,
    Standardize,
    Unstandardize,
    build,
    register,
)

STEPS, FEATURES = 6, 3
TASKS = [task for task in Task if task not in (Task.EMBEDDING, Task.TRANSCRIPTION, Task.TRANSLATION)]


def make_dataset(task: Task, *, tokens: bool = False, seed: int = 0, samples: int = 40) -> Dataset:
    """Random data of every task's shape; three classes, eight tokens, two targets over four steps."""
    rng = np.random.default_rng(seed)

    def split(count: int, start: int) -> Split:
        x = rng.normal(size=(count, STEPS, FEATURES)).astype(np.float32) * [1, 10, 0.1] + [0, 1000, -3]
        inputs = {"tokens": rng.integers(0, 8, (count, STEPS)).astype(np.int32)} if tokens else {"sequence": x}
        targets = {
            Task.CLASSIFICATION: ("label", np.arange(count) % 3),
            Task.LABELLING: ("labels", rng.integers(0, 3, (count, STEPS))),
            Task.REGRESSION: ("value", x.mean(axis=1)[:, :2]),
            Task.FORECAST: ("forecast", np.repeat(x[:, -1:, :2], 4, axis=1) + 1),
            Task.LANGUAGE_MODEL: ("next_token", rng.integers(0, 8, (count, STEPS))),
        }
        name, y = targets[task]
        return Split(
            {key: value.astype(np.int32 if tokens else np.float32) for key, value in inputs.items()},
            {name: y.astype(np.float32 if y.dtype.kind == "f" else np.int32)},
            np.arange(start, start + count),
        )

    labels = ("a", "b", "c") if task in (Task.CLASSIFICATION, Task.LABELLING) else ()
    info = None
    if task is Task.FORECAST:
        info = ForecastInfo(("a", "b", "c"), ("a", "b"), (0, 1), 4, 0, (0.0, 1000.0), (1.0, 10.0), (1.0, 10.0))
    return Dataset(
        "toy",
        task,
        split(samples, 0),
        split(9, samples),
        split(9, samples + 9),
        labels=labels,
        vocabulary=tuple("abcdefgh") if tokens else (),
        forecast=info,
    )


def answers(model: Any, x: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What the model says, without compiling a predict function for every small model."""
    return {name: keras.ops.convert_to_numpy(value) for name, value in model(x, training=False).items()}


OUTPUTS = {
    Task.CLASSIFICATION: ("label", (9, 3)),
    Task.LABELLING: ("labels", (9, STEPS, 3)),
    Task.REGRESSION: ("value", (9, 2)),
    Task.FORECAST: ("forecast", (9, 4, 2)),
    Task.LANGUAGE_MODEL: ("next_token", (9, STEPS, 8)),
}


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
@pytest.mark.parametrize("task", TASKS)
def test_names_shapes_and_probabilities(task: Task, cell: str) -> None:
    tokens = task is Task.LANGUAGE_MODEL
    dataset = make_dataset(task, tokens=tokens)
    model = build(task, RecurrentConfig(cell, units=(4, 4), residual=True, dropout=0.1, embedding=5), dataset)
    name, shape = OUTPUTS[task]
    assert list(model.input) == (["tokens"] if tokens else ["sequence"])
    assert list(model.output) == [name]
    answer = answers(model, dataset.test.x)[name]
    assert answer.shape == shape
    assert np.isfinite(answer).all()
    if task in (Task.CLASSIFICATION, Task.LABELLING, Task.LANGUAGE_MODEL):
        np.testing.assert_allclose(answer.sum(axis=-1), 1, atol=1e-5)
        assert answer.min() >= 0
    assert [layer.name for layer in model.layers if layer.name.startswith(cell)] == [f"{cell}_1", f"{cell}_2"]


@pytest.mark.parametrize("pooling", ["last", "mean", "max", "attention"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_poolings(pooling: str, bidirectional: bool) -> None:
    dataset = make_dataset(Task.CLASSIFICATION)
    config = RecurrentConfig("gru", units=(4, 4), pooling=pooling, bidirectional=bidirectional, residual=True, dense=5)
    model = build(Task.CLASSIFICATION, config, dataset)
    assert answers(model, dataset.test.x)["label"].shape == (9, 3)
    residuals = [layer.name for layer in model.layers if layer.name.startswith("residual")]
    # A last layer that gives one vector has no sequence to add.
    assert residuals == ([] if pooling == "last" else ["residual_2"])


def test_recurrent_weights_start_sensibly() -> None:
    keras.utils.set_random_seed(0)
    model = build(Task.CLASSIFICATION, RecurrentConfig("lstm", units=(8,)), make_dataset(Task.CLASSIFICATION))
    cell = model.get_layer("lstm_1").cell
    recurrent = np.asarray(keras.ops.convert_to_numpy(cell.recurrent_kernel))
    np.testing.assert_allclose(recurrent @ recurrent.T, np.eye(8), atol=1e-5)
    bias = np.asarray(keras.ops.convert_to_numpy(cell.bias))
    np.testing.assert_array_equal(bias, np.repeat([0, 1, 0, 0], 8))  # input, forget, cell, output gates


def test_standardize_is_fitted_on_training_inputs_only() -> None:
    dataset = make_dataset(Task.CLASSIFICATION)
    dataset.test.x["sequence"][...] += 1e6  # must change nothing
    model = build(Task.CLASSIFICATION, RecurrentConfig(units=(4,)), dataset)
    layer = model.get_layer("standardize_sequence")
    x = dataset.train.x["sequence"]
    scaled = keras.ops.convert_to_numpy(layer(x))
    np.testing.assert_allclose(scaled.mean(axis=(0, 1)), 0, atol=1e-3)
    np.testing.assert_allclose(scaled.std(axis=(0, 1)), 1, atol=1e-3)


def test_standardize_shared_and_constant_features() -> None:
    x = np.zeros((10, 4, 3), np.float32)
    x[..., 1] = np.arange(10)[:, None]
    x[..., 2] = 7
    apart = keras.ops.convert_to_numpy(Standardize.fitted(x)(x))
    np.testing.assert_allclose(apart[..., [0, 2]], 0, atol=1e-6)
    together = keras.ops.convert_to_numpy(Standardize.fitted(x, shared=True)(x))
    assert together.std() == pytest.approx(1, abs=1e-5)
    assert len(Standardize.fitted(x, shared=True).mean) == 1


def test_scaling_choices() -> None:
    dataset = make_dataset(Task.CLASSIFICATION)

    def scaling(choice: str, data: Dataset) -> int:
        model = build(Task.CLASSIFICATION, RecurrentConfig(units=(2,), scaling=choice), data)
        found = [layer for layer in model.layers if isinstance(layer, Standardize)]
        return len(found[0].mean) if found else 0

    pixels = dataclasses.replace(dataset, scaling="shared")
    assert [scaling("auto", dataset), scaling("shared", dataset), scaling("none", dataset)] == [3, 1, 0]
    assert [scaling("auto", pixels), scaling("feature", pixels)] == [1, 3]


@pytest.mark.parametrize("difference", [False, True])
def test_forecast_is_in_the_series_unit(difference: bool) -> None:
    dataset = make_dataset(Task.FORECAST)
    model = build(Task.FORECAST, RecurrentConfig("gru", units=(4,), difference=difference), dataset)
    head = model.get_layer("head")
    head.set_weights([np.zeros_like(weight) for weight in head.get_weights()])
    answer = answers(model, dataset.test.x)["forecast"]
    if difference:  # no change: the naive forecast
        expected = np.repeat(dataset.test.x["sequence"][:, -1:, :2], 4, axis=1)
    else:  # the mean of the training targets
        expected = np.broadcast_to(dataset.train.y["forecast"].mean(axis=(0, 1)), answer.shape)
    np.testing.assert_allclose(answer, expected, rtol=1e-4)


def test_last_observation_picks_columns_in_order() -> None:
    x = np.arange(24, dtype=np.float32).reshape(1, 4, 6)
    for columns in ([1, 2], [4, 0], [5], [2, 1, 3]):
        found = keras.ops.convert_to_numpy(LastObservation(columns)(x))
        np.testing.assert_array_equal(found, x[:, -1:, columns])


def test_attention_equals_its_formula() -> None:
    rng = np.random.default_rng(0)
    h = rng.normal(size=(5, 7, 4)).astype(np.float32)
    layer = AdditiveAttentionPooling(3)
    layer.build(h.shape)
    w, b, v = (rng.normal(size=shape).astype(np.float32) for shape in ((4, 3), (3,), (3, 1)))
    layer.hidden.set_weights([w, b])
    layer.score.set_weights([v])

    def pooled(part: np.ndarray) -> np.ndarray:
        score = np.exp(np.tanh(part @ w + b) @ v)
        return (part * score / score.sum(axis=1, keepdims=True)).sum(axis=1)

    np.testing.assert_allclose(keras.ops.convert_to_numpy(layer(h)), pooled(h), atol=1e-5)
    mask = np.arange(7)[None] < np.array([7, 1, 3, 5, 6])[:, None]
    masked = keras.ops.convert_to_numpy(layer(h, mask=mask))
    for row, length in enumerate(mask.sum(axis=1)):
        np.testing.assert_allclose(masked[row], pooled(h[row : row + 1, :length])[0], atol=1e-5)


def test_attention_in_half_precision_stays_finite() -> None:
    layer = AdditiveAttentionPooling(3, dtype="mixed_float16")
    h = np.random.default_rng(0).normal(size=(2, 5, 4)).astype(np.float16)
    mask = np.array([[True, False, False, False, False]] * 2)
    found = keras.ops.convert_to_numpy(layer(h, mask=mask))
    np.testing.assert_allclose(found, h[:, 0], atol=1e-2)


def test_mixed_precision_keeps_edges_in_float32() -> None:
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        model = build(Task.FORECAST, RecurrentConfig("gru", units=(4,), difference=True), make_dataset(Task.FORECAST))
        assert model.get_layer("standardize_sequence").compute_dtype == "float32"
        assert model.output["forecast"].dtype == "float32"
        model = build(Task.CLASSIFICATION, RecurrentConfig(units=(4,)), make_dataset(Task.CLASSIFICATION))
        assert model.get_layer("lstm_1").compute_dtype == "bfloat16"
        assert model.output["label"].dtype == "float32"
    finally:
        keras.mixed_precision.set_global_policy("float32")


@pytest.mark.parametrize("task", TASKS)
def test_saved_model_gives_the_same_answers(task: Task, tmp_path: Path) -> None:
    dataset = make_dataset(task, tokens=task is Task.LANGUAGE_MODEL)
    config = RecurrentConfig(
        "gru", units=(4, 4), pooling="attention", residual=True, difference=task is Task.FORECAST, dense=3
    )
    model = build(task, config, dataset)
    model.save(tmp_path / "model.keras")
    register()
    again = keras.saving.load_model(tmp_path / "model.keras", compile=False)
    name = OUTPUTS[task][0]
    before, after = (answers(item, dataset.test.x)[name] for item in (model, again))
    np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize(
    "layer",
    [
        Standardize([1.0, 2.0], [3.0, 4.0], name="s"),
        Unstandardize([1.0], [3.0], name="u"),
        LastObservation([2, 0], name="l"),
        AdditiveAttentionPooling(5, name="a"),
    ],
)
def test_layers_survive_their_config(layer: Any) -> None:
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert type(again) is type(layer)
    assert again.get_config() == layer.get_config()


def test_several_inputs_are_read_together() -> None:
    dataset = make_dataset(Task.CLASSIFICATION)
    parts = {}
    for part, split in dataset.parts.items():
        tokens = np.full((len(split), STEPS), 2, np.int32)
        parts[part] = dataclasses.replace(split, x={**split.x, "tokens": tokens})
    model = build(Task.CLASSIFICATION, RecurrentConfig(units=(4,), embedding=5), dataclasses.replace(dataset, **parts))
    assert set(model.input) == {"sequence", "tokens"}
    assert model.get_layer("inputs").output.shape == (None, STEPS, FEATURES + 5)


def test_model_learns_digits() -> None:
    keras.utils.set_random_seed(0)
    dataset = load(DataConfig("digits-rows"), Task.CLASSIFICATION, seed=0)
    model = build(Task.CLASSIFICATION, RecurrentConfig("gru", units=(32,), pooling="attention"), dataset)
    model.compile(keras.optimizers.Adam(0.01), loss={"label": "sparse_categorical_crossentropy"})
    model.fit(dataset.train.x, dataset.train.y, epochs=6, batch_size=32, verbose=0)
    answer = model.predict(dataset.test.x, verbose=0)["label"].argmax(axis=-1)
    assert (answer == dataset.test.y["label"]).mean() > 0.85


@pytest.mark.parametrize(
    ("task", "config", "message"),
    [
        (Task.CLASSIFICATION, RecurrentConfig("elman"), "model.cell must be one of rnn, lstm, gru"),
        (Task.CLASSIFICATION, RecurrentConfig(pooling="sum"), "model.pooling"),
        (Task.CLASSIFICATION, RecurrentConfig(scaling="min-max"), "model.scaling"),
        (Task.CLASSIFICATION, RecurrentConfig(units=()), "at least one layer"),
        (Task.CLASSIFICATION, RecurrentConfig(units=(8, 0)), "at least one unit"),
        (Task.CLASSIFICATION, RecurrentConfig(dropout=1.0), "model.dropout"),
        (Task.CLASSIFICATION, RecurrentConfig(recurrent_dropout=-0.1), "model.recurrent_dropout"),
        (Task.CLASSIFICATION, RecurrentConfig(dense=-1), "model.dense"),
        (Task.CLASSIFICATION, RecurrentConfig(difference=True), "model.difference"),
        (Task.LANGUAGE_MODEL, RecurrentConfig(bidirectional=True), "reads forwards only"),
        (Task.LANGUAGE_MODEL, RecurrentConfig(embedding=0), "model.embedding"),
    ],
)
def test_wrong_settings_are_refused(task: Task, config: RecurrentConfig, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build(task, config, make_dataset(task, tokens=task is Task.LANGUAGE_MODEL))


def test_data_of_another_task_is_refused() -> None:
    with pytest.raises(UsageError, match="needs the target labels"):
        build(Task.LABELLING, RecurrentConfig(), make_dataset(Task.CLASSIFICATION))
    dataset = make_dataset(Task.CLASSIFICATION)
    images = {
        part: dataclasses.replace(split, x={"image": np.zeros((len(split), 4, 4, 3), np.float32)})
        for part, split in dataset.parts.items()
    }
    with pytest.raises(UsageError, match="image"):
        build(Task.CLASSIFICATION, RecurrentConfig(), dataclasses.replace(dataset, **images))
    dataset = make_dataset(Task.LABELLING)
    short = dataclasses.replace(dataset.train, y={"labels": dataset.train.y["labels"][:, :-1]})
    with pytest.raises(UsageError, match="one answer a step"):
        build(Task.LABELLING, RecurrentConfig(), dataclasses.replace(dataset, train=short))


def test_a_recurrent_network_has_no_embedding() -> None:
    with pytest.raises(UsageError, match="no embedding"):
        build(Task.EMBEDDING, RecurrentConfig(), make_dataset(Task.CLASSIFICATION))
