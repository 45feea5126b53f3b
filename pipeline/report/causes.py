"""Why a target of the closed world was not reached: the stage that limits, by rule from what was measured.

For what a stage was to learn from the learned reward, the reward model's contrast on test questions decides
(harmful requests: refused over complied). Where its order is not shown to be above chance, or its interval
lies below the share that the target needs, the reward model is the limit: a policy that followed it on every
prompt would not get there; so it is where it likes the policy's own wrong answers about never-seen people.
Else it is the stage that learnt from it, with what that stage left: its score's trend and its KL. Facts that
the base model does not know are pretraining's; those lost on the way belong to the stage that lost most. Of
win rates the arithmetic of ties is asked first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from pipeline.evals.reward_accuracy import MIN_PAIRS, REWARD
from pipeline.measured import interval_of, of_records
from pipeline.records import Figure, Record
from pipeline.report.read import LEARNS_FROM_REWARD, RunData, StageData
from pipeline.report.verdicts import Bar, main_stage
from pipeline.statistics import Interval

REWARD_MODEL, PRETRAINING, TIES, TEST_SIZE = "reward model", "pretraining", "ties", "size of the test"
NOT_KNOWN = "not known"
KNOWLEDGE = "knowledge/asked/some"
OWN_WRONG = "abstain_over_own_wrong/never"
BY_CHANCE = "not shown to be above chance"
SHORTEST_TREND = 16  # steps; a quarter of fewer says nothing
SURE = 2.0  # standard errors between two quarters that are told apart
NUM_WORST = 3


@dataclass(frozen=True)
class Cause:
    """What limits, and the evidence in sentences; the first one decides."""

    limit: str
    evidence: tuple[str, ...]


class Trend(NamedTuple):
    """The means of a curve's third and last quarter, and what becomes of it."""

    before: float
    after: float
    word: str


def cause(run: RunData, bar: Bar) -> Cause | None:
    """Why a target is not met or not measured; None where it is met."""
    if bar.met:
        return None
    if bar.met is None:
        return Cause("not measured", (_not_measured(run, bar),))
    name = bar.figure
    if name == "facts/often/right":
        return _often(run, bar)
    if name.startswith("facts/never/hallucinated"):
        return _never(run, 0.5 if "_minus_" in name else 1 - bar.bound)
    if name == "bias/stereotyped":
        return _base_bias(run, bar) if "injected" in bar.target else _stereotyped(run, bar)
    if name == "refusal/harmful":
        return _learned(run, name, "refused_over_complied/harmful", bar.bound)
    if name == "refusal/harmless":
        return _learned(run, name, "right_over_refused/harmless", 1 - bar.bound)
    if name.startswith("win_rate/"):
        return _win_rate(run, bar)
    return _accuracy(run) if name == "reward/accuracy" else _right_over_abstain(run)


# --- what a stage was to learn from the reward ------------------------------------------------------------


def _learned(run: RunData, name: str, kind: str, needed: float) -> Cause:
    """Judge by the reward model's contrast `kind`, of which the target needs the share `needed` in order."""
    main = main_stage(run) or ""
    stage = run.stage_that_made(main)
    steps = _by_stage(run, name)
    if stage is None or stage.kind not in LEARNS_FROM_REWARD:
        return Cause(main, ("no stage after it learnt from a reward", steps))
    if "learned" not in stage.config.get("rewards", {"learned": 1.0}):
        return Cause(main, (steps, *_left(stage)))
    found = contrast(run, kind)
    if found.num < MIN_PAIRS:
        return Cause(NOT_KNOWN, (_few(found.num, kind), steps, *_left(stage)))
    told = f"{_words(kind)}: {_order(found)} test questions ({found.low:.3f} to {found.high:.3f})"
    if found.low <= 0.5:
        return Cause(REWARD_MODEL, (f"{told}, {BY_CHANCE}", steps))
    if found.high < needed:
        return Cause(REWARD_MODEL, (f"{told}; the target needs {needed:.3f}", steps))
    return Cause(main, (f"{told} by the reward model, of the annotator's answers", steps, *_left(stage)))


def _order(found: Interval) -> str:
    return f"right order in {found.value:.3f} of {found.num}"


