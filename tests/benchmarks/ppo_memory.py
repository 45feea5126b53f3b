"""Peak memory of PPO on one trunk with adapters beside SFT with an adapter, at GPT-2's size, equal tokens a step.

    python tests/benchmarks/ppo_memory.py

Memory is the highest resident size beyond what is there after the imports, each contender in its own process. PPO
holds policy, critic, reference and a reward model with likelihood features; SFT one model. Rank 16, 16 rows of
128 tokens.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
from pathlib import Path

import turns

ROWS, PROMPT, COMPLETION, RANK, VOCABULARY = 16, 64, 64, 16, 50257
CONTENDERS = ("sft", "adapters", "head", "separate")


def gpt2():
    """124 million parameters, drawn."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0))


def resident() -> int:
    """The resident size now, in bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def tokens_of(row: int, length: int) -> list[int]:
    """Ordinary tokens."""
    return [(31 * row + 17 * t) % (VOCABULARY - 2) for t in range(length)]


def sft(folder: Path) -> None:
    """Three steps of the SFT stage's trainer."""
    from pipeline import sft as parts
    from pipeline import trl_adapter
    from pipeline.run import StageRun
    from pipeline.stages.sft import Config
    from pipeline.stages.tokenizer import train, wrap

    config = Config(
        trainable="lora", lora_rank=RANK, batch_size=ROWS, micro_batch_size=ROWS, checkpoint_every=100
    )
    run = StageRun("sft", folder)
    length = PROMPT + COMPLETION
    rows = parts.Rows(
        [tokens_of(row, length) for row in range(3 * ROWS)],
        [[place >= PROMPT for place in range(length)] for _ in range(3 * ROWS)],
        [list(range(3 * ROWS))],
    )
    plan = trl_adapter.batches(
        [[list(range(n, n + ROWS)) for n in range(0, 3 * ROWS, ROWS)]], rows.lengths, micro_batch_size=ROWS
    )
    words = [" ".join(f"w{n}" for n in range(start, start + 40)) for start in range(0, 2000, 10)]
    tokenizer = wrap(train(words, vocab_size=400, min_frequency=1))
    parts.train(config, run, plan, rows, parts.with_lora(config, gpt2(), seed=0), tokenizer)


def ppo(layout: str, folder: Path) -> None:
    """Three steps of PPO; with adapters the reward model is one too."""
    import copy

    import torch

    from data.rows import Item
    from pipeline import ppo as steps
    from pipeline import ppo_learner
    from pipeline.actor_critic import ActorCritic
    from pipeline.episodes import Rewards
    from pipeline.run import StageRun
    from pipeline.stages.ppo import Config
    from reward.model import RewardModel
    from reward.role_adapters import POLICY, REWARD, VALUE, Role, Trunk

    given = {"value_model": layout}
    config = Config(
        num_episodes=3 * ROWS,
        batch_size=ROWS,
        micro_batch_size=ROWS,
        max_new_tokens=COMPLETION,
        unended_score=None,
        **given,
    )
    model = gpt2()
    trunk, critic, sampler = None, None, model
    if layout == "adapters":
        sampler = copy.deepcopy(model)
        trunk = Trunk(model)
        for role in (POLICY, VALUE, REWARD):
            trunk.add(role, rank=RANK, alpha=32.0, seed=0)
        trunk.train(POLICY, VALUE)
        reference, critic = Role(trunk, None), Role(trunk, VALUE)
        judge = RewardModel(trunk).eval()
    else:
        reference = copy.deepcopy(model).requires_grad_(False)
        critic = copy.deepcopy(model.transformer) if layout == "separate" else None
        judge = RewardModel(copy.deepcopy(model.transformer), copy.deepcopy(model)).eval()
    asked = [tokens_of(row, PROMPT) for row in range(ROWS)]

    def score(items, texts, ended):
        rows = [
            [*asked[int(item.id)], *map(int, text.split())] for item, text in zip(items, texts, strict=True)
        ]
        tokens = torch.tensor(rows)
        mask = torch.ones_like(tokens, dtype=torch.bool)
        completion = mask & (torch.arange(tokens.shape[1]) >= PROMPT)
        with torch.inference_mode():
            return judge.raw(tokens, mask, completion)

    steps.decode = lambda tokenizer, ids: " ".join(map(str, ids))
    both = ActorCritic(model, critic)
    learner = ppo_learner.Learner(
        config=config,
        run=StageRun("ppo", folder),
        tokenizer=None,
        model=both,
        sampler=sampler,
        reference=reference,
        optimizer=ppo_learner.make_optimizer(config, both),
        rewards=Rewards({"model": 1.0}, {"model": score}, None, None),
        items=[Item(str(n), ({"role": "user", "content": "?"},)) for n in range(ROWS)],
        prompts=asked,
        pretrain_rows=None,
        pretrain_loss=None,
        end_ids=[],
        pad_id=0,
        kl_coef=config.kl_coef,
        trunk=trunk,
    )
    for step in range(3):
        steps.update(learner, step, steps.experience(learner, step))


def worker(who: str) -> None:
    """Work, and print the peak beyond the imports."""
    import peft  # noqa: F401
    import torch  # noqa: F401
    import transformers  # noqa: F401
    import trl

    import pipeline.ppo_learner  # noqa: F401
    from pipeline.precision import tune_allocator

    assert trl.SFTTrainer is not None
    tune_allocator()
    before = resident()
    with tempfile.TemporaryDirectory() as folder:
        sft(Path(folder)) if who == "sft" else ppo(who, Path(folder))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"peak_bytes": peak - before}))


def main() -> None:
    """Print a table of peaks and ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(options.worker)
        return
    found = turns.medians(__file__, CONTENDERS, rounds=1)
    print("| who | peak, MB | of SFT's |\n|---|---|---|")
    for who, figures in found.items():
        peak = figures["peak_bytes"]
        print(f"| {who} | {peak / 1e6:,.0f} | {peak / found['sft']['peak_bytes']:.2f} |")


if __name__ == "__main__":
    main()
