"""The same prompts and seed through several stages of a run, without interaction."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from data.errors import InputError
from data.text import read_records, read_text
from pipeline.chat.session import (
    MAX_NEW_TOKENS,
    TEMPERATURE,
    Answer,
    Conversation,
    Sampling,
    answer_all,
    check_text,
    sampling_of,
)
from pipeline.chat.voices import Voice, open_run


def compare(
    run: Path,
    prompts: list[str],
    *,
    stages: list[str] | None = None,
    seed: int = 0,
    temperature: float = TEMPERATURE,
    max_new_tokens: int = MAX_NEW_TOKENS,
    as_json: bool = False,
    plain_base: bool = True,
) -> None:
    """Print the answers of stages (all that can talk where None) to each prompt, in columns or as JSON.

    With `plain_base` the base model is asked in its plain question format, else in the chat format.

    Raises:
        InputError: no such run or stage, no prompt, a setting out of range; before a model is loaded.
    """
    sampling = sampling_of(seed=seed, temperature=temperature, max_new_tokens=max_new_tokens)
    if not prompts:
        raise InputError("no prompt is given; give one by --prompt, or a file of them by --prompts")
    for place, prompt in enumerate(prompts, start=1):
        check_text(prompt, f"prompt {place}")
    there = open_run(run)
    names = there.check_all(stages if stages is not None else there.names)
    voices = [replace(voice, plain=voice.plain and plain_base) for voice in map(there.pick, names)]
    rows = answers_of(voices, prompts, sampling)
    if as_json:
        print(json.dumps(as_record(there.run, names, prompts, rows, sampling), indent=2))  # ASCII: inert
        return
    from pipeline.chat.screen import Screen

    screen = Screen()
    for place, (prompt, answers) in enumerate(zip(prompts, rows, strict=True)):
        screen.say(("\n" if place else "") + f"> {prompt}", "bold")
        screen.show(answers)


def answers_of(voices: Sequence[Voice], prompts: Sequence[str], sampling: Sampling) -> list[list[Answer]]:
    """Answer each prompt by each voice; one list for each prompt, in the order of the voices."""
    conversations = [Conversation().say(prompt).messages("") for prompt in prompts]
    by_voice = [answer_all(voice, conversations, sampling) for voice in voices]
    return [list(answers) for answers in zip(*by_voice, strict=True)]


def as_record(
    run: str,
    names: Sequence[str],
    prompts: Sequence[str],
    rows: Sequence[Sequence[Answer]],
    sampling: Sampling,
) -> dict[str, Any]:
    """Make a JSON object of a comparison; `logprob` is the mean over the tokens as drawn, in nats."""
    return {
        "run": run,
        "stages": list(names),
        "sampling": sampling.model_dump(),
        "prompts": [
            {"prompt": prompt, "answers": {answer.name: _fields(answer) for answer in answers}}
            for prompt, answers in zip(prompts, rows, strict=True)
        ],
    }


def _fields(answer: Answer) -> dict[str, Any]:
    num = len(answer.tokens)
    return {
        "text": answer.text,
        "reason": answer.reason,
        "num_tokens": num,
        "logprob": sum(answer.logprobs) / num if num else None,
    }


def read_prompts(path: Path) -> list[str]:
    """Read prompts: a line each, blank lines skipped; of a .jsonl file {"prompt": string} objects.

    A prompt may also be a list of one message, as the rows of a corpus have it; other columns do not matter.

    Raises:
        InputError: the file cannot be read as UTF-8 text, holds no prompt, or a row is of another form.
    """
    if ".jsonl" not in path.suffixes:
        prompts = [line.strip() for line in read_text(path).split("\n") if line.strip()]
    else:
        prompts = [_prompt_of(record, f"{path}:{number}") for number, record in read_records(path)]
    if not prompts:
        raise InputError(f"{path}: holds no prompt; give one a line")
    return prompts


def _prompt_of(record: dict[str, Any], where: str) -> str:
    prompt = record.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], dict):
        prompt = prompt[0].get("content")
    if not isinstance(prompt, str):
        raise InputError(f'{where}: no prompt here; expected {{"prompt": string}}')
    return check_text(prompt, where)
