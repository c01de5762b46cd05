"""Packed matrices: the same products as `nn.Linear`, whatever is packed, and nothing left out."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from qwen_audio_cli.families.packed import PackedLinear, can_pack, pack, projection
from qwen_audio_cli.families.whisper import Whisper

needs_packing = pytest.mark.skipif(
    not can_pack(torch.zeros(1, 1)), reason="this processor's products have no packed form"
)


@needs_packing
@given(
    st.integers(1, 40),
    st.integers(1, 70),
    st.integers(1, 70),
    st.booleans(),
    st.sampled_from([torch.float32, torch.bfloat16]),
)
@settings(max_examples=40, deadline=None)
def test_products_are_those_of_plain_matrices(
    rows: int, inward: int, outward: int, bias: bool, dtype: torch.dtype
) -> None:
    torch.manual_seed(rows)
    plain = nn.Linear(inward, outward, bias=bias).to(dtype)
    x = torch.randn(2, rows, inward).to(dtype)
    with torch.inference_mode():
        exact = plain.double()(x.double())
        packed = PackedLinear(plain.to(dtype).weight, plain.bias)(x)
    assert packed.dtype == dtype and packed.shape == exact.shape
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(packed.double(), exact, atol=tolerance, rtol=tolerance)


@needs_packing
def test_a_model_has_no_plain_matrix_left(whisper: Whisper) -> None:
    kinds = {type(module) for module in whisper.model.modules()}
    assert PackedLinear in kinds and nn.Linear not in kinds


def test_what_cannot_be_packed_stays_as_it_is() -> None:
    model = nn.Sequential(nn.Linear(4, 4).double(), nn.LayerNorm(4))
    x = torch.randn(3, 4, dtype=torch.double)
    before = model[0](x)
    pack(model)
    assert type(model[0]) is nn.Linear and torch.equal(model[0](x), before)
    weight = torch.randn(5, 4, dtype=torch.double)
    torch.testing.assert_close(projection(weight)(x), x @ weight.T)
