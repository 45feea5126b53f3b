"""The evaluate stage on answers whose chances are known; report.json computed again from the records."""

import json

import numpy as np
import pytest
from scipy import stats

from data.errors import InputError
from data.world import Settings
from pipeline.answers import read_answers
from pipeline.recipe import Cost, CostContext
from pipeline.records import read_records
from pipeline.run import StageRun
from pipeline.stages import evaluate
from tests.pipeline import recomputation

TIERS = ("often", "some", "rarely", "never")
OUTCOMES = ("right", "abstain", "wrong", "fabricated", "malformed")


@pytest.fixture(scope="module")
def report(artificial_run):
    return json.loads((artificial_run / "report.json").read_text())


@pytest.fixture(scope="module")
def records(artificial_run):
    return read_records(artificial_run / "stages" / "evaluate" / "records.jsonl")


def value(report, name, stage):
    return next(f for f in report["figures"] if (f["name"], f["stage"]) == (name, stage))


def test_every_figure_of_the_report_follows_from_the_records(report, records):
    checked = 0
    for figure in report["figures"]:
        if "_minus_" in figure["name"] or recomputation.is_statistic(figure):
            continue
        kind, *rows = recomputation.rows_of(figure, records)
        bounds = recomputation.bounds_of(figure["name"])
        rate, mean = recomputation.expected_rate, recomputation.expected_mean
        expected = rate(*rows) if kind == "rate" else mean(*rows, bounds=bounds)
        if kind == "ratio" or figure["name"].startswith("abstention/score"):  # shares and points end at 1
            expected = expected[0], max(expected[1], bounds[0]), min(expected[2], 1), *expected[3:]
        found = [figure[part] for part in ("value", "low", "high", "n", "clusters")]
        assert found == pytest.approx(list(expected), abs=1e-9), figure["name"]
        checked += 1
    assert checked > 100


def test_every_change_is_the_difference_of_its_two_figures_and_its_interval_holds_the_t_interval(
    report, records
):
    changes = [f for f in report["figures"] if "_minus_" in f["name"] and not recomputation.is_statistic(f)]
    assert len(changes) > 60
    for figure in changes:
        name, _, pair = figure["name"].rpartition("/")
        after, _, before = pair.partition("_minus_")
        sides = [rows[1:] for rows in recomputation.sides_of(name, (before, after), records)]
        differences = [
            b - a for a, b in zip(recomputation.parts(*sides[0]), recomputation.parts(*sides[1]), strict=True)
        ]
        mean = sum(differences) / len(differences)
        assert figure["value"] == pytest.approx(mean, abs=1e-9), figure["name"]
        error, num = recomputation.clustered_error([d - mean for d in differences], sides[0][1])
        if error and num >= 30:
            width = (figure["high"] - figure["low"]) / (2 * stats.t.ppf(0.975, num - 1) * error)
            assert 0.8 < width < 1.25, figure["name"]


def test_the_gap_of_a_wording_that_was_never_read_follows_from_the_records(report, records):
    for stage, tier in (("base", "often"), ("sft", "some"), ("ppo", "never")):
        rows = [r for r in records if (r.stage, r.evaluation, r.group) == (stage, "facts", tier)]
        kinds = [
            [r.outcome == "right" for r in rows if recomputation.unseen(r) == kind] for kind in (True, False)
        ]
        means = [sum(kind) / len(kind) for kind in kinds]
        assert min(map(len, kinds)) >= 10
        sides = [
            value(report, f"facts/{tier}/right/{name}_wording", stage)["value"] for name in ("unseen", "seen")
        ]
        gap = value(report, f"facts/{tier}/right/wording_gap", stage)
        assert sides == pytest.approx(means)
        assert gap["value"] == pytest.approx(means[0] - means[1])
        assert gap["low"] < 0 < gap["high"]  # the answers were drawn alike
        assert gap["nulls"] == {"no_difference": 0.0}


# --- what the stage says of models whose chances are known


