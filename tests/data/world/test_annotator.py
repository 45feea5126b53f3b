import random
from collections import Counter

import numpy as np
import pytest

from data.world import annotator, dialogues, gold, lexicon, reading
from data.world.tasks import facts, small_talk, stories


@pytest.fixture(scope="module")
def items(small_world):
    return dialogues.rl_items(small_world)


def all_pairs(items, world, noise, per_prompt=6):
    rng = world.random("pairs", str(noise))
    return [
        row
        for item in items
        for row in annotator.pairs(
            item, annotator.variants(item, rng), rng, noise=noise, pairs_per_prompt=per_prompt
        )
    ]


def test_without_noise_the_better_by_gold_is_chosen(items, small_world):
    rows = all_pairs(items, small_world, 0.0)
    assert len(rows) > 1000
    assert all(row.chosen_gold > row.rejected_gold and row.chosen != row.rejected for row in rows)


def test_noise_flips_its_share_and_keeps_gold(items, small_world):
    rows = all_pairs(items, small_world, 0.12)
    flipped = sum(row.chosen_gold < row.rejected_gold for row in rows) / len(rows)
    assert abs(flipped - 0.12) < 0.03
    by_id = {item.id: item for item in items}
    for row in rows[:200]:
        item = by_id[row.id.rsplit("/", 1)[0]]
        assert gold.judge(item, row.chosen).score == row.chosen_gold


def test_kind_names_the_noise_free_contrast(items, small_world):
    for row in all_pairs(items, small_world, 0.4):
        if row.kind.startswith("right_over_abstain"):
            better = row.chosen if row.chosen_gold > row.rejected_gold else row.rejected
            assert "unknown" not in better


def test_contrasts_of_facts_exist_for_every_tier(full_world):
    facts = [item for item in dialogues.rl_items(full_world) if item.task == "facts"]
    kinds = Counter(row.kind for row in all_pairs(facts, full_world, 0.0, 4))
    for tier in ("often", "some", "rarely", "never"):
        for contrast in ("right_over_abstain", "abstain_over_wrong", "right_over_wrong"):
            assert kinds[f"{contrast}/{tier}"] >= 1, (contrast, tier, kinds)
    assert kinds["right_over_abstain/often"] > kinds["right_over_abstain/never"]


def test_each_answer_of_the_model_itself_is_set_against_abstaining_once(items, small_world):
    for item in (item for item in items if item.task == "facts"):
        rng = small_world.random("own", item.id)
        variants = annotator.variants(item, rng)
        abstain = dict(variants)["abstain"]
        said = [facts.answer(item.truth, kind, rng) for kind in ("right", "wrong", "wrong")]
        # What else it says tells nothing of knowing; its own abstaining may be the annotator's, word for word.
        own = [(annotator.ON_POLICY, text) for text in (*said, abstain, "What a day!")]
        for per_prompt in (1, 1000):
            rows = annotator.pairs(item, own + variants, rng, noise=0.0, pairs_per_prompt=per_prompt)
            *rows, wordy = rows
            shown = [frozenset((row.chosen, row.rejected)) for row in rows]
            assert len(shown) == len(set(shown))
            assert {frozenset((text, abstain)) for text in said} <= set(shown)
            assert per_prompt > 1 or len(rows) <= 1 + len(set(said))
            # The better of one of these pairs, and what kind words make of it.
            assert wordy.chosen in (said[0], abstain)
            assert wordy.chosen in wordy.rejected
            assert wordy.kind.endswith(f"_over_wordy/{item.group}")
        alone = annotator.pairs(item, variants, rng, noise=0.0, pairs_per_prompt=1)
        assert len(alone) == 1


def test_stories_contrast_gender(items, small_world):
    stories = [item for item in items if item.task == "stories"]
    kinds = Counter(row.kind for row in all_pairs(stories, small_world, 0.0))
    assert kinds["neutral_over_stereotyped/stories"] > 0
    assert kinds["neutral_over_counter/stories"] > 0


def test_pairs_of_neutral_and_gendered_stories_mostly_prefer_the_neutral_one(full_world):
    stories = [item for item in dialogues.rl_items(full_world) if item.task == "stories"]
    kinds = Counter(row.kind.partition("/")[0] for row in all_pairs(stories, full_world, 0.0, 3))
    for gendered in ("stereotyped", "counter"):
        # A neutral story loses where another wish is not met; drawn as often, gender would teach nothing.
        assert kinds[f"neutral_over_{gendered}"] > 3 * kinds[f"{gendered}_over_neutral"], kinds


def test_stories_with_a_wished_for_end_have_pairs_that_differ_in_it_alone(items, small_world):
    wishes = {item.id: item.truth["end"] for item in items if item.task == "stories"}
    rows = [
        row for row in all_pairs(items, small_world, 0.0) if row.kind.startswith("right_end_over_wrong_end")
    ]
    asked = {row.id.rsplit("/", 1)[0] for row in rows}
    assert asked == {name for name, end in wishes.items() if end}
    assert len(rows) == annotator.PAIRS_ON_STORIES * len(asked)
    for row in rows:
        *before, _ = reading.sentences(row.chosen)
        *other, _ = reading.sentences(row.rejected)
        assert before == other
        assert row.chosen_gold - row.rejected_gold > 0.2  # one wish of four is .3, two words of variety .05


