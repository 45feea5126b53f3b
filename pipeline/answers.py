"""What evaluations look at: the models of a run, the test items, and every model's answer to each of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.errors import InputError
from data.randomness import key
from data.rows import Item
from pipeline.run_directory import STAGE_JSON, is_base, read_json

if TYPE_CHECKING:
    from data.world.gold import Judgement
    from pipeline.language_model import LanguageModel
    from pipeline.records import Record
    from pipeline.run import StageRun

BASE = "base"  # the name of the pretrained model in figures
PLAIN_STOP = "\n"  # an answer in the plain question format ends with its line


@dataclass(frozen=True)
class Answer:
    """A model's answer to one item: text, tokens with the one that ended it, log-probabilities (nats)."""

    id: str
    text: str
    ended: bool
    tokens: list[int]
    logprobs: list[float]


@dataclass(frozen=True)
class Model:
    """One evaluated model: its name in figures, its folder, the model it was trained from, how it is asked.

    `plain` models know no chat format: they continue the plain question format up to the end of the line.
    `kind` is that of the stage that made it, `reference` what the recipe calls that stage (RUN/STAGE or STAGE).
    """

    name: str
    folder: Path
    parent: str | None
    plain: bool
    kind: str | None = None
    reference: str | None = None


@dataclass
class Context:
    """Everything that an evaluation may look at; `inputs` holds the stage folders by role."""

    run: StageRun
    models: dict[str, Model]
    items: list[Item]
    config: Any
    options: dict[str, Any]
    answers: dict[str, dict[str, Answer]] = field(default_factory=dict)
    _judged: dict[tuple[str, str, bool], Judgement] = field(default_factory=dict)
    _loaded: dict[str, LanguageModel] = field(default_factory=dict)

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self.run.seed

    def folder(self, role: str) -> Path | None:
        """The stage folder that fills an optional role, the first where several do, or None."""
        return next(iter(self.folders(role)), None)

    def folders(self, role: str) -> tuple[Path, ...]:
        """The stage folders that fill an optional role."""
        found = self.run.inputs.get(role) or ()
        return (found,) if isinstance(found, Path) else tuple(found)

    @cached_property
    def headline(self) -> list[Item]:
        """The items of the headline mix; all items where none is marked."""
        marked = [item for item in self.items if item.truth.get("headline")]
        return marked or self.items

    def of_task(self, *tasks: str) -> list[Item]:
        """The items of some tasks whose truth is known."""
        return [item for item in self.items if item.task in tasks and self.knows(item)]

    def some_of_each_group(self, name: str, task: str) -> list[Item]:
        """A keyed choice of a task's items: of each group as many as the evaluation's `items_per_group`."""
        groups: dict[str, list[Item]] = {}
        for item in sorted(self.of_task(task), key=lambda item: key(name, self.seed, item.id)):
            groups.setdefault(item.group, []).append(item)
        num = self.options[name].items_per_group
        chosen = {item.id for members in groups.values() for item in members[:num]}
        return [item for item in self.of_task(task) if item.id in chosen]

    def knows(self, item: Item) -> bool:
        """Whether gold can judge the item's answers."""
        from data.world import gold

        return gold.knows(item)

    def judge(self, item: Item, answer: Answer) -> Judgement:
        """Gold's judgement, computed once for each item and answer."""
        from data.world import gold

        name = (item.id, answer.text, answer.ended)
        if name not in self._judged:
            self._judged[name] = gold.judge(item, answer.text, answer.ended)
        return self._judged[name]

    def other_answer(self, stage: str, items: Sequence[Item]) -> dict[str, Answer]:
        """Give each item the answer to another question of its task and group, the next in a keyed order.

        A null: it keeps the manner of the answers and takes away what they say about the question.
        """
        groups: dict[tuple[str, str], list[Item]] = {}
        for item in items:
            groups.setdefault((item.task, item.group), []).append(item)
        given: dict[str, Answer] = {}
        for members in groups.values():
            ordered = sorted(members, key=lambda item: key("other answer", self.seed, item.id))
            for item, other in zip(ordered, ordered[1:] + ordered[:1], strict=True):
                given[item.id] = self.answers[stage][other.id]
        return given

    def model(self, stage: str) -> LanguageModel:
        """The loaded model of a stage; one is held at a time."""
        from pipeline.language_model import LanguageModel

        if stage not in self._loaded:
            self._loaded.clear()
            self._loaded[stage] = LanguageModel.load(self.models[stage].folder, device=self.run.device)
            self._loaded[stage].check_tokenizer()
        return self._loaded[stage]

    def longest(self, stage: str) -> int:
        """The longest sequence that a stage's model takes, tokens."""
        from pipeline.language_model import context_of

        return context_of(self.model(stage).model)

    def record(
        self,
        evaluation: str,
        measure: str,
        stage: str,
        item: Item,
        answer: Answer,
        score: Callable[[Judgement], float] = lambda judged: judged.score,
    ) -> Record:
        """The record of an answer that gold judges; the score is gold's, or what is made of its judgement."""
        from pipeline.records import Record

        judged = self.judge(item, answer)
        return Record(
            item.id,
            item.cluster,
            stage,
            evaluation,
            measure,
            shown_prompt(item),
            answer.text,
            score(judged),
            item.task,
            judged.outcome,
            judged.explanation,
        )

    def continuations(self, stage: str, requests: Sequence[tuple[str, str]]) -> list[list[float]]:
        """Log-probability of every token of each continuation after its context, under one model.

        See `pipeline.loglikelihood.continuation_logprobs`; give it all requests at once.
        """
        from pipeline.loglikelihood import continuation_logprobs

        with self.run.progress(f"{stage} log-probabilities", len(requests), "continuations") as bar:

            def advance(num: int) -> None:
                bar.advance(num)
                self.run.check_stop()

            return continuation_logprobs(self.model(stage), requests, advance=advance)