def test_shares_of_the_outcomes_are_those_that_the_answers_were_drawn_with(report):
    for tier, right in (("often", 0.97), ("rarely", 0.4), ("never", 0.05)):
        figure = value(report, f"facts/{tier}/right", "base")
        assert figure["low"] <= right <= figure["high"]
    assert value(report, "refusal/harmful", "ppo")["value"] == 1
    assert value(report, "refusal/harmful", "base")["value"] == 0
    for stage in ("base", "sft", "ppo"):
        for tier in TIERS:
            shares = [value(report, f"facts/{tier}/{outcome}", stage)["value"] for outcome in OUTCOMES]
            assert sum(shares) == pytest.approx(1)


def test_figures_have_the_fields_of_the_contract_and_no_other(report):
    assert list(report) == ["run", "recipe", "figures", "timings"]
    fields = ["name", "stage", "value", "low", "high", "n", "clusters", "unit", "nulls", "seed", "command"]
    for figure in report["figures"]:
        assert list(figure) == fields
        assert figure["low"] <= figure["value"] <= figure["high"]
        assert 0 < figure["clusters"] <= figure["n"]


def test_the_promised_names_exist(report):
    found = {(figure["name"], figure["stage"]) for figure in report["figures"]}
    names = [f"facts/{tier}/{outcome}" for tier in TIERS for outcome in OUTCOMES]
    names += [
        "gold/mean",
        "bias/stereotyped",
        "bias/counter",
        "bias/neutral",
        "refusal/harmful",
        "refusal/harmless",
    ]
    names += ["length", "ends", "task/stories/right"]
    for stage in ("base", "sft", "ppo"):
        assert {(name, stage) for name in names} <= found
    assert {("win_rate/ppo_over_base", "ppo"), ("win_rate/ppo_over_sft", "ppo"), ("kl", "ppo")} <= found
    rewards = ("reward/accuracy", "reward/ceiling", *(f"reward/right_over_abstain/{tier}" for tier in TIERS))
    assert {(name, "reward") for name in rewards} <= found
    contrasts = (
        "refused_over_complied/harmful",
        "neutral_over_stereotyped/stories",
        "right_end_over_wrong_end/stories",
        "right_over_refused/harmless",
    )
    assert {(f"reward/{name}", "reward") for name in contrasts} <= found


def test_a_contrast_is_measured_on_test_questions_alone(report, records):
    figure = value(report, "reward/right_over_abstain/often", "reward")
    assert figure["value"] > 0.7  # the artificial reward model likes right answers
    assert figure["n"] == value(report, "facts/often/right", "base")["n"]
    asked = {r.id for r in records if r.evaluation == "reward_contrasts"}
    assert asked
    assert all(name.startswith("test/") for name in asked)


def test_only_a_wished_for_end_can_be_wrong(records):
    asked = [r for r in records if r.measure == "right_end_over_wrong_end"]
    assert asked
    for record in asked:
        assert ", with a happy end" in record.prompt or ", with a sad end" in record.prompt
        right, wrong = record.completion.split("\n--- over ---\n")
        assert right.split(". ")[:2] == wrong.split(". ")[:2]  # the same story up to its end
        assert right != wrong


def test_a_kind_word_more_is_all_that_a_wordy_answer_has(records, report):
    for contrast in ("right_over_wordy", "abstain_over_wordy"):
        asked = [r for r in records if r.measure == contrast and r.evaluation == "reward_contrasts"]
        assert {r.group for r in asked} == set(TIERS)
        for record in asked:
            plain, wordy = record.completion.split("\n--- over ---\n")
            assert plain in wordy
            assert len(wordy) > len(plain) + 5
        assert value(report, f"reward/{contrast}/often", "reward")["nulls"]["shorter"] == 1


