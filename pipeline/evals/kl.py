"""How far a tuned model's answers are from the model that it started from: KL divergence per completion."""

from __future__ import annotations

from data.rows import Item
from data.settings import Settings
from pipeline.answers import Context, Records, prompt_of, shown_prompt
from pipeline.measured import Measured, of_records
from pipeline.records import Record

KIND = "measure"
SUITE = "alignment"


class Config(Settings):
    """No settings."""


def items(context: Context) -> list[Item]:
    """The answers to the headline mix are looked at."""
    return context.headline


def measure(context: Context) -> list[Record]:
    """Score each headline answer by k1: its log-probability, less that under the parent model.

    Both at the sampling temperature. Models that were not tuned from a chat model are left out.
    """
    records = []
    for stage, model in context.models.items():
        parent = context.models.get(model.parent or "")
        if parent is None or parent.plain:
            continue
        answers = context.answers[stage]
        asked = [item for item in context.headline if item.id in answers and answers[item.id].tokens]
        under_parent = _logprobs(
            context,
            parent.name,
            [prompt_of(item, plain=False) for item in asked],
            [answers[item.id].tokens for item in asked],
        )
        for item, reference in zip(asked, under_parent, strict=True):
            answer = answers[item.id]
            records.append(
                Record(
                    item.id,
                    item.cluster,
                    stage,
                    "kl",
                    "k1",
                    shown_prompt(item),
                    answer.text,
                    sum(answer.logprobs) - reference,
                    item.task,
                )
            )
    return records


def figures(records: Records, context: Context) -> list[Measured]:
    """Nats per completion.

    The null is a model that did not change. There is none of an untrained one, which started from nothing, and
    none of a trivial way of answering, which gives its answers no probability.
    """
    scores = of_records(records, measure="k1")
    nulls = {stage: {"unchanged": 0.0} for stage in scores}
    return [Measured("kl", "nats", "mean", scores, 0, nulls, compared=False)]


def _logprobs(context: Context, stage: str, prompts: list, completions: list[list[int]]) -> list[float]:
    """The summed log-probability of each completion's tokens under a stage's model, nats."""
    import torch

    from data.collate import pad_right
    from pipeline.actor_critic import token_logprobs

    model = context.model(stage)
    encoded = [model.encode(prompt) for prompt in prompts]
    order = sorted(range(len(encoded)), key=lambda row: len(encoded[row]) + len(completions[row]))
    sums = [0.0] * len(encoded)
    for first in range(0, len(order), context.config.batch_size):
        rows = order[first : first + context.config.batch_size]
        tokens, _ = pad_right([[*encoded[row], *completions[row]] for row in rows], model.pad_id)
        places = torch.arange(tokens.shape[1])[None]
        starts = torch.tensor([len(encoded[row]) for row in rows])[:, None]
        ends = starts + torch.tensor([len(completions[row]) for row in rows])[:, None]
        mask = ((places >= starts) & (places < ends)).to(model.model.device)
        with torch.inference_mode():
            found = token_logprobs(
                model.model, tokens.to(mask.device), mask, temperature=context.config.temperature or 1.0
            )
        for row, value in zip(rows, found.sum(dim=1).tolist(), strict=True):
            sums[row] = value
    return sums
