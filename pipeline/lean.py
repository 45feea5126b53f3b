"""Makes a transformers model compute with less memory traffic while it is trained, without changing its results.

Beyond the order of sums, that is, and under autocast the rounding of rotary positions.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from pipeline import short_attention
from pipeline.fused import autocast_dtype, fuse_norms


def make_lean(*models: Any) -> None:
    """Let models norm by `rms_norm` and, on a CPU, attend by `short_attention`; what is no module is passed over.

    Under autocast rotary positions are in its type too. Models that norm or attend in another way than these
    replace are left as they are.
    """
    for model in models:
        if not isinstance(model, nn.Module):
            continue
        fuse_norms(model)
        for part in model.modules():
            if isinstance(part, PreTrainedModel) and _asks_for_attention(part):
                part.set_attn_implementation(short_attention.NAME)
            is_rotary = type(part).__name__.endswith("RotaryEmbedding")
            if is_rotary and _in_autocast_type not in part._forward_hooks.values():
                part.register_forward_hook(_in_autocast_type)


def _in_autocast_type(module: nn.Module, inputs: Any, output: Any) -> Any:
    """Round the cosines and sines of rotary positions under autocast, as a model in bfloat16 does.

    In float32 they would turn queries and keys into float32, and attention turns those back.
    """
    if not isinstance(output, tuple) or any(x.dtype != torch.float32 for x in output):
        return output  # some architectures rotate by complex numbers
    dtype = autocast_dtype(output[0])
    return output if dtype is None else tuple(x.to(dtype) for x in output)


def _asks_for_attention(model: PreTrainedModel) -> bool:
    """Whether a model on a CPU takes its attention from transformers, and this one would replace `sdpa`."""
    plain = model.config._attn_implementation == "sdpa"
    return plain and model.device.type == "cpu" and model._supports_attention_backend
