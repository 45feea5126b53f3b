"""The implicit reward: how much likelier a tuned model finds a completion than the model it started from.

`raw = beta * (log p_tuned(completion | prompt) - log p_start(completion | prompt))`, summed over the tokens: the
reward that DPO maximises the likelihood of pairs under, up to a term of the prompt alone (Rafailov et al. 2023,
arXiv 2305.18290, equation 5).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from reward.likelihood import of_logits
from reward.scoring import Row, of_rows
from reward.stored import NormalisedReward, check_tokenizer, describe, quiet, write_description


class ImplicitReward(NormalisedReward):
    """Scores completions by the log-ratio of two causal language models of one tokenizer."""

    def __init__(self, tuned: Any, start: Any, *, beta: float) -> None:
        """Take the tuned model, the model it started from, and the score of one nat between them."""
        super().__init__()
        self.tuned, self.start, self.beta = tuned, start, beta

    def raw(
        self,
        tokens: Int[Tensor, "batch time"],
        mask: Bool[Tensor, "batch time"],
        completion: Bool[Tensor, "batch time"],
        features: Float[Tensor, "batch time 6"] | None = None,
    ) -> Float[Tensor, " batch"]:
        """Scores before normalisation, in nats of log-odds; `features` are not read."""
        assert bool(mask[:, 0].all()), "rows are padded on the right and have a token"
        return self.beta * log_ratio(self.tuned, self.start, tokens, completion)

    def save(self, folder: Path, tokenizer: Any) -> None:
        """Write both models, the normalisation, and what they belong to, to a folder."""
        with quiet():
            self.tuned.save_pretrained(folder / "backbone")
            self.start.save_pretrained(folder / "reference")
            tokenizer.save_pretrained(folder)
        write_description(
            folder,
            tokenizer,
            features="implicit",
            beta=self.beta,
            offset=self.offset.item(),
            scale=self.scale.item(),
        )

    @classmethod
    def load(cls, folder: Path, *, tokenizer: Any = None) -> ImplicitReward:
        """Read what `save` wrote, in float32; with a `tokenizer` check that the model was trained on it.

        Raises:
            InputError: not an implicit reward's folder, or of another tokenizer.
        """
        from transformers import AutoModelForCausalLM

        described = describe(folder)
        if tokenizer is not None:
            check_tokenizer(folder, tokenizer)
        with quiet():
            tuned, start = (
                AutoModelForCausalLM.from_pretrained(folder / part, use_safetensors=True, dtype=torch.float32)
                for part in ("backbone", "reference")
            )
        model = cls(tuned, start, beta=described["beta"])
        model.offset.fill_(described["offset"])
        model.scale.fill_(described["scale"])
        return model.eval()


def log_ratio(
    tuned: Any, start: Any, tokens: Int[Tensor, "batch time"], completion: Bool[Tensor, "batch time"]
) -> Float[Tensor, " batch"]:
    """Summed log-ratio of right-padded completions under two models, nats."""
    return completion_logprobs(tuned, tokens, completion) - completion_logprobs(start, tokens, completion)


def completion_logprobs(
    model: Any, tokens: Int[Tensor, "batch time"], completion: Bool[Tensor, "batch time"]
) -> Float[Tensor, " batch"]:
    """Summed log-probability of right-padded completions, nats, in float32. The first token has none."""
    wanted = completion[:, 1:]
    taken = of_logits(model, tokens, wanted, _logprobs)
    return torch.zeros(wanted.shape, device=taken.device).masked_scatter(wanted, taken).sum(dim=1)


def _logprobs(
    logits: Float[Tensor, "wanted vocabulary"], tokens: Int[Tensor, " wanted"]
) -> Float[Tensor, " wanted"]:
    return logits.float().log_softmax(dim=-1).gather(-1, tokens[:, None]).squeeze(-1)


def log_ratios(
    tuned: Any, start: Any, rows: Sequence[Row], *, tokens_at_once: int = 8192, bfloat16: bool = False
) -> Float[Tensor, " rows"]:
    """`log_ratio` of rows, in batches of rows of like length; on the CPU."""
    return of_rows(
        rows,
        lambda batch: log_ratio(tuned, start, batch.tokens, batch.completion),
        device=tuned.device,
        tokens_at_once=tokens_at_once,
        bfloat16=bfloat16,
    )