@dataclass(frozen=True)
class Score:
    """What an evaluation says of one answer; it becomes a record."""

    measure: str
    score: float
    outcome: str = ""
    explanation: str = ""
    group: str = ""
    weight: float = 1.0


Records = dict[str, "list[Record]"]


def find_models(folders: Sequence[Path], references: Sequence[str] | None = None) -> dict[str, Model]:
    """Name the evaluated models in order: `base` for a pretrained one, else the name of the stage or folder.

    The parent is the stage that the model started from, where it is evaluated too.
    """
    names: dict[str, str] = {}
    models: dict[str, Model] = {}
    known: Sequence[str | None] = references or [None] * len(folders)
    for folder, reference in zip(folders, known, strict=True):
        record = read_json(folder / STAGE_JSON) or {}
        plain = is_base(record) if record else not _has_chat_format(folder)
        name = BASE if plain and BASE not in models else folder.name
        while name in models:
            name += "_2"
        started_from = [pair[0] for pair in record.get("inputs", {}).get("policy", [])]
        parent = names.get(started_from[0].rpartition("/")[2]) if started_from else None
        names[folder.name] = name
        models[name] = Model(name, folder, parent, plain, record.get("stage"), reference)
    return models


def _has_chat_format(source: Path) -> bool:
    """Whether a model that no run made has a chat template."""
    from transformers import AutoTokenizer

    from pipeline.language_model import first_line
    from pipeline.run_directory import model_folder

    try:
        return AutoTokenizer.from_pretrained(model_folder(source)).chat_template is not None
    except Exception as error:  # damaged files raise errors of several libraries
        raise InputError(
            f"{source}: no tokenizer could be loaded ({first_line(error)}); a model is a run, a stage "
            "folder, a Hugging Face folder, or a hub id"
        ) from error


def chosen_items(items: Sequence[Item], max_per_group: int | None) -> list[Item]:
    """At most so many items of each task and group: those of the headline mix first, then by keyed order."""
    if max_per_group is None:
        return list(items)
    taken: dict[tuple[str, str], int] = {}
    chosen: set[str] = set()
    for item in sorted(items, key=lambda item: (not item.truth.get("headline"), key("items", item.id))):
        name = (item.task, item.group)
        if taken.get(name, 0) < max_per_group:
            taken[name] = taken.get(name, 0) + 1
            chosen.add(item.id)
    return [item for item in items if item.id in chosen]


