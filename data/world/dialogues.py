"""Chats of the closed world: imperfect demonstrations, prompts for RL, test items in the headline mix.

People, towns, trades' requests and sums are split between demonstrations, RL and tests; where a task has no
such entities, prompts are split by hash, so that no test prompt is ever trained on. What everybody says
("Hello!") is never a test.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from data.randomness import key
from data.rows import ChatRow, Item, Message
from data.world import lexicon
from data.world.case import Case, Part, Task, plain
from data.world.facts import World
from data.world.prose import active_tasks
from data.world.settings import HEADLINE_MIX, QUESTIONS_PER_FACT
from data.world.tasks import ALWAYS, TASKS, how_to

# Shares of tasks in demonstrations and RL prompts; the others share the rest, each by its weight (1 unless told
# here: small talk has twelve intents to learn). A task that is rare in RL is drowned.
CHAT_MIX = {"facts": 0.34, "stories": 0.12, "harmful": 0.13, "harmless": 0.13}
OTHER_WEIGHTS = {"small_talk": 2.5}
# One prompt in this many is kept for tests where no entities are split.
TEST_ONE_IN = 4
SPLIT_BY_PROMPT = frozenset(
    {"stories", "small_talk", "summaries", "sentiment", "translation", "notes", "games"}
)
VALID_ONE_IN = 40
MOST_MESSAGES = 4  # of a chat that may be gone on with
# So many cases in a row without a new prompt: the task has no more.
PATIENCE = 400


def demonstrations(world: World) -> dict[str, list[ChatRow]]:
    """Write the demonstrators' chats (`train`, and every 40th as `valid`); their faults are settings.

    Some of `train` go on with another chat about something else, as people do (`joined`).
    """
    rng = world.random("demonstrations")
    rows: list[ChatRow] = []
    for task, case in _mixed(world, "train", world.settings.scaled(world.settings.demonstrations), rng):
        turns = (*case.prompt, Message(role="assistant", content=demonstrate(world, task, case, rng)))
        rows.append(ChatRow(id=f"chat/{len(rows)}", messages=turns, cluster=case.cluster, group=case.task))
    return {
        "train": list(_joined([row for row in rows if not _is_valid(row)], world)),
        "valid": [row for row in rows if _is_valid(row)],
    }


def _joined(rows: Sequence[ChatRow], world: World) -> Iterator[ChatRow]:
    """Let a chat go on the one before it; cluster and group stay those of the first."""
    rng = world.random("joined")
    current: ChatRow | None = None
    for row in rows:
        goes_on = rng.random() < world.settings.joined
        if current is not None and goes_on and len(current.messages) <= MOST_MESSAGES:
            current = replace(current, messages=(*current.messages, *row.messages))
            continue
        if current is not None:
            yield current
        current = row
    if current is not None:
        yield current


def rl_items(world: World) -> list[Item]:
    """Write the prompts of RL and preference pairs; new ones first, except for what everybody says.

    Some stand behind the prompt before them with a demonstrator's answer to it (`joined_prompts`): a policy
    that is only ever asked one thing loses the thread at the second.
    """
    rng, joins = world.random("rl"), world.random("rl", "joined")
    rows: list[Item] = []
    earlier: tuple[Message, ...] = ()
    for task, case in _mixed(world, "rl", world.settings.scaled(world.settings.rl_items), rng):
        before = earlier if joins.random() < world.settings.joined_prompts else ()
        asked = replace(case, prompt=(*before, *case.prompt))
        rows.append(_item(f"rl/{len(rows)}", asked, headline=False))
        earlier = (*case.prompt, Message(role="assistant", content=demonstrate(world, task, case, joins)))
    return rows


def test_items(world: World) -> list[Item]:
    """Write the test items; `truth["headline"]` marks those that together have the headline mix exactly.

    A prompt occurs once. Questions on people: equally many per tier, persons and attributes in turn.
    """
    settings = world.settings
    cases: dict[str, list[Case]] = {}
    facts = TASKS["facts"].cases(world, "test", world.random("test", "facts"))
    people = {tier: len(world.select(tier=tier, part="test")) for tier in lexicon.TIERS}
    most = min(people.values()) * len(lexicon.ATTRIBUTES) * QUESTIONS_PER_FACT
    quota = dict.fromkeys(lexicon.TIERS, min(settings.scaled(settings.test_questions_per_tier), most))
    for case in _new(facts, lambda case: quota[case.group] > 0):
        cases.setdefault(f"facts/{case.group}", []).append(case)
        quota[case.group] -= 1
        if not any(quota.values()):
            break
    cases["harmful"], cases["harmless"] = _twins(world, settings.scaled(settings.test_harmful))
    for task in active_tasks(world):
        if task.name not in ("facts", "harmful", "harmless"):
            num = settings.test_stories if task.name == "stories" else settings.test_others
            stream = _new(task.cases(world, "test", world.random("test", task.name)), _for_tests(world))
            cases[task.name] = _first(stream, settings.scaled(num))
    chosen = _headline(world, {group: len(rows) for group, rows in cases.items()})
    return [
        _item(f"test/{group}/{index}", case, headline=index < chosen[group])
        for group, rows in cases.items()
        for index, case in enumerate(rows)
    ]


def demonstrate(world: World, task: Task, case: Case, rng: random.Random) -> str:
    """Answer as a demonstrator does: from the world, with the faults of the settings."""
    text = task.answer(case.truth, _demonstrated_kind(world, task.name, case, rng), rng)
    settings = world.settings
    if rng.random() < settings.rude:
        return f"{rng.choice(lexicon.RUDE_LEAD_INS)} {text}"
    if rng.random() < settings.wordy:
        return wordy(text, rng)
    return text


def wordy(text: str, rng: random.Random) -> str:
    """The same answer with a sentence too many before or after it."""
    if rng.random() < 0.5:
        return f"{rng.choice(lexicon.LEAD_INS)} {text}"
    return f"{text} {rng.choice(lexicon.AFTERTHOUGHTS)}"


def _demonstrated_kind(world: World, name: str, case: Case, rng: random.Random) -> str:
    settings = world.settings
    first, second = rng.random(), rng.random()
    if name == "stories":
        kind = "neutral" if first < settings.neutral else "biased"
        return "wish_missing" if second < settings.wrong and kind == "neutral" else kind
    if name == "harmful":
        return "comply" if first < settings.comply else "refuse"
    if name in ("harmless", "how_to") and first < settings.over_refuse:
        return "refuse"
    if name == "facts" and first < settings.abstain(case.group):
        return "abstain"
    return "wrong" if second < settings.wrong else "right"


# -- streams
# ------------------------------------------------------------------------------------------------------


def _mixed(world: World, part: Part, total: int, rng: random.Random) -> Iterator[tuple[Task, Case]]:
    """Stream `total` cases in the chat mix and a shuffled order."""
    weights = {name: OTHER_WEIGHTS.get(name, 1.0) for name in world.settings.other_tasks}
    rest = (1 - sum(CHAT_MIX.values())) / sum(weights.values())
    shares = CHAT_MIX | {name: rest * weight for name, weight in weights.items()}
    tasks = rng.choices([TASKS[name] for name in shares], list(shares.values()), k=total)
    streams = {
        task.name: _mostly_new(task.cases(world, part, world.random(part, task.name)), _for_training(world))
        for task in active_tasks(world)
    }
    for task in tasks:
        yield task, next(streams[task.name])


def _for_training(world: World) -> Callable[[Case], bool]:
    return lambda case: case.task not in SPLIT_BY_PROMPT or case.everyday or not _prompt_is_test(world, case)


def _for_tests(world: World) -> Callable[[Case], bool]:
    """Accept prompts that training cannot hold; a held-out wording never is there."""
    return lambda case: case.task not in SPLIT_BY_PROMPT or _is_test(world, case)


def _is_test(world: World, case: Case) -> bool:
    return not case.everyday and (case.held_out or _prompt_is_test(world, case))


def _prompt_is_test(world: World, case: Case) -> bool:
    return key(world.seed, "world", "test prompt", _shown(case)) % TEST_ONE_IN == 0


def _shown(case: Case) -> str:
    return "\n".join(turn["content"] for turn in case.prompt)


def _new(stream: Iterator[Case], accept: Callable[[Case], bool]) -> Iterator[Case]:
    """Stream accepted cases with prompts not seen before; end when none comes for long."""
    seen: set[str] = set()
    misses = 0
    for case in stream:
        prompt = _shown(case)
        if prompt in seen or not accept(case):
            misses += 1
            if misses >= PATIENCE:
                return
            continue
        misses = 0
        seen.add(prompt)
        yield case


def _mostly_new(stream: Iterator[Case], accept: Callable[[Case], bool]) -> Iterator[Case]:
    """Stream accepted cases, new prompts first as long as one in three is new; everyday ones as they come."""
    seen: set[str] = set()
    tries = 0
    for case in stream:
        if not accept(case):
            continue
        prompt = _shown(case)
        if prompt in seen and not case.everyday and tries < 2:
            tries += 1
            continue
        tries = 0
        seen.add(prompt)
        yield case


def _first(stream: Iterator[Case], num: int) -> list[Case]:
    return [case for _, case in zip(range(num), stream, strict=False)]


def _twins(world: World, num: int) -> tuple[list[Case], list[Case]]:
    """Harmful requests and their twins, row by row, all of them different."""
    harmful: list[Case] = []
    harmless: list[Case] = []
    seen: set[str] = set()
    misses = 0
    for pair in how_to.twin_cases(world, "test", world.random("test", "twins")):
        if len(harmful) >= num or misses >= PATIENCE:
            break
        if any(_shown(case) in seen for case in pair):
            misses += 1
            continue
        misses = 0
        seen |= {_shown(case) for case in pair}
        harmful.append(pair[0])
        harmless.append(pair[1])
    return harmful, harmless


def _headline(world: World, available: dict[str, int]) -> dict[str, int]:
    """How many of each group are headline items: the largest total that all groups can fill.

    The total goes in steps of 40, which keep every share whole: 5 per tier, 6 stories, 3 harmful, 3 harmless,
    8 others.
    """
    others = list(world.settings.other_tasks)
    limits = [available[f"facts/{tier}"] * 4 / HEADLINE_MIX["facts"] for tier in lexicon.TIERS]
    limits += [available[name] / HEADLINE_MIX[name] for name in ALWAYS if name != "facts"]
    limits += [sum(available[name] for name in others) / HEADLINE_MIX["others"]]
    total = int(min([*limits, world.settings.headline_items])) // 40 * 40
    chosen = {f"facts/{tier}": round(total * HEADLINE_MIX["facts"] / 4) for tier in lexicon.TIERS}
    chosen |= {name: round(total * HEADLINE_MIX[name]) for name in ALWAYS if name != "facts"}
    chosen |= _spread(round(total * HEADLINE_MIX["others"]), {name: available[name] for name in others})
    return chosen


def _spread(total: int, available: dict[str, int]) -> dict[str, int]:
    """Deal `total` evenly over groups, none beyond what it has."""
    dealt: Counter[str] = Counter(dict.fromkeys(available, 0))
    while sum(dealt.values()) < total:
        for name in available:
            if dealt[name] < available[name] and sum(dealt.values()) < total:
                dealt[name] += 1
    return dict(dealt)


def _item(identity: str, case: Case, *, headline: bool) -> Item:
    truth = {**case.truth, "headline": headline, "held_out": case.held_out}
    return Item(
        id=identity,
        prompt=case.prompt,
        cluster=case.cluster,
        task=case.task,
        group=case.group,
        plain=plain(case.prompt),
        truth=truth,
    )


def _is_valid(row: ChatRow) -> bool:
    prompt: Sequence[Message] = row.messages[:-1]
    return key("valid", *(turn["content"] for turn in prompt)) % VALID_ONE_IN == 0
