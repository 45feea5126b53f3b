"""Telling whom the text tells of from whom it does not, by how likely "unknown" is."""

from types import SimpleNamespace

import pytest
import torch
from sklearn.metrics import roc_auc_score

from data.chat import encode_plain, encode_prompt, encode_text
from data.randomness import key
from data.world import Settings, build, dialogues
from pipeline.answers import Context, Model
from pipeline.evals import knowledge
from pipeline.language_model import LanguageModel
from pipeline.measured import figures_of
from pipeline.stages.evaluate import by_stage
from pipeline.stages.tokenizer import train, wrap

WORLD = build(Settings(people=80, extra_never_people=0, test_questions_per_tier=30), 2)
ITEMS = [item for item in dialogues.test_items(WORLD) if item.task in ("facts", "stories")]


@pytest.fixture(scope="module")
def tokenizer():
    return wrap(train([item.plain for item in ITEMS] + ["It is unknown to me."] * 20, vocab_size=500))


class Knower:
    """Finds "unknown" the likelier the less it knows: in a text by itself exactly, in an answer with noise."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def logprobs(self, prompts, completions):
        return [self.of(prompt, text) for prompt, text in zip(prompts, completions, strict=True)]

    def of(self, prompt, text):
        person = next(person for person in WORLD.people if person.name in text)
        nats = {"often": -9.0, "some": -6.0, "rarely": -3.0, "never": -1.0}[person.tier]
        noise = key("noise", person.name) % 1000 / 100 if prompt else 0.0
        ending = len(encode_text(self.tokenizer, " unknown"))
        before = len(encode_text(self.tokenizer, text)) - ending
        return [-50.0] * before + [(nats - noise) / ending] * ending


def evaluated(models, items=ITEMS, **settings):
    named = {name: Model(name, None, None, plain=name == "base") for name in models}
    context = Context(
        SimpleNamespace(seed=3), named, items, None, {"knowledge": knowledge.Config(**settings)}
    )
    context.model = models.__getitem__
    rows = knowledge.measure(context)
    found = [
        figure
        for measured in knowledge.figures(by_stage(rows, knowledge.NAME), context)
        for figure in figures_of(measured, seed=0, command="")
    ]
    return rows, {(figure.name, figure.stage): figure for figure in found}


def test_a_model_that_knows_whom_it_knows_tells_them_apart(tokenizer):
    rows, figures = evaluated({"sft": Knower(tokenizer)})
    assert set(figures) == {
        (f"knowledge/{reading}/{tier}", "sft")
        for reading in ("asked", "by_itself")
        for tier in ("often", "some", "rarely")
    }
    for tier in ("often", "some", "rarely"):
        assert figures[f"knowledge/by_itself/{tier}", "sft"].value == 1
        kept = [row for row in rows if row.measure == "asked" and row.group in (tier, "never")]
        expected = roc_auc_score([row.group == tier for row in kept], [row.weight for row in kept])
        assert figures[f"knowledge/asked/{tier}", "sft"].value == pytest.approx(expected)
        assert figures[f"knowledge/asked/{tier}", "sft"].nulls["chance"] == 0.5
    assert figures["knowledge/asked/rarely", "sft"].value < 1
    by_name = {row.cluster: row.weight for row in rows if row.measure == "by_itself"}
    assert {round(weight, 6) for weight in by_name.values()} == {9.0, 6.0, 3.0, 1.0}


@pytest.mark.parametrize("stage", ["base", "sft"])
def test_it_reads_the_probability_of_the_word_behind_what_is_asked(stage, tiny_llama, tokenizer):
    model = LanguageModel(tiny_llama(vocabulary=len(tokenizer), context=128), tokenizer, stage)
    rows, _ = evaluated({stage: model}, items_per_group=3)
    assert len(rows) == 2 * 4 * 3
    by_id = {item.id: item for item in ITEMS}
    for row in rows:
        item = by_id[row.id]
        if row.measure == "by_itself":
            before = encode_plain(tokenizer, "")
        elif stage == "base":
            before = encode_plain(tokenizer, item.plain)
        else:
            before = encode_prompt(tokenizer, item.prompt)
        opening = " " if row.measure == "asked" and stage == "base" else ""
        said = encode_text(tokenizer, opening + row.completion.removesuffix(" unknown"))
        word = encode_text(tokenizer, " unknown")
        tokens = torch.tensor([[*before, *said, *word]])
        logprobs = model.model(input_ids=tokens).logits[0].log_softmax(-1).detach()
        place = len(before) + len(said)
        expected = sum(float(logprobs[place + n - 1, token]) for n, token in enumerate(word))
        assert row.weight == pytest.approx(-expected, abs=1e-4)
        assert item.cluster in row.completion
        assert row.score == (item.group != "never")


def test_where_nobody_is_never_seen_nothing_is_asked(tokenizer):
    seen = [item for item in ITEMS if item.group != "never"]
    assert evaluated({"sft": Knower(tokenizer)}, seen) == ([], {})


def test_the_same_beginnings_for_every_model(tokenizer):
    rows, _ = evaluated({"base": Knower(tokenizer), "ppo": Knower(tokenizer)})
    said = {
        stage: [(row.id, row.measure, row.completion) for row in rows if row.stage == stage]
        for stage in ("base", "ppo")
    }
    assert said["base"] == said["ppo"]
