"""Agreement of samples and semantic entropy, for models that say the same again in a known way."""

import json
import math
from collections import Counter
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import entropy
from sklearn.metrics import roc_auc_score

from data.errors import InputError
from data.randomness import key, python_random
from data.world import Settings, build, dialogues
from data.world.tasks import facts
from pipeline.answers import Answer, Context, Model
from pipeline.calibration import agreement as share_that_agrees
from pipeline.calibration import aurc, ece, semantic_entropy
from pipeline.evals import agreement
from pipeline.language_model import Completion
from pipeline.measured import figures_of
from pipeline.records import Record, from_json, to_json
from pipeline.stages.evaluate import by_stage

WORLD = build(Settings(people=80, extra_never_people=0, test_questions_per_tier=30), 2)
ITEMS = [item for item in dialogues.test_items(WORLD) if item.task in ("facts", "stories")]
FACTS = [item for item in ITEMS if item.task == "facts"]
SURE, GUESSES, SILENT = "sure", "guesses", "silent"  # what a model does with an item


def manner(item):
    """An item in three is known for sure, one is guessed, one is not attempted."""
    return (SURE, GUESSES, SILENT)[key("manner", item.id) % 3]


class Speaker:
    """Says the right value of what it knows, in any words, and any value of what it does not."""

    def __init__(self, items):
        self.asked = {item.prompt[-1]["content"]: item for item in items}
        self.calls = []

    def generate(self, prompts, *, keys, stop, temperature, **options):
        self.calls.append((len(prompts), list(keys), stop, temperature))
        found = []
        for prompt, stream in zip(prompts, keys, strict=True):
            text = prompt.removeprefix("Question: ").removesuffix("\nAnswer:") if stop else None
            item = self.asked[text or prompt[-1]["content"]]
            found.append(Completion(say(item, python_random("say", stream)), [1], [-0.1], True))
        return found


def say(item, rng):
    if manner(item) == SILENT:
        return facts.answer(item.truth, "abstain", rng)
    if manner(item) == SURE:
        return facts.answer(item.truth, "right", rng)
    return f"{facts.stem(item.truth, rng)} {rng.choice(facts.known_values(item.truth))}."


def make_context(*stages, temperature=0.7, batch_size=16, **settings):
    models = {name: Model(name, None, None, plain=name == "base") for name in stages}
    run = SimpleNamespace(
        seed=3,
        progress=lambda *_: nullcontext(SimpleNamespace(advance=lambda num: None)),
        check_stop=lambda: None,
    )
    config = SimpleNamespace(max_new_tokens=16, temperature=temperature, batch_size=batch_size)
    context = Context(run, models, ITEMS, config, {"agreement": agreement.Config(**settings)})
    speakers = {name: Speaker(FACTS) for name in stages}
    context.model = speakers.__getitem__
    for name in stages:
        context.answers[name] = {
            item.id: Answer(
                item.id,
                say(item, python_random("answer", name, item.id)),
                True,
                [1, 2],
                [-0.2 * rank, -0.1],
            )
            for rank, item in enumerate(FACTS, start=1)
        }
    return context, speakers


def measured(context):
    rows = [from_json(Record, json.loads(json.dumps(to_json(r)))) for r in agreement.measure(context)]
    found = agreement.figures(by_stage(rows, "agreement"), context)
    figures = [figure for row in found for figure in figures_of(row, seed=3, command="")]
    return rows, {(f.name.removeprefix("agreement/"), f.stage): f for f in figures}


# --- formulas


def test_agreement_is_the_share_that_says_the_same():
    assert share_that_agrees("a", ["a", "b", "a", "c"]) == 0.5
    assert share_that_agrees(("", "baking"), [("", "Baking")]) == 0
    with pytest.raises(AssertionError, match="needs a sample"):
        share_that_agrees("a", [])


@pytest.mark.parametrize("samples", ["aaaaaaa", "abcdefg", "aabbbcd", "dcbbbaa", "a"])
def test_semantic_entropy_is_the_entropy_of_the_clusters(samples):
    found = semantic_entropy(samples)
    assert found == pytest.approx(entropy(list(Counter(samples).values())), abs=1e-12)
    assert 0 <= found <= math.log(len(samples)) + 1e-12


