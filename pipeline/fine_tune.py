"""Fine-tuning a copy of a model in memory on a few rows: all layers, or the last one alone.

For evaluations of how much a model learns from so many; the recipe's own fine-tuning is `pipeline.sft`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Literal

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from data.chat import EncodedChat, encode_chats, encode_text
from data.collate import pad_chats
from data.errors import InputError
from data.rows import Item, Message
from data.sampler import batches_by_length
from pipeline.answers import PLAIN_STOP, prompt_of
from pipeline.language_model import LanguageModel, context_of
from pipeline.optimizers import make_optimizer, rate, set_rate
from pipeline.sft import freeze_all_but_last_layer

Layers = Literal["all", "last"]
MAX_GRAD_NORM = 1.0
WARMUP_SHARE = 0.1  # Adam's first steps are the largest, and of few steps they are many


def encode_rows(
    loaded: LanguageModel, items: Sequence[Item], answers: Sequence[str], *, plain: bool
) -> list[EncodedChat]:
    """Encode questions with their answers as the model is asked; the mask is True on what it is to say.

    That is the answer with what ends it: the line's end in the plain question format, else the end of the turn.

    Raises:
        InputError: a row is longer than the model's context.
    """
    if plain:
        rows = [_plain_row(loaded, item, answer) for item, answer in zip(items, answers, strict=True)]
    else:
        turns = [Message(role="assistant", content=answer) for answer in answers]
        chats = [[*item.prompt, turn] for item, turn in zip(items, turns, strict=True)]
        rows = encode_chats(loaded.tokenizer, chats)
    longest, room = max(len(row.tokens) for row in rows), context_of(loaded.model)
    if longest > room:
        raise InputError(
            f"a row to fine-tune on has {longest} tokens and the context of {loaded.source} {room}; leave its "
            "task out, or evaluate a model with a longer context"
        )
    return rows


def _plain_row(loaded: LanguageModel, item: Item, answer: str) -> EncodedChat:
    """Question and answer, encoded apart, as the model goes on from the question alone when it is asked."""
    asked = loaded.encode(prompt_of(item, plain=True))
    said = encode_text(loaded.tokenizer, f" {answer}{PLAIN_STOP}")
    return EncodedChat(asked + said, [False] * len(asked) + [True] * len(said))


def fine_tuned(
    model: PreTrainedModel,
    rows: Sequence[EncodedChat],
    *,
    layers: Layers,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    advance: Callable[[int], None],
) -> PreTrainedModel:
    """Train a copy of the model on the rows by AdamW with a linear schedule; the model itself stays as it is.

    Dropout is off, so that `seed`, which orders the rows, is all the randomness there is.

    Args:
        model: any causal language model.
        rows: tokens and the mask of those that count.
        layers: which layers learn; "last" is the last one with what follows it (see `pipeline.sft`).
        epochs: passes over the rows.
        batch_size: rows in one step.
        learning_rate: at its highest.
        seed: key of the order.
        advance: called with the number of rows after every step.
    """
    tuned = copy.deepcopy(model).requires_grad_(True).eval()
    if layers == "last":
        freeze_all_but_last_layer(tuned)
    optimizer = make_optimizer(tuned, "adamw", learning_rate=learning_rate, weight_decay=0.0)
    lengths = [len(row.tokens) for row in rows]
    batches = [
        batch
        for epoch in range(epochs)
        for batch in batches_by_length(lengths, batch_size, seed=seed, epoch=epoch)
    ]
    num_warmup = round(WARMUP_SHARE * len(batches))
    for step, batch in enumerate(batches):
        multiple = rate("linear", step, num_steps=len(batches), num_warmup=num_warmup)
        set_rate(optimizer.param_groups, multiple)
        tokens, _, targets = pad_chats([rows[place] for place in batch], 0)
        answer_loss(tuned, tokens, targets).backward()
        nn.utils.clip_grad_norm_(tuned.parameters(), MAX_GRAD_NORM)
        optimizer.step()
        optimizer.zero_grad()
        advance(len(batch))
    return tuned


def answer_loss(
    model: PreTrainedModel,
    tokens: Int[Tensor, "batch time"],
    targets: Bool[Tensor, "batch time"],
) -> Float[Tensor, ""]:
    """Mean cross-entropy of the target tokens, in nats, each given what stands before it.

    Rows are padded on the right, where causal attention never sees it.
    """
    tokens, targets = tokens.to(model.device), targets.to(model.device)
    logits = model(input_ids=tokens, use_cache=False).logits[:, :-1]
    wanted = targets[:, 1:]
    return nn.functional.cross_entropy(logits[wanted].float(), tokens[:, 1:][wanted])
