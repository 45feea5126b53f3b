"""Models that partly hold the same weights, such as a frozen trunk under several adapters, hold them once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

ADAPTED = ".base_layer"  # what adapters add to the name of a weight that they leave alone


def share_equal(model: nn.Module, others: Iterable[nn.Module]) -> int:
    """Let a model use the parameters of others where they are equal bit by bit; returns the bytes it saves.

    For models that are only read: whoever changes a shared weight changes it for all.
    """
    known = [_by_name(other) for other in others]
    saved = 0
    for name, (module, own) in _places(model).items():
        parameter = module._parameters[own]
        assert parameter is not None
        for parameters in known:
            other = parameters.get(name)
            if other is not None and other is not parameter and _equal(parameter, other):
                module._parameters[own] = other
                saved += parameter.numel() * parameter.element_size()
                break
    return saved


def _places(model: nn.Module) -> dict[str, tuple[nn.Module, str]]:
    """Where each parameter stands, by its name without what adapters add."""
    return {
        f"{path}.{own}".replace(ADAPTED, ""): (module, own)
        for path, module in model.named_modules()
        for own, parameter in module._parameters.items()
        if parameter is not None
    }


def _by_name(model: nn.Module) -> dict[str, Any]:
    return {name: module._parameters[own] for name, (module, own) in _places(model).items()}


def _equal(first: torch.Tensor, second: torch.Tensor) -> bool:
    alike = first.shape == second.shape and first.dtype == second.dtype and first.device == second.device
    return alike and torch.equal(first, second)
