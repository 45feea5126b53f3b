"""Causes of unmet targets: each rule on a run written by hand, and that the evidence is what was measured."""

from dataclasses import replace

import pytest

from pipeline.records import Figure, Record
from pipeline.report import verdicts
from pipeline.report.causes import NOT_KNOWN, OWN_WRONG, cause, contrast, trend
from pipeline.report.read import Evaluation, RunData, StageData

# Every target that these leave alone is met.
REACHED = {
    ("facts/often/right", "base"): 0.99,
    ("facts/often/right", "sft"): 0.95,
    ("facts/often/right", "ppo"): 0.93,
    ("facts/never/hallucinated", "base"): 0.9,
    ("facts/never/hallucinated", "sft"): 0.4,
    ("facts/never/hallucinated", "ppo"): 0.1,
    ("facts/never/hallucinated/ppo_minus_sft", "ppo"): -0.3,
    ("bias/stereotyped", "base"): 0.78,
    ("bias/counter", "base"): 0.2,
    ("bias/neutral", "base"): 0.02,
    ("bias/stereotyped", "sft"): 0.6,
    ("bias/stereotyped", "ppo"): 0.1,
    ("refusal/harmful", "base"): 0.0,
    ("refusal/harmful", "sft"): 0.6,
    ("refusal/harmful", "ppo"): 0.97,
    ("refusal/harmless", "sft"): 0.1,
    ("refusal/harmless", "ppo"): 0.02,
    ("win_rate/ppo_over_base", "ppo"): 0.85,
    ("win_rate/ppo_over_sft", "ppo"): 0.7,
    ("win_rate/ppo_over_sft/decided", "ppo"): 0.9,
    ("reward/accuracy", "reward"): 0.9,
    ("reward/right_over_abstain/often", "reward"): 0.9,
}
MODELS = [
    {"name": "base", "parent": None, "plain": True},
    {"name": "sft", "parent": "base", "plain": False},
    {"name": "ppo", "parent": "sft", "plain": False},
]


def figure(name, stage, value, *, n=300, half=0.02):
    nulls = {"injected": 0.8} if name == "bias/stereotyped" else {}
    return Figure(name, stage, value, value - half, value + half, n, n, "share", nulls)


def judged(kind, scores):
    """Test questions on one contrast, 1 where the reward model orders it as gold does."""
    measure, _, group = kind.partition("/")
    return [
        Record(f"{kind}/{n}", f"{n}", "reward", "reward_contrasts", measure, "", "", float(score), group)
        for n, score in enumerate(scores)
    ]


def paired(kind, scores):
    """Held-out pairs of one kind, 1 where the reward model has them in gold's order."""
    return [
        Record(f"{kind}/{n}", f"{n}", "reward", "reward_accuracy", "true_order", "", "", float(score), kind)
        for n, score in enumerate(scores)
    ]


def won(stage, scores, group="facts"):
    return [
        Record(f"{group}/{n}", f"{n}", stage, "gold", "gold", "", "", float(score), group)
        for n, score in enumerate(scores)
    ]


def a_run(changes=None, *, records=(), ppo=None, metrics=None, drop=(), models=MODELS):
    values = {**REACHED, **(changes or {})}
    figures = [
        value if isinstance(value, Figure) else figure(*name, value)
        for name, value in values.items()
        if name not in drop
    ]
    stages = [
        StageData("pretrain", "pretrain", {}, [{"step": n, "loss": 3 - 0.05 * n} for n in range(20)]),
        StageData("sft", "sft", {}, []),
        StageData("reward", "reward", {}, []),
        StageData("ppo", "ppo", {"config": ppo or {}}, metrics or []),
    ]
    return RunData("hand", {}, {}, stages, Evaluation(list(models), figures, [], list(records)))


def why(run, what, stage="ppo"):
    """The cause of the one bar of this title."""
    (bar,) = [bar for bar in verdicts.bars(run) if (bar.what, bar.stage) == (what, stage)]
    return cause(run, bar)


def steps(scores, **others):
    return [
        {"step": n, "score": score, "kl": 2.0, "kl_coef": 0.05, **others} for n, score in enumerate(scores)
    ]


def test_what_is_reached_needs_no_cause():
    run = a_run()
    assert [cause(run, bar) for bar in verdicts.bars(run)] == [None] * len(verdicts.bars(run))


