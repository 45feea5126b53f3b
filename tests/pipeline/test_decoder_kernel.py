"""The compiled operations of a decoder, against the definitions in float64."""

import pytest
import torch
from torch import nn

from pipeline import decoder_kernel
from pipeline.decoder_operations import Heads, Kept, Norm, Operations, Place
from pipeline.rollout import sample

# Rounding of one result: float32 sums of some hundred terms; half of bfloat16's last place, 2^-9 of the number,
# which keys and values in the cache pass through as well.
BOUNDS = {
    torch.float32: {"rtol": 1e-5, "atol": 1e-5},
    torch.bfloat16: {"rtol": 2**-8, "atol": 2**-8},
}
DTYPES = list(BOUNDS)


def kernel(dtype=torch.float32, size=8):
    found = decoder_kernel.load(dtype, size)
    if found is None:
        pytest.skip("no C compiler with OpenMP here, or PyTorch has threads of its own kind")
    return found


@pytest.fixture
def load():
    """Loads anew, and leaves nothing behind."""
    decoder_kernel.load.cache_clear()
    yield decoder_kernel.load
    decoder_kernel.load.cache_clear()


def numbers(*shape, dtype=torch.float32, seed=0, scale=1.0):
    return (scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))).to(dtype)


def normed(x, norm):
    x = x.double()
    return x / (x.square().mean(-1, keepdim=True) + norm.eps).sqrt() * norm.weight.double()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("adds", [True, False])
