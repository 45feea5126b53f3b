"""Abstention, calibration, diversity and rankings, on answers whose figures are known."""

import math
import re
from types import SimpleNamespace

import numpy as np
import pytest
from pydantic import ValidationError
from scipy import stats as scipy_stats
from sklearn.metrics import roc_auc_score

from data.rows import Item, user
from pipeline.answers import Answer
from pipeline.evals import abstention, calibration, diversity, win_rate
from pipeline.measured import comparison_of, figures_of
from pipeline.stages.evaluate import by_stage, recorders, score_answers

WORDS = {"r": "right", "w": "wrong", "f": "fabricated", "a": "abstain", "m": "malformed"}
MODULES = {
    "abstention": abstention,
    "calibration": calibration,
    "diversity": diversity,
    "win_rate": win_rate,
}


def question(number, task="facts", group="often"):
    return Item(str(number), user(f"{number}?"), f"c{number // 2}", task, group, None, {"num_values": 4})


def answer(number, text, logprobs=(-0.5,)):
    return Answer(str(number), text, True, [1] * len(logprobs), list(logprobs))


def judge(item, given):
    """The outcome is the answer's first letter, or gold its number."""
    if item.task != "facts":
        gold = float(given.text.split()[0])
        return SimpleNamespace(outcome="", explanation="", score=gold, measures={}, terms={})
    return SimpleNamespace(outcome=WORDS[given.text[0]], explanation="", score=0.0, measures={})


def measured(name, items, answers, **settings):
    """The records and figures of an evaluation: {(name, stage): figure}."""
    module = MODULES[name]
    context = SimpleNamespace(
        seed=1,
        items=items,
        headline=items,
        answers={stage: {row.id: row for row in rows} for stage, rows in answers.items()},
        options={name: module.Config(**settings)},
        of_task=lambda *tasks: [item for item in items if item.task in tasks],
        knows=lambda item: True,
        judge=judge,
    )
    ((source, recorder),) = recorders({name: module}).items()
    records = score_answers(source, recorder, context)
    rows = module.figures(by_stage(records, source), context)
    figures = {(f.name, f.stage): f for row in rows for f in figures_of(row, seed=1, command="")}
    return records, rows, figures


def of_facts(name, *, groups=("often",), **letters):
    """An evaluation of answers to facts, one letter each; the groups take turns."""
    num = len(next(iter(letters.values())))
    items = [question(n, group=groups[n % len(groups)]) for n in range(num)]
    answers = {stage: [answer(n, word) for n, word in enumerate(words)] for stage, words in letters.items()}
    return measured(name, items, answers)


# --- abstention


def test_abstention_by_hand():
    groups = ("often", "never")  # often: r w a r m, never: a f r a a
    _, _, figures = of_facts("abstention", groups=groups, sft="rawfarramama"[:10])
    found = {name.removeprefix("abstention/"): figure for (name, _), figure in figures.items()}
    # r a w f a r r a m a: 3 right, 1 wrong, 1 fabricated, 4 abstain, 1 malformed.
    expected = {
        "attempted": 5 / 10,
        "hallucinated": 2 / 10,
        "hallucinated_of_attempted": 2 / 5,
        "f": 2 * (3 / 5) * (3 / 10) / (3 / 5 + 3 / 10),
        "score/0": 3 / 10,
        "score/0.5": (3 - 2) / 10,
        "score/0.75": (3 - 2 * 3) / 10,
        "score/0.9": (3 - 2 * 9) / 10,
        "recall": 3 / 5,  # a f r a a
        "over_abstention": 1 / 5,  # r w a r m
        "attempted/often": 3 / 5,
        "attempted/never": 2 / 5,
        "hallucinated_of_attempted/often": 1 / 3,
        "hallucinated_of_attempted/never": 1 / 2,
        "f/often": 2 * (2 / 3) * (2 / 5) / (2 / 3 + 2 / 5),
        "f/never": 2 * (1 / 2) * (1 / 5) / (1 / 2 + 1 / 5),
        "score/0/often": 2 / 5,
        "score/0/never": 1 / 5,
        "score/0.5/often": (2 - 1) / 5,
        "score/0.5/never": (1 - 1) / 5,
        "score/0.75/often": (2 - 3) / 5,
        "score/0.75/never": (1 - 3) / 5,
        "score/0.9/often": (2 - 9) / 5,
        "score/0.9/never": (1 - 9) / 5,
    }
    assert {name: figure.value for name, figure in found.items()} == pytest.approx(expected)
    assert found["f"].n == found["attempted"].n == 10
    assert found["recall"].n == found["over_abstention"].n == 5
    assert all(figure.low <= figure.value <= figure.high for figure in found.values())


