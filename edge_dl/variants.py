"""What a variant is: a lowering and a quantization of one model, and its name."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Lowering(str, Enum):
    """How layers that look over time become TFLite operators.

    `none` is for models without a recurrent layer: nothing to lower. `step` is one time step a call, `stream` one
    packet of samples or frames, each with what is remembered as states in and out. `decode` is an encoder and one step
    of its decoder as two signatures of one file, the encoder's recurrent layers as loops; `decode-unroll` writes those
    out.
    """

    NONE = "none"
    WHILE = "while"
    UNROLL = "unroll"
    FUSED = "fused"
    STEP = "step"
    STREAM = "stream"
    DECODE = "decode"
    DECODE_UNROLL = "decode-unroll"

    @property
    def decodes(self) -> bool:
        """Whether the model becomes an encoder and a step of its decoder."""
        return self in (Lowering.DECODE, Lowering.DECODE_UNROLL)


class Quantization(str, Enum):
    """How numbers are stored and computed.

    `dynamic`: int8 weights, float activations. `int8`: full integer. `int16x8`: int16 activations, int8 weights.
    `int4`: 4-bit weights, float activations. `mixed`: int8, int16x8 or float, each operator as an accuracy budget needs
    it. `qat`: int8 as quantization-aware training left it.
    """

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    DYNAMIC = "dynamic"
    INT8 = "int8"
    INT16X8 = "int16x8"
    INT4 = "int4"
    MIXED = "mixed"
    QAT = "qat"


FULL_INTEGER = (Quantization.INT8, Quantization.INT16X8)
# Their ranges are chosen by looking at samples.
CALIBRATED = (*FULL_INTEGER, Quantization.MIXED)


@dataclass(frozen=True)
class VariantSpec:
    """One .tflite to make.

    Attributes:
        lowering: how recurrent layers are written.
        quantization: how numbers are stored.
        integer_io: whether `int8`, `int16x8` and `qat` take and give integers at the model's edge instead of float32.
    """

    lowering: Lowering
    quantization: Quantization
    integer_io: bool = False

    @property
    def name(self) -> str:
        """Name used for folders and tables: `while-dynamic`, `int8` (nothing to lower), `decode-unroll-int8-io`."""
        parts = [] if self.lowering is Lowering.NONE else [self.lowering.value]
        parts.append(self.quantization.value)
        if self.integer_io:
            parts.append("io")
        return "-".join(parts)

    @classmethod
    def parse(cls, name: str) -> VariantSpec:
        """Inverse of `name`.

        Raises:
            ValueError: `name` is not one that `name` could give.
        """
        parts = name.split("-")
        integer_io = parts[-1] == "io"
        if integer_io:
            parts = parts[:-1]
        if len(parts) == 1:
            return cls(Lowering.NONE, Quantization(parts[0]), integer_io)
        *words, quantization = parts
        lowering = "-".join(words)
        if lowering == Lowering.NONE.value:
            raise ValueError(f"{name!r} names what is not lowered; write {quantization!r}")
        return cls(Lowering(lowering), Quantization(quantization), integer_io)
