"""Lean decoding steps, against transformers' own."""

import pytest
import torch

from pipeline import decoder_kernel, lean_decoder
from pipeline.rollout import sample
from reward.role_adapters import POLICY, Trunk

LEAN = {
    "llama": {},
    "llama with biases": {"attention_bias": True, "mlp_bias": True},
    "qwen2": {"num_key_value_heads": 1},
    "qwen3": {"num_key_value_heads": 2, "head_dim": 16},
    "mistral": {"num_key_value_heads": 2, "sliding_window": None},
    "smollm3": {"num_key_value_heads": 2},
    "llama with scaled positions": {
        "rope_parameters": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4}
    },
}
OTHERS = {
    "gpt2": {},
    "gemma": {"head_dim": 8, "num_key_value_heads": 4},
    "granite": {"residual_multiplier": 0.3},
    "mistral": {"num_key_value_heads": 2, "sliding_window": 4},
    "smollm3": {"num_hidden_layers": 4},  # its fourth layer does not rotate
    "llama": {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}},
}
PROMPTS = [[1, 5, 9], [1, 7, 3, 4, 8, 11, 6], [1, 4], [1, 9, 9, 9, 2]]


def drawn(model, tokens=80, stop_ids=(2,)):
    return sample(model, PROMPTS, keys=range(4), max_new_tokens=tokens, stop_ids=stop_ids, pad_id=0)


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("name", LEAN)
def test_completions_and_logprobs_are_those_of_transformers_steps(tiny_model, name, compiled, monkeypatch):
    if not compiled:
        monkeypatch.setattr(decoder_kernel, "load", lambda dtype, size: None)
    elif decoder_kernel.load(torch.float32, 8) is None:
        pytest.skip("no C compiler with OpenMP here, or PyTorch has threads of its own kind")
    model = tiny_model(name.split()[0], noise=0.1, **LEAN[name])
    assert lean_decoder.qualifies(model)
    # 80 tokens after a prompt of 7 make the cache grow three times; rows end at different places.
    ours = drawn(model)
    monkeypatch.setattr(lean_decoder, "qualifies", lambda model: False)
    theirs = drawn(model)
    assert ours.mask.sum(dim=1).unique().numel() > 1
    assert ours.completions() == theirs.completions()
    assert torch.allclose(ours.logprobs, theirs.logprobs, atol=1e-4)  # nats; the order of sums differs


def test_in_bfloat16_it_is_closer_to_the_exact_log_probabilities_than_transformers_steps(
    tiny_model, monkeypatch
):
    exact = tiny_model("llama", noise=0.1)
    rounded = tiny_model("llama", noise=0.1).bfloat16()
    gaps = []
    for _ in range(2):
        found = drawn(rounded, stop_ids=())
        rows = torch.tensor([[1, 5, 9, *found.tokens[0].tolist()]])
        with torch.no_grad():
            logits = exact(rows).logits[0, 2:-1]
        expected = logits.log_softmax(-1).gather(1, found.tokens[0][:, None])[:, 0]
        gaps.append((found.logprobs[0] - expected).abs().mean().item())
        monkeypatch.setattr(lean_decoder, "qualifies", lambda model: False)
    assert gaps[0] < gaps[1]


@pytest.mark.parametrize("name", OTHERS)
def test_other_architectures_take_transformers_steps(tiny_model, name):
    model = tiny_model(name.split()[0], noise=0.1, **OTHERS[name])
    assert not lean_decoder.qualifies(model)
    assert drawn(model, tokens=3).tokens.shape == (4, 3)


def test_models_with_adapters_under_autocast_or_too_large_take_transformers_steps(tiny_model, monkeypatch):
    model = tiny_model("llama", noise=0.1)
    assert lean_decoder.qualifies(model)
    with torch.autocast("cpu", torch.bfloat16):
        assert not lean_decoder.qualifies(model)
    monkeypatch.setattr(lean_decoder, "MOST_PARAMETERS", model.num_parameters() - 1)
    assert not lean_decoder.qualifies(model)
    monkeypatch.undo()
    Trunk(model).add(POLICY, rank=2, alpha=4, seed=0)
    assert not lean_decoder.qualifies(model)


def test_it_reads_the_weights_of_the_moment(tiny_model):
    model = tiny_model("llama", noise=0.1)
    before = drawn(model, tokens=5).completions()
    model.lm_head.weight.data.neg_()
    assert drawn(model, tokens=5).completions() != before