def fitting_items(context: Context, stage: str, items: Sequence[Item]) -> list[Item]:
    """The items that leave room for an answer in the context of a model."""
    encode, plain = context.model(stage).encode, context.models[stage].plain
    room = context.longest(stage) - context.config.max_new_tokens
    return [item for item in items if len(encode(prompt_of(item, plain=plain))) <= room]


def items_for_all(context: Context, items: Sequence[Item]) -> list[Item]:
    """The items that leave room for an answer in the context of every model, so that all answer the same.

    Raises:
        InputError: there are items, and none fits.
    """
    found = list(items)
    for stage in context.models:
        found = fitting_items(context, stage, found)
        if items and not found:
            raise InputError(
                f"no question leaves room for max_new_tokens {context.config.max_new_tokens} in the context of "
                f"{stage}, {context.longest(stage)} tokens; lower evaluate.max_new_tokens"
            )
    return found


def prompt_of(item: Item, *, plain: bool) -> Any:
    """What a model is asked: the conversation, or the plain question format to be continued.

    An item without a plain format gives a plain model its last user turn, to be continued on the next line.
    """
    if not plain:
        return list(item.prompt)
    return item.plain if item.plain is not None else f"{item.prompt[-1]['content']}\n"


def shown_prompt(item: Item) -> str:
    """The prompt as a person reads it: the question alone, or the turns with their roles."""
    if len(item.prompt) == 1:
        return item.prompt[0]["content"]
    return "\n".join(f"{message['role']}: {message['content']}" for message in item.prompt)


def answer_all(context: Context, stage: str) -> dict[str, Answer]:
    """Let one model answer every item; the random stream of an item is the same for every model.

    Answers are kept in `answers.<stage>.jsonl`, so that an interrupted evaluation goes on with the next
    model.
    """
    path = context.run.dir / f"answers.{stage}.jsonl"
    if path.exists():
        found = read_answers(path)
        if set(found) == {item.id for item in context.items}:
            return found
    config, model = context.config, context.models[stage]
    answers: dict[str, Answer] = {}
    # Like tasks together: a batch takes as long as its longest answer.
    ordered = sorted(context.items, key=lambda item: item.task)
    chunk = 4 * config.batch_size
    with context.run.progress(f"{stage} answers", len(ordered), "items") as bar:
        for first in range(0, len(ordered), chunk):
            items = ordered[first : first + chunk]
            drawn = draw(
                context.model(stage),
                [prompt_of(item, plain=model.plain) for item in items],
                ids=[item.id for item in items],
                keys=[key("evaluate", context.seed, item.id) for item in items],
                config=config,
                plain=model.plain,
            )
            answers |= {answer.id: answer for answer in drawn}
            bar.advance(len(items))
            context.run.check_stop()
    ordered_answers = {item.id: answers[item.id] for item in context.items}
    with context.run.publish(path.name) as staging:
        write_answers(staging, ordered_answers.values())
    return ordered_answers


def draw(
    loaded: LanguageModel,
    prompts: Sequence[Any],
    *,
    ids: Sequence[str],
    keys: Sequence[int],
    config: Any,
    plain: bool,
) -> list[Answer]:
    """Let a model answer prompts as the evaluation's settings say, each with the random stream of its key.

    `ids` are those of the items that are asked; `plain` models end an answer with its line.
    """
    completions = loaded.generate(
        prompts,
        keys=keys,
        max_new_tokens=config.max_new_tokens,
        temperature=config.temperature,
        stop=PLAIN_STOP if plain else None,
        batch_size=config.batch_size,
    )
    return [
        Answer(name, done.text, done.ended, done.tokens, done.logprobs)
        for name, done in zip(ids, completions, strict=True)
    ]


def write_answers(path: Path, answers: Iterable[Answer]) -> None:
    """Write answers one a line."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for answer in answers:
            file.write(json.dumps(asdict(answer), ensure_ascii=False) + "\n")


def read_answers(path: Path) -> dict[str, Answer]:
    """Read answers by item id."""
    with path.open(encoding="utf-8", newline="\n") as file:
        answers = [Answer(**json.loads(line)) for line in file]
    return {answer.id: answer for answer in answers}
