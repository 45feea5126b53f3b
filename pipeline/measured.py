"""From scored items to figures with intervals, and to comparisons between stages with verdicts."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, NamedTuple

from data.randomness import key
from pipeline.records import Comparison, Figure, Record

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float

    from pipeline.statistics import Interval, Paired, Statistic

LEVEL = 0.05
UNBOUNDED = (-math.inf, math.inf)
IMPROVED, REGRESSED, CHANGED, NO_EVIDENCE = "improved", "regressed", "changed", "no evidence"


class Scored(NamedTuple):
    """One item's score with its cluster, the weight that it has in the figure, and the text that was scored."""

    id: str
    cluster: str
    score: float
    weight: float = 1.0
    text: str = ""


def weighed(rows: Sequence[Scored]) -> Sequence[Scored]:
    """The items with a weight: others say nothing of a ratio. All, where none has any, as it is no ratio then."""
    return [row for row in rows if row.weight] or rows


def rarer_by(kind: Callable[[Scored], float]) -> Callable[[Sequence[Scored]], Sequence[Scored]]:
    """The items of the rarer of two kinds, by clusters: on these rests a figure that tells both kinds apart."""

    def rarer(rows: Sequence[Scored]) -> Sequence[Scored]:
        kinds = [row for row in rows if kind(row)], [row for row in rows if not kind(row)]
        return min(kinds, key=lambda side: len({row.cluster for row in side}))

    return rarer


@dataclass(frozen=True)
class Measured:
    """One figure over all stages, before its intervals.

    `kind` is a rate of 0 and 1 (1/2 for ties), a mean, a ratio of the sum of scores to the sum of weights, a
    test, or any other statistic. A test is the clustered p-value of the mean score being 0, and its interval is
    itself. `better` is +1 where more is better, -1 where less is, 0 where neither. `headline` figures form the
    family that is corrected for being several.

    A ratio is compared by its linearised parts; where an item's weights differ between the sides, as attempts do,
    with Student's interval, as a bootstrap of few clusters is too narrow there. A stage in which no item has a
    weight has none.

    A statistic is computed by `statistic` from a stage's scored items, without those that are nan; it gives nan
    where it is not defined, and such a stage has no figure. Its interval is a cluster bootstrap, or a jackknife
    where drawing an item twice would change the statistic by itself. `resampled`, beside or instead of it, is
    many times as fast: the statistic of many samples at once, from the items and how often each counts, shape
    (samples, items), to shape (samples,).

    `bounds` are those within which an item may move the figure: of the scores, where it is a mean of them. A rate
    has 0 and 1. No interval passes them. They make one where nothing varies, from the number of clusters of the
    items that the figure `rests_on`; without them there is none. An item may count for more than the figure can
    be: then that is where it `ends`, and no interval of it passes that either.
    """

    name: str
    unit: str
    kind: Literal["rate", "mean", "ratio", "test", "statistic"]
    scores: Mapping[str, Sequence[Scored]]
    better: int = 0
    nulls: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    headline: bool = False
    compared: bool = True
    statistic: Callable[[Sequence[Scored]], float] | None = None
    resampled: Callable[[Sequence[Scored], Float[np.ndarray, "samples items"]], np.ndarray] | None = None
    interval: Literal["bootstrap", "jackknife"] = "bootstrap"
    bounds: tuple[float, float] = UNBOUNDED
    ends: tuple[float, float] = UNBOUNDED
    rests_on: Callable[[Sequence[Scored]], Sequence[Scored]] = weighed

    def __post_init__(self) -> None:
        given = self.statistic is not None or self.resampled is not None
        assert given == (self.kind == "statistic"), (
            f"{self.name} is a {self.kind}, and a statistic is given: {given}"
        )


def of_records(
    records: Mapping[str, Sequence[Record]],
    *,
    measure: str | None = None,
    group: str | None = None,
    score: Callable[[Record], float] = lambda record: record.score,
) -> dict[str, list[Scored]]:
    """Pick scored items by measure and group, for each stage that has any; unscorable ones stay nan."""
    found = {}
    for stage, rows in records.items():
        kept = [
            Scored(row.id, row.cluster, score(row), row.weight, row.completion)
            for row in rows
            if (measure is None or row.measure == measure) and (group is None or row.group == group)
        ]
        if kept:
            found[stage] = kept
    return found


