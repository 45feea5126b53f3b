"""A tiny run whose models are drawn, for evaluations that need models."""

import pytest

from data.rows import Item, TextRow, user, write_jsonl
from pipeline.checkpoint import write_json
from pipeline.stages.tokenizer import train, wrap
from tests.pipeline.evals.tiny_run import TEXTS


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """The folder of work outside runs, of this test alone."""
    monkeypatch.setattr("pipeline.kept_work.root", lambda: tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def tokenizer():
    return wrap(train(TEXTS * 3, vocab_size=300))


@pytest.fixture
def chain(tmp_path, tiny_llama, tokenizer):
    """A run with a pretrained, a tuned and an aligned model; the last two have the same weights."""
    folder = tmp_path / "runs" / "tiny"
    policies = {"pretrain": (1, None), "sft": (2, "pretrain"), "ppo": (2, "sft")}
    for name, (seed, policy) in policies.items():
        model = tiny_llama(vocabulary=len(tokenizer), seed=seed, context=48)
        model.save_pretrained(folder / "stages" / name / "model")
        tokenizer.save_pretrained(folder / "stages" / name / "model")
        inputs = {"policy": [[policy, "0"]]} if policy else {}
        write_json(folder / "stages" / name / "stage.json", {"stage": name, "inputs": inputs})
    corpus = folder / "stages" / "corpus"
    corpus.mkdir()
    write_json(corpus / "stage.json", {"stage": "corpus"})
    write_jsonl(corpus / "text.valid.jsonl", [TextRow(str(n), text) for n, text in enumerate(TEXTS)])
    write_jsonl(corpus / "text.train.jsonl", [TextRow(str(n), text) for n, text in enumerate(TEXTS)])
    write_jsonl(corpus / "items.test.jsonl", [Item(str(n), user(f"Where is the {n}?")) for n in range(7)])
    names = ["corpus", "pretrain", "sft", "ppo", "evaluate"]
    write_json(folder / "run.json", {"recipe": "tiny", "seed": 3, "stages": [{"name": n} for n in names]})
    return folder