def test_one_who_always_abstains_and_one_who_always_guesses_have_their_nulls():
    # Guesses are right once in four, as there are four values.
    _, _, figures = of_facts(
        "abstention", groups=("often", "never"), abstains="a" * 40, guesses=("rrwwffww") * 5
    )
    checked = 0
    for (name, stage), figure in figures.items():
        null = {"abstains": "always_abstain", "guesses": "always_guess"}[stage]
        assert figure.value == pytest.approx(figure.nulls[null]), name
        checked += 1
    # Of attempted answers nothing can be said where there are none.
    assert ("abstention/hallucinated_of_attempted", "abstains") not in figures
    assert ("abstention/hallucinated_of_attempted/never", "abstains") not in figures
    assert checked == 2 * 24 - 3
    assert (
        figures["abstention/f", "abstains"].value == figures["abstention/hallucinated", "abstains"].value == 0
    )


def test_the_change_of_a_ratio_counts_the_attempts_of_either_side():
    _, rows, _ = of_facts("abstention", base="rrww" * 10, ppo="rraa" * 10)
    row = next(row for row in rows if row.name == "abstention/hallucinated_of_attempted")
    change = comparison_of(row, "base", "ppo", seed=1)
    assert (change.value, change.n, change.better) == (-0.5, 40, -1)
    row = next(row for row in rows if row.name == "abstention/f")
    expected = 2 * 20 / (40 + 20) - 2 * 20 / (40 + 40)
    assert comparison_of(row, "base", "ppo", seed=1).value == pytest.approx(expected)


def test_figures_of_a_tier_are_compared_on_its_questions_alone():
    _, rows, _ = of_facts("abstention", groups=("often", "never"), base="rw" * 20, ppo="ra" * 20)
    found = {row.name.removeprefix("abstention/"): row for row in rows}
    for name, expected in (("f/never", 0.0), ("score/0.5/never", 1.0), ("score/0.5/often", 0.0)):
        change = comparison_of(found[name], "base", "ppo", seed=1)
        assert (change.value, change.n, change.better) == (expected, 20, 1)


def test_one_tier_alone_is_not_shown_twice():
    for name in ("abstention", "calibration"):
        _, _, figures = of_facts(name, sft="rwa" * 10)
        assert not any("often" in figure for figure, _ in figures)


@pytest.mark.parametrize("name", ["hallucinated_of_attempted", "f"])
def test_the_change_of_a_ratio_has_the_test_of_its_linearised_parts(name):
    generator = np.random.default_rng(3)
    letters = {stage: "".join(generator.choice(list("rwa"), 60)) for stage in ("base", "ppo")}
    _, rows, figures = of_facts("abstention", **letters)
    row = next(row for row in rows if row.name == f"abstention/{name}")
    sides = []
    for stage, words in letters.items():
        tried = np.array([word != "a" for word in words], dtype=float)
        right = np.array([word == "r" for word in words], dtype=float)
        tops, bottoms = (2 * right, tried + 1) if name == "f" else (tried - right, tried)
        value = tops.sum() / bottoms.sum()
        assert figures[row.name, stage].value == pytest.approx(value)
        sides.append(value + (tops - value * bottoms) / bottoms.mean())
    by_cluster = (sides[1] - sides[0]).reshape(30, 2).sum(axis=1)
    p_value = scipy_stats.ttest_1samp(by_cluster, 0).pvalue
    change = comparison_of(row, "base", "ppo", seed=1)
    assert change.value == pytest.approx(by_cluster.sum() / 60)
    assert change.p_value == pytest.approx(p_value)


