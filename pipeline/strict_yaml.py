"""A strict YAML reader: every value knows its place, nothing is guessed, nothing is executed.

Scalars follow YAML 1.2 (`1e-5` is a number; `no`, `on`, `012` and `12:30` are text). Aliases, anchors, tags,
directives, several documents, tabs, duplicate keys, deep or huge input are refused from the event stream,
before any object is built.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

from data.errors import InputError

MAX_BYTES = 256 * 1024  # the largest built-in recipe has under 4 kB
MAX_DEPTH = 24
MAX_NODES = 20_000

_INT = re.compile(r"[-+]?(0|[1-9][0-9]{0,999})\Z", re.ASCII)
_FLOAT = re.compile(
    r"(?=.*[.eE])[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]{1,9})?\Z", re.ASCII
)
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff\ufffe\uffff]")
_WORDS = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), float("inf")),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), float("-inf")),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}


@dataclass(frozen=True)
class Node:
    """A YAML value with its place: `value` is a scalar, a list of nodes or a dict of nodes by key.

    `place` reads "recipe.yaml:7" or "--set sft.epochs=2"; `text` is an unquoted scalar as it was written;
    `keys` maps each key of a mapping to its own place.
    """

    value: Any
    place: str
    text: str | None = None
    keys: dict[str, str] | None = None

    def plain(self) -> Any:
        """The value without places."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value

    def as_text(self) -> Node:
        """The same scalar read as text, where it was not quoted."""
        return self if self.text is None else replace(self, value=self.text)

    def shown(self) -> str:
        """The value for a message, shortened."""
        text = repr(self.plain()) if self.text is None else f"`{self.text}`"
        return text if len(text) <= 80 else text[:77] + "..."


def read_file(path: Path) -> tuple[Node, list[str]]:
    """Read a YAML file; see `read`."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(
                f"{path}: has {path.stat().st_size:,} bytes; a recipe has at most {MAX_BYTES:,}. Shorten it."
            )
        raw = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    return read(raw, path.name)


def read(raw: bytes | str, source: str) -> tuple[Node, list[str]]:
    """Read one YAML document into a node and a list of problems beside which the rest is readable.

    Raises InputError where the text cannot be read on: syntax, encoding, aliases, tags, tabs, size, depth.
    """
    import yaml

    text = _decode(raw, source)
    reader = _Reader(source)
    try:
        events = yaml.parse(text, Loader=yaml.SafeLoader)
        node = reader.document(events)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise InputError(f"{source}:{line}: not valid YAML: {error.problem or error.context}") from error
    except yaml.YAMLError as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{source}: not valid YAML: {reason}") from error
    return node, reader.problems


def _decode(raw: bytes | str, source: str) -> str:
    if len(raw) > MAX_BYTES:
        raise InputError(f"{source}: has {len(raw):,} bytes; at most {MAX_BYTES:,} are read. Shorten it.")
    if isinstance(raw, bytes):
        try:
            raw = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            line = error.object.count(b"\n", 0, error.start) + 1
            raise InputError(
                f"{source}:{line}: byte {error.start} (0x{error.object[error.start]:02x}) is not UTF-8; "
                "save it so"
            ) from error
    text = raw.removeprefix("\ufeff")
    if (found := _UNPRINTABLE.search(text)) is not None:
        line = text.count("\n", 0, found.start()) + 1
        raise InputError(
            f"{source}:{line}: the character U+{ord(found[0]):04X} cannot stand in YAML; remove it, or write it "
            "as an escape in double quotes"
        )
    tabs = [str(number) for number, line in enumerate(text.split("\n"), 1) if "\t" in line]
    if tabs:
        raise InputError(
            f"{source}:{tabs[0]}: a tab (line {', '.join(tabs[:10])}); use spaces, or \\t in double quotes"
        )
    return text


class _Reader:
    def __init__(self, source: str) -> None:
        self.source, self.problems, self.count = source, list[str](), 0

    def document(self, events: Iterator[Any]) -> Node:
        import yaml

        node = None
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                if node is not None:
                    self.refuse(event, "a second document; one recipe is one document, remove the `---`")
                if event.version or event.tags:
                    self.refuse(event, "a directive (`%...`); remove it")
                node = self.value(next(events), events, 0)
        if node is None:
            raise InputError(f"{self.source}: is empty; a recipe needs `name` and `stages`")
        return node

    def value(self, event: Any, events: Iterator[Any], depth: int) -> Node:
        import yaml

        self.count += 1
        if depth > MAX_DEPTH:
            self.refuse(event, f"nested deeper than {MAX_DEPTH} levels; flatten it")
        if self.count > MAX_NODES:
            self.refuse(event, f"more than {MAX_NODES:,} values; shorten it")
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            self.refuse(event, "an anchor or alias (`&`, `*`); write the value out, or quote the text")
        if event.tag is not None:
            self.refuse(event, f"a tag (`{event.tag}`); write the plain value, or quote the text")
        if isinstance(event, yaml.ScalarEvent):
            return self.scalar(event)
        if isinstance(event, yaml.SequenceStartEvent):
            items = []
            while not isinstance(item := next(events), yaml.SequenceEndEvent):
                items.append(self.value(item, events, depth + 1))
            return Node(items, self.place(event))
        return self.mapping(event, events, depth)

    def mapping(self, start: Any, events: Iterator[Any], depth: int) -> Node:
        import yaml

        items: dict[str, Node] = {}
        keys: dict[str, str] = {}
        while not isinstance(event := next(events), yaml.MappingEndEvent):
            if not isinstance(event, yaml.ScalarEvent):
                self.refuse(event, "a key that is not plain text")
            self.value(event, events, depth)  # the checks of anchors and tags
            key, place = event.value, self.place(event)
            if key in items:
                first = keys[key].rpartition(":")[2]
                self.problems.append(f"{place}: `{key}` is given twice, first in line {first}; remove one")
            item = self.value(next(events), events, depth + 1)
            items.setdefault(key, item)
            keys.setdefault(key, place)
        return Node(items, self.place(start), keys=keys)

    def scalar(self, event: Any) -> Node:
        text: str = event.value
        if any("\ud800" <= character <= "\udfff" for character in text):
            self.refuse(event, "a lone surrogate; write the character itself")
        if event.style is not None:
            return Node(text, self.place(event))
        return Node(resolve(text), self.place(event), text)

    def place(self, event: Any) -> str:
        return f"{self.source}:{event.start_mark.line + 1}"

    def refuse(self, event: Any, found: str) -> NoReturn:
        raise InputError(f"{self.place(event)}: {found}")


def resolve(text: str) -> Any:
    """Resolve an unquoted scalar by YAML 1.2: null, true, false, decimal integers, floats; all else is text.

    An exponent that gives a whole number gives an integer (`1e5`). Differs from YAML 1.2: a number with a
    leading zero and the forms `0o7` and `0x1f` stay text.
    """
    if text in _WORDS:
        return _WORDS[text]
    if _INT.match(text):
        return int(text)
    if _FLOAT.match(text):
        number = float(text)
        return int(number) if abs(number) < 1e15 and number == int(number) and "e" in text.lower() else number
    return text
