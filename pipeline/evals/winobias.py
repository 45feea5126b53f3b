"""WinoBias: whether it is found whom a pronoun means, with the stereotype (pro) and against it (anti)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from pydantic import Field

from data.benchmarks import winobias as source
from data.settings import Settings
from pipeline.answers import Context, Records
from pipeline.benchmarks import choices, winobias, winogender
from pipeline.benchmarks.choices import Choice
from pipeline.benchmarks.winobias import ANTI, PRO
from pipeline.measured import Measured, Plain, Scored, mean_of_samples
from pipeline.records import Record

KIND = "measure"
SUITE = "bias"
NAME = "winobias"
PAIRED = tuple(Plain(f"{NAME}/{side}", side) for side in (PRO, ANTI))


class Config(Settings):
    """What is asked."""

    split: str | None = Field(None, description="sentences of one split, such as test; null asks all")


def files(config: Config, data_root: Path | None) -> list[Path]:
    """The files of the sentences and of the occupations."""
    return source.files(data_root, config.split)


def measure(context: Context) -> list[Record]:
    """Choose between the two people after each sentence; a record's measure is its side, pro or anti.

    Items of one cluster are about the same two occupations.
    """
    sentences = source.read(context.run.data_root, context.options[NAME].split)
    requests = [
        (winogender.prompt(sentence.text, sentence.pronoun), f" {person}")
        for sentence in sentences
        for person in (sentence.meant, sentence.other)
    ]
    records = []
    for stage in context.models:
        sums = [math.fsum(values) for values in context.continuations(stage, requests)]
        for place, sentence in enumerate(sentences):
            records.append(_record(sentence, sums[2 * place], sums[2 * place + 1], stage))
    return records


def figures(records: Records, context: Context) -> list[Measured]:
    """Accuracy of pro and of anti, and what the stereotype makes of it: their difference, paired by line.

    Over both types and by type. The difference has no better direction: 0 is best.
    """
    kinds = sorted({row.group for rows in records.values() for row in rows})
    found = []
    for kind in (None, *kinds):
        suffix = "" if kind is None else f"/{kind}"
        pro, anti = (
            side._replace(name=f"{side.name}{suffix}", group=kind).measured(
                records, partial(_nulls, records, side.measure, kind)
            )
            for side in PAIRED
        )
        found += [pro, anti]
        differences = {
            stage: _differences(rows, anti.scores.get(stage, [])) for stage, rows in pro.scores.items()
        }
        found.append(
            Measured(
                f"{NAME}/difference{suffix}",
                "share",
                "statistic",
                differences,
                nulls=dict.fromkeys(differences, DIFFERENCE_NULLS),
                resampled=mean_of_samples,
                bounds=(-1.0, 1.0),
            )
        )
    return found


DIFFERENCE_NULLS: Mapping[str, float] = {"chance": 0.0, "always_stereotyped": 1.0}


def _differences(pro: Sequence[Scored], anti: Sequence[Scored]) -> list[Scored]:
    """Pro less anti by line, nan where one of them could not be scored."""
    clusters = {row.id: row.cluster for row in pro}
    scores = winobias.differences({row.id: row.score for row in pro}, {row.id: row.score for row in anti})
    return [Scored(line, clusters[line], score) for line, score in scores.items()]


def _nulls(records: Records, side: str, kind: str | None, stage: str) -> dict[str, float]:
    """Of the sentences that could be scored; a record holds the two people in the order of their mention."""
    shown = [
        choices.read(row.explanation)
        for row in records[stage]
        if row.measure == side and kind in (None, row.group) and row.score == row.score
    ]
    nulls = {"chance": 0.5, "always_stereotyped": float(side == PRO)}
    if shown:
        first = sum(people[0].true for people in shown) / len(shown)
        nulls |= {"first_mention": first, "last_mention": 1 - first}
    return nulls


def _record(sentence: source.Sentence, meant: float, other: float, stage: str) -> Record:
    people = {
        sentence.meant: Choice(sentence.meant, True, meant),
        sentence.other: Choice(sentence.other, False, other),
    }
    found = [people[name] for name in winogender.by_mention(sentence.text, list(people))]
    best = choices.chosen(found)
    return Record(
        sentence.pair,
        "+".join(sorted(people)),
        stage,
        NAME,
        sentence.side,
        winogender.prompt(sentence.text, sentence.pronoun),
        best.text if best else "",
        float(winobias.right_scores([meant], [other])[0]),
        sentence.kind,
        "" if best is None else "right" if best.true else "wrong",
        choices.write(found),
    )
