"""The gate before PPO, which asks whether the reward can help at all.

The best of n completions by the reward must beat single samples by gold, or where there is none by a judge.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor

from data.chat import decode
from data.rows import Item
from pipeline import judges, ppo, statistics
from pipeline.answers import shown_prompt
from pipeline.ppo_learner import Learner

# How often the gate may pass a reward that has nothing to do with gold.
GATE_ERROR = 0.05
NAME = "best_of_n"


class Gain(NamedTuple):
    """What the best of n gain over a single sample, prompt by prompt, with their clusters; and both in words."""

    values: list[float]
    clusters: list[str]
    told: str


def best_of_n_gate(learner: Learner) -> None:
    """Ask whether the reward can help: the best of n by it must beat single samples by gold, or by a judge."""
    config, run = learner.config, learner.run
    if learner.rewards.gold is None and not config.gate_judge.url:
        run.gate(NAME, None, "not measurable without a gold reward or judge")
        return
    items = learner.items[: config.gate_prompts]
    repeated = [item for item in items for _ in range(config.gate_samples)]
    drawn = ppo.sample(
        learner,
        [prompt for prompt in learner.prompts[: len(items)] for _ in range(config.gate_samples)],
        keys=[run.key("gate", n) for n in range(len(repeated))],
    )
    texts, ended = [decode(learner.tokenizer, tokens) for tokens in drawn.completions()], drawn.ended.tolist()
    proxy = learner.rewards.replaced(learner.rewards.weighted(repeated, texts, ended)[0], ended)
    best = proxy.view(len(items), config.gate_samples).argmax(dim=1)
    if learner.rewards.gold is not None:
        gain = _by_gold(learner, items, learner.rewards.gold(repeated, texts, ended).float(), best)
    else:
        gain = _by_judge(learner, items, texts, best)
    run.gate(NAME, *_judged(gain))


def _by_gold(
    learner: Learner, items: list[Item], gold: Float[Tensor, " samples"], best: Int[Tensor, " prompts"]
) -> Gain:
    """Gold of the best less the mean of all samples of the prompt."""
    n = learner.config.gate_samples
    gold = gold.view(len(items), n)
    chosen, single = gold.gather(1, best[:, None]).squeeze(1), gold.mean(dim=1)
    learner.run.note(
        best_of_n={"n": n, "gold": chosen.mean().item(), "single_sample_gold": gold.mean().item()}
    )
    told = f"best of {n} by the reward has mean gold {chosen.mean():.3f}, single samples {single.mean():.3f}"
    return Gain((chosen - single).tolist(), [item.cluster for item in items], told)


def _by_judge(learner: Learner, items: list[Item], texts: list[str], best: Int[Tensor, " prompts"]) -> Gain:
    """The judge's score of the best against the first sample of the prompt, less a tie's, where it has a verdict.

    Where they are one completion it is a tie, and nobody is asked.
    """
    config = learner.config
    pairs = [
        (texts[row * config.gate_samples + place], texts[row * config.gate_samples])
        for row, place in enumerate(best.tolist())
    ]
    asked = [row for row, (ours, theirs) in enumerate(pairs) if ours != theirs]
    rulings = judges.ask(
        config.gate_judge.endpoint("gate_judge"),
        judges.both_orders([(shown_prompt(items[row]), *pairs[row]) for row in asked]),
        learner.run,
    )
    wins = dict.fromkeys(range(len(items)), judges.TIE)
    for row, first, second in zip(asked, rulings[::2], rulings[1::2], strict=True):
        wins[row], _ = judges.combined(first.score, second.score)
    scored = {row: win for row, win in wins.items() if not math.isnan(win)}
    mean = sum(scored.values()) / len(scored) if scored else math.nan
    learner.run.note(best_of_n={"n": config.gate_samples, "judge": config.gate_judge.model, "win_rate": mean})
    told = f"best of {config.gate_samples} by the reward wins {mean:.3f} against single samples by the judge"
    if len(scored) < len(items):
        told += f" ({len(items) - len(scored)} of {len(items)} prompts without a verdict)"
    return Gain([win - judges.TIE for win in scored.values()], [items[row].cluster for row in scored], told)


def _judged(gain: Gain) -> tuple[bool | None, str]:
    """Whether the best of n gain over single samples of the same prompts beyond chance, and in words."""
    if len(set(gain.clusters)) < 2:
        return None, f"{gain.told}; not measurable on fewer than two kinds of prompts, raise gate_prompts"
    found = statistics.mean(gain.values, gain.clusters, level=1 - 2 * GATE_ERROR)
    low = found.low if found.se > 0 else found.value  # prompts that all gain alike
    told = f"{gain.told}; it gains {found.value:.3f}, with {1 - GATE_ERROR:.0%} confidence at least {low:.3f}"
    if low > 0:
        return True, told
    return False, f"{told}; PPO cannot help: mend the reward stage (more pairs, other contrasts)" + (
        "" if found.value <= 0 else " or raise gate_prompts"
    )
