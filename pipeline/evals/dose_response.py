"""The bias meter's dose-response: the skew that base models show against the skew injected into their text.

Needs base models of worlds that differ in `bias` alone, as the recipe `bias_meter` makes them; all are asked for
the same stories. A model that shows what it has read lies on the diagonal. Where nothing was injected the meter
should read 0, or it calls bias what is none. How often it would is told from the stories of that model, of which
a fair coin for each trade says anew which pronoun counts as its stereotype, so that what the stories of one trade
share stays: the share of intervals that leave 0 out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from data.randomness import key
from data.rows import Item
from data.settings import Settings
from pipeline.answers import Context, Records, shown_prompt
from pipeline.injected import injected_skew
from pipeline.measured import LEVEL, Measured, Scored, of_records
from pipeline.records import Record

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float

KIND = "measure"
SUITE = "bias"
NAME = "dose_response"
SHOWN = "shown"  # the score of a story that shows a gender: 1 for the stereotype, -1 against it
POOLED = "base"  # the stage of the figures over all models
MIN_DOSES = 3
REDRAWS = 1000


class Config(Settings):
    """No settings."""


def items(context: Context) -> list[Item]:
    """The stories, where enough models of different worlds are compared."""
    return context.of_task("stories") if len(set(_doses(context).values())) >= MIN_DOSES else []


def measure(context: Context) -> list[Record]:
    """A record for each story and base model: what it shows; the weight is 0 where it shows no gender.

    The group is the injected excess of stereotyped over other pronouns, in [0, 1].
    """
    asked = items(context)
    return [
        _record(item, stage, dose, context)
        for stage, dose in (_doses(context) if asked else {}).items()
        for item in asked
    ]


def _record(item: Item, stage: str, dose: float, context: Context) -> Record:
    answer = context.answers[stage][item.id]
    shows = context.judge(item, answer).measures
    score = shows.get("stereotyped", 0.0) - shows.get("counter", 0.0)
    return Record(
        item.id,
        item.cluster,
        stage,
        NAME,
        SHOWN,
        shown_prompt(item),
        answer.text,
        score,
        f"{dose:g}",
        weight=abs(score),
    )


def figures(records: Records, context: Context) -> list[Measured]:
    """The excess of stereotyped pronouns among stories that show one, by dose, and the line through all of them.

    `slope` and `intercept` are of least squares over those stories, clustered by trade over all models.
    """
    found = []
    pooled = []
    for stage, rows in records.items():
        for dose in dict.fromkeys(row.group for row in rows):
            scores = of_records({stage: rows}, measure=SHOWN, group=dose)
            nulls = {stage: {"injected": float(dose), "no_bias": 0.0}}
            found.append(
                Measured(
                    f"{NAME}/measured/{dose}",
                    "excess",
                    "ratio",
                    scores,
                    nulls=nulls,
                    compared=False,
                    bounds=(-1, 1),
                )
            )
            if float(dose) == 0:
                found.append(_false_positives(stage, scores[stage]))
            pooled += [
                Scored(f"{row.id}/{stage}", row.cluster, row.score, float(row.group))
                for row in rows
                if row.weight
            ]
    for name, truth in (("slope", 1.0), ("intercept", 0.0)) if pooled else ():
        found.append(
            Measured(
                f"{NAME}/{name}",
                "excess per excess" if name == "slope" else "excess",
                "statistic",
                {POOLED: pooled},
                nulls={POOLED: {"truth": truth}},
                compared=False,
                resampled=slope if name == "slope" else intercept,
            )
        )
    return found


def _false_positives(stage: str, rows: Sequence[Scored]) -> Measured:
    """The share of redrawn readings without bias whose interval leaves 0 out."""
    return Measured(
        f"{NAME}/false_positives",
        "share",
        "rate",
        {stage: redrawn(rows)},
        better=-1,
        nulls={stage: {"nominal": LEVEL}},
        compared=False,
    )


def redrawn(rows: Sequence[Scored]) -> list[Scored]:
    """For many draws of coins, the same for all runs: 1 where the interval of the turned stories leaves 0 out."""
    import numpy as np

    from pipeline.statistics import ratio

    shown = [row for row in rows if row.weight]
    trades = sorted({row.cluster for row in shown})
    place = [trades.index(row.cluster) for row in shown]
    scores, weights = np.array([row.score for row in shown]), np.array([row.weight for row in shown])
    coins = np.random.Generator(np.random.Philox(key=key(NAME, "coins")))
    sides = 2 * coins.integers(0, 2, (REDRAWS, len(trades))) - 1
    found = (ratio(scores * side[place], weights, place) for side in sides)
    return [
        Scored(str(n), str(n), float(reading.low > 0 or reading.high < 0)) for n, reading in enumerate(found)
    ]


def slope(
    rows: Sequence[Scored], counts: Float[np.ndarray, "samples items"]
) -> Float[np.ndarray, " samples"]:
    """Least squares of the score against the dose (the weight), of many samples; nan where doses are equal."""
    import numpy as np

    doses, scores = (np.array([getattr(row, name) for row in rows]) for name in ("weight", "score"))
    total = counts.sum(axis=1)
    mean = counts @ doses / total
    spread = counts @ doses**2 / total - mean**2
    along = counts @ (doses * scores) / total - mean * (counts @ scores / total)
    return np.divide(along, spread, out=np.full(len(counts), np.nan), where=spread > 1e-12)


def intercept(
    rows: Sequence[Scored], counts: Float[np.ndarray, "samples items"]
) -> Float[np.ndarray, " samples"]:
    """What the line reads at no injected skew."""
    doses, scores = [row.weight for row in rows], [row.score for row in rows]
    return (counts @ scores - slope(rows, counts) * (counts @ doses)) / counts.sum(axis=1)


def _doses(context: Context) -> dict[str, float]:
    """The injected skew of every base model's world."""
    found = {name: injected_skew(model) for name, model in context.models.items()}
    return {name: dose for name, dose in found.items() if dose is not None}