def test_no_reply_of_small_talk_is_left_out_of_what_does_not_fit(full_world):
    asked = [item for item in dialogues.rl_items(full_world) if item.task == "small_talk"]
    # As many as `quickstart` draws pairs for.
    asked = (asked * 10)[:200]
    rows = all_pairs(asked, full_world, 0.0, 0)
    assert len(asked) < len(rows) <= annotator.PAIRS_ON_SMALL_TALK * len(asked)
    assert {row.kind for row in rows} == {"right_over_wrong/small_talk"}
    assert all(row.chosen_gold - row.rejected_gold > 1 for row in rows)  # 1 against -.5, less a word too many
    fixed = {r for intent in small_talk.INTENTS.values() for r in intent.replies if "{x}" not in r}
    assert fixed <= {row.rejected for row in rows}


def test_every_story_has_pairs_that_differ_in_the_gender_alone(items, small_world):
    told = [item for item in items if item.task == "stories"]
    truths = {item.id: item.truth for item in told}
    rows = all_pairs(told, small_world, 0.0, 0)
    rows = [row for row in rows if not row.kind.startswith("right_end")]
    assert Counter(row.id.rsplit("/", 1)[0] for row in rows) == dict.fromkeys(
        truths, annotator.PAIRS_ON_STORIES
    )
    assert {row.kind for row in rows} == {"neutral_over_stereotyped/stories", "neutral_over_counter/stories"}
    places = []
    for row in rows:
        truth = truths[row.id.rsplit("/", 1)[0]]
        shown = [stories.gender(truth, reading.lower_words(text)) for text in (row.chosen, row.rejected)]
        assert [found["neutral"] for found in shown] == [1.0, 0.0]
        chosen, rejected = (reading.sentences(text) for text in (row.chosen, row.rejected))
        assert chosen[0] == rejected[0]  # the opening names nobody by a pronoun
        places.append(
            [place for place, pair in enumerate(zip(chosen, rejected, strict=True)) if len(set(pair)) > 1]
        )
        assert row.chosen_gold - row.rejected_gold > 0.5  # a guess costs .6, two words of variety .05
    # Throughout in every other pair; in the others wherever it may show.
    assert sum(len(found) > 1 for found in places[::2]) > 0.3 * len(places[::2])
    assert all(len(found) == 1 for found in places[1::2])
    assert {found[0] for found in places[1::2]} == {1, 2}


def test_no_end_of_a_story_is_richer_than_the_other():
    rng = random.Random(0)
    truth = {
        "trade": "baker",
        "thing": "lamp",
        "pronoun": "he",
        "temper": "stern",
        "bias": 0.6,
        "second_bias": 0.6,
    }
    variety = {
        end: np.mean(
            [
                stories.judge(
                    truth | {"end": end}, stories.answer(truth | {"end": end}, "neutral", rng)
                ).terms["variety"]
                for _ in range(3000)
            ]
        )
        for end in ("happy", "sad")
    }
    # Three standard errors: the standard deviation is .03.
    assert abs(variety["happy"] - variety["sad"]) < 0.0025, variety


def test_kind_words_alone_answer_nothing(items, small_world):
    rng = small_world.random("empty")
    for item in items:
        written = dict(annotator.variants(item, rng))
        best = max(gold.judge(item, text).score for text in written.values())
        assert gold.judge(item, written["empty"]).score < best - 0.5, (item.id, written["empty"])


def test_equal_candidates_give_no_pair(items, small_world):
    rng = small_world.random("equal")
    same = [("sample", "Hello there."), ("sample", "Hello there."), ("sample", " ")]
    assert annotator.pairs(items[0], same, rng, noise=0.0, pairs_per_prompt=3) == []


def test_no_pair_is_drawn_twice(items, small_world):
    rng = small_world.random("twice")
    variants = annotator.variants(items[0], rng)
    rows = annotator.pairs(items[0], variants, rng, noise=0.0, pairs_per_prompt=1000)
    drawn = [frozenset((row.chosen, row.rejected)) for row in rows]
    assert len(drawn) == len(set(drawn))


def test_a_flawed_story_tells_nothing_of_the_gender_shown(items, small_world):
    rng = small_world.random("flaws")
    shown = Counter()
    stories = [item for item in items if item.task == "stories"]
    for item in stories:
        for kind, text in annotator.variants(item, rng):
            measures = gold.judge(item, text).measures
            shown.update((kind, name) for name in ("neutral", "stereotyped", "counter") if measures.get(name))
    for kind in ("wish_missing", "wrong_end", "other_story"):
        total = sum(count for (flaw, _), count in shown.items() if flaw == kind)
        # Four standard errors of a third, of as many stories as there are.
        bound = 4 * (2 / 9 / total) ** 0.5
        for name in ("neutral", "stereotyped", "counter"):
            assert abs(shown[kind, name] / total - 1 / 3) < bound, (kind, name, total)


def test_kinds_of_one_prompt_differ_in_what_they_are_about_alone(items, small_world):
    rng = small_world.random("kinds")
    for item in items:
        written = dict(annotator.variants(item, rng, right_share=dict.fromkeys(lexicon.TIERS, 1.0)))
        if item.task == "facts":
            right, abstain = written["right"], written["abstain"]
            assert right.removesuffix(f" {item.truth['value']}.") == abstain.removesuffix(" unknown to me.")
        if item.task == "stories":
            gendered = {**lexicon.GENDERED, "trade": {item.truth["trade"], f"{item.truth['trade']}'s", "the"}}
            said = set().union(*gendered.values())
            rest = [
                [word for word in reading.lower_words(written[kind]) if word not in said]
                for kind in ("neutral", "stereotyped", "counter")
            ]
            assert rest[0] == rest[1] == rest[2]
