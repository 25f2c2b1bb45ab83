"""Overrides become another recipe; what does not fit is refused by its key."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_dl.bundle import Limits
from edge_dl.errors import UsageError
from edge_dl.recipe import DataConfig, Recipe, Task, apply_overrides, flatten, from_json, to_json
from edge_dl.variants import Quantization

RECIPE = Recipe("lstm", "A test.", Task.CLASSIFICATION, DataConfig("digits"))


@pytest.mark.parametrize(
    ("key", "value", "path", "want"),
    [
        ("training.epochs", "3", "training.epochs", 3),
        ("training.epochs", 3.0, "training.epochs", 3),
        ("training.learning_rate", "1e-2", "training.learning_rate", 0.01),
        ("training.learning_rate", 1, "training.learning_rate", 1.0),
        ("training.mixed_precision", "yes", "training.mixed_precision", True),
        ("training.mixed_precision", "0", "training.mixed_precision", False),
        ("model.units", "64,32", "model.units", (64, 32)),
        ("model.units", "[64, 32]", "model.units", (64, 32)),
        ("model.units", [8], "model.units", (8,)),
        ("model.units", 8, "model.units", (8,)),
        ("task", "regression", "task", Task.REGRESSION),
        ("conversion.quantizations", "int8,int4", "conversion.quantizations", (Quantization.INT8, Quantization.INT4)),
        ("data.columns", "a, b", "data.columns", ("a", "b")),
        ("data.source", 7, "data.source", "7"),
    ],
)  # fmt: skip
def test_overrides_take_the_type_of_their_field(key: str, value: Any, path: str, want: Any) -> None:
    changed: Any = apply_overrides(RECIPE, {key: value})
    for name in path.split("."):
        changed = getattr(changed, name)
    assert changed == want
    assert type(changed) is type(want)
    assert RECIPE.training.epochs == 20


def test_limits_by_quantization() -> None:
    recipe = apply_overrides(
        RECIPE,
        {"checks.limits.int8.min_top1": "0.9", "checks.limits.int8.max_abs": 2, "checks.limits.int16x8.max_drop": 0},
    )
    assert recipe.checks.limits == {"int8": Limits(max_abs=2.0, min_top1=0.9), "int16x8": Limits(max_drop=0.0)}
    assert apply_overrides(recipe, {"checks.limits.int8.max_abs": "none"}).checks.limits["int8"].max_abs is None


@pytest.mark.parametrize(
    ("key", "value", "word"),
    [
        ("epochs", 3, "Known keys"),
        ("training.epoch", 3, "epochs"),
        ("training.epochs.more", 3, "single setting"),
        ("training", 3, "training.epochs"),
        ("", 3, "no such key"),
        ("training.", 3, "no such key"),
        ("training.epochs", "three", "whole number"),
        ("training.epochs", "3.5", "whole number"),
        ("training.epochs", 3.5, "whole number"),
        ("training.epochs", True, "number"),
        ("training.epochs", None, "whole number"),
        ("training.epochs", [3], "whole number"),
        ("training.learning_rate", "fast", "a number"),
        ("training.learning_rate", "nan", "a number"),
        ("training.learning_rate", float("inf"), "a number"),
        ("training.mixed_precision", "perhaps", "true or false"),
        ("model.units", "64,x", "whole number"),
        ("model.units", {"a": 1}, "a list"),
        ("task", "cooking", "classification"),
        ("conversion.quantizations", "int9", "int16x8"),
        ("data.source", None, "text"),
        ("checks.limits", "tight", "a mapping"),
        ("checks.limits.int8", 1, "single setting"),
        ("checks.limits.int9.max_abs", 1, "int9"),
        ("checks.limits.int8.max_error", 1, "max_abs"),
    ],
)
def test_bad_overrides(key: str, value: Any, word: str) -> None:
    with pytest.raises(UsageError) as caught:
        apply_overrides(RECIPE, {key: value})
    assert word in str(caught.value)
    assert caught.value.exit_code == 2


def test_recipes_come_back_from_json() -> None:
    recipe = apply_overrides(
        RECIPE, {"model.units": "3,4", "checks.limits.int8.min_top1": 0.5, "conversion.quantizations": "int4"}
    )
    value = json.loads(json.dumps(to_json(recipe)))
    assert from_json(Recipe, value) == recipe


@pytest.mark.parametrize(
    ("value", "word"),
    [
        ({"name": "x"}, "task"),
        ({**to_json(RECIPE), "colour": "red"}, "colour"),
        ({**to_json(RECIPE), "training": {"epochs": "many"}}, "epochs"),
        ({**to_json(RECIPE), "training": 3}, "training"),
        ({**to_json(RECIPE), "checks": {"limits": {"int9": {}}}}, "int9"),
    ],
)
def test_json_that_is_no_recipe(value: dict, word: str) -> None:
    with pytest.raises(UsageError) as caught:
        from_json(Recipe, value)
    assert word in str(caught.value)


KEYS = st.sampled_from([
    "name", "task", "training.epochs", "training.learning_rate", "model.units", "checks.limits.int8.max_abs",
    "checks.limits", "data.columns", "conversion.quantizations", "training.mixed_precision", "model", "x.y.z",
])  # fmt: skip
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@given(KEYS, VALUES)
def test_any_override_is_taken_or_refused(key: str, value: Any) -> None:
    try:
        recipe = apply_overrides(RECIPE, {key: value})
    except UsageError:
        return
    again = from_json(Recipe, json.loads(json.dumps(to_json(recipe), allow_nan=False)))
    assert again == recipe


def test_yaml_mappings_are_flattened() -> None:
    nested = {"training": {"epochs": 3}, "checks": {"limits": {"int8": {"max_abs": 1}}}, "name": "x", "data": {}}
    assert flatten(nested) == {"training.epochs": 3, "checks.limits.int8.max_abs": 1, "name": "x"}
