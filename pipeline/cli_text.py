"""What the commands print: JSON, or the same in words."""

from __future__ import annotations

import json
from typing import Any


def answer(found: Any, as_json: bool, text: Any) -> None:
    """Print what was found, as JSON or as a text made of it."""
    if as_json:
        print_json(found)
    else:
        print(text(found))


def print_json(value: Any) -> None:
    """Print a value as JSON."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def format_catalog(found: dict[str, dict[str, str]]) -> str:
    """What there is, under its titles."""
    width = max(len(name) for items in found.values() for name in items) if any(found.values()) else 0
    blocks = [
        "\n".join([title, *(f"  {name:<{width}}  {line}" for name, line in items.items())])
        for title, items in found.items()
    ]
    return "\n\n".join(blocks)


def format_explanation(found: dict[str, Any]) -> str:
    """A setting, or a thing with its settings."""
    if "meaning" in found:
        of = f" (of {found['of']})" if "of" in found else ""
        default = found["default"] if isinstance(found["default"], str) else json.dumps(found["default"])
        return f"{found['key']}{of}: {found['meaning']}\n  accepts {found['accepts']}; default {default}"
    blocks = [found["about"]] if "about" in found else []
    blocks += [f"input {role}: {words}" for role, words in found.get("inputs", {}).items()]
    blocks.append("\n".join(map(format_explanation, found["settings"])))
    blocks += [
        f"{row['what']}\n  {row['settings']}; {row['source']}; tests/{row['test']}"
        for row in found.get("details", ())
    ]
    return "\n\n".join(blocks)


def format_check(found: dict[str, Any]) -> str:
    """What a check of a file found."""
    lines = [f"{found['file']}: {found['num_rows']:,} rows of {found['schema']}"]
    lines += [f"{found['num_identical']:,} identical rows"] if found["num_identical"] else []
    for kind in ("malformed", "unusable"):
        lines += [f"{kind}: {problem}" for problem in found[kind][:20]]
        lines += [f"... and {len(found[kind]) - 20:,} more"] if len(found[kind]) > 20 else []
    lines += ["no row to use: give a file that holds some"] if not found["num_rows"] else []
    return told("\n".join(lines))


def told(text: str) -> str:
    """A text for the terminal: without secrets, and without characters of somebody's file that could act."""
    from pipeline.chat.sanitise import inert
    from pipeline.config import redact_text

    return inert(redact_text(text))