def test_the_sum_is_in_place_and_its_norm_is_that_of_the_definition(dtype, adds):
    stream, norm = numbers(3, 2, 37), Norm(numbers(37, dtype=dtype, seed=1), 1e-3)
    added = numbers(3, 2, 37, dtype=dtype, seed=2) if adds else None
    total = stream.double() + (added.double() if adds else 0)
    found = kernel(dtype).add_norm(stream, added, norm)
    assert found.dtype == dtype
    torch.testing.assert_close(stream.double(), total, rtol=1e-6, atol=1e-6)  # one float32 sum
    torch.testing.assert_close(found.double(), normed(total, norm), **BOUNDS[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
def test_silu_is_that_of_the_definition_from_one_end_of_the_exponential_to_the_other(dtype):
    gate = torch.cat([numbers(4, 50, scale=3), torch.linspace(-200, 200, 200).view(4, 50)]).to(dtype)
    both = torch.cat([gate, numbers(8, 50, dtype=dtype, seed=1)], dim=-1)
    found = kernel(dtype).gated(both, nn.SiLU())
    expected = gate.double() * torch.sigmoid(gate.double()) * both[:, 50:].double()
    torch.testing.assert_close(found.double(), expected, **BOUNDS[dtype])


def test_an_activation_that_is_not_compiled_is_computed_by_pytorch():
    both = numbers(3, 10)
    torch.testing.assert_close(
        kernel().gated(both, nn.GELU()), nn.functional.gelu(both[:, :5]) * both[:, 5:], rtol=0, atol=0
    )


def attention_by_definition(projected, heads, place, past):
    """Softmax over all positions of the row up to the new one, term by term."""
    batch, count = projected.shape[:2]
    half, served = heads.size // 2, heads.num_heads // heads.num_key_heads
    keys, values = (x.double().clone() for x in (past.keys, past.values))
    result = torch.zeros(batch, count, heads.num_heads, heads.size, dtype=torch.float64)

    def turned(x, norm, cos, sin):
        x = x.double() if norm is None else normed(x, norm)
        return x * cos.double() + torch.cat([-x[half:], x[:half]]) * sin.double()

    for row in range(batch):
        for n in range(count):
            at, angle = place.length + n, (place.cos[row, n], place.sin[row, n])
            if at < place.first[row]:
                continue
            for head in range(heads.num_key_heads):
                key = projected[row, n, heads.num_heads + head]
                keys[row, head, at] = turned(key, heads.key_norm, *angle)
                values[row, head, at] = projected[
                    row, n, heads.num_heads + heads.num_key_heads + head
                ].double()
            for head in range(heads.num_heads):
                query = turned(projected[row, n, head], heads.query_norm, *angle)
                seen = slice(int(place.first[row]), at + 1)
                weights = (heads.scale * keys[row, head // served, seen] @ query).softmax(0)
                result[row, n, head] = weights @ values[row, head // served, seen]
    return result, keys, values


def a_case(dtype, size=8, *, count=3, past=4, heads=4, key_heads=2, norms=False):
    """Rows of different padding after a past of positions, and a cache with room behind them."""
    batch, capacity = 3, past + count + 5
    norm = Norm(numbers(size, dtype=dtype, seed=7), 1e-5) if norms else None
    layer = Heads(heads, key_heads, size, size**-0.5, norm, norm)
    angles = numbers(batch, count, size // 2, seed=3).repeat(1, 1, 2)
    place = Place(past, torch.tensor([0, 2, past + 1]), angles.cos(), angles.sin(), capacity)
    shape = (batch, key_heads, capacity, size)
    kept = Kept(numbers(*shape, dtype=dtype, seed=4), numbers(*shape, dtype=dtype, seed=5))
    return (
        numbers(batch, count, heads + 2 * key_heads, size, dtype=dtype, seed=6, scale=2),
        layer,
        kept,
        place,
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [2, 6, 32, 64, 80])
@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"count": 1},
        {"past": 0, "count": 9},
        {"norms": True},
        {"heads": 3, "key_heads": 3},
        {"key_heads": 1},
    ],
    ids=str,
)
def test_attention_is_that_of_the_definition(dtype, size, shape):
    projected, heads, kept, place = a_case(dtype, size, **shape)
    expected, keys, values = attention_by_definition(projected, heads, place, kept)
    found = kernel(dtype, size).attend(projected, heads, kept, place)
    # Of values up to some 6 in size; in bfloat16 a key of that size is off by 2^-7, and so is its weight.
    bounds = {"rtol": 1e-4, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 0.05, "atol": 0.05}
    torch.testing.assert_close(found.double(), expected, **bounds)
    for row in range(len(projected)):
        filled = slice(int(place.first[row]), place.end)
        torch.testing.assert_close(kept.keys[row, :, filled].double(), keys[row, :, filled], **BOUNDS[dtype])
        assert torch.equal(kept.values[row, :, filled].double(), values[row, :, filled])


@pytest.mark.parametrize("count", [1, 3])
def test_the_plain_operations_compute_the_same(count):
    projected, heads, kept, place = a_case(torch.float32, count=count)
    copy = Kept(kept.keys.clone(), kept.values.clone())
    ours, plain = (
        x.attend(projected, heads, where, place) for x, where in ((kernel(), kept), (Operations(), copy))
    )
    for row in range(len(projected)):
        filled = max(int(place.first[row]) - place.length, 0)
        torch.testing.assert_close(ours[row, filled:], plain[row, filled:])


@pytest.mark.parametrize("dtype", DTYPES)
def test_results_do_not_depend_on_the_number_of_threads(dtype):
    found = []
    threads = torch.get_num_threads()
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            projected, heads, kept, place = a_case(dtype, 64)
            found.append((kernel(dtype, 64).attend(projected, heads, kept, place), kept.keys))
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        assert all(torch.equal(mine, its) for mine, its in zip(found[0], other, strict=True))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bits", [0x7FC00000, -1], ids=["usual", "all ones"])
def test_what_is_not_a_number_stays_so(dtype, bits):
    # A model that has diverged must be seen by what watches the log-probabilities.
    nothing = torch.tensor([bits], dtype=torch.int32).view(torch.float32)
    projected, heads, kept, place = a_case(dtype)
    projected[0, 0, 4] = torch.nan
    assert kernel(dtype).attend(projected, heads, kept, place)[0].isnan().any()
    assert kernel(dtype).gated(torch.full((1, 4), torch.nan, dtype=dtype), nn.SiLU()).isnan().all()
    stream = torch.cat([torch.ones(1), nothing]).view(1, 2)
    assert kernel(dtype).add_norm(stream, None, Norm(torch.ones(2, dtype=dtype), 0.0)).isnan().all()


def test_denormal_numbers_are_still_computed_with_once_it_is_loaded():
    kernel()
    smallest = torch.tensor([2.0**-126])
    assert (smallest / 2).item() == 2.0**-127


@pytest.mark.parametrize("change", ["type", "shape", "gaps", "room"])
def test_tensors_that_it_would_misread_are_refused(change):
    projected, heads, kept, place = a_case(torch.float32)
    if change == "type":
        projected = projected.bfloat16()
    elif change == "shape":
        projected = projected[:, :, 1:]
    elif change == "gaps":
        kept.keys = kept.keys.transpose(1, 2).contiguous().transpose(1, 2)
    else:
        place = Place(place.capacity - 2, place.first, place.cos, place.sin, place.capacity)
    with pytest.raises(RuntimeError):
        kernel().attend(projected, heads, kept, place)


@pytest.mark.parametrize("command", ["false", "no-such-compiler", "true"])
def test_without_a_compiler_there_is_no_kernel_and_models_are_sampled_all_the_same(
    command, monkeypatch, load, tiny_model
):
    monkeypatch.setenv("CC", command)
    assert load(torch.float32, 8) is None
    drawn = sample(
        tiny_model("llama", noise=0.1), [[1, 5]], keys=[0], max_new_tokens=3, stop_ids=(), pad_id=0
    )
    assert drawn.logprobs.shape == (1, 3)
    assert drawn.logprobs.isfinite().all()


def test_beside_another_runtime_of_threads_there_is_no_kernel(monkeypatch, load):
    monkeypatch.setattr(decoder_kernel, "_shares_threads", lambda: False)
    assert load(torch.float32, 8) is None


def test_formats_and_heads_that_it_is_not_written_for_have_none():
    assert decoder_kernel.load(torch.float16, 8) is None
    assert decoder_kernel.load(torch.float32, 7) is None


def test_its_exponential_is_within_the_bound_that_the_source_states():
    # SiLU of -x for up = 1 is -x / (1 + e^x): at large x its relative error is that of e^x.
    x = torch.linspace(20, 79, 4000)
    found = kernel().gated(torch.cat([-x[:, None], torch.ones(4000, 1)], dim=1), nn.SiLU())[:, 0].double()
    exact = -x.double() / (1 + x.double().exp())
    assert ((found - exact) / exact).abs().max() < 4 * 2**-23
