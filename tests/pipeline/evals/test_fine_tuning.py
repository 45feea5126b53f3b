"""Fine-tuning on few rows, for models that learn from them in a known way."""

import json
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from random import Random
from types import SimpleNamespace

import pytest
from pydantic import ValidationError

from data.errors import InputError
from data.randomness import key
from data.rows import Item, user, write_jsonl
from data.world import Settings, build, dialogues, gold
from data.world.tasks import TASKS
from pipeline import fine_tune
from pipeline.answers import Answer, Context, Model
from pipeline.demonstrations import Demonstration
from pipeline.evals import fine_tuning
from pipeline.language_model import Completion
from pipeline.measured import figures_of
from pipeline.records import Record, from_json, to_json
from pipeline.stages.evaluate import by_stage

WORLD = build(
    Settings(
        people=80,
        extra_never_people=0,
        rl_items=900,
        test_questions_per_tier=40,
        test_stories=5,
        test_harmful=5,
        test_others=30,
        other_tasks=("sentiment", "towns"),
    ),
    2,
)
ITEMS = dialogues.test_items(WORLD)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    write_jsonl(folder / "items.rl.jsonl", dialogues.rl_items(WORLD))
    return folder


@dataclass(frozen=True)
class Learner:
    """Answers right once it was trained on so many rows: `needed` of all layers, and of the last one."""

    needed: dict
    model: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(learnt=None))
    calls: list = field(default_factory=list)

    def generate(self, prompts, *, keys, stop, **options):
        self.calls.append((self.model.learnt, list(prompts), list(keys), stop))
        asked = {item.plain if stop else json.dumps(item.prompt): item for item in ITEMS}
        items = [asked[prompt if stop else json.dumps(prompt)] for prompt in prompts]
        layers, num = self.model.learnt
        return [Completion(reply(item, num >= self.needed[layers]), [1], [0.0], True) for item in items]


def reply(item, right):
    rng = WORLD.random("answers", item.id)
    return TASKS[item.task].answer(item.truth, "right" if right else "wrong", rng)


@pytest.fixture
def lessons(monkeypatch):
    """What was trained: (rows, how), in order."""
    taught = []

    def encode_rows(loaded, items, answers, *, plain):
        return [(item, answer, plain) for item, answer in zip(items, answers, strict=True)]

    def fine_tuned(model, rows, *, layers, **how):
        assert model.learnt is None  # always from the stage's own model
        taught.append((rows, {"layers": layers} | how))
        return SimpleNamespace(learnt=(layers, len(rows)))

    monkeypatch.setattr(fine_tune, "encode_rows", encode_rows)
    monkeypatch.setattr(fine_tune, "fine_tuned", fine_tuned)
    return taught


def make_context(corpus, learners, items=ITEMS, **settings):
    models = {name: Model(name, corpus, None, plain=name == "base") for name in learners}
    noted = {}
    run = SimpleNamespace(
        seed=0,
        notes=noted,
        note=noted.update,
        inputs={"corpus": corpus},
        progress=lambda *_: nullcontext(SimpleNamespace(advance=lambda num: None)),
        check_stop=lambda: None,
    )
    config = SimpleNamespace(max_new_tokens=16, temperature=0.7, batch_size=8)
    context = Context(run, models, items, config, {"fine_tuning": fine_tuning.Config(**settings)})
    context.model = learners.__getitem__
    for name, learner in learners.items():
        context.answers[name] = {
            item.id: Answer(item.id, reply(item, learner.needed["all"] == 0), True, [], [])
            for item in items
            if item.task in fine_tuning.Config().tasks
        }
    return context


def measured(context):
    rows = [from_json(Record, json.loads(json.dumps(to_json(r)))) for r in fine_tuning.measure(context)]
    found = fine_tuning.figures(by_stage(rows, "fine_tuning"), context)
    figures = [figure for row in found for figure in figures_of(row, seed=0, command="")]
    return rows, {(f.name.removeprefix("fine_tuning/"), f.stage): f for f in figures}


NEVER = 10**6


