"""Completions that join and leave a batch while it is decoded, against each of them alone."""

import random
from dataclasses import replace

import pytest
import torch

from pipeline.live_batch import LiveBatch, Unread, Wanted
from pipeline.rollout import sample

KINDS = {
    "llama": {},  # lean steps
    "gpt2": {},  # transformers' steps on a reserved cache
    "qwen3": {"num_key_value_heads": 2, "head_dim": 16},
    "mistral": {"num_key_value_heads": 2, "sliding_window": 4},  # a window: cannot be joined
}
STOPS = (2, 3, 4)
PROMPTS = [[1, 5, 9], [1, 7, 3, 4, 8, 11, 6], [1, 4], [1, 9, 9, 9, 2], [1] + [5, 6, 7] * 15, [8], [1, 10, 4]]


def wishes():
    """Completions of different prompts, lengths and ways of drawing."""
    ways = [
        {"temperature": 1.0},
        {"temperature": 0.0},
        {"temperature": 0.7, "top_k": 5},
        {"temperature": 1.5, "top_p": 0.8},
    ]
    return [
        Wanted(name, prompt, key=100 + name, max_new_tokens=3 + 11 * (name % 5), **ways[name % 4])
        for name, prompt in enumerate(PROMPTS * 2)
    ]


def alone(model, wanted):
    found = sample(
        model,
        [wanted.prompt],
        keys=[wanted.key],
        max_new_tokens=wanted.max_new_tokens,
        stop_ids=STOPS,
        pad_id=0,
        temperature=wanted.temperature,
        top_k=wanted.top_k,
        top_p=wanted.top_p,
    )
    return found.completions()[0], found.logprobs[0].tolist()


def decode(batch, joining, leaving=()):
    """Steps until all are over; at step n `joining[n]` join before and `leaving[n]` leave after it."""
    drawn, place = {}, 0
    while len(batch) or place < len(joining):
        for wanted in joining[place] if place < len(joining) else []:
            batch.join(wanted)
        for one in batch.step():
            drawn.setdefault(one.name, []).append(one)
        batch.leave(leaving[place] if place < len(leaving) else ())
        place += 1
    return drawn


@pytest.mark.parametrize("kind", KINDS)
def test_completions_are_those_of_each_alone_whenever_they_join(tiny_model, kind):
    model = tiny_model(kind, noise=0.1, **KINDS[kind])
    order = wishes()
    random.Random(3).shuffle(order)
    joining = [order[:3], [], order[3:4], [], [], order[4:9], [], *([one] for one in order[9:])]
    drawn = decode(LiveBatch(model, stop_ids=STOPS, pad_id=0), joining)
    assert len(drawn) == len(order)
    for wanted in order:
        tokens, logprobs = alone(model, wanted)
        found = drawn[wanted.name]
        assert [one.token for one in found] == tokens, wanted
        assert [one.last for one in found] == [False] * (len(tokens) - 1) + [True]
        # float32: products of other shapes sum in another order.
        assert torch.allclose(
            torch.tensor([one.logprob for one in found]), torch.tensor(logprobs[: len(tokens)]), atol=2e-5
        )


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_those_that_leave_change_nothing_for_the_others(tiny_model, kind):
    model = tiny_model(kind, noise=0.1)
    order = wishes()
    drawn = decode(LiveBatch(model, stop_ids=(), pad_id=0), [order], [[], [0, 4, 4, 99], [], [5]])
    whole = decode(LiveBatch(model, stop_ids=(), pad_id=0), [order])
    assert [len(drawn[name]) for name in (0, 4, 5)] == [2, 2, 3]  # the third was its last
    assert len(whole[4]) > 2
    for wanted in order:
        tokens = [one.token for one in drawn[wanted.name]]
        assert tokens == [one.token for one in whole[wanted.name]][: len(tokens)]


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_positions_that_nobody_needs_are_dropped(tiny_model, kind):
    """However long it serves, the cache is as long as the longest that is under way."""
    batch = LiveBatch(tiny_model(kind, noise=0.1), stop_ids=(), pad_id=0)
    longest = 0
    for name in range(40):
        batch.join(Wanted(name, [1, 2, 3], key=name, max_new_tokens=7, temperature=1.0))
        batch.step()
        batch.step()
        decoder = batch._rows[0].decoder
        keys = decoder.kept[0].keys if kind == "llama" else decoder.cache.layers[0]._all_keys
        longest = max(longest, keys.shape[2])
    assert len(batch) == 3
    assert longest <= 3 + 7 + 32 + 32, "prompt, completion, a block of room at most twice"


def test_a_completion_that_leaves_before_its_first_step_is_never_drawn(tiny_model):
    batch = LiveBatch(tiny_model("llama"), stop_ids=(), pad_id=0)
    batch.join(Wanted("a", [1], key=1, max_new_tokens=3, temperature=1.0))
    batch.leave(["a"])
    assert len(batch) == 0
    assert batch.step() == []


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_prompt_that_cannot_be_read_fails_alone(tiny_model, kind):
    model = tiny_model(kind, noise=0.1)
    order = wishes()[:6]
    whole = decode(LiveBatch(model, stop_ids=(), pad_id=0), [order])
    unreadable = replace(order[0], name="bad", prompt=[1, 10**6])
    batch = LiveBatch(model, stop_ids=(), pad_id=0)
    drawn = decode(batch, [order[:3], [], [order[3], unreadable, order[4]], [order[5]]])
    (failed,) = drawn.pop("bad")
    assert isinstance(failed, Unread)
    assert isinstance(failed.error, IndexError)
    assert {name: [one.token for one in row] for name, row in drawn.items()} == {
        name: [one.token for one in row] for name, row in whole.items()
    }
