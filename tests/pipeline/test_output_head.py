"""Logits from states, for models whose forward pass does more than their output head."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from pipeline.actor_critic import token_logprobs
from pipeline.rl import logprobs_of
from pipeline.sft import use_lean_head
from reward.implicit import completion_logprobs
from reward.output_head import is_plain
from reward.role_adapters import Role, Trunk

SIZE = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 40,
    "pad_token_id": None,
}
CLOSE = {"atol": 1e-5, "rtol": 1e-5}  # rounding in float32, of another order of sums
FAMILIES = {
    "llama": {},
    "opt": {"ffn_dim": 32, "word_embed_proj_dim": 8, "do_layer_norm_before": False},
    "cohere": {"logit_scale": 0.25},
    "granite": {"logits_scaling": 4.0},
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2},
    "gemma2": {"head_dim": 8, "final_logit_softcapping": 2.0},
}


@pytest.fixture(params=FAMILIES)
def model(request):
    config = AutoConfig.for_model(request.param, **{**SIZE, **FAMILIES[request.param]})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        found = AutoModelForCausalLM.from_config(config).eval()
        for parameter in found.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    return found


@pytest.fixture
def batch():
    tokens = torch.arange(20).view(2, 10) % 40 + 3
    return tokens, (torch.arange(10) > 3).expand(2, -1)


def expected(model, tokens, mask):
    return logprobs_of(model(input_ids=tokens).logits[:, :-1], tokens[:, 1:])[mask[:, 1:]]


def test_log_probabilities_are_those_of_the_forward_pass(model, batch):
    tokens, mask = batch
    wanted = expected(model, tokens, mask)
    found = token_logprobs(model, tokens, mask, temperature=1.0)[mask]
    torch.testing.assert_close(found, wanted, **CLOSE)
    torch.testing.assert_close(
        completion_logprobs(model, tokens, mask), wanted.view(2, -1).sum(dim=1), **CLOSE
    )
    found.sum().backward()
    by_head = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    wanted.sum().backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(by_head[name], parameter.grad, atol=1e-4, rtol=1e-4)  # sums of all


def test_so_they_are_with_adapters(model, batch):
    tokens, mask = batch
    wanted = expected(model, tokens, mask).detach()
    trunk = Trunk(model)
    trunk.add("policy", rank=2, alpha=2, seed=0)
    found = token_logprobs(Role(trunk, None), tokens, mask, temperature=1.0)[mask]
    torch.testing.assert_close(found, wanted, **CLOSE)


def test_sft_learns_by_the_forward_pass_s_logits(model, batch):
    tokens, mask = batch
    wanted = expected(model, tokens, mask)
    use_lean_head(model)
    labels = tokens.masked_fill(~mask, -100)
    found = model(input_ids=tokens, labels=labels, fused_lm_head=True)
    torch.testing.assert_close(found.log_probs[mask[:, 1:]], wanted, **CLOSE)


def test_only_models_that_scale_or_bound_their_logits_need_more_than_the_head(model):
    assert is_plain(model) == (model.config.model_type not in ("cohere", "granite", "gemma2"))


def test_a_model_whose_forward_pass_is_wrapped_is_judged_by_its_own(model):
    """As one in training is, which then rounds."""
    own, is_so = model.forward, model.config.model_type in ("llama", "opt", "gpt2")

    def rounded(*args, **inputs):
        with torch.autocast("cpu", torch.bfloat16):
            return own(*args, **inputs)

    model.forward = rounded
    assert is_plain(model) == is_so


def test_a_wrapped_forward_pass_is_not_entered_a_second_time(model, batch):
    """Accelerate wraps it in one autocast, which entered twice would stay on for good."""
    tokens, mask = batch
    use_lean_head(model)
    model.forward = torch.autocast("cpu", torch.bfloat16)(model.forward)
    for _ in range(2):
        model(input_ids=tokens, labels=tokens.masked_fill(~mask, -100), fused_lm_head=True)
        assert not torch.is_autocast_enabled("cpu")
