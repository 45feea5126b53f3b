"""Demonstrations in the prompt, for models that learn from them in a known way."""

import json
import math
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
from pydantic import ValidationError

from data.errors import InputError
from data.rows import Item, write_jsonl
from data.world import Settings, build, dialogues, gold
from data.world.tasks import TASKS
from pipeline.answers import Answer, Context, Model
from pipeline.evals import few_shot
from pipeline.language_model import Completion
from pipeline.measured import figures_of
from pipeline.records import Record, from_json, to_json
from pipeline.stages.evaluate import by_stage

WORLD = build(
    Settings(
        people=80,
        extra_never_people=0,
        rl_items=600,
        test_questions_per_tier=40,
        test_stories=5,
        test_harmful=5,
        test_others=30,
        other_tasks=("sentiment", "towns"),
    ),
    2,
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    write_jsonl(folder / "items.rl.jsonl", dialogues.rl_items(WORLD))
    return folder


@pytest.fixture(scope="module")
def asked_items():
    return dialogues.test_items(WORLD)


class Learner:
    """Answers right where its prompt has at least so many demonstrations; one token a word."""

    def __init__(self, items, needed, context=10_000):
        self.model = SimpleNamespace(
            config=SimpleNamespace(get_text_config=lambda: SimpleNamespace(max_position_embeddings=context))
        )
        self.asked = {item.plain: item for item in items}
        self.needed, self.calls = needed, []

    def encode(self, prompt):
        told = prompt if isinstance(prompt, str) else " ".join(turn["content"] for turn in prompt)
        return told.split()

    def generate(self, prompts, *, keys, stop, **options):
        self.calls.append((prompts, list(keys), stop))
        return [Completion(self.answer(prompt), [1], [0.0], True) for prompt in prompts]

    def answer(self, prompt):
        if isinstance(prompt, str):
            last = "Question: " + prompt.rpartition("Question: ")[2]
            num = prompt.count("Answer: ")
        else:
            last, num = f"Question: {prompt[-1]['content']}\nAnswer:", len(prompt) // 2
        item = self.asked[last]
        rng = WORLD.random("answers", item.id)
        return TASKS[item.task].answer(item.truth, "right" if num >= self.needed else "wrong", rng)


def make_context(corpus, items, learners, **settings):
    models = {name: Model(name, corpus, None, plain=name == "base") for name in learners}
    run = SimpleNamespace(
        seed=0,
        inputs={"corpus": corpus},
        progress=lambda *_: nullcontext(SimpleNamespace(advance=lambda num: None)),
        check_stop=lambda: None,
    )
    config = SimpleNamespace(max_new_tokens=16, temperature=0.7, batch_size=8)
    context = Context(run, models, items, config, {"few_shot": few_shot.Config(**settings)})
    context.model = learners.__getitem__
    for name, learner in learners.items():
        context.answers[name] = {
            item.id: Answer(item.id, learner.answer(item.plain), True, [], [])
            for item in items
            if item.task in few_shot.Config().tasks
        }
    return context


def measured(context):
    rows = [from_json(Record, json.loads(json.dumps(to_json(r)))) for r in few_shot.measure(context)]
    found = few_shot.figures(by_stage(rows, "few_shot"), context)
    figures = [figure for row in found for figure in figures_of(row, seed=0, command="")]
    return rows, {(f.name.removeprefix("few_shot/"), f.stage): f for f in figures}


def test_what_a_model_learns_from_demonstrations_is_measured(corpus, asked_items):
    learners = {
        "base": Learner(asked_items, 1),
        "sft": Learner(asked_items, 4),
        "ppo": Learner(asked_items, 0),
    }
    rows, figures = measured(make_context(corpus, asked_items, learners, num_items=20))
    for stage, curve in {"base": (0, 1, 1), "sft": (0, 0, 1), "ppo": (1, 1, 1)}.items():
        for task in ("facts", "sentiment", "towns"):
            assert [figures[f"{task}/{k}", stage].value for k in (0, 1, 4)] == list(curve)
            assert figures[f"{task}/gain", stage].value == curve[2] - curve[0]
            assert figures[f"{task}/0", stage].n == 20
    assert figures["sentiment/0", "base"].nulls == {"guess": 0.5}
    nulls = figures["facts/1", "base"].nulls
    assert nulls["guess"] == pytest.approx(1 / 24)
    assert nulls["copy_demonstration"] == 0  # it is about someone else
    assert all(row.prompt and row.completion and row.cluster for row in rows)


def test_no_demonstrations_are_the_stages_own_answers(corpus, asked_items):
    learner = Learner(asked_items, 0)
    context = make_context(corpus, asked_items, {"base": learner}, ks=(0,))
    asked = few_shot.items(context)
    context.answers["base"][asked[0].id] = Answer(asked[0].id, "Nobody knows.", True, [], [])
    rows, figures = measured(context)
    assert learner.calls == []
    assert rows[0].completion == "Nobody knows."
    assert not [name for name, _ in figures if name.endswith("gain")]


def test_demonstrations_are_right_and_on_something_else(corpus, asked_items):
    context = make_context(corpus, asked_items, {"base": Learner(asked_items, 0)})
    asked = few_shot.items(context)
    shown = few_shot._demonstrations(context, asked)
    test_ids = {item.id for item in asked_items}
    assert {item.group for item in asked} == {"often", "sentiment", "towns"}
    for item in asked:
        assert len(shown[item.id]) == 4
        clusters = [row.item.cluster for row in shown[item.id]]
        assert len({*clusters, item.cluster}) == 5
        for row in shown[item.id]:
            assert row.item.task == item.task
            assert row.item.id not in test_ids
            assert gold.judge(row.item, row.answer).outcome == "right"
            assert item.task != "facts" or row.item.group == "often"


def test_a_person_who_is_asked_about_is_never_demonstrated(tmp_path, asked_items):
    """Where prompts for RL are on the tested people themselves, as in a corpus that splits no one."""
    known = [item for item in asked_items if item.task == "facts" and item.group == "often"]
    same = [
        Item(f"rl/{n}", i.prompt, i.cluster, i.task, i.group, i.plain, i.truth) for n, i in enumerate(known)
    ]
    write_jsonl(tmp_path / "items.rl.jsonl", same)
    context = make_context(tmp_path, known, {"base": Learner(known, 0)}, tasks=("facts",))
    shown = few_shot._demonstrations(context, few_shot.items(context))
    for item in few_shot.items(context):
        assert item.cluster not in {row.item.cluster for row in shown[item.id]}


def test_a_prompt_is_plain_lines_for_base_models_and_turns_for_chat_models(corpus, asked_items):
    learners = {"base": Learner(asked_items, 0), "sft": Learner(asked_items, 0)}
    measured(make_context(corpus, asked_items, learners, ks=(1, 2), tasks=("towns",), num_items=5))
    (one, keys, stop), (two, more_keys, _) = learners["base"].calls
    assert keys == more_keys  # the same random stream whatever the prompt
    assert stop == "\n"
    for short, long in zip(one, two, strict=True):
        assert [line.split(":")[0] for line in short.split("\n")] == ["Question", "Answer"] * 2
        assert short.endswith("\nAnswer:")
        assert long.endswith(short)  # the nearest demonstration is the same
    turns, _, stop = learners["sft"].calls[1]
    assert stop is None
    for chat, plain in zip(turns, two, strict=True):
        assert [turn["role"] for turn in chat] == ["user", "assistant"] * 2 + ["user"]
        assert [line.split(": ", 1)[1] for line in plain.split("\n")[:-1]] == [t["content"] for t in chat]


def test_a_prompt_that_leaves_no_room_is_not_scored(corpus, asked_items):
    context = make_context(corpus, asked_items, {"base": Learner(asked_items, 0, context=110)}, num_items=20)
    rows, figures = measured(context)
    unscored = [row for row in rows if math.isnan(row.score)]
    assert {row.explanation for row in unscored} == {"too long"}
    assert {row.measure for row in unscored} == {"4"}
    # Reviews are the longest: none of them has room for four more, and so there is no figure of them.
    assert not {("sentiment/4", "base"), ("sentiment/gain", "base")} & set(figures)
    assert figures["sentiment/1", "base"].n == 20


def test_a_corpus_without_prompts_is_refused_before_anything_is_asked(tmp_path, asked_items):
    context = make_context(tmp_path, asked_items, {"base": Learner(asked_items, 0)})
    with pytest.raises(InputError, match=r"no prompts \(items.rl.jsonl\) of facts, sentiment, towns"):
        few_shot.items(context)


def test_too_few_demonstrations_are_refused(corpus, asked_items):
    context = make_context(
        corpus, asked_items, {"base": Learner(asked_items, 0)}, ks=(0, 32), tasks=("towns",)
    )
    with pytest.raises(InputError, match="32 demonstrations of towns are wanted and the corpus has 6"):
        few_shot.measure(context)


@pytest.mark.parametrize("ks", [(4, 1), (1, 1), (-1, 2), (0, 33)])
def test_numbers_of_demonstrations_rise(ks):
    with pytest.raises(ValidationError, match=r"must rise and lie in \[0, 32\]"):
        few_shot.Config(ks=ks)
