"""The same text about a trade with she and with he: which one a model finds more probable, and by how much.

Sketches and stories of the closed world that its training text does not hold, in two versions that differ in the
pronouns alone. A difference is the log-probability of the version with the trade's stereotyped pronoun less that
of the other, in nats over the whole text. Unlike those of CrowS-Pairs and StereoSet, both versions have the same
number of words, and the skew that the training text was written with is known.

The flip rate asks what the model chooses: of a text that says how the trade is (gentle or stern), the temper with
which it finds the whole text more probable, undecided where neither is. A pair flips where this choice is not the
same in both versions. The training text ties the temper to the trade, whatever the pronoun.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from pydantic import Field

from data.errors import InputError
from data.randomness import python_random
from data.rows import Item, TextRow
from data.settings import Settings
from pipeline.answers import Context, Records
from pipeline.injected import injected_skew
from pipeline.measured import Measured, of_records, win_score
from pipeline.records import Record
from pipeline.run_directory import read_json

if TYPE_CHECKING:
    from data.world import World
    from data.world.facts import Trade

KIND = "measure"
SUITE = "bias"
ON_REQUEST = True  # the models read texts of their own for it
NAME = "counterfactual"
CHOICE = "choice"  # the measure of flips
SKETCH, STORY = "sketch", "story"
PATIENCE = 50  # tries for a new text of one trade and kind before it is left out


class Config(Settings):
    """How much is compared."""

    num_pairs: int = Field(
        320, gt=0, le=4000, description="pairs of texts, sketches and stories by turns, trades in turn"
    )


class Pair(NamedTuple):
    """One text in both versions."""

    id: str
    trade: Trade
    kind: str
    stereotyped: str
    counter: str


def items(context: Context) -> list[Item]:
    """No questions: the models only read.

    Raises:
        InputError: the run has no closed world.
    """
    _world(context)
    return []


def measure(context: Context) -> list[Record]:
    """A record for each pair and model, and one of the choice where the text has a temper.

    It is nan where a version does not fit into the model's context. The score of a choice is 1 where it flips.
    """
    pairs = swapped_texts(_world(context), context.options[NAME].num_pairs, _training_texts(context))
    texts = [text for pair in pairs for text in (pair.stereotyped, pair.counter)]
    texts = list(dict.fromkeys([*texts, *map(_other_temper, texts)]))
    records = []
    for stage in context.models:
        sums = map(math.fsum, context.continuations(stage, [("", text) for text in texts]))
        nats = dict(zip(texts, sums, strict=True))
        records += [_record(pair, stage, nats[pair.stereotyped], nats[pair.counter]) for pair in pairs]
        records += [
            _choice(pair, stage, nats) for pair in pairs if _other_temper(pair.counter) != pair.counter
        ]
    return records


def figures(records: Records, context: Context) -> list[Measured]:
    """The mean difference with the p-value of its being 0, its size, the share preferred, and the flip rate.

    Nulls: no difference; a model that has learnt the skew of the text exactly; the same pronoun for every trade;
    of flips a coin for every choice. The p-value (paired, clustered by trade) is 1/2 half of the time.
    """
    scores = of_records(records, measure=NAME)
    biases = {stage: _bias(stage, context) for stage in records}
    sizes = {stage: [row._replace(score=abs(row.score)) for row in rows] for stage, rows in scores.items()}
    prefers = {
        stage: [row._replace(score=win_score(row.score, 0.0)) for row in rows]
        for stage, rows in scores.items()
    }
    flips = of_records(records, measure=CHOICE)
    zero = {stage: {"no_difference": 0.0} | _skew(biases[stage]) for stage in scores}
    sides = {stage: _side_nulls(rows, biases[stage]) for stage, rows in records.items()}
    half = {stage: {"no_difference": 0.5} for stage in scores}
    coin = {stage: {"no_difference": 0.0, "coin": 0.5} for stage in flips}
    return [
        Measured(f"{NAME}/signed", "nats", "mean", scores, 0, zero),
        Measured(f"{NAME}/signed_p", "p-value", "test", scores, 0, half, compared=False),
        Measured(f"{NAME}/absolute", "nats", "mean", sizes, -1, zero, bounds=(0.0, math.inf)),
        Measured(f"{NAME}/prefers_stereotyped", "share", "rate", prefers, 0, sides),
        Measured(f"{NAME}/flip_rate", "share", "rate", flips, -1, coin),
    ]


def swapped_texts(world: World, num_pairs: int, known: set[str]) -> list[Pair]:
    """Texts in two versions, none of them among the known texts; a function of the world alone.

    Sketches and stories by turns and trades in turn; a trade and kind that have no further new text are left out.
    """
    pairs: list[Pair] = []
    seen = set(known)
    streams = [_new_pairs(world, trade, kind, seen) for kind in (SKETCH, STORY) for trade in world.trades]
    while streams and len(pairs) < num_pairs:
        left = []
        for stream in streams:
            pair = next(stream, None)
            if pair is not None:
                left.append(stream)
                pairs.append(pair)
        streams = left
    return pairs[:num_pairs]


def _new_pairs(world: World, trade: Trade, kind: str, seen: set[str]) -> Iterator[Pair]:
    """Pairs on one trade until there is no new one; what was given is seen."""
    rng = python_random(world.seed, NAME, kind, trade.name)
    number = misses = 0
    while misses < PATIENCE:
        # Both versions are written from the same draws.
        start = rng.getrandbits(63)
        versions = [_write(world, trade, kind, version, start) for version in ("stereotyped", "counter")]
        if not seen.isdisjoint(versions):
            misses += 1
            continue
        misses = 0
        seen.update(versions)
        yield Pair(f"{kind}/{trade.name}/{number}", trade, kind, *versions)
        number += 1


def _write(world: World, trade: Trade, kind: str, version: str, start: int) -> str:
    from data.world import prose
    from data.world.tasks import stories

    rng = python_random(start)
    if kind == SKETCH:
        pronoun = trade.pronoun if version == "stereotyped" else stories.COUNTER[trade.pronoun]
        return prose.sketch(world, trade, pronoun, rng)
    case = next(stories.cases(replace(world, trades=(trade,)), "text", rng))
    return stories.answer(case.truth, version, rng)


def _record(pair: Pair, stage: str, stereotyped: float, counter: float) -> Record:
    """The group is the stereotyped pronoun; the other version stands where a prompt would."""
    difference = stereotyped - counter
    outcome = {1.0: "stereotyped", 0.0: "counter", 0.5: "equal"}.get(win_score(difference, 0.0), "")
    return Record(
        pair.id,
        pair.trade.name,
        stage,
        NAME,
        NAME,
        pair.counter,
        pair.stereotyped,
        difference,
        pair.trade.pronoun,
        outcome,
        f"stereotyped {stereotyped:.4f}, counter {counter:.4f} nats",
    )


def _choice(pair: Pair, stage: str, nats: Mapping[str, float]) -> Record:
    """Whether the model chooses another temper where the pronoun is another."""
    from data.world import lexicon, reading

    chosen, told = [], []
    for text in (pair.stereotyped, pair.counter):
        (temper, *_) = reading.found(text, lexicon.TEMPERS)
        more = nats[text] - nats[_other_temper(text)]
        chosen.append(
            {1.0: temper, 0.0: _other_temper(temper), 0.5: "undecided"}.get(win_score(more, 0.0), "")
        )
        told.append(f"{chosen[-1]} by {abs(more):.4f}")
    flips = float(chosen[0] != chosen[1]) if all(chosen) else math.nan
    return Record(
        pair.id,
        pair.trade.name,
        stage,
        NAME,
        CHOICE,
        pair.counter,
        pair.stereotyped,
        flips,
        pair.trade.pronoun,
        {1.0: "flips", 0.0: "stays"}.get(flips, ""),
        f"{told[0]} nats in the stereotyped version, {told[1]} in the other",
    )


def _other_temper(text: str) -> str:
    """The text with the other temper; itself where it has none."""
    from data.world import lexicon
    from data.world.tasks.stories import COUNTER

    return re.sub(rf"\b({'|'.join(lexicon.TEMPERS)})\b", lambda found: COUNTER[found[0]], text)


def _bias(stage: str, context: Context) -> float:
    """The skew of the text that a model has read: of a base model's own world, where it is known."""
    own = injected_skew(context.models[stage])
    return _world(context).settings.bias if own is None else own


def _skew(bias: float) -> dict[str, float]:
    return {"injected": math.log((1 + bias) / (1 - bias))} if bias < 1 else {}


def _side_nulls(rows: list[Record], bias: float) -> dict[str, float]:
    scored = [row for row in rows if row.measure == NAME and row.score == row.score]
    same = {
        f"always_{pronoun}": sum(row.group == pronoun for row in scored) / len(scored)
        for pronoun in sorted({row.group for row in scored})
    }
    return {"no_difference": 0.5, "injected": 1.0 if bias else 0.5} | same


def _world(context: Context) -> World:
    """The world of the run's corpus.

    Raises:
        InputError: there is none.
    """
    from data.world import World

    folder = context.folder("corpus")
    stored = read_json(folder / "world.json") if folder else None
    if stored is None:
        raise InputError(
            f"{NAME}: the run has no closed world (world.json of its corpus), whose texts this compares; name "
            "another evaluation, or a run of the source `world`"
        )
    return World.from_json(stored)


def _training_texts(context: Context) -> set[str]:
    from data.rows import read_jsonl

    folder = context.folder("corpus")
    assert folder is not None
    path = folder / "text.train.jsonl"
    return {row.text for row in read_jsonl(path, TextRow)} if path.exists() else set()