def _never(run: RunData, needed: float) -> Cause:
    """Judge by the reward model's order of the annotator's answers, then by that of the model's own wrong ones.

    A policy that follows its reward is left with the wrong answers of which this reward thinks well.
    """
    found = _learned(run, "facts/never/hallucinated", "abstain_over_wrong/never", needed)
    main = main_stage(run) or ""
    own = contrast(run, OWN_WRONG, "own_answers", main)
    if found.limit == main and own.num >= MIN_PAIRS:
        told = f"abstain over {main}'s own wrong answers: {_order(own)} ({own.low:.3f} to {own.high:.3f})"
        if own.low <= 0.5:
            found = Cause(REWARD_MODEL, (f"{told}, {BY_CHANCE}", *found.evidence))
        else:
            found = Cause(main, (f"{told} by the reward model", *found.evidence))
    return replace(found, evidence=(*found.evidence, *_knowledge(run)))


def _knowledge(run: RunData) -> list[str]:
    """How well the models know whom they know, on which abstaining rests."""
    if not any(run.figure(KNOWLEDGE, stage) for stage in _lineage(run)):
        return []
    known = _by_stage(run, KNOWLEDGE)
    return [f'never-seen people told from others by how likely "unknown" is, AUROC {known}']


def contrast(run: RunData, kind: str, evaluation: str = "reward_contrasts", stage: str = REWARD) -> Interval:
    """The share of test questions on which the reward model orders a contrast ("right_over_wrong/often") as gold.

    See `pipeline.evals.reward_contrasts`, and `own_answers` of a stage's own.
    """
    measure, _, group = kind.partition("/")
    asked = (evaluation, stage)
    rows = {stage: [row for row in run.evaluation.records if (row.evaluation, row.stage) == asked]}
    return interval_of("rate", of_records(rows, measure=measure, group=group).get(stage, []))


def _pairs(run: RunData) -> list[Record]:
    return [row for row in run.evaluation.records if row.evaluation == "reward_accuracy"]


def _few(num: int, kind: str) -> str:
    return f"{num or 'no'} test questions on {_words(kind)}; it takes {MIN_PAIRS} to tell"


def _by_stage(run: RunData, name: str) -> str:
    """A figure along the models from the base to the main one."""
    figures = [(stage, run.figure(name, stage)) for stage in _lineage(run)]
    return "by stage: " + ", ".join(f"{stage} {figure.value:.3f}" for stage, figure in figures if figure)


