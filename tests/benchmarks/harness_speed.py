"""Log-likelihood scoring beside EleutherAI's lm-evaluation-harness: the same model, texts and log-probabilities.

    python tests/benchmarks/harness_speed.py [--rounds 2] [--items 10000] [--shapes choices sentences]

5 million parameters, float32. The items of TruthfulQA's MC1 and MC2 (`truthfulqa`: about 10,000, of which the
harness asks twice what stands in both; read from FLEDGE_DATA), and texts of the closed world in three shapes:
`choices` (a question with four answers), `primer` (the same after six answered questions), `sentences` (no two
begin alike, so that there is nothing to share).
The harness runs with its model in memory at several batch sizes, of which the fastest counts; the last column is
the largest distance of a summed log-probability from ours, in nats.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import time
from pathlib import Path

import turns

SHAPES = ("truthfulqa", "choices", "primer", "sentences")
BATCHES = (8, 32, 128)
WHO = ("ours", *(f"harness {batch}" for batch in BATCHES))
CONTENDERS = tuple(f"{shape} {who}" for shape in SHAPES for who in WHO)
VOCABULARY, CONTEXT, SHOTS, CHECKED = 2048, 1024, 6, 200


def texts() -> list[str]:
    """Documents of the closed world."""
    from data.world import Settings, build, prose

    return [row.text for row in prose.documents(build(Settings(), seed=0))["train"]]


def requests(shape: str, num: int, documents: list[str]) -> list[tuple[str, str]]:
    """At most `num` pairs of context and continuation."""
    if shape == "truthfulqa":
        return truthfulqa()[:num]
    questions = [
        text.rstrip("\n") for text in documents if text.startswith("Question: ") and text.count("\n") == 2
    ]
    answered = [text.split("\nAnswer:") for text in dict.fromkeys(questions)]
    if shape == "sentences":
        different = dict.fromkeys(text for text in documents if len(text) > 40)
        return [("", text) for text in itertools.islice(different, num)]
    primer = (
        "\n\n".join("\nAnswer:".join(pair) for pair in answered[:SHOTS]) + "\n\n" if shape == "primer" else ""
    )
    rest = answered[SHOTS:]
    found = []
    for place in range(num // 4):
        question = rest[place % len(rest)][0]
        found += [(f"{primer}{question}\nAnswer:", rest[(place + n) % len(rest)][1]) for n in range(4)]
    return found


def truthfulqa() -> list[tuple[str, str]]:
    """The items of MC1, then those of MC2."""
    from data.benchmarks import truthfulqa as source
    from pipeline.benchmarks.truthfulqa import answer_context

    questions = source.read(Path(os.environ["FLEDGE_DATA"]))
    return [
        (answer_context(question.question), f" {answer.text}")
        for measure in ("mc1", "mc2")
        for question in questions
        for answer in getattr(question, measure)
    ]


def language_model(documents: list[str]):
    """The model with a tokenizer of its own."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from pipeline.language_model import LanguageModel
    from pipeline.stages.tokenizer import train, wrap

    tokenizer = wrap(train(documents, vocab_size=VOCABULARY))
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=688,
        num_hidden_layers=6,
        num_attention_heads=4,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    torch.manual_seed(0)
    return LanguageModel(LlamaForCausalLM(config).eval(), tokenizer, "benchmark")


def worker(name: str, num: int) -> dict[str, float]:
    """Items a second of one contender, and how far its first items are from ours."""
    shape, who, *batch = name.split()
    documents = texts()
    asked = requests(shape, num, documents)
    # A vocabulary that knows the words of the answers, too.
    model = language_model([*documents[:20_000], *dict.fromkeys(answer for _, answer in asked)])
    score = ours if who == "ours" else harness(model, int(batch[0]))
    score(model, asked[:CHECKED])
    begun = time.perf_counter()
    found = score(model, asked)
    seconds = time.perf_counter() - begun
    expected = ours(model, asked[:CHECKED])
    distance = max(abs(a - b) for a, b in zip(found, expected, strict=False))
    return {"items_per_second": len(asked) / seconds, "distance": distance}


def ours(model, asked):
    """Summed log-probabilities by our evaluation."""
    from pipeline.loglikelihood import continuation_logprobs

    return [sum(values) for values in continuation_logprobs(model, asked)]


def harness(model, batch: int):
    """The same by the harness, its model in memory."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    wrapped = HFLM(
        pretrained=model.model, tokenizer=model.tokenizer, batch_size=batch, max_length=CONTEXT, device="cpu"
    )

    def score(_, asked):
        instances = [Instance("loglikelihood", {}, pair, place) for place, pair in enumerate(asked)]
        return [value for value, _ in wrapped.loglikelihood(instances, disable_tqdm=True)]

    return score


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--worker", choices=CONTENDERS)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=SHAPES)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(worker(options.worker, options.items)))
        return
    found = turns.medians(
        __file__,
        [name for name in CONTENDERS if name.split()[0] in options.shapes],
        rounds=options.rounds,
        options=["--items", str(options.items)],
    )
    print(f"{'contender':<24}{'items/s':>10}{'distance':>12}")
    for name, figures in found.items():
        print(f"{name:<24}{figures['items_per_second']:>10.0f}{figures['distance']:>12.1e}")
    for shape in options.shapes:
        fastest = turns.best(found, "items_per_second", f"{shape} harness")
        print(f"{shape}: {found[f'{shape} ours']['items_per_second'] / fastest:.2f} times the harness")


if __name__ == "__main__":
    main()
