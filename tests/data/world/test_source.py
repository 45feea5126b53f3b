import json

from data.sources import world as source
from data.world import World

CONFIG = {"people": 24, "extra_never_people": 8, "scale": 0.03, "often": 12, "some": 6, "rarely": 2}


def test_read_is_a_function_of_the_seed():
    config = source.Config(**CONFIG)
    first, second = (source.read(config, seed=4, data_root=None) for _ in range(2))
    assert (first.text, first.chat, first.items, first.extra) == (
        second.text,
        second.chat,
        second.items,
        second.extra,
    )
    assert first.text != source.read(config, seed=5, data_root=None).text
    assert source.files(config, None) == []


def test_the_stored_world_reads_back_and_notes_are_json():
    collected = source.read(source.Config(**CONFIG), seed=4, data_root=None)
    stored = json.loads(json.dumps(collected.extra["world.json"]))
    assert World.from_json(stored).seed == 4
    assert stored["summary"]["name_leak_auroc"] >= 0
    assert json.loads(json.dumps(collected.notes))["documents"]["train"] == len(collected.text["train"])
    assert collected.keep_duplicates


def test_rows_have_clusters_and_unique_ids():
    collected = source.read(source.Config(**CONFIG), seed=4, data_root=None)
    for rows in (*collected.text.values(), *collected.chat.values(), *collected.items.values()):
        assert len({row.id for row in rows}) == len(rows)
        assert all(row.cluster for row in rows)