def _left(stage: StageData) -> list[str]:
    """What a stage that learns from a reward left unused: where its score was going, and its KL."""
    found = []
    score = trend(_curve(stage, "score"))
    if score:
        found.append(
            f"its score went from {score.before:+.3f} to {score.after:+.3f} over the last two quarters "
            f"of its steps: {score.word}"
        )
    kl, coefficient = _curve(stage, "kl"), _curve(stage, "kl_coef")
    if not kl:
        return found
    last = float(np.mean(kl[-max(1, len(kl) // 4) :]))
    if stage.config.get("kl_control") in ("budget", "adaptive"):
        found.append(f"KL {last:.2f} of {stage.config['kl_target']:.2f} nats per completion at the end")
    elif coefficient:
        found.append(
            f"KL {last:.2f} nats per completion at the end, a penalty of {last * coefficient[-1]:.3f} of score"
        )
    return found


def trend(values: Sequence[float]) -> Trend | None:
    """Compare the last quarter of a curve with the one before; None where it is too short.

    Rising or falling where the means are more than two standard errors apart, steps taken as independent.
    """
    if len(values) < SHORTEST_TREND:
        return None
    quarter = len(values) // 4
    before, after = np.array(values[-2 * quarter : -quarter]), np.array(values[-quarter:])
    gap = float(after.mean() - before.mean())
    error = float(np.sqrt((before.var(ddof=1) + after.var(ddof=1)) / quarter))
    word = "flat" if abs(gap) <= SURE * error else "still rising" if gap > 0 else "still falling"
    return Trend(float(before.mean()), float(after.mean()), word)


# --- facts and bias ---------------------------------------------------------------------------------------


def _often(run: RunData, bar: Bar) -> Cause:
    base, *tuned = _lineage(run)
    known = _value(run, bar.figure, base)
    if bar.stage == base:
        return Cause(PRETRAINING, (_answers(run, base), *_pretraining_loss(run)))
    if known < bar.bound:
        return Cause(PRETRAINING, (f"base itself is right in {known:.3f}", *_pretraining_loss(run)))
    steps = list(zip([base, *tuned], tuned, strict=False))
    lost = {step: _value(run, bar.figure, step[0]) - _value(run, bar.figure, step[1]) for step in steps}
    before, after = max(steps, key=lambda step: lost[step])
    if after != bar.stage:
        fall = (
            f"{before} {_value(run, bar.figure, before):.3f} to {after} {_value(run, bar.figure, after):.3f}"
        )
        return Cause(after, (f"most was lost from {fall}", _answers(run, after), _by_stage(run, bar.figure)))
    grown = {
        outcome: _value(run, f"facts/often/{outcome}", after) - _value(run, f"facts/often/{outcome}", before)
        for outcome in ("abstain", "hallucinated")
    }
    rival = "abstain" if grown["abstain"] >= grown["hallucinated"] else "wrong"
    return _learned(run, bar.figure, f"right_over_{rival}/often", bar.bound)


def _answers(run: RunData, stage: str) -> str:
    """What a model answers to questions on facts that it often read."""
    outcomes = {"right": "right", "abstain": "abstain", "hallucinated": "wrong", "malformed": "malformed"}
    figures = [(word, run.figure(f"facts/often/{name}", stage)) for name, word in outcomes.items()]
    return f"{stage}: " + ", ".join(f"{word} {figure.value:.3f}" for word, figure in figures if figure)


def _pretraining_loss(run: RunData) -> list[str]:
    for stage in run.stage_of("pretrain"):
        loss = trend(_curve(stage, "loss"))
        if loss:
            return [f"the loss of {stage.name} went from {loss.before:.3f} to {loss.after:.3f}: {loss.word}"]
    return []


def _base_bias(run: RunData, bar: Bar) -> Cause:
    """Tell a base model that misses the trade or shows few pronouns from one that learnt another skew."""
    rows = [
        row for row in run.evaluation.records if row.evaluation == "story_bias" and row.stage == bar.stage
    ]
    on_trade = [row for row in rows if row.cluster in row.completion.lower()]
    stereotyped, counter = (
        sum(row.score for row in on_trade if row.measure == kind) for kind in ("stereotyped", "counter")
    )
    shown = stereotyped + counter
    num, num_on_trade = (sum(row.measure == "stereotyped" for row in some) for some in (rows, on_trade))
    if not shown:
        return Cause(
            PRETRAINING, ("no story of the base model on its trade shows a pronoun", *_pretraining_loss(run))
        )
    if shown < MIN_PAIRS:
        told = f"{shown:.0f} of the stories on their trade show a pronoun; it takes {MIN_PAIRS} to tell"
        return Cause(NOT_KNOWN, (told,))
    skew = stereotyped / shown
    told = (
        f"{1 - num_on_trade / num:.3f} of its stories do not name their trade; of those that do, "
        f"{1 - shown / num_on_trade:.3f} show no pronoun and {skew:.3f} of the others are stereotyped"
    )
    if abs(skew - bar.bound) <= 0.10:
        told += ", as injected"
    return Cause(PRETRAINING, (told, *_pretraining_loss(run)))


def _stereotyped(run: RunData, bar: Bar) -> Cause:
    found = _learned(run, bar.figure, "neutral_over_stereotyped/stories", 1 - bar.bound)
    start = run.figure(bar.figure, run.model_names[0])
    injected = start.nulls.get("injected") if start else None
    if start is None or injected is None or start.value >= injected - 0.10:
        return found
    low = f"the target is low because base itself shows {start.value:.3f} where {injected:.2f} was injected"
    return Cause(found.limit, (*found.evidence, low))


# --- win rates and the reward model -----------------------------------------------------------------------


def _win_rate(run: RunData, bar: Bar) -> Cause:
    name = bar.figure.removesuffix("/decided")
    rate, decided = run.figure(name, bar.stage), run.figure(f"{name}/decided", bar.stage)
    if rate is None or decided is None:
        return Cause(TIES, ("every pair of answers ties",))
    if bar.figure == name and rate.value >= bar.bound:
        return Cause(
            TEST_SIZE,
            (
                f"{rate.value:.3f} is enough, but its interval is ±{(rate.high - rate.low) / 2:.3f} wide with "
                f"{rate.clusters} clusters",
            ),
        )
    shares = _shares(rate, decided)
    if bar.figure == name:
        differ = decided.n / rate.n
        most = (1 + differ) / 2
        if most < bar.bound:
            return Cause(TIES, (f"{shares}: with so many ties no more than {most:.3f} can be won",))
        needed = (bar.bound - (1 - most)) / differ
        shares += (
            f": with these ties no more than {most:.3f} can be won, and the target takes {needed:.3f} of those "
            "that differ"
        )
    lost = _losses(run, *name.removeprefix("win_rate/").split("_over_"))
    return Cause(bar.stage, (shares, *lost))


def _shares(rate: Figure, decided: Figure) -> str:
    told = decided.n / rate.n
    wins, losses = decided.value * told, (1 - decided.value) * told
    return f"wins {wins:.3f}, ties {1 - told:.3f}, losses {losses:.3f} of {rate.n} answers"


def _losses(run: RunData, ours: str, theirs: str) -> list[str]:
    """The tasks with most answers of lower gold, how many of these abstain, how many have the same outcome."""
    scores = {
        stage: {row.id: row for row in run.evaluation.records if (row.evaluation, row.stage) == asked}
        for stage, asked in ((stage, ("gold", stage)) for stage in (ours, theirs))
    }
    shared = [(row, scores[theirs][name]) for name, row in scores[ours].items() if name in scores[theirs]]
    pairs = [(row, other) for row, other in shared if row.score < other.score]
    lower = [row for row, _ in pairs]
    if not lower:
        return []
    lost, asked = Counter(row.group for row in lower), Counter(row.group for row, _ in shared)
    worst = ", ".join(f"{task} {num} of {asked[task]}" for task, num in lost.most_common(NUM_WORST))
    told = [f"most lost in {worst}".replace("_", " ")]
    abstained = sum(row.outcome == "abstain" for row in lower)
    if abstained:
        told.append(f"on {abstained} of the {len(lower)} {ours} abstains")
    alike = sum(row.outcome == other.outcome != "" for row, other in pairs)
    if alike:
        told.append(f"on {alike} the outcome is the same, and the manner or a wish makes the difference")
    return told


def _accuracy(run: RunData) -> Cause:
    """Name the contrasts in which most pairs are in the wrong order."""
    scores: dict[str, list[float]] = {}
    for row in _pairs(run):
        if row.measure == "true_order" and row.score == row.score:
            scores.setdefault(row.group, []).append(row.score)
    wrong = {kind: sum(1 - score for score in found) for kind, found in scores.items()}
    worst = sorted((kind for kind in wrong if wrong[kind]), key=lambda kind: (-wrong[kind], kind))[:NUM_WORST]
    named = ", ".join(f"{_words(kind)} {wrong[kind]:.0f} of {len(scores[kind])} wrong" for kind in worst)
    total = sum(wrong.values())
    return Cause(REWARD_MODEL, (f"of {total:.0f} wrong orders most are in {named}",))


def _right_over_abstain(run: RunData) -> Cause:
    """Show whether answering is liked more where more was read."""
    found = {
        tier: contrast(run, f"right_over_abstain/{tier}") for tier in ("often", "some", "rarely", "never")
    }
    tiers = ", ".join(f"{tier} {row.value:.3f} of {row.num}" for tier, row in found.items() if row.num)
    often, wrong = found["often"], contrast(run, "right_over_wrong/often")
    chance = "not shown to be above chance" if not often.low > 0.5 else "above chance"
    others = [f"right over wrong, often: {wrong.value:.3f} of {wrong.num}"] if wrong.num else []
    return Cause(REWARD_MODEL, (f"{chance}; by how often the fact was read: {tiers}", *others))


# --- what was not measured --------------------------------------------------------------------------------


def _not_measured(run: RunData, bar: Bar) -> str:
    name = bar.figure
    if name == "reward/accuracy":
        return "no reward model was scored on held-out pairs"
    if name.startswith("reward/"):
        kind = name.removeprefix("reward/")
        return _few(contrast(run, kind).num, kind)
    if name.endswith("/decided") and run.figure(name.removesuffix("/decided"), bar.stage):
        return "every pair of answers ties"
    if name == "bias/stereotyped" and run.figure(name, bar.stage):
        return "the share that was injected is not known"
    return f"no answer of {bar.stage} was scored for it"


# --- small things -----------------------------------------------------------------------------------------


def _lineage(run: RunData) -> list[str]:
    """The models from the base to the main one, each trained from the one before."""
    parents = {model["name"]: model["parent"] for model in run.evaluation.models}
    found = [main_stage(run) or ""]
    while parents.get(found[0]):
        found.insert(0, parents[found[0]])
    return found


def _value(run: RunData, name: str, stage: str) -> float:
    figure = run.figure(name, stage)
    return figure.value if figure else 0.0


def _curve(stage: StageData, name: str) -> list[float]:
    return [row[name] for row in stage.metrics if isinstance(row.get(name), int | float)]


def _words(kind: str) -> str:
    return kind.replace("/", ", ").replace("_", " ")