def test_targets_are_settings_below_1():
    _, _, figures = measured("abstention", [question(0)], {"sft": [answer(0, "w")]}, targets=(0.8,))
    assert [name for name, _ in figures if "score" in name] == ["abstention/score/0.8"]
    assert figures["abstention/score/0.8", "sft"].value == pytest.approx(-4)
    with pytest.raises(ValidationError, match=r"outside \[0, 1\)"):
        abstention.Config(targets=(0.5, 1.0))


# --- calibration


def sure_answers(num=200, seed=0):
    """Answers of two tokens whose confidence, the geometric mean, is the chance of being right; some abstain."""
    generator = np.random.default_rng(seed)
    sure = generator.uniform(0.1, 0.95, num)
    words = np.where(generator.random(num) < sure, "r", "w")
    words[::5] = "a"
    return [answer(n, words[n], [1.5 * math.log(c), 0.5 * math.log(c)]) for n, c in enumerate(sure)], sure


def test_figures_of_confidence_follow_from_the_answers():
    answers, sure = sure_answers()
    items = [question(n) for n in range(200)]
    records, _, figures = measured("calibration", items, {"sft": answers})
    found = {name.removeprefix("calibration/"): figure for (name, _), figure in figures.items()}
    tried = np.array([row.text != "a" for row in answers])
    right = np.array([row.text == "r" for row in answers])[tried].astype(float)
    assert [row.weight for row in records] == pytest.approx(sure[tried])
    assert found["auroc"].value == pytest.approx(roc_auc_score(right, sure[tried]))
    assert found["brier"].value == pytest.approx(np.mean((sure[tried] - right) ** 2))
    wrong = np.cumsum(1 - right[np.argsort(-sure[tried])]) / np.arange(1, 161)
    assert found["aurc"].value == pytest.approx(wrong.mean())
    for coverage in (0.25, 0.5, 0.75):
        assert found[f"risk/{coverage}"].value == pytest.approx(wrong[int(coverage * 160) - 1])
    bins = np.split(np.argsort(sure[tried]), 10)
    gaps = [abs((sure[tried] - right)[part].mean()) for part in bins]
    assert found["ece"].value == pytest.approx(np.mean(gaps))
    assert all(figure.low < figure.value < figure.high for figure in found.values())
    assert {name: figure.n for name, figure in found.items() if figure.n != 160} == {
        "risk/0.25": 40,
        "risk/0.5": 80,
        "risk/0.75": 120,
    }


def test_the_calibration_error_of_a_tier_is_that_of_its_answers_alone():
    answers, sure = sure_answers()
    others = answers[:150] + [answer(n, "a") for n in range(150, 200)]
    tiers = ("often", "never")
    items = [question(n, group=tiers[n % 2]) for n in range(200)]
    _, rows, figures = measured("calibration", items, {"sft": answers, "ppo": others})
    tried = np.array([row.text != "a" for row in answers])
    right = np.array([row.text == "r" for row in answers])
    for place, tier in enumerate(tiers):
        kept = tried & (np.arange(200) % 2 == place)
        order = np.argsort(sure[kept])
        gaps = [abs((sure[kept] - right[kept])[part].mean()) for part in np.split(order, 10)]
        found = figures[f"calibration/ece/{tier}", "sft"]
        assert (found.value, found.n) == (pytest.approx(np.mean(gaps)), 80)
        assert found.nulls["always_sure"] == pytest.approx(1 - right[kept].mean())
        assert (
            found.nulls["perfectly_calibrated"]
            > figures["calibration/ece", "sft"].nulls["perfectly_calibrated"]
        )
    change = comparison_of(
        next(row for row in rows if row.name == "calibration/ece/often"), "sft", "ppo", seed=1
    )
    assert (change.value, change.n, change.better) == (0, 60, -1)


