"""A linear map with its weights laid out once as the products of oneDNN read them.

PyTorch's own `linear` lays them out anew at every call in bfloat16, which takes a third of a product of 64 rows
and a sixth of one of 256; in float32 it takes another library's product, 0.4 times as fast on some processors (an
AMD EPYC). The ops are those that TorchInductor freezes models with.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import linear

DTYPES = (torch.float32, torch.bfloat16)


class PackedLinear:
    """`x @ weight.T + bias` of tensors on the CPU, without gradients."""

    def __init__(
        self, weight: Float[Tensor, "outputs inputs"], bias: Float[Tensor, " outputs"] | None
    ) -> None:
        """Pack the weights; as long as products have more than a few rows, their number hardly matters."""
        self.packed, self.weight, self.bias = _packs(weight), weight.detach(), bias
        if self.packed:
            self.weight = torch.ops.mkldnn._reorder_linear_weight(self.weight)

    def __call__(self, x: Float[Tensor, "*rows inputs"]) -> Float[Tensor, "*rows outputs"]:
        """Products of rows of any number; `x` is of the weights' type."""
        if not self.packed:
            return linear(x, self.weight, self.bias)
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        return product


def _packs(weight: Tensor) -> bool:
    """Whether oneDNN is there, and computes in the weights' type on this processor."""
    if weight.device.type != "cpu" or weight.dtype not in DTYPES or not torch.backends.mkldnn.is_available():
        return False
    return weight.dtype == torch.float32 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
