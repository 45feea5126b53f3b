"""Pretraining's speed beside transformers' Trainer and a bare loop: the same model, rows and optimizer (AdamW).

    python tests/benchmarks/pretrain_speed.py [--rounds 3]

5.05 million parameters, 16 rows of 256 tokens a step, documents of some 100 tokens. Ours keeps attention within
documents, saves checkpoints and watches the loss; the others do none of it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import turns
from ppo_speed import VOCABULARY, policy

ROWS, CONTEXT, DOCUMENT, STEPS, WARM = 16, 256, 100, 20, 3
CONTENDERS = ("ours", "bare loop", "trainer float32", "trainer bfloat16")


def rows(step: int):
    """Packed documents, each from its begin token on."""
    import torch

    first = ROWS * (CONTEXT + 1) * step
    places = torch.arange(first, first + ROWS * (CONTEXT + 1))
    tokens = (7 * places) % (VOCABULARY - 10) + 5
    return tokens.where(places % DOCUMENT > 0, 1).view(ROWS, CONTEXT + 1)


def worker(name: str) -> dict[str, float]:
    """Tokens a second of one contender, from the median step after a warm-up."""
    import statistics

    stamps: list[float] = []
    if name.startswith("trainer"):
        trainer(name.split()[1], stamps)
    else:
        from pipeline.precision import resolve_precision, tune_allocator

        tune_allocator()
        {"ours": ours, "bare loop": bare_loop}[name](resolve_precision("auto")[0], stamps)
    steps = [after - before for before, after in zip(stamps[WARM:], stamps[WARM + 1 :], strict=False)]
    return {"tokens_per_second": ROWS * CONTEXT / statistics.median(steps)}


def make_optimizer(model, precision: str):
    """The AdamW of the pretrain stage."""
    from pipeline.optimizers import make_optimizer as make

    return make(model, "adamw", learning_rate=1e-4, weight_decay=0.1, precision=precision)


def ours(precision: str, stamps: list[float]) -> None:
    """The pretrain stage's loop."""
    from pipeline.fit import fit
    from pipeline.next_token import NextToken
    from pipeline.run import StageRun

    def batch(step: int):
        stamps.append(time.perf_counter())
        return {"tokens": rows(step)}

    module = NextToken(policy())
    with tempfile.TemporaryDirectory() as folder:
        fit(
            module,
            batch,
            make_optimizer(module.model, precision),
            StageRun("pretrain", Path(folder), precision=precision),
            num_steps=STEPS,
            rate=lambda step: 1.0,
            checkpoint_every=100,
            micro_batch=ROWS,
            max_grad_norm=1.0,
            units_per_step=ROWS * CONTEXT,
        )


def bare_loop(precision: str, stamps: list[float]) -> None:
    """As few lines as there can be, under autocast where ours is."""
    import torch
    from torch.nn.functional import cross_entropy

    model = policy()
    optimizer = make_optimizer(model, precision)
    for step in range(STEPS):
        stamps.append(time.perf_counter())
        tokens = rows(step)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            logits = model(input_ids=tokens[:, :-1], use_cache=False).logits
            loss = cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def trainer(precision: str, stamps: list[float]) -> None:
    """transformers' Trainer on the same rows."""
    import torch
    from transformers import Trainer, TrainerCallback, TrainingArguments

    class Watch(TrainerCallback):
        def on_step_begin(self, *args, **kwargs):
            stamps.append(time.perf_counter())

    data = [{"input_ids": row, "labels": row} for step in range(STEPS) for row in rows(step)]
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=ROWS,
            max_steps=STEPS,
            learning_rate=1e-4,
            weight_decay=0.1,
            max_grad_norm=1.0,
            bf16=precision == "bfloat16",
            use_cpu=True,
            report_to="none",
            save_strategy="no",
            logging_steps=1000,
            disable_tqdm=True,
        )
        stack = lambda items: {name: torch.stack([item[name] for item in items]) for name in items[0]}  # noqa: E731
        Trainer(policy(), settings, data_collator=stack, train_dataset=data, callbacks=[Watch()]).train()


def main() -> None:
    """Run the contenders in turns and print ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(worker(options.worker)))
        return
    found = turns.medians(__file__, CONTENDERS, rounds=options.rounds)
    print("| who | tokens/s | of the Trainer in float32 |\n|---|---|---|")
    for name, figures in found.items():
        speed = figures["tokens_per_second"]
        print(
            f"| {name} | {speed:,.0f} | {speed / turns.best(found, 'tokens_per_second', 'trainer float32'):.2f} |"
        )


if __name__ == "__main__":
    main()
