"""The skew that the text of a model's pretraining was written with."""

from __future__ import annotations

from pipeline.answers import Model
from pipeline.run_directory import STAGE_JSON, read_json


def injected_skew(model: Model, setting: str = "bias") -> float | None:
    """Excess of stereotyped over other mentions, in [0, 1], by a setting of the corpus that a base model read.

    None of a tuned model, and of one that was not pretrained on a corpus of the closed world.
    """
    if not model.plain:
        return None
    record = read_json(model.folder / STAGE_JSON) or {}
    for name, _ in record.get("inputs", {}).get("corpus", []):
        run, _, stage = name.rpartition("/")
        stages = model.folder.parents[2] / run / "stages" if run else model.folder.parent
        config = (read_json(stages / stage / STAGE_JSON) or {}).get("config") or {}
        if setting in config:
            return float(config[setting])
    return None
