"""The models of a run that can talk: which there are, what they are called, and loading them."""

from __future__ import annotations

import difflib
import threading
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from data.errors import InputError
from data.rows import Message
from pipeline.run_directory import RUN_JSON, STAGE_JSON, find_run, is_base, read_json

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.language_model import Completion, LanguageModel
    from pipeline.live_batch import LiveBatch

RUNS = Path("runs")
BASE = "base"  # what the model of the pretraining stage is called beside the tuned ones
PRETRAIN = "pretrain"
PREFERRED = "ppo"  # the stage that talks where none is asked for
UNLIMITED = 2**31 - 1  # context of an architecture that has no longest input
_USUAL_ORDER = (PRETRAIN, "sft", PREFERRED)
_NO_CAUSAL_MODEL = ("tokenizer", "reward")  # kinds of stage whose model/ holds something else

Prompt = str | Sequence[Message]


@dataclass(frozen=True)
class Voice:
    """One model under the name of its stage, reduced to what talking needs.

    `plain` models are asked in the plain question format, as a text to continue. `stream` yields tokens with
    their log-probabilities, and `new_batch` decodes many completions together; `logits` maps token ids to logits
    (time, vocabulary), and `values`, where the stage has a value function, to the value before each token.
    `context` is the longest prompt and completion together, in tokens.
    """

    name: str
    encode: Callable[[Prompt], list[int]]
    decode: Callable[[Sequence[int]], str]
    stream: Callable[..., Generator[tuple[int, float], None, None]]
    generate: Callable[..., list[Completion]]
    logits: Callable[[Sequence[int]], Tensor]
    new_batch: Callable[[], LiveBatch]
    context: int
    end_ids: frozenset[int]
    plain: bool = False
    vocab_size: int = UNLIMITED
    values: Callable[[Sequence[int]], Tensor] | None = None


@dataclass(frozen=True)
class Voices:
    """The voices of a run by name, in the order of its stages; each is loaded when it is first asked for."""

    run: str
    names: tuple[str, ...]
    load: Callable[[str], Voice]
    folder: Path = Path()
    loaded: dict[str, Voice] = field(default_factory=dict)

    def pick(self, name: str) -> Voice:
        """Load a voice; InputError with the names there are."""
        name = self.check(name)
        if name not in self.loaded:
            self.loaded[name] = self.load(name)
        return self.loaded[name]

    def check(self, name: str) -> str:
        """Return the name by which a stage goes here (`pretrain` goes by `base`); InputError otherwise."""
        if name in self.names:
            return name
        if name == PRETRAIN and BASE in self.names:
            return BASE
        near = difflib.get_close_matches(name, self.names, 1)
        hint = f'; did you mean "{near[0]}"?' if near else ""
        raise InputError(
            f'{self.run} has no stage "{name}" that can talk; it has {", ".join(self.names)}{hint}'
        )

    def check_all(self, names: Sequence[str]) -> list[str]:
        """Check several names, at least one, none of them twice."""
        checked = [self.check(name) for name in names]
        twice = sorted({name for name in checked if checked.count(name) > 1})
        if not checked or twice:
            what = f'"{twice[0]}" is named twice' if twice else "no stage is named"
            raise InputError(f"{what}; name one stage or more of {', '.join(self.names)}, each once")
        return checked

    @property
    def default(self) -> str:
        """The voice that talks where none is asked for: ppo, else that of the last stage."""
        return PREFERRED if PREFERRED in self.names else self.names[-1]


def open_run(run: str | Path) -> Voices:
    """Find the voices of a run, given as its directory or as its name under `runs/`; nothing is loaded yet.

    A Hugging Face folder or a single stage directory is taken as a run with one voice. The base model is
    asked in the plain question format: it has never seen the chat format.

    Raises:
        InputError: there is no such run, or no stage of it has a model yet.
    """
    folder = find_folder(run)
    folders = talking_stages(folder)
    name = folder.resolve().name

    models: list[Any] = []

    def load(stage: str) -> Voice:
        from pipeline.adapted import load_adapted
        from pipeline.critic import load_critic
        from pipeline.shared_weights import share_equal

        model = load_adapted(folders[stage], device=device())
        share_equal(model.model, models)
        models.append(model.model)
        voice = voice_of(stage, model, plain=stage == BASE)
        return replace(voice, values=load_critic(folders[stage], model.model))

    return Voices(name, tuple(folders), load, folder)


