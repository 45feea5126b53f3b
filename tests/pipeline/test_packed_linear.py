"""Linear maps whose weights are packed, against PyTorch's."""

import pytest
import torch
from torch.nn.functional import linear

from pipeline.packed_linear import PackedLinear


@pytest.mark.parametrize("packs", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 1, 24), (3, 2, 24), (70, 1, 24)], ids=str)
def test_products_are_those_of_a_linear_layer(packs, dtype, has_bias, shape, monkeypatch):
    if not packs:
        monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(s, generator=generator).to(dtype) for s in (shape, (13, 24), (13,)))
    with torch.inference_mode():
        found = PackedLinear(weight, bias if has_bias else None)(x)
    assert found.dtype == dtype
    exact = linear(x.double(), weight.double(), bias.double() if has_bias else None)
    # Sums of 24 terms of order 1: float32 keeps 2^-24 of each, and bfloat16 rounds the result by 2^-9.
    bound = 1e-5 if dtype == torch.float32 else 2**-8
    torch.testing.assert_close(found.double(), exact, atol=bound, rtol=bound)
