"""Windowed self-attention: what its definition says, step by step as over the whole, on every backend."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
from backend_program import run_on
from keras import ops

from edge_dl.errors import UsageError
from edge_dl.models import WindowedSelfAttention

HEADS, WINDOW, UNITS = 2, 5, 8


def layer(seed: int = 0) -> WindowedSelfAttention:
    """One whose biases are not at their start, all zero."""
    keras.utils.set_random_seed(seed)
    made = WindowedSelfAttention(HEADS, WINDOW)
    made.build((None, 12, UNITS))
    rng = np.random.default_rng(seed)
    for variable in made.weights:
        variable.assign(rng.normal(0, 0.7, variable.shape).astype(np.float32))
    return made


def by_definition(made: WindowedSelfAttention, x: np.ndarray) -> np.ndarray:
    """Every step, head and distance by itself, in float64."""

    def dense(name: str, values: np.ndarray) -> np.ndarray:
        kernel, bias = (ops.convert_to_numpy(item).astype(np.float64) for item in getattr(made, name).weights)
        return values @ kernel + bias

    query, key, value = (dense(name, x.astype(np.float64)) for name in ("query", "key", "value"))
    bias, size = ops.convert_to_numpy(made.distance_bias), UNITS // HEADS
    found = np.zeros_like(query)
    for row in range(len(x)):
        for step in range(x.shape[1]):
            seen = range(max(0, step - WINDOW + 1), step + 1)
            for head in range(HEADS):
                part = slice(head * size, (head + 1) * size)
                scores = [
                    query[row, step, part] @ key[row, at, part] / size**0.5 + bias[head, step - at] for at in seen
                ]
                weights = np.exp(scores) / np.exp(scores).sum()
                found[row, step, part] = sum(w * value[row, at, part] for w, at in zip(weights, seen, strict=True))
    return dense("output_projection", found)


def test_a_step_attends_to_those_before_it_in_the_window() -> None:
    made = layer()
    x = np.random.default_rng(1).normal(0, 1, (2, 12, UNITS)).astype(np.float32)
    np.testing.assert_allclose(np.asarray(made(x)), by_definition(made, x), atol=1e-5)


def test_neither_what_follows_nor_what_is_long_past_matters() -> None:
    made = layer()
    x = np.random.default_rng(1).normal(0, 1, (1, 12, UNITS)).astype(np.float32)
    changed = x.copy()
    changed[:, :2] += 10
    changed[:, 8:] -= 10
    difference = np.abs(np.asarray(made(x)) - np.asarray(made(changed))).max(axis=(0, 2))
    assert (difference[[6, 7]] < 1e-6).all()  # They see 2 to 6 and 3 to 7.
    assert (np.delete(difference, [6, 7]) > 0.01).all()


@pytest.mark.parametrize("sizes", [[1] * 12, [2] * 6, [3, 1, 7, 1]], ids=["one by one", "two", "more than the window"])
def test_a_stream_gives_what_the_whole_gives(sizes: list[int]) -> None:
    made = layer()
    x = np.random.default_rng(2).normal(0, 1, (2, 12, UNITS)).astype(np.float32)
    state = {name: np.zeros(shape, np.float32) for name, shape in made.state_shape(x.shape).items()}
    answers, start = [], 0
    for size in sizes:
        answer, after = made.advance(x[:, start : start + size], state)
        assert {name: np.shape(value) for name, value in after.items()} == made.state_shape(x.shape)
        state = {name: np.asarray(value) for name, value in after.items()}
        answers.append(np.asarray(answer))
        start += size
    np.testing.assert_allclose(np.concatenate(answers, axis=1), np.asarray(made(x)), atol=1e-5)


def test_every_weight_is_trained_and_saved(tmp_path: Path) -> None:
    inputs = keras.Input((12, UNITS))
    model = keras.Model(inputs, WindowedSelfAttention(HEADS, WINDOW, name="attention")(inputs))
    x = np.random.default_rng(3).normal(0, 1, (16, 12, UNITS)).astype(np.float32)
    before = [ops.convert_to_numpy(item) for item in model.weights]
    # A key's bias adds the same to every score of a query, and so changes nothing: its gradient is rounding.
    trained = [item.path.split("/")[-2:] != ["key", "bias"] for item in model.weights]
    model.compile(keras.optimizers.SGD(0.1), "mse")
    model.fit(x, np.cumsum(x, axis=1), verbose=0)
    moved = [
        np.abs(ops.convert_to_numpy(item) - old).max() > 1e-6 for item, old in zip(model.weights, before, strict=True)
    ]
    assert len(moved) == 9
    assert all(one for one, counted in zip(moved, trained, strict=True) if counted)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(ops.convert_to_numpy(again(x)), ops.convert_to_numpy(model(x)))


def test_half_precision_masks_too() -> None:
    made = WindowedSelfAttention(HEADS, WINDOW, dtype="mixed_float16")
    x = np.random.default_rng(4).normal(0, 1, (1, 12, UNITS)).astype(np.float16)
    answer = np.asarray(made(x))
    assert answer.dtype == np.float16
    np.testing.assert_allclose(answer, by_definition(made, x), atol=0.02)


@pytest.mark.parametrize(("heads", "window"), [(0, 5), (2, 1)])
def test_settings_are_checked(heads: int, window: int) -> None:
    with pytest.raises(UsageError, match="at least 1 head and looks at 2 steps"):
        WindowedSelfAttention(heads, window)


def test_heads_divide_the_units() -> None:
    with pytest.raises(UsageError, match="must divide the units"):
        WindowedSelfAttention(3, 5).build((None, 12, UNITS))


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_other_backends_compute_and_train_the_same(backend: str) -> None:
    pytest.importorskip(backend)
    program = (
        "import numpy as np, keras, pathlib, tempfile, test_models_windowed_attention as t\n"
        "made, x = t.layer(), np.random.default_rng(1).normal(0, 1, (2, 12, t.UNITS)).astype('float32')\n"
        "found = keras.ops.convert_to_numpy(made(x))\n"
        "np.testing.assert_allclose(found, t.by_definition(made, x), atol=1e-5)\n"
        "t.test_every_weight_is_trained_and_saved(pathlib.Path(tempfile.mkdtemp()))\n"
    )
    run_on(backend, program)
