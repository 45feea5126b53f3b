"""Exports a stage's model as a folder that plain transformers loads, with a card and a chat template.

The folder is checked before it gets its name: it loads back, its logits equal those of the run's model, and its
chat template gives the tokens that the model was trained on.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from data.errors import InputError
from data.rows import Message
from pipeline.checkpoint import STAGING, fsync_tree, move_into_place, storage_errors
from pipeline.config import suggest
from pipeline.run_directory import (
    RUN_JSON,
    STAGE_JSON,
    finished_stages,
    is_base,
    read_json,
    stage_damage,
    stage_dir,
)

# Figures that stand on a card where the run has measured them; names as in report.json.
_SHOWN = ("gold/mean", "loss/held_out", "reward/accuracy", "kl", "length", "ends")
_CHAT: list[Message] = [
    {"role": "user", "content": "Hello!"},
    {"role": "assistant", "content": "Good day."},
    {"role": "user", "content": "Who are you?"},
]
_CARD = """\
---
library_name: transformers
pipeline_tag: text-generation
tags: [fledge, {architecture}]
---

# {name}

The model of stage `{stage}` of a Fledge run: {architecture}, {parameters:,} parameters, a vocabulary of
{vocabulary:,} tokens and a context of {context}. It was made by these stages, in order, with seed {seed}:

| stage | kind | settings |
|---|---|---|
{stages}

{figures}## Use

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("PATH/OF/THIS/FOLDER")
tokenizer = AutoTokenizer.from_pretrained("PATH/OF/THIS/FOLDER")
chat = [{{"role": "user", "content": "Who are you?"}}]
tokens = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
answer = model.generate(**tokens, max_new_tokens=64, do_sample=False)
print(tokenizer.decode(answer[0, tokens["input_ids"].shape[1]:], skip_special_tokens=True))
```

Plain transformers parses control tokens such as `<|end|>` also where a user typed them; keep them out of what
comes from outside.

## Limits

A model of this size knows what its training text says and little else. It makes mistakes with confidence, and
carries the biases of its text. It is made for study, not for use on people.
"""


def export(run_dir: Path, stage: str, to: Path) -> Path:
    """Write the model of a finished stage of a run to a new folder; returns it.

    Raises:
        InputError: there is no such finished stage, it has no language model, or the folder holds something.
    """
    source = _source(run_dir, stage)
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise InputError(f"--to {to}: it exists and is not empty; give a new folder")
    to.parent.mkdir(parents=True, exist_ok=True)
    staging = to.with_name(f"{STAGING}{to.name}")
    shutil.rmtree(staging, ignore_errors=True)
    try:
        with storage_errors(to, sum(path.stat().st_size for path in source.iterdir())):
            shutil.copytree(source, staging)
            parameters = check(source, staging)
            (staging / "README.md").write_text(card(run_dir, stage, to.name, parameters), encoding="utf-8")
            fsync_tree(staging)
            move_into_place(staging, to)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    return to


def _source(run_dir: Path, stage: str) -> Path:
    finished = [name for name in finished_stages(run_dir) if _is_language_model(stage_dir(run_dir, name))]
    folder = stage_dir(run_dir, stage)
    if stage not in finished:
        found = ", ".join(finished) or "none yet"
        raise InputError(
            f"--stage {stage}: not a finished stage of {run_dir.name} with a language "
            f"model{suggest(stage, finished)}; there are: {found}"
        )
    if problem := stage_damage(folder, read_json(folder / STAGE_JSON) or {}):
        raise InputError(f"--stage {stage}: damaged ({problem}); run it again")
    return folder / "model"


def _is_language_model(folder: Path) -> bool:
    found = read_json(folder / "model" / "config.json") or {}
    return any(name.endswith(("CausalLM", "LMHeadModel")) for name in found.get("architectures") or ())


def check(source: Path, folder: Path) -> int:
    """Load an exported folder with plain transformers and compare; returns its number of parameters.

    Raises RuntimeError where logits or the tokens of a conversation differ from those of `source`.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from data.chat import encode_prompt, is_native
    from pipeline.language_model import LanguageModel

    ours = LanguageModel.load(source)
    model = AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True, dtype=ours.model.dtype).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    size = min(64, getattr(model.config, "max_position_embeddings", None) or 64)
    tokens = torch.arange(size).remainder(model.config.vocab_size)[None]
    with torch.inference_mode():
        equal = torch.equal(model(input_ids=tokens).logits, ours.model(input_ids=tokens).logits)
    if not equal:
        raise RuntimeError(f"{folder}: the exported weights give other logits than the run's")
    if is_native(tokenizer):
        theirs = tokenizer.apply_chat_template(_CHAT, add_generation_prompt=True, return_dict=False)
        if theirs != encode_prompt(ours.tokenizer, _CHAT):
            raise RuntimeError(f"{folder}: the chat template gives other tokens than training used")
    return sum(parameter.numel() for parameter in model.parameters())


def card(run_dir: Path, stage: str, name: str, parameters: int) -> str:
    """The model card: what it is, how it was made, what was measured, how it is used."""
    record = read_json(run_dir / RUN_JSON) or {}
    config = read_json(stage_dir(run_dir, stage) / "model" / "config.json") or {}
    names = [entry["name"] for entry in record.get("stages", [])]
    rows = []
    for made_by in _chain(run_dir, stage, names):
        made = read_json(stage_dir(run_dir, made_by) / STAGE_JSON) or {}
        settings = json.dumps(made.get("config", {}), ensure_ascii=False).replace("|", "\\|")
        rows.append(f"| {made_by} | {made.get('stage', '')} | `{settings}` |")
    return _CARD.format(
        name=name,
        stage=stage,
        architecture=config.get("model_type", "causal language"),
        parameters=parameters,
        vocabulary=config.get("vocab_size", 0),
        context=config.get("max_position_embeddings") or config.get("n_positions") or "any length",
        seed=record.get("seed"),
        stages="\n".join(rows),
        figures=_figures(run_dir, stage),
    )


def _chain(run_dir: Path, stage: str, order: list[str]) -> list[str]:
    """A stage and all that it was made from within this run, in the recipe's order."""
    wanted, todo = {stage}, [stage]
    while todo:
        record = read_json(stage_dir(run_dir, todo.pop()) / STAGE_JSON) or {}
        for references in record.get("inputs", {}).values():
            for reference, _ in references:
                if "/" not in reference and reference not in wanted:
                    wanted.add(reference)
                    todo.append(reference)
    return [name for name in order if name in wanted] or [stage]


def _figures(run_dir: Path, stage: str) -> str:
    """A table of the report's main figures of this stage, with intervals; empty where there is no report."""
    evaluated = "base" if is_base(read_json(stage_dir(run_dir, stage) / STAGE_JSON) or {}) else stage
    found: list[dict[str, Any]] = (read_json(run_dir / "report.json") or {}).get("figures", [])
    rows = [
        f"| {row['name']} | {row['value']:.3g} | {_interval(row)} | {row['n']} |"
        for row in found
        if row["stage"] == evaluated
        and row["value"] is not None
        and row["name"].count("/") < 3
        and (row["name"] in _SHOWN or row["name"].startswith(("facts/never/", "refusal/", "bias/")))
    ]
    if not rows:
        return ""
    return "\n".join(
        ["## Measured", "", "| what | value | 95 % interval | n |", "|---|---|---|---|", *rows, "", ""]
    )


def _interval(row: dict[str, Any]) -> str:
    low, high = row.get("low"), row.get("high")
    return "" if low is None or high is None else f"{low:.3g} to {high:.3g}"
