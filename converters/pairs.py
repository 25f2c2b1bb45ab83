"""Which pairs of lowering and quantization can be made at all, whatever the model."""

from __future__ import annotations

from edge_dl.errors import RefusedError
from edge_dl.variants import FULL_INTEGER, Lowering, Quantization


def check_allowed(lowering: Lowering, quantization: Quantization) -> None:
    """Raises RefusedError for a pair that no tool can make, with the reason and what would work instead."""
    if lowering is Lowering.STREAM and quantization is Quantization.QAT:
        raise RefusedError(
            "qat of a stream cannot be made: the quantizers were trained on whole clips.", todo="Use stream-int8."
        )
    if lowering is not Lowering.NONE and quantization is Quantization.QAT:
        # A step takes what an encoder gives: it is no lowering of such a model.
        integers = "decode-unroll-int8" if lowering.decodes else "step-int8"
        raise RefusedError(
            "qat of a recurrent layer cannot be made: tensorflow-model-optimization cannot train one for quantization.",
            todo=f"Use {lowering.value}-dynamic, or {integers}.",
        )
    if lowering.decodes and quantization is Quantization.MIXED:
        raise RefusedError(
            "mixed of an encoder and a decoder cannot be made: its search looks at one signature.",
            todo="Use decode-unroll-int8, decode-unroll-int16x8 or decode-dynamic.",
        )
    if lowering is Lowering.DECODE and quantization in FULL_INTEGER:
        raise RefusedError(
            f"{quantization.value} of an encoder's loops cannot be made: ai-edge-quantizer cannot calibrate them.",
            todo=f"Use decode-unroll-{quantization.value}; decode-dynamic has int8 weights.",
        )
    if lowering is Lowering.WHILE and quantization in FULL_INTEGER:
        raise RefusedError(
            f"{quantization.value} of a while loop cannot be made: TensorFlow's converter crashes on it (SIGSEGV).",
            todo=f"Use step-{quantization.value} or unroll-{quantization.value}; while-dynamic has int8 weights.",
        )
    if lowering in (Lowering.WHILE, Lowering.FUSED) and quantization is Quantization.MIXED:
        raise RefusedError(
            f"{quantization.value} of the {lowering.value} lowering cannot be made: ai-edge-quantizer has no "
            "calibration for loops and no integer kernel for the fused LSTM operator.",
            todo=f"Use step-{quantization.value} or unroll-{quantization.value}.",
        )
    if lowering is Lowering.FUSED and quantization is Quantization.INT16X8:
        raise RefusedError(
            "int16x8 of the fused LSTM operator cannot be made: the operator has no int16 kernel.",
            todo="Use step-int16x8 or unroll-int16x8; fused-int8 and fused-dynamic work.",
        )
    if lowering is Lowering.FUSED and quantization is Quantization.INT4:
        raise RefusedError(
            "int4 of the fused LSTM operator cannot be made: the operator has no int4 kernel.",
            todo="Use while-int4, unroll-int4 or step-int4; fused-dynamic works.",
        )
