"""Continuations along a tree of tokens have the log-probabilities of plain passes, text by text."""

import math

import pytest
import torch

from data.chat import encode_text
from pipeline import loglikelihood
from pipeline.language_model import LanguageModel
from pipeline.loglikelihood import continuation_logprobs
from pipeline.stages.tokenizer import train, wrap

TEXTS = [
    "The baker has a lamp. The baker is glad.",
    "The miller lost a boat, and a child found it.",
    "Question: What is the job of the baker?\nAnswer: The job is baking.",
] * 4
PRIMER = "Question: What is a lamp?\nAnswer: It is a thing."
FAMILIES = {
    "gpt2": {"n_head": 4},
    "llama": {"num_key_value_heads": 2},
    "qwen2": {"num_key_value_heads": 2},
    "mistral": {"num_key_value_heads": 2, "sliding_window": 16},
    "bloom": {"n_head": 4},
    "mamba": {},
    "gpt_neo": {"num_layers": 2, "attention_types": [[["global", "local"], 1]], "window_size": 64},
    "falcon": {"alibi": True},  # which takes no mask of a tree
    "jamba": {
        "num_key_value_heads": 2,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "num_experts": 2,
        "use_mamba_kernels": False,
    },
}
BOUND = 1e-4  # rounding in float32: another order of sums; seen: 2e-6


@pytest.fixture(scope="module")
def tokenizer():
    return wrap(train(TEXTS, vocab_size=300, min_frequency=2))


@pytest.fixture
def language_model(tiny_model, tokenizer):
    def make(family, **settings):
        sizes = {"vocab_size": len(tokenizer), **FAMILIES.get(family, {}), **settings}
        return LanguageModel(tiny_model(family, **sizes), tokenizer, family)

    return make


def requests():
    contexts = [f"{PRIMER}\nQuestion: What has the {who}?\nAnswer:" for who in ("baker", "miller", "child")]
    answers = [" a lamp.", " a boat.", " a lamp and a boat.", " It is unknown."]
    # Trailing spaces of a context, an empty context, a context alone in its kind, equal requests.
    others = [("The baker has a ", "lamp."), ("", "The baker is glad."), ("A child found", " it.")]
    return [(context, answer) for context in contexts for answer in answers] + others + others[:1]


def alone(model, context, continuation):
    """The log-probabilities of one request by a plain pass over its tokens, from the definition."""
    tokenizer = model.tokenizer
    kept = context.rstrip()
    begin = [tokenizer.bos_token_id]
    length = len(begin + encode_text(tokenizer, kept))
    tokens = begin + encode_text(tokenizer, context + continuation)
    with torch.no_grad():
        logprobs = model.model(input_ids=torch.tensor([tokens])).logits[0].log_softmax(-1)
    return [float(logprobs[place - 1, tokens[place]]) for place in range(length, len(tokens))]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_scores_as_a_plain_pass_text_by_text(family, language_model):
    model = language_model(family)
    found = continuation_logprobs(model, requests())
    for (context, continuation), values in zip(requests(), found, strict=True):
        assert values == pytest.approx(alone(model, context, continuation), abs=BOUND), (
            context,
            continuation,
        )


@pytest.mark.parametrize("family", ["gpt2", "gpt_neo", "jamba"])
def test_texts_with_much_in_common_score_as_a_plain_pass(family, language_model):
    model = language_model(family, max_position_embeddings=512)
    asked = [(f"{PRIMER} " * 12 + context, continuation) for context, continuation in requests()]
    for (context, continuation), values in zip(asked, continuation_logprobs(model, asked), strict=True):
        assert values == pytest.approx(alone(model, context, continuation), abs=BOUND)


@pytest.mark.parametrize(
    ("family", "along"),
    [
        ("gpt2", True),
        ("llama", True),
        ("qwen2", True),
        ("mistral", False),
        ("mamba", False),
        ("jamba", False),
    ],
)
def test_families_that_can_attend_along_a_tree_do(family, along, language_model, monkeypatch):
    padded = []
    plain = loglikelihood._score_padded
    monkeypatch.setattr(
        loglikelihood, "_score_padded", lambda model, texts: padded.append(len(texts)) or plain(model, texts)
    )
    continuation_logprobs(language_model(family), requests())
    # The two trials alone, or all texts (the trials are not made, or fail).
    trials = 2 * (loglikelihood.TRIAL_TEXTS + 1)
    assert (sum(padded) <= trials) is along


