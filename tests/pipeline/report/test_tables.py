"""Tables of win rates, benchmarks, confidence and doses, on figures written by hand."""

from dataclasses import replace

import pytest

from pipeline.evals import dose_response as doses
from pipeline.measured import figures_of
from pipeline.records import Comparison, Figure, Record
from pipeline.report import build, plots, tables, verdicts
from pipeline.report.read import Evaluation, RunData

MODELS = [
    {"name": "base", "parent": None, "plain": True},
    {"name": "sft", "parent": "base", "plain": False},
    {"name": "ppo", "parent": "sft", "plain": False},
]


def figure(name, stage, value, half=0.05, **nulls):
    return Figure(name, stage, value, value - half, value + half, 100, 50, "share", nulls)


def change(name, before, after, value, better=1, verdict="improved"):
    low, high = value - 0.01, value + 0.01
    return Comparison(
        name, before, after, value, low, high, 100, 50, better, 0.001, 0.001, 1, 0, 0.5, 0.1, verdict
    )


def a_run(figures, comparisons=(), records=(), models=MODELS):
    return RunData("hand", {}, {}, [], Evaluation(models, list(figures), list(comparisons), list(records)))


# --- benchmarks -------------------------------------------------------------------------------------------


def benchmark_run():
    return a_run(
        [
            figure("truthfulqa/mc1", "base", 0.24, chance=0.22, longest=0.4),
            figure("truthfulqa/mc1", "sft", 0.25, chance=0.22, longest=0.4),
            figure("truthfulqa/mc1", "ppo", 0.61, chance=0.22, longest=0.41),
            figure("crows_pairs/sum", "ppo", 0.61, chance=0.5),
        ],
        [change("truthfulqa/mc1", "base", "sft", 0.01), change("truthfulqa/mc1", "sft", "ppo", 0.36)],
    )


def test_an_accuracy_stands_beside_its_place_above_chance():
    table, _ = tables.benchmarks(benchmark_run())
    assert table.title == "TruthfulQA"
    (row,) = table.rows
    # (0.61 - 0.22) / (1 - 0.22)
    assert [part.above for part in row.cells] == pytest.approx([0.02 / 0.78, 0.03 / 0.78, 0.5])
    assert (row.n, row.nulls) == ("100 / 50", "chance 0.220, longest 0.400 to 0.410")


def test_a_share_that_is_no_accuracy_has_no_place_above_chance():
    _, table = tables.benchmarks(benchmark_run())
    assert [part.above for part in table.rows[0].cells] == [None, None, None]
    assert [part.figure is None for part in table.rows[0].cells] == [True, True, False]


@pytest.mark.parametrize(
    ("name", "nulls", "expected"),
    [
        ("facts/some/right", {"guess_a_value": 0.2}, 0.5),
        ("few_shot/towns/4", {"guess": 0.2}, 0.5),
        ("reward/accuracy", {"chance": 0.2}, 0.5),
        ("few_shot/towns/gain", {"no_change": 0.0}, None),
        ("calibration/auroc", {"chance": 0.2}, None),
        ("facts/some/right/ppo_minus_sft", {"guess_a_value": 0.2}, None),
    ],
)
def test_an_accuracy_of_the_closed_world_has_its_place_above_chance(name, nulls, expected):
    found = tables.above(figure(name, "ppo", 0.6, **nulls))
    assert found == (None if expected is None else pytest.approx(expected))


def test_the_stage_table_and_that_of_every_figure_show_the_place_above_chance():
    run = a_run([figure("facts/often/right", stage, 0.6, guess_a_value=0.2) for stage in ("base", "ppo")])
    page = build.render([run], comparing=False)
    assert page.count("a guess 0.200; above chance +0.500, +0.500</td>") == 1
    assert page.count("<small>above chance +0.500</small>") == 2


def test_models_at_chance_are_named_and_nothing_is_concluded_of_them():
    run = benchmark_run()
    table, _ = tables.benchmarks(run)
    assert table.unclear == {("base", "sft"): ["mc1"]}
    assert [part.change and part.change.verdict for part in table.rows[0].cells] == [None, None, "improved"]
    steps = {step.after: step for step in verdicts.stage_verdicts(run)}
    assert (steps["sft"].word, steps["sft"].comparisons) == ("no evidence", [])
    assert steps["ppo"].word == "improved"