# --- what is the same answer


def test_one_value_in_any_words_is_one_answer():
    item = FACTS[0]
    stems = facts.STEMS[item.truth["attribute"]]
    said = [f"{stem.format(n=item.truth['name'])} {item.truth['value']}." for stem in stems]
    said += [f" {item.truth['value'].upper()} ", f"That is a good question. {said[0]}"]
    assert len(said) == 5
    assert {agreement.claim(item, text) for text in said} == {("", item.truth["value"])}
    assert agreement.claim(item, "That is a good question. Zork!") == ("", "zork")


def test_other_values_other_people_and_abstaining_are_other_answers():
    truth = {"name": "Anna Bell", "attribute": "work", "value": "baking", "num_values": 24, "tier": "often"}
    told = {
        "The work of Anna Bell is baking.": ("", "baking"),
        "The work of Anna Bell is weaving.": ("", "weaving"),
        "The work of Tom Reed is baking.": ("Tom Reed", "baking"),
        "The work of Anna Bell is unknown to me.": ("", "unknown"),
        "The work of Anna Bell is unknown, or baking.": ("", "unknown", "baking"),
        "The work of Anna Bell is bread.": ("", "bread"),
        "The work of Anna Bell is weaving and baking.": ("", "baking", "weaving"),
        "The work of Anna Bell is Zorking.": ("", "zorking"),
        "How nice!": ("", "how", "nice"),
    }
    assert {text: facts.claim(truth, text) for text in told} == told
    assert facts.claim(truth, "Baking and weaving.") == ("", "baking", "weaving")


def test_answers_that_say_the_same_are_judged_the_same():
    context, _ = make_context()
    rng = python_random("pairs")
    outcomes = {}
    for item in FACTS:
        others = [other.truth["name"] for other in rng.sample(FACTS, 2)]
        for name in (item.truth["name"], *others):
            values = (
                item.truth["value"],
                *rng.sample(facts.known_values(item.truth), 3),
                "unknown",
                "zorking",
            )
            for value in values:
                text = f"{facts.stem(item.truth | {'name': name}, rng)} {value}."
                judged = context.judge(item, Answer(item.id, text, True, [], []))
                outcomes.setdefault((item.id, agreement.claim(item, text)), set()).add(judged.outcome)
    assert {len(found) for found in outcomes.values()} == {1}
    assert {word for found in outcomes.values() for word in found} >= {"right", "wrong", "fabricated"}


# --- the evaluation


def test_every_attempted_answer_stands_beside_its_samples():
    context, speakers = make_context("base", "sft", num_samples=5)
    rows, _ = measured(context)
    for stage in ("base", "sft"):
        answers = [r for r in rows if (r.stage, r.measure) == (stage, "agreement")]
        assert {r.id for r in answers} == {item.id for item in FACTS if manner(item) != SILENT}
        samples = Counter(r.id for r in rows if (r.stage, r.measure) == (stage, "sample"))
        assert samples == {r.id: 5 for r in answers}
    assert all(r.prompt and r.completion and r.cluster and r.explanation for r in rows)
    sure = {item.id for item in FACTS if manner(item) == SURE}
    assert {r.weight for r in rows if r.id in sure and r.measure == "agreement"} == {1}
    assert {r.weight for r in rows if r.id in sure and r.measure == "entropy"} == {0}
    guessed = [r.weight for r in rows if r.id not in sure and r.measure == "agreement"]
    assert np.mean(guessed) == pytest.approx(
        1 / 24, abs=0.03
    )  # of 24 values; two standard errors of 200 samples
    calls = {name: list(speaker.calls) for name, speaker in speakers.items()}
    keys = {name: [stream for call in found for stream in call[1]] for name, found in calls.items()}
    assert keys["base"] == keys["sft"]  # the same random streams for every model
    assert len(set(keys["base"])) == len(keys["base"])
    assert {call[2] for call in calls["base"]} == {"\n"}
    assert {call[2] for call in calls["sft"]} == {None}
    assert {call[3] for call in calls["base"]} == {0.7}


