"""How different the stories are: different words and word pairs among all, and stories that are told twice.

Distinct-n (Li et al. 2016, arXiv 1510.03055) falls as text gets longer, so that it compares stages on the same
prompts alone, and there, too, a stage that writes more has less of it at equal diversity.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

from data.rows import Item
from data.settings import Settings
from pipeline.answers import Answer, Context, Records, Score
from pipeline.measured import Measured, Scored, of_records

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    import numpy as np

KIND = "answers"
SUITE = "alignment"
WORD = re.compile(r"\w+(?:'\w+)*")


class Config(Settings):
    """No settings."""


def items(context: Context) -> list[Item]:
    """The stories."""
    return context.of_task("stories")


def score(item: Item, answer: Answer, context: Context) -> list[Score]:
    """One record with the number of words."""
    return [Score("words", float(len(_words(answer.text))), group=item.group)]


def figures(records: Records, context: Context) -> list[Measured]:
    """Distinct-1, distinct-2, and the share of stories that another one equals; nulls are one story for all."""
    scores = of_records(records, measure="words")
    if not scores:
        return []
    repeated = {
        stage: [row._replace(score=score) for row, score in zip(rows, _repeated(rows), strict=True)]
        for stage, rows in scores.items()
    }
    same = {
        stage: {"one_story": float(len(rows) > 1), "all_different": 0.0} for stage, rows in scores.items()
    }
    return [
        *(_distinct(order, scores) for order in (1, 2)),
        Measured("diversity/identical", "share", "rate", repeated, -1, same),
    ]


def distinct(texts: Sequence[str], order: int) -> float:
    """Different n-grams of lower-case words over all n-grams, none across texts; nan where there are none."""
    found = [gram for text in texts for gram in _ngrams(text, order)]
    return len(set(found)) / len(found) if found else float("nan")


def _distinct(order: int, scores: dict[str, list[Scored]]) -> Measured:
    nulls = {
        stage: {"one_story": sum(distinct([row.text], order) for row in told) / (len(told) * len(rows))}
        for stage, rows in scores.items()
        if (told := [row for row in rows if _ngrams(row.text, order)])
    }
    return Measured(
        f"diversity/distinct_{order}",
        "share",
        "statistic",
        scores,
        1,
        nulls,
        resampled=_in_samples(order),
        interval="jackknife",
        bounds=(0.0, 1.0),
    )


def _in_samples(order: int) -> Callable[[Sequence[Scored], np.ndarray], np.ndarray]:
    """`distinct` of many samples at once: a story that counts twice brings its n-grams, but no different ones."""

    def resampled(rows: Sequence[Scored], counts: np.ndarray) -> np.ndarray:
        import numpy as np
        from scipy.sparse import csr_array

        texts = [Counter(_ngrams(row.text, order)) for row in rows]
        columns: dict[Hashable, int] = {}
        cells = [
            (place, columns.setdefault(gram, len(columns)))
            for place, text in enumerate(texts)
            for gram in text
        ]
        lengths = counts @ [text.total() for text in texts]
        if not cells:
            return np.full(len(counts), np.nan)
        where = tuple(np.array(cells).T)
        told = csr_array((np.ones(len(cells)), where), shape=(len(rows), len(columns)))
        num_different = ((told.T @ counts.T) > 0).sum(axis=0)
        return np.divide(num_different, lengths, out=np.full(len(counts), np.nan), where=lengths > 0)

    return resampled


def _repeated(rows: Sequence[Scored]) -> list[float]:
    """1 for each story whose words another one has, too."""
    told = [tuple(_words(row.text)) for row in rows]
    times = Counter(told)
    return [float(times[story] > 1) for story in told]


def _words(text: str) -> list[str]:
    return WORD.findall(text.lower())


def _ngrams(text: str, order: int) -> list[tuple[str, ...]]:
    words = _words(text)
    return [tuple(words[start : start + order]) for start in range(len(words) - order + 1)]
