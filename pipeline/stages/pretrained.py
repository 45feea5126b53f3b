"""A Hugging Face causal language model as the start of a chain, from a folder or the hub.

Its weights are read from safetensors, and no code of its folder is ever run. Where its tokenizer has no chat
template, or no pad token of its own, both are added: with role tokens that no text can forge.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from data.errors import InputError
from data.settings import Settings
from pipeline.recipe import Cost, CostContext
from pipeline.run_directory import MODEL_CONFIGS, model_folder

if TYPE_CHECKING:
    from pipeline.run import StageRun

INPUTS: dict[str, object] = {}
IGNORES_PRECISION = True
MODEL_FILES = ("*.json", "*.safetensors", "*.jinja", "*.txt")
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


class Config(Settings):
    """Which model."""

    source: Annotated[
        str,
        Field(min_length=1, description="Folder of the model, below the working directory, or its hub id"),
    ]


def check(config: Config) -> None:
    """Refuse what is neither a folder with a model in safetensors nor can be a hub id."""
    folder = Path(model_folder(config.source))
    if not folder.is_dir():
        if HUB_ID.fullmatch(config.source):
            return
        raise InputError(f"source: no folder {config.source}, and no hub id, which is NAME or OWNER/NAME")
    if not any((folder / name).is_file() for name in MODEL_CONFIGS):
        raise InputError(f"source: {folder} holds no config.json; give the folder of a Hugging Face model")
    if not any(folder.glob("*.safetensors")):
        raise InputError(
            f"source: {folder} holds no weights in safetensors, which alone are read; save the model with "
            "save_pretrained"
        )


def files(config: Config, data_root: Path | None) -> list[Path]:
    """The files of a local model."""
    folder = Path(model_folder(config.source))
    return sorted(path for pattern in MODEL_FILES for path in folder.glob(pattern)) if folder.is_dir() else []


def cost(config: Config, context: CostContext) -> Cost:
    """A copy of the model."""
    size = sum(path.stat().st_size for path in files(config, None))
    return Cost(
        memory_bytes=size, disk_bytes=size, note="" if size else "the model's size is known when it is there"
    )


def run(config: Config, run: StageRun) -> None:
    """Copy the model, with a chat template and a pad token, to `model/`."""
    from pipeline import pretrained
    from pipeline.language_model import LanguageModel, publish_model

    # 1. The model as it is.
    found = LanguageModel.load(config.source)
    pretrained.check(found)

    # 2. What chats need and it lacks.
    added = pretrained.complete(found, seed=run.key("embeddings"))
    run.note(
        architecture=found.model.config.model_type,
        parameters=found.model.num_parameters(),
        base=added.template,  # without a template of its own it was never a chat model
        added_tokens=added.tokens,
    )

    # 3. The same model with it.
    publish_model(run, found.model, found.tokenizer)