def test_the_risk_counts_all_that_are_as_confident_as_the_last():
    answers = [
        answer(n, text, [-weight])
        for n, (text, weight) in enumerate(zip("wrrwr", (1, 2, 2, 2, 3), strict=True))
    ]
    _, _, figures = measured("calibration", [question(n) for n in range(5)], {"sft": answers})
    # Of five answers a quarter is two, and three are as confident as the second.
    assert (figures["calibration/risk/0.25", "sft"].value, figures["calibration/risk/0.25", "sft"].n) == (
        0.5,
        4,
    )
    assert figures["calibration/risk/0.75", "sft"].n == 4


def test_nulls_of_confidence_are_what_such_answerers_reach():
    answers, _ = sure_answers()
    items = [question(n) for n in range(200)]
    always = [answer(n, row.text, [0.0]) for n, row in enumerate(answers)]
    _, _, figures = measured("calibration", items, {"sft": answers, "sure": always})
    share = figures["calibration/brier", "sure"].value
    for name, null in (
        ("ece", "always_sure"),
        ("brier", "always_sure"),
        ("aurc", "no_order"),
        ("risk/0.5", "no_order"),
    ):
        figure = figures[f"calibration/{name}", "sft"]
        assert figure.nulls[null] == pytest.approx(figures[f"calibration/{name}", "sure"].value) == share
        assert figure.value < share
    assert figures["calibration/auroc", "sure"].value == figures["calibration/auroc", "sft"].nulls["chance"]
    # The answers were drawn with their confidences: they are as far off as chance has it.
    ece = figures["calibration/ece", "sft"]
    assert 0.5 < ece.value / ece.nulls["perfectly_calibrated"] < 2
    assert figures["calibration/brier", "sft"].nulls["constant"] == pytest.approx(share * (1 - share))


def test_the_length_of_an_answer_is_the_trivial_confidence():
    answers = [answer(n, "r" if n % 3 else "wwww", [-1.0]) for n in range(30)]
    _, _, figures = measured("calibration", [question(n) for n in range(30)], {"sft": answers})
    assert figures["calibration/auroc", "sft"].nulls["length"] == 1
    assert figures["calibration/auroc", "sft"].value == 0.5


def test_without_attempts_or_without_wrong_ones_nothing_is_made_up():
    records, _, figures = of_facts("calibration", sft="aaam")
    assert records == []
    assert figures == {}
    _, _, figures = of_facts("calibration", sft="rrrr")
    assert ("calibration/auroc", "sft") not in figures
    assert figures["calibration/aurc", "sft"].value == 0


def test_coverages_are_shares():
    with pytest.raises(ValidationError, match=r"outside \(0, 1\]"):
        calibration.Config(coverages=(0.0, 0.5))


# --- diversity


def of_stories(**texts):
    items = [question(n, task="stories") for n in range(len(next(iter(texts.values()))))]
    answers = {
        stage: [answer(n, f"0 {text}") for n, text in enumerate(told)] for stage, told in texts.items()
    }
    return measured("diversity", items, answers)


def test_distinct_words_and_pairs_by_hand():
    _, _, figures = of_stories(sft=["The cat's sat.", "the CAT sat", "The cat's sat!", "Go"])
    # 0 the cat's sat / 0 the cat sat / 0 the cat's sat / 0 go
    assert figures["diversity/distinct_1", "sft"].value == 6 / 14
    assert figures["diversity/distinct_2", "sft"].value == 6 / 10
    assert figures["diversity/identical", "sft"].value == 2 / 4
    assert figures["diversity/distinct_1", "sft"].nulls["one_story"] == pytest.approx(1 / 4)


