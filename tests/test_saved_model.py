"""SavedModel folders of recurrent models, with a free batch: converted as they are, with builtin operators only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from lowered_runs import TOLERANCE, random_floats, scramble, tflite_answers

from edge_dl.converters.exporting import read_export
from edge_dl.converters.sources import open_source
from edge_dl.errors import RefusedError, UsageError
from edge_dl.variants import Lowering


def save(folder: Path, function: Any, tracked: Any, **shapes: tuple[Any, str]) -> Path:
    """A SavedModel whose signature takes arguments of these shapes and types."""
    specs = [tf.TensorSpec(shape, dtype, name=name) for name, (shape, dtype) in shapes.items()]
    module = tf.Module()
    module.tracked = tracked
    serve = tf.function(function, input_signature=specs)
    tf.saved_model.save(module, str(folder), signatures={"serving_default": serve})
    return folder


@pytest.mark.parametrize("batch", [1, 2])
def test_masked_recurrent_model_with_two_inputs(batch: int, tmp_path: Path) -> None:
    sequence, tokens = keras.Input((None, 3)), keras.Input((4,), dtype="int32")
    every = layers.Bidirectional(layers.LSTM(3, return_sequences=True))(layers.Masking()(sequence))
    last = layers.GRU(4)(layers.Embedding(9, 4, mask_zero=True)(tokens))
    model = scramble(keras.Model([sequence, tokens], [every, last]))

    # The names are sorted otherwise than the arguments stand.
    def serve(sequence: Any, of_tokens: Any) -> dict[str, Any]:
        every, last = model([sequence, of_tokens])
        return {"z": every, "a": last}

    folder = save(tmp_path / "sm", serve, model, sequence=((None, None, 3), "float32"), of_tokens=((None, 4), "int32"))
    source = open_source(str(folder))
    facts = source.describe({}, {"sequence": (6, 3), "of_tokens": (4,)})
    assert facts["allowed"] == ["none"]
    source.export(tmp_path / "export", Lowering.NONE, batch=batch, input_shapes=facts["shapes"])
    values = {
        "sequence": random_floats(batch, 6, 3),
        "of_tokens": np.array([[3, 0, 8, 0], [1, 2, 0, 0]], np.int32)[:batch],
    }
    values["sequence"][:, [2, 5]] = 0.0
    answers = tflite_answers(read_export(tmp_path / "export"), values)
    expected = model([values["sequence"], values["of_tokens"]])
    np.testing.assert_allclose(answers["z"], expected[0], rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(answers["a"], expected[1], rtol=0, atol=TOLERANCE)
    for name, value in source.predict(values).items():
        np.testing.assert_allclose(value, answers[name], rtol=0, atol=TOLERANCE)


def test_what_a_saved_model_cannot_be_is_named(tmp_path: Path) -> None:
    folder = save(tmp_path / "sm", lambda x: {"y": x * 2.0}, None, x=(None, "float32"))
    with pytest.raises(UsageError, match=r"'x'.*unknown"):
        open_source(str(folder)).describe({}, {})
    folder = save(tmp_path / "fixed", lambda x: {"y": x * 2.0}, None, x=((None, 3), "float32"))
    with pytest.raises(RefusedError, match=r"SavedModel holds no Keras layers"):
        open_source(str(folder)).export(tmp_path / "export", Lowering.WHILE, batch=1, input_shapes=None)
