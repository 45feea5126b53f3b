"""The architecture of the first model with fresh weights: what a figure is worth before any training.

It answers the same questions, but briefly: what it says is noise, and noise does not get better with length.
Where a figure is of several models, it stands in the place of each. What a reward model has before any
training is known without making one (`RANKING`). KL has no such null, as its model started from another; nor
has the ceiling of the labels, in which no model has a part; nor what judges say, whom every further pair
costs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType

from data.randomness import key
from pipeline.answers import Context, Model, Records
from pipeline.measured import Measured, value_of
from pipeline.records import Record

UNTRAINED = "untrained"  # its name among the nulls of a figure
MAX_PARAMETERS = 10**8  # a larger one is not made: it would cost as much as the models themselves
MAX_NEW_TOKENS = 16
OF_THE_REWARD = "reward"  # evaluations of this suite look at no model that answers


@contextmanager
def untrained(context: Context) -> Iterator[Context | None]:
    """The same questions for the first model's architecture; None where it is too large, or an adapter."""
    from transformers import AutoConfig, AutoTokenizer

    from pipeline.run_directory import model_folder

    first = next(iter(context.models.values()))
    source = model_folder(first.folder)
    if Path(source).is_dir() and not (Path(source) / "config.json").is_file():
        yield None
        return
    with TemporaryDirectory(prefix="fledge-") as folder:
        if not _write(AutoConfig.from_pretrained(source), context.seed, Path(folder)):
            yield None
            return
        AutoTokenizer.from_pretrained(source).save_pretrained(folder)
        model = Model(UNTRAINED, Path(folder), None, first.plain)
        length = min(MAX_NEW_TOKENS, context.config.max_new_tokens)
        config = context.config.model_copy(update={"max_new_tokens": length})
        yield Context(context.run, {UNTRAINED: model}, context.items, config, context.options)


def _write(config: object, seed: int, folder: Path) -> bool:
    """Write a model with keyed weights, unless it is too large."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        size = AutoModelForCausalLM.from_config(config).num_parameters()
    if size > MAX_PARAMETERS:
        return False
    with torch.random.fork_rng():
        torch.manual_seed(key("untrained", seed))
        AutoModelForCausalLM.from_config(config).float().save_pretrained(folder)
    return True


def looks_at_models(module: ModuleType) -> bool:
    """Whether an evaluation says anything of a model that was not trained."""
    return module.SUITE != OF_THE_REWARD


def in_each_place(
    module: ModuleType, records: Records, noise: Sequence[Record], context: Context
) -> dict[tuple[str, str], float]:
    """What figures of several models are with the untrained one in a stage's place, by figure and stage.

    `noise` are the untrained model's records.
    """
    found = {}
    for stage in records if noise else ():
        for row in module.figures({**records, stage: list(noise)}, context):
            if stage in row.scores:
                found[row.name, stage] = value_of(row, row.scores[stage])
    return {name: value for name, value in found.items() if value == value}


def with_null(row: Measured, values: dict[str, float], in_place: dict[tuple[str, str], float]) -> Measured:
    """A figure with the untrained model's value among its nulls, where it has one."""
    nulls = {stage: dict(row.nulls.get(stage, {})) for stage in row.scores}
    for stage, found in nulls.items():
        value = in_place.get((row.name, stage), values.get(row.name))
        found |= {} if value is None else {UNTRAINED: value}
    return replace(row, nulls=nulls)