class Plain(NamedTuple):
    """A figure that is the plain rate, mean or ratio of some records: which are taken, and what counts.

    Taken are the records of a measure and, where it is given, of a group; what counts is their score, or having
    one of some outcomes. `better` and `headline` are as in `Measured`. Figures of the same items can be compared
    between runs by this alone: an evaluation names those that are in its `PAIRED`.
    """

    name: str
    measure: str
    group: str | None = None
    outcomes: tuple[str, ...] = ()
    kind: Literal["rate", "mean", "ratio"] = "rate"
    better: int = 1
    headline: bool = False
    bounds: tuple[float, float] = UNBOUNDED

    def scores(self, records: Mapping[str, Sequence[Record]]) -> dict[str, list[Scored]]:
        """The scored items of each stage that has any."""
        score = with_outcome(*self.outcomes) if self.outcomes else (lambda record: record.score)
        return of_records(records, measure=self.measure, group=self.group, score=score)

    def measured(
        self,
        records: Mapping[str, Sequence[Record]],
        nulls: Callable[[str], Mapping[str, float]] = lambda stage: {},
        *,
        unit: str = "share",
    ) -> Measured:
        """The figure over all stages; `nulls` gives those of a stage."""
        scores = self.scores(records)
        found = {stage: nulls(stage) for stage in scores}
        parts = (self.name, unit, self.kind, scores, self.better, found, self.headline)
        return Measured(*parts, bounds=self.bounds)


def changes(before: Sequence[Scored], after: Sequence[Scored]) -> list[Scored]:
    """By how much each item's score is more after than before."""
    earlier = {row.id: row.score for row in before}
    return [row._replace(score=row.score - earlier[row.id]) for row in after]


def win_score(ours: float, theirs: float) -> float:
    """1 where ours is more, 0 where theirs is, 1/2 where they are equal, nan where either is nan."""
    if ours != ours or theirs != theirs:
        return math.nan
    return ((ours > theirs) - (ours < theirs) + 1) / 2


def with_outcome(*outcomes: str) -> Callable[[Record], float]:
    """Score 1 where the record has one of these outcomes; an item that could not be scored stays nan."""
    return lambda record: record.score if record.score != record.score else float(record.outcome in outcomes)


def ratio_of_samples(
    rows: Sequence[Scored], counts: Float[np.ndarray, "samples items"]
) -> Float[np.ndarray, " samples"]:
    """The sum of scores over the sum of weights in many samples; nan where the weights are 0."""
    import numpy as np

    scores, weights = counts @ _scores(rows), counts @ [row.weight for row in rows]
    return np.divide(scores, weights, out=np.full(len(counts), np.nan), where=weights > 0)


def length_controlled(name: str, stage: str, rows: list[Scored]) -> Measured:
    """The win rate of a stage at equal length (Dubois et al. 2024, arXiv 2404.04475); in [0, 1].

    A row's score is 1 for a win and 1/2 for a tie, its weight how many characters the answer is longer.
    """
    nulls = {stage: {"no_difference": 0.5}}
    return Measured(
        name,
        "share",
        "statistic",
        {stage: rows},
        1,
        nulls,
        compared=False,
        resampled=_wins_at_equal_length,
        bounds=(0.0, 1.0),
    )


def _wins_at_equal_length(
    rows: Sequence[Scored], counts: Float[np.ndarray, "samples items"]
) -> Float[np.ndarray, " samples"]:
    from pipeline.rankings import length_controlled_win_rate

    return length_controlled_win_rate([row.score for row in rows], [row.weight for row in rows], counts)


def f_of_attempts(
    name: str,
    scores: Mapping[str, Sequence[Scored]],
    nulls: Mapping[str, Mapping[str, float]],
    *,
    unit: str = "share",
) -> Measured:
    """SimpleQA's F (Wei et al. 2024), the harmonic mean of the shares right of all and right of the attempted.

    It is twice the right ones over the attempted and all, which is a ratio. A row's score is 1 for right, its
    weight 1 for an attempt.
    """
    twice = {
        stage: [row._replace(score=2 * row.score, weight=1 + row.weight) for row in rows]
        for stage, rows in scores.items()
    }
    # Where few are attempted, a right one counts twice.
    return Measured(name, unit, "ratio", twice, 1, nulls, bounds=(0.0, 2.0), ends=(0.0, 1.0))


def two_means_of_samples(
    rows: Sequence[Scored], counts: Float[np.ndarray, "samples items"]
) -> Float[np.ndarray, " samples"]:
    """By how much the mean score of items of weight 1 exceeds that of items of weight 0; nan without either."""
    import numpy as np

    scores, ones = _scores(rows), np.array([row.weight for row in rows])
    tops = counts @ np.stack([scores * ones, scores * (1 - ones)], axis=1)
    bottoms = counts @ np.stack([ones, 1 - ones], axis=1)
    means = np.divide(tops, bottoms, out=np.full(tops.shape, np.nan), where=bottoms > 0)
    return means[:, 0] - means[:, 1]


