"""The recipe own_model, end to end, on tiny models of three families with rows of one's own and an own reward."""

import json
import math

import pytest
import torch

from pipeline.adapted import load_adapted
from pipeline.chat.voices import open_run
from pipeline.errors import TrainingFault
from pipeline.execute import execute
from pipeline.graph import load_recipe
from pipeline.language_model import LanguageModel
from pipeline.metrics import read_metrics
from pipeline.schedule import Selection

OWN_REWARD = """
from data.settings import Settings
class Config(Settings):
    word: str
def load(config, context):
    return lambda items, texts, ended: [len(text) % 3 + (config.word in text) for text in texts]
"""


def rows(folder, num=60):
    animals = ["cat", "dog", "hen", "cow"]
    chats, pairs, prompts = [], [], []
    for n in range(num):
        question = f"What is a {animals[n % 4]} {n}?"
        good, bad = f"A {animals[n % 4]} is a small animal.", "A mat."
        chats.append({"prompt": question, "completion": good})
        pairs.append({"prompt": f"Tell me of a {animals[n % 4]} {n}.", "chosen": good, "rejected": bad})
        prompts.append({"prompt": f"Do you know the {animals[n % 4]} {n}?"})
    folder.mkdir()
    for name, found in (("chats", chats), ("preferences", pairs), ("prompts", prompts)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))


SMALL = (
    "data_root=rows",
    "reward.control_pairs=0",
    "reward.normalise_prompts=8",
    "reward.max_new_tokens=8",
    "sft.gate_prompts=0",
    "ppo.num_episodes=32",
    "ppo.batch_size=16",
    "ppo.max_new_tokens=8",
    "ppo.max_kl=1000",
    "evaluate.max_new_tokens=8",
    "precision=float32",
)
ALL_WEIGHTS = ("sft.trainable=all", "reward.trainable=all", "ppo.learning_rate=1e-3")


@pytest.fixture
def finish(tmp_path, monkeypatch, save_foreign):
    """Runs own_model on a tiny model of a family with some changes, up to a stage, and returns the run."""
    monkeypatch.chdir(tmp_path)

    def run(kind, *changes, until=None, **options):
        save_foreign(tmp_path / "model", kind, **options)
        rows(tmp_path / "rows")
        recipe = load_recipe("own_model", [*SMALL, *changes], runs_dir=tmp_path / "runs")
        execute(recipe, runs_dir=tmp_path / "runs", name=None, selection=Selection(until=until))
        return tmp_path / "runs" / "own_model"

    return run


@pytest.mark.parametrize(
    ("kind", "chatml"), [("gpt2", False), ("llama", False), ("qwen3", False), ("qwen3", True)]
)
def test_it_runs_from_a_folder_and_three_files(kind, chatml, tmp_path, finish):
    changes = ["ppo.unended_score=null"]
    if kind == "llama":
        (tmp_path / "mine.py").write_text(OWN_REWARD)
        changes += ["ppo.rewards={mine.py: {weight: 1.0, settings: {word: animal}}, learned: 0.5}"]
    run = finish(kind, *changes, chatml=chatml)
    stages = run / "stages"
    assert LanguageModel.load(stages / "ppo").model.config.model_type == kind
    if kind == "llama":
        metrics = read_metrics(stages / "ppo" / "metrics.jsonl")
        assert {"reward/mine.py", "reward/learned"} <= metrics[0].keys()
        record = json.loads((stages / "ppo" / "stage.json").read_text())
        assert "mine.py" in json.dumps(record["files"])
    figures = json.loads((run / "report.json").read_text())["figures"]
    start = "pretrained" if chatml else "base"  # a model with a template is not asked in the plain format
    assert {start, "sft", "ppo"} <= {figure["stage"] for figure in figures}
    talk_from_one_model(run, start)


