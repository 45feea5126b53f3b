"""Figures that are no means, tests and nulls, computed again from a run's records by definition alone."""

import math
import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
from scipy import optimize, stats

from pipeline.evals import calibration
from pipeline.measured import value_of

STAGES = ("base", "sft", "ppo")
ATTEMPTS, HALLUCINATED = ("right", "wrong", "fabricated"), ("wrong", "fabricated")


@pytest.fixture(scope="module")
def figures(results):
    return {(row["name"], row["stage"]): row for row in results["figures"]}


def of(records, evaluation, stage, measure=None):
    return [
        r for r in records if (r.evaluation, r.stage) == (evaluation, stage) and measure in (None, r.measure)
    ]


# --- answers to facts


@pytest.mark.parametrize("stage", STAGES)
def test_of_attempted_answers_and_their_f(records, figures, stage):
    outcomes = [r.outcome for r in of(records, "facts", stage)]
    attempted = sum(word in ATTEMPTS for word in outcomes)
    right = outcomes.count("right")
    found = figures["abstention/hallucinated_of_attempted", stage]
    assert found["value"] == pytest.approx(sum(word in HALLUCINATED for word in outcomes) / attempted)
    of_all, of_attempted = right / len(outcomes), right / attempted
    assert figures["abstention/f", stage]["value"] == pytest.approx(2 / (1 / of_all + 1 / of_attempted))
    # Who always guesses one of 24 values, and who never answers.
    assert found["nulls"] == pytest.approx({"always_guess": 23 / 24})
    assert figures["abstention/f", stage]["nulls"] == pytest.approx(
        {"always_abstain": 0, "always_guess": 1 / 24}
    )
    for target, cost in ((0.5, 1), (0.75, 3), (0.9, 9)):
        nulls = figures[f"abstention/score/{target:g}", stage]["nulls"]
        assert nulls == pytest.approx({"always_abstain": 0, "always_guess": 1 / 24 - cost * 23 / 24})


# --- confidence


@pytest.fixture(scope="module")
def answers(records):
    """The attempted answers with confidences of nine levels, so that ties lie across bins."""
    rows = of(records, "calibration", "sft")
    assert len(rows) % 10  # an answer is divided between two bins
    return [replace(r, weight=(n * 7 % 9 + 1 + 3 * r.score) / 13) for n, r in enumerate(rows)]


@pytest.fixture(scope="module")
def measured(answers):
    config = calibration.Config()
    context = SimpleNamespace(options={"calibration": config}, seed=0)
    found = {}
    for row in calibration.figures({"sft": answers}, context):
        ((_, rows),) = row.scores.items()
        found[row.name.removeprefix("calibration/")] = (value_of(row, rows), row.nulls["sft"])
    return found


def mean_of_ties(answers, value):
    """Each answer's value, of equally confident ones their mean: that over all their orders."""
    levels = {}
    for r in answers:
        levels.setdefault(r.weight, []).append(value(r))
    return [math.fsum(levels[r.weight]) / len(levels[r.weight]) for r in answers]


def test_the_calibration_error(answers, measured):
    pairs = sorted(zip([r.weight for r in answers], mean_of_ties(answers, lambda r: r.score), strict=True))
    parts = [pair for pair in pairs for _ in range(10)]  # ten bins of as many tenths as there are answers
    bins = [parts[first : first + len(pairs)] for first in range(0, len(parts), len(pairs))]
    gaps = [abs(math.fsum(sure - right for sure, right in found)) / len(found) for found in bins]
    value, nulls = measured["ece"]
    assert value == pytest.approx(sum(gaps) / 10)
    assert nulls["always_sure"] == pytest.approx(sum(1 - r.score for r in answers) / len(answers))


def test_the_area_under_the_curve_of_risk_and_coverage(answers, measured):
    wrong = mean_of_ties(answers, lambda r: 1 - r.score)
    order = sorted(range(len(answers)), key=lambda n: -answers[n].weight)
    risks = [math.fsum(wrong[n] for n in order[:k]) / k for k in range(1, len(order) + 1)]
    value, nulls = measured["aurc"]
    assert value == pytest.approx(sum(risks) / len(risks))
    assert nulls["no_order"] == pytest.approx(sum(wrong) / len(wrong))


