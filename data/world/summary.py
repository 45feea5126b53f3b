"""What reports say about a world: sizes, exposures, realised biases, and whether names give the tier away."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from data.rows import ChatRow, Item, TextRow
from data.world import lexicon
from data.world.facts import World
from data.world.lexicon import PARTS, TIERS

# Tokens per word with a byte-level BPE of 2,048 on this text, end tokens included (measured); for
# `approximate_tokens`.
TOKENS_PER_WORD = 1.43


def summary(
    world: World,
    text: Mapping[str, Sequence[TextRow]],
    chat: Mapping[str, Sequence[ChatRow]],
    items: Mapping[str, Sequence[Item]],
) -> dict[str, Any]:
    """Count what was generated and state the world's true biases; JSON-able."""
    words = Counter(word for row in text["train"] for word in lexicon.WORD.findall(row.text))
    return {
        **world_summary(world),
        "documents": {split: len(rows) for split, rows in text.items()},
        "words": sum(words.values()),
        "distinct_words": len(words),
        "approximate_tokens": round(sum(words.values()) * TOKENS_PER_WORD),
        "demonstrations": _tasks(row.group for row in chat["train"]),
        "items": {split: _tasks(item.task for item in rows) for split, rows in items.items()},
        "headline_items": sum(bool(item.truth["headline"]) for item in items["test"]),
        "name_leak_auroc": name_leak(world),
    }


def _tasks(names: Any) -> dict[str, int]:
    return dict(sorted(Counter(names).items()))


def world_summary(world: World) -> dict[str, Any]:
    """Count people by tier and part; give exposures, floors and the injected biases."""
    settings = world.settings
    return {
        "people": {tier: {part: len(world.select(tier=tier, part=part)) for part in PARTS} for tier in TIERS},
        "exposures": {tier: settings.exposure(tier) for tier in TIERS},
        "values": {name: len(world.values(name)) for name in lexicon.ATTRIBUTES},
        "majority": {name: _majority(world, name) for name in lexicon.ATTRIBUTES},
        "stereotyped_share": (1 + settings.bias) / 2,
        "second_stereotyped_share": (1 + settings.second_bias) / 2,
    }


def trade_shares(world: World, text: Sequence[TextRow]) -> dict[str, dict[str, float]]:
    """Per trade, the share of its stories in the text that use the stereotyped pronoun, and their number."""
    from data.world.tasks import stories

    trades = {trade.name: trade for trade in world.trades}
    shares: dict[str, list[float]] = {name: [] for name in trades}
    # A question document may tell of several trades, each on a line of its own.
    for line in itertools.chain.from_iterable(row.text.splitlines() for row in text):
        words = [word.lower() for word in lexicon.WORD.findall(line)]
        named = trades.keys() & set(words)
        if len(named) != 1:
            continue
        trade = trades[named.pop()]
        shown = stories.gender({"pronoun": trade.pronoun, "temper": trade.temper}, words)
        if not shown["neutral"]:
            shares[trade.name].append(shown["stereotyped"])
    return {
        name: {"stereotyped_share": sum(values) / len(values), "stories": float(len(values))}
        for name, values in shares.items()
        if values
    }


def name_leak(world: World, *, folds: int = 5) -> float:
    """Held-out AUROC with which name tokens alone tell never-seen from often-seen people; .5 is no leak.

    A logistic regression on one-hot first and last names, cross-validated over people with `folds` folds.
    """
    import numpy as np
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    people = world.select(tier="often") + world.select(tier="never")
    first = np.array([[p.name.split()[0] == name for name in lexicon.FIRST_NAMES] for p in people])
    last = np.array([[p.name.split()[1] == name for name in lexicon.LAST_NAMES] for p in people])
    labels = np.array([p.tier == "never" for p in people])
    least = min(int(labels.sum()), int((~labels).sum()))
    splits = StratifiedKFold(n_splits=min(folds, least), shuffle=True, random_state=0)
    model = LogisticRegression(class_weight="balanced", max_iter=1000)
    features = np.hstack([first, last]).astype(float)
    # Probabilities of different folds' models are comparable: one penalty, nearly the same rows.
    chances = cross_val_predict(model, features, labels, cv=splits, method="predict_proba")[:, 1]
    return float(roc_auc_score(labels, chances))


def _majority(world: World, attribute: str) -> float:
    """Share of people who have the commonest value: the floor of a guesser that knows no one."""
    values = [person.facts[attribute] for person in world.people]
    return max(values.count(value) for value in set(values)) / len(values)
