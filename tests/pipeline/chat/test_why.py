import math
from dataclasses import replace

import pytest
import torch

from data.errors import InputError
from data.rows import user
from pipeline.chat.session import Sampling, speak
from pipeline.chat.why import END, explain, token_views


def test_logprob_rank_and_alternatives_by_hand():
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]]))
    first, second = token_views(logits, [1, 2], "abc".__getitem__, num_alternatives=2)
    assert (first.text, first.rank, second.rank) == ("b", 2, 1)
    assert first.logprob == pytest.approx(math.log(0.3), abs=1e-6)
    assert [(other.text, round(math.exp(other.logprob), 6)) for other in first.alternatives] == [
        ("a", 0.5),
        ("b", 0.3),
    ]
    assert first.kl is None


def test_kl_is_exact_and_measured_from_the_model_to_the_reference():
    model, reference = [0.5, 0.3, 0.2], [0.2, 0.2, 0.6]
    expected = sum(p * math.log(p / q) for p, q in zip(model, reference, strict=True))
    (view,) = token_views(
        torch.log(torch.tensor([model])),
        [0],
        "abc".__getitem__,
        reference_logits=torch.log(torch.tensor([reference])),
    )
    assert view.kl == pytest.approx(expected, abs=1e-6)
    assert view.kl != pytest.approx(-expected, abs=1e-3)


def test_each_token_is_judged_by_the_logits_before_it(make_voice):
    voice = make_voice()
    answer = list(speak(voice, user("w"), Sampling()))[-1]
    views = explain(voice, answer, reference=voice)
    assert [view.text for view in views] == ["x", "y", "z", END]
    # The stub's logits expect "previous plus one": true of y and z, not of the first token or the end.
    assert [view.rank == 1 for view in views] == [False, True, True, False]
    assert views[1].logprob == pytest.approx(2 - math.log(math.exp(2) + 258), abs=1e-5)
    assert [view.kl for view in views] == pytest.approx([0.0] * 4, abs=1e-6)


def test_a_reference_of_another_vocabulary_or_smaller_context_is_refused(make_voice):
    voice = make_voice()
    answer = list(speak(voice, user("w"), Sampling()))[-1]
    other = replace(voice, name="other", logits=lambda tokens: torch.zeros(len(tokens), 5))
    with pytest.raises(InputError, match="other has 5 tokens"):
        explain(voice, answer, reference=other)
    with pytest.raises(InputError, match="context of other is 4"):
        explain(voice, answer, reference=replace(other, context=4))


def test_an_answer_without_tokens_has_no_views(make_voice):
    answer = list(speak(make_voice(), user("w"), Sampling(), cancelled=lambda: True))[-1]
    assert explain(make_voice(), answer) == []
