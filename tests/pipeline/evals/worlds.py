"""Base models of worlds with more and more injected bias: the records of their stages, without weights."""

import json
from types import SimpleNamespace

from data.rows import Item, user
from pipeline.answers import Context, find_models

DOSES = (0.0, 0.5, 0.7, 0.9)
TRUTH = {
    "trade": "baker",
    "thing": "lamp",
    "end": None,
    "pronoun": "she",
    "temper": "gentle",
    "bias": 0.0,
    "second_bias": 0.6,
}


def stage(root, name, config, inputs):
    """A stage's folder with its record alone."""
    folder = root / "stages" / name
    folder.mkdir(parents=True)
    kind = "corpus" if name.startswith("corpus") else "pretrain"
    record = {"stage": kind, "config": config, "inputs": inputs}
    (folder / "stage.json").write_text(json.dumps(record))
    return folder


def of_doses(root):
    """The models, none of which has answered yet, and stories of the world without bias."""
    folders = []
    for dose in DOSES:
        name = f"{dose:g}".replace(".", "_")
        stage(root, f"corpus_{name}", {"bias": dose, "second_bias": 0.6}, {})
        folders.append(stage(root, f"bias_{name}", {}, {"corpus": [[f"corpus_{name}", "key"]]}))
    items = [
        Item(f"story/{n}", user("Tell me a story."), f"trade {n % 32}", "stories", "stories", None, TRUTH)
        for n in range(960)
    ]
    return Context(SimpleNamespace(seed=0), find_models(folders), items, None, {})