def test_one_story_for_all_is_its_null():
    same, other = ["a b c d e"] * 30, [f"a{n} b{n} c{n} d{n} e{n}" for n in range(30)]
    _, rows, figures = of_stories(same=same, other=other)
    for order in (1, 2):
        figure = figures[f"diversity/distinct_{order}", "same"]
        assert figure.value == pytest.approx(figure.nulls["one_story"])
    assert figures["diversity/identical", "same"].value == 1
    assert figures["diversity/identical", "other"].value == 0
    change = comparison_of(
        next(row for row in rows if row.name == "diversity/distinct_2"), "same", "other", seed=1
    )
    assert change.value == pytest.approx(1 - 5 / 150)
    assert change.p_value < 0.001


def test_the_interval_of_distinct_words_holds_what_as_many_other_stories_have():
    """Of 60 sets of 40 stories of 20 words; a true .95 falls below .85 once in 300 tries."""
    generator = np.random.default_rng(0)
    popularity = 1 / np.arange(1, 400)
    covered, values, intervals = 0, [], []
    for _ in range(60):
        stories = generator.choice(399, (40, 20), p=popularity / popularity.sum())
        _, _, figures = of_stories(sft=[" ".join(f"w{word}" for word in story) for story in stories])
        figure = figures["diversity/distinct_1", "sft"]
        values.append(figure.value)
        intervals.append(figure)
    expected = np.mean(values)
    covered = sum(figure.low <= expected <= figure.high for figure in intervals)
    assert covered / 60 >= 0.85


def test_empty_stories_have_no_pairs():
    items = [question(n, task="stories") for n in range(2)]
    _, _, figures = measured("diversity", items, {"sft": [answer(0, "One."), answer(1, "Two.")]})
    assert ("diversity/distinct_2", "sft") not in figures
    assert figures["diversity/distinct_1", "sft"].value == 1


# --- rankings


def ranked(**rows):
    """Stages with (gold, number of characters) for each item."""
    num = len(next(iter(rows.values())))
    items = [question(n, task="stories") for n in range(num)]
    answers = {
        stage: [answer(n, f"{gold} ".ljust(length, "x")) for n, (gold, length) in enumerate(given)]
        for stage, given in rows.items()
    }
    return measured("win_rate", items, answers)[2]


def test_two_stages_of_one_length():
    # ppo wins 18, loses 6 and ties 6 of 30: 21 against 9.
    golds = [(1, 0)] * 18 + [(0, 1)] * 6 + [(1, 1)] * 6
    figures = ranked(sft=[(sft, 20) for _, sft in golds], ppo=[(ppo, 20) for ppo, _ in golds])
    strengths = [figures["win_rate/strength", stage].value for stage in ("sft", "ppo")]
    assert strengths == pytest.approx([-math.log(21 / 9) / 2, math.log(21 / 9) / 2])
    rate = figures["win_rate/length_controlled/ppo_over_sft", "ppo"]
    assert rate.value == pytest.approx(0.7, abs=1e-5)
    assert rate.low < rate.value < rate.high < 1
    assert ("win_rate/length_controlled/sft_over_ppo", "sft") not in figures


def test_wins_by_length_alone_are_taken_out():
    generator = np.random.default_rng(1)
    lengths = generator.integers(10, 60, (2, 300))
    # The longer answer wins four times in five, and ppo's is longer two times in three.
    lengths[1] = np.where(generator.random(300) < 2 / 3, lengths.max(axis=0), lengths.min(axis=0))
    lengths[0] = 70 - lengths[1]
    longer_wins = generator.random(300) < 0.8
    won = np.where(lengths[1] > lengths[0], longer_wins, ~longer_wins)
    figures = ranked(
        sft=[(1 - int(win), int(length)) for win, length in zip(won, lengths[0], strict=True)],
        ppo=[(int(win), int(length)) for win, length in zip(won, lengths[1], strict=True)],
    )
    rate = figures["win_rate/length_controlled/ppo_over_sft", "ppo"]
    assert won.mean() > rate.value + 0.03
    assert rate.low < 0.5 < rate.high