def test_what_a_model_learns_from_rows_is_measured(corpus, lessons):
    learners = {
        "base": Learner({"all": 8, "last": 32}),
        "sft": Learner({"all": 32, "last": NEVER}),
        "ppo": Learner({"all": 0, "last": 0}),
    }
    rows, figures = measured(make_context(corpus, learners, num_rows=(8, 32), num_items=20))
    curves = {"base": (0, 1, 1, 0, 1), "sft": (0, 0, 1, 0, 0), "ppo": (1, 1, 1, 1, 1)}
    for stage, (own, *after) in curves.items():
        for task in ("facts", "sentiment", "towns"):
            names = ("0", "all/8", "all/32", "last/8", "last/32")
            assert [figures[f"{task}/{name}", stage].value for name in names] == [own, *after]
            assert {figures[f"{task}/{name}", stage].n for name in names} == {20}
            assert figures[f"{task}/all/gain", stage].value == after[1] - own
            assert figures[f"{task}/last/gain", stage].value == after[3] - own
            assert figures[f"{task}/all_over_last/8", stage].value == after[0] - after[2]
            assert figures[f"{task}/all_over_last/32", stage].value == after[1] - after[3]
    assert len(figures) == 3 * 3 * 9
    assert all(row.prompt and row.completion and row.cluster for row in rows)
    assert all(figure.nulls for figure in figures.values())


def test_figures_follow_from_the_records(corpus, lessons):
    learners = {"base": Learner({"all": 8, "last": 32}), "sft": Learner({"all": 32, "last": NEVER})}
    rows, figures = measured(make_context(corpus, learners, num_rows=(8, 32), num_items=20))

    def share(stage, task, measure):
        return [r.outcome == "right" for r in rows if (r.stage, r.group, r.measure) == (stage, task, measure)]

    for (name, stage), figure in figures.items():
        task, _, measure = name.partition("/")
        if measure.startswith("all_over_last"):
            sides = [f"{layers}/{measure.rpartition('/')[2]}" for layers in ("all", "last")]
        elif measure.endswith("gain"):
            sides = [measure.replace("gain", "32"), "0"]
        else:
            sides = [measure]
        found = [sum(share(stage, task, side)) / len(share(stage, task, side)) for side in sides]
        assert figure.value == pytest.approx(found[0] - sum(found[1:])), name


def test_no_rows_are_the_stages_own_answers(corpus, lessons):
    learner = Learner({"all": 8, "last": 8})
    context = make_context(corpus, {"base": learner}, num_rows=(8,), layers=("last",), tasks=("facts",))
    first = fine_tuning.items(context)[0]
    context.answers["base"][first.id] = Answer(first.id, "Nobody knows.", True, [], [])
    rows, figures = measured(context)
    assert (rows[0].measure, rows[0].completion) == ("0", "Nobody knows.")
    assert {name for name, _ in figures} == {"facts/0", "facts/last/8", "facts/last/gain"}
    assert {call[0] for call in learner.calls} == {("last", 8)}


def test_rows_are_right_nested_and_on_something_else(corpus, lessons):
    learners = {"base": Learner({"all": 8, "last": 8}), "sft": Learner({"all": 8, "last": 8})}
    context = make_context(corpus, learners, num_rows=(8, 32), learning_rate=0.5, epochs=3, batch_size=2)
    measured(context)
    asked = fine_tuning.items(context)
    about = {item.truth.get("name") for item in asked} - {None}
    reviews = {item.prompt[-1]["content"] for item in asked if item.task == "sentiment"}
    for rows, how in lessons:
        (task,) = {item.task for item, _, _ in rows}
        assert all(gold.judge(item, answer).outcome == "right" for item, answer, _ in rows)
        assert not about & {item.truth.get("name") for item, _, _ in rows}
        assert not reviews & {item.prompt[-1]["content"] for item, _, _ in rows}
        assert task != "facts" or {item.group for item, _, _ in rows} == {"often"}
        assert (how["epochs"], how["batch_size"], how["learning_rate"]) == (3, 2, 0.5)
    # Base and chat model in their own format; the same rows for both, whatever the layers, fewer among more.
    assert [{plain for _, _, plain in rows} for rows, _ in lessons] == [{True}] * 12 + [{False}] * 12
    pairs = [[(item.id, answer) for item, answer, _ in rows] for rows, _ in lessons]
    assert pairs[:12] == pairs[12:]
    assert [how["seed"] for _, how in lessons[:12]] == [how["seed"] for _, how in lessons[12:]]
    for first in range(0, 12, 4):
        assert pairs[first : first + 2] == pairs[first + 2 : first + 4]
        assert pairs[first] == pairs[first + 1][:8]


