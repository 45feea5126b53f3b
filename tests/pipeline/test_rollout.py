"""Sampling: distribution, stop, padding, and log-probabilities against a full forward pass."""

from types import SimpleNamespace

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from pipeline.rollout import draw, sample

PROMPTS = [[1, 5, 9], [1, 7, 3, 4, 8, 11, 6], [1, 4], [1, 9, 9, 9, 2]]


class PreviousPlusOne(torch.nn.Module):
    """A known policy: the next token is the last one plus one, whatever else."""

    device = torch.device("cpu")

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        text = SimpleNamespace(num_hidden_layers=0)
        self.config = SimpleNamespace(get_text_config=lambda: text, _attn_implementation="eager")

    def forward(self, input_ids, **_):
        logits = torch.nn.functional.one_hot((input_ids[:, -1:] + 1) % self.vocabulary, self.vocabulary)
        return SimpleNamespace(logits=1e4 * logits.float())


def full_logprobs(model, prompt, completion, temperature=1.0):
    logits = model(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1]
    return torch.log_softmax(logits.float() / temperature, -1).gather(1, torch.tensor(completion)[:, None])[
        :, 0
    ]


def run(model, prompts=PROMPTS, temperature=1.0, keys=None, stop_ids=(2,), tokens=13, **options):
    keys = list(range(len(prompts))) if keys is None else keys
    return sample(
        model,
        prompts,
        keys=keys,
        max_new_tokens=tokens,
        stop_ids=stop_ids,
        pad_id=0,
        temperature=temperature,
        **options,
    )


def test_known_policy_counts_up_and_stops_at_the_stop_token():
    drawn = run(PreviousPlusOne(11), [[3], [5, 6], [8]], stop_ids=(9,), tokens=7)
    assert drawn.completions() == [[4, 5, 6, 7, 8, 9], [7, 8, 9], [9]]
    assert drawn.ended.all()


def test_completion_without_end_is_not_ended_and_all_counted():
    drawn = run(PreviousPlusOne(11), [[3], [8]], stop_ids=(9,), tokens=2)
    assert drawn.completions() == [[4, 5], [9]]
    assert drawn.ended.tolist() == [False, True]
    assert drawn.mask.tolist() == [[True, True], [True, False]]


@pytest.mark.parametrize("temperature", [0.7, 1.0])
@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen3"])
def test_logprobs_equal_a_full_forward_pass(tiny_llama, kind, temperature):
    model = make(kind, tiny_llama)
    drawn = run(model, temperature=temperature)
    for prompt, completion, logprobs in zip(PROMPTS, drawn.completions(), drawn.logprobs, strict=True):
        # float32: the cache sums in another order than the full pass.
        expected = full_logprobs(model, prompt, completion, temperature)
        torch.testing.assert_close(logprobs[: len(completion)], expected, atol=2e-5, rtol=0)


def make(kind, tiny_llama):
    small = {"vocab_size": 29, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    torch.manual_seed(3)
    if kind == "gpt2":
        return GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=64, **small)).eval()
    if kind == "qwen3":
        config = Qwen3Config(
            hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=1, head_dim=8, **small,
        )  # fmt: skip
        return Qwen3ForCausalLM(config).eval()
    return tiny_llama()


def test_completion_depends_on_its_own_key_and_prompt_alone(tiny_llama):
    model = tiny_llama()
    together = run(model, keys=[11, 12, 13, 14]).completions()
    for row in range(len(PROMPTS)):
        assert run(model, [PROMPTS[row]], keys=[11 + row]).completions() == [together[row]]
    assert run(model, keys=[11, 12, 13, 14], batch_size=3).completions() == together
    assert run(model, keys=[21, 22, 23, 24]).completions() != together


def test_rows_that_left_the_batch_change_nothing(tiny_llama):
    model = tiny_llama()
    prompts, keys = [PROMPTS[n % 4] for n in range(31)], list(range(31))
    stops = (2, 3, 4, 5, 6, 7, 8)
    drawn = run(model, prompts, keys=keys, stop_ids=stops).completions()
    assert len({len(completion) for completion in drawn}) > 2
    assert drawn == [
        run(model, [p], keys=[k], stop_ids=stops).completions()[0] for p, k in zip(prompts, keys, strict=True)
    ]


def test_top_k_and_top_p_drop_the_tail():
    logits = torch.tensor([[0.0, 1.0, -1.0, 2.0, 0.5]]).expand(101, 5)
    uniform = torch.linspace(0, 0.999, 101)
    assert set(draw(logits, uniform, temperature=1.0, top_k=2)[0].tolist()) == {1, 3}
    assert set(draw(logits, uniform, temperature=1.0, top_p=0.5)[0].tolist()) == {3}
    assert set(draw(logits, uniform, temperature=0.0)[0].tolist()) == {3}


@pytest.mark.parametrize(
    ("kind", "sizes"),
    [
        ("falcon", {"alibi": True, "num_kv_heads": 2, "new_decoder_architecture": False}),
        (
            "deepseek_v3",
            {
                "num_key_value_heads": 2,
                "first_k_dense_replace": 2,
                "intermediate_size": 32,
                "q_lora_rank": 8,
                "kv_lora_rank": 12,
                "qk_nope_head_dim": 8,
                "qk_rope_head_dim": 8,
                "v_head_dim": 4,
            },
        ),
    ],
)
def test_attention_of_its_own_and_values_of_another_width(kind, sizes):
    """Falcon computes its attention by itself, and what DeepSeek caches as values is wider than its keys."""
    common = {"vocab_size": 24, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **common, **sizes)).eval()
        for weight in model.parameters():
            torch.nn.init.normal_(weight, std=0.3)
    drawn = run(model)
    for prompt, completion, logprobs in zip(PROMPTS, drawn.completions(), drawn.logprobs, strict=True):
        expected = full_logprobs(model, prompt, completion)
        torch.testing.assert_close(logprobs[: len(completion)], expected, atol=1e-4, rtol=1e-4)
