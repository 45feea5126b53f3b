"""Typed settings from YAML: every problem at once, each with its place, what was found and a fix."""

from __future__ import annotations

import difflib
import json
import re
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from data.errors import InputError
from data.settings import Settings
from pipeline.strict_yaml import Node, read, read_file

__all__ = ["Node", "Settings", "explain_setting", "load_yaml", "redact", "redact_text", "suggest", "validate"]

REDACTED = "<redacted>"
# Of a key in snake case and small letters.
_SECRET_KEY = re.compile(
    r"(^|_)(password|passwd|passphrase|secret|api_?key|access_?key|private_?key|credentials?|auth|authorization|bearer)"
    r"($|_)|(^|(^|_)(hf|hub|api|access|refresh|user)_)token$"
)
_NEW_WORD = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|-")
_SECRET_TEXT = re.compile(
    r"\b(hf_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_-]{16,}|gh[pousr]_[A-Za-z0-9]{16,}|github_pat_\w{16,}|AKIA[0-9A-Z]{16}"
    r"|xox[abpr]-[A-Za-z0-9-]{10,})|(?<=://)[^/\s:@]+:[^/\s@]+(?=@)"
)
Model = TypeVar("Model", bound=BaseModel)

# Pydantic's errors that a scalar read as text may mend: `012` or `true` where text is meant.
_WANTS_TEXT = ("string_type", "literal_error", "enum", "path_type", "string_sub_type")


def load_yaml(source: Path | str) -> tuple[Node, list[str]]:
    """Read a file (Path) or a text (str) strictly: the tree with places, and the problems beside it."""
    return read_file(source) if isinstance(source, Path) else read(source, "text")


