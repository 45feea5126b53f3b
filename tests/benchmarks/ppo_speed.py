"""PPO's speed beside TRL 1.12's PPOTrainer, the last with a value model: equal model, lengths, batch and epochs.

    python tests/benchmarks/ppo_speed.py [--steps 3] [--rounds 3]

The ratio is of the medians of contenders in turns. Ours prints where the time goes, and which share it reaches of
the machine's fastest matrix products (1,024 rows and columns, in the precision that was chosen). TRL's wheel is
fetched with pip and unpacked into a temporary folder, never installed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import turns

TRL = "trl==1.12.0"
BATCH, PROMPT, COMPLETION, EPOCHS, VOCABULARY = 64, 32, 64, 4, 2048
CONTENDERS = ("ours separate", "ours head", "ours adapters", "trl float32", "trl bfloat16")


def policy(seed: int = 0):
    """5.05 million parameters, as ppo.md's table has them."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=688,
        num_hidden_layers=6,
        num_attention_heads=4,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    torch.manual_seed(seed)
    return LlamaForCausalLM(config)


def prompts(num: int) -> list[list[int]]:
    """Prompts of equal length, of ordinary tokens."""
    return [[1, *((7 * n + 13 * t) % (VOCABULARY - 10) + 5 for t in range(PROMPT - 1))] for n in range(num)]


def ours(layout: str, steps: int) -> dict[str, float]:
    """Episodes a second of our loop, with where its time goes and its share of the fastest matrix products."""
    from torch.utils.flop_counter import FlopCounterMode

    from pipeline import ppo
    from pipeline.precision import resolve_precision, tune_allocator

    tune_allocator()
    precision, _ = resolve_precision("auto")
    fastest = peak(precision)
    counter = FlopCounterMode(display=False)
    # Token ids stand in for text: what is timed of the reward is the pass of its model.
    ppo.decode = lambda tokenizer, ids: " ".join(map(str, ids))
    spent: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        learner = make_learner(layout, steps, precision, Path(folder))
        with counter:  # the warm-up
            ppo.update(learner, 0, ppo.experience(learner, 0))
        for step in range(1, steps + 1):
            begun = time.perf_counter()
            batch = ppo.experience(learner, step)
            measured = {**batch.measured, **ppo.update(learner, step, batch)}
            spent["total"] = spent.get("total", 0.0) + time.perf_counter() - begun
            for name, value in measured.items():
                if name.endswith("_seconds"):
                    spent[name] = spent.get(name, 0.0) + value
    each = spent.pop("total") / steps
    return {
        "episodes_per_second": BATCH / each,
        "gflop": 1e-9 * counter.get_total_flops(),
        "share_of_peak": 1e-9 * counter.get_total_flops() / each / fastest,
        **{name: value / steps for name, value in spent.items()},
    }


def peak(precision: str) -> float:
    """GFLOP a second of square matrix products, the fastest of many."""
    import torch

    size, fastest = 1024, float("inf")
    left, right = (torch.ones(size, size, dtype=getattr(torch, precision)) for _ in range(2))
    for _ in range(200):
        begun = time.perf_counter()
        left @ right
        fastest = min(fastest, time.perf_counter() - begun)
    return 2e-9 * size**3 / fastest


def make_learner(layout: str, steps: int, precision: str, folder: Path):
    """What PPO holds in one of its layouts, with a reward model of the policy's size."""
    import torch

    from data.rows import Item
    from pipeline import ppo_learner
    from pipeline.actor_critic import ActorCritic
    from pipeline.episodes import Rewards
    from pipeline.lean import make_lean
    from pipeline.run import StageRun
    from pipeline.stages.ppo import Config
    from reward.role_adapters import POLICY, VALUE, Role, Trunk

    config = Config(
        unended_score=None,
        num_episodes=BATCH * (steps + 1),
        batch_size=BATCH,
        max_new_tokens=COMPLETION,
        num_epochs=EPOCHS,
        value_model=layout,
        stop_approx_kl=1e9,
    )
    model, reference = policy(), policy().requires_grad_(False)
    trunk, critic = None, policy().model if layout == "separate" else None
    if layout == "adapters":
        trunk = Trunk(model)
        for role in (POLICY, VALUE):
            trunk.add(role, rank=config.lora_rank, alpha=config.lora_alpha, seed=0)
        trunk.train(POLICY, VALUE)
        reference, critic = Role(trunk, None), Role(trunk, VALUE)
    both = ActorCritic(model, critic)
    make_lean(both, reference)
    copied = precision == "bfloat16" or trunk is not None
    sampler = policy().to(getattr(torch, precision)) if copied else model
    return ppo_learner.Learner(
        config=config,
        run=StageRun("ppo", folder, precision=precision),
        tokenizer=None,
        model=both,
        sampler=sampler,
        reference=reference,
        optimizer=ppo_learner.make_optimizer(config, both),
        rewards=Rewards({"model": 1.0}, {"model": scorer()}, None, None),
        items=[Item(str(n), ({"role": "user", "content": "?"},)) for n in range(BATCH)],
        prompts=prompts(BATCH),
        pretrain_rows=None,
        pretrain_loss=None,
        end_ids=[],
        pad_id=0,
        kl_coef=config.kl_coef,
        trunk=trunk,
    )


