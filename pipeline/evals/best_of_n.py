"""Best-of-n: the chat model's answer that the reward likes best of n, by that reward and by gold."""

from __future__ import annotations

from pydantic import Field, model_validator

from data.randomness import key
from data.rows import Item
from data.settings import Settings
from pipeline.answers import Answer, Context, Records, prompt_of, shown_prompt
from pipeline.measured import Measured, of_records
from pipeline.records import Record
from pipeline.setting_types import UNENDED_SCORE

KIND = "measure"
SUITE = "alignment"
NAMES = ("reward", "gold")


class Config(Settings):
    """How many answers are drawn, and how many of them compete."""

    num_prompts: int = Field(0, ge=0, description="headline prompts that are answered; 0 turns it off")
    num_samples: int = Field(16, gt=1, description="answers drawn to each prompt")
    ns: tuple[int, ...] = Field(
        (1, 2, 4, 8, 16), min_length=1, description="sizes n of the figures, each at most num_samples"
    )

    @model_validator(mode="after")
    def _enough_samples(self) -> Config:
        if max(self.ns) > self.num_samples or min(self.ns) < 1:
            raise ValueError(f"ns {list(self.ns)} must lie between 1 and num_samples {self.num_samples}")
        return self


def items(context: Context) -> list[Item]:
    """The headline mix, of which some prompts are taken; this draws its own answers."""
    return context.headline if context.options["best_of_n"].num_prompts else []


def measure(context: Context) -> list[Record]:
    """Sample the first chat model; a record's score is the expectation over all choices of n samples.

    There is one for every n up to the number of samples, which the report fits a curve to.
    """
    config: Config = context.options["best_of_n"]
    stage = next((name for name, model in context.models.items() if not model.plain), None)
    known = [item for item in context.headline if context.knows(item)]
    if not context.folders("reward") or stage is None or not config.num_prompts or not known:
        return []
    from pipeline.overoptimisation import best_of_n
    from pipeline.reward_scores import score_with

    # Every k-th item, so that all tasks of the headline mix are there.
    asked = known[:: max(1, len(known) // config.num_prompts)][: config.num_prompts]
    repeated = [item for item in asked for _ in range(config.num_samples)]
    drawn = context.model(stage).generate(
        [prompt_of(item, plain=False) for item in repeated],
        keys=[key("best of n", context.seed, n) for n in range(len(repeated))],
        max_new_tokens=context.config.max_new_tokens,
        temperature=context.config.temperature,
        batch_size=context.config.batch_size,
    )
    ended = [answer.ended for answer in drawn]
    proxy = score_with(repeated, [answer.text for answer in drawn], context, ended=ended)
    gold = [
        context.judge(item, Answer(item.id, done.text, done.ended, done.tokens, done.logprobs)).score
        for item, done in zip(repeated, drawn, strict=True)
    ]
    ranked = [score if done else UNENDED_SCORE for score, done in zip(proxy, ended, strict=True)]
    records = []
    for place, item in enumerate(asked):
        rows = slice(place * config.num_samples, (place + 1) * config.num_samples)
        for name, values in zip(NAMES, (proxy, gold), strict=True):
            records += [
                Record(
                    item.id,
                    item.cluster,
                    stage,
                    "best_of_n",
                    f"{name}/{n}",
                    shown_prompt(item),
                    "",
                    best_of_n(ranked[rows], values[rows], n),
                    item.task,
                )
                for n in range(1, config.num_samples + 1)
            ]
    return records


def figures(records: Records, context: Context) -> list[Measured]:
    """Means by n."""
    config: Config = context.options["best_of_n"]
    return [
        Measured(f"best_of_n/{name}/{n}", name, "mean", rows, better=1, compared=False)
        for name in NAMES
        for n in config.ns
        if (rows := of_records(records, measure=f"{name}/{n}"))
    ]
