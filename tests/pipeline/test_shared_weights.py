"""Equal weights of several models are in memory once."""

import pytest
import torch

from pipeline.shared_weights import share_equal


def storage(models):
    """Bytes that the parameters of all models take together."""
    tensors = {parameter.data_ptr(): parameter for model in models for parameter in model.parameters()}
    return sum(parameter.numel() * parameter.element_size() for parameter in tensors.values())


def test_a_last_layer_that_was_tuned_is_all_that_is_there_twice(tiny_model):
    first, second = tiny_model("llama"), tiny_model("llama")
    tokens = torch.tensor([[1, 5, 9, 4]])
    with torch.no_grad():
        second.model.layers[-1].mlp.up_proj.weight += 0.1
        before = [model(tokens).logits for model in (first, second)]
    alone, tuned = storage([first]), second.model.layers[-1].mlp.up_proj.weight
    saved = share_equal(second, [first])
    assert storage([first, second]) == alone + tuned.numel() * 4
    assert saved == alone - tuned.numel() * 4
    with torch.no_grad():
        after = [model(tokens).logits for model in (first, second)]
    assert all(map(torch.equal, before, after))
    assert not torch.equal(*before)


def test_adapters_share_the_trunk_that_they_stand_on(tiny_model):
    peft = pytest.importorskip("peft")
    plain, adapted = tiny_model("llama"), tiny_model("llama")
    torch.manual_seed(0)
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "up_proj"], init_lora_weights=False)
    peft.inject_adapter_in_model(config, adapted, adapter_name="policy")
    adapters = sum(p.numel() * 4 for name, p in adapted.named_parameters() if "lora" in name)
    share_equal(adapted, [plain])
    assert storage([plain, adapted]) == storage([plain]) + adapters


def test_other_types_and_shapes_are_left_alone(tiny_model):
    first, rounded, wider = (
        tiny_model("llama"),
        tiny_model("llama").bfloat16(),
        tiny_model("llama", hidden_size=64),
    )
    assert share_equal(rounded, [first]) == 0
    assert share_equal(wider, [first]) == 0
