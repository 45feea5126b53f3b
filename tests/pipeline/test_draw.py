"""A draw inverts the cumulative distribution, by PyTorch and compiled."""

import pytest
import torch

from pipeline import decoder_kernel
from pipeline.decoder_operations import Operations
from pipeline.rollout import draw


@pytest.fixture(params=["plain", "compiled"])
def operations(request):
    """A factory of the operations for a number format."""

    def make(dtype=torch.float32):
        if request.param == "plain":
            return Operations()
        found = decoder_kernel.load(dtype, 8)
        if found is None:
            pytest.skip("no C compiler with OpenMP here, or PyTorch has threads of its own kind")
        return found

    return make


def test_draws_follow_the_softmax(operations):
    logits = torch.tensor([[0.0, 1.0, -1.0, 2.0, 0.5]])
    num = 20_011
    uniform = (torch.arange(num) + 0.5) / num
    tokens, logprobs = draw(logits.repeat(num, 1), uniform, temperature=0.7, operations=operations())
    expected = torch.softmax(logits[0] / 0.7, -1)
    # An even grid of uniforms inverts the distribution exactly, up to one grid point at each border.
    torch.testing.assert_close(torch.bincount(tokens, minlength=5) / num, expected, atol=2 / num, rtol=0)
    torch.testing.assert_close(logprobs.exp(), expected[tokens])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("vocabulary", [1, 5, 64, 1000, 4096])
def test_a_draw_is_where_the_cumulative_distribution_passes_the_uniform_number(operations, vocabulary, dtype):
    generator = torch.Generator().manual_seed(vocabulary)
    logits = (3 * torch.randn(500, vocabulary, generator=generator)).to(dtype)
    uniform = torch.rand(500, generator=generator)
    tokens, logprobs = draw(logits, uniform, temperature=0.7, operations=operations(dtype))
    exact = (logits.double() / 0.7).log_softmax(-1)
    # Of log-probabilities down to -30, whose last place in float32 is 2e-6.
    torch.testing.assert_close(logprobs.double(), exact.gather(1, tokens[:, None])[:, 0], atol=1e-5, rtol=0)
    after = exact.exp().cumsum(-1).gather(1, tokens[:, None])[:, 0]
    before = after - exact.exp().gather(1, tokens[:, None])[:, 0]
    # Sums of float32 are off by about their last place, 6e-8, and the uniform number ends 2^-22 before 1.
    assert bool((before <= uniform.double() + 1e-6).all())
    assert bool((after >= uniform.double() - 1e-6).all())


def test_a_token_without_a_share_is_never_drawn(operations):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4000, 300, generator=generator)
    logits = logits.masked_fill(torch.rand(4000, 300, generator=generator) < 0.9, -torch.inf)
    logits[:, 170] = 0.0  # one is left in each row
    ends = torch.tensor([0.0, 1 - 2**-24]).repeat(2000)
    assert draw(logits, ends, temperature=1.0, operations=operations())[1].isfinite().all()


@pytest.mark.parametrize("places", [slice(None), slice(3, 4)], ids=["all", "one"])
def test_logits_that_are_not_numbers_have_no_log_probability(operations, places):
    logits = torch.zeros(2, 70)
    logits[:, places] = torch.nan
    tokens, logprobs = draw(logits, torch.tensor([0.0, 0.9]), temperature=1.0, operations=operations())
    assert logprobs.isnan().all()
    assert bool(((tokens >= 0) & (tokens < 70)).all())


@pytest.mark.parametrize("chosen", [{"top_k": 3}, {"top_p": 0.6}, {"temperature": 0.0}], ids=str)
def test_what_is_not_compiled_is_drawn_the_same(operations, chosen):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(50, 70, generator=generator).bfloat16()
    uniform = torch.rand(50, generator=generator)
    wanted = {"temperature": 1.0} | chosen
    found = draw(logits, uniform, **wanted, operations=operations(torch.bfloat16))
    for mine, plain in zip(found, draw(logits, uniform, **wanted), strict=True):
        assert torch.equal(mine, plain)