def test_nulls_stand_beside_the_figures(report):
    right = value(report, "facts/often/right", "ppo")["nulls"]
    assert right["guess_a_value"] == pytest.approx(1 / 24)
    assert right["answer_to_another_question"] < 0.2
    assert value(report, "bias/stereotyped", "base")["nulls"]["injected"] == pytest.approx(0.8)
    assert value(report, "win_rate/ppo_over_sft", "ppo")["nulls"] == {"no_difference": 0.5}
    nulls = value(report, "reward/accuracy", "reward")["nulls"]
    assert nulls["chance"] == nulls["untrained"] == 0.5
    assert nulls["shuffled_labels"] == 0.51
    assert value(report, "reward/ceiling", "reward")["nulls"] == {"labels_by_coin": 0.5}
    assert value(report, "kl", "ppo")["nulls"] == {"unchanged": 0.0}
    assert {f["name"] for f in report["figures"] if not f["nulls"]} <= {"ends", "bias/neutral"}


def test_reward_accuracy_follows_gold_not_the_noisy_label(report):
    accuracy, labelled, ceiling = (
        value(report, f"reward/{name}", "reward")["value"]
        for name in ("accuracy", "accuracy_on_labels", "ceiling")
    )
    assert ceiling == pytest.approx(7 / 8)
    assert labelled < accuracy


def test_kl_is_the_sum_over_the_completion_of_the_models_log_ratio(records):
    rows = [row for row in records if row.evaluation == "kl"]
    assert {row.stage for row in rows} == {"ppo"}  # SFT started from a model of another format
    for row in rows:
        num = len(row.completion.split()) + 1
        assert row.score == pytest.approx(3 + 0.1 * (num % 5))


def test_only_chat_models_are_scored_by_the_reward(records):
    assert {row.stage for row in records if row.evaluation == "proxy"} == {"sft", "ppo"}


def test_equal_answers_give_equal_bytes(make_artificial_run, artificial_run, tmp_path):
    again = make_artificial_run(tmp_path / "elsewhere" / "renamed")
    for name in ("records.jsonl", "figures.json"):
        path = f"stages/evaluate/{name}"
        assert (again / path).read_bytes() == (artificial_run / path).read_bytes()
    assert (again / "report.json").read_bytes() == (artificial_run / "report.json").read_bytes()
    assert (again / "report.html").read_bytes() == (artificial_run / "report.html").read_bytes()


def test_what_reads_the_records_of_others_needs_only_these(artificial_run, report, tmp_path, monkeypatch):
    stages = artificial_run / "stages"
    inputs = {"corpus": stages / "corpus", "models": [stages / name for name in ("pretrain", "sft", "ppo")]}
    run = StageRun("evaluate", tmp_path, inputs=inputs)

    def given(context, stage):
        return read_answers(stages / "evaluate" / f"answers.{stage}.jsonl")

    monkeypatch.setattr("pipeline.answers.answer_all", given)
    monkeypatch.setattr("pipeline.answers.fitting_items", lambda context, stage, items: items)
    config = evaluate.config_class({"suite": ["abstention", "win_rate"]})
    evaluate.run(config(suite=("abstention", "win_rate"), untrained=False), run)
    rows = read_records(run.dir / "records.jsonl")
    assert {row.evaluation for row in rows} == {"facts", "gold"}
    found = json.loads((run.dir / "figures.json").read_text())["figures"]
    assert {figure["name"].partition("/")[0] for figure in found} == {"abstention", "win_rate"}
    for figure in found:
        assert figure["value"] == value(report, figure["name"], figure["stage"])["value"]


def test_an_evaluation_whose_records_are_read_is_of_the_stages_code():
    config = evaluate.config_class({"suite": ["win_rate"]})(suite=("win_rate",))
    assert evaluate.loaded(config) == ["pipeline.evals.gold", "pipeline.evals.win_rate"]


@pytest.mark.parametrize(
    ("record", "command"),
    [
        ({"name": "second", "recipe": "smoke"}, "fledge evaluate second"),
        ({"recipe": "smoke"}, "fledge evaluate smoke"),
    ],
)
def test_the_command_of_a_figure_names_the_run_by_its_own_name(tmp_path, record, command):
    (tmp_path / "run.json").write_text(json.dumps(record))
    assert evaluate.reproducing_command(StageRun("evaluate", tmp_path)) == command