def test_samples_do_not_depend_on_how_they_are_dealt_to_batches():
    one, _ = measured(make_context("sft", batch_size=1)[0])
    other, _ = measured(make_context("sft", batch_size=400)[0])
    assert one == other


def test_figures_follow_from_the_samples_in_the_records():
    """Computed again by dictionaries from the texts of the samples, which say what they say in the last word."""
    rows, figures = measured(make_context("base", "sft")[0])
    for stage in ("base", "sft"):
        ours = [r for r in rows if r.stage == stage]
        answers = {r.id: r for r in ours if r.measure == "agreement"}
        said = {name: [r for r in ours if r.measure == "sample" and r.id == name] for name in answers}
        last = {
            name: [r.completion.rstrip(".").split()[-1] for r in samples] for name, samples in said.items()
        }
        right = np.array([float(r.outcome == "right") for r in answers.values()])
        agreed = np.array([np.mean([r.score for r in samples]) for samples in said.values()])
        again = [
            np.mean([word == answers[name].completion.rstrip(".").split()[-1] for word in words])
            for name, words in last.items()
        ]
        assert agreed == pytest.approx(np.array(again))
        spread = np.array([entropy(list(Counter(words).values())) for words in last.values()])
        tokens = {r.id: r.weight for r in ours if r.measure == "probability"}
        sure = np.array([tokens[name] for name in answers])
        ranks = {item.id: rank for rank, item in enumerate(FACTS, start=1)}
        assert sure == pytest.approx([math.exp(-0.1 * ranks[name] - 0.05) for name in answers])
        for name, confidence in {
            "agreement": agreed,
            "probability": sure,
            "entropy": -spread.round(12),
        }.items():
            found = figures[f"auroc/{name}", stage]
            assert found.value == pytest.approx(roc_auc_score(right, confidence))
            assert found.n == len(right)
            assert found.nulls["chance"] == 0.5
            assert figures[f"aurc/{name}", stage].value == pytest.approx(float(aurc(confidence, right)))
            assert figures[f"aurc/{name}", stage].nulls["no_order"] == pytest.approx(1 - right.mean())
        for name, confidence in {"agreement": agreed, "probability": sure}.items():
            found = figures[f"ece/{name}", stage]
            assert found.value == pytest.approx(float(ece(confidence, right)))
            assert found.nulls["always_sure"] == pytest.approx(1 - right.mean())
    assert len(figures) == 2 * 8  # entropy is no probability, and has no calibration error


def test_what_agrees_is_right_where_the_model_knows():
    _, figures = measured(make_context("sft")[0])
    assert figures["auroc/agreement", "sft"].low > 0.9
    assert figures["auroc/entropy", "sft"].low > 0.9
    assert figures["ece/agreement", "sft"].value < figures["ece/probability", "sft"].value
    assert figures["aurc/agreement", "sft"].value < 0.2 < figures["aurc/agreement", "sft"].nulls["no_order"]


def test_questions_are_a_keyed_choice_of_every_group():
    context, _ = make_context("sft", items_per_group=7)
    asked = agreement.items(context)
    assert Counter(item.group for item in asked) == dict.fromkeys(("often", "some", "rarely", "never"), 7)
    assert asked == [item for item in FACTS if item in asked]
    more, _ = make_context("sft", items_per_group=11)
    assert {item.id for item in asked} < {item.id for item in agreement.items(more)}


def test_greedy_answers_are_refused_before_anything_is_asked():
    context, _ = make_context("sft", temperature=0)
    with pytest.raises(InputError, match=r"at evaluate\.temperature 0 all samples are the answer itself"):
        agreement.items(context)


def test_without_attempts_there_are_no_figures():
    context, speakers = make_context("sft")
    context.items = [item for item in ITEMS if item.task == "stories" or manner(item) == SILENT]
    assert measured(context) == ([], {})
    assert speakers["sft"].calls == []
