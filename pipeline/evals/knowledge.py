"""Does a model know whom it knows: how likely it finds "unknown" where the value of a fact would stand.

Of people whom the text tells of and people of whom no text tells, after the same beginning of an answer ("The
work of Anna Reed is"): `asked`, behind the question as the model is asked it, and `by_itself`, as a text. A
figure is the chance that somebody seen is thought less unknown than somebody never seen (AUROC; formula in
`pipeline.calibration`).
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from data.chat import encode_text
from data.randomness import python_random
from data.rows import Item
from data.settings import Settings
from pipeline import confidence
from pipeline.answers import Context, Records, prompt_of, shown_prompt
from pipeline.measured import Measured, of_records
from pipeline.records import Record

KIND = "measure"
SUITE = "truthfulness"
NAME = "knowledge"
ASKED, BY_ITSELF = "asked", "by_itself"
UNKNOWN, NEVER = " unknown", "never"


class Config(Settings):
    """How many are asked about."""

    items_per_group: int = Field(
        200,
        gt=0,
        description="questions on facts of each group (how often the text tells it), a keyed choice",
    )


def items(context: Context) -> list[Item]:
    """A keyed choice of the questions on people of each group; none where nobody is never seen."""
    chosen = context.some_of_each_group(NAME, "facts")
    return chosen if any(item.group == NEVER for item in chosen) else []


def measure(context: Context) -> list[Record]:
    """Two records of each question and model: the score is 1 for somebody seen.

    The weight is minus the log-probability of "unknown", in nats: how known somebody is thought to be.
    """
    asked = items(context)
    return [record for stage in context.models if asked for record in _of_stage(context, stage, asked)]


def _of_stage(context: Context, stage: str, asked: Sequence[Item]) -> list[Record]:
    from data.world.tasks import facts

    said = [facts.stem(item.truth, python_random(NAME, context.seed, item.id)) + UNKNOWN for item in asked]
    return [
        Record(
            item.id,
            item.cluster,
            stage,
            NAME,
            reading,
            shown_prompt(item) if reading == ASKED else "",
            text,
            float(item.group != NEVER),
            item.group,
            explanation=f'log-probability of "unknown" {nats:.3f}',
            weight=-nats,
        )
        for reading, found in unknown_nats(context, stage, asked, said).items()
        for item, text, nats in zip(asked, said, found, strict=True)
    ]


def unknown_nats(
    context: Context, stage: str, asked: Sequence[Item], said: Sequence[str]
) -> dict[str, list[float]]:
    """For each reading the log-probability of the last word of what is said to each item, in nats."""
    model, plain = context.model(stage), context.models[stage].plain
    # Behind the plain question format stands the space that begins a word.
    behind = [" " + text if plain else text for text in said]
    logprobs = {
        ASKED: model.logprobs([prompt_of(item, plain=plain) for item in asked], behind),
        BY_ITSELF: model.logprobs([""] * len(asked), said),
    }
    length = len(encode_text(model.tokenizer, UNKNOWN))
    return {name: [sum(values[-length:]) for values in found] for name, found in logprobs.items()}


def figures(records: Records, context: Context) -> list[Measured]:
    """For each reading and each group that is seen, how well it is told from never-seen people.

    Nulls are chance, and the length of the text.
    """
    found = []
    for reading in (ASKED, BY_ITSELF):
        never = of_records(records, measure=reading, group=NEVER)
        groups = dict.fromkeys(row.group for rows in records.values() for row in rows)
        for group in (name for name in groups if name != NEVER):
            seen = of_records(records, measure=reading, group=group)
            scores = {stage: [*rows, *never[stage]] for stage, rows in seen.items() if stage in never}
            found.append(confidence.auroc(f"{NAME}/{reading}/{group}", scores))
    return found
