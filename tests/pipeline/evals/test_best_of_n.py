"""The best of n by a reward, against hand-made answers whose reward and gold are known."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
from pydantic import ValidationError

from data.rows import Item, user
from pipeline import reward_scores
from pipeline.answers import Model
from pipeline.evals import best_of_n
from pipeline.language_model import Completion

ITEMS = [Item(str(n), user(f"{n}?"), f"c{n}", "facts", "", None, {"a": 1}) for n in range(6)]


class Answers:
    """Answers "0", "1", "2", "3" in turn."""

    def generate(self, prompts, **options):
        assert len(set(options["keys"])) == len(prompts)
        return [Completion(str(n % 4), [n % 4], [0.0], True) for n in range(len(prompts))]


@pytest.fixture
def context(monkeypatch, tmp_path):
    # The reward likes large numbers; gold likes them up to 2.
    monkeypatch.setattr(
        reward_scores, "score_with", lambda items, texts, context, ended: [float(t) for t in texts]
    )
    return SimpleNamespace(
        options={"best_of_n": best_of_n.Config(num_prompts=3, num_samples=4, ns=(1, 2, 4))},
        models={
            "base": Model("base", tmp_path, None, plain=True),
            "sft": Model("sft", tmp_path, "base", plain=False),
        },
        headline=ITEMS,
        seed=1,
        config=SimpleNamespace(max_new_tokens=4, temperature=1.0, batch_size=8),
        folders=lambda role: (tmp_path,),
        knows=lambda item: True,
        model=lambda stage: Answers(),
        judge=lambda item, answer: SimpleNamespace(score=-1.0 if answer.text == "3" else float(answer.text)),
    )


def test_reward_rises_with_n_and_gold_falls_where_they_part(context):
    records = best_of_n.measure(context)
    assert {record.id for record in records} == {"0", "2", "4"}  # spread over the headline mix
    assert {record.stage for record in records} == {"sft"}
    figures = {m.name: m.scores["sft"] for m in best_of_n.figures({"sft": records}, context)}
    found = {name: rows[0].score for name, rows in figures.items()}
    # Of two from {0, 1, 2, 3} the best is 1, 2, 3 in 1, 2, 3 of 6 pairs.
    assert found["best_of_n/reward/1"] == pytest.approx(1.5)
    assert found["best_of_n/reward/2"] == pytest.approx((1 + 2 * 2 + 3 * 3) / 6)
    assert found["best_of_n/reward/4"] == pytest.approx(3)
    assert found["best_of_n/gold/1"] == pytest.approx(0.5)
    assert found["best_of_n/gold/2"] == pytest.approx((1 + 2 * 2 - 3) / 6)
    assert found["best_of_n/gold/4"] == pytest.approx(-1)


def test_the_records_hold_every_size_and_the_figures_those_that_are_asked_for(context):
    records = best_of_n.measure(context)
    sizes = {record.measure for record in records}
    assert sizes == {f"{name}/{n}" for name in ("reward", "gold") for n in (1, 2, 3, 4)}
    figures = [m.name for m in best_of_n.figures({"sft": records}, context)]
    assert figures == [f"best_of_n/{name}/{n}" for name in ("reward", "gold") for n in (1, 2, 4)]


def test_it_is_off_by_default_and_without_a_reward_model(context):
    context.folders = lambda role: ()
    assert best_of_n.measure(context) == []
    context.options["best_of_n"] = best_of_n.Config()
    assert best_of_n.items(context) == best_of_n.measure(context) == []


def test_n_is_at_most_the_samples():
    with pytest.raises(ValidationError, match="between 1 and num_samples 4"):
        best_of_n.Config(num_samples=4, ns=(8,))


def test_a_completion_without_an_end_is_ranked_as_ppo_scores_it(context):
    class Unended(Answers):
        def generate(self, prompts, **options):
            return [replace(done, ended=done.text != "3") for done in super().generate(prompts, **options)]

    context.model = lambda stage: Unended()
    found = {record.measure: record.score for record in best_of_n.measure(context)}
    assert found["reward/4"] == 2  # "3" has no end: it counts as -1 when the best is chosen
    assert found["reward/1"] == pytest.approx(1.5)  # and with what it was given where it is chosen