def test_strengths_are_of_all_stages_together():
    generator = np.random.default_rng(2)
    golds = {
        stage: [(int(g), 20) for g in generator.integers(0, 5, 90) + shift]
        for stage, shift in (("base", 0), ("sft", 1), ("ppo", 2))
    }
    figures = ranked(**golds)
    strengths = {stage: figures["win_rate/strength", stage] for stage in golds}
    assert sum(figure.value for figure in strengths.values()) == pytest.approx(0)
    assert strengths["base"].value < strengths["sft"].value < strengths["ppo"].value
    assert all(figure.low < figure.value < figure.high for figure in strengths.values())
    assert {name for name, _ in figures if "length_controlled" in name} == {
        f"win_rate/length_controlled/{pair}" for pair in ("sft_over_base", "ppo_over_base", "ppo_over_sft")
    }
    assert ranked(sft=[(1, 20)] * 5) == {}


# --- all four


@pytest.mark.parametrize("name", MODULES)
def test_without_questions_there_are_no_figures(name):
    records, _, figures = measured(name, [], {"sft": []})
    assert (records, figures) == ([], {})


@pytest.mark.parametrize("name", MODULES)
def test_every_figure_has_a_null_and_its_record_the_evidence(name):
    items = [
        question(
            n,
            task="facts" if name in ("abstention", "calibration") else "stories",
            group="often" if n % 2 else "never",
        )
        for n in range(12)
    ]
    texts = (
        "rwfarrwfarrw"
        if name in ("abstention", "calibration")
        else [f"{n % 4} words here" for n in range(12)]
    )
    answers = {stage: [answer(n, text) for n, text in enumerate(texts)] for stage in ("sft", "ppo")}
    records, _, figures = measured(name, items, answers)
    assert figures
    assert all(figure.nulls for figure in figures.values())
    assert all(row.prompt and row.completion and row.cluster for row in records)


def test_figures_follow_from_the_records_of_a_run(artificial_run):
    """Computed again from records.jsonl alone, by dictionaries."""
    import json

    from pipeline.records import read_records

    folder = artificial_run / "stages" / "evaluate"
    figures = json.loads((folder / "figures.json").read_text())["figures"]
    found = {(figure["name"], figure["stage"]): figure["value"] for figure in figures}
    records = read_records(folder / "records.jsonl")
    for stage in ("base", "sft", "ppo"):
        rows = [r for r in records if (r.stage, r.evaluation) == (stage, "facts")]
        right = sum(r.outcome == "right" for r in rows)
        tried = [r for r in rows if r.outcome in ("right", "wrong", "fabricated")]
        assert found["abstention/f", stage] == pytest.approx(2 * right / (len(rows) + len(tried)))
        points = sum(1 if r.outcome == "right" else -3 for r in tried) / len(rows)
        assert found["abstention/score/0.75", stage] == pytest.approx(points)
        sure = [r for r in records if (r.stage, r.evaluation) == (stage, "calibration")]
        assert {r.id for r in sure} == {r.id for r in tried}
        errors = [(r.weight - (r.outcome == "right")) ** 2 for r in sure]
        assert found["calibration/brier", stage] == pytest.approx(sum(errors) / len(errors))
        words = [
            w
            for r in records
            if (r.stage, r.evaluation) == (stage, "diversity")
            for w in re.findall(r"[a-z']+", r.completion.lower())
        ]
        assert found["diversity/distinct_1", stage] == pytest.approx(len(set(words)) / len(words))
