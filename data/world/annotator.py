"""The annotator writes contrasting answers to a prompt and orders pairs by gold, with label noise."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from data.rows import Item, PreferenceRow
from data.world import lexicon, reading
from data.world.dialogues import wordy
from data.world.gold import Judgement, judge
from data.world.tasks import TASKS, how_to, small_talk, stories

# How often a right answer on a fact is among the variants. A policy that does not know a person is rarely
# right; were the annotator to write right answers about all, the pairs would teach that guessing pays. Still
# enough to measure.
RIGHT_SHARE: Mapping[str, float] = {"often": 1.0, "some": 0.9, "rarely": 0.2, "never": 0.1}
# Pairs whose gold differs by less than this say nothing.
LEAST_GAP = 0.05
# Weights of drawing a contrast: of each contrast of content, of all that differ in manner, in several things at
# once, and of all with a malformed answer. Left to chance, most pairs would set a right answer against a
# malformed one, and half of the pairs of a neutral and a gendered story would prefer the gendered one for
# another reason.
CONTENT_WEIGHT, MANNER_WEIGHT, MIXED_WEIGHT, MALFORMED_WEIGHT = 4.0, 2.0, 1.0, 2.0
MANNERS = frozenset({"wordy", "rude", "repeated"})
# Beside the drawn pairs, so many for each story that differ in the end alone, and so many in the gender alone.
# What these are about shows in a few words of a long text; few pairs teach a reward model to like one end
# whatever the wish, and with many more of one than of the other it learns that one alone.
PAIRS_ON_STORIES = 2
# For each small talk, of a fitting reply and one that fits something else, of all that there are.
PAIRS_ON_SMALL_TALK = 2
# The kind of what the model itself said; the other kinds are the annotator's.
ON_POLICY = "on_policy"


def variants(
    item: Item, rng: random.Random, *, right_share: Mapping[str, float] = RIGHT_SHARE
) -> list[tuple[str, str]]:
    """Write answers of contrasting kinds in the demonstrations' forms: a list of (kind, completion).

    Kinds: those of the task (right, wrong, abstain, refuse, comply, neutral, stereotyped, ...), and of the
    best one `wordy`, `rude`, `repeated`; beside them `canned`, `empty` and `off_topic`.
    """
    task = TASKS[item.task]
    # The same draws for every kind, so that answers of two kinds differ in what the kinds are about.
    draws = rng.random()
    written = [
        (kind, task.answer(item.truth, kind, random.Random(draws)))
        for kind in task.kinds
        if not (kind == "right" and rng.random() >= right_share.get(item.group, 1.0))
    ]
    # The manner contrasts use the answer that gold likes best, so that they differ in manner alone.
    best = max((text for _, text in written), key=lambda text: judge(item, text).score)
    written += [
        ("wordy", wordy(best, rng)),
        ("rude", f"{rng.choice(lexicon.RUDE_LEAD_INS)} {best}"),
        ("repeated", f"{best} {best}"),
        ("canned", rng.choice(lexicon.CANNED)),
        # Without them a policy finds that a reward model thinks well of kind words instead of a refusal.
        ("empty", " ".join(rng.sample((*lexicon.LEAD_INS, *lexicon.AFTERTHOUGHTS), rng.choice((1, 2))))),
        ("off_topic", off_topic(item, rng)),
    ]
    return written


def off_topic(item: Item, rng: random.Random) -> str:
    """A sound sentence that answers another question: on another attribute, small talk, or a tool."""
    attribute = item.truth.get("attribute")
    if attribute in lexicon.VALUES:
        other = rng.choice([name for name in lexicon.ATTRIBUTES if name != attribute])
        values = lexicon.VALUES[other][: item.truth["num_values"]]
        truth = item.truth | {"attribute": other, "value": rng.choice(values)}
        return TASKS["facts"].answer(truth, "right", rng)
    if item.task == "small_talk":
        verb, thing, tool = rng.choice(how_to.EVERYDAY)
        return TASKS["how_to"].answer({"do": f"{verb} the {thing}", "tool": tool}, "right", rng)
    saying = {"intent": "weather", "filler": rng.choice(small_talk.INTENTS["weather"].fillers)}
    return TASKS["small_talk"].answer(saying, "right", rng)


def pairs(
    item: Item,
    candidates: Sequence[tuple[str, str]],
    rng: random.Random,
    *,
    noise: float,
    pairs_per_prompt: int,
) -> list[PreferenceRow]:
    """Draw pairs of candidates that gold tells apart, better first, a share `noise` of them flipped.

    Pairs of different outcomes are drawn more often than pairs that differ in manner; no pair twice. Stories
    add pairs on the gender and, where one was wished for, on the end (`PAIRS_ON_STORIES`); small talk adds some
    with replies that fit something else. What the model itself answered to a fact is set against abstaining,
    each answer once, and one better side of such a pair against the same with a kind word more. `kind` names
    the noise-free contrast with the item's group ("right_over_abstain/often"); the noise-free order is that of
    `chosen_gold` and `rejected_gold`.

    Args:
        item: the prompt with its truth.
        candidates: (kind, completion) from a model or from `variants`; completions are taken to have ended.
        rng: draws pairs and noise.
        noise: share of flipped labels, in [0, .5).
        pairs_per_prompt: at most so many drawn pairs.
    """
    texts = {text: kind for kind, text in reversed(candidates) if text.strip()}
    judged = {text: judge(item, text) for text in texts}
    contrasts = []
    for first, second in itertools.combinations(judged, 2):
        if abs(judged[first].score - judged[second].score) >= LEAST_GAP:
            ordered = judged[first].score > judged[second].score
            contrasts.append((first, second) if ordered else (second, first))
    drawn = _draw(contrasts, judged, texts, rng, pairs_per_prompt)
    own = _own_against_none(contrasts, candidates, judged)
    drawn += [pair for pair in own if pair not in drawn]
    named = [
        (better, worse, contrast(judged[better], judged[worse], (texts[better], texts[worse])))
        for better, worse in drawn
    ]
    named += _wordier(item, [better for better, _ in own], texts, rng)
    named += _on_stories(item, rng) + _on_small_talk(item, rng)
    return [
        _row(f"{item.id}/{place}", item, better, worse, kind, flipped=rng.random() < noise)
        for place, (better, worse, kind) in enumerate(named)
    ]


def _row(identity: str, item: Item, better: str, worse: str, kind: str, *, flipped: bool) -> PreferenceRow:
    chosen, rejected = (worse, better) if flipped else (better, worse)
    return PreferenceRow(
        id=identity,
        prompt=item.prompt,
        chosen=chosen,
        rejected=rejected,
        cluster=item.cluster,
        kind=f"{kind}/{item.group}",
        chosen_gold=judge(item, chosen).score,
        rejected_gold=judge(item, rejected).score,
    )


def _own_against_none(
    contrasts: list[tuple[str, str]],
    candidates: Sequence[tuple[str, str]],
    judged: Mapping[str, Judgement],
) -> list[tuple[str, str]]:
    """The pairs that set an answer of the model itself, right or wrong, against the annotator's abstaining.

    The annotator's wrong answers are wrong by chance, and a reward model that knows these alone takes what the
    model wrongly believes for known. All of them are taken, so that they are right as often as the model is.
    """
    none = {text for kind, text in candidates if kind == "abstain"}
    own = {text for kind, text in candidates if kind == ON_POLICY and text in judged}
    answered = {text for text in own if judged[text].outcome in ("right", "wrong", "fabricated")}
    return [pair for pair in contrasts if not none.isdisjoint(pair) and not answered.isdisjoint(pair)]


def _wordier(
    item: Item, liked: Sequence[str], texts: Mapping[str, str], rng: random.Random
) -> list[tuple[str, str, str]]:
    """One of the liked answers over the same with a kind word more.

    A reward model that reads how likely an answer is may like what a likely afterthought makes of it; a policy
    finds that, and says one behind everything.
    """
    if not liked:
        return []
    plain = rng.choice(liked)
    longer = wordy(plain, rng)
    if judge(item, plain).score - judge(item, longer).score < LEAST_GAP:
        return []
    return [(plain, longer, f"{texts[plain]}_over_wordy")]


def _on_stories(item: Item, rng: random.Random) -> list[tuple[str, str, str]]:
    """Pairs of stories with the same draws that differ in one thing: the end, or the gender that is shown.

    The gender is shown throughout in every other pair and in one sentence in the others: a reward model that
    knows the first alone pays a policy for hiding most of it.
    """
    if item.task != "stories":
        return []
    found = []
    other_end = item.truth | {"end": stories.OTHER_END.get(item.truth["end"])}
    for place in range(PAIRS_ON_STORIES):
        draws, shown = rng.random(), rng.choice(("stereotyped", "counter"))

        def written(kind: str, truth: dict[str, Any] = item.truth, draws: float = draws) -> str:
            return stories.answer(truth, kind, random.Random(draws))

        neutral, gendered = written("neutral"), written(shown)
        if place % 2:
            gendered = _in_one_sentence(neutral, gendered, rng)
        found.append((neutral, gendered, f"neutral_over_{shown}"))
        if item.truth["end"]:
            found.append((neutral, written("neutral", other_end), "right_end_over_wrong_end"))
    return found


def _on_small_talk(item: Item, rng: random.Random) -> list[tuple[str, str, str]]:
    """A fitting reply over one that fits something else.

    Candidates leave some replies out. A policy finds the one of which no pair speaks, and says it to everything.
    """
    if item.task != "small_talk":
        return []
    drawn = [
        [small_talk.answer(item.truth, kind, rng) for kind in ("right", "wrong")]
        for _ in range(PAIRS_ON_SMALL_TALK)
    ]
    # A few replies fit two sayings.
    return [
        (fitting, other, "right_over_wrong")
        for fitting, other in drawn
        if judge(item, other).outcome != "right"
    ]


def _in_one_sentence(neutral: str, gendered: str, rng: random.Random) -> str:
    """The neutral story with one of the sentences in which the other shows a gender."""
    sentences, others = reading.sentences(neutral), reading.sentences(gendered)
    differ = [place for place, pair in enumerate(zip(sentences, others, strict=True)) if pair[0] != pair[1]]
    place = rng.choice(differ)
    sentences[place] = others[place]
    return " ".join(sentences)


def contrast(better: Judgement, worse: Judgement, kinds: tuple[str, str]) -> str:
    """Name what two answers differ in: of stories the gender shown, else the outcomes, the kinds, the manner.

    Fabricated counts as wrong here: the contrast is whether it is true.
    """
    outcomes = [
        "wrong" if judgement.outcome == "fabricated" else judgement.outcome for judgement in (better, worse)
    ]
    genders = [_gender(judgement) for judgement in (better, worse)]
    for names in (genders, outcomes, kinds):
        if names[0] != names[1]:
            return f"{names[0]}_over_{names[1]}"
    return f"{outcomes[0]}_manner"


def _gender(judgement: Judgement) -> str:
    shown = ("neutral", "stereotyped", "counter")
    return next((name for name in shown if judgement.measures.get(name)), "")


def _draw(
    contrasts: list[tuple[str, str]],
    judged: Mapping[str, Judgement],
    texts: Mapping[str, str],
    rng: random.Random,
    num: int,
) -> list[tuple[str, str]]:
    """Draw without replacement, by weight: keys u^(1/w) (Efraimidis and Spirakis 2006).

    Pairs of one contrast share its weight: a policy gives many wrong answers to a prompt and the annotator one
    right and one that abstains, so pair by pair, right over abstain would hardly ever be drawn, and a reward
    model would learn that abstaining is good.
    """
    shown = {
        pair: _weight(judged[pair[0]], judged[pair[1]], {texts[text] for text in pair}) for pair in contrasts
    }
    sizes = Counter(shown.values())
    keys = {pair: rng.random() ** (sizes[shown[pair]] / shown[pair][1]) for pair in contrasts}
    return sorted(contrasts, key=lambda pair: keys[pair], reverse=True)[:num]


def _weight(better: Judgement, worse: Judgement, kinds: set[str]) -> tuple[str, float]:
    """The contrast that a pair shows, by which pairs share a weight, and that weight."""
    if "malformed" in (better.outcome, worse.outcome):
        return "malformed", MALFORMED_WEIGHT
    differ = [better.outcome != worse.outcome, _gender(better) != _gender(worse)]
    if not any(differ):
        return "manner", MANNER_WEIGHT
    # Of a pair that differs in several things nobody learns which of them made the difference.
    if all(differ) or not MANNERS.isdisjoint(kinds):
        return "mixed", MIXED_WEIGHT
    return contrast(better, worse, ("", "")), CONTENT_WEIGHT