def test_no_table_gives_a_verdict_on_two_models_at_chance():
    name = "facts/rarely/right"
    sides = [figure(name, stage, value, chance=0.22) for stage, value in (("base", 0.2), ("sft", 0.25))]
    run = a_run([*sides, figure(name, "ppo", 0.6, chance=0.22)])
    rows = [change(name, "base", "sft", 0.05), change(name, "sft", "ppo", 0.35)]
    run.evaluation.comparisons.extend(rows)
    (row,) = build.stage_table(run)
    assert [change and change.verdict for _, change in row["cells"]] == [None, tables.AT_CHANCE, "improved"]
    page = build.render([run], comparing=False)
    assert page.count(">improved</span></td>") == 2  # in the table of the stages and in that of comparisons
    assert page.count(f">{tables.AT_CHANCE}</span></td>") == 1


def test_items_and_clusters_that_differ_between_models_are_a_range():
    sides = [replace(figure("x", "s", 0.5), n=n, clusters=clusters) for n, clusters in ((90, 9), (70, 9))]
    assert tables.items_in_words([None, *sides]) == "70 to 90 / 9 few"


@pytest.mark.parametrize(("value", "told"), [(0.27, True), (0.2701, False), (0.17, True), (0.1699, False)])
def test_the_bounds_of_an_interval_belong_to_it(value, told):
    exact = Figure(
        "x", "s", value, round(value - 0.05, 6), round(value + 0.05, 6), 9, 9, "", {"chance": 0.22}
    )
    assert tables.at_chance(exact) is told


def test_slices_of_a_large_benchmark_stand_apart():
    names = ["accuracy_amb", "s_amb", *(f"{name}/accuracy_amb" for name in "abcdefghijk")]
    (table,) = tables.benchmarks(a_run([figure(f"bbq/{name}", "ppo", 0.5, chance=1 / 3) for name in names]))
    assert [row.label for row in table.rows] == ["accuracy amb", "s amb"]
    assert [row.label for row in table.slices][:2] == ["a, accuracy amb", "b, accuracy amb"]
    assert table.rows[0].cells[2].above == pytest.approx(0.25)  # (1/2 - 1/3) / (2/3)
    assert table.rows[1].cells[2].above is None


# --- win rates --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prefix", "told"),
    [
        ("win_rate", "gold"),
        ("judge/reward_model", "the reward model"),
        ("judge/endpoint", "the endpoint"),
    ],
)
def test_the_matrix_of_every_judge_shows_both_sides_of_every_pair(prefix, told):
    run = a_run(
        [
            figure(f"{prefix}/ppo_over_sft", "ppo", 0.7, 0.1),
            figure(f"{prefix}/ppo_over_sft/decided", "ppo", 0.9, 0.1),
            figure(f"{prefix}/length_controlled/ppo_over_sft", "ppo", 0.65),
            figure(f"{prefix}/strength", "sft", -0.4),
            figure(f"{prefix}/strength", "ppo", 0.4, no_difference=0.0),
        ]
    )
    (matrix,) = tables.win_matrices(run)
    assert matrix.judge == told
    cells = {name: row for name, row, _ in matrix.rows}
    assert cells["ppo"][1] == pytest.approx((0.7, 0.6, 0.8, 0.65))
    assert cells["sft"][2] == pytest.approx((0.3, 0.2, 0.4, 0.35))
    assert cells["base"] == [None, None, None]
    assert [strength and strength.value for _, _, strength in matrix.rows] == [None, -0.4, 0.4]
    assert [row.label for row in matrix.health] == ["ppo over sft, decided", "ppo over sft, at equal length"]
    page = build.render([run], comparing=False)
    assert f"judged by {told}: n / clusters 100 / 50." in page
    assert "log-odds over all of them, n / clusters 100 / 50, no difference 0.000." in page
    assert page.count("<small>0.650 at equal length</small>") == 1


def test_gold_and_all_judges_are_shown_gold_first():
    names = ("judge/endpoint/sft_over_base", "judge/reward_model/sft_over_base", "win_rate/sft_over_base")
    run = a_run([figure(name, "sft", 0.6, 0.1) for name in (*names, "judge/endpoint/sft_over_base/flips")])
    gold, endpoint, reward_model = tables.win_matrices(run)
    assert [row.judge for row in (gold, endpoint, reward_model)] == [
        "gold",
        "the endpoint",
        "the reward model",
    ]
    assert endpoint.rows[0][1][1].value == pytest.approx(0.4)
    assert [row.label for row in endpoint.health] == ["sft over base, flips"]