def test_a_comparison_without_the_base_model_has_no_targets():
    assert verdicts.bars(a_run(models=MODELS[1:])) == []


HARM = "harmful requests refused"
REFUSED = "refused_over_complied/harmful"


def test_a_reward_model_at_chance_is_the_limit():
    run = a_run({("refusal/harmful", "ppo"): 0.1}, records=judged(REFUSED, [1] * 41 + [0] * 59))
    found = why(run, HARM)
    assert found.limit == "reward model"
    assert "0.410 of 100 test questions" in found.evidence[0]
    assert "refused over complied, harmful" in found.evidence[0]
    assert "not shown to be above chance" in found.evidence[0]
    assert "base 0.000, sft 0.600, ppo 0.100" in " ".join(found.evidence)


def test_a_reward_model_below_what_the_target_needs_is_the_limit():
    run = a_run({("refusal/harmful", "ppo"): 0.7}, records=judged(REFUSED, [1] * 75 + [0] * 25))
    found = why(run, HARM)
    assert found.limit == "reward model"
    assert "the target needs 0.950" in found.evidence[0]


def test_what_a_good_reward_model_leaves_is_ppo():
    metrics = steps([0.1 * n for n in range(40)])
    run = a_run(
        {("refusal/harmful", "ppo"): 0.7}, records=judged(REFUSED, [1] * 98 + [0] * 2), metrics=metrics
    )
    found = why(run, HARM)
    text = " ".join(found.evidence)
    assert found.limit == "ppo"
    assert "0.980 of 100" in found.evidence[0]
    assert "rising" in text
    assert "KL 2.00 nats per completion at the end, a penalty of 0.100" in text


def test_the_kl_budget_is_named_where_there_is_one():
    run = a_run(
        {("refusal/harmful", "ppo"): 0.7},
        records=judged(REFUSED, [1] * 99 + [0]),
        ppo={"kl_control": "budget", "kl_target": 2.5},
        metrics=steps([0.0] * 40),
    )
    text = " ".join(why(run, HARM).evidence)
    assert "KL 2.00 of 2.50 nats per completion" in text
    assert "flat" in text


def test_too_few_pairs_leave_the_cause_open():
    run = a_run({("refusal/harmful", "ppo"): 0.1}, records=judged(REFUSED, [1] * 19))
    found = why(run, HARM)
    assert found.limit == NOT_KNOWN
    assert "19 test questions" in found.evidence[0]
    assert "20" in found.evidence[0]


def test_a_stage_that_learns_from_gold_is_not_limited_by_the_reward_model():
    run = a_run(
        {("refusal/harmful", "ppo"): 0.1},
        records=judged(REFUSED, [0] * 50),
        ppo={"rewards": {"gold": 1.0}},
    )
    found = why(run, HARM)
    assert found.limit == "ppo"
    assert "test questions" not in " ".join(found.evidence)


def test_without_a_tuned_model_there_is_nothing_to_blame_but_that():
    run = a_run(models=MODELS[:1])
    found = why(run, HARM, "base")
    assert "no stage" in found.evidence[0]


def test_harmless_twins_ask_for_the_contrast_of_answering():
    run = a_run(
        {("refusal/harmless", "ppo"): 0.2}, records=judged("right_over_refused/harmless", [1] * 40 + [0] * 60)
    )
    found = why(run, "harmless twins refused")
    assert found.limit == "reward model"
    assert "right over refused, harmless" in found.evidence[0]


def test_never_seen_facts_ask_for_abstain_over_wrong():
    records = judged("abstain_over_wrong/never", [1] * 95 + [0] * 5)
    run = a_run({("facts/never/hallucinated", "ppo"): 0.3}, records=records, metrics=steps([0.0] * 40))
    found = why(run, "never-seen facts answered wrongly")
    assert found.limit == "ppo"
    assert "base 0.900, sft 0.400, ppo 0.300" in " ".join(found.evidence)


def own_wrong(scores, stage="ppo"):
    """Own wrong answers to never-seen facts, 1 where the reward model likes abstaining better."""
    return [replace(row, stage=stage, evaluation="own_answers") for row in judged(OWN_WRONG, scores)]


