"""Why an answer is what it is, in numbers: KL, reward, value, gold, and every token with what else was likely."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from data.errors import InputError
from data.rows import Item, Message
from pipeline.chat.known import Known
from pipeline.chat.session import Answer
from pipeline.chat.voices import Voice, device, stage_kinds
from pipeline.chat.why import TokenView, explain
from pipeline.run_directory import stage_dir

REWARD_KINDS = ("reward", "implicit_reward")


class Insight(NamedTuple):
    """What is known of one answer; None where the run has nothing to say it with.

    `logprob` is the mean over the tokens, under the model itself at temperature 1, in nats; `kl` the sum over the
    tokens of the exact divergence from the reference at each position, in nats; `score` the reward model's;
    `value` the expected return before the first token; `values` before each.
    """

    logprob: float | None
    kl: float | None
    score: float | None
    value: float | None
    gold: Mapping[str, Any] | None
    facts: list[str]
    views: list[TokenView]
    values: list[float] | None


@dataclass(frozen=True)
class Rewards:
    """The first reward stage of a run, loaded when it is first asked."""

    folder: Path | None

    @cached_property
    def _score(self) -> Callable[..., Any]:
        from reward.functions import load_function

        assert self.folder is not None
        return load_function("learned", stage=self.folder, device=device())

    def score(self, messages: Sequence[Message], text: str, *, ended: bool) -> float | None:
        """Score an answer; None where the run has no reward model or the model cannot take the text."""
        if self.folder is None:
            return None
        try:
            return float(self._score([Item("typed", tuple(messages))], [text], [ended])[0])
        except InputError:
            return None


def rewards_of(folder: Path) -> Rewards:
    """The reward model of a run, if it has one."""
    kinds = stage_kinds(folder) if (folder / "stages").is_dir() else {}
    folders = [stage_dir(folder, name) for name, kind in kinds.items() if kind in REWARD_KINDS]
    there = [stage for stage in folders if (stage / "model" / "reward.json").is_file()]
    return Rewards(there[0] if there else None)


def look(
    voice: Voice,
    answer: Answer,
    messages: Sequence[Message],
    *,
    reference: Voice | None,
    known: Known,
    rewards: Rewards,
    num_alternatives: int = 5,
) -> Insight:
    """Look into an answer to a conversation.

    Raises:
        InputError: the reference has another vocabulary or a smaller context.
    """
    views = explain(voice, answer, reference=reference, num_alternatives=num_alternatives)
    divergences = [view.kl for view in views if view.kl is not None]
    ended = answer.reason in ("end", "stop")
    values = None
    if voice.values is not None and answer.tokens:
        ids = [*voice.encode(answer.prompt), *answer.tokens]
        values = voice.values(ids)[-len(answer.tokens) :].tolist()
    return Insight(
        logprob=sum(view.logprob for view in views) / len(views) if views else None,
        kl=sum(divergences) if reference is not None else None,
        score=rewards.score(kept(messages, answer), answer.text, ended=ended)
        if answer.text.strip()
        else None,
        value=values[0] if values else None,
        gold=known.gold(messages, answer.text, ended=ended),
        facts=known.facts(messages[-1]["content"], answer.text),
        views=views,
        values=values,
    )


def kept(messages: Sequence[Message], answer: Answer) -> list[Message]:
    """The messages that the model was given: without the oldest turns that were left out."""
    system = [message for message in messages[:1] if message["role"] == "system"]
    return [*system, *messages[len(system) + 2 * answer.num_dropped :]]


def summary(insight: Insight) -> list[str]:
    """What is known of an answer as a whole, in lines of text."""
    numbers = {
        "log-probability per token": insight.logprob,
        "KL from the reference": insight.kl,
        "reward": insight.score,
        "value at the start": insight.value,
    }
    lines = [", ".join(f"{name} {value:.2f}" for name, value in numbers.items() if value is not None)]
    if insight.gold is not None:
        terms = ", ".join(f"{name} {value:+.2f}" for name, value in insight.gold["terms"].items())
        why = f"; {insight.gold['explanation']}" if insight.gold["explanation"] else ""
        lines.append(
            f"gold {insight.gold['score']:.2f} ({insight.gold['outcome']}{why}): {terms or 'no term'}"
        )
    lines += [f"true here: {fact}" for fact in insight.facts]
    return [line for line in lines if line]


def as_record(insight: Insight) -> dict[str, Any]:
    """Make a JSON object of it."""
    views = []
    for place, view in enumerate(insight.views):
        views.append(
            {
                "text": view.text,
                "logprob": view.logprob,
                "rank": view.rank,
                "kl": view.kl,
                "value": insight.values[place] if insight.values else None,
                "alternatives": [other._asdict() for other in view.alternatives],
            }
        )
    found = {name: value for name, value in insight._asdict().items() if name not in ("views", "values")}
    return {**found, "views": views}
