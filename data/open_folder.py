"""Open folders: a name in a recipe is a file name, and adding a thing is one new file."""

from __future__ import annotations

import difflib
import importlib
import re
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from data.errors import InputError

_NAME = re.compile(r"[a-z][a-z0-9_]*\Z")


def folder(package: str) -> Path:
    """Where the files of an open folder lie."""
    spec = find_spec(package)
    places = list(spec.submodule_search_locations or ()) if spec else []
    assert places, f"{package} is no package"
    return Path(places[0])


def names(package: str) -> list[str]:
    """The names in an open folder such as "data.sources", sorted; nothing is imported."""
    return sorted(path.stem for path in folder(package).glob("*.py") if _NAME.match(path.stem))


def load(package: str, name: str) -> ModuleType:
    """Import one file of an open folder; InputError with the nearest name where there is none."""
    known = names(package)
    if name not in known:
        raise InputError(f"no `{name}` in {package.replace('.', '/')}{_nearest(name, known)}")
    return importlib.import_module(f"{package}.{name}")


def _nearest(name: str, known: Iterable[str]) -> str:
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean `{close[0]}`?" if close else ""
    return f"{hint} (there are: {', '.join(known)})"
