"""Attention over short sequences, against PyTorch's own and inside transformers' models."""

import copy

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AutoModelForCausalLM

from pipeline import short_attention
from pipeline.lean import make_lean
from pipeline.short_attention import NAME, causal_attention

SIZES = {
    "llama": {"num_key_value_heads": 2},
    "gpt2": {"n_positions": 64},
    "qwen2": {"num_key_value_heads": 1},
    "qwen3": {"num_key_value_heads": 2, "head_dim": 8},
    "mistral": {"num_key_value_heads": 2, "sliding_window": 5},
    "gpt_neox": {},
}


def drawn(*shape, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype).requires_grad_()


@pytest.mark.parametrize("key_heads", [6, 3, 1])
@pytest.mark.parametrize("transposed", [False, True])
def test_equals_pytorch_with_its_gradients(key_heads, transposed):
    torch.manual_seed(0)
    query, key, value = drawn(3, 6, 7, 4), drawn(3, key_heads, 7, 4), drawn(3, key_heads, 7, 4)
    if transposed:  # as transformers hands them over: (batch, time, heads, size) seen from elsewhere
        query, key, value = (
            x.detach().transpose(1, 2).contiguous().transpose(1, 2).requires_grad_()
            for x in (query, key, value)
        )
    ours = causal_attention(query, key, value, 0.3)
    theirs = scaled_dot_product_attention(query, key, value, is_causal=True, scale=0.3, enable_gqa=True)
    theirs = theirs.transpose(1, 2)
    assert torch.allclose(ours, theirs, atol=1e-12)
    upstream = torch.randn_like(ours)
    for mine, other in zip(
        torch.autograd.grad(ours, (query, key, value), upstream),
        torch.autograd.grad(theirs, (query, key, value), upstream),
        strict=True,
    ):
        assert torch.allclose(mine, other, atol=1e-12)


def test_gradients_are_those_of_finite_differences():
    torch.manual_seed(0)
    arguments = drawn(2, 4, 5, 3), drawn(2, 2, 5, 3), drawn(2, 2, 5, 3)
    assert torch.autograd.gradcheck(lambda *x: causal_attention(*x, 0.5), arguments)


def test_under_autocast_it_is_in_autocast_s_type_and_about_as_exact_as_pytorch_s():
    torch.manual_seed(0)
    query, key, value = (drawn(4, 2, 32, 16, dtype=torch.float32) for _ in range(3))
    exact = scaled_dot_product_attention(query, key, value, is_causal=True).transpose(1, 2)
    with torch.autocast("cpu", torch.bfloat16):
        ours = causal_attention(query, key, value, 0.25)
        theirs = scaled_dot_product_attention(query, key, value, is_causal=True).transpose(1, 2)
    assert ours.dtype == torch.bfloat16
    gaps = [(x.float() - exact).square().mean().sqrt().item() for x in (ours, theirs)]
    # Scores and weights are rounded to bfloat16 between the products; PyTorch's kernel keeps them in float32.
    assert gaps[0] < 2 * gaps[1]
    gradients = torch.autograd.grad(ours.float().sum(), (query, key, value))
    assert [x.dtype for x in gradients] == [torch.float32] * 3


@pytest.mark.parametrize("name", SIZES)
def test_a_lean_model_computes_what_it_computed(tiny_model, name):
    model, plain = tiny_model(name, **SIZES[name]), tiny_model(name, **SIZES[name])
    make_lean(model)
    assert model.config._attn_implementation == NAME
    tokens = torch.arange(36).view(3, 12) % 29
    ours, theirs = model(input_ids=tokens, labels=tokens), plain(input_ids=tokens, labels=tokens)
    # The order of sums differs.
    assert torch.allclose(ours.logits, theirs.logits, rtol=1e-4, atol=1e-5)
    ours.loss.backward()
    theirs.loss.backward()
    for mine, other in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(mine.grad, other.grad, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_masked_rows_are_left_to_pytorch(tiny_model, name, side):
    model, plain = tiny_model(name, **SIZES[name]), tiny_model(name, **SIZES[name])
    make_lean(model)
    mask = torch.ones(2, 9, dtype=torch.long)
    mask[1, slice(0, 4) if side == "left" else slice(5, 9)] = 0
    inputs = {"input_ids": torch.arange(18).view(2, 9), "attention_mask": mask}
    real = mask.bool()
    ours, theirs = model(**inputs).logits[real], plain(**inputs).logits[real]
    assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_it_is_used_on_short_sequences_alone(tiny_model, monkeypatch):
    calls = []
    real = short_attention.causal_attention
    monkeypatch.setattr(short_attention, "LONGEST", 8)
    monkeypatch.setattr(
        short_attention, "causal_attention", lambda *x: calls.append(x[0].shape[2]) or real(*x)
    )
    model = tiny_model("llama", **SIZES["llama"])
    make_lean(model)
    for length in (1, 2, 8, 9):
        model(input_ids=torch.arange(length)[None])
    assert calls == [2, 2, 8, 8]  # two layers each


def test_dropout_and_other_kinds_of_attention_are_left_as_they_are(tiny_model):
    eager = tiny_model("llama", attn_implementation="eager")
    make_lean(eager)
    assert eager.config._attn_implementation == "eager"
    model = tiny_model("gpt2", attn_pdrop=0.5, n_positions=64)
    make_lean(model)
    dropped = copy.deepcopy(model).train()
    tokens = torch.arange(12)[None]
    assert not torch.allclose(dropped(input_ids=tokens).logits, dropped(input_ids=tokens).logits)


def test_a_lean_model_is_saved_like_any_other(tiny_model, tmp_path):
    model = tiny_model("llama")
    make_lean(model)
    model.save_pretrained(tmp_path)
    assert f'"{NAME}"' not in (tmp_path / "config.json").read_text()
    assert AutoModelForCausalLM.from_pretrained(tmp_path).config._attn_implementation == "sdpa"


def test_under_autocast_queries_and_keys_stay_in_its_type(tiny_model, monkeypatch):
    seen = []
    real = short_attention.causal_attention
    monkeypatch.setattr(
        short_attention,
        "causal_attention",
        lambda q, k, v, scale: seen.append(q.dtype) or real(q, k, v, scale),
    )
    model = tiny_model("llama")
    make_lean(model)
    with torch.autocast("cpu", torch.bfloat16):
        make_lean(model)  # a second time changes nothing
    assert len(model.model.rotary_emb._forward_hooks) == 1
    exact = model(input_ids=torch.arange(12)[None]).logits
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model(input_ids=torch.arange(12)[None]).logits
    assert seen == [torch.float32] * 2 + [torch.bfloat16] * 2
    assert not torch.equal(exact, rounded)


def test_complex_rotations_are_left_as_they_are():
    class ComplexRotaryEmbedding(torch.nn.Module):
        def forward(self, angles):
            return torch.polar(torch.ones_like(angles), angles)

    model = ComplexRotaryEmbedding()
    make_lean(model)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model(torch.arange(3.0)), ComplexRotaryEmbedding()(torch.arange(3.0)))
