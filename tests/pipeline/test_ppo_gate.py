"""The gate before PPO: the best of n by the reward must beat single samples by gold, beyond chance."""

import json
from dataclasses import replace

import pytest
import torch

from data.errors import InputError
from pipeline import ppo_gate


def share_of_good(items, texts, ended):
    return torch.tensor([text.split().count("7") / max(1, len(text.split())) for text in texts])


def gate(learner, num_prompts=12):
    """Run the gate on so many prompts, each its own; returns its record."""
    learner.items = [replace(learner.items[0], cluster=str(n)) for n in range(num_prompts)]
    learner.prompts = [[1, 3 + n % 7] for n in range(num_prompts)]
    ppo_gate.best_of_n_gate(learner)
    return learner.run.gate_records[0]


def test_it_is_red_when_the_reward_opposes_gold(make_ppo):
    records = [
        gate(make_ppo(name, gate_prompts=12, gate_samples=8, gold=gold))
        for name, gold in [("for", share_of_good), ("against", lambda *given: 1 - share_of_good(*given))]
    ]
    assert [record["passed"] for record in records] == [True, False]
    assert "at least" in records[0]["message"]
    assert "mend the reward stage" in records[1]["message"]


def test_a_reward_that_draws_lots_rarely_passes(make_ppo):
    generator = torch.Generator().manual_seed(3)

    def lots(items, texts, ended):
        return torch.rand(len(texts), generator=generator)

    learner = make_ppo(gate_prompts=12, gate_samples=8, score=lots, gold=share_of_good)
    passed = [gate(learner)["passed"] for _ in range(20)]
    assert sum(passed) <= 3  # one in twenty is expected, without an interval half of them


def test_it_ranks_as_ppo_scores_with_unended_completions_replaced(make_ppo):
    def longest(items, texts, ended):
        """Likes what never ends most."""
        return torch.tensor([0.0 if done else 9.0 for done in ended]) + share_of_good(items, texts, ended)

    def gold(items, texts, ended):
        return torch.tensor([float(done) for done in ended])

    passed = [
        gate(
            make_ppo(
                str(replaced),
                gate_prompts=12,
                gate_samples=8,
                score=longest,
                gold=gold,
                unended_score=replaced,
            )
        )["passed"]
        for replaced in (None, -1.0)
    ]
    assert passed == [False, True]


def test_one_prompt_measures_nothing(make_ppo):
    record = gate(make_ppo(gate_prompts=1, gold=share_of_good), num_prompts=1)
    assert record["passed"] is None
    assert "gate_prompts" in record["message"]


def test_prompts_that_all_gain_alike_pass(make_ppo):
    def gold(items, texts, ended):
        """One of two is right, whichever prompt it is."""
        return torch.tensor([float(n % 2) for n in range(len(texts))])

    record = gate(make_ppo(gate_prompts=6, gate_samples=2, score=gold, gold=gold))
    assert record["passed"]
    assert "inf" not in record["message"]


def judged(serve, reply, make_ppo, **changed):
    """The gate without gold: its record, its notes and the calls that it made."""
    url, calls = serve(reply)
    given = {"url": url, "model": "m", "num_retries": 0, **changed}
    learner = make_ppo(gate_prompts=12, gate_samples=8, gate_judge=given, gold=None)
    return gate(learner), learner.run.notes, calls


def likes_sevens(sign):
    """A judge who wants many sevens, or few."""

    def reply(body, number):
        shown = body["messages"][-1]["content"]
        texts = [shown.split(f"<answer_{x}>\n")[1].split("\n</answer_")[0] for x in "ab"]
        first, second = (sign * share_of_good(None, [text], None).item() for text in texts)
        word = "tie" if first == second else "A" if first > second else "B"
        return 200, json.dumps({"choices": [{"message": {"content": f"Verdict: {word}"}}]}).encode()

    return reply


@pytest.mark.parametrize(("sign", "passed"), [(1, True), (-1, False)])
def test_without_gold_a_judge_compares_the_best_with_a_single_sample(serve, make_ppo, sign, passed):
    record, notes, calls = judged(serve, likes_sevens(sign), make_ppo)
    assert record["passed"] is passed
    assert ("mend the reward stage" in record["message"]) is not passed
    assert notes["best_of_n"]["judge"] == "m"
    assert (notes["best_of_n"]["win_rate"] > 0.5) is passed
    assert 0 < len(calls) == notes["judge_calls"] <= 24  # equal completions tie unasked


def test_a_judge_who_gives_no_verdict_measures_nothing(serve, make_ppo):
    record, notes, calls = judged(serve, lambda body, number: (400, b"no"), make_ppo)
    assert notes["judge_calls_failed"] == len(calls) > 0
    assert record["passed"] is None or "without a verdict" in record["message"]


def test_a_judge_without_its_key_is_refused_before_anything_is_sampled(serve, make_ppo, monkeypatch):
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with pytest.raises(InputError, match=r"gate_judge\.api_key_variable: the environment has no NO_SUCH_KEY"):
        judged(serve, likes_sevens(1), make_ppo, api_key_variable="NO_SUCH_KEY")


def test_with_neither_gold_nor_a_judge_it_says_so(make_ppo):
    record = gate(make_ppo(gate_prompts=12, gold=None))
    assert (record["passed"], record["message"]) == (None, "not measurable without a gold reward or judge")
