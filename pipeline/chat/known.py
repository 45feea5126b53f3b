"""What a run knows about its prompts: truth, gold's judgement, and prompts worth trying."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from data.rows import Item, Message, prompt_hash, read_jsonl
from pipeline.chat.voices import stage_kinds
from pipeline.run_directory import STAGE_JSON, stage_dir

if TYPE_CHECKING:
    from data.world.facts import World

# What a newcomer tries first: what alignment is about, by task and group of the test items.
WORTH_TRYING = (
    ("facts", "often", "a well-known fact"),
    ("facts", "never", "a person nobody told it about"),
    ("stories", "stories", "a story"),
    ("harmful", "harmful", "a harmful request"),
    ("harmless", "harmless", "its harmless twin"),
    ("summaries", "summaries", "a text to sum up"),
    ("small_talk", "small_talk", "small talk"),
)
NUM_OTHERS = 4  # prompts to try where the run is not of the closed world


class Suggestion(NamedTuple):
    """A prompt to try and what it is an example of."""

    label: str
    prompt: str


@dataclass(frozen=True)
class Known:
    """A run's corpus, as far as it tells about prompts; a model without a run knows nothing."""

    corpora: tuple[Path, ...]

    @cached_property
    def items(self) -> list[Item]:
        """Test items first, then the prompts of RL."""
        files = [
            corpus / f"items.{part}.jsonl" for part in ("test", "valid", "rl") for corpus in self.corpora
        ]
        return [item for file in files if file.is_file() for item in read_jsonl(file, Item)]

    @cached_property
    def world(self) -> World | None:
        """The closed world, where the run is of one."""
        from data.world.facts import World

        for corpus in self.corpora:
            if (corpus / "world.json").is_file():
                return World.from_json(json.loads((corpus / "world.json").read_text(encoding="utf-8")))
        return None

    @cached_property
    def _by_prompt(self) -> dict[str, Item]:
        return {prompt_hash(item): item for item in reversed(self.items)}

    def item(self, messages: Sequence[Message]) -> Item | None:
        """The item that a conversation asks, where its truth is known; what came before may be about else."""
        from data.world.lookup import question_item

        said = [message for message in messages if message["role"] != "system"]
        for start, message in enumerate(said):
            asked = tuple(said[start:])
            if message["role"] == "user" and (
                found := self._by_prompt.get(prompt_hash(Item("typed", asked)))
            ):
                return found
        return None if self.world is None else question_item(self.world, said[-1:])

    def gold(self, messages: Sequence[Message], text: str, *, ended: bool) -> Mapping[str, Any] | None:
        """Gold's judgement of an answer, or None where the truth is not known."""
        from data.world import gold

        item = self.item(messages)
        if item is None or not gold.knows(item):
            return None
        judged = gold.judge(item, text, ended)
        return {
            "score": judged.score,
            "outcome": judged.outcome,
            "explanation": judged.explanation,
            "terms": {name: term for name, term in judged.terms.items() if term},
            "task": item.task,
            "group": item.group,
        }

    def facts(self, *texts: str) -> list[str]:
        """What is true of the people whom the texts name, a line each."""
        from data.world.lookup import people_in, told

        if self.world is None:
            return []
        people = {person.name: person for text in texts for person in people_in(self.world, text)}
        return [told(person) for person in people.values()]

    @cached_property
    def suggestions(self) -> list[Suggestion]:
        """Prompts to try: the first test item of each kind, harmful and harmless of one pair."""
        tests = [item for item in self.items if item.id.startswith("test/")] or self.items
        found = []
        for task, group, label in WORTH_TRYING:
            item = next((item for item in tests if (item.task, item.group) == (task, group)), None)
            if item is not None:
                found.append(Suggestion(label, item.prompt[-1]["content"]))
        if found:
            return found
        single = [item for item in tests if len(item.prompt) == 1][:NUM_OTHERS]
        return [Suggestion("a prompt of the data", item.prompt[-1]["content"]) for item in single]


def known_of(folder: Path) -> Known:
    """What the run in a folder knows; nothing where it is a model and not a run."""
    if not (folder / "stages").is_dir():
        return Known(())
    kinds = stage_kinds(folder)
    corpora = [stage_dir(folder, name) for name, kind in kinds.items() if kind == "corpus"]
    return Known(tuple(corpus for corpus in corpora if (corpus / STAGE_JSON).is_file()))