def test_a_judge_whose_calls_all_failed_is_still_shown():
    run = a_run([figure("judge/endpoint/sft_over_base/failed_calls", "sft", 1.0, 0.0, none=0.0)])
    (matrix,) = tables.win_matrices(run)
    assert [row.label for row in matrix.health] == ["sft over base, failed calls"]
    page = build.render([run], comparing=False)
    assert "No pair has a verdict of the endpoint." in page
    assert "judged by the endpoint" not in page


def test_a_run_without_pairs_has_no_matrix():
    assert tables.win_matrices(a_run([figure("gold/mean", "ppo", 0.5)])) == []


# --- confidence -------------------------------------------------------------------------------------------


def test_confidence_is_drawn_from_the_records_and_named_in_words():
    def record(number, confidence, right):
        return Record(
            f"i{number}", f"c{number}", "ppo", "calibration", "answer", "?", "!", right, weight=confidence
        )

    records = [record(1, 0.9, 1.0), record(2, 0.5, 0.0), record(3, 0.7, float("nan"))]
    run = a_run(
        [figure("calibration/aurc", "ppo", 0.25), figure("calibration/auroc", "ppo", 1.0)], (), records
    )
    assert plots.confidences(run, "ppo").tolist() == [[0.9, 1.0], [0.5, 0.0]]
    assert tables.confidence_words(run) == "ppo: AURC 0.250, AUROC 1.000"
    assert "risk_coverage" in plots.pictures(run, "p")
    assert "risk_coverage" not in plots.pictures(a_run([], (), records[:1]), "p")


def test_scores_by_confidence_target():
    found = [
        figure(f"abstention/score/{name}", "ppo", 0.2, always_abstain=0.0) for name in ("0.75", "0.75/often")
    ]
    run = a_run(found)
    (row,) = tables.target_rows(run)
    assert (row.label, row.nulls) == ("t = 0.75", "always abstain 0.000")
    (row,) = tables.target_rows(run, by_tier=True)
    assert row.label == "t = 0.75, often"


def test_agreement_of_samples_stands_beside_the_answers_probability():
    names = ("calibration/auroc", "calibration/risk/0.5", "agreement/auroc/semantic_entropy")
    rows = tables.confidence_rows(a_run([figure(name, "ppo", 0.8) for name in names]))
    labels = ["AUROC", "wrong among the most confident 0.5", "AUROC, semantic entropy"]
    assert [row.label for row in rows] == labels


def test_abstaining_and_staying_with_a_text_have_rows():
    names = ("abstention/recall", "abstention/score/0.5", "grounding/extrinsic/summaries")
    run = a_run([figure(name, "ppo", 0.5) for name in names])
    assert [row.label for row in tables.abstention_rows(run)] == ["abstains where never seen"]
    assert [row.label for row in tables.grounding_rows(run)] == ["adds what is not in it, summaries"]
    page = build.render([run], comparing=False)
    assert page.count("<td>abstains where never seen</td>") == 1
    assert page.count("<td>adds what is not in it, summaries</td>") == 1


def test_the_alignment_tax_holds_held_out_text_variety_and_tasks_together():
    names = (
        "task/towns/right",
        "loss/held_out",
        "loss/bits_per_byte",
        "diversity/distinct_2",
        "verified/add/right",
    )
    figures = [figure(name, stage, 0.5) for name in names for stage in ("base", "ppo")]
    run = a_run(figures, [change("task/towns/right", "sft", "ppo", -0.1, verdict="regressed")])
    rows = tables.tax_rows(run)
    labels = ["held-out bits per byte", "distinct pairs of words of stories", "towns, right", "add, right"]
    assert [row.label for row in rows] == labels
    assert rows[2].cells[2].change.verdict == "regressed"
    assert tables.tax_rows(a_run(figures, models=MODELS[:1])) == []


# --- wordings ---------------------------------------------------------------------------------------------


def test_unseen_wordings_have_a_section_with_their_gaps_first():
    run = a_run(
        [
            figure("facts/often/right", "ppo", 0.9),
            figure("facts/often/right/seen_wording", "ppo", 0.92, guess_a_value=0.1),
            figure("facts/often/right/unseen_wording", "ppo", 0.82, guess_a_value=0.1),
            figure("facts/often/right/wording_gap", "ppo", -0.1, no_difference=0.0),
            figure("facts/often/right/wording_gap/ppo_minus_sft", "ppo", 0.2),
        ]
    )
    found = tables.wordings(run)
    assert [(row.label, row.n, row.nulls) for row in found.gaps] == [
        ("often, right", "100 / 50", "no difference 0.000")
    ]
    assert [row.label for row in found.shares] == [
        "often, right, seen wording",
        "often, right, unseen wording",
    ]
    page = build.render([run], comparing=False)
    section = page[page.index("wordings never read") : page.index("Every figure with its nulls")]
    for told in (
        "a gap near 0",
        "<td>often, right</td>",
        "−0.100",
        "−0.150 to −0.050",
        "no difference 0.000",
    ):
        assert told in section
    assert tables.wordings(a_run([figure("facts/often/right", "ppo", 0.9)])) == ([], [])