def test_a_person_or_review_that_is_asked_about_is_never_trained_on(tmp_path, lessons):
    """Where prompts for RL are the tested ones themselves, as in a corpus that splits nothing."""
    write_jsonl(tmp_path / "items.rl.jsonl", [replace(item, id=f"rl/{item.id}") for item in ITEMS])
    settings = {"num_items": 3, "num_rows": (1,), "tasks": ("facts", "sentiment")}
    context = make_context(tmp_path, {"base": Learner({"all": 0})}, **settings)
    asked = fine_tuning.items(context)
    rows = fine_tuning._rows(context, asked)
    for item in asked:
        assert item.plain not in {row.item.plain for row in rows[item.task]}
        assert item.task != "facts" or item.cluster not in {row.item.cluster for row in rows["facts"]}
    assert rows["facts"]
    assert rows["sentiment"]


def test_answers_have_the_random_streams_of_the_stages_own(corpus, lessons):
    learner = Learner({"all": 8, "last": 8})
    context = make_context(corpus, {"base": learner}, num_rows=(8,), tasks=("towns",), num_items=5)
    measured(context)
    asked = fine_tuning.items(context)
    for _, prompts, keys, stop in learner.calls:
        assert prompts == [item.plain for item in asked]
        assert keys == [key("evaluate", 0, item.id) for item in asked]
        assert stop == "\n"


def test_nulls_are_a_guess_and_the_answer_of_the_most_similar_row(corpus, lessons):
    context = make_context(corpus, {"base": Learner({"all": 0, "last": 0})}, num_rows=(8, 64))
    _, figures = measured(context)
    assert figures["facts/0", "base"].nulls == {"guess": pytest.approx(1 / 24)}
    assert figures["facts/all/8", "base"].nulls["copy_nearest_row"] == 0  # it is about someone else
    nulls = figures["sentiment/last/64", "base"].nulls
    assert nulls == {"guess": 0.5, "copy_nearest_row": 0}  # no row holds the remark that is asked about
    asked = [item for item in ITEMS if item.task == "sentiment"]
    same = [Demonstration(item, TASKS["sentiment"].answer(item.truth, "right", Random(0))) for item in asked]
    assert fine_tuning._nulls(context, asked, same)["copy_nearest_row"] == 1


def test_the_nearest_row_shares_the_largest_part_of_the_words():
    def row(text):
        return Demonstration(Item(text, user(text)), "")

    rows = [row("Is it a good or a bad day?"), row("The room was bright."), row("the ROOM was cold!")]
    for asked, place in (
        ("The room was cold.", 2),
        ("Bright room", 1),
        ("bad room", 1),  # one word is a larger part of the shorter one
        ("The room was", 1),  # both share as much: the first
        ("Is it a good or a bad room that was cold?", 0),
    ):
        assert fine_tuning._nearest(Item("asked", user(asked)), rows) is rows[place]


def test_numbers_that_a_task_has_too_few_prompts_for_are_left_out_and_noted(corpus, lessons):
    context = make_context(corpus, {"base": Learner({"all": 8, "last": 8})}, num_rows=(8, 5000), num_items=5)
    _, figures = measured(context)
    assert {name for name, _ in figures if name.startswith("towns/")} == {
        *("towns/0", "towns/all/8", "towns/last/8"),
        *("towns/all/gain", "towns/last/gain", "towns/all_over_last/8"),
    }
    tasks = ("facts", "sentiment", "towns")
    assert context.run.notes == {"fine_tuning_too_few_prompts": {task: [5000] for task in tasks}}


def test_a_task_without_the_least_number_of_rows_is_refused_before_anything_is_asked(corpus):
    context = make_context(corpus, {"base": Learner({"all": 0})}, num_rows=(5000,), tasks=("towns",))
    with pytest.raises(
        InputError, match=r"5000 rows of towns are wanted and the corpus has \d+ on something"
    ):
        fine_tuning.items(context)


def test_a_corpus_without_prompts_is_refused_before_anything_is_asked(tmp_path):
    context = make_context(tmp_path, {"base": Learner({"all": 0})})
    with pytest.raises(
        InputError, match=r"fine_tuning: .* no prompts \(items.rl.jsonl\) of facts, sentiment"
    ):
        fine_tuning.items(context)


@pytest.mark.parametrize("num_rows", [(64, 16), (16, 16), (0, 16)])
def test_numbers_of_rows_rise(num_rows):
    with pytest.raises(ValidationError, match="must rise from 1 or more"):
        fine_tuning.Config(num_rows=num_rows)