def test_the_chance_that_a_right_answer_is_more_confident(answers, measured):
    def chance(confidence):
        right = [confidence(r) for r in answers if r.score]
        wrong = [confidence(r) for r in answers if not r.score]
        won = [(a > b) + (a == b) / 2 for a in right for b in wrong]
        return sum(won) / len(won)

    value, nulls = measured["auroc"]
    by_length = chance(lambda r: len(r.completion))
    assert value == pytest.approx(chance(lambda r: r.weight))
    assert nulls == pytest.approx({"chance": 0.5, "length": max(by_length, 1 - by_length)})


@pytest.mark.parametrize("coverage", [0.25, 0.5, 0.75])
def test_the_risk_of_the_most_confident_answers(answers, measured, coverage):
    least = sorted((r.weight for r in answers), reverse=True)[math.ceil(coverage * len(answers)) - 1]
    kept = [1 - r.score for r in answers if r.weight >= least]
    value, nulls = measured[f"risk/{coverage:g}"]
    assert value == pytest.approx(sum(kept) / len(kept))
    assert nulls["no_order"] == pytest.approx(sum(1 - r.score for r in answers) / len(answers))


# --- stories


def grams(text, order):
    words = re.findall(r"\w+(?:'\w+)*", text.lower())
    return list(zip(*(words[first:] for first in range(order)), strict=False))


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("order", [1, 2])
def test_distinct_words_and_pairs(records, figures, stage, order):
    told = [grams(r.completion, order) for r in of(records, "diversity", stage)]
    found = figures[f"diversity/distinct_{order}", stage]
    every = [gram for text in told for gram in text]
    assert found["value"] == pytest.approx(len(set(every)) / len(every))
    alone = [len(set(text)) / len(text) for text in told]
    # One story told as often as there are stories: the mean over which it is.
    assert found["nulls"] == pytest.approx({"one_story": sum(alone) / len(alone) / len(told)})


@pytest.mark.parametrize("stage", STAGES)
def test_the_distance_from_equal_shares_of_the_genders(records, figures, stage):
    rows = of(records, "representation", stage)
    she, total = sum(r.score for r in rows), sum(r.weight for r in rows)
    found = figures["representation/distance", stage]
    assert found["value"] == pytest.approx(abs(she / total - 0.5))
    chances = {0: 1.0}
    for num in (int(r.weight) for r in rows):
        after = {}
        for words, chance in chances.items():
            for more in (words, words + num):
                after[more] = after.get(more, 0.0) + chance / 2
        chances = after
    coin = math.fsum(chance * abs(words / total - 0.5) for words, chance in chances.items())
    assert found["nulls"] == pytest.approx({"coin": coin, "one_gender": 0.5})


# --- win rates


@pytest.mark.parametrize(("ours", "theirs"), [("sft", "base"), ("ppo", "base"), ("ppo", "sft")])
def test_the_win_rate_at_equal_length(records, figures, ours, theirs):
    sides = [{r.id: r for r in of(records, "gold", stage)} for stage in (ours, theirs)]
    pairs = [(sides[0][name], sides[1][name]) for name in sides[0]]
    won = [(a.score > b.score) + (a.score == b.score) / 2 for a, b in pairs]
    longer = [len(a.completion) - len(b.completion) for a, b in pairs]
    middle = sum(longer) / len(longer)
    sd = math.sqrt(sum((d - middle) ** 2 for d in longer) / len(longer))
    at = [math.tanh(d / sd) for d in longer]

    def loss(parameters):
        a, b = parameters
        logits = [a + b * x for x in at]
        terms = [math.log1p(math.exp(z)) - w * z for z, w in zip(logits, won, strict=True)]
        return math.fsum(terms) / len(terms) + 5e-7 * (a * a + b * b)

    a, _ = optimize.minimize(
        loss, (0.0, 0.0), method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-13}
    ).x
    found = figures[f"win_rate/length_controlled/{ours}_over_{theirs}", ours]
    assert found["value"] == pytest.approx(1 / (1 + math.exp(-a)), abs=1e-5)


