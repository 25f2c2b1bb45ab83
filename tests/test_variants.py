"""A variant's name and the variant are the same thing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_dl.variants import Lowering, Quantization, VariantSpec


@given(st.sampled_from(Lowering), st.sampled_from(Quantization), st.booleans())
def test_names_are_parsed_back(lowering: Lowering, quantization: Quantization, integer_io: bool) -> None:
    spec = VariantSpec(lowering, quantization, integer_io)
    assert VariantSpec.parse(spec.name) == spec


def test_names() -> None:
    assert VariantSpec(Lowering.WHILE, Quantization.DYNAMIC).name == "while-dynamic"
    assert VariantSpec(Lowering.NONE, Quantization.INT8).name == "int8"
    assert VariantSpec(Lowering.STEP, Quantization.INT8, integer_io=True).name == "step-int8-io"


def test_all_names_differ() -> None:
    names = [VariantSpec(low, kind, io).name for low in Lowering for kind in Quantization for io in (False, True)]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    "name",
    ["", "io", "-", "while", "int9", "while-", "-int8", "none-int8", "int8-while", "while-int8-io-io", "a-b-c-d"],
)
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        VariantSpec.parse(name)
