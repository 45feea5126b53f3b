"""Fine-tuning a copy on few rows: it learns, in the layers that it may, and leaves the model as it is."""

import math

import pytest
import torch

from data.chat import decode, encode_plain, encode_prompt
from data.collate import pad_chats
from data.errors import InputError
from data.rows import Item, user
from pipeline import fine_tune
from pipeline.language_model import LanguageModel
from pipeline.stages.tokenizer import train, wrap

COLOURS = ("red", "blue", "green")
ROWS = [
    Item(
        str(n),
        user(f"Which colour is {n}?"),
        plain=f"Question: Which colour is {n}?\nAnswer:",
        truth={"n": n},
    )
    for n in range(11)
]
ANSWERS = [f"It is {COLOURS[item.truth['n'] % 3]}." for item in ROWS]


@pytest.fixture(scope="module")
def tokenizer():
    texts = [f"{item.plain} {answer}\n" for item, answer in zip(ROWS, ANSWERS, strict=True)]
    return wrap(train(texts * 5, vocab_size=290))


@pytest.fixture
def loaded(tiny_llama, tokenizer):
    return LanguageModel(
        tiny_llama(vocabulary=len(tokenizer), width=32, layers=3, noise=0.0), tokenizer, "toy"
    )


def learn(loaded, *, plain=True, layers="all", seed=5, epochs=120, rows=None):
    encoded = rows or fine_tune.encode_rows(loaded, ROWS, ANSWERS, plain=plain)
    counted = []
    tuned = fine_tune.fine_tuned(
        loaded.model,
        encoded,
        layers=layers,
        epochs=epochs,
        batch_size=4,
        learning_rate=1e-2,
        seed=seed,
        advance=counted.append,
    )
    assert sum(counted) == epochs * len(encoded)
    return tuned


def changed(model, tuned):
    before = dict(model.named_parameters())
    return {name for name, value in tuned.named_parameters() if not torch.equal(value, before[name])}


# --- rows


def test_a_row_teaches_what_the_model_is_to_say_after_what_it_is_asked(loaded):
    tokenizer = loaded.tokenizer
    for plain, asked, end in (
        (True, encode_plain(tokenizer, ROWS[0].plain), " It is red.\n"),
        (False, encode_prompt(tokenizer, ROWS[0].prompt), "It is red."),
    ):
        row = fine_tune.encode_rows(loaded, ROWS[:1], ANSWERS[:1], plain=plain)[0]
        assert row.tokens[: len(asked)] == asked
        assert row.mask == [False] * len(asked) + [True] * (len(row.tokens) - len(asked))
        assert decode(tokenizer, row.tokens[len(asked) :]) == end
    assert row.tokens[-1] == tokenizer.eos_token_id  # a chat model has to learn to end its turn


def test_a_row_longer_than_the_context_is_refused(tiny_llama, tokenizer):
    short = LanguageModel(tiny_llama(vocabulary=len(tokenizer), context=8), tokenizer, "short")
    with pytest.raises(InputError, match="tokens and the context of short 8"):
        fine_tune.encode_rows(short, ROWS, ANSWERS, plain=True)


# --- training


def test_the_loss_is_the_mean_over_what_the_model_is_to_say(loaded):
    rows = fine_tune.encode_rows(loaded, ROWS, ANSWERS, plain=True)
    tokens, _, targets = pad_chats(rows[:3], 0)
    found = fine_tune.answer_loss(loaded.model, tokens, targets)
    sums = [math.fsum(loaded.logprobs([ROWS[n].plain], [f" {ANSWERS[n]}\n"])[0]) for n in range(3)]
    assert found.item() == pytest.approx(-sum(sums) / targets.sum().item(), rel=1e-5)
    wider = [torch.nn.functional.pad(part, (0, 7)) for part in (tokens, targets)]
    assert fine_tune.answer_loss(loaded.model, *wider).item() == pytest.approx(found.item(), rel=1e-5)


@pytest.mark.parametrize("plain", [True, False])
def test_a_copy_learns_its_rows_and_the_model_stays_as_it_is(loaded, plain):
    before = {name: value.clone() for name, value in loaded.model.state_dict().items()}
    told = LanguageModel(learn(loaded, plain=plain), loaded.tokenizer, "told")
    for model, wanted in ((told, True), (loaded, False)):
        answers = model.generate(
            [item.plain if plain else item.prompt for item in ROWS],
            keys=range(len(ROWS)),
            max_new_tokens=12,
            temperature=0.0,
            stop="\n" if plain else None,
        )
        right = [done.ended and done.text.strip() == a for done, a in zip(answers, ANSWERS, strict=True)]
        assert all(right) if wanted else not any(right)
    assert all(torch.equal(value, before[name]) for name, value in loaded.model.state_dict().items())
    # No step takes gradients of another.
    assert all(p.grad is None for model in (told, loaded) for p in model.model.parameters())


def test_the_last_layer_alone_learns_where_it_is_asked_for(loaded):
    every = {name for name, _ in loaded.model.named_parameters()}
    assert changed(loaded.model, learn(loaded, epochs=1)) == every
    last = changed(loaded.model, learn(loaded, layers="last", epochs=1))
    assert last == {name for name in every if "layers.2." in name or name == "model.norm.weight"}


def test_all_layers_of_a_frozen_model_learn(loaded):
    loaded.model.requires_grad_(False)
    assert changed(loaded.model, learn(loaded, epochs=1)) == {
        name for name, _ in loaded.model.named_parameters()
    }


def test_the_seed_is_all_the_randomness(tiny_model, tokenizer):
    """Of a model with dropout, whatever was drawn before."""
    loaded = LanguageModel(tiny_model("gpt2", vocab_size=len(tokenizer), resid_pdrop=0.5), tokenizer, "toy")
    one = learn(loaded, epochs=1)
    torch.rand(7)
    assert not changed(one, learn(loaded, epochs=1))
    assert changed(one, learn(loaded, epochs=1, seed=6))
