"""Adapters of several stages on one model in memory say what the merged models say."""

import json

import pytest
import torch

from pipeline.adapted import ADAPTER, load_adapted, load_on_policy
from pipeline.critic import load_critic, save_critic
from pipeline.language_model import LanguageModel
from pipeline.shared_weights import share_equal
from reward.role_adapters import POLICY, VALUE, Trunk, make_reproducible

TOKENS = torch.tensor([[1, 5, 9, 11, 7, 2]])


def trained(model, seed, *roles):
    """A trunk whose adapters say something."""
    trunk = Trunk(model)
    generator = torch.Generator().manual_seed(seed)
    for role in roles:
        trunk.add(role, rank=2, alpha=4, seed=seed)
        with torch.no_grad():
            for parameter in trunk.parameters(role).values():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return trunk


def stage(folder, model, tokenizer, key, policy=None):
    """A finished stage with its model; `policy` is (name, key) of the stage that it started from."""
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    record = {"key": key, "inputs": {"policy": [list(policy)]} if policy else {}}
    (folder / "stage.json").write_text(json.dumps(record))


@pytest.fixture(params=["llama", "gpt2"])
def chain(request, tmp_path, tiny_model, small_tokenizer):
    """base, sft with an adapter on it, ppo with adapters for policy and critic on that."""
    kind = request.param
    base = tiny_model(kind)
    stage(tmp_path / "base", base, small_tokenizer, "a")
    sft_trunk = trained(tiny_model(kind), 1, POLICY)
    sft = sft_trunk.merge_into(tiny_model(kind), POLICY)
    stage(tmp_path / "sft", sft, small_tokenizer, "b", ("base", "a"))
    (tmp_path / "sft" / ADAPTER).mkdir()
    sft_trunk.save(POLICY, tmp_path / "sft" / ADAPTER)
    ppo_trunk = trained(LanguageModel.load(tmp_path / "sft").model, 2, POLICY, VALUE)
    ppo = ppo_trunk.merge_into(LanguageModel.load(tmp_path / "sft").model, POLICY)
    stage(tmp_path / "ppo", ppo, small_tokenizer, "c", ("sft", "b"))
    (tmp_path / "ppo" / ADAPTER).mkdir()
    ppo_trunk.save(POLICY, tmp_path / "ppo" / ADAPTER)
    critic = ppo_trunk.merge_into(LanguageModel.load(tmp_path / "sft").model, VALUE).base_model
    head = torch.nn.Linear(base.config.hidden_size, 1)
    (tmp_path / "ppo" / "value" / ADAPTER).mkdir(parents=True)
    save_critic(tmp_path / "ppo" / "value", head, critic)
    ppo_trunk.save(VALUE, tmp_path / "ppo" / "value" / ADAPTER)
    return tmp_path


def logits(model):
    with torch.no_grad():
        return model(input_ids=TOKENS).logits


def storage(models):
    tensors = {parameter.data_ptr(): parameter for model in models for parameter in model.parameters()}
    return sum(parameter.numel() for parameter in tensors.values())


@pytest.mark.parametrize("name", ["base", "sft", "ppo"])
def test_they_say_what_the_merged_models_say(chain, name):
    adapted, merged = load_adapted(chain / name), LanguageModel.load(chain / name)
    assert adapted.source == merged.source
    torch.testing.assert_close(logits(adapted.model), logits(merged.model), atol=1e-5, rtol=1e-5)
    if name != "base":
        assert not any(parameter.requires_grad for parameter in adapted.model.parameters())
        before = LanguageModel.load(chain / {"sft": "base", "ppo": "sft"}[name])
        assert (logits(adapted.model) - logits(before.model)).abs().max() > 1e-2


def test_together_they_take_one_model_and_the_adapters(chain):
    models = []
    for name in ("base", "sft", "ppo"):
        models.append(load_adapted(chain / name).model)
        share_equal(models[-1], models[:-1])
    alone = storage(models[:1])
    lora = {p.data_ptr(): p for m in models for name, p in m.named_parameters() if "lora_" in name}
    assert storage(models) == alone + sum(p.numel() for p in lora.values())
    # The critic needs no more than its adapter, either.
    critic = load_on_policy(chain / "ppo", chain / "ppo" / "value" / ADAPTER).model
    share_equal(critic, models)
    own = sum(p.numel() for name, p in critic.named_parameters() if "adapter1" in name)
    assert own > 0
    assert storage([*models, critic]) == storage(models) + own


def test_values_are_those_of_the_merged_critic(chain):
    policy = load_adapted(chain / "ppo").model
    found = load_critic(chain / "ppo", policy)(TOKENS[0].tolist())
    for path in sorted((chain / "ppo" / "value" / ADAPTER).iterdir()):
        path.unlink()
    (chain / "ppo" / "value" / ADAPTER).rmdir()
    merged = load_critic(chain / "ppo", policy)(TOKENS[0].tolist())
    assert merged.std() > 0
    torch.testing.assert_close(found, merged, atol=1e-5, rtol=1e-5)


def test_below_a_model_that_was_trained_anew_nothing_is_put_together(chain):
    record = json.loads((chain / "sft" / "stage.json").read_text())
    (chain / "sft" / "stage.json").write_text(json.dumps(record | {"key": "another"}))
    found = load_adapted(chain / "ppo")
    assert torch.equal(logits(found.model), logits(LanguageModel.load(chain / "ppo").model))
    assert not [name for name, _ in found.model.named_parameters() if "lora_" in name]
    assert load_on_policy(chain / "ppo", chain / "ppo" / "value" / ADAPTER) is None


def test_files_are_the_same_in_every_process(tmp_path):
    (tmp_path / "adapter_config.json").write_text(
        json.dumps({"target_modules": ["b", "c", "a"], "r": 2, "base_model_name_or_path": "/somewhere"})
    )
    (tmp_path / "README.md").write_text("base_model: /somewhere")
    make_reproducible(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["adapter_config.json"]
    found = json.loads((tmp_path / "adapter_config.json").read_text())
    assert found == {"base_model_name_or_path": "", "r": 2, "target_modules": ["a", "b", "c"]}
