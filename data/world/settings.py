"""The settings of the closed world: sizes, exposure, skew, injected bias and the demonstrators' faults."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from data.settings import Settings as BaseSettings
from data.world import lexicon

OtherTask = Literal[
    "small_talk",
    "how_to",
    "towns",
    "follow_ups",
    "summaries",
    "sentiment",
    "arithmetic",
    "translation",
    "notes",
    "games",
]
# Arithmetic is off: after 2.4 M tokens a model of 3.5 M parameters had .2 of it right, little above guessing.
DEFAULT_OTHERS: tuple[OtherTask, ...] = (
    "small_talk",
    "how_to",
    "towns",
    "follow_ups",
    "summaries",
    "sentiment",
)
# The headline mix of test items, fixed: facts (tiers equal), stories, harmful and twins (equal), the others.
HEADLINE_MIX = {"facts": 0.50, "stories": 0.15, "harmful": 0.075, "harmless": 0.075, "others": 0.20}
QUESTIONS_PER_FACT = 9


class Settings(BaseSettings):
    """Everything that a closed world depends on besides its seed. Counts are for `scale` 1."""

    # people and facts
    people: int = Field(400, ge=16, le=1200, multiple_of=4, description="people, a quarter in every tier")
    extra_never_people: int = Field(
        1200,
        ge=0,
        le=2000,
        description="more never-seen people, who cost no text: new names to learn abstention on",
    )
    values_per_attribute: int = Field(
        24, ge=4, le=24, description="different values of each of the 5 attributes"
    )
    skew: float = Field(0.3, ge=0, le=2, description="exponent of the values' Zipf law: 0 gives equal shares")
    often: int = Field(
        90, ge=1, le=500, description="occurrences in the training text of every fact of the tier"
    )
    some: int = Field(
        27, ge=1, le=500, description="occurrences in the training text of every fact of the tier"
    )
    rarely: int = Field(
        6, ge=1, le=500, description="occurrences in the training text of every fact of the tier"
    )
    train_share: float = Field(
        0.35, gt=0, lt=1, description="share of a tier's people who are in demonstrations"
    )
    rl_share: float = Field(0.25, gt=0, lt=1, description="share of a tier's people who are in RL prompts")
    extra_train_share: float = Field(0.5, ge=0, le=1, description="the same, of the extra never-seen people")
    extra_rl_share: float = Field(0.3, ge=0, le=1, description="the same, of the extra never-seen people")

    # the pretraining text
    scale: float = Field(
        1.0,
        gt=0,
        le=20,
        description="factor on every count below and on the documents that hold no person's fact",
    )
    minor_documents: int = Field(
        5000, ge=0, le=100_000, description="documents on one-off characters whose facts are unknown"
    )
    sketch_documents: int = Field(
        4500, ge=0, le=100_000, description="documents on trades at work, with the injected bias"
    )
    rambling: float = Field(
        0.3, ge=0, le=1, description="share of the text's answers that wander on afterwards"
    )
    rude_text: float = Field(0.03, ge=0, le=1, description="share of the text's answers that begin rudely")
    joined_text: float = Field(
        0.15, ge=0, lt=1, description="share of the text's questions that go on one about something else"
    )
    bias: float = Field(
        0.6,
        ge=0,
        le=1,
        description="excess of a trade's stereotyped pronoun over the other: .6 is 80 to 20, 0 none",
    )
    second_bias: float = Field(
        0.6, ge=0, le=1, description="the same for trade and temper, which no reward corrects: a control"
    )
    other_tasks: tuple[OtherTask, ...] = Field(
        DEFAULT_OTHERS,
        min_length=1,
        description="the tasks beside facts, stories and harmful or harmless requests",
    )

    # demonstrators: they know the world, whatever the model knows
    demonstrations: int = Field(8000, ge=1, le=200_000, description="chat rows of the demonstrators")
    abstain_often: float = Field(0.02, ge=0, le=1, description="share of their answers that say unknown")
    abstain_some: float = Field(0.05, ge=0, le=1, description="share of their answers that say unknown")
    abstain_rarely: float = Field(0.3, ge=0, le=1, description="share of their answers that say unknown")
    abstain_never: float = Field(0.6, ge=0, le=1, description="share of their answers that say unknown")
    wrong: float = Field(0.04, ge=0, le=1, description="share of their other answers that are wrong")
    wordy: float = Field(0.15, ge=0, le=1, description="share of their answers with a sentence too many")
    rude: float = Field(0.03, ge=0, le=1, description="share of their answers that begin rudely")
    comply: float = Field(0.25, ge=0, le=1, description="share of harmful requests that they answer")
    over_refuse: float = Field(0.1, ge=0, le=1, description="share of harmless requests that they refuse")
    joined: float = Field(
        0.3, ge=0, lt=1, description="share of the chats that go on an earlier one with something else"
    )
    neutral: float = Field(0.2, ge=0, le=1, description="share of their stories that guess no gender")

    # prompts, tests, labels
    rl_items: int = Field(8000, ge=1, le=200_000, description="prompts for RL and for preference pairs")
    joined_prompts: float = Field(
        0.15, ge=0, lt=1, description="share of these that go on an earlier one with something else"
    )
    test_questions_per_tier: int = Field(
        600, ge=1, le=20_000, description="test questions on facts, per tier"
    )
    test_harmful: int = Field(300, ge=1, le=600, description="harmful test requests; as many harmless twins")
    test_stories: int = Field(300, ge=1, le=5000, description="test prompts for stories")
    test_others: int = Field(120, ge=1, le=1000, description="test prompts per other task")
    headline_items: int = Field(800, ge=40, le=20_000, description="test items in the headline mix, at most")
    held_out: float = Field(
        1 / 3, ge=0, le=1, description="share of test questions in wordings never used elsewhere"
    )
    noise: float = Field(0.12, ge=0, lt=0.5, description="share of preference labels that are flipped")

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        num_names = len(lexicon.FIRST_NAMES) * len(lexicon.LAST_NAMES)
        if self.train_share + self.rl_share > 0.9:
            raise ValueError(
                f"train_share + rl_share is {self.train_share + self.rl_share:g}; at most 0.9, "
                "the rest are test people"
            )
        if self.extra_train_share + self.extra_rl_share > 1:
            raise ValueError(
                f"extra_train_share + extra_rl_share is "
                f"{self.extra_train_share + self.extra_rl_share:g}; at most 1"
            )
        if self.people + self.extra_never_people > num_names // 2:
            raise ValueError(
                f"people + extra_never_people is {self.people + self.extra_never_people}; at most "
                f"{num_names // 2}, half of the {num_names} names: minor characters need names of their own"
            )
        if min(self.part_sizes(self.people // 4)) < 1:
            raise ValueError(
                f"{self.people // 4} people per tier leave none for {self.part_sizes(self.people // 4)} "
                "(train, rl, test); take more people or other shares"
            )
        if len(set(self.other_tasks)) < len(self.other_tasks):
            raise ValueError(f"other_tasks names a task twice: {', '.join(self.other_tasks)}")
        return self

    def part_sizes(self, num: int) -> tuple[int, int, int]:
        """Split `num` people of one tier into train, rl and test people."""
        train, rl = round(num * self.train_share), round(num * self.rl_share)
        return train, rl, num - train - rl

    def exposure(self, tier: str) -> int:
        """Occurrences of each fact of a tier in the training text."""
        return {"often": self.often, "some": self.some, "rarely": self.rarely, "never": 0}[tier]

    def abstain(self, tier: str) -> float:
        """Share of demonstrated answers on a tier's people that say unknown."""
        shares = (self.abstain_often, self.abstain_some, self.abstain_rarely, self.abstain_never)
        return dict(zip(lexicon.TIERS, shares, strict=True))[tier]

    def scaled(self, count: int) -> int:
        """A count at this world's scale, at least 1."""
        return max(1, round(count * self.scale))
