"""Logits of many tokens are computed in chunks: the same numbers, and no tensor of all of them."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from reward import likelihood
from reward.implicit import completion_logprobs
from reward.output_head import is_plain
from reward.scoring import Row, pad

VOCABULARY = 251


class Largest(TorchDispatchMode):
    """Keeps the size of the largest result with one number for each token of the vocabulary."""

    numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **kwargs or {})
        if isinstance(found, torch.Tensor) and found.ndim and found.shape[-1] == VOCABULARY:
            self.numbers = max(self.numbers, found.numel())
        return found


@pytest.fixture(scope="module")
def model(tiny_llama):
    return tiny_llama(vocabulary=VOCABULARY)


@pytest.fixture(scope="module")
def batch():
    generator = torch.Generator().manual_seed(0)
    return pad(
        [Row(torch.randint(6, VOCABULARY, (n,), generator=generator).tolist(), 3) for n in (5, 31, 47)]
    )


def of_features(model, batch):
    return likelihood.likelihood(model, batch.tokens, batch.completion)


@torch.no_grad()
def of_log_ratios(model, batch):
    return completion_logprobs(model, batch.tokens, batch.completion)


@pytest.mark.parametrize("measure", [of_features, of_log_ratios])
@pytest.mark.parametrize("rows_at_once", [17, 23])
def test_chunks_give_the_same_numbers_and_bound_the_largest_tensor(
    model, batch, measure, rows_at_once, monkeypatch
):
    whole = measure(model, batch)
    monkeypatch.setattr(likelihood, "LOGITS_AT_ONCE", rows_at_once * VOCABULARY + 3)
    with Largest() as largest:
        chunked = measure(model, batch)
    torch.testing.assert_close(chunked, whole, atol=1e-5, rtol=1e-5)
    # More rows than the model is wide: its table, which counts as well, is smaller.
    assert largest.numbers == rows_at_once * VOCABULARY


@pytest.mark.parametrize("measure", [of_features, of_log_ratios])
def test_a_small_vocabulary_is_one_chunk(tiny_llama, measure, batch):
    """8,192 tokens of 2,048 at once: there, batches are computed whole, to the bit as without chunks."""
    assert likelihood.LOGITS_AT_ONCE >= 8192 * 2048
    model = tiny_llama(vocabulary=2048)
    is_plain(model)  # which tries the head once for each model
    calls = []
    model.get_output_embeddings().register_forward_hook(lambda *found: calls.append(len(found[2])))
    measure(model, batch)
    counted = int(batch.completion.sum())
    assert set(calls) == {counted}


def test_no_wanted_token_gives_no_number(model):
    tokens = torch.tensor([[7, 8, 9]])
    found = likelihood.of_logits(
        model, tokens, torch.zeros(1, 2, dtype=torch.bool), likelihood.token_features
    )
    assert found.shape == (0, 3)


def test_log_ratios_are_those_of_all_logits_to_the_bit(model, batch):
    with torch.no_grad():
        hidden = model.base_model(input_ids=batch.tokens)[0][:, :-1][batch.completion[:, 1:]]
        logprobs = model.get_output_embeddings()(hidden).log_softmax(dim=-1)
    wanted = batch.completion[:, 1:]
    taken = logprobs.gather(-1, batch.tokens[:, 1:][wanted][:, None]).squeeze(-1)
    expected = torch.zeros(wanted.shape).masked_scatter(wanted, taken).sum(dim=1)
    assert torch.equal(of_log_ratios(model, batch), expected)
