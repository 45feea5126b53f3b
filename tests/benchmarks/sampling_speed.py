"""Sampling's speed beside transformers' `generate`: the same model, prompts and completions without an end.

    python tests/benchmarks/sampling_speed.py [--rounds 3]

5.05 million parameters, prompts of 32 tokens and 64 more, at temperature 0.7. Ours returns log-probabilities as
well; the last column is their largest distance from those of one full forward pass, in nats. `plain` is ours
without the compiled kernel.
"""

from __future__ import annotations

import argparse
import json
import os
import time

import turns
from ppo_speed import COMPLETION, policy, prompts

BATCHES = (64, 256)
CONTENDERS = tuple(
    f"{who} {batch} {precision}"
    for batch in BATCHES
    for who in ("ours", "plain", "generate")
    for precision in ("float32", "bfloat16")
)
TEMPERATURE = 0.7
SECONDS = 4.0  # of one measurement, after a warm-up


def worker(name: str) -> dict[str, float]:
    """Tokens a second of one contender, the fastest of its batches."""
    who, batch, precision = name.split()
    if who == "plain":
        os.environ["CC"] = "false"
    import torch

    from pipeline.precision import tune_allocator

    tune_allocator()
    model, asked = policy().to(getattr(torch, precision)).eval(), prompts(int(batch))
    draw = generate if who == "generate" else ours
    draw(model, asked)
    started, fastest, distance = time.perf_counter(), float("inf"), float("nan")
    while time.perf_counter() < started + SECONDS:
        begun = time.perf_counter()
        drawn = draw(model, asked)
        fastest = min(fastest, time.perf_counter() - begun)
    if who != "generate":
        distance = distance_from_full_pass(model, asked, drawn)
    return {"tokens_per_second": int(batch) * COMPLETION / fastest, "distance": distance}


def ours(model, asked):
    """Our rollout."""
    from pipeline import rollout

    return rollout.sample(
        model,
        asked,
        keys=list(range(len(asked))),
        max_new_tokens=COMPLETION,
        stop_ids=[],
        pad_id=0,
        temperature=TEMPERATURE,
    )


def generate(model, asked):
    """The same completions by transformers."""
    import torch

    with torch.inference_mode():
        tokens = torch.tensor(asked)
        drawn = model.generate(
            tokens,
            attention_mask=torch.ones_like(tokens),
            do_sample=True,
            temperature=TEMPERATURE,
            top_k=0,
            max_new_tokens=COMPLETION,
            min_new_tokens=COMPLETION,
        )
    assert drawn.shape == (len(asked), len(asked[0]) + COMPLETION)
    return drawn


def distance_from_full_pass(model, asked, drawn) -> float:
    """Largest |log-probability when sampled - in one pass over the whole|, nats."""
    import torch

    from pipeline.actor_critic import token_logprobs

    prompt = torch.tensor(asked)
    tokens = torch.cat([prompt, drawn.tokens], dim=1)
    mask = torch.cat([torch.zeros_like(prompt, dtype=torch.bool), drawn.mask], dim=1)
    with torch.inference_mode():
        full = token_logprobs(model, tokens, mask, temperature=TEMPERATURE)
    return (full[mask] - drawn.logprobs[drawn.mask]).abs().max().item()


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
    print(
        "| batch | who | tokens/s | of the best `generate` | log-probabilities off by |\n|---|---|---|---|---|"
    )
    for name, figures in found.items():
        who, batch, precision = name.split()
        speed = figures["tokens_per_second"]
        ratio = speed / turns.best(found, "tokens_per_second", f"generate {batch}")
        off = f"{figures['distance']:.1e}" if who != "generate" else ""
        print(f"| {batch} | {who} {precision} | {speed:,.0f} | {ratio:.2f} | {off} |")


if __name__ == "__main__":
    main()