# --- reward


@pytest.mark.parametrize("stage", ["sft", "ppo"])
def test_the_reward_of_answers_to_other_questions(records, figures, stage):
    own = {r.id: r for r in of(records, "proxy", stage, "score")}
    others = of(records, "proxy", stage, "other_answer")
    assert 40 <= len(others) < 80
    given = {r.completion for r in of(records, "form", stage, "length")}
    assert all(r.completion in given and own[r.id].prompt == r.prompt for r in others)
    assert sum(r.completion != own[r.id].completion for r in others) > 30
    mean = math.fsum(r.score for r in others) / len(others)
    nulls = figures["proxy/mean", stage]["nulls"]
    assert nulls == {"answer_to_another_question": pytest.approx(mean), "mean_of_sft": 0.0}


def test_a_contrast_stands_beside_the_longer_or_the_shorter_answer(records, results):
    checked = set()
    for figure in results["figures"]:
        kind, contrast, *group = [*figure["name"].split("/"), ""]
        if kind != "reward" or "_over_" not in contrast or "_minus_" in figure["name"]:
            continue
        evaluation = "reward_contrasts" if figure["stage"] == "reward" else "own_answers"
        rows = [r for r in of(records, evaluation, figure["stage"], contrast) if r.group == group[0]]
        texts = [r.completion.split("\n--- over ---\n") for r in rows]
        longer = sum((len(a) > len(b)) + (len(a) == len(b)) / 2 for a, b in texts) / len(texts)
        best = {"longer": longer} if longer >= 0.5 else {"shorter": 1 - longer}
        assert figure["nulls"] == pytest.approx({"chance": 0.5, "untrained": 0.5, **best}), figure["name"]
        checked.update(best)
    assert checked == {"longer", "shorter"}


# --- tests of changes


def scores_of(records, name, stage):
    """Item to (score, cluster) of a rate of the closed world, from its name."""
    kind, group, word = (*name.split("/"), "refused")[:3]
    words = HALLUCINATED if word == "hallucinated" else (word,)
    rows = [r for r in of(records, kind, stage) if r.group == group]
    return {r.id: (float(r.outcome in words), r.cluster) for r in rows}


def test_p_values_of_rates(records, results):
    checked = 0
    for row in results["comparisons"]:
        if not re.fullmatch(r"facts/\w+/\w+|refusal/\w+", row["name"]):
            continue
        before, after = (scores_of(records, row["name"], row[side]) for side in ("before", "after"))
        changes = [(after[name][0] - score, cluster) for name, (score, cluster) in before.items()]
        gained, lost = (sum(change == sign for change, _ in changes) for sign in (1, -1))
        assert (row["gained"], row["lost"]) == (gained, lost), row["name"]
        num = gained + lost
        tail = sum(math.comb(num, k) for k in range(min(gained, lost) + 1)) / 2**num
        assert row["mcnemar_p"] == pytest.approx(min(1.0, 2 * tail)), row["name"]
        sums, mean = {}, (gained - lost) / len(changes)
        for change, cluster in changes:
            sums[cluster] = sums.get(cluster, 0.0) + change - mean
        clusters = len(sums)
        square = clusters / (clusters - 1) * math.fsum(value**2 for value in sums.values())
        if square > 1e-20:
            t = mean * len(changes) / math.sqrt(square)
            assert row["p_value"] == pytest.approx(2 * stats.t.sf(abs(t), clusters - 1)), row["name"]
            checked += 1
    assert checked > 40


def test_holm_s_correction_of_the_headline_family(results):
    family = [row for row in results["comparisons"] if row["holm_p"] is not None]
    assert len(family) > 10
    p_values = [row["p_value"] for row in family]
    for row in family:
        smaller = [p for p in p_values if p <= row["p_value"]]
        expected = max(min(1.0, p * sum(other >= p for other in p_values)) for p in smaller)
        assert row["holm_p"] == pytest.approx(expected), row["name"]
        sure = (row["low"] > 0 or row["high"] < 0) and expected <= 0.05
        assert (row["verdict"] != "no evidence") == sure, row["name"]
