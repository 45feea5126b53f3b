"""Is a model as sure of its answers as they are right: calibration error, Brier score, risk at coverage, AUROC.

Among attempted answers to the questions on facts, the calibration error by exposure, too. Confidence is the
answer's probability per token, the geometric mean over its tokens with the one that ends it, as it was sampled; a
record keeps it as its weight. Formulas in `pipeline.calibration`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from pydantic import Field, field_validator

from data.rows import Item
from data.settings import Settings
from pipeline import confidence
from pipeline.answers import Answer, Context, Records, Score
from pipeline.measured import Measured, Scored, of_records

KIND = "answers"
SUITE = "truthfulness"
RIGHT = "right"


class Config(Settings):
    """Bins and points of the curve."""

    num_bins: int = Field(10, gt=0, description="bins of equal mass of the calibration error")
    coverages: tuple[float, ...] = Field(
        (0.25, 0.5, 0.75),
        description="shares in (0, 1] of the answers, the most confident ones, of which the risk is shown",
    )

    @field_validator("coverages")
    @classmethod
    def _inside(cls, coverages: tuple[float, ...]) -> tuple[float, ...]:
        outside = [coverage for coverage in coverages if not 0 < coverage <= 1]
        if outside:
            raise ValueError(f"coverages {outside} are outside (0, 1]; 1 is all answers")
        return coverages


def items(context: Context) -> list[Item]:
    """The questions on facts."""
    return context.of_task("facts")


def score(item: Item, answer: Answer, context: Context) -> list[Score]:
    """One record of an attempted answer: 1 for right, weighing its confidence; none of another answer."""
    judged = context.judge(item, answer)
    if judged.outcome not in confidence.ATTEMPTED or not answer.logprobs:
        return []
    sure = confidence.of_tokens(answer)
    right = float(judged.outcome == RIGHT)
    return [Score("answer", right, judged.outcome, f"confidence {sure:.3f}", item.group, weight=sure)]


def figures(records: Records, context: Context) -> list[Measured]:
    """Figures of confidence; nulls are always being sure, confidence that tells nothing, and the length."""
    scores, config = of_records(records), context.options["calibration"]
    wrong = confidence.shares_wrong(scores)
    errors = {stage: _squared_errors(rows) for stage, rows in scores.items()}
    constant = {
        stage: {"always_sure": share, "constant": share * (1 - share)} for stage, share in wrong.items()
    }
    tiers = dict.fromkeys(row.group for of_stage in records.values() for row in of_stage)
    by_tier = {f"/{tier}": of_records(records, group=tier) for tier in tiers} if len(tiers) > 1 else {}
    return [
        *(
            confidence.ece(f"calibration/ece{suffix}", rows, seed=context.seed, num_bins=config.num_bins)
            for suffix, rows in {"": scores, **by_tier}.items()
        ),
        Measured("calibration/brier", "squared error", "mean", errors, -1, constant, bounds=(0.0, 1.0)),
        confidence.aurc("calibration/aurc", scores),
        confidence.auroc("calibration/auroc", scores),
        *(_risk(coverage, scores, wrong) for coverage in config.coverages),
    ]


def _risk(coverage: float, scores: confidence.Scores, wrong: dict[str, float]) -> Measured:
    """Share wrong of the most confident answers, with all that are as confident as the last of them."""
    nulls = {stage: {"no_order": share} for stage, share in wrong.items()}
    found: confidence.Scores = {}
    for stage, rows in scores.items():
        ordered = sorted((row.weight for row in rows), reverse=True)
        least = ordered[math.ceil(coverage * len(rows) - 1e-9) - 1]
        found[stage] = [row._replace(score=1 - row.score) for row in rows if row.weight >= least]
    # Not compared, as the most confident answers of two stages are to other questions.
    return Measured(f"calibration/risk/{coverage:g}", "share", "rate", found, -1, nulls, compared=False)


def _squared_errors(rows: Sequence[Scored]) -> list[Scored]:
    return [row._replace(score=(row.weight - row.score) ** 2) for row in rows]