def mean_of_samples(
    rows: Sequence[Scored], counts: Float[np.ndarray, "samples items"]
) -> Float[np.ndarray, " samples"]:
    """The mean as a statistic, for differences that are mostly 0.

    Their bootstrap holds 0 where a handful of items differ; an interval corrected for skewness need not.
    """
    return counts @ _scores(rows) / counts.sum(axis=1)


def interval_of(kind: str, rows: Sequence[Scored]) -> Interval:
    """The estimate of one stage."""
    from pipeline import statistics

    scores, clusters = [row.score for row in rows], [row.cluster for row in rows]
    if kind == "rate":
        return statistics.rate(scores, clusters)
    if kind == "ratio":
        return statistics.ratio(scores, [row.weight for row in rows], clusters)
    found = statistics.mean(scores, clusters)
    if kind == "test" and found.num:
        p_value = statistics.t_test(found.value, found.se, found.num_clusters)
        return found._replace(value=p_value, low=p_value, high=p_value)
    return found


def value_of(measured: Measured, rows: Sequence[Scored]) -> float:
    """The figure of some scored items, without its interval; nan where it is not defined."""
    import numpy as np

    rows = [row for row in rows if row.score == row.score]
    if measured.kind != "statistic":
        return interval_of(measured.kind, rows).value
    return float(_of_samples(measured, rows)(np.ones((1, len(rows))))[0]) if rows else math.nan


def figures_of(measured: Measured, *, seed: int, command: str) -> list[Figure]:
    """One figure for each stage."""
    figures = []
    for stage, rows in measured.scores.items():
        if measured.kind == "statistic":
            found = _statistic_interval(measured, rows, key=key("bootstrap", seed, measured.name, stage))
        else:
            found = interval_of(measured.kind, rows)
        if found.value != found.value and measured.kind in ("statistic", "ratio"):
            continue
        low, high = _bounded(found, measured.bounds, measured, [rows])
        low, high = max(low, measured.ends[0]), min(high, measured.ends[1])
        nulls = dict(measured.nulls.get(stage, {}))
        figures.append(
            Figure(
                measured.name,
                stage,
                found.value,
                low,
                high,
                found.num,
                found.num_clusters,
                measured.unit,
                nulls,
                seed,
                command,
            )
        )
    return figures


def comparison_of(measured: Measured, before: str, after: str, *, seed: int) -> Comparison | None:
    """The paired change of one figure between two stages, or None where they share no items that tell it."""
    from pipeline import statistics

    if before not in measured.scores or after not in measured.scores:
        return None
    earlier = {row.id: row for row in measured.scores[before]}
    pairs = [(earlier[row.id], row) for row in measured.scores[after] if row.id in earlier]
    if not pairs:
        return None
    draws = key("bootstrap", seed, measured.name, before, after)
    if measured.kind == "statistic":
        found = _statistic_difference(measured, pairs, key=draws)
    else:
        pairs = [(old, new) for old, new in pairs if old.score == old.score and new.score == new.score]
        old, new = ([pair[side] for pair in pairs] for side in (0, 1))
        clusters = [row.cluster for row, _ in pairs]
        part = _parts_of_ratio if measured.kind == "ratio" else _scores
        if part is _parts_of_ratio and any(a.weight != b.weight for a, b in pairs):
            found = statistics.ratio_difference(_top_and_bottom(old), _top_and_bottom(new), clusters)
        else:
            found = statistics.paired_difference(part(old), part(new), clusters, key=draws)
    if found.value != found.value and measured.kind in ("statistic", "ratio"):
        return None
    widest = _widest(measured, pairs)
    low, high = _bounded(found, (-widest, widest), measured, list(zip(*pairs, strict=True)))
    return Comparison(
        measured.name,
        before,
        after,
        found.value,
        low,
        high,
        found.num,
        found.num_clusters,
        measured.better,
        found.p_value,
        found.p_value if measured.headline else None,
        found.gained,
        found.lost,
        found.mcnemar_p,
        found.smallest,
        "",
    )


def _bounded(
    found: Interval | Paired,
    bounds: tuple[float, float],
    measured: Measured,
    sides: Sequence[Sequence[Scored]],
) -> tuple[float, float]:
    """The interval within the bounds; where nothing varied and it would be infinite, what these still allow."""
    from pipeline.statistics import unvaried

    if found.low != -math.inf:
        return max(found.low, bounds[0]), min(found.high, bounds[1])
    scored = ([row for row in side if row.score == row.score] for side in sides)
    num_clusters = min(len({row.cluster for row in measured.rests_on(side)}) for side in scored)
    allowed = unvaried(found.value, num_clusters, bounds)
    return allowed if math.isfinite(allowed[1] - allowed[0]) else UNBOUNDED