def test_a_mask_that_a_model_ignores_is_found_by_the_trial(language_model, monkeypatch):
    model = language_model("llama")
    score_rows = loglikelihood._score_rows

    def without_mask(model, rows):
        for row in rows:
            row.runs = [(0, len(row.tokens), -1)]  # as if all tokens were one text
        return score_rows(model, rows)

    monkeypatch.setattr(loglikelihood, "_score_rows", without_mask)
    found = continuation_logprobs(model, requests())
    for (context, continuation), values in zip(requests(), found, strict=True):
        assert values == pytest.approx(alone(model, context, continuation), abs=BOUND)


def test_scores_do_not_depend_on_how_many_are_scored_together(language_model, monkeypatch):
    model = language_model("gpt2")
    together = continuation_logprobs(model, requests())
    for row_tokens, pass_tokens in ((8, 1), (8, 100), (100, 1), (100, 1024)):
        monkeypatch.setattr(loglikelihood, "ROW_TOKENS", (row_tokens,))
        monkeypatch.setattr(loglikelihood, "PASS_TOKENS", pass_tokens)
        for found, values in zip(continuation_logprobs(model, requests()), together, strict=True):
            assert found == pytest.approx(values, abs=BOUND)
    one_by_one = [continuation_logprobs(model, [request])[0] for request in requests()]
    for found, values in zip(one_by_one, together, strict=True):
        assert found == pytest.approx(values, abs=BOUND)


def test_common_beginnings_are_computed_once(language_model):
    model = language_model("llama")
    texts = sorted(loglikelihood.encode_requests(model, requests()))
    nodes = sum(len(row.tokens) for row in loglikelihood._rows(texts, 1024))
    different = {tuple(text.tokens[:end]) for text in texts for end in range(1, len(text.tokens))}
    assert nodes == len(different)


def test_rows_are_long_where_much_is_shared_and_short_where_nothing_is(language_model):
    model = language_model("llama")
    primer = "The baker is glad. " * 12
    words = ("lamp", "boat", "child", "miller")
    shared = [(primer, f"{a} {b} {c}.") for a in words for b in words for c in words]
    strangers = [("", f"{'lamp boat child'[n:]} The baker is glad.") for n in range(12)]
    lengths = [
        loglikelihood._row_tokens(model, sorted(loglikelihood.encode_requests(model, asked)))
        for asked in (shared, strangers)
    ]
    assert lengths[0] > lengths[1] == min(loglikelihood.ROW_TOKENS)


def test_a_text_too_long_for_the_model_loses_its_beginning(language_model):
    model = language_model("gpt2", max_position_embeddings=24)
    context, continuation = f"{PRIMER}\n{PRIMER}\nAnswer:", " a lamp."
    (found,) = continuation_logprobs(model, [(context, continuation)])
    tokenizer = model.tokenizer
    tokens = encode_text(tokenizer, context + continuation)[-25:]
    num = len(encode_text(tokenizer, context + continuation)) - len(encode_text(tokenizer, context))
    with torch.no_grad():
        logprobs = model.model(input_ids=torch.tensor([tokens[:-1]])).logits[0].log_softmax(-1)
    expected = [float(logprobs[place - 1, tokens[place]]) for place in range(25 - num, 25)]
    assert found == pytest.approx(expected, abs=BOUND)


def test_what_cannot_be_scored_is_nan_and_the_rest_is(language_model):
    model = language_model("gpt2", max_position_embeddings=16)
    found = continuation_logprobs(
        model, [("The baker", " is glad." * 20), ("The baker", ""), ("The", " baker")]
    )
    assert [all(map(math.isnan, values)) for values in found] == [True, True, False]


def test_every_request_is_counted_as_it_is_scored(language_model):
    told = []
    continuation_logprobs(language_model("llama"), [*requests(), ("The baker", "")], advance=told.append)
    assert sum(told) == len(requests()) + 1