@pytest.mark.parametrize("kind", ["gemma2", "gpt_neox", "mixtral", "opt", "qwen2_moe"])
def test_other_architectures_run_too(kind, finish):
    """Bounded logits, weights saved by other names, experts with a router, states narrower than the layers."""
    run = finish(kind, "ppo.unended_score=null", until="ppo")
    stages = run / "stages"
    first = read_metrics(stages / "ppo" / "metrics.jsonl")[0]
    merged, adapted = LanguageModel.load(stages / "ppo"), load_adapted(stages / "ppo")
    text = torch.tensor([merged.encode("A text.")])
    expected = merged.model(input_ids=text).logits
    torch.testing.assert_close(adapted.model(input_ids=text).logits, expected, atol=1e-4, rtol=1e-4)
    assert first["kl"] == pytest.approx(0, abs=1e-5)
    assert first["sampling_gap"] < 1e-5


@pytest.mark.parametrize("value_model", ["head", "separate"])
@pytest.mark.parametrize("kind", ["gpt2", "qwen3"])
def test_all_weights_learn(kind, value_model, finish):
    run = finish(kind, *ALL_WEIGHTS, f"ppo.value_model={value_model}", "ppo.unended_score=null", until="ppo")
    before, sft, after = (LanguageModel.load(run / "stages" / name) for name in ("pretrained", "sft", "ppo"))
    for old, new in ((before, sft), (sft, after)):
        start = old.model.state_dict()
        unmoved = [
            name for name, weight in new.model.state_dict().items() if torch.equal(weight, start[name])
        ]
        assert unmoved == []
    assert not (run / "stages" / "sft" / "adapter").exists()
    assert (run / "stages" / "ppo" / "value").is_dir()
    assert all(
        math.isfinite(row["value_loss"]) for row in read_metrics(run / "stages" / "ppo" / "metrics.jsonl")
    )


def test_too_few_pairs_to_normalise_by_are_named(finish, tmp_path):
    """The one prompt of two that is trained on has one score."""
    pairs = [{"prompt": prompt, "chosen": "A cat.", "rejected": "A mat."} for prompt in ("q", "q2")]
    few = tmp_path / "few.jsonl"
    few.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    with pytest.raises(TrainingFault, match="no variance: 1 sampled completions, to 1 of the 1 prompts"):
        finish("llama", f"corpus.source.preference_rows.path={few}", until="reward")


def test_a_chat_template_s_own_end_of_turn_is_learned_and_said(finish):
    """As in Qwen's base models, whose ChatML ends turns with another token than documents."""
    taught = ("sft.learning_rate=1e-2", "sft.epochs=10", "sft.batch_size=8", "ppo.max_new_tokens=24")
    run = finish("qwen3", *ALL_WEIGHTS, *taught, "ppo.value_model=separate", until="ppo", chatml=True)
    prompts = [[{"role": "user", "content": f"What is a {animal} 3?"}] for animal in ("cat", "dog", "hen")]
    for stage in ("sft", "ppo"):
        model = LanguageModel.load(run / "stages" / stage)
        said = model.generate(prompts, keys=[0, 1, 2], max_new_tokens=40, temperature=0)
        ends = model.tokenizer.convert_ids_to_tokens([answer.tokens[-1] for answer in said])
        assert ends == ["<|im_end|>"] * 3, [answer.text for answer in said]
    assert min(row["ends"] for row in read_metrics(run / "stages" / "ppo" / "metrics.jsonl")) > 0.5


def talk_from_one_model(run, start):
    """The start, SFT and PPO answer as the merged models do, and hold the weights below adapters once."""
    voices = open_run(run)
    talking = [voices.pick(name) for name in (start, "sft", "ppo")]
    held = {}
    for voice, folder in zip(talking, ("pretrained", "sft", "ppo"), strict=True):
        prompt = [{"role": "user", "content": "What is a cat 3?"}]
        merged = LanguageModel.load(run / "stages" / folder)
        tokens = merged.encode(prompt)
        expected = merged.model(input_ids=torch.tensor([tokens])).logits[0].detach()
        torch.testing.assert_close(voice.logits(tokens), expected, atol=1e-4, rtol=1e-4)
        held |= {p.data_ptr(): (name, p) for name, p in voice.logits.args[0].model.named_parameters()}
    plain = [p.numel() for name, p in held.values() if ".lora_" not in name]
    assert sum(plain) == LanguageModel.load(run / "stages" / "pretrained").model.num_parameters()
    assert talking[-1].values([1, 2, 3]).shape == (3,)
