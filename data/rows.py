"""Typed rows (text, chat, preference, item), their checks, and reading and writing them as JSON lines.

Rows are immutable; every row has an `id` and a `cluster`, the source that makes rows alike (a person, a
book, a template), which equals the id where nothing is known. A malformed row is refused with file, line and
expected schema; a sound row that cannot be used (an empty completion) is dropped and counted.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypedDict, TypeVar

from data.errors import InputError
from data.randomness import key
from data.text import OnError, read_records, shown

ROLES = ("system", "user", "assistant")


class Message(TypedDict):
    """One turn of a conversation."""

    role: str
    content: str


@dataclass(frozen=True)
class _Row:
    id: str

    def __post_init__(self) -> None:
        if not getattr(self, "cluster", None):
            object.__setattr__(self, "cluster", self.id)


@dataclass(frozen=True)
class TextRow(_Row):
    """One document of pretraining text."""

    text: str
    cluster: str = ""


@dataclass(frozen=True)
class ChatRow(_Row):
    """One conversation that ends with an assistant turn; `group` is its category where there is one."""

    messages: tuple[Message, ...]
    cluster: str = ""
    group: str = ""


@dataclass(frozen=True)
class PreferenceRow(_Row):
    """Two completions of one prompt, the better one first.

    `kind` names the contrast or the source; the gold scores are the closed world's, without label noise;
    `provenance` tells how a vote came about.
    """

    prompt: tuple[Message, ...]
    chosen: str
    rejected: str
    cluster: str = ""
    kind: str = ""
    margin: float | None = None
    chosen_gold: float | None = None
    rejected_gold: float | None = None
    provenance: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Item(_Row):
    """A prompt with what is known about it, for RL and for tests.

    `plain` is the same question as a text to be continued, for a model that knows no chat format; `truth` is
    JSON-able and read by the gold reward alone.
    """

    prompt: tuple[Message, ...]
    cluster: str = ""
    task: str = "chat"
    group: str = ""
    plain: str | None = None
    truth: dict[str, Any] = field(default_factory=dict)


Row = TextRow | ChatRow | PreferenceRow | Item
AnyRow = TypeVar("AnyRow", TextRow, ChatRow, PreferenceRow, Item)


@dataclass
class Collected:
    """What a source gives: rows by kind and split, and notes on what it dropped.

    Splits are train, valid and test; of items: rl, valid and test. `extra` maps a file name to JSON-able
    content that the corpus keeps as it is (`world.json`). `allowed_leakage` says why training rows may occur
    in the evaluation (sentences of a small grammar repeat); where it is empty, exact leakage is refused.
    `keep_duplicates` keeps identical rows, for a source in which their number carries meaning.
    """

    text: dict[str, list[TextRow]] = field(default_factory=dict)
    chat: dict[str, list[ChatRow]] = field(default_factory=dict)
    preferences: dict[str, list[PreferenceRow]] = field(default_factory=dict)
    items: dict[str, list[Item]] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)
    allowed_leakage: str = ""
    keep_duplicates: bool = False


SCHEMAS: dict[Any, str] = {
    TextRow: '{"text": string}',
    ChatRow: '{"messages": [{"role": "system"|"user"|"assistant", "content": string}, ...]}',
    PreferenceRow: '{"prompt": messages or string, "chosen": [one message] or string, "rejected": same}',
    Item: '{"prompt": messages or string, "task": string, "group": string, "plain": string or null, '
    '"truth": object}',
}

_OPTIONAL: dict[Any, dict[str, tuple[type, ...]]] = {
    TextRow: {},
    ChatRow: {"group": (str,)},
    PreferenceRow: {
        "kind": (str,),
        "margin": (int, float),
        "chosen_gold": (int, float),
        "rejected_gold": (int, float),
        "provenance": (dict,),
    },
    Item: {"task": (str,), "group": (str,), "plain": (str,), "truth": (dict,)},
}
_NEEDED: dict[Any, tuple[str, ...]] = {
    TextRow: ("text",),
    ChatRow: ("messages",),
    PreferenceRow: ("prompt", "chosen", "rejected"),
    Item: ("prompt",),
}


# --- conversations -----------------------------------------------------------------------------------------


def user(content: str) -> tuple[Message, ...]:
    """A prompt of one user turn."""
    return (Message(role="user", content=content),)


def parse_messages(value: object, *, last: str | None, what: str = "messages") -> tuple[Message, ...]:
    """Check a list of messages: an optional system turn first, then user and assistant in turn.

    `last` is the role that the last turn must have (None: any).

    Raises:
        ValueError: not such a list; says which turn and what was expected.
    """
    if not isinstance(value, list | tuple) or not value:
        raise ValueError(f"`{what}` is {shown(value)}; expected a list of at least one message")
    messages = tuple(_message(entry, f"{what}[{place}]") for place, entry in enumerate(value))
    expected = "user"
    for place, message in enumerate(messages):
        role = message["role"]
        if role == "system":
            if place:
                raise ValueError(f"`{what}[{place}]` is a system turn; only the first turn can be one")
            continue
        if role != expected:
            raise ValueError(f"`{what}[{place}]` is a turn of the {role}; expected one of the {expected}")
        expected = "assistant" if role == "user" else "user"
    if last is not None and messages[-1]["role"] != last:
        raise ValueError(
            f"`{what}` ends with a turn of the {messages[-1]['role']}; expected the {last} to be last"
        )
    return messages


def _message(value: object, what: str) -> Message:
    if not isinstance(value, Mapping) or set(value) != {"role", "content"}:
        raise ValueError(
            f'`{what}` is {shown(value)}; expected {{"role": ..., "content": ...}} and nothing else'
        )
    role, content = value["role"], value["content"]
    if role not in ROLES:
        raise ValueError(f"`{what}` has the role {shown(role)}; accepted are {', '.join(ROLES)}")
    if not isinstance(content, str):
        raise ValueError(f"`{what}` has {shown(content)} as content; expected a string")
    return Message(role=role, content=content)


def split_dialogues(
    chosen: Sequence[Message], rejected: Sequence[Message]
) -> tuple[tuple[Message, ...], str, str]:
    """Split two whole conversations that differ in the last turn alone into prompt, chosen and rejected.

    Raises:
        ValueError: they differ earlier, or do not end with a turn of the assistant.
    """
    for name, messages in (("chosen", chosen), ("rejected", rejected)):
        if not messages or messages[-1]["role"] != "assistant":
            raise ValueError(f"`{name}` does not end with a turn of the assistant")
    if list(chosen[:-1]) != list(rejected[:-1]):
        raise ValueError(
            "`chosen` and `rejected` differ before their last turn; only the last turn may differ"
        )
    return tuple(chosen[:-1]), chosen[-1]["content"], rejected[-1]["content"]


# --- one row from and to a dictionary ----------------------------------------------------------------------


def from_dict(row_type: type[AnyRow], record: object, *, default_id: str = "") -> AnyRow:
    """Make a row of a JSON object; `default_id` is used where the object has no `id`.

    Preferences are read in both of TRL's forms: strings, and lists of messages, with the prompt beside them
    or as the common beginning of both conversations.

    Raises:
        ValueError: missing, unknown or ill-typed columns; the message ends with the expected schema.
    """
    try:
        return _build(row_type, record, default_id)
    except ValueError as error:
        raise ValueError(f"{error}. Expected schema: {SCHEMAS[row_type]}") from None


def _build(row_type: type[AnyRow], record: object, default_id: str) -> AnyRow:
    if not isinstance(record, dict):
        raise ValueError(f"found {shown(record)} instead of a JSON object")
    optional: dict[str, tuple[type, ...]] = {"id": (str,), "cluster": (str,), **_OPTIONAL[row_type]}
    known = [*_NEEDED[row_type], *optional]
    unknown = sorted(set(record) - set(known))
    if unknown:
        close = difflib.get_close_matches(unknown[0], [name for name in known if name not in record], n=1)
        remedy = f"did you mean `{close[0]}`?" if close else "remove it, or name it in `ignore_columns`"
        raise ValueError(f"unknown column `{unknown[0]}`; {remedy}")
    values = {name: record[name] for name in optional if record.get(name) is not None}
    for name, value in values.items():
        if not isinstance(value, optional[name]) or isinstance(value, bool):
            raise ValueError(f"`{name}` is {shown(value)}; expected {_names(optional[name])}")
    values["id"] = values.get("id") or default_id
    if not values["id"]:
        raise ValueError("missing column `id`")
    return row_type(**values, **_contents(row_type, record))


def _names(types: tuple[type, ...]) -> str:
    return "a string" if str in types else "an object" if dict in types else "a number"


def _contents(row_type: type, record: dict[str, Any]) -> dict[str, Any]:
    if row_type is PreferenceRow and "prompt" not in record and isinstance(record.get("chosen"), list):
        pair = [
            parse_messages(record.get(name), last="assistant", what=name) for name in ("chosen", "rejected")
        ]
        prompt, chosen, rejected = split_dialogues(*pair)
        parse_messages(prompt, last="user", what="prompt")
        return {"prompt": prompt, "chosen": chosen, "rejected": rejected}
    for name in _NEEDED[row_type]:
        if name not in record:
            raise ValueError(f"missing column `{name}`")
    if row_type is TextRow:
        return {"text": _string(record["text"], "text")}
    if row_type is ChatRow:
        return {"messages": parse_messages(record["messages"], last="assistant")}
    prompt = record["prompt"]
    prompt = user(prompt) if isinstance(prompt, str) else parse_messages(prompt, last="user", what="prompt")
    if row_type is Item:
        return {"prompt": prompt}
    return {"prompt": prompt, **{name: _completion(record[name], name) for name in ("chosen", "rejected")}}


def _string(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"`{name}` is {shown(value)}; expected a string")
    return value


def _completion(value: object, name: str) -> str:
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or len(value) != 1:
        raise ValueError(f"`{name}` is {shown(value)}; expected a string or one assistant message")
    message = _message(value[0], f"{name}[0]")
    if message["role"] != "assistant":
        raise ValueError(f"`{name}[0]` is a turn of the {message['role']}; expected one of the assistant")
    return message["content"]


def to_dict(row: Row) -> dict[str, Any]:
    """Turn a row into a JSON object that `from_dict` reads back; unset optional columns are left out."""
    record: dict[str, Any] = {}
    for name, value in vars(row).items():
        if name == "cluster" and value == row.id:
            continue
        if name in _OPTIONAL[type(row)] and (value is None or value == "" or value == {}):
            continue
        if name in ("messages", "prompt"):
            value = [dict(message) for message in value]
        elif name in ("chosen", "rejected"):
            value = [{"role": "assistant", "content": value}]
        record[name] = value
    return record


# --- files -------------------------------------------------------------------------------------------------


def read_jsonl(
    path: Path, row_type: type[AnyRow], *, on_error: OnError = "stop", dropped: list[str] | None = None
) -> list[AnyRow]:
    """Read the rows of a `.jsonl` file, plain or gzip; a row without `id` takes `<file name>:<line>`.

    With `on_error="skip"` a malformed row is left out and its message appended to `dropped`.

    Raises:
        InputError: the first malformed row: file, line, what was found, the expected schema.
    """
    rows: list[AnyRow] = []
    for number, record in read_records(path, on_error=on_error, dropped=dropped):
        try:
            rows.append(from_dict(row_type, record, default_id=f"{path.name}:{number}"))
        except ValueError as error:
            message = f"{path}:{number}: {error}"
            if on_error == "stop" or dropped is None:
                raise InputError(message) from None
            dropped.append(message)
    return rows


def write_jsonl(path: Path, rows: Iterable[Row | Mapping[str, Any]]) -> int:
    """Write rows (or JSON-able mappings) one a line, atomically: staged beside `path`, synced, renamed.

    Returns the number of rows.
    """
    staged = path.with_name(path.name + ".part")
    count = 0
    try:
        with staged.open("w", encoding="utf-8", newline="\n") as file:
            for row in rows:
                record = row if isinstance(row, Mapping) else to_dict(row)
                file.write(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")
                count += 1
            file.flush()
            os.fsync(file.fileno())
        staged.replace(path)
    finally:
        staged.unlink(missing_ok=True)
    return count


# --- checks over many rows ---------------------------------------------------------------------------------


class Kept(NamedTuple):
    """Rows that passed a filter, and how many it removed by reason."""

    rows: list[Any]
    removed: dict[str, int]


def unusable(row: Row) -> str | None:
    """Say why nothing can be learnt from a sound row, or None: an empty part, or two equal completions."""
    if isinstance(row, TextRow):
        return None if row.text.strip() else "empty text"
    messages = row.messages if isinstance(row, ChatRow) else row.prompt
    prompt = messages[:-1] if isinstance(row, ChatRow) else messages
    if any(not message["content"].strip() for message in prompt if message["role"] == "user"):
        return "empty prompt"
    if isinstance(row, ChatRow) and not messages[-1]["content"].strip():
        return "empty completion"
    if isinstance(row, PreferenceRow):
        if not row.chosen.strip() or not row.rejected.strip():
            return "empty completion"
        if row.chosen == row.rejected:
            return "chosen equals rejected"
    return None


def drop_unusable(rows: Sequence[AnyRow], *, what: str, max_share: float = 0.2) -> Kept:
    """Leave out rows with an empty part or equal completions, and count them.

    Raises:
        InputError: more than `max_share` of the rows (0 to 1) are of that kind.
    """
    reasons = [unusable(row) for row in rows]
    removed = dict(Counter(reason for reason in reasons if reason is not None))
    num = sum(removed.values())
    if num > max_share * len(rows):
        raise InputError(
            f"{what}: {num} of {len(rows)} rows cannot be used ({counted(removed)}), more than the accepted "
            f"share of {max_share:g}; correct the data or raise `max_unusable_share`"
        )
    return Kept([row for row, reason in zip(rows, reasons, strict=True) if reason is None], removed)


def counted(removed: Mapping[str, int]) -> str:
    """Write counts as `empty prompt: 3, identical: 2`."""
    return ", ".join(f"{name}: {count:,}" for name, count in removed.items()) or "nothing removed"


def require_rows(rows: Sequence[object], *, what: str, removed: Mapping[str, int]) -> None:
    """Refuse an empty set of rows, saying which filter removed how many."""
    if not rows:
        raise InputError(f"{what}: no row is left ({counted(removed)}); give more data or loosen the filter")


def content_hash(row: Row) -> str:
    """Hash what a row says, apart from its id, cluster and notes."""
    if isinstance(row, TextRow):
        return _digest(row.text)
    if isinstance(row, ChatRow):
        return _digest(row.messages)
    if isinstance(row, PreferenceRow):
        return _digest((row.prompt, row.chosen, row.rejected))
    return _digest((row.prompt, row.truth))


def prompt_hash(row: Row) -> str:
    """Hash the prompt of a row: what stands before its last turn; of a document the whole text."""
    if isinstance(row, TextRow):
        return _digest(row.text)
    return _digest(row.messages[:-1] if isinstance(row, ChatRow) else row.prompt)


def _digest(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def prompt_items(rows: Iterable[ChatRow | PreferenceRow]) -> list[Item]:
    """One item for each prompt, of the first row that has it; without truth, grouped as the row is."""
    first: dict[str, ChatRow | PreferenceRow] = {}
    for row in rows:
        first.setdefault(prompt_hash(row), row)
    return [
        Item(f"{row.id}/prompt", row.messages[:-1], row.cluster, group=row.group)
        if isinstance(row, ChatRow)
        else Item(f"{row.id}/prompt", row.prompt, row.cluster, group=row.kind)
        for row in first.values()
    ]


def deduplicate(rows: Sequence[AnyRow]) -> Kept:
    """Keep the first of identical rows (by `content_hash`) and count the others."""
    first: dict[str, AnyRow] = {}
    for row in rows:
        first.setdefault(content_hash(row), row)
    num = len(rows) - len(first)
    return Kept(list(first.values()), {"identical": num} if num else {})


def split_by_hash(
    rows: Sequence[AnyRow], share: float, seed: int, *, by: Callable[[AnyRow], str] | None = None
) -> tuple[list[AnyRow], list[AnyRow]]:
    """Split into (rest, held out) by a keyed hash, so that rows that belong together stay together.

    `by` names what belongs together: the cluster where it is known, else the prompt. The side of a row
    depends on that name and the seed alone: new rows never move old ones. `share`, in [0, 1], is what is
    expected of the held-out part, not exact; but of two groups or more one at least is on either side.
    """
    assert 0 <= share <= 1, share
    name = by or (lambda row: row.cluster if row.cluster != row.id else prompt_hash(row))
    names = [name(row) for row in rows]
    keys = {group: key("split", seed, group) for group in names}
    held = {group for group, value in keys.items() if value < share * 2**63}
    if 0 < share < 1 and len(keys) > 1:
        if not held:
            held = {min(keys, key=lambda group: keys[group])}
        elif len(held) == len(keys):
            held.discard(max(keys, key=lambda group: keys[group]))
    rest = [row for row, group in zip(rows, names, strict=True) if group not in held]
    return rest, [row for row, group in zip(rows, names, strict=True) if group in held]


def leaked(
    train: Iterable[Row], evaluation: Iterable[Row], *, by: Callable[[Row], str] = content_hash
) -> list[str]:
    """The ids of training rows that also stand in the evaluation, compared by hash (contents or prompts)."""
    known = {by(row) for row in evaluation}
    return [row.id for row in train if by(row) in known]
