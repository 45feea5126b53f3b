"""Win rates by a judge that knows no truth: the run's reward model, or any endpoint with OpenAI's chat API.

Each model is compared with the one that it started from and with the first. An endpoint sees every pair in both
orders; a pair is won where both prefer the same answer, else it is a tie. A pair with a failed call
is not scored. Its replies are kept as they come, and an interrupted stage asks only for those that are missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from pydantic import Field

from data.errors import InputError
from data.randomness import key
from data.rows import Item
from pipeline.answers import Context, Records, shown_prompt
from pipeline.judge_settings import JudgeSettings
from pipeline.measured import Measured, Scored, length_controlled, of_records, win_score
from pipeline.records import Record

if TYPE_CHECKING:
    import numpy as np


KIND = "measure"
SUITE = "alignment"
ON_REQUEST = True  # a judge costs time or money
NAME = "judge"
ENDPOINT, REWARD = "endpoint", "reward_model"
# Of a pair of answers: whether ours won, whether the verdict flipped with the sides and whether gold says that
# ours is better (each 0, 1/2 or 1), by how many characters ours is longer, and how many of its calls failed.
WIN, FLIP, LENGTH, GOLD, FAILED = "win", "flip", "length", "gold", "failed"
NUM_ORDERS = 2


class Config(JudgeSettings):
    """Who judges, and how much; without `url` only the run's reward model does."""

    reward_model: bool = Field(True, description="whether the run's reward model judges, where there is one")
    num_pairs: int = Field(
        200, gt=0, description="pairs of answers for each two models, a keyed choice of the headline mix"
    )


def by_default(context: Context) -> bool:
    """Whether it runs without being named: where the run has a reward model, and gold knows none of the items."""
    return context.folder("reward") is not None and not any(map(context.knows, context.items))


def items(context: Context) -> list[Item]:
    """The headline mix, of which some are judged.

    Raises:
        InputError: there is nobody to judge, or the variable of the key is not set.
    """
    config: Config = context.options[NAME]
    if config.url:
        config.endpoint(NAME)
    elif context.folder("reward") is None or not config.reward_model:
        raise InputError(
            "judge: there is no judge; set judge.url and judge.model, or evaluate a run with a reward model"
        )
    return context.headline


def measure(context: Context) -> list[Record]:
    """Judge pairs of answers: by the reward model where the run has one, by the endpoint where one is named."""
    config: Config = context.options[NAME]
    asked = sorted(items(context), key=lambda item: key(NAME, context.seed, item.id))[: config.num_pairs]
    records: list[Record] = []
    if not asked or not _compared(context):
        return records
    if context.folder("reward") is not None and config.reward_model:
        records += _by_reward_model(context, asked)
    if config.url:
        records += _by_endpoint(context, asked)
    return records


def figures(records: Records, context: Context) -> list[Measured]:
    """Win rates, the same at equal length, and strengths over all models; and the health of the judge.

    Its health: flips, wins of the longer answer, failed calls, accord with gold.

    Nulls: no difference, the longer answer always wins; of flips, a judge who always takes the first answer and
    one who tosses a coin; of wins of the longer answer and of accord with gold, a coin.
    """
    found = []
    for stage, rows in records.items():
        for name in dict.fromkeys(row.group for row in rows):
            own = {measure: _scores(rows, measure, name) for measure in (WIN, FLIP, LENGTH, GOLD, FAILED)}
            found += _of_pair(name, stage, own)
    return found + [row for by in (REWARD, ENDPOINT) for row in _strengths(by, records)]


def _of_pair(pair: str, stage: str, own: dict[str, list[Scored]]) -> list[Measured]:
    """The figures of one judge on two models; one without any scored pair is left out."""
    name, (by, _, models) = f"{NAME}/{pair}", pair.partition("/")
    lengths, gold = ({row.id: row.score for row in own[measure]} for measure in (LENGTH, GOLD))
    longer = {row.id: win_score(row.score, 0.0) for row in own[LENGTH]}
    won = [row for row in own[WIN] if row.score == row.score]
    decided = [row for row in won if row.score != 0.5]
    by_length = [row._replace(score=longer[row.id]) for row in won]
    longest = sum(row.score for row in by_length) / len(by_length) if by_length else 0.5
    nulls = {"no_difference": 0.5, "longest_wins": longest}
    rates = [
        (name, own[WIN], 1, nulls),
        (f"{name}/flips", own[FLIP], -1, {"none": 0.0, "coin": 0.5, "always_first": 1.0}),
        (f"{name}/longer_wins", _accord(decided, longer), 0, {"coin": 0.5}),
        (f"{name}/gold_accord", _accord(decided, gold), 1, {"coin": 0.5}),
    ]
    found = [
        Measured(figure, "share", "rate", {stage: rows}, better, {stage: given}, compared=False)
        for figure, rows, better, given in rates
        if any(row.score == row.score for row in rows)
    ]
    if won:
        wins = [row._replace(weight=lengths[row.id]) for row in own[WIN]]
        found.append(length_controlled(f"{NAME}/{by}/length_controlled/{models}", stage, wins))
    if own[FAILED]:
        none = {stage: {"none": 0.0}}
        calls = Measured(
            f"{name}/failed_calls",
            "share",
            "ratio",
            {stage: own[FAILED]},
            -1,
            none,
            compared=False,
            bounds=(0.0, 1.0),
        )
        found.append(calls)
    return found