def test_wrong_answers_of_its_own_that_its_reward_likes_are_a_matter_of_the_reward_model():
    records = judged("abstain_over_wrong/never", [1] * 98 + [0] * 2)
    changes = {("facts/never/hallucinated", "ppo"): 0.3}
    curve = steps([0.0] * 40)

    def found(own):
        run = a_run(changes, records=[*records, *own], metrics=curve)
        return why(run, "never-seen facts answered wrongly")

    liked, disliked = found(own_wrong([1] * 26 + [0] * 24)), found(own_wrong([1] * 45 + [0] * 5))
    assert (liked.limit, disliked.limit) == ("reward model", "ppo")
    assert "abstain over ppo's own wrong answers: right order in 0.520 of 50" in liked.evidence[0]
    assert "not shown to be above chance" in liked.evidence[0]
    assert "0.900 of 50" in disliked.evidence[0]
    for one in (liked, disliked):
        assert "0.980 of 100 test questions" in one.evidence[1]
    for too_few in (own_wrong([0] * 19), own_wrong([0] * 50, "sft")):
        assert found(too_few) == found([])
        assert found(too_few).limit == "ppo"


def test_never_seen_facts_show_how_well_the_models_know_whom_they_know():
    knowledge = {("knowledge/asked/some", name): 0.9 for name in ("base", "sft", "ppo")}
    run = a_run({("facts/never/hallucinated", "ppo"): 0.3} | knowledge)
    found = why(run, "never-seen facts answered wrongly")
    told = [line for line in found.evidence if 'how likely "unknown" is' in line]
    assert told == [
        'never-seen people told from others by how likely "unknown" is, AUROC by stage: base 0.900, '
        "sft 0.900, ppo 0.900"
    ]
    without = why(a_run({("facts/never/hallucinated", "ppo"): 0.3}), "never-seen facts answered wrongly")
    assert found.evidence == (*without.evidence, *told)


def test_a_change_that_is_not_shown_needs_only_a_reward_above_chance():
    records = judged("abstain_over_wrong/never", [1] * 65 + [0] * 35)
    changes = {("facts/never/hallucinated/ppo_minus_sft", "ppo"): -0.01}
    run = a_run(changes, records=records, metrics=steps([0.0] * 40))
    assert why(run, "never-seen facts answered wrongly, change from sft").limit == "ppo"


def test_facts_that_the_base_does_not_know_are_a_matter_of_pretraining():
    changes = {
        ("facts/often/right", "base"): 0.8,
        ("facts/often/right", "ppo"): 0.7,
        ("facts/often/abstain", "base"): 0.0,
        ("facts/often/hallucinated", "base"): 0.15,
        ("facts/often/malformed", "base"): 0.05,
    }
    run = a_run(changes)
    base, main = why(run, "facts seen often, right", "base"), why(run, "facts seen often, right")
    assert base.limit == main.limit == "pretraining"
    assert "wrong 0.150" in " ".join(base.evidence)
    assert "falling" in " ".join(base.evidence)
    assert "base itself is right in 0.800" in main.evidence[0]


def test_facts_lost_in_sft_are_a_matter_of_sft():
    run = a_run({("facts/often/right", "sft"): 0.82, ("facts/often/right", "ppo"): 0.81})
    found = why(run, "facts seen often, right")
    assert found.limit == "sft"
    assert "base 0.990 to sft 0.820" in found.evidence[0]


@pytest.mark.parametrize(
    "abstains, kind", [(0.24, "right_over_abstain/often"), (0.01, "right_over_wrong/often")]
)
def test_facts_lost_in_ppo_ask_for_the_contrast_by_what_took_their_place(abstains, kind):
    changes = {
        ("facts/often/right", "ppo"): 0.75,
        ("facts/often/abstain", "sft"): 0.01,
        ("facts/often/abstain", "ppo"): abstains,
        ("facts/often/hallucinated", "sft"): 0.04,
        ("facts/often/hallucinated", "ppo"): 0.25 - abstains,
    }
    found = why(a_run(changes, records=judged(kind, [1] * 30 + [0] * 30)), "facts seen often, right")
    assert found.limit == "reward model"
    assert kind.replace("_", " ").replace("/", ", ") in found.evidence[0]


def stories_of_base(**counts):
    """Base stories asked of a miller, by what they show; `off` are stereotyped ones about a baker."""
    shown = [kind for kind, count in counts.items() for _ in range(count)]
    return [
        Record(
            f"story/{n}",
            "miller",
            "base",
            "story_bias",
            measure,
            "",
            "A baker. He" if kind == "off" else "The Miller's day.",
            float(measure == ("stereotyped" if kind == "off" else kind)),
        )
        for n, kind in enumerate(shown)
        for measure in ("stereotyped", "counter", "neutral")
    ]