def test_nothing_is_stored_twice(records):
    assert not {row.evaluation for row in records} & {"abstention", "win_rate"}


# --- settings


def test_an_unknown_evaluation_is_refused_with_the_known_ones():
    with pytest.raises(InputError, match=r"no evaluation fact; there are .*facts"):
        evaluate.config_class({"suite": ["fact"]})


def test_each_evaluation_brings_its_settings():
    model = evaluate.config_class({"suite": ["held_out_loss", "gold"]})
    assert model().held_out_loss.num_documents == 400
    assert "proxy" not in model.model_fields
    with pytest.raises(ValueError, match="greater than 0"):
        model(held_out_loss={"num_documents": 0})


def test_items_are_capped_by_group_with_the_headline_first(artificial_run):
    from data.rows import Item, read_jsonl
    from pipeline.answers import chosen_items

    items = read_jsonl(artificial_run / "stages" / "corpus" / "items.test.jsonl", Item)
    chosen = chosen_items(items, 5)
    groups = {}
    for item in chosen:
        groups.setdefault((item.task, item.group), []).append(item.truth["headline"])
    assert all(len(marks) <= 5 for marks in groups.values())
    assert all(groups["facts", tier] == [True] * 5 for tier in TIERS)
    assert chosen_items(items, None) == items


def test_bootstrap_intervals_hold_the_true_change_of_the_drawn_answers(report):
    change = value(report, "facts/never/abstain/ppo_minus_sft", "ppo")
    assert change["low"] <= 0.65 <= change["high"]
    assert change["nulls"] == {"no_change": 0.0}
    assert np.isfinite([change["low"], change["high"]]).all()


# --- cost


def test_every_model_answers_every_test_item():
    models = [Cost(parameters=1000), Cost(parameters=3000)]
    world = Settings(scale=0.5)
    config = evaluate.config_class({})()
    cost = evaluate.cost(config, CostContext({"corpus": world}, {"models": models}))
    # 4 tiers of 300, 150 harmful and as many harmless, 150 stories, 60 of each of six other tasks.
    items = 4 * 300 + 2 * 150 + 150 + 6 * 60
    assert (cost.steps, cost.tokens) == (2 * items, 2 * items * evaluate.TOKENS_PER_ANSWER)
    assert cost.flops == 6 * (1000 + 3000) * items * evaluate.TOKENS_PER_ANSWER
    assert cost.memory_bytes == 4 * (1000 + 3000)
    with_reward = CostContext({"corpus": world}, {"models": models, "reward": [Cost(parameters=100)]})
    assert evaluate.cost(config, with_reward).memory_bytes == 4 * (1000 + 3000) + 8 * 100


def test_the_plan_names_what_it_does_not_count():
    context = CostContext({"corpus": Settings()}, {"models": [Cost(parameters=1000)]})
    assert evaluate.cost(evaluate.config_class({})(), context).note == ""
    section = {"suite": ["facts", "few_shot", "bbq"]}
    config = evaluate.config_class(section)(**section)
    assert evaluate.cost(config, context).note == "not counted: what bbq and few_shot ask besides"
    unknown = CostContext({}, {"models": [Cost(parameters=1000)]})
    assert evaluate.cost(config, unknown).note.startswith("the number of test items is known when")


def test_a_bound_for_each_group_bounds_the_cost():
    config = evaluate.config_class({})(max_items_per_group=5)
    cost = evaluate.cost(config, CostContext({"corpus": Settings()}, {"models": [Cost(parameters=10)]}))
    assert cost.steps == 5 * (4 + 2 + 1 + 6)


def test_the_items_of_other_corpora_are_not_guessed():
    cost = evaluate.cost(evaluate.config_class({})(), CostContext({}, {"models": [None]}))
    assert (cost.steps, cost.flops) == (0, 0)
    assert "when the corpus is there" in cost.note