def voice_of(name: str, model: LanguageModel, *, plain: bool = False) -> Voice:
    """Reduce a language model to a voice."""
    from data.chat import can_chat, decode

    config = model.model.config.get_text_config()
    # Encoding switches the tokenizer for a moment, and a server encodes in several threads.
    lock = threading.Lock()

    def encode(prompt: Prompt) -> list[int]:
        with lock:
            return model.encode(prompt)

    return Voice(
        name=name,
        encode=encode,
        decode=partial(decode, model.tokenizer),
        stream=cast(Any, model.stream),  # a generator: it can be closed
        generate=model.generate,
        logits=partial(_logits, model),
        new_batch=partial(_new_batch, model),
        context=getattr(config, "max_position_embeddings", None) or UNLIMITED,
        end_ids=frozenset(model.end_ids),
        plain=plain or not can_chat(model.tokenizer),
        vocab_size=config.vocab_size,
    )


def find_folder(run: str | Path) -> Path:
    """Return the directory of a run that is given by path or by name; InputError where there is none."""
    return Path(run) if Path(run).is_dir() else find_run(RUNS, str(run))


def talking_stages(folder: Path) -> dict[str, Path]:
    """Map the name of each voice to its stage directory, in the recipe's order."""
    if not (folder / "stages").is_dir():
        if _has_model(folder):
            return {folder.resolve().name: folder}
        seeds = sorted((folder / "seeds").glob("*/stages"))
        if seeds:
            raise InputError(f"{folder} holds several seeds; name one of them: {seeds[0].parent}")
        raise InputError(f"{folder} is no run and no model: it has neither stages/ nor config.json")
    kinds = stage_kinds(folder)
    found = [
        name for name in kinds if kinds[name] not in _NO_CAUSAL_MODEL and _has_model(folder / "stages" / name)
    ]
    if not found:
        raise InputError(
            f"no stage of {folder} has a model yet; see `fledge status`, go on with `fledge run`"
        )
    pretrained = [
        name
        for name in found
        if is_base({"stage": kinds[name], **(read_json(folder / "stages" / name / STAGE_JSON) or {})})
    ]
    # With several pretrained models there is no single base: each keeps the name of its stage.
    base = pretrained[0] if len(pretrained) == 1 and BASE not in found else None
    return {BASE if name == base else name: folder / "stages" / name for name in found}


def stage_kinds(folder: Path) -> dict[str, str]:
    """Map each stage of a run to its kind, in the recipe's order; one that the run does not list by its name."""
    listed = (read_json(folder / RUN_JSON) or {}).get("stages", [])
    kinds = {str(stage["name"]): str(stage["stage"]) for stage in listed}
    others = sorted(entry.name for entry in (folder / "stages").iterdir() if entry.is_dir())
    others.sort(key=lambda name: _USUAL_ORDER.index(name) if name in _USUAL_ORDER else len(_USUAL_ORDER))
    return kinds | {name: name for name in others if name not in kinds and not name.startswith(".")}


def _has_model(folder: Path) -> bool:
    """Whether a folder, or model/ in it, holds a causal language model or an adapter of one."""
    for place in (folder / "model", folder):
        if (place / "adapter_config.json").is_file():
            return True
        if (place / "config.json").is_file():
            config = read_json(place / "config.json") or {}
            names = config.get("architectures")
            return any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in names or [])
    return False


def _logits(model: LanguageModel, tokens: Sequence[int]) -> Tensor:
    import torch

    with torch.inference_mode():
        ids = torch.tensor([list(tokens)], device=model.model.device)
        logits: Tensor = model.model(input_ids=ids).logits[0].float().cpu()
        return logits


def _new_batch(model: LanguageModel) -> LiveBatch:
    from pipeline.live_batch import LiveBatch

    return LiveBatch(model.model, stop_ids=model.end_ids, pad_id=model.pad_id)


def device() -> str:
    """Where models talk: the first accelerator, else the CPU."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