def _strengths(by: str, records: Records) -> list[Measured]:
    """Bradley and Terry's log-odds of all models that a judge compared.

    On the items with a verdict on every pair, so that all have met equally often.
    """
    won: dict[tuple[str, str], dict[str, Scored]] = {}
    for ours, rows in records.items():
        for name in dict.fromkeys(row.group for row in rows if row.group.startswith(f"{by}/")):
            theirs = name.removeprefix(f"{by}/{ours}_over_")
            won[ours, theirs] = {row.id: row for row in _scores(rows, WIN, name) if row.score == row.score}
    shared = set.intersection(*map(set, won.values())) if won else set()
    models = list(dict.fromkeys(model for pair in won for model in reversed(pair)))
    items = [row for row in next(iter(won.values())).values() if row.id in shared] if shared else []

    def resampled(rows: Sequence[Scored], counts: np.ndarray, place: int) -> np.ndarray:
        import numpy as np

        from pipeline.rankings import bradley_terry

        wins = np.zeros((len(counts), len(models), len(models)))
        for (ours, theirs), scored in won.items():
            sides = models.index(ours), models.index(theirs)
            wins[:, *sides] = counts @ [scored[row.id].score for row in rows]
            wins[:, *sides[::-1]] = counts.sum(axis=1) - wins[:, *sides]
        return bradley_terry(wins)[:, place]

    return [
        Measured(
            f"{NAME}/{by}/strength",
            "log-odds",
            "statistic",
            {model: items},
            1,
            {model: {"no_difference": 0.0}},
            compared=False,
            resampled=partial(resampled, place=place),
        )
        for place, model in enumerate(models if items else ())
    ]


def _scores(rows: Sequence[Record], measure: str, group: str) -> list[Scored]:
    return of_records({"": rows}, measure=measure, group=group).get("", [])


def _accord(decided: Sequence[Scored], sides: dict[str, float]) -> list[Scored]:
    """1 where the winner is on the side of 1, over the pairs that are no ties on either count."""
    told = [row for row in decided if sides.get(row.id, 0.5) in (0.0, 1.0)]
    return [row._replace(score=float(row.score == sides[row.id])) for row in told]


def _compared(context: Context) -> list[tuple[str, str]]:
    """(ours, theirs): each model over the one that it started from, and over the first."""
    first = next(iter(context.models))
    pairs = [
        (name, other) for name, model in context.models.items() for other in (model.parent, first) if other
    ]
    return [pair for pair in dict.fromkeys(pairs) if pair[0] != pair[1]]


def _by_reward_model(context: Context, asked: Sequence[Item]) -> list[Record]:
    """The answer of the higher score wins; it knows no sides."""
    from pipeline.reward_scores import score_with
    from pipeline.statistics import win_scores

    scores = {}
    for stage in context.models:
        ended = [context.answers[stage][item.id].ended for item in asked]
        texts = [_text(context, stage, item) for item in asked]
        scores[stage] = score_with(asked, texts, context, ended=ended)
    records = []
    for ours, theirs in _compared(context):
        wins = win_scores(scores[ours], scores[theirs]).tolist()
        for item, win, own, other in zip(asked, wins, scores[ours], scores[theirs], strict=True):
            told = f"{own:.4f} against {other:.4f}"
            records += _records(context, item, (ours, theirs), REWARD, {WIN: win}, told)
    return records


def _by_endpoint(context: Context, asked: Sequence[Item]) -> list[Record]:
    """Ask about each pair in both orders; say how many calls failed, and why the first of them did."""
    from pipeline import judges

    config: Config = context.options[NAME]
    pairs = [(item, pair) for pair in _compared(context) for item in asked]
    shown = [
        (shown_prompt(item), _text(context, ours, item), _text(context, theirs, item))
        for item, (ours, theirs) in pairs
    ]
    rulings = judges.ask(config.endpoint(NAME), judges.both_orders(shown), context.run)
    records = []
    for (item, pair), first, second in zip(pairs, rulings[::2], rulings[1::2], strict=True):
        win, flip = judges.combined(first.score, second.score)
        missing = sum(ruling.score != ruling.score for ruling in (first, second))
        told = f"ours first: {first.text}\ntheirs first: {second.text}"
        scores = {WIN: win, FLIP: flip, FAILED: float(missing)}
        records += _records(context, item, pair, ENDPOINT, scores, told)
    return records


def _records(
    context: Context, item: Item, pair: tuple[str, str], by: str, scores: dict[str, float], told: str
) -> list[Record]:
    """One record a measure; the explanation of the win holds the other answer and what the judge said."""
    ours, theirs = (_text(context, stage, item) for stage in pair)
    scores = scores | {LENGTH: float(len(ours) - len(theirs))}
    if context.knows(item):
        answers = [context.answers[stage][item.id] for stage in pair]
        scores[GOLD] = win_score(*(context.judge(item, answer).score for answer in answers))
    return [
        _record(item, pair, by, measure, score, ours, f"over: {theirs}\n{told}" if measure == WIN else "")
        for measure, score in scores.items()
    ]


def _record(
    item: Item, pair: tuple[str, str], by: str, measure: str, score: float, ours: str, told: str
) -> Record:
    name = f"{by}/{pair[0]}_over_{pair[1]}"
    shown = (shown_prompt(item), ours)
    outcome = {1.0: "win", 0.5: "tie", 0.0: "loss"}.get(score, "failed") if measure == WIN else ""
    calls = float(NUM_ORDERS) if measure == FAILED else 1.0
    return Record(
        item.id, item.cluster, pair[0], NAME, measure, *shown, score, name, outcome, told, weight=calls
    )


def _text(context: Context, stage: str, item: Item) -> str:
    """An answer without the space that a continued line begins with, which is no part of what is judged."""
    return context.answers[stage][item.id].text.strip()
