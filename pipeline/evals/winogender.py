"""Winogender: whom a pronoun means whatever its gender, and which pronoun an occupation makes probable."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from data.benchmarks import winogender as source
from data.settings import Settings
from pipeline.answers import Context, Records
from pipeline.benchmarks import choices, winogender
from pipeline.benchmarks.choices import Choice
from pipeline.measured import Measured, Plain, Scored, mean_of_samples, of_records
from pipeline.records import Record

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float

KIND = "measure"
SUITE = "bias"
NAME = "winogender"
REFERENT, LOG_ODDS, NEUTRAL = "referent", "female_log_odds", "neutral_share"
ACCURACY = Plain(f"{NAME}/accuracy", REFERENT)
PAIRED = (ACCURACY,)
GOTCHA, EXPECTED = "gotcha", "expected"
OCCUPATION, PARTICIPANT = "occupation", "participant"


class Config(Settings):
    """No settings."""


def files(config: Config, data_root: Path | None) -> list[Path]:
    """The files of the sentences and of the shares of women."""
    return source.files(data_root)


def measure(context: Context) -> list[Record]:
    """Ask whom each sentence's pronoun means, and how probable the three pronouns are in each template.

    Items of one cluster are about the same occupation.
    """
    sentences = source.read(context.run.data_root)
    templates = _templates(sentences)
    requests = [request for sentence in sentences for request in _referent_requests(sentence)]
    num = len(requests)
    requests += [_pronoun_request(template[gender]) for template in templates for gender in source.GENDERS]
    records = []
    for stage in context.models:
        sums = [math.fsum(values) for values in context.continuations(stage, requests)]
        for place, sentence in enumerate(sentences):
            records.append(_referent_record(sentence, sums[2 * place], sums[2 * place + 1], stage))
        for place, template in enumerate(templates):
            records += _pronoun_records(template, sums[num + 3 * place : num + 3 * place + 3], stage)
    return records


def figures(records: Records, context: Context) -> list[Measured]:
    """Accuracy, what gender makes of it, and how the pronouns follow the shares of women.

    `stereotype_gap` is the accuracy with the expected pronoun less that on the gotcha of the same template,
    `gender_gap` that with the male less that with the female one. `correlation` is over templates whose pronoun
    means the occupation; `correlation/participant`, where it means someone else, should be nearer to 0.
    """
    log_odds, neutral = (of_records(records, measure=name) for name in (LOG_ODDS, NEUTRAL))
    even, third = ({stage: {"uniform": value} for stage in records} for value in (0.0, 1 / 3))
    found = [
        *_accuracies(records),
        _gap(records, "stereotype_gap", lambda row: row.outcome, EXPECTED, GOTCHA),
        _gap(records, "gender_gap", lambda row: row.group, "male", "female"),
        Measured(f"{NAME}/{LOG_ODDS}", "nats", "mean", log_odds, nulls=even),
        Measured(f"{NAME}/{NEUTRAL}", "probability", "mean", neutral, nulls=third, bounds=(0.0, 1.0)),
        _correlation(f"{NAME}/correlation", of_records(records, measure=LOG_ODDS, group=OCCUPATION)),
        _correlation(
            f"{NAME}/correlation/{PARTICIPANT}", of_records(records, measure=LOG_ODDS, group=PARTICIPANT)
        ),
    ]
    return [row for row in found if any(row.scores.values())]


# --- whom the pronoun means ------------------------------------------------------------------------------

# Figures as in the harness: winogender_all, _male, _female, _neutral, _gotcha, _gotcha_male, _gotcha_female.
SLICES: Mapping[str, Callable[[Record], bool]] = {
    "": lambda row: True,
    "/male": lambda row: row.group == "male",
    "/female": lambda row: row.group == "female",
    "/neutral": lambda row: row.group == "neutral",
    "/gotcha": lambda row: row.outcome == GOTCHA,
    "/gotcha_male": lambda row: row.outcome == GOTCHA and row.group == "male",
    "/gotcha_female": lambda row: row.outcome == GOTCHA and row.group == "female",
}


def _accuracies(records: Records) -> list[Measured]:
    return [
        _accuracy(ACCURACY._replace(name=f"{ACCURACY.name}{name}"), records, kept)
        for name, kept in SLICES.items()
    ]


def _accuracy(share: Plain, records: Records, kept: Callable[[Record], bool]) -> Measured:
    """The share of one slice of the sentences."""
    rows = {
        stage: [row for row in rows if row.measure == REFERENT and kept(row)]
        for stage, rows in records.items()
    }
    return share.measured(rows, lambda stage: _nulls(rows[stage]))


def _nulls(rows: Sequence[Record]) -> dict[str, float]:
    """Of the sentences that could be scored; a record holds the two people in the order of their mention."""
    shown = [choices.read(row.explanation) for row in rows if row.score == row.score]
    if not shown:
        return {"chance": 0.5}
    first = sum(people[0].true for people in shown) / len(shown)
    return {"chance": 0.5, "first_mention": first, "last_mention": 1 - first}


def _gap(records: Records, name: str, value: Callable[[Record], str], first: str, second: str) -> Measured:
    """Accuracy with one kind of pronoun less that with another, paired by template."""
    scores = {}
    for stage, rows in records.items():
        found: dict[str, dict[str, Record]] = {first: {}, second: {}}
        for row in rows:
            if row.measure == REFERENT and value(row) in found:
                found[value(row)][row.id.rpartition("-")[0]] = row
        scores[stage] = [
            Scored(template, row.cluster, row.score - found[second][template].score)
            for template, row in found[first].items()
            if template in found[second]
        ]
    nulls = {stage: {"chance": 0.0} for stage in scores}
    return Measured(
        f"{NAME}/{name}",
        "share",
        "statistic",
        scores,
        nulls=nulls,
        resampled=mean_of_samples,
        bounds=(-1.0, 1.0),
    )


def _referent_requests(sentence: source.Sentence) -> list[tuple[str, str]]:
    asked = winogender.prompt(sentence.text, sentence.pronoun)
    return [(asked, f" {person}") for person in (sentence.occupation, sentence.participant)]


def _referent_record(sentence: source.Sentence, occupation: float, participant: float, stage: str) -> Record:
    people = {
        sentence.occupation: Choice(sentence.occupation, sentence.means_occupation, occupation),
        sentence.participant: Choice(sentence.participant, not sentence.means_occupation, participant),
    }
    found = [people[name] for name in winogender.by_mention(sentence.text, list(people))]
    best = choices.chosen(found)
    return Record(
        f"{NAME}-{sentence.template}-{sentence.gender}",
        sentence.occupation,
        stage,
        NAME,
        REFERENT,
        winogender.prompt(sentence.text, sentence.pronoun),
        best.text if best else "",
        float(winogender.right_scores([occupation], [participant], [sentence.means_occupation])[0]),
        sentence.gender,
        "" if sentence.gotcha is None else GOTCHA if sentence.gotcha else EXPECTED,
        choices.write(found),
    )


# --- which pronoun ---------------------------------------------------------------------------------------


def _templates(sentences: Sequence[source.Sentence]) -> list[dict[str, source.Sentence]]:
    """The sentences of the templates that have all three genders, by gender."""
    found: dict[str, dict[str, source.Sentence]] = {}
    for sentence in sentences:
        found.setdefault(sentence.template, {})[sentence.gender] = sentence
    return [template for template in found.values() if set(template) == set(source.GENDERS)]


def _pronoun_request(sentence: source.Sentence) -> tuple[str, str]:
    """What stands before the pronoun, and the pronoun with the space before it."""
    before = sentence.text[: sentence.start].rstrip()
    return before, sentence.text[len(before) : sentence.start + len(sentence.pronoun)]


def _pronoun_records(
    template: Mapping[str, source.Sentence], logprobs: Sequence[float], stage: str
) -> list[Record]:
    """Log-odds of she against he, whose weight is the share of women; and the share of they among the three."""
    import numpy as np

    he, she, they = logprobs
    sentence = template["male"]
    texts = [template[gender].pronoun for gender in source.GENDERS]
    shown = "; ".join(f"{text} {value:.4f}" for text, value in zip(texts, logprobs, strict=True))
    best = texts[int(np.argmax(logprobs))] if all(map(math.isfinite, logprobs)) else ""
    before, _ = _pronoun_request(sentence)
    shared = (f"{NAME}-{sentence.template}", sentence.occupation, stage, NAME)
    group = OCCUPATION if sentence.means_occupation else PARTICIPANT
    share = winogender.neutral_share(he, she, they)
    return [
        Record(*shared, LOG_ODDS, before, best, she - he, group, "", shown, sentence.female_share),
        Record(*shared, NEUTRAL, before, best, share, group, "", shown),
    ]


def _correlation(name: str, scores: Mapping[str, Sequence[Scored]]) -> Measured:
    """Pearson's correlation of the log-odds with the shares of women, over the templates that have one."""
    known = {
        stage: [row for row in rows if row.weight == row.weight]
        for stage, rows in scores.items()
        if any(row.weight == row.weight for row in rows)
    }
    return Measured(
        name,
        "correlation",
        "statistic",
        known,
        nulls={stage: {"chance": 0.0} for stage in known},
        statistic=lambda rows: winogender.correlation(
            *zip(*((row.score, row.weight) for row in rows), strict=True)
        ),
        resampled=_correlations,
    )


def _correlations(
    rows: Sequence[Scored], counts: Float[np.ndarray, "samples items"]
) -> Float[np.ndarray, " samples"]:
    import numpy as np

    scores, shares = (
        np.array(column) for column in zip(*((row.score, row.weight) for row in rows), strict=True)
    )
    return winogender.weighted_correlations(scores, shares, counts)
