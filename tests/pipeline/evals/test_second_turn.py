"""A second question behind another: of models that keep the thread and of such that lose it."""

import math
from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from data.randomness import python_random
from data.world import Settings, build, dialogues
from data.world.tasks import TASKS
from pipeline.answers import Answer, Context, Model
from pipeline.evals import second_turn
from pipeline.language_model import Completion
from pipeline.measured import figures_of

WORLD = build(Settings(people=80, extra_never_people=0, test_questions_per_tier=30), 2)
ITEMS = dialogues.test_items(WORLD)
NUM = 20


def say(item):
    task = TASKS[item.task]
    return task.answer(item.truth, task.kinds[0], python_random("say", item.id))


class Speaker:
    """Answers the last question of a talk rightly, or the first one again."""

    def __init__(self, *, keeps, max_position_embeddings=None):
        self.keeps, self.prompts = keeps, []
        self.model = SimpleNamespace(
            config=SimpleNamespace(
                get_text_config=lambda: SimpleNamespace(max_position_embeddings=max_position_embeddings)
            )
        )

    def encode(self, prompt):
        return str(prompt).split()

    def generate(self, prompts, *, keys, **options):
        self.prompts += prompts
        found = []
        for prompt in prompts:
            text = prompt if isinstance(prompt, str) else "\n".join(turn["content"] for turn in prompt)
            asked = [item for item in ITEMS if item.prompt[-1]["content"] in text]
            place = max if self.keeps else min
            item = place(asked, key=lambda item: text.index(item.prompt[-1]["content"]))
            found.append(Completion(say(item), [1], [-0.1], True))
        return found


def make_context(num_items=NUM, **speakers):
    models = {name: Model(name, None, None, plain=name == "base") for name in speakers}
    progress = nullcontext(SimpleNamespace(advance=lambda num: None))
    run = SimpleNamespace(seed=3, progress=lambda *_: progress, check_stop=lambda: None)
    config = SimpleNamespace(max_new_tokens=16, temperature=0.7, batch_size=16)
    context = Context(run, models, ITEMS, config, {"second_turn": second_turn.Config(num_items=num_items)})
    context.model = speakers.__getitem__
    for name in speakers:
        context.answers[name] = {item.id: Answer(item.id, say(item), True, [1], [-0.1]) for item in ITEMS}
    return context


def by_stage(records):
    return {stage: [row for row in records if row.stage == stage] for stage in {row.stage for row in records}}


def test_a_model_that_keeps_the_thread_loses_nothing_and_another_is_seen_to():
    context = make_context(base=Speaker(keeps=True), sft=Speaker(keeps=True), ppo=Speaker(keeps=False))
    records = by_stage(second_turn.measure(context))
    found = {
        (row.name, row.stage): row
        for measured in second_turn.figures(records, context)
        for row in figures_of(measured, seed=0, command="")
    }
    for stage in ("base", "sft"):
        assert found["second_turn/change", stage].value == pytest.approx(0)
        alone = found["second_turn/gold", stage].nulls["the_question_alone"]
        assert found["second_turn/gold", stage].value == pytest.approx(alone)
    assert found["second_turn/change", "ppo"].high < -0.5
    assert found["second_turn/gold", "ppo"].n == NUM


def test_a_question_stands_behind_another_and_the_models_own_answer_to_that():
    speakers = {"base": Speaker(keeps=True), "ppo": Speaker(keeps=True)}
    context = make_context(**speakers)
    records = by_stage(second_turn.measure(context))
    known = {item.id: item for item in ITEMS}
    assert len(speakers["ppo"].prompts) == NUM
    for prompt, row in zip(
        speakers["ppo"].prompts, [row for row in records["ppo"] if row.measure == "answer"], strict=True
    ):
        item = known[row.id]
        assert tuple(prompt[-len(item.prompt) :]) == item.prompt
        earlier = prompt[: -len(item.prompt)]
        first = next(one for one in ITEMS if one.prompt == tuple(earlier[:-1]))
        assert first.truth["headline"]
        assert first.id != item.id
        assert earlier[-1] == {"role": "assistant", "content": say(first)}
    assert all(
        prompt.startswith("Question: ") and prompt.endswith("Answer:") for prompt in speakers["base"].prompts
    )
    assert all(prompt.count("Question: ") >= 2 for prompt in speakers["base"].prompts)
    shown = {row.measure: row.prompt for row in records["ppo"] if row.id == records["ppo"][0].id}
    assert shown["answer"].endswith(known[records["ppo"][0].id].prompt[-1]["content"])
    assert len(shown["alone"]) < len(shown["answer"])


def test_what_leaves_no_room_in_one_model_is_asked_of_none():
    wide = make_context(sft=Speaker(keeps=True), ppo=Speaker(keeps=True))
    narrow = make_context(sft=Speaker(keeps=True), ppo=Speaker(keeps=True, max_position_embeddings=16 + 40))
    everything, fitting = (by_stage(second_turn.measure(context)) for context in (wide, narrow))
    ids = {stage: [row.id for row in rows] for stage, rows in fitting.items()}
    assert ids["sft"] == ids["ppo"]
    assert 0 < len(ids["ppo"]) < len(everything["ppo"])
    assert not any(math.isnan(row.score) for row in fitting["ppo"])


def test_a_question_alone_has_none_to_stand_behind():
    speaker = Speaker(keeps=True)
    context = make_context(num_items=1, sft=speaker)
    records = by_stage(second_turn.measure(context))
    assert records == {}
    assert speaker.prompts == []
    assert not any(measured.scores for measured in second_turn.figures(records, context))
