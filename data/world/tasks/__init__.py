"""The chat tasks of the closed world: one `Task` per name; what each pays is written at its `judge`."""

from __future__ import annotations

from data.world.case import Task
from data.world.tasks import facts, from_prompt, how_to, larger, small_talk, stories

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        facts.FACTS,
        stories.STORIES,
        how_to.HARMFUL,
        how_to.HARMLESS,
        small_talk.SMALL_TALK,
        how_to.HOW_TO,
        facts.TOWNS,
        facts.FOLLOW_UPS,
        from_prompt.SUMMARIES,
        from_prompt.SENTIMENT,
        from_prompt.ARITHMETIC,
        larger.TRANSLATION,
        larger.NOTES,
        larger.GAMES,
    )
}
# In every world; the rest are chosen by `other_tasks`.
ALWAYS = ("facts", "stories", "harmful", "harmless")