def suggest(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean `x`?" for the closest known name, else an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean `{close[0]}`?" if close else ""


def validate(
    model: type[Model],
    node: Node,
    where: str,
    *,
    elsewhere: Callable[[str], str | None] = lambda key: None,
) -> tuple[Model | None, list[str]]:
    """Validate a mapping against a model: the settings, or None with every problem in words.

    `where` names the section ("stages.sft"); `elsewhere` tells, for an unknown key, which section has it.
    Types are strict: text is no number and true is no number, but an unquoted scalar is text where text
    is meant.
    """
    if not isinstance(node.value, dict):
        return None, [f"{node.place}: {where} must be `key: value` lines; found {node.shown()}"]
    try:
        return model.model_validate_json(_json(node), strict=True), []
    except ValidationError as error:
        first = error
    for problem in first.errors():
        if problem["type"] in _WANTS_TEXT:
            node = _with_text(node, problem["loc"])
    try:
        return model.model_validate_json(_json(node), strict=True), []
    except ValidationError as error:
        # Members of a union report one by one: keep the first problem of each place.
        problems = {_locate(node, item["loc"]): item for item in reversed(error.errors())}
        places = list(problems)
        # A list of which no item is sound is not called empty besides.
        found = [
            item
            for place, item in reversed(problems.items())
            if not (
                item["type"] == "too_short" and any(place == other[: len(place)] != other for other in places)
            )
        ]
        found += _broken_rules(model, node, [item["loc"][0] for item in found if item["loc"]])
        texts = [_explain_problem(model, node, item, where, elsewhere) for item in found]
        return None, [redact_text(text) for text in texts]


def _broken_rules(model: type[BaseModel], node: Node, bad: Sequence[int | str]) -> list[Any]:
    """Rules between sound settings that are broken beside the bad ones, for which defaults stand here."""
    if not bad or not isinstance(node.value, dict):
        return []
    sound = replace(node, value={key: item for key, item in node.value.items() if key not in bad})
    try:
        model.model_validate_json(_json(sound), strict=True)
    except ValidationError as error:
        return [
            item
            for item in error.errors()
            if not item["loc"]
            and not any(re.search(rf"\b{re.escape(str(key))}\b", item["msg"]) for key in bad)
        ]
    return []


def _json(node: Node) -> str:
    return json.dumps(node.plain(), ensure_ascii=False)


def _locate(node: Node, location: Sequence[int | str]) -> tuple[int | str, ...]:
    """The part of a pydantic location that names places in the tree, without the names of union members."""
    found: list[int | str] = []
    for part in location:
        known: Any = range(len(node.value)) if isinstance(node.value, list) else node.value
        if isinstance(node.value, dict | list) and part in known:
            children: Any = node.value
            node = children[part]
            found.append(part)
    return tuple(found)


def _at(node: Node, location: Sequence[int | str]) -> Node:
    for part in location:
        children: Any = node.value
        node = children[part]
    return node


def _with_text(node: Node, location: Sequence[int | str]) -> Node:
    """The tree with the unquoted scalar at a location read as text."""
    path = _locate(node, location)
    if not path:
        return node.as_text() if not isinstance(node.value, dict | list) and node.value is not None else node
    inner = _with_text(node.value[path[0]], path[1:])
    if isinstance(node.value, dict):
        return replace(node, value={**node.value, path[0]: inner})
    return replace(node, value=[inner if index == path[0] else item for index, item in enumerate(node.value)])


def _explain_problem(
    model: type[BaseModel],
    root: Node,
    problem: Any,
    where: str,
    elsewhere: Callable[[str], str | None],
) -> str:
    location = problem["loc"]
    path = _locate(root, location)
    node = _at(root, path)
    name = ".".join([where, *map(str, path)])
    message = problem["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    message = message.replace("a valid array", "a list").replace("a valid dictionary", "a mapping")
    message = re.sub(r"^(?:Tuple|List) should have (.*) after validation", r"must have \1", message)
    if problem["type"] == "extra_forbidden":
        parent, key = _at(root, path[:-1]), str(path[-1])
        place = (parent.keys or {}).get(key, node.place)
        section = ".".join([where, *map(str, path[:-1])])
        fields = _fields_at(model, path[:-1])
        hint = elsewhere(key) if len(path) == 1 else None
        hint = f"; {hint}" if hint else suggest(key, fields) or f"; it has {_listed(fields)}"
        return f"{place}: {section} has no setting `{key}`{hint}"
    if problem["type"] == "missing":
        return f"{node.place}: {name} needs `{location[-1]}`: {_meaning(model, location)}"
    if isinstance(node.value, dict) and path == () and not location:
        return f"{node.place}: {where}: {message}"
    found = REDACTED if path and _SECRET_KEY.search(str(path[-1])) else node.shown()
    choices = re.findall(r"'([^']+)'", message) if problem["type"] == "literal_error" else []
    return f"{node.place}: {name} {_sentence(message)}; found {found}{suggest(str(node.plain()), choices)}"


def _sentence(message: str) -> str:
    return message if message.startswith("must") else f"is not accepted: {message[:1].lower()}{message[1:]}"


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(f"`{name}`" for name in sorted(names)[:12])
    return shown + (", ..." if len(names) > 12 else "") if names else "no settings"


def _fields_at(model: type[BaseModel], path: Sequence[int | str]) -> list[str]:
    inner = _model_at(model, path)
    return list(inner.model_fields) if inner else []


def _model_at(model: type[BaseModel] | None, path: Sequence[int | str]) -> type[BaseModel] | None:
    for part in path:
        if isinstance(part, str) and model is not None and part in model.model_fields:
            model = _model_in(model.model_fields[part].annotation)
    return model


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The first settings class inside an annotation such as `tuple[Term, ...] | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = (_model_in(argument) for argument in typing.get_args(annotation))
    return next((inner for inner in found if inner is not None), None)


def _meaning(model: type[BaseModel], location: Sequence[int | str]) -> str:
    inner = _model_at(model, location[:-1])
    field = inner.model_fields.get(str(location[-1])) if inner else None
    return (field.description if field else None) or "no meaning is given"


def explain_setting(model: type[BaseModel], path: Sequence[str]) -> dict[str, Any]:
    """Meaning, type, default and range of a setting as {"key", "meaning", "default", "accepts"}.

    Raises InputError with the nearest name when the model has no such setting.
    """
    inner = _model_at(model, path[:-1])
    if inner is None or path[-1] not in inner.model_fields:
        fields = _fields_at(model, path[:-1])
        raise InputError(
            f"no setting `{'.'.join(path)}`{suggest(path[-1], fields)}; it has {_listed(fields)}"
        )
    field = inner.model_fields[path[-1]]
    default = "required" if field.is_required() else field.get_default(call_default_factory=True)
    return {
        "key": ".".join(path),
        "meaning": field.description or "",
        "default": default.model_dump(mode="json") if isinstance(default, BaseModel) else default,
        "accepts": accepted(field.annotation, field.metadata),
    }


def accepted(annotation: Any, metadata: Sequence[Any] = ()) -> str:
    """What a setting accepts, in words: its choices or type, and its range."""
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<=", "multiple_of": "a multiple of"}
    limits = [
        f"{sign} {getattr(item, name)}"
        for item in metadata
        for name, sign in signs.items()
        if hasattr(item, name)
    ]
    for item in metadata:
        if getattr(item, "min_length", None):
            limits.append(f"at least {item.min_length} long")
        if getattr(item, "max_length", None):
            limits.append(f"at most {item.max_length} long")
    return ", ".join([_type_name(annotation), *limits])


def _type_name(annotation: Any) -> str:
    words = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "null"}
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation in words:
        return words[annotation]
    if origin is typing.Literal:
        return " | ".join(str(argument) for argument in arguments)
    if origin is typing.Annotated:
        return accepted(arguments[0], arguments[1:])
    if origin in (tuple, list, Sequence):
        return f"a list of {_type_name(arguments[0])}"
    if origin in (dict, Mapping):
        return f"a mapping of {_type_name(arguments[0])} to {_type_name(arguments[1])}"
    if arguments:
        return " or ".join(_type_name(argument) for argument in arguments)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"settings ({', '.join(annotation.model_fields)})"
    return getattr(annotation, "__name__", str(annotation))


def redact(value: Any, key: str = "") -> Any:
    """Replace secrets in plain data: text under a key that names one, and text that has the form of one."""
    if isinstance(value, Mapping):
        return {name: redact(item, str(name)) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [redact(item, key) for item in value]
    if isinstance(value, str):
        snake = _NEW_WORD.sub("_", key).lower()
        return REDACTED if value and _SECRET_KEY.search(snake) else redact_text(value)
    return value


def redact_text(text: str) -> str:
    """Replace tokens and passwords that are recognisable by their form."""
    return _SECRET_TEXT.sub(REDACTED, text)
