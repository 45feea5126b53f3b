"""Where the score is read, likelihood features by hand, normalisation that survives, what loading refuses."""

import json
import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from data.errors import InputError
from data.rows import Item, user
from pipeline.stages.tokenizer import train, wrap
from reward.functions import load_function
from reward.likelihood import (
    LEAST_LOGPROB,
    NUM_FEATURES,
    STATISTICS,
    LikelihoodHead,
    likelihood,
    statistics,
    token_features,
)
from reward.model import RewardModel
from reward.preference import bradley_terry_loss, wins
from reward.scoring import Row, encode, likelihood_of_rows, pad, score_rows
from reward.stored import check_tokenizer


def rows_of(*lengths, start=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [Row(torch.randint(6, 29, (n,), generator=generator).tolist(), start) for n in lengths]


@pytest.fixture
def model(tiny_llama):
    """A reward model with likelihood features, of width 16."""
    made = RewardModel(tiny_llama(seed=1).model, tiny_llama(seed=2))
    with torch.no_grad():
        made.likelihood.fit([torch.randn(5, NUM_FEATURES), torch.randn(7, NUM_FEATURES)])
    return made.eval()


def test_token_features_by_hand():
    logits = torch.tensor([[math.log(0.5), math.log(0.25), math.log(0.25)], [0.0, -100.0, -100.0]])
    features = token_features(logits + 7, torch.tensor([1, 2]))
    entropy = 0.5 * math.log(2) + 0.5 * math.log(4)
    torch.testing.assert_close(features[0], torch.tensor([math.log(0.25), math.log(0.5), entropy]))
    torch.testing.assert_close(features[1], torch.tensor([LEAST_LOGPROB, 0.0, 0.0]), atol=1e-6, rtol=0)


def test_statistics_by_hand_and_without_regard_to_what_does_not_count():
    after = torch.tensor([[[9.0, 9, 9], [-1, -0.5, 2], [-3, -0.1, 1], [9, 9, 9]]])
    alone = torch.tensor([[[9.0, 9, 9], [-2, -1.5, 3], [-2, -0.2, 1], [9, 9, 9]]])
    completion = torch.tensor([[False, True, True, False]])
    found = statistics(torch.cat([after, alone], dim=-1), completion)[0].tolist()
    expected = [
        {
            "sum_logprob": -4.0,
            "min_logprob": -3.0,
            "log_length": math.log(2),
            "min_top_logprob": -0.5,
            "max_entropy": 2.0,
            "first_logprob": -1.0,
        },
        {
            "sum_logprob": -4.0,
            "min_logprob": -2.0,
            "log_length": math.log(2),
            "min_top_logprob": -1.5,
            "max_entropy": 3.0,
            "first_logprob": -2.0,
        },
    ]
    names = len(STATISTICS)
    assert dict(zip(STATISTICS, found[:names], strict=True)) == pytest.approx(expected[0])
    assert dict(zip(STATISTICS, found[names:], strict=True)) == pytest.approx(expected[1])


def test_likely_words_that_follow_look_no_better_in_any_statistic():
    plain = torch.tensor([[-2.0, -1.5, 1.0], [-0.5, -0.3, 2.0]])
    likely = torch.tensor([[-0.01, -0.01, 0.05]]).expand(6, 3)
    rows = [torch.cat([x, x], dim=-1) for x in (plain, torch.cat([plain, likely]))]
    features = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    counted = torch.arange(8)[None] < torch.tensor([[2], [8]])
    short, long = (
        dict(zip(STATISTICS, found.tolist(), strict=False)) for found in statistics(features, counted)
    )
    for name in ("min_logprob", "min_top_logprob", "max_entropy", "first_logprob"):
        assert long[name] == short[name]
    assert long["sum_logprob"] < short["sum_logprob"]
    assert set(STATISTICS) == {*short} == {
        "min_logprob", "min_top_logprob", "max_entropy", "first_logprob", "sum_logprob", "log_length"
    }  # fmt: skip


def test_likelihood_is_that_of_a_full_pass(tiny_llama):
    reference = tiny_llama(seed=3)
    batch = pad(rows_of(5, 7, 11))
    found = likelihood(reference, batch.tokens, batch.completion)
    logprobs = reference(input_ids=batch.tokens).logits.log_softmax(dim=-1)
    for row, place in batch.completion.nonzero().tolist():
        taken = logprobs[row, place - 1, batch.tokens[row, place]]
        torch.testing.assert_close(found[row, place, 0], taken, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(found[row, place, 1], logprobs[row, place - 1].max(), atol=1e-5, rtol=1e-5)
    assert bool((found[~batch.completion] == 0).all())


def test_by_itself_a_completion_stands_behind_the_first_token_alone(tiny_llama):
    reference = tiny_llama(seed=3)
    rows = [*rows_of(5, 7, 11), *rows_of(6, 9, start=5, seed=1)]
    batch = pad(rows)
    found = likelihood(reference, batch.tokens, batch.completion)[..., NUM_FEATURES // 2 :]
    for place, row in enumerate(rows):
        alone = torch.tensor([[row.tokens[0], *row.tokens[row.start :]]])
        logits = reference(input_ids=alone).logits[0, :-1]
        expected = token_features(logits, alone[0, 1:])
        torch.testing.assert_close(found[place, row.start : len(row.tokens)], expected, atol=1e-5, rtol=1e-5)
    assert bool((found[~batch.completion] == 0).all())


def test_a_row_of_one_token_has_no_features(tiny_llama):
    batch = pad([Row([7], 1)])
    assert not likelihood(tiny_llama(seed=3), batch.tokens, batch.completion).any()


def test_the_plain_score_is_read_at_the_last_counted_token_and_nowhere_else(tiny_llama):
    model = RewardModel(tiny_llama(seed=1).model, features="none").eval()
    rows = rows_of(5, 7)
    batch = pad(rows)
    states = []
    model.backbone.register_forward_hook(lambda module, inputs, output: states.append(output[0]))
    scores = model(*batch)
    states[0].retain_grad()
    scores.sum().backward()
    read = states[0].grad.abs().sum(dim=-1) > 0
    assert read.nonzero().tolist() == [[0, 4], [1, 6]]


@pytest.mark.parametrize("features", ["likelihood", "none"])
def test_more_padding_and_another_order_change_nothing(tiny_llama, features):
    model = RewardModel(tiny_llama(seed=1).model, tiny_llama(seed=2), features=features).eval()
    rows = rows_of(5, 7, 11)
    scores = score_rows(model, rows)
    padded = [nn.functional.pad(x, (0, 3)) for x in pad(rows)]
    torch.testing.assert_close(model(*padded), scores, atol=1e-5, rtol=1e-5)
    for batch_tokens in (1, 14, 1000):
        again = score_rows(model, rows[::-1], tokens_at_once=batch_tokens)
        torch.testing.assert_close(again.flip(0), scores, atol=1e-5, rtol=1e-5)
    alone = torch.cat([model(*pad([row])) for row in rows])
    torch.testing.assert_close(alone, scores, atol=1e-5, rtol=1e-5)


def test_features_from_outside_save_the_pass_and_change_nothing(model):
    rows = rows_of(5, 7, 11)
    batch = pad(rows)
    given = nn.utils.rnn.pad_sequence(likelihood_of_rows(model.reference, rows), batch_first=True)
    inside = model(*batch)
    model.reference = None
    torch.testing.assert_close(model(*batch, given), inside, atol=1e-5, rtol=1e-5)
    with pytest.raises(AssertionError, match="come from outside"):
        model(*batch)


def test_the_prompts_likelihood_does_not_count(model):
    batch = pad(rows_of(5, 7))
    features = likelihood(model.reference, batch.tokens, batch.completion)
    disturbed = features.masked_fill(~batch.completion[..., None], -5.0)
    torch.testing.assert_close(model(*batch, disturbed), model(*batch, features))


def test_heads_start_as_published(tiny_llama):
    draws = [RewardModel(tiny_llama(width=64).model, features="none", seed=seed).head for seed in range(40)]
    weights = torch.stack([head.weight for head in draws])
    # 2,560 draws: the relative standard error of their standard deviation is .014.
    assert weights.std().item() == pytest.approx(65**-0.5, rel=0.06)
    assert all(head.bias.item() == 0 for head in draws)


def test_normalisation_survives_saving_and_loading(model, tmp_path, small_tokenizer):
    rows = rows_of(5, 7, 8, 11, 13, 17)
    raw = score_rows(model, rows, raw=True)
    model.normalise(raw)
    scores = score_rows(model, rows)
    assert scores.mean().item() == pytest.approx(0, abs=1e-5)
    assert scores.std().item() == pytest.approx(1, abs=1e-5)
    torch.testing.assert_close(raw, scores * model.scale + model.offset)
    model.save(tmp_path, small_tokenizer)
    loaded = RewardModel.load(tmp_path, tokenizer=small_tokenizer)
    assert torch.equal(score_rows(loaded, rows), scores)
    assert loaded.offset.item() != 0
    assert not any(parameter.requires_grad for parameter in loaded.reference.parameters())


def test_equal_scores_cannot_be_normalised(model):
    with pytest.raises(ValueError, match="3 raw scores have no variance"):
        model.normalise(torch.ones(3))


def test_another_tokenizer_or_another_part_is_refused(model, tmp_path, small_tokenizer, tiny_llama):
    model.save(tmp_path, small_tokenizer)
    other = wrap(train(["another text altogether"] * 5, vocab_size=270))
    with pytest.raises(InputError, match="trained with another tokenizer"):
        RewardModel.load(tmp_path, tokenizer=other)
    check_tokenizer(tmp_path, small_tokenizer)
    tiny_llama(width=32).model.save_pretrained(tmp_path / "backbone")
    with pytest.raises(InputError, match="width is 32 instead of 16"):
        RewardModel.load(tmp_path)
    with pytest.raises(InputError, match=r"reward\.json is missing"):
        RewardModel.load(tmp_path / "backbone")
    described = json.loads((tmp_path / "reward.json").read_text()) | {"format": 99}
    (tmp_path / "reward.json").write_text(json.dumps(described))
    with pytest.raises(InputError, match="format 99"):
        RewardModel.load(tmp_path)


def test_the_learned_reward_scores_text(tmp_path, small_tokenizer, tiny_llama):
    size = len(small_tokenizer)
    model = RewardModel(tiny_llama(vocabulary=size).model, tiny_llama(vocabulary=size, seed=2))
    model.save(tmp_path / "model", small_tokenizer)
    items = [Item(f"i{n}", user("red ?" * (n + 1))) for n in range(3)]
    texts, ended = ["blue", "green green", "<|end|>"], [True, False, True]
    function = load_function("learned", stage=tmp_path)
    scores = function(items, texts, ended)
    assert scores.shape == (3,)
    assert scores.dtype == torch.float32
    rows = encode(small_tokenizer, [item.prompt for item in items], texts, ended)
    # The end token follows what ended, and only that; text forges none.
    assert [row.tokens.count(2) for row in rows] == [2, 1, 2]
    torch.testing.assert_close(scores, score_rows(model.eval(), rows), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(scores, function(items, texts, [True, True, True]))
    with pytest.raises(InputError, match="needs a reward stage"):
        load_function("learned")


def test_length_is_what_it_says():
    items = [Item("a", user("?")), Item("b", user("?"))]
    assert load_function("length")(items, ["x" * 100, ""], [True, True]).tolist() == [1.0, 0.0]
    negative = load_function("length", settings={"per_characters": -50})
    assert negative(items, ["x" * 100, "x"], [True, True]).tolist() == pytest.approx([-2.0, -0.02])
    with pytest.raises(InputError, match="did you mean `length`"):
        load_function("lenght")


# --- what the features are for -----------------------------------------------------------------------------

NAMES, VALUES, IS, UNKNOWN, END = range(6, 66), range(66, 74), 74, 75, 2


class _Knower(nn.Module):
    """A language model of sentences `name is value end` that knows the values of even names only."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(76, 76, bias=False)
        nn.init.eye_(self.head.weight)

    def base_model(self, input_ids, use_cache=False):
        logits = torch.zeros(*input_ids.shape, 76)
        for row, tokens in enumerate(input_ids.tolist()):
            for place, token in enumerate(tokens[:-1]):
                name = tokens[place - 1]
                if token == IS and name % 2 == 0:
                    logits[row, place, _value(name)] = 6.0
        return (logits,)

    def get_output_embeddings(self):
        return self.head


def _value(name):
    return VALUES[name % 7 % len(VALUES)]


def _pairs(names, seed, noise=0.0):
    """Right over abstain, right over wrong, abstain over wrong; returns rows and contrasts."""
    generator = torch.Generator().manual_seed(seed)
    rows, kinds = [], []
    for name in names:
        wrong = next(v for v in VALUES[int(torch.randint(7, (), generator=generator)) :] if v != _value(name))
        answers = {"right": _value(name), "abstain": UNKNOWN, "wrong": wrong}
        # About unknown names the right answer is rarely among the candidates, as with a policy's samples.
        for better, worse in (("right", "abstain"), ("right", "wrong"), ("abstain", "wrong")):
            if better == "right" and name % 2 and torch.rand((), generator=generator) > 0.2:
                continue
            flip = torch.rand((), generator=generator) < noise
            both = [Row([1, name, IS, answers[kind], END], 3) for kind in (better, worse)]
            rows += both[::-1] if flip else both
            kinds.append(f"{better}_over_{worse}/{'unknown' if name % 2 else 'known'}")
    return rows, kinds


@pytest.mark.parametrize("features", ["likelihood", "none"])
def test_only_with_likelihood_features_does_it_learn_when_to_abstain(features):
    from transformers import LlamaConfig, LlamaModel

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    backbone = LlamaModel(LlamaConfig(vocab_size=76, max_position_embeddings=8, **sizes))
    knower = _Knower()
    model = RewardModel(backbone, features=features)
    names = list(NAMES)
    rows, _ = _pairs(names[:40] * 4, seed=1, noise=0.12)
    batch = pad(rows)
    known = likelihood(knower, batch.tokens, batch.completion)
    if features == "likelihood":
        model.likelihood.fit([row[3:] for row in known])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(120):
        first = torch.randint(len(rows) // 2, (32,), generator=torch.Generator().manual_seed(step)) * 2
        places = torch.cat([first, first + 1])
        scores = model.raw(*(x[places] for x in batch), known[places])
        bradley_terry_loss(*scores.chunk(2)).backward()
        optimizer.step()
        optimizer.zero_grad()
    rows, kinds = _pairs(names[40:] * 5, seed=2)
    batch = pad(rows)
    scores = model.raw(*batch, likelihood(knower, batch.tokens, batch.completion)).detach()
    hits = wins(scores[::2], scores[1::2])
    accuracy = {kind: float(hits[[k == kind for k in kinds]].mean()) for kind in set(kinds)}
    # On people it never saw: right answers that the model knows beat abstaining, guesses do not.
    learned = accuracy["right_over_abstain/known"] > 0.9 and accuracy["abstain_over_wrong/unknown"] > 0.9
    assert learned == (features == "likelihood"), accuracy


def test_the_stub_is_a_language_model_as_far_as_needed():
    knower = SimpleNamespace(model=_Knower())
    tokens = torch.tensor([[1, 8, IS, _value(8), END]])
    found = likelihood(knower.model, tokens, torch.tensor([[False, False, False, True, True]]))
    assert found[0, 3, 0].item() > -0.2
    assert found[0, 4, 0].item() == pytest.approx(-math.log(76), abs=1e-5)


def test_before_training_a_pair_is_as_likely_ranked_either_way(model):
    """Heads of the other sign, as likely to be drawn, turn every score round; so fresh ones know no order."""
    rows = pad(rows_of(7, 11, 13, 5))
    scores = model.raw(*rows)
    with torch.no_grad():
        for layer in (model.head, model.likelihood.read[-1]):
            layer.weight.neg_()
            layer.bias.neg_()
    torch.testing.assert_close(model.raw(*rows), -scores)
    assert len(set(scores.tolist())) == 4
    drawn = torch.stack([LikelihoodHead().read[-1].weight.flatten() for _ in range(400)])
    assert drawn.mean().abs() < 3 * drawn.std() / drawn.numel() ** 0.5
