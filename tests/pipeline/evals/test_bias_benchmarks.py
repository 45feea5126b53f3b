"""The bias benchmarks: answerers of one kind have known figures, which can be computed from the records alone."""

import math
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from data.benchmarks import bbq as bbq_source
from data.benchmarks import winobias as winobias_source
from data.benchmarks import winogender as winogender_source
from data.chat import encode_texts
from data.randomness import key
from pipeline.evals import bbq, crows_pairs, winobias, winogender
from pipeline.language_model import LanguageModel
from pipeline.loglikelihood import continuation_logprobs
from pipeline.measured import comparison_of, figures_of
from pipeline.records import read_records, write_records
from pipeline.stages.tokenizer import train, wrap
from tests.pipeline.evals import bias_files
from tests.pipeline.evals.bias_files import PAIRS, SHARES

DATA = os.environ.get("FLEDGE_DATA")
REAL = [
    pytest.mark.real_data,
    pytest.mark.skipif(not DATA, reason="FLEDGE_DATA names no folder of data sets"),
]
EVALS = [bbq, crows_pairs, winobias, winogender]


@pytest.fixture(scope="module")
def tokenizer():
    texts = [text for pair in PAIRS for text in pair[:2]] * 5
    return wrap(train(texts, vocab_size=300, min_frequency=2))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Small files of every benchmark in their published form."""
    folder = tmp_path_factory.mktemp("data")
    bias_files.write(folder)
    return folder


class Asked:
    """What an evaluation sees of a run; answerers, from a request to log-probabilities, stand for models."""

    def __init__(self, data_root, tokenizer, answerers, **options):
        self.seed, self.models, self.answerers = 3, dict.fromkeys(answerers), answerers
        self.run, self.tokenizer = SimpleNamespace(data_root=data_root), tokenizer
        self.options = {module.NAME: module.Config(**options.get(module.NAME, {})) for module in EVALS}

    def model(self, stage):
        return SimpleNamespace(tokenizer=self.tokenizer)

    def continuations(self, stage, requests):
        return [self.answerers[stage](*request) for request in requests]

    def measured(self, module):
        """The measured figures by name."""
        records = {}
        for record in module.measure(self):
            records.setdefault(record.stage, []).append(record)
        return {row.name: row for row in module.figures(records, self)}

    def figures(self, module):
        """The figures by name and stage."""
        rows = self.measured(module).values()
        return {
            (figure.name, figure.stage): figure
            for row in rows
            for figure in figures_of(row, seed=3, command="")
        }


def values(found, stage):
    return {name: figure.value for (name, of), figure in found.items() if of == stage}


def at_random(context, continuation):
    return [-key("random", context, continuation) / 2**60]


# --- BBQ -------------------------------------------------------------------------------------------------


def chosen_by(data_root, choose):
    """An answerer that finds the answer of each question that `choose` names by its number."""
    wanted = {
        (bbq.bbq.prompt(item.context, item.question), f" {item.answers[choose(item)]}")
        for item in bbq_source.read(data_root)
    }
    return lambda *request: [-1.0 if request in wanted else -2.0]


def test_bbq_answerers_of_one_kind_have_their_scores_and_are_the_nulls(root, tokenizer):
    answerers = {
        "oracle": chosen_by(root, lambda item: item.right),
        "unknown": chosen_by(root, lambda item: item.unknown),
        "biased": chosen_by(root, lambda item: item.biased),
        "other": chosen_by(root, lambda item: 3 - item.biased - item.unknown),
        "of_age": chosen_by(root, lambda item: item.biased if item.category == "Age" else item.unknown),
    }
    found = Asked(root, tokenizer, answerers).figures(bbq)
    share = values(found, "biased")["bbq/accuracy_dis"]  # of told questions whose right answer is biased
    assert 0.5 < share < 1
    names = ("s_amb", "s_dis", "accuracy_amb", "accuracy_dis")
    expected = {
        "oracle": (0, 2 * share - 1, 1, 1),
        "unknown": (0, None, 1, 0),
        "biased": (1, 1, 0, share),
        "other": (-1, -1, 0, 1 - share),
    }
    for stage, scores in expected.items():
        assert tuple(values(found, stage).get(f"bbq/{name}") for name in names) == pytest.approx(scores)
        nulls = {name: found[f"bbq/{name}", "other"].nulls for name in names}
        if stage in ("unknown", "biased"):
            computed = {
                name: nulls[name][f"always_{stage}"] for name in names if f"always_{stage}" in nulls[name]
            }
            assert computed == pytest.approx({name: values(found, stage)[f"bbq/{name}"] for name in computed})
    assert found["bbq/s_amb", "oracle"].clusters == 14
    of_age = {
        name: found[f"bbq/{name}", "of_age"].value for name in ("age/s_amb", "race_x_gender/s_amb", "s_amb")
    }
    assert of_age == {"age/s_amb": 1, "race_x_gender/s_amb": 0, "s_amb": 0.5}


def test_bbq_s_dis_is_compared_where_the_number_of_unknown_answers_differs(root, tokenizer):
    half = {item.id for item in bbq_source.read(root) if int(item.id.rpartition("-")[2]) % 8 < 4}
    answerers = {
        "base": chosen_by(root, lambda item: item.unknown if item.id in half else item.biased),
        "sft": chosen_by(root, lambda item: item.right),
    }
    asked = Asked(root, tokenizer, answerers)
    row = asked.measured(bbq)["bbq/s_dis"]
    found = values(asked.figures(bbq), "sft")["bbq/s_dis"] - values(asked.figures(bbq), "base")["bbq/s_dis"]
    assert comparison_of(row, "base", "sft", seed=3).value == pytest.approx(found)


def test_bbq_asks_at_most_so_many_of_each_category_and_the_same_of_every_model(root, tokenizer):
    asked = Asked(
        root, tokenizer, {"a": at_random, "b": at_random}, bbq={"questions_per_category": 5}
    ).measured(bbq)
    rows = [
        [row.id for row in asked[f"bbq/{name}"].scores[stage]]
        for stage in ("a", "b")
        for name in ("accuracy_amb", "accuracy_dis")
    ]
    assert sorted(rows[0] + rows[1]) == sorted(rows[2] + rows[3])
    for category in ("Age", "Race_x_gender"):
        assert sum(f"bbq-{category}-" in name for name in rows[0] + rows[1]) == 5


# --- CrowS-Pairs -----------------------------------------------------------------------------------------


def per_token(tokenizer, value):
    """An answerer that gives each token of a sentence the same share of its value."""

    def answer(context, sentence):
        assert context == ""
        (tokens,) = encode_texts(tokenizer, [sentence])
        return [value(sentence) / len(tokens)] * len(tokens)

    return answer


def test_crows_pairs_answerers_of_one_kind_have_their_scores(root, tokenizer):
    more = {pair[0] for pair in PAIRS}
    answerers = {
        "even": lambda context, sentence: [0.0] * len(encode_texts(tokenizer, [sentence])[0]),
        "stereotyped": per_token(tokenizer, lambda sentence: -1.0 if sentence in more else -99.0),
        "shorter": per_token(tokenizer, lambda sentence: -float(len(sentence))),
    }
    found = Asked(root, tokenizer, answerers).figures(crows_pairs)
    assert {value for name, value in values(found, "even").items() if "diff" not in name} == {0.5}
    assert values(found, "even")["crows_pairs/likelihood_diff"] == 0
    assert {value for name, value in values(found, "stereotyped").items() if "diff" not in name} == {1}
    assert values(found, "stereotyped")["crows_pairs/likelihood_diff"] == pytest.approx(98)
    for name in ("", "/gender", "/age", "/stereo", "/antistereo"):
        figure = found[f"crows_pairs/sum{name}", "shorter"]
        assert figure.value == figure.nulls["shorter"]
    assert found["crows_pairs/sum", "shorter"].value == 3 / 5
    assert found["crows_pairs/sum/antistereo", "even"].n == 2
    assert found["crows_pairs/sum", "even"].clusters == 3  # writers


def test_crows_pairs_sums_are_those_of_the_harness_definition(root, tokenizer, tiny_llama):
    model = LanguageModel(tiny_llama(vocabulary=len(tokenizer)), tokenizer, "tiny")
    asked = Asked(root, tokenizer, {"base": None})
    asked.continuations = lambda stage, requests: continuation_logprobs(model, requests)

    def logprob(sentence):
        """Summed log-probability after the token that begins a text, by one plain pass."""
        tokens = torch.tensor([[tokenizer.bos_token_id, *encode_texts(tokenizer, [sentence])[0]]])
        with torch.no_grad():
            logits = model.model(tokens).logits[0, :-1].log_softmax(dim=-1)
        return logits.gather(1, tokens[0, 1:, None]).sum().item()

    pairs = [(logprob(more), logprob(less)) for more, less, *_ in PAIRS]
    found = values(asked.figures(crows_pairs), "base")
    assert found["crows_pairs/sum"] == sum(more > less for more, less in pairs) / len(pairs)
    difference = sum(abs(more - less) for more, less in pairs) / len(pairs)
    assert found["crows_pairs/likelihood_diff"] == pytest.approx(difference, abs=1e-3)


# --- WinoBias --------------------------------------------------------------------------------------------


def told_by(data_root, advantage):
    """An answerer that gives who is meant an advantage by the sentence, nats."""
    better = {
        (winogender.winogender.prompt(item.text, item.pronoun), f" {item.meant}"): advantage(item)
        for item in winobias_source.read(data_root)
    }
    return lambda *request: [-5.0 + better.get(request, 0.0)]


def test_winobias_answerers_of_one_kind_have_their_scores(root, tokenizer):
    answerers = {
        "oracle": told_by(root, lambda item: 1.0),
        "even": told_by(root, lambda item: 0.0),
        "stereotyped": told_by(root, lambda item: 1.0 if item.side == "pro" else -1.0),
        "first": told_by(
            root, lambda item: 1.0 if item.text.index(item.meant) < item.text.index(item.other) else -1.0
        ),
    }
    found = Asked(root, tokenizer, answerers).figures(winobias)
    expected = {
        "oracle": (1, 1, 0),
        "even": (0.5, 0.5, 0),
        "stereotyped": (1, 0, 1),
        "first": (1 / 3, 1 / 3, 0),
    }
    for stage, scores in expected.items():
        for suffix in ("", "/type1", "/type2"):
            names = (f"winobias/{name}{suffix}" for name in ("pro", "anti", "difference"))
            assert tuple(values(found, stage)[name] for name in names) == pytest.approx(scores)
    assert found["winobias/anti", "oracle"].nulls == pytest.approx(
        {"chance": 0.5, "always_stereotyped": 0.0, "first_mention": 1 / 3, "last_mention": 2 / 3}
    )
    assert found["winobias/pro", "oracle"].nulls["always_stereotyped"] == 1
    assert found["winobias/difference", "oracle"].nulls["always_stereotyped"] == 1
    assert found["winobias/difference", "oracle"].clusters == 3  # pairs of occupations


# --- Winogender ------------------------------------------------------------------------------------------


def test_winogender_answerers_of_one_kind_have_their_scores(root, tokenizer):
    sentences = winogender_source.read(root)

    def told(advantage):
        better = {
            (winogender.winogender.prompt(item.text, item.pronoun), f" {item.occupation}"): advantage(item)
            for item in sentences
        }
        return lambda *request: [-5.0 + better.get(request, 0.0)]

    def expected(item):
        right = 1.0 if item.means_occupation else -1.0
        return -right if item.gotcha else right

    answerers = {
        "oracle": told(lambda item: 1.0 if item.means_occupation else -1.0),
        "even": told(lambda item: 0.0),
        "occupation": told(lambda item: 1.0),
        "stereotyped": told(expected),
    }
    found = Asked(root, tokenizer, answerers).figures(winogender)
    slices = ("", "/male", "/female", "/neutral", "/gotcha", "/gotcha_male", "/gotcha_female")
    for stage, score in (("oracle", 1), ("even", 0.5), ("occupation", 0.5)):
        assert {values(found, stage)[f"winogender/accuracy{name}"] for name in slices} == {score}
        assert values(found, stage)["winogender/stereotype_gap"] == 0
    stereotyped = values(found, "stereotyped")
    assert stereotyped["winogender/accuracy/gotcha"] == 0
    assert stereotyped["winogender/accuracy/neutral"] == 1
    assert stereotyped["winogender/stereotype_gap"] == 1
    # Three of five occupations are women's, so that the female pronoun is the expected one there.
    assert stereotyped["winogender/gender_gap"] == pytest.approx(2 / 5 - 3 / 5)
    sizes = {
        name: found[f"winogender/accuracy/{name}", "oracle"].n
        for name in ("gotcha_male", "gotcha_female", "gotcha")
    }
    assert sizes == {"gotcha_male": 12, "gotcha_female": 8, "gotcha": 20}
    assert found["winogender/accuracy", "oracle"].clusters == 5
    assert found["winogender/accuracy", "oracle"].nulls == {
        "chance": 0.5,
        "first_mention": 0.5,
        "last_mention": 0.5,
    }


def test_winogender_pronouns_that_follow_the_shares_of_women_correlate_with_them(root, tokenizer):
    def following(sign):
        def answer(context, continuation):
            share = next((share for name, share in SHARES.items() if context.startswith(f"The {name}")), 0)
            return [{" he": -3.0, " she": -3.0 + sign * share / 100, " they": -3.0}.get(continuation, -9.0)]

        return answer

    answerers = {"follows": following(1), "opposes": following(-1), "even": lambda *request: [-3.0]}
    found = Asked(root, tokenizer, answerers).figures(winogender)
    assert values(found, "follows")["winogender/correlation"] == pytest.approx(1)
    assert values(found, "opposes")["winogender/correlation"] == pytest.approx(-1)
    assert found["winogender/correlation", "follows"].n == 10  # those that mean the occupation
    assert found["winogender/correlation/participant", "follows"].n == 10
    mean = sum(SHARES.values()) / 100 / len(SHARES)
    assert values(found, "follows")["winogender/female_log_odds"] == pytest.approx(mean)
    assert values(found, "even")["winogender/neutral_share"] == pytest.approx(1 / 3)
    assert "winogender/correlation" not in values(found, "even")  # nothing varies


def test_winogender_scores_pronouns_after_what_stands_before_them(root, tokenizer):
    seen = []

    def answer(context, continuation):
        seen.append((context, continuation))
        return [-1.0]

    Asked(root, tokenizer, {"base": answer}).figures(winogender)
    assert ("The nurse told the friend that", " they") in seen
    text = "The nurse told someone that she could help."
    assert (f"{text} ‘She’ refers to the", " someone") in seen
    assert len(seen) == 60 * 2 + 20 * 3


# --- all of them -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", EVALS, ids=lambda module: module.NAME)
def test_figures_are_computed_from_the_records_alone(root, tokenizer, tmp_path, module):
    answer = per_token(tokenizer, lambda text: at_random("", text)[0]) if module is crows_pairs else at_random
    asked = Asked(root, tokenizer, {"base": answer, "sft": answer})
    records = module.measure(asked)
    assert {record.evaluation for record in records} == {module.NAME}
    assert len({(record.id, record.stage, record.measure) for record in records}) == len(records)
    write_records(tmp_path / "records.jsonl", records)
    kept = {}
    for record in read_records(tmp_path / "records.jsonl"):
        kept.setdefault(record.stage, []).append(record)
    again = [figure for row in module.figures(kept, None) for figure in figures_of(row, seed=3, command="")]
    assert again == list(asked.figures(module).values())
    assert all(figure.nulls for figure in again)


@pytest.mark.parametrize("module", EVALS, ids=lambda module: module.NAME)
def test_what_cannot_be_scored_is_nan_and_never_wrong(root, tokenizer, module):
    records = module.measure(Asked(root, tokenizer, {"base": lambda *request: [math.nan]}))
    assert records
    assert all(math.isnan(record.score) for record in records)
    assert not any(record.completion for record in records)
    assert all(
        figure.n == 0
        for row in module.figures({"base": records}, None)
        for figure in figures_of(row, seed=3, command="")
    )


@pytest.mark.parametrize(
    "module, files",
    [(bbq, 2), (crows_pairs, 1), (winobias, 4), (winogender, 2)],
    ids=lambda value: str(value),
)
def test_files_are_those_that_are_read(root, module, files):
    assert len(module.files(module.Config(), root)) == files
    assert module.files(module.Config(), None) == []


@pytest.mark.parametrize("module", [pytest.param(module, marks=REAL, id=module.NAME) for module in EVALS])
def test_a_random_answerer_is_at_chance_on_the_real_files(tokenizer, module):
    answer = per_token(tokenizer, lambda text: at_random("", text)[0]) if module is crows_pairs else at_random
    found = Asked(Path(DATA), tokenizer, {"random": answer}).figures(module)
    checked = 0
    for (name, _), figure in found.items():
        # Means per token and over shared tokens of random sums depend on lengths.
        if "chance" not in figure.nulls or (module is crows_pairs and not name.startswith("crows_pairs/sum")):
            continue
        # The width of the 95 % interval is about four standard errors.
        assert abs(figure.value - figure.nulls["chance"]) <= figure.high - figure.low, figure
        checked += 1
    assert checked >= 9


@pytest.mark.parametrize("module", EVALS, ids=lambda module: module.NAME)
def test_the_evaluate_module_gives_the_same_figures(root, tokenizer, tmp_path, monkeypatch, module):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    evaluate = pytest.importorskip("evaluate", reason="the library `evaluate` is not installed")
    folder = Path(bbq.__file__).parents[1] / "evaluate_modules"
    metric = evaluate.load(str(folder / f"{module.NAME}.py"), cache_dir=str(tmp_path))
    answer = per_token(tokenizer, lambda text: at_random("", text)[0]) if module is crows_pairs else at_random
    found = values(Asked(root, tokenizer, {"base": answer}).figures(module), "base")
    columns, names = COLUMNS[module.NAME](root, tokenizer, answer)
    computed = metric.compute(**columns)
    assert {name: computed[name] for name in names} == pytest.approx(
        {name: found[figure] for name, figure in names.items()}
    )


def bbq_columns(root, tokenizer, answer):
    items = bbq_source.read(root)
    logprobs = [
        [sum(answer(bbq.bbq.prompt(item.context, item.question), f" {text}")) for text in item.answers]
        for item in items
    ]
    return {
        "predictions": [row.index(max(row)) for row in logprobs],
        "references": [item.right for item in items],
        "unknown": [item.unknown for item in items],
        "biased": [item.biased for item in items],
        "ambiguous": [item.ambiguous for item in items],
    }, {name: f"bbq/{name}" for name in ("s_amb", "s_dis", "accuracy_amb", "accuracy_dis")}


def crows_columns(root, tokenizer, answer):
    more, less = ([pair[side] for pair in PAIRS] for side in (0, 1))
    return {
        "predictions": [answer("", text) for text in more],
        "references": [answer("", text) for text in less],
        "tokens_more": encode_texts(tokenizer, more),
        "tokens_less": encode_texts(tokenizer, less),
    }, {name: f"crows_pairs/{name}" for name in ("sum", "mean", "shared", "likelihood_diff")}


def winobias_columns(root, tokenizer, answer):
    items = winobias_source.read(root)
    asked = [winogender.winogender.prompt(item.text, item.pronoun) for item in items]
    return {
        "predictions": [answer(text, f" {item.meant}")[0] for text, item in zip(asked, items, strict=True)],
        "references": [answer(text, f" {item.other}")[0] for text, item in zip(asked, items, strict=True)],
        "side": [item.side for item in items],
        "pair": [item.pair for item in items],
    }, {name: f"winobias/{name}" for name in ("pro", "anti", "difference")}


def winogender_columns(root, tokenizer, answer):
    items = winogender_source.read(root)
    asked = [winogender.winogender.prompt(item.text, item.pronoun) for item in items]
    names = {name: f"winogender/accuracy/{name}" for name in ("male", "female", "neutral", "gotcha")}
    return {
        "predictions": [
            answer(text, f" {item.occupation}")[0] for text, item in zip(asked, items, strict=True)
        ],
        "references": [
            answer(text, f" {item.participant}")[0] for text, item in zip(asked, items, strict=True)
        ],
        "means_occupation": [item.means_occupation for item in items],
        "gender": [item.gender for item in items],
        "gotcha": [bool(item.gotcha) for item in items],
    }, {"accuracy": "winogender/accuracy", **names}


COLUMNS = {
    "bbq": bbq_columns,
    "crows_pairs": crows_columns,
    "winobias": winobias_columns,
    "winogender": winogender_columns,
}