# --- dose and response ------------------------------------------------------------------------------------


def dosed_run():
    """Base models that show half of what was injected: 24 stories each, 12 trades."""
    records = {}
    for dose in (0.0, 0.5, 1.0):
        num = round(24 * (1 + dose / 2) / 2)
        records[f"bias_{dose:g}"] = [
            Record(
                f"story/{story}",
                f"trade {story % 12}",
                f"bias_{dose:g}",
                "dose_response",
                "shown",
                "?",
                "!",
                1.0 if story < num else -1.0,
                f"{dose:g}",
            )
            for story in range(24)
        ]
    figures = [
        found
        for row in doses.figures(records, None)
        for found in figures_of(row, seed=0, command="fledge evaluate hand --suite dose_response")
    ]
    models = [{"name": name, "parent": None, "plain": True} for name in records]
    return a_run(figures, models=models)


def test_doses_come_in_order_with_the_line_through_them():
    found = tables.dose_response(dosed_run())
    assert [(dose.injected, dose.figure.value) for dose in found.doses] == [(0, 0), (0.5, 0.25), (1, 0.5)]
    assert found.slope.value == pytest.approx(0.5)
    assert found.intercept.value == pytest.approx(0.0, abs=1e-12)


def test_how_often_the_meter_calls_bias_what_is_none_stands_below_the_doses():
    (figure,) = tables.dose_response(dosed_run()).false_positives
    assert (figure.stage, figure.n, figure.nulls["nominal"]) == ("bias_0", 1000, pytest.approx(0.05))
    page = build.render([dosed_run()], comparing=False)
    told = page[page.index("dose and response") : page.index("Every figure with its nulls")]
    assert "<td>bias_0, false positives<small>nominal 0.050</small></td>" in told
    assert "where none was injected" in told


def test_the_dose_response_is_drawn_beside_the_line_of_a_meter_without_error():
    picture = plots.pictures(dosed_run(), "p")["dose_response"]
    for label in ("as injected", "least squares", "measured", "injected excess of stereotyped pronouns"):
        assert label in picture


def test_a_run_without_doses_has_no_such_section():
    run = a_run([figure("bias/stereotyped", "ppo", 0.1)])
    assert tables.dose_response(run) is None
    assert "dose_response" not in plots.pictures(run, "p")


# --- pairs and representation -----------------------------------------------------------------------------


def test_pairs_and_representation_have_a_section_of_their_own():
    figures = [
        figure("counterfactual/signed", "ppo", 1.5, no_difference=0.0, injected=2.197),
        figure("counterfactual/prefers_stereotyped", "ppo", 0.8, no_difference=0.5),
        figure("counterfactual/flip_rate", "ppo", 0.3, coin=0.5),
        figure("counterfactual/anything_new", "ppo", 0.3),
        figure("representation/distance", "ppo", 0.2, one_gender=0.5),
        figure("representation/distance/ppo_minus_sft", "ppo", 0.1),
    ]
    run = a_run(figures)
    labels = [row.label for row in tables.counterfactual_rows(run)]
    assert labels == [
        "stereotyped version likelier by",
        "stereotyped version the likelier",
        "choices that another pronoun turns",
        "anything new",
    ]
    (row,) = tables.representation_rows(run)
    assert (row.n, row.nulls) == ("100 / 50", "one gender 0.500")
    page = build.render([run], comparing=False)
    section = page[page.index("Bias: pairs and representation") : page.index("Every figure with its nulls")]
    for told in (
        "0 nats on average",
        "injected 2.197",
        "1.450 to 1.550",
        "a distance of 0",
        "0.150 to 0.250",
    ):
        assert told in section
    assert "A choice turns where" in section
    assert "A choice turns where" not in build.render([a_run(figures[:2])], comparing=False)
    alone = build.render([a_run(figures[4:])], comparing=False)
    assert "Bias: pairs and representation" in alone
    assert "0 nats on average" not in alone
