"""The exported folder is the run's model as plain transformers reads it; a wrong one never gets its name."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from data.chat import encode_prompt
from data.errors import InputError
from data.rows import Message
from pipeline import export as module
from pipeline.checkpoint import write_json
from pipeline.export import export
from pipeline.language_model import LanguageModel
from pipeline.run_directory import RUN_JSON, finish_stage
from pipeline.stages.tokenizer import train, wrap

CHAT = [Message(role="user", content="where is the mill?")]


@pytest.fixture
def run_dir(tmp_path, tiny_llama):
    """A finished run of a tokenizer, a base and a chat model, and an evaluation without any."""
    folder = tmp_path / "runs" / "toy"
    tokenizer = wrap(train(["where is the mill? the mill is here."] * 9, vocab_size=275))
    stages = {
        "tokenizer": ("tokenizer", {}, None),
        "pretrain": ("pretrain", {"tokenizer": [["tokenizer", "k"]]}, 0),
        "chatty": ("ppo", {"policy": [["pretrain", "k"]]}, 1),
        "other": ("sft", {"policy": [["pretrain", "k"]]}, 2),
        "evaluate": ("evaluate", {"models": [["chatty", "k"]]}, None),
    }
    for name, (kind, inputs, seed) in stages.items():
        stage = folder / "stages" / name
        stage.mkdir(parents=True)
        if seed is not None:
            model = tiny_llama(vocabulary=len(tokenizer), seed=seed)
            model.generation_config = GenerationConfig(pad_token_id=0, bos_token_id=1, eos_token_id=2)
            model.save_pretrained(stage / "model")
            tokenizer.save_pretrained(stage / "model")
        finish_stage(stage, {"stage": kind, "key": "k", "inputs": inputs, "config": {"who": f"a|{name}"}})
    listed = [{"name": name, "stage": kind} for name, (kind, _, _) in stages.items()]
    write_json(folder / RUN_JSON, {"recipe": "toy", "seed": 5, "stages": listed})
    figure = {"name": "gold/mean", "low": 0.25, "high": 0.5, "n": 40}
    figures = [{**figure, "stage": "chatty", "value": 0.375}, {**figure, "stage": "base", "value": 0.125}]
    write_json(folder / "report.json", {"figures": figures})
    return folder


def test_plain_transformers_answers_as_we_do(run_dir, tmp_path):
    folder = export(run_dir, "chatty", tmp_path / "out" / "model")
    ours = LanguageModel.load(run_dir / "stages" / "chatty")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    tokens = tokenizer.apply_chat_template(
        CHAT, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    assert tokens["input_ids"][0].tolist() == encode_prompt(ours.tokenizer, CHAT)
    with torch.inference_mode():
        theirs, mine = (m(input_ids=tokens["input_ids"]).logits for m in (model, ours.model))
        greedy = model.generate(**tokens, max_new_tokens=12, do_sample=False)
    assert torch.equal(theirs, mine)
    (completion,) = ours.generate([CHAT], keys=[0], max_new_tokens=12, temperature=0.0)
    assert greedy[0, tokens["input_ids"].shape[1] :].tolist() == completion.tokens
    assert not list(folder.parent.glob(".*"))


def test_the_card_says_how_the_model_was_made_and_what_was_measured(run_dir, tmp_path):
    card = (export(run_dir, "chatty", tmp_path / "model") / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\n")
    made_by = [line.split("|")[1].strip() for line in card.splitlines() if line.startswith("| ")]
    assert made_by[1:4] == ["tokenizer", "pretrain", "chatty"]
    assert '`{"who": "a\\|chatty"}`' in card
    assert "with seed 5" in card
    assert "| gold/mean | 0.375 | 0.25 to 0.5 | 40 |" in card
    assert "0.125" not in card
    assert str(tmp_path) not in card
    base = (export(run_dir, "pretrain", tmp_path / "base") / "README.md").read_text()
    assert "| gold/mean | 0.125 |" in base
    assert "chatty" not in base


def test_a_run_without_report_has_a_card_without_figures(run_dir, tmp_path):
    (run_dir / "report.json").unlink()
    assert "## Measured" not in (export(run_dir, "chatty", tmp_path / "model") / "README.md").read_text()


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ("chaty", "did you mean `chatty`.*there are: pretrain, chatty, other"),
        ("evaluate", "not a finished stage of toy with a language model"),
    ],
)
def test_a_stage_without_language_model_is_refused(run_dir, tmp_path, stage, message):
    with pytest.raises(InputError, match=message):
        export(run_dir, stage, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_folder_that_holds_something_is_left_alone(run_dir, tmp_path):
    (tmp_path / "model").mkdir()
    export(run_dir, "chatty", tmp_path / "model")
    before = (tmp_path / "model" / "model.safetensors").read_bytes()
    with pytest.raises(InputError, match="exists and is not empty"):
        export(run_dir, "other", tmp_path / "model")
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == before


def test_a_damaged_stage_is_refused(run_dir, tmp_path):
    weights = run_dir / "stages" / "chatty" / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x00")
    with pytest.raises(InputError, match=r"damaged \(model/model.safetensors"):
        export(run_dir, "chatty", tmp_path / "model")


@pytest.mark.parametrize("spoilt", ["weights", "template"])
def test_a_copy_that_differs_is_found_and_removed(run_dir, tmp_path, monkeypatch, spoilt):
    copy = module.shutil.copytree

    def spoil(source, target):
        copy(source, target)
        if spoilt == "weights":
            tensors = load_file(target / "model.safetensors")
            tensors["model.norm.weight"] *= 2
            save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
        else:
            added = json.loads((target / "tokenizer.json").read_text())
            added["post_processor"] = None
            added["normalizer"] = {"type": "Lowercase"}
            (target / "tokenizer.json").write_text(json.dumps(added))

    monkeypatch.setattr(module.shutil, "copytree", spoil)
    with pytest.raises(RuntimeError, match="other logits" if spoilt == "weights" else "other tokens"):
        export(run_dir, "chatty", tmp_path / "model")
    assert {path.name for path in tmp_path.iterdir()} == {"runs"}
