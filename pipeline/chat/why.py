"""Why a model said what it said: each token of an answer with its probability and what else was likely."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from data.errors import InputError
from pipeline.chat.session import Answer
from pipeline.chat.voices import Voice

if TYPE_CHECKING:
    from torch import Tensor

END = "(end)"


class Alternative(NamedTuple):
    """A token that could have stood there, with its log-probability in nats."""

    text: str
    logprob: float


class TokenView(NamedTuple):
    """One token of an answer under the model itself at temperature 1.

    `logprob` is in nats, `rank` 1 for the most likely token, `kl` the exact KL divergence of the model from a
    reference model over this position's distribution, in nats (None without reference).
    """

    token: int
    text: str
    logprob: float
    rank: int
    alternatives: tuple[Alternative, ...]
    kl: float | None


def explain(
    voice: Voice, answer: Answer, *, reference: Voice | None = None, num_alternatives: int = 3
) -> list[TokenView]:
    """View the tokens of an answer; the reference model reads the same tokens.

    Raises:
        InputError: the reference has another vocabulary or a smaller context.
    """
    if not answer.tokens:
        return []
    prompt = voice.encode(answer.prompt)
    ids = [*prompt, *answer.tokens]
    positions = slice(len(prompt) - 1, len(ids) - 1)  # logits at t tell of the token at t + 1
    logits = voice.logits(ids)[positions]
    reference_logits = None
    if reference is not None:
        if reference.context < len(ids):
            raise InputError(
                f"the context of {reference.name} is {reference.context} tokens, and prompt and answer have "
                f"{len(ids)}; name another reference"
            )
        reference_logits = reference.logits(ids)[positions]
        if reference_logits.shape != logits.shape:
            raise InputError(
                f"{reference.name} has {reference_logits.shape[-1]} tokens, {voice.name} {logits.shape[-1]}; "
                "a reference needs the same tokenizer"
            )

    def text_of(token: int) -> str:
        return END if token in voice.end_ids else voice.decode([token])

    return token_views(
        logits, answer.tokens, text_of, reference_logits=reference_logits, num_alternatives=num_alternatives
    )


def token_views(
    logits: Tensor,
    tokens: Sequence[int],
    text_of: Callable[[int], str],
    *,
    reference_logits: Tensor | None = None,
    num_alternatives: int = 3,
) -> list[TokenView]:
    """View tokens under the logits (time, vocabulary) that they were chosen from."""
    import torch

    logprobs = torch.log_softmax(logits.float(), dim=-1)
    taken = logprobs.gather(1, torch.tensor(list(tokens))[:, None])
    ranks = (logprobs > taken).sum(dim=1) + 1
    best = logprobs.topk(min(num_alternatives, logprobs.shape[1]), dim=1)
    divergences: list[float | None] = [None] * len(tokens)
    if reference_logits is not None:
        others = torch.log_softmax(reference_logits.float(), dim=-1)
        divergences = list((logprobs.exp() * (logprobs - others)).sum(dim=1).tolist())
    return [
        TokenView(
            token=token,
            text=text_of(token),
            logprob=float(taken[place, 0]),
            rank=int(ranks[place]),
            alternatives=tuple(
                Alternative(text_of(other), logprob)
                for other, logprob in zip(
                    best.indices[place].tolist(), best.values[place].tolist(), strict=True
                )
            ),
            kl=divergences[place],
        )
        for place, token in enumerate(tokens)
    ]