def scorer():
    """A reward model of the policy's size, as a reward of completions that are written as token ids."""
    import torch

    from reward.model import RewardModel

    judge, asked = RewardModel(policy(1).model, features="none").eval(), prompts(BATCH)

    def score(items, texts, ended):
        pairs = zip(items, texts, strict=True)
        tokens = torch.tensor([[*asked[int(item.id)], *map(int, text.split())] for item, text in pairs])
        mask = torch.ones_like(tokens, dtype=torch.bool)
        with torch.inference_mode():
            return judge.raw(tokens, mask, mask)

    return score


def trl(precision: str, steps: int, wheel: str) -> dict[str, float]:
    """Episodes a second of TRL's trainer on the same work."""
    sys.path.insert(0, wheel)
    import logging
    import warnings

    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    import torch
    from datasets import Dataset
    from transformers import LlamaForSequenceClassification, PreTrainedTokenizerFast, TrainerCallback
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    from pipeline.stages.tokenizer import train, wrap

    words = [" ".join(f"w{n}" for n in range(start, start + 40)) for start in range(0, 2000, 10)]
    tokenizer: PreTrainedTokenizerFast = wrap(train(words, vocab_size=400, min_frequency=1))

    def classifier(seed: int):
        config = policy().config
        config.num_labels = 1
        torch.manual_seed(seed)
        return LlamaForSequenceClassification(config)

    stamps: list[float] = []

    class Watch(TrainerCallback):
        def on_step_end(self, *args, **kwargs):
            stamps.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        trainer = PPOTrainer(
            args=PPOConfig(
                output_dir=folder,
                per_device_train_batch_size=BATCH,
                gradient_accumulation_steps=1,
                num_mini_batches=1,
                num_ppo_epochs=EPOCHS,
                total_episodes=BATCH * (steps + 1),
                response_length=COMPLETION,
                local_rollout_forward_batch_size=BATCH,
                num_sample_generations=0,
                missing_eos_penalty=None,
                stop_token=None,
                temperature=0.7,
                learning_rate=1e-5,
                gradient_checkpointing=False,
                bf16=precision == "bfloat16",
                use_cpu=True,
                report_to="none",
                save_strategy="no",
                logging_steps=1000,
                disable_tqdm=True,
            ),
            processing_class=tokenizer,
            model=policy(),
            ref_model=policy(),
            reward_model=classifier(1),
            value_model=classifier(2),
            train_dataset=Dataset.from_dict({"input_ids": prompts(BATCH * (steps + 2))}),
            callbacks=[Watch()],
        )
        trainer.train()
    return {"episodes_per_second": BATCH * (len(stamps) - 1) / (stamps[-1] - stamps[0])}


def unpack(folder: Path) -> Path:
    """Fetch TRL's wheel and unpack it."""
    command = [sys.executable, "-m", "pip", "download", TRL, "--no-deps", "--quiet", "--dest", str(folder)]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    (wheel,) = folder.glob("trl-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "trl")
    return folder / "trl"


def main() -> None:
    """Run the contenders in turns and print ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--steps", type=int, default=3, help="timed batches of one process, after one warm-up"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--wheel", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        who, what = options.worker.split()
        found = ours(what, options.steps) if who == "ours" else trl(what, options.steps, options.wheel)
        print(json.dumps(found))
        return
    with tempfile.TemporaryDirectory() as folder:
        settings = ["--steps", str(options.steps), "--wheel", str(unpack(Path(folder)))]
        medians = turns.medians(__file__, CONTENDERS, rounds=options.rounds, options=settings)
    best = turns.best(medians, "episodes_per_second", "trl")
    print("| who | episodes/s | of TRL's best | seconds: sample, score, evaluate, update | GFLOP, of peak |")
    print("|---|---|---|---|---|")
    for name, found in medians.items():
        parts = [
            f"{found[f'{part}_seconds']:.2f}"
            for part in ("sample", "score", "evaluate", "update")
            if f"{part}_seconds" in found
        ]
        ratio = f"{found['episodes_per_second'] / best:.2f}"
        work = f"{found['gflop']:,.0f}, {found['share_of_peak']:.0%}" if "gflop" in found else ""
        print(f"| {name} | {found['episodes_per_second']:.2f} | {ratio} | {', '.join(parts)} | {work} |")


if __name__ == "__main__":
    main()