@pytest.mark.parametrize(
    ("counts", "told"),
    [
        (
            {"stereotyped": 40, "counter": 10, "neutral": 50},
            "0.000 of its stories do not name their trade; of those that do, 0.500 show no pronoun and 0.800 of "
            "the others are stereotyped, as injected",
        ),
        (
            {"stereotyped": 40, "counter": 10, "off": 50},
            "0.500 of its stories do not name their trade; of those that do, 0.000 show no pronoun and 0.800 of "
            "the others are stereotyped, as injected",
        ),
        (
            {"stereotyped": 60, "counter": 40},
            "0.000 of its stories do not name their trade; of those that do, 0.000 show no pronoun and 0.600 of "
            "the others are stereotyped",
        ),
        ({"neutral": 20, "off": 80}, "no story of the base model on its trade shows a pronoun"),
    ],
)
def test_a_base_off_its_trade_or_without_pronouns_is_told_from_a_weak_skew(counts, told):
    run = a_run({("bias/stereotyped", "base"): 0.6}, records=stories_of_base(**counts))
    found = why(run, "stereotyped pronouns", "base")
    assert found.limit == "pretraining"
    assert found.evidence[0] == told


def test_a_skew_of_a_few_stories_is_not_judged():
    few = stories_of_base(stereotyped=10, counter=5, neutral=35)
    found = why(a_run({("bias/stereotyped", "base"): 0.2}, records=few), "stereotyped pronouns", "base")
    assert found.limit == NOT_KNOWN
    assert "15 of the stories" in found.evidence[0]


def test_stereotypes_that_stay_ask_for_neutral_over_stereotyped():
    changes = {("bias/stereotyped", "base"): 0.6, ("bias/stereotyped", "ppo"): 0.5}
    run = a_run(changes, records=judged("neutral_over_stereotyped/stories", [1] * 52 + [0] * 48))
    found = why(run, "stereotyped pronouns")
    assert found.limit == "reward model"
    assert "base itself shows 0.600 where 0.80 was injected" in " ".join(found.evidence)


WIN = "win rate by gold, ppo over sft, "


def test_ties_can_put_a_win_rate_out_of_reach():
    changes = {
        ("win_rate/ppo_over_sft", "ppo"): figure("win_rate/ppo_over_sft", "ppo", 0.56, n=100, half=0.01),
        ("win_rate/ppo_over_sft/decided", "ppo"): figure("win_rate/ppo_over_sft/decided", "ppo", 0.8, n=20),
    }
    found = why(a_run(changes), WIN + "ties half")
    assert found.limit == "ties"
    assert "wins 0.160, ties 0.800, losses 0.040" in found.evidence[0]
    assert "0.600" in found.evidence[0]


def test_losses_are_named_by_task():
    records = [
        *won("sft", [1] * 10),
        *won("ppo", [1] * 5 + [0] * 5),
        *won("sft", [0] * 10, "stories"),
        *won("ppo", [1] * 9 + [-1], "stories"),
    ]
    changes = {
        ("win_rate/ppo_over_sft", "ppo"): figure("win_rate/ppo_over_sft", "ppo", 0.6, n=100),
        ("win_rate/ppo_over_sft/decided", "ppo"): figure("win_rate/ppo_over_sft/decided", "ppo", 0.7, n=75),
    }
    run = a_run(changes, records=records)
    for ending in ("ties half", "wins / (wins + losses)"):
        found = why(run, WIN + ending)
        assert found.limit == "ppo"
        assert "facts 5 of 10, stories 1 of 10" in " ".join(found.evidence)
        assert "abstains" not in " ".join(found.evidence)
    assert "no more than 0.875 can be won" in why(run, WIN + "ties half").evidence[0]
    assert "takes 0.660 of those that differ" in why(run, WIN + "ties half").evidence[0]


def test_what_is_lost_by_manner_is_counted():
    told = [
        replace(row, outcome="right") for row in [*won("sft", [1] * 5), *won("ppo", [0.8] * 2 + [1, -1, -1])]
    ]
    told[-1] = replace(told[-1], outcome="wrong")
    changes = {
        ("win_rate/ppo_over_sft", "ppo"): figure("win_rate/ppo_over_sft", "ppo", 0.6, n=100),
        ("win_rate/ppo_over_sft/decided", "ppo"): figure("win_rate/ppo_over_sft/decided", "ppo", 0.7, n=75),
    }
    found = why(a_run(changes, records=told), WIN + "ties half")
    assert "on 3 the outcome is the same" in " ".join(found.evidence)


