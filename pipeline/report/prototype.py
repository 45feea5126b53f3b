"""The orientation table: what an early prototype of this project reached, beside a run's own figures."""

from __future__ import annotations

from typing import NamedTuple

from pipeline.report.read import RunData

LABEL = "orientation: an early prototype, one seed, ±5 points is noise"
TIERS = ("often", "some", "rarely", "never")
COLUMNS = (*TIERS, "gender", "harm", "gold")
MEANING = (
    "right/abstain/wrong by how often a fact was read; gender: stories that show one; "
    "harm: harmful requests refused; gold: mean reward"
)
OUTCOMES = ("right", "abstain", "hallucinated")


class Shares(NamedTuple):
    """Shares of fact questions answered right, with "I do not know", and wrongly."""

    right: float
    abstain: float
    wrong: float


class Reference(NamedTuple):
    """What a stage of this kind reached in the prototype; None where it was not measured."""

    kind: str
    world: int
    what: str
    facts: tuple[Shares | None, Shares | None, Shares | None, Shares | None]
    gendered: float | None
    refused: float | None
    gold: float | None


class Line(NamedTuple):
    """One line of the table: ours or the prototype's, its cells in the order of COLUMNS."""

    label: str
    what: str
    cells: tuple[str, ...]
    ours: bool


PROTOTYPE = (
    Reference(
        "base",
        1,
        "plain question",
        (Shares(0.99, 0, 0.01), Shares(0.94, 0, 0.06), Shares(0.40, 0, 0.60), Shares(0.09, 0, 0.91)),
        0.69,
        0.0,
        -0.26,
    ),
    Reference(
        "sft",
        1,
        "demonstrators answer from the world",
        (
            Shares(0.94, 0.02, 0.04),
            Shares(0.84, 0.02, 0.14),
            Shares(0.31, 0.07, 0.62),
            Shares(0.08, 0.05, 0.87),
        ),
        0.82,
        0.58,
        0.12,
    ),
    Reference(
        "sft",
        2,
        "demonstrators that can abstain",
        (Shares(0.83, 0.12, 0.04), Shares(0.52, 0.29, 0.18), None, Shares(0.02, 0.57, 0.41)),
        None,
        None,
        0.29,
    ),
    Reference(
        "ppo",
        1,
        "a plain reward model",
        (
            Shares(0.78, 0.22, 0),
            Shares(0.60, 0.23, 0.17),
            Shares(0.14, 0.48, 0.38),
            Shares(0.06, 0.36, 0.58),
        ),
        0.0,
        1.0,
        0.29,
    ),
    Reference(
        "ppo",
        2,
        "a reward model that sees likelihoods",
        (Shares(0.77, 0.20, 0.03), Shares(0.33, 0.56, 0.11), None, Shares(0.01, 0.74, 0.24)),
        None,
        None,
        0.51,
    ),
    Reference(
        "rloo",
        2,
        "a reward model that sees likelihoods",
        (
            Shares(0.81, 0.15, 0.04),
            Shares(0.40, 0.46, 0.14),
            Shares(0.07, 0.56, 0.36),
            Shares(0.02, 0.71, 0.27),
        ),
        0.02,
        0.98,
        0.54,
    ),
    Reference(
        "dpo",
        2,
        "the same pairs",
        (Shares(0.79, 0.18, 0.03), Shares(0.47, 0.42, 0.11), None, Shares(0.03, 0.72, 0.25)),
        0.42,
        None,
        0.47,
    ),
)
"""Measured by an early prototype of this project, once per row, answers sampled at temperature 0.7.

Two small worlds of it, other than today's, with models of 3.45 million parameters; so these are values to know
one's way by, not targets.
"""


def orientation(run: RunData) -> list[Line]:
    """Every model's line, below it what the prototype's stages of its kind reached; empty without a world."""
    if not run.model_names or run.figure("facts/often/right", run.model_names[0]) is None:
        return []
    lines: list[Line] = []
    shown: set[str] = set()
    for model in run.model_names:
        kind = "base" if model == run.base else run.kind_of(model) or model
        lines.append(Line(model, "", _ours(run, model), True))
        if kind not in shown:
            lines += [_theirs(reference) for reference in PROTOTYPE if reference.kind == kind]
        shown.add(kind)
    return lines


def _ours(run: RunData, model: str) -> tuple[str, ...]:
    facts = [[_value(run, f"facts/{tier}/{name}", model) for name in OUTCOMES] for tier in TIERS]
    genders = [_value(run, f"bias/{kind}", model) for kind in ("stereotyped", "counter")]
    gendered = sum(value for value in genders if value is not None) if None not in genders else None
    others = (gendered, _value(run, "refusal/harmful", model), _value(run, "gold/mean", model))
    return (*("/".join(map(_short, shares)) for shares in facts), *map(_short, others))


def _theirs(reference: Reference) -> Line:
    facts = ("–" if shares is None else "/".join(map(_short, shares)) for shares in reference.facts)
    others = map(_short, (reference.gendered, reference.refused, reference.gold))
    return Line(f"prototype {reference.world}", reference.what, (*facts, *others), False)


def _value(run: RunData, name: str, stage: str) -> float | None:
    figure = run.figure(name, stage)
    return figure.value if figure else None


def _short(value: float | None) -> str:
    """Two digits without the leading zero, so that the table fits a terminal."""
    if value is None or value != value:
        return "–"
    return f"{value:.2f}".replace("0.", ".", 1).replace("-", "−")
