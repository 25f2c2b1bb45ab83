"""TensorFlow's converter, TFLiteConverter, behind one function, with its errors made readable."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from edge_dl.converters.exporting import Export
from edge_dl.errors import StageError


def convert_saved_model(
    export: Export,
    configure: Callable[[Any], None],
    *,
    allow_flex: bool,
    per_channel_dense: bool = True,
    per_channel: bool = True,
) -> bytes:
    """Run TFLiteConverter on an export's SavedModel.

    Args:
        export: an export of one signature.
        configure: sets what is to be made on the `TFLiteConverter`.
        allow_flex: let TensorFlow's own operators through that are no TFLite builtins.
        per_channel_dense: one scale a row for dense weights, or one a matrix.
        per_channel: one scale a channel for the weights of convolutions, or one a tensor.

    Returns:
        The .tflite.

    Raises:
        StageError: it failed; of an operator that is no builtin, the message names it and where it comes from.
    """
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_saved_model(str(export.saved_model), signature_keys=[export.signature.key])
    converter.exclude_conversion_metadata = True
    converter._experimental_disable_per_channel_quantization_for_dense_layers = not per_channel_dense
    converter._experimental_disable_per_channel = not per_channel
    configure(converter)
    if allow_flex:
        operators = set(converter.target_spec.supported_ops) or {tf.lite.OpsSet.TFLITE_BUILTINS}
        converter.target_spec.supported_ops = [*operators, tf.lite.OpsSet.SELECT_TF_OPS]
    try:
        return bytes(converter.convert())
    except Exception as error:  # ConverterError, RuntimeError, ValueError: the converter uses all of them.
        raise _conversion_error(error) from error


def _conversion_error(error: Exception) -> StageError:
    text = str(error)
    names = {*re.findall(r"'tf\.(\w+)' op is neither a custom op nor a flex op", text)}
    for listed in re.findall(r"^(?:Custom|TF Select|Flex) ops: (.+)$", text, re.MULTILINE):
        names |= {name.strip() for name in listed.split(",")}
    if names:
        places = re.findall(r"\"([^\"]+)@[^\"]*\"|\"([^\"]+/[^\"]+)\"", text)
        paths = sorted({(first or second) for first, second in places})
        return not_builtin(sorted(names), paths[:3])
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    important = [line for line in lines if "error" in line.lower()] or lines or [type(error).__name__]
    return StageError("TensorFlow's converter failed.", stage="convert", received=important[0][:500])


def not_builtin(names: list[str], places: list[str] | None = None) -> StageError:
    """The error of a file with operators that are no TFLite builtins.

    Args:
        names: the operators.
        places: where they come from in the model, as far as the converter says.
    """
    where = f" (from {', '.join(places)})" if places else ""
    return StageError(
        "A variant may use TFLite's builtin operators only, because no runtime on a device has the others.",
        stage="convert",
        received=f"{', '.join(names)}{where}",
        todo="Write the layer with other keras.ops, or choose another lowering.",
    )
