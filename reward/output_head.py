"""What a causal language model makes of its transformer's states, so that only those that count become logits.

For most architectures that is the output head alone. Some scale its logits (Cohere, Granite) or bound them
(Gemma 2): there the model's own forward pass is run on given states in place of its transformer's. Which of the
two it is shows a trial on states so large that a bound shows as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_outputs import MoeModelOutputWithPast

from data.errors import InputError
from reward.role_adapters import Role

TRIAL_ROWS = 4
TRIAL_SIZE = 100.0  # of the largest logits in the trial; Gemma 2 bounds them at 30

_PLAIN: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()


def logits_of(model: Any, hidden: Float[Tensor, "*rows width"]) -> Float[Tensor, "*rows vocabulary"]:
    """Logits as the model's forward pass makes them of the last states of its transformer.

    Raises:
        InputError: neither the output head nor the model's forward pass on given states makes its logits.
    """
    model = model.trunk.model if isinstance(model, Role) else model
    if is_plain(model):
        logits: Tensor = model.get_output_embeddings()(hidden)
        return logits
    states = hidden.reshape(1, -1, hidden.shape[-1])
    return _forward(model, states).view(*hidden.shape[:-1], -1)


def is_plain(model: Any) -> bool:
    """Whether the output head alone makes the model's logits; tried once for each model."""
    model = model.trunk.model if isinstance(model, Role) else model
    if not isinstance(model, PreTrainedModel):
        return True
    if model not in _PLAIN:
        training = model.training
        model.eval()
        with torch.no_grad(), torch.autocast(model.device.type, enabled=False):
            _PLAIN[model] = _try(model)
        model.train(training)
    return _PLAIN[model]


def width_of(transformer: Any) -> int:
    """The width of a headless transformer's last states, which its config may tell in any of several ways."""
    token = torch.zeros(1, 1, dtype=torch.long, device=getattr(transformer, "device", None))
    with torch.no_grad():
        return int(transformer(input_ids=token, use_cache=False)[0].shape[-1])


def _try(model: Any) -> bool:
    head = model.get_output_embeddings()
    if head is None or model.base_model is model:
        raise InputError(
            f"{type(model).__name__} is not supported: it has no transformer below an output head"
        )
    weight = head.weight
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(1, TRIAL_ROWS, weight.shape[1], generator=generator).to(weight)
    states = states * (TRIAL_SIZE / head(states).abs().max().clamp(min=1e-6))
    try:
        return _alike(_forward(model, states), head(states))
    except (_NotAskedError, TypeError, KeyError):
        pass
    # Its forward pass asks for its transformer in another way: the head must do.
    tokens = torch.arange(TRIAL_ROWS, device=weight.device)[None]
    whole = type(model).forward(model, input_ids=tokens).logits
    if _alike(whole, head(model.base_model(input_ids=tokens, use_cache=False)[0])):
        return True
    raise InputError(
        f"{type(model).__name__} is not supported: its logits are not what its output head makes of its states"
    )


def _alike(found: Tensor, expected: Tensor) -> bool:
    return found.shape == expected.shape and torch.allclose(found, expected, rtol=1e-2, atol=1e-2)


class _NotAskedError(Exception):
    """A model's forward pass did not call its transformer."""


def _forward(model: Any, states: Float[Tensor, "1 rows width"]) -> Float[Tensor, "1 rows vocabulary"]:
    """The logits of a model whose transformer would have answered with these states.

    By the forward pass of its class: that of a model in training may be wrapped, and round.
    """
    with _answering(model.base_model, states) as asked:
        tokens = states.new_zeros(states.shape[:2], dtype=torch.long)
        logits: Tensor = type(model).forward(model, input_ids=tokens).logits
    if not asked:
        raise _NotAskedError
    return logits


class _States(MoeModelOutputWithPast):
    """A transformer's answer that holds its last states and nothing else, whatever it is asked for."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


@contextmanager
def _answering(trunk: Any, states: Tensor) -> Iterator[list[bool]]:
    """Let a transformer answer with given states; what is yielded is not empty once it was asked."""
    asked: list[bool] = []

    def forward(*args: Any, **settings: Any) -> Any:
        asked.append(True)
        return _States(last_hidden_state=states)

    before = vars(trunk).get("forward")
    trunk.forward = forward
    try:
        yield asked
    finally:
        del trunk.forward
        if before is not None:
            trunk.forward = before