def test_what_is_lost_by_abstaining_is_counted():
    records = [*won("sft", [1] * 4), *won("ppo", [0] * 3 + [1])]
    records[4:6] = [replace(row, outcome="abstain") for row in records[4:6]]
    changes = {
        ("win_rate/ppo_over_sft", "ppo"): figure("win_rate/ppo_over_sft", "ppo", 0.6, n=100),
        ("win_rate/ppo_over_sft/decided", "ppo"): figure("win_rate/ppo_over_sft/decided", "ppo", 0.7, n=75),
    }
    found = why(a_run(changes, records=records), WIN + "ties half")
    assert "on 2 of the 3 ppo abstains" in " ".join(found.evidence)


def test_a_win_rate_whose_interval_alone_misses_is_a_matter_of_the_test_size():
    changes = {("win_rate/ppo_over_sft", "ppo"): figure("win_rate/ppo_over_sft", "ppo", 0.63, half=0.09)}
    found = why(a_run(changes), WIN + "ties half, interval")
    assert found.limit == "size of the test"
    assert "300 clusters" in found.evidence[0]


def test_reward_accuracy_names_the_contrasts_with_most_errors():
    records = [
        *paired("wordy_over_rude/never", [1] * 10 + [0] * 30),
        *paired("right_over_wrong/often", [1] * 39 + [0]),
        *paired("rare_over_rarer/x", [0] * 5),
    ]
    found = why(
        a_run({("reward/accuracy", "reward"): 0.6}, records=records), "reward model accuracy", "reward"
    )
    assert found.limit == "reward model"
    assert "wordy over rude, never 30 of 40 wrong" in found.evidence[0]
    assert "36 wrong orders" in found.evidence[0]


def test_right_over_abstain_is_shown_beside_the_other_tiers():
    records = [
        *judged("right_over_abstain/often", [1] * 10 + [0] * 30),
        *judged("right_over_abstain/never", [1] * 8 + [0] * 24),
    ]
    run = a_run({("reward/right_over_abstain/often", "reward"): 0.25}, records=records)
    found = why(run, "reward model: right over abstain, facts seen often", "reward")
    assert "often 0.250 of 40" in " ".join(found.evidence)
    assert "never 0.250 of 32" in " ".join(found.evidence)


def test_what_was_not_measured_says_why():
    name = ("reward/right_over_abstain/often", "reward")
    run = a_run(drop=[name], records=judged("right_over_abstain/often", [1] * 7))
    found = why(run, "reward model: right over abstain, facts seen often", "reward")
    assert "7 test questions" in found.evidence[0]
    run = a_run(drop=[("win_rate/ppo_over_sft/decided", "ppo")])
    assert "tie" in why(run, WIN + "wins / (wins + losses)").evidence[0]
    run = a_run(drop=[("reward/accuracy", "reward")])
    assert "no reward model" in why(run, "reward model accuracy", "reward").evidence[0]
    run = a_run(drop=[("refusal/harmful", "ppo")])
    assert "no answer of ppo" in why(run, HARM).evidence[0]


def test_questions_that_could_not_be_scored_are_not_counted():
    run = a_run(records=judged(REFUSED, [1] * 30 + [float("nan")] * 5))
    assert contrast(run, REFUSED).num == 30


@pytest.mark.parametrize(
    "values, word",
    [
        ([0.1 * n for n in range(40)], "still rising"),
        ([-0.1 * n for n in range(40)], "still falling"),
        ([(-1.0) ** n for n in range(40)], "flat"),
    ],
)
def test_the_trend_is_of_the_last_two_quarters(values, word):
    assert trend(values).word == word


def test_a_short_curve_has_no_trend():
    assert trend([1.0, 2.0, 3.0]) is None


def test_an_artificial_run_has_a_cause_for_each_unmet_bar(artificial_run):
    from pipeline.report.read import read_chains

    (chain,) = read_chains(artificial_run)
    for bar in verdicts.bars(chain):
        found = cause(chain, bar)
        assert (found is None) == (bar.met is True), bar
        assert found is None or (found.limit and all(found.evidence)), bar
