"""From prompts and completions to token rows and their scores, in batches of rows of like length."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from data.chat import encode_prompts, encode_texts, end_of_turn
from data.collate import pad_right
from data.rows import Message
from reward.likelihood import likelihood
from reward.stored import NormalisedReward


class Row(NamedTuple):
    """A prompt with its completion: tokens, and where the completion starts."""

    tokens: list[int]
    start: int


class Padded(NamedTuple):
    """Rows as a reward model takes them, padded on the right."""

    tokens: Int[Tensor, "batch time"]
    mask: Bool[Tensor, "batch time"]
    completion: Bool[Tensor, "batch time"]


def encode(
    tokenizer: Any,
    prompts: Sequence[Sequence[Message]],
    completions: Sequence[str],
    ended: Sequence[bool] | None = None,
) -> list[Row]:
    """Encode prompts with completions; the end of the turn follows one that ended (all, by default)."""
    end = end_of_turn(tokenizer)
    rows = zip(
        encode_prompts(tokenizer, prompts),
        encode_texts(tokenizer, completions),
        ended or [True] * len(completions),
        strict=True,
    )
    return [
        Row([*prompt, *said, *(end if has_ended else [])], len(prompt)) for prompt, said, has_ended in rows
    ]


def pad(rows: Sequence[Row]) -> Padded:
    """Pad rows on the right and mark their completions; an empty completion counts its last prompt token."""
    tokens, mask = pad_right([row.tokens for row in rows], 0)
    starts = torch.tensor([min(row.start, len(row.tokens) - 1) for row in rows])
    completion = mask & (torch.arange(tokens.shape[1])[None] >= starts[:, None])
    return Padded(tokens, mask, completion)


def score_rows(
    model: NormalisedReward,
    rows: Sequence[Row],
    *,
    tokens_at_once: int = 8192,
    bfloat16: bool = False,
    raw: bool = False,
) -> Float[Tensor, " rows"]:
    """Score rows, normalised or raw; the result is on the CPU."""
    score = model.raw if raw else model.forward
    model.eval()
    return of_rows(
        rows,
        lambda batch: score(*batch),
        device=model.offset.device,
        tokens_at_once=tokens_at_once,
        bfloat16=bfloat16,
    )


def of_rows(
    rows: Sequence[Row],
    function: Callable[[Padded], Tensor],
    *,
    device: torch.device,
    shape: tuple[int, ...] = (),
    tokens_at_once: int = 8192,
    bfloat16: bool = False,
) -> Float[Tensor, " rows *shape"]:
    """One number for each row, or an array of a shape, by a function of batches on `device`; it is on the CPU."""
    found = torch.zeros(len(rows), *shape)
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
        for places, numbers in _batched(
            rows, tokens_at_once, lambda batch: function(Padded(*(x.to(device) for x in batch))).cpu()
        ):
            found[places] = numbers
    return found


def likelihood_of_rows(
    reference: Any, rows: Sequence[Row], *, tokens_at_once: int = 8192, bfloat16: bool = False
) -> list[Float[Tensor, "time 6"]]:
    """Token features of each row under the reference, without padding; 0 before the completion."""
    device = reference.device
    found: list[Tensor] = [torch.empty(0)] * len(rows)
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
        for places, features in _batched(
            rows,
            tokens_at_once,
            lambda batch: likelihood(reference, batch.tokens.to(device), batch.completion.to(device)).cpu(),
        ):
            for place, of_row in zip(places, features, strict=True):
                found[place] = of_row[: len(rows[place].tokens)].clone()
    return found


def _batched(
    rows: Sequence[Row], tokens_at_once: int, function: Callable[[Padded], Tensor]
) -> Iterator[tuple[list[int], Tensor]]:
    """Apply a function to batches of rows of like length; yields the rows' places with its result."""
    order = sorted(range(len(rows)), key=lambda place: (len(rows[place].tokens), place))
    batch: list[int] = []
    for position, place in enumerate(order):
        batch.append(place)
        longest = len(rows[order[min(position + 1, len(order) - 1)]].tokens)
        if position + 1 == len(order) or longest * (len(batch) + 1) > tokens_at_once:
            yield batch, function(pad([rows[found] for found in batch]))
            batch = []
