"""Loading, generating, streaming and scoring agree with each other and with plain transformers."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from data.errors import InputError
from pipeline.language_model import UNLIMITED, LanguageModel, context_of
from pipeline.stages.tokenizer import train, wrap

SENTENCES = ["Mara lives in the town of Brell.", "Who mends the clocks?\nNobody does, said Mara."] * 20
CHAT = [{"role": "user", "content": "Who mends the clocks of <|end|> Brell?"}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("stage") / "model"
    tokenizer = wrap(train(SENTENCES, vocab_size=290))
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=128, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = LlamaForCausalLM(config)
        for parameter in model.parameters():
            parameter.data += 0.3 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_stage_directory_and_its_model_folder_load_alike(folder):
    prompts, options = ["Mara", CHAT], {"keys": [1, 2], "max_new_tokens": 11, "temperature": 0.7}
    stage = LanguageModel.load(folder.parent).generate(prompts, **options)
    assert stage == LanguageModel.load(folder).generate(prompts, **options)


def test_greedy_answer_is_that_of_plain_transformers(folder):
    ours = LanguageModel.load(folder)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    plain = [{"role": "user", "content": "Who mends the clocks?"}]
    [answer] = ours.generate([plain], keys=[0], max_new_tokens=13, temperature=0.0)
    inputs = tokenizer.apply_chat_template(
        plain, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    expected = model.generate(**inputs, max_new_tokens=13, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert answer.tokens == expected.tolist()


def test_stream_yields_the_tokens_of_generate(folder):
    model = LanguageModel.load(folder)
    [answer] = model.generate([CHAT], keys=[5], max_new_tokens=17, temperature=1.0)
    streamed = list(model.stream(CHAT, key=5, max_new_tokens=17, temperature=1.0))
    assert [token for token, _ in streamed] == answer.tokens
    assert [logprob for _, logprob in streamed] == pytest.approx(answer.logprobs, abs=1e-5)


def test_logprobs_do_not_depend_on_the_batch(folder):
    model = LanguageModel.load(folder)
    prompts, completions = (
        ["Mara", CHAT, "Who mends"],
        [" lives in the town.", "Nobody does.", " the clocks?"],
    )
    together = model.logprobs(prompts, completions)
    for prompt, completion, found in zip(prompts, completions, together, strict=True):
        [alone] = model.logprobs([prompt], [completion], batch_size=1)
        assert found == pytest.approx(alone, abs=1e-5)  # float32 sums in another order
        ids = model.encode(prompt)
        whole = ids + model.tokenizer(completion, add_special_tokens=False)["input_ids"]
        logits = model.model(torch.tensor([whole])).logits[0].log_softmax(-1)
        expected = [logits[place - 1, whole[place]].item() for place in range(len(ids), len(whole))]
        assert alone == pytest.approx(expected, abs=1e-5)


def test_text_ends_before_the_stop_character(folder):
    model = LanguageModel.load(folder)
    completions = model.generate(
        ["Who mends the clocks?"] * 40, keys=range(40), max_new_tokens=25, temperature=1.0, stop="e"
    )
    assert any(completion.ended for completion in completions)
    assert not any("e" in completion.text for completion in completions)


def test_a_folder_without_safetensors_is_refused(folder, tmp_path):
    with pytest.raises(InputError, match=r"no model could be loaded.*safetensors"):
        LanguageModel.load(tmp_path)
    other = tmp_path / "pickled"
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.config.save_pretrained(other)
    torch.save(model.state_dict(), other / "pytorch_model.bin")
    with pytest.raises(InputError, match="no model could be loaded"):
        LanguageModel.load(other)


def test_the_context_is_the_longest_sequence_that_a_model_takes():
    """MPT calls it by another name, and its biases end there; Bloom's have no end."""
    sizes = {
        "mpt": {"d_model": 16, "n_layers": 1, "n_heads": 2, "max_seq_len": 16},
        "bloom": {"hidden_size": 16, "n_layer": 1, "n_head": 2},
    }
    found = {
        kind: AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, vocab_size=40, **size))
        for kind, size in sizes.items()
    }
    assert context_of(found["mpt"]) == 16
    assert context_of(found["bloom"]) == UNLIMITED
    found["mpt"](input_ids=torch.arange(16)[None])
    with pytest.raises(RuntimeError, match="size of tensor"):
        found["mpt"](input_ids=torch.arange(17)[None])


def test_a_damaged_folder_is_refused(folder, tmp_path):
    for name, text in (("model.safetensors", "torn"), ("tokenizer.json", "{}")):
        damaged = Path(shutil.copytree(folder, tmp_path / name))
        (damaged / name).write_text(text)
        with pytest.raises(InputError, match="no model could be loaded"):
            LanguageModel.load(damaged)


def test_a_model_without_all_its_weights_is_refused(folder, tmp_path):
    other = Path(shutil.copytree(folder, tmp_path / "other"))
    settings = json.loads((other / "config.json").read_text())
    settings["num_hidden_layers"] += 1
    settings.pop("layer_types", None)
    (other / "config.json").write_text(json.dumps(settings))
    with pytest.raises(InputError, match=r"weights of .* are not there, such as .*random"):
        LanguageModel.load(other)


def test_a_model_that_sees_what_follows_is_refused(folder, tmp_path, tiny_model):
    tiny_model("bert", vocab_size=300).save_pretrained(tmp_path / "bert")
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "bert")
    with pytest.raises(InputError, match=r"follows it in view.*causal"):
        LanguageModel.load(tmp_path / "bert")


def test_a_tokenizer_of_another_model_is_refused(folder, tmp_path, tiny_model):
    tiny_model("gpt2", vocab_size=100).save_pretrained(tmp_path / "small")
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "small")
    with pytest.raises(InputError, match=r"knows \d+ tokens and the model 100; give the tokenizer"):
        LanguageModel.load(tmp_path / "small").check_tokenizer()
    LanguageModel.load(folder).check_tokenizer()


def test_a_pad_token_without_an_embedding_changes_no_score(folder, tmp_path):
    other = shutil.copytree(folder, tmp_path / "other")
    tokenizer = AutoTokenizer.from_pretrained(other)
    tokenizer.add_special_tokens({"pad_token": "<added>"})
    tokenizer.save_pretrained(other)
    asked = ["Mara lives", "Who"], [" in Brell.", " mends?"]
    expected = LanguageModel.load(folder).logprobs(*asked)
    for found, values in zip(LanguageModel.load(other).logprobs(*asked), expected, strict=True):
        assert found == pytest.approx(values, abs=1e-5)
