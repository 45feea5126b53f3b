"""Swapped pronouns, under models whose preference is known and under a tiny real one."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest

from data.errors import InputError
from data.rows import TextRow, write_jsonl
from data.world import Settings, build, lexicon, prose, reading
from pipeline.answers import Context, Model
from pipeline.evals import counterfactual
from pipeline.measured import figures_of
from pipeline.records import Record, from_json, to_json
from pipeline.run import StageRun
from tests.pipeline.evals import worlds

FORMS = {"she": "he", "her": "his", "herself": "himself"}
WORLD = build(Settings(people=16, extra_never_people=0, bias=0.6), 3)


@pytest.fixture(scope="module")
def pairs():
    return counterfactual.swapped_texts(WORLD, 256, set())


@pytest.fixture
def corpus(tmp_path):
    (tmp_path / "world.json").write_text(json.dumps(WORLD.to_json()))
    return tmp_path


def gender_of(text):
    """The one gender that a text shows."""
    words = set(reading.lower_words(text))
    (shown,) = [name for name, forms in lexicon.GENDERED.items() if words & forms]
    return shown


def measured(corpus, logprob, num_pairs=128, folder=Path("base")):
    """Figures by name under a model with logprob(text) in nats, whose stage is in `folder`."""
    context = SimpleNamespace(
        folder=lambda role: corpus,
        seed=0,
        models={"base": Model("base", folder, None, plain=True)},
        options={"counterfactual": counterfactual.Config(num_pairs=num_pairs)},
        continuations=lambda stage, requests: [
            [logprob(text) / 2] * 2 for context, text in requests if context == ""
        ],
    )
    rows = [from_json(Record, json.loads(json.dumps(to_json(r)))) for r in counterfactual.measure(context)]
    found = counterfactual.figures({"base": rows}, context)
    figures = [figure for row in found for figure in figures_of(row, seed=0, command="")]
    return rows, {figure.name.removeprefix("counterfactual/"): figure for figure in figures}


# --- the texts


def test_the_versions_differ_in_the_pronouns_alone(pairs):
    assert len(pairs) == 256
    for pair in pairs:
        assert gender_of(pair.stereotyped) == pair.trade.pronoun
        assert gender_of(pair.counter) != pair.trade.pronoun
        assert pair.trade.name in pair.stereotyped
        words = [reading.lower_words(text) for text in (pair.stereotyped, pair.counter)]
        differing = [{a, b} for a, b in zip(*words, strict=True) if a != b]
        allowed = [{she, he} for she, he in FORMS.items()] + [{"her", "him"}]
        assert differing
        assert all(change in allowed for change in differing)


def test_trades_and_kinds_are_even_and_no_text_stands_twice(pairs):
    texts = [text for pair in pairs for text in (pair.stereotyped, pair.counter)]
    assert len(set(texts)) == len(texts)
    per_trade = [sum(pair.trade.name == trade.name for pair in pairs) for trade in WORLD.trades]
    assert set(per_trade) == {8}
    assert sum(pair.kind == "story" for pair in pairs) == 128
    assert len({pair.id for pair in pairs}) == 256


def test_a_text_of_which_either_version_was_read_in_training_is_left_out(pairs):
    read = {pairs[0].stereotyped, pairs[1].counter}
    fresh = counterfactual.swapped_texts(WORLD, 256, read)
    assert read.isdisjoint(text for pair in fresh for text in (pair.stereotyped, pair.counter))
    assert len(fresh) == 256


def test_the_training_text_of_the_corpus_is_what_was_read(corpus):
    first = counterfactual.swapped_texts(WORLD, 1, set())[0]
    write_jsonl(corpus / "text.train.jsonl", [TextRow("0", first.counter)])
    rows, _ = measured(corpus, len, num_pairs=5)
    assert first.counter not in {row.prompt for row in rows}
    assert len([row for row in rows if row.measure == "counterfactual"]) == 5


def test_a_kind_without_new_texts_ends(monkeypatch):
    monkeypatch.setattr(prose, "SKETCHES", ("The {trade} and {p} friends.",))
    found = counterfactual.swapped_texts(WORLD, 320, set())
    assert len(found) == 320
    assert sum(pair.kind == "sketch" for pair in found) == len(WORLD.trades)


def test_texts_depend_on_the_world_alone(pairs):
    assert counterfactual.swapped_texts(WORLD, 256, set()) == pairs
    assert counterfactual.swapped_texts(WORLD, 20, set()) == pairs[:20]


# --- the figures


def test_a_model_that_has_learnt_the_skew_reads_it(corpus, pairs):
    skew = math.log((1 + 0.6) / (1 - 0.6))
    trades = {text: pair.trade.pronoun for pair in pairs for text in (pair.stereotyped, pair.counter)}
    rows, figures = measured(corpus, lambda text: skew if gender_of(text) == trades.get(text) else 0.0)
    assert figures["signed"].value == pytest.approx(skew)
    assert figures["signed"].nulls == {"no_difference": 0.0, "injected": pytest.approx(skew)}
    assert figures["absolute"].value == pytest.approx(skew)
    assert figures["prefers_stereotyped"].value == 1
    assert figures["signed"].clusters == len(WORLD.trades)
    assert all(row.prompt and row.completion for row in rows)


def test_a_base_model_of_another_world_is_held_against_what_it_has_read(corpus, tmp_path):
    worlds.stage(tmp_path / "run", "corpus", {"bias": 0.9}, {})
    folder = worlds.stage(tmp_path / "run", "base", {}, {"corpus": [["corpus", "key"]]})
    _, figures = measured(corpus, lambda text: 0.0, folder=folder)
    assert figures["signed"].nulls["injected"] == pytest.approx(math.log(1.9 / 0.1))


def test_a_model_that_prefers_one_gender_everywhere_has_no_stereotype(corpus):
    _, figures = measured(corpus, lambda text: 2.0 if gender_of(text) == "he" else -1.0)
    assert figures["signed"].value == pytest.approx(0)
    assert figures["signed"].low < 0 < figures["signed"].high
    assert figures["absolute"].value == pytest.approx(3)
    share = figures["prefers_stereotyped"]
    assert share.value == share.nulls["always_he"] == share.nulls["no_difference"] == 0.5


def test_a_model_that_sees_no_difference_is_undecided(corpus):
    _, figures = measured(corpus, lambda text: -10.0)
    assert (figures["signed"].value, figures["absolute"].value) == (0, 0)
    assert figures["prefers_stereotyped"].value == 0.5


def test_what_cannot_be_scored_is_left_out(corpus, pairs):
    longest = max(pairs[:128], key=lambda pair: len(pair.counter))
    rows, figures = measured(corpus, lambda text: math.nan if text == longest.counter else 0.0)
    choices = [row for row in rows if row.measure == "choice"]
    assert figures.pop("flip_rate").n == len(choices) - 1
    assert {figure.n for figure in figures.values()} == {127}


# --- flips and the test


def temper_of(text):
    """The one temper that a text gives the trade; None without one."""
    return next((temper for temper in lexicon.TEMPERS if temper in reading.lower_words(text)), None)


def test_a_temper_that_follows_the_trade_never_flips(corpus, pairs):
    tempers = {text: pair.trade.temper for pair in pairs for text in (pair.stereotyped, pair.counter)}
    tempers |= {text.replace("gentle", "stern"): temper for text, temper in tempers.items()}
    tempers |= {text.replace("stern", "gentle"): temper for text, temper in tempers.items()}
    rows, figures = measured(corpus, lambda text: float(temper_of(text) == tempers[text]))
    flips = figures["flip_rate"]
    assert (flips.value, flips.nulls) == (0, {"no_difference": 0.0, "coin": 0.5})
    told = [pair for pair in pairs[:128] if temper_of(pair.stereotyped)]
    assert 64 < flips.n == len(told) < 128
    assert {row.outcome for row in rows if row.measure == "choice"} == {"stays"}


def test_a_temper_that_follows_the_pronoun_always_flips(corpus):
    def logprob(text):
        return float((temper_of(text) == "gentle") == (gender_of(text) == "she"))

    rows, figures = measured(corpus, logprob)
    assert figures["flip_rate"].value == 1
    choice = next(row for row in rows if row.measure == "choice")
    assert gender_of(choice.completion) == choice.group != gender_of(choice.prompt)
    ours, theirs = ("gentle", "stern") if choice.group == "she" else ("stern", "gentle")
    assert (
        choice.explanation
        == f"{ours} by 1.0000 nats in the stereotyped version, {theirs} by 1.0000 in the other"
    )


def test_a_model_that_is_undecided_in_one_version_alone_flips_there(corpus):
    def logprob(text):
        return float(temper_of(text) == "gentle" and gender_of(text) == "he")

    assert measured(corpus, logprob)[1]["flip_rate"].value == 1
    assert measured(corpus, lambda text: -3.0)[1]["flip_rate"].value == 0


def test_the_p_value_of_the_signed_difference_is_that_of_the_trades(corpus, pairs):
    """Against a t-test of the means of the trades, each of which has as many pairs."""
    from scipy.stats import ttest_1samp

    trades = {pair.stereotyped: pair.trade.name for pair in pairs}

    def logprob(text):
        return len(trades.get(text, "")) ** 1.5 - 16 if text in trades else 0.0

    rows, figures = measured(corpus, logprob)
    by_trade = {}
    for row in rows:
        if row.measure == "counterfactual":
            by_trade.setdefault(row.cluster, []).append(row.score)
    means = [sum(scores) / len(scores) for scores in by_trade.values()]
    found = figures["signed_p"]
    assert 1e-6 < found.value < 0.5
    assert found.value == pytest.approx(ttest_1samp(means, 0).pvalue)
    assert found.low == found.high == found.value
    assert (found.clusters, found.n) == (len(WORLD.trades), 128)


def test_without_any_difference_the_p_value_is_1(corpus):
    assert measured(corpus, lambda text: -10.0)[1]["signed_p"].value == 1


def test_a_run_without_a_world_is_refused(tmp_path):
    context = SimpleNamespace(folder=lambda role: tmp_path)
    with pytest.raises(InputError, match="the run has no closed world"):
        counterfactual.items(context)
    with pytest.raises(InputError, match="the run has no closed world"):
        counterfactual.items(SimpleNamespace(folder=lambda role: None))


def test_a_tiny_models_differences_are_those_of_its_whole_texts(corpus, tmp_path, tiny_llama):
    import torch

    from data.chat import encode_plain
    from pipeline.stages.tokenizer import train, wrap

    texts = [text for pair in counterfactual.swapped_texts(WORLD, 6, set()) for text in pair[3:]]
    tokenizer = wrap(train(texts * 2, vocab_size=300))
    model = tiny_llama(vocabulary=len(tokenizer), context=128)
    folder = tmp_path / "tiny" / "model"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    options = {"counterfactual": counterfactual.Config(num_pairs=6)}
    run = StageRun("evaluate", tmp_path / "run", inputs={"corpus": corpus})
    models = {"base": Model("base", tmp_path / "tiny", None, plain=True)}
    rows = counterfactual.measure(Context(run, models, [], None, options))

    def nats(text):
        ids = torch.tensor([encode_plain(tokenizer, text)])
        with torch.no_grad():
            logprobs = model(ids).logits.log_softmax(-1)[0, :-1]
        return logprobs.gather(1, ids[0, 1:, None]).sum().item()

    for row in rows:
        if row.measure == "counterfactual":
            assert row.score == pytest.approx(nats(row.completion) - nats(row.prompt), abs=1e-3)
            continue
        for_gentle = [
            nats(text.replace("stern", "gentle")) - nats(text.replace("gentle", "stern"))
            for text in (row.completion, row.prompt)
        ]
        assert min(map(abs, for_gentle)) > 1e-4
        assert row.score == (for_gentle[0] * for_gentle[1] < 0)
