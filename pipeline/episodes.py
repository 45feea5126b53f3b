"""What reinforcement learning starts from and what it earns: prompts, weighted rewards, gold beside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from data.chat import encode_prompts
from data.errors import InputError
from data.rows import Item, read_jsonl
from data.world import gold
from pipeline.errors import TrainingFault
from pipeline.language_model import LanguageModel, context_of
from pipeline.rl import replace_unended_scores
from reward.functions import load_function, term_of
from reward.stored import check_tokenizer

if TYPE_CHECKING:
    from pipeline.run import StageRun

RewardFunction = Callable[[Sequence[Item], Sequence[str], Sequence[bool]], Tensor]


@dataclass(frozen=True)
class Prompts:
    """The prompts of reinforcement learning that leave room for a completion, encoded."""

    items: list[Item]
    tokens: list[list[int]]


def read_prompts(config: Any, run: StageRun, policy: LanguageModel) -> Prompts:
    """Read the prompts that leave room for `config.max_new_tokens` in the policy's context.

    Raises:
        InputError: none does.
    """
    items = read_jsonl(run.inputs["corpus"] / "items.rl.jsonl", Item)
    tokens = encode_prompts(policy.tokenizer, [item.prompt for item in items])
    context = context_of(policy.model)
    fitting = [row for row, prompt in enumerate(tokens) if len(prompt) + config.max_new_tokens <= context]
    if not fitting:
        raise InputError(
            f"{run.name}: no prompt leaves room for max_new_tokens {config.max_new_tokens} in the model's "
            f"context of {context} tokens; lower max_new_tokens or use shorter prompts"
        )
    run.note(prompts=len(fitting), prompts_too_long=len(tokens) - len(fitting))
    return Prompts([items[row] for row in fitting], [tokens[row] for row in fitting])


class UnusableScores(TrainingFault):
    """Scores that nothing can be learned from, with the cause and the remedy in words."""

    def __init__(self, cause: str, remedy: str, scores: Float[Tensor, " batch"]) -> None:
        super().__init__(f"{cause}. {remedy}")
        self.cause, self.remedy, self.scores = cause, remedy, scores


class Scored(NamedTuple):
    """Scores of a batch, what each reward gave before its weight, and gold where it is known."""

    scores: Float[Tensor, " batch"]
    terms: dict[str, Float[Tensor, " batch"]]
    gold: Float[Tensor, " batch"] | None

    def means(self) -> dict[str, float]:
        """For metrics.jsonl."""
        return {
            "score": self.scores.mean().item(),
            "score_std": self.scores.std().item(),
            **{f"reward/{name}": term.mean().item() for name, term in self.terms.items()},
            **({} if self.gold is None else {"gold": self.gold.mean().item()}),
        }


@dataclass(frozen=True)
class Rewards:
    """The rewards of a stage that samples; gold is measured where it is known, and nothing learns from it."""

    weights: Mapping[str, float]
    functions: Mapping[str, RewardFunction]
    unended_score: float | None
    gold: RewardFunction | None

    def weighted(
        self, items: Sequence[Item], texts: Sequence[str], ended: Sequence[bool]
    ) -> tuple[Float[Tensor, " batch"], dict[str, Float[Tensor, " batch"]]]:
        """The weighted sum, and its terms without their weights."""
        terms = {name: function(items, texts, ended).float() for name, function in self.functions.items()}
        return torch.stack([self.weights[name] * term for name, term in terms.items()]).sum(dim=0), terms

    def replaced(self, scores: Float[Tensor, " batch"], ended: Sequence[bool]) -> Float[Tensor, " batch"]:
        """The scores, with `unended_score` for each completion without an end, where it is not None."""
        if self.unended_score is None:
            return scores
        return replace_unended_scores(scores, torch.tensor(ended), unended_score=self.unended_score)

    def score(
        self, items: Sequence[Item], texts: Sequence[str], ended: Sequence[bool], *, where: str, first: bool
    ) -> Scored:
        """Score completions; those without an end get `unended_score` instead, where it is not None.

        Args:
            items: what was asked.
            texts: the completions.
            ended: whether each one ended by itself.
            where: names the stage and step in messages.
            first: the first batch of a run, whose scores must differ.

        Raises:
            UnusableScores: there is nothing to learn from.
        """
        scores, terms = self.weighted(items, texts, ended)
        if not bool(torch.isfinite(scores).all()):
            raise UnusableScores(
                f"{where}: a score is not a finite number", "Check the reward function", scores
            )
        if self.unended_score is not None and not any(ended):
            cause = f"{where}: never stops: no completion has an end"
            raise UnusableScores(cause, "Train SFT longer or raise max_new_tokens", scores)
        if first and scores.std() == 0:
            cause = f"{where}: no learning signal: all {len(scores)} scores are {scores[0]:.3f}"
            raise UnusableScores(cause, "Check the reward", scores)
        scores = self.replaced(scores, ended)
        gold = None if self.gold is None else self.gold(items, texts, ended).float()
        return Scored(scores, terms, gold)


def load_rewards(
    config: Any, run: StageRun, items: Sequence[Item], tokenizer: Any, *, trunk: Any = None
) -> Rewards:
    """Load the rewards that `config.rewards` names with their weights, under the rule of `config.unended_score`.

    A reward model that is an adapter is put on `trunk`, where that is given.

    Raises:
        InputError: a reward lacks what it needs, or the reward model is of another tokenizer.
    """
    stages = run.inputs.get("reward") or []
    for stage in stages if "learned" in config.rewards else ():
        check_tokenizer(stage / "model", tokenizer)

    def load(name: str, **settings: Any) -> RewardFunction:
        return load_function(
            name,
            stage=stages,
            precision=run.precision,
            device=str(run.device),
            trunk=trunk,
            settings=settings,
        )

    terms = {name: term_of(term) for name, term in config.rewards.items()}
    known = all(gold.knows(item) for item in items)
    if "gold" in config.rewards and not known:
        raise InputError(
            f"{run.name}: the gold reward needs prompts of the closed world; this corpus has others"
        )
    return Rewards(
        {name: term.weight for name, term in terms.items()},
        {name: load(name, **term.settings) for name, term in terms.items()},
        config.unended_score,
        load("gold") if known else None,
    )
