"""The closed world: generated people, towns and trades with exact truth; needs no files and no network."""

from __future__ import annotations

from pathlib import Path

from data.rows import Collected
from data.world.settings import Settings

KINDS = ("text", "chat", "items", "world")


class Config(Settings):
    """The settings of the closed world; the recipe's seed draws it."""


def files(config: Config, data_root: Path | None) -> list[Path]:
    """No files: everything is generated."""
    return []


def num_tokens(config: Config) -> int:
    """About how many tokens the training text will have, for a plan."""
    from data.world import prose

    return prose.num_tokens(config)


def read(config: Config, *, seed: int, data_root: Path | None) -> Collected:
    """Generate text, demonstrations, RL prompts, test items, and the world itself as `world.json`."""
    from data.world import dialogues, facts, prose, summary

    world = facts.build(Settings(**config.model_dump()), seed)
    text = prose.documents(world)
    chat = dialogues.demonstrations(world)
    items = {"rl": dialogues.rl_items(world), "test": dialogues.test_items(world)}
    notes = summary.summary(world, text, chat, items)
    # Repeated documents are the exposure of facts, so their number carries meaning.
    return Collected(
        text=text,
        chat=chat,
        items=items,
        notes=notes,
        extra={
            "world.json": {
                **world.to_json(),
                "summary": notes,
                "trade_shares": summary.trade_shares(world, text["train"]),
            }
        },
        keep_duplicates=True,
    )
