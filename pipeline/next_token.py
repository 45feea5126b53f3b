"""The loss of a causal language model on rows of packed text: pretraining's, and what PPO mixes in."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pipeline.fused import linear_cross_entropy
from pipeline.lean import make_lean
from pipeline.packed_attention import Documents, keeps_apart, within


class NextToken(nn.Module):
    """The mean loss of a causal model's next-token predictions, in nats.

    Attention is causal, and within each document of a packed row where the tokenizer marks beginnings and the
    architecture allows it (`apart`). Logits are never held at once where the model is a trunk with a plain
    linear head. Both, like the lean norms, are checked on a trial input.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        make_lean(model)
        self.apart = model.config.bos_token_id is not None and keeps_apart(model)
        self.lean = False
        head = model.get_output_embeddings()
        if isinstance(head, nn.Linear) and head.bias is None:
            trial = torch.arange(18, device=model.device).view(2, 9) % model.config.vocab_size
            with torch.no_grad():
                plain = self(trial)
                self.lean = True
                self.lean = bool(torch.allclose(self(trial), plain, rtol=1e-4))

    def forward(self, tokens: Int[Tensor, "rows length"]) -> Float[Tensor, ""]:
        """Predict every token of each row but the first from those before it in its document."""
        inputs, targets = tokens[:, :-1], tokens[:, 1:].flatten()
        settings: dict[str, Any] = {"input_ids": inputs, "use_cache": False}
        attention: AbstractContextManager[None] = nullcontext()
        if self.apart:
            documents = Documents.of(inputs == self.model.config.bos_token_id)
            settings["position_ids"] = documents.positions
            attention = within(documents, self.model)
        with attention:
            if self.lean:
                hidden = self.model.base_model(**settings).last_hidden_state
                return linear_cross_entropy(
                    hidden.flatten(0, 1), self.model.get_output_embeddings().weight, targets
                )
            logits = self.model(**settings).logits
        return cross_entropy(logits.flatten(0, 1).float(), targets)
