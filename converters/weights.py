"""Smaller weights for a finished float32 .tflite, by ai-edge-quantizer: 8 or 4 bits, or float16.

What operators give each other stays float32, so no samples are needed; `edge_dl.converters.integers` is for the rest.
"""

from __future__ import annotations

from edge_dl.converters import packing, repairs, tensors
from edge_dl.converters.front import find_front
from edge_dl.converters.lookups import quantize_lookups
from edge_dl.converters.options import QuantizationOptions, scale_rows
from edge_dl.converters.static import leave_float, pattern_of, with_unique_names
from edge_dl.variants import Quantization


def quantize_weights(content: bytes, bits: int, options: QuantizationOptions) -> bytes:
    """Give a float32 .tflite integer weights of `bits` bits; activations stay float32, and so do features of sounds.

    What has no 4-bit kernel (Conv2DTranspose, DepthwiseConv2D, BatchMatMul, tables of embeddings) gets 8 bits.
    """
    from ai_edge_quantizer import qtyping, quantizer

    content = with_unique_names(content)
    tool = quantizer.Quantizer(bytearray(content))
    granularity = qtyping.QuantGranularity
    rows = scale_rows(content, Quantization.INT4 if bits == 4 else Quantization.DYNAMIC, options)
    tool.add_dynamic_config(".*", qtyping.TFLOperationName.ALL_SUPPORTED, 8)
    if bits == 4:
        for operator in (qtyping.TFLOperationName.FULLY_CONNECTED, qtyping.TFLOperationName.CONV_2D):
            tool.add_dynamic_config(".*", operator, 4)
    if not rows:
        tool.add_dynamic_config(".*", qtyping.TFLOperationName.FULLY_CONNECTED, bits, granularity.TENSORWISE)
    for name in options.weight_only:
        tool.add_weight_only_config(".*", qtyping.TFLOperationName(name), 8)
    front = find_front(tensors.read(content))
    if front:
        leave_float(tool, pattern_of(content, front))
    result = bytes(tool.quantize(enable_progress_report=False, enable_progress_bar=False).quantized_model)
    model = tensors.read(result)
    changed = quantize_lookups(model)
    if bits == 8:
        changed += repairs.quantize_fused_lstm(model)
    return packing.pack(model) if changed else result


def halve_weights(content: bytes) -> bytes:
    """Give a float32 .tflite float16 weights, which a DEQUANTIZE makes float32 again before they are used."""
    from ai_edge_quantizer import qtyping, quantizer

    tool = quantizer.Quantizer(bytearray(with_unique_names(content)))
    tool.update_quantization_recipe(
        regex=".*",
        operation_name=qtyping.TFLOperationName.ALL_SUPPORTED,
        op_config=qtyping.OpQuantizationConfig(
            weight_tensor_config=qtyping.TensorQuantizationConfig(
                num_bits=16, dtype=qtyping.TensorDataType.FLOAT, symmetric=True
            ),
            compute_precision=qtyping.ComputePrecision.FLOAT,
            explicit_dequantize=True,
        ),
        algorithm_key=quantizer.AlgorithmName.FLOAT_CASTING,
    )
    return bytes(tool.quantize(enable_progress_report=False, enable_progress_bar=False).quantized_model)
