"""A model whose chat template ends a turn with another token than its end token learns and says that one."""

import pytest
import torch

from data.chat import encode_chat, encode_prompt
from data.errors import InputError
from data.rows import user
from pipeline import pretrained
from pipeline.language_model import LanguageModel, publish_model
from pipeline.run import StageRun
from reward.scoring import encode

ANSWER = {"role": "assistant", "content": "A cat."}


@pytest.fixture(params=["gpt2", "qwen3"])
def model(request, save_foreign, tmp_path):
    return LanguageModel.load(save_foreign(tmp_path / "base", request.param, chatml=True))


def test_the_end_of_a_turn_ends_a_completion_beside_the_model_s_own_end(model, tmp_path):
    names = model.tokenizer.convert_ids_to_tokens
    assert names(model.end_ids) == ["<|end|>"]
    pretrained.check(model)
    pretrained.complete(model, seed=0)
    assert names(model.end_ids) == ["<|end|>", "<|im_end|>"]
    run = StageRun("pretrained", tmp_path / "run", seed=0)
    publish_model(run, model.model, model.tokenizer)
    assert names(LanguageModel.load(run.dir).end_ids) == ["<|end|>", "<|im_end|>"]


def test_rows_of_pairs_and_rewards_end_as_those_that_are_trained_on(model):
    said = encode_chat(model.tokenizer, [*user("What?"), ANSWER])
    taught = [token for token, counts in zip(said.tokens, said.mask, strict=True) if counts]
    rows = encode(model.tokenizer, [user("What?")] * 2, ["A cat."] * 2, [True, False])
    assert rows[0].tokens[rows[0].start :] == taught
    assert rows[1].tokens[rows[1].start :] == taught[:-1]
    assert rows[0].tokens[: rows[0].start] == encode_prompt(model.tokenizer, user("What?"))


def test_a_model_that_has_all_keeps_its_end(save_foreign, tmp_path):
    model = LanguageModel.load(save_foreign(tmp_path / "base", "llama"))
    pretrained.complete(model, seed=0)
    assert model.model.generation_config.eos_token_id == model.tokenizer.eos_token_id


def test_a_model_that_decodes_otherwise_than_it_reads_is_refused(save_foreign, tmp_path):
    """Mamba's state takes the padding before a prompt for text."""
    model = LanguageModel.load(save_foreign(tmp_path / "base", "mamba"))
    for weight in model.model.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    with pytest.raises(InputError, match="MambaForCausalLM is not supported: decoded in a padded batch"):
        pretrained.check(model)


def test_a_template_whose_answers_never_end_is_refused(save_foreign, tmp_path):
    template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    model = LanguageModel.load(save_foreign(tmp_path / "base", "llama", template=template))
    with pytest.raises(InputError, match="ends an answer with no special token"):
        pretrained.check(model)