def _widest(measured: Measured, pairs: Sequence[tuple[Scored, Scored]]) -> float:
    """By how much an item may change a figure: without bounds a mean by as much as items were seen to differ."""
    if measured.kind == "rate":
        return 1.0
    widest = measured.bounds[1] - measured.bounds[0]
    if measured.kind == "statistic" or widest < math.inf or not pairs:
        return widest
    part = _parts_of_ratio if measured.kind == "ratio" else _scores
    seen = [value for side in zip(*pairs, strict=True) for value in part(side)]
    return (max(seen) - min(seen)) or math.inf


def _scores(rows: Sequence[Scored]) -> Float[np.ndarray, " items"]:
    import numpy as np

    return np.array([row.score for row in rows], dtype=float)


def _top_and_bottom(rows: Sequence[Scored]) -> tuple[Sequence[float], Sequence[float]]:
    """Scores and weights; these may differ between two sides (models that cut a text into other tokens)."""
    return [row.score for row in rows], [row.weight for row in rows]


def _parts_of_ratio(rows: Sequence[Scored]) -> Float[np.ndarray, " items"]:
    """What each item adds to the ratio."""
    from pipeline.statistics import parts_of_ratio

    return parts_of_ratio(*_top_and_bottom(rows))


def _statistic_interval(measured: Measured, rows: Sequence[Scored], *, key: int) -> Interval:
    """The statistic of one stage's scored items, with its interval."""
    from pipeline import statistics

    rows = [row for row in rows if row.score == row.score]
    clusters = [row.cluster for row in rows]
    if measured.interval == "jackknife":
        return statistics.jackknife(_of_samples(measured, rows), clusters)
    return statistics.bootstrap(_of_samples(measured, rows), clusters, key=key)


def _statistic_difference(measured: Measured, pairs: Sequence[tuple[Scored, Scored]], *, key: int) -> Paired:
    """The change of the statistic over the items that are scored on both sides."""
    from pipeline import statistics

    pairs = [(old, new) for old, new in pairs if old.score == old.score and new.score == new.score]
    before, after = (_of_samples(measured, [pair[side] for pair in pairs]) for side in (0, 1))
    clusters = [row.cluster for row, _ in pairs]
    if measured.interval == "jackknife":
        return statistics.jackknife_difference(before, after, clusters)
    return statistics.bootstrap_difference(before, after, clusters, key=key)


def _of_samples(measured: Measured, rows: Sequence[Scored]) -> Statistic:
    """The statistic as a function of how often each item counts."""
    import numpy as np

    resampled, statistic = measured.resampled, measured.statistic
    if resampled is not None:
        return lambda counts: resampled(rows, counts)
    assert statistic is not None

    def of(counts: np.ndarray) -> np.ndarray:
        drawn = [np.repeat(np.arange(len(rows)), row.astype(int)).tolist() for row in counts]
        return np.array([statistic([rows[place] for place in places]) for places in drawn])

    return of


def with_verdicts(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Correct the headline family (Holm) and say what each change amounts to.

    Where there are no headline figures, the family is all that have a better side, without parts of others
    (`bbq/age/accuracy_amb` of `bbq/accuracy_amb`). A change is one when its interval excludes 0 and, in the
    family, its corrected p-value is at most .05.
    """
    from pipeline.statistics import holm

    family = {str(n): row.holm_p for n, row in enumerate(comparisons) if row.holm_p is not None}
    adjusted = holm(family or _family_without_headline(comparisons))
    return [
        replace(row, holm_p=adjusted.get(str(n)), verdict=_verdict(row, adjusted.get(str(n))))
        for n, row in enumerate(comparisons)
    ]


def _family_without_headline(comparisons: Sequence[Comparison]) -> dict[str, float]:
    """The p-values, by place, of the whole figures that have a better side."""
    parts = {row.name: frozenset(row.name.split("/")) for row in comparisons}
    whole = {name for name, own in parts.items() if not any(other < own for other in parts.values())}
    return {
        str(n): row.p_value
        for n, row in enumerate(comparisons)
        if row.better and row.name in whole and row.p_value == row.p_value
    }


def _verdict(row: Comparison, holm_p: float | None) -> str:
    sure = (row.low > 0 or row.high < 0) and (holm_p is None or holm_p <= LEVEL)
    if not sure:
        return NO_EVIDENCE
    if row.better == 0:
        return CHANGED
    return IMPROVED if row.value * row.better > 0 else REGRESSED


def difference_figure(row: Comparison, *, unit: str, seed: int, command: str) -> Figure:
    """A comparison in the form of a figure, named `<figure>/<after>_minus_<before>`."""
    return Figure(
        f"{row.name}/{row.after}_minus_{row.before}",
        row.after,
        row.value,
        row.low,
        row.high,
        row.n,
        row.clusters,
        unit,
        {"no_change": 0.0},
        seed,
        command,
    )
