"""A stage's key: what its result depends on, and in words what changed between two of them.

The key hashes the resolved settings, the stage's name, seed and number format, the keys of its inputs, the
digests of the data files that it reads, and the digests of the project modules that its file imports,
transitively and wherever in the file the import stands. Imports under `if TYPE_CHECKING` never run and do not
count. A module of an open folder that is loaded by name counts when a setting names it; files beside an
imported module that are not Python (a template, a word list) count with it.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from data import open_folder
from pipeline.checkpoint import sha256

ROOTS = ("data", "reward", "pipeline")
_IMPORT = re.compile(
    r"^[ \t]*((?:from[ \t]+[.\w]+[ \t]+import[ \t]+(?:\([^)]*\)|[\w*, ]+)|import[ \t]+[\w., ]+?)[ \t]*)(?:#.*)?$",
    re.M,
)
_FOR_TYPES = re.compile(
    r"^([ \t]*)if (?:typing\.)?TYPE_CHECKING:[^\n]*\n(?:\1[ \t]+[^\n]*\n|[ \t]*\n)*", re.M
)
# A quoted dotted name, also at the start of an f-string, such as that of an open folder to load from.
_DOTTED = re.compile(r"""["']([a-z_]+(?:\.[a-z_]+)+)\.?["'{]""")
Parts = dict[str, Any]


def key_of(parts: Mapping[str, Any]) -> str:
    """Hash the parts of a key to 32 hexadecimal digits; the order of its parts does not matter."""
    text = json.dumps({name: parts[name] for name in sorted(parts)}, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def file_digests(paths: Iterable[Path], data_root: Path | None) -> dict[str, str]:
    """SHA-256 of each file by its path under the data root, or by its name where it lies elsewhere."""
    digests: dict[str, str] = {}
    for path in paths:
        inside = data_root is not None and path.resolve().is_relative_to(data_root.resolve())
        label = (
            path.resolve().relative_to(data_root.resolve()).as_posix() if data_root and inside else path.name
        )
        while label in digests:
            label += "+"
        digests[label] = sha256(path)
    return digests


def code_digests(module: str, config: Any, also: Iterable[str] = ()) -> dict[str, str]:
    """SHA-256 of every project file that the result of a stage module depends on, by path.

    `also` names modules that the stage loads under this config although no setting names them.
    """
    reached, queue, named = set[str](), [module, *also], set(_strings(config))
    package = module.rpartition(".")[0]
    while queue:
        name = queue.pop()
        if not name or name in reached:
            continue
        reached.add(name)
        path = _module_path(name)
        if path is None:
            continue
        queue.append(name.rpartition(".")[0])  # importing a module runs its package first
        imported, mentioned = _dependencies(name, path)
        queue.extend(imported - reached)
        for folder in mentioned:
            if folder != package:
                queue.extend(f"{folder}.{stem}" for stem in _loaded(folder, named))
    return _digests(reached)


def _digests(modules: Iterable[str]) -> dict[str, str]:
    digests: dict[str, str] = {}
    for name in sorted(modules):
        path = _module_path(name)
        if path is None:
            continue
        digests[_label(name, path)] = _hash(path)
        if path.name != "__init__.py":
            parent = name.rpartition(".")[0]
            others = _contents(path.parent)
            digests.update((_label(f"{parent}.{other.name}", other), _hash(other)) for other in others)
    return dict(sorted(digests.items()))


@cache
def _contents(folder: Path) -> list[Path]:
    """The files beside a module that are not Python; every stage asks for the same folders."""
    return [path for path in folder.iterdir() if _is_content(path) and path.is_file()]


def _is_content(path: Path) -> bool:
    return path.suffix not in (".py", ".pyc", ".pyi", ".so", ".typed") and not path.name.startswith(".")


def _label(name: str, path: Path) -> str:
    """The path below the folder of the top-level package, such as "pipeline/rl.py"."""
    root = _module_path(name.partition(".")[0])
    assert root is not None
    return path.relative_to(root.parent.parent).as_posix()


@cache
def _hash(path: Path) -> str:
    return sha256(path)[:16]


@cache
def _root_folder(root: str) -> Path | None:
    spec = find_spec(root)
    found = list(spec.submodule_search_locations or ()) if spec else []
    return Path(found[0]) if found else None


@cache
def _module_path(name: str) -> Path | None:
    """The file of a project module, found without importing it; None for what is no module of the project."""
    root, *parts = name.split(".")
    folder = _root_folder(root)
    if folder is None:
        return None
    path = folder.joinpath(*parts)
    if (path / "__init__.py").is_file():
        return path / "__init__.py"
    return path.with_suffix(".py") if parts and path.with_suffix(".py").is_file() else None


@cache
def _dependencies(name: str, path: Path) -> tuple[frozenset[str], frozenset[str]]:
    """Project modules that a file imports, and the open folders that it loads from by name."""
    roots = {*ROOTS, name.partition(".")[0]}
    source = path.read_text(encoding="utf-8")
    imported: set[str] = set()
    for node in running_imports(source):
        if isinstance(node, ast.Import):
            imported.update(alias.name for alias in node.names)
        else:
            base = _absolute(name, path, node)
            imported.add(base)
            imported.update(f"{base}.{alias.name}" for alias in node.names)
    modules = {module for module in imported if module.partition(".")[0] in roots and _module_path(module)}
    folders = {text for text in _DOTTED.findall(source) if _is_open_folder(text, roots)}
    return frozenset(modules), frozenset(folders)


def _is_open_folder(text: str, roots: set[str]) -> bool:
    path = _module_path(text) if text.partition(".")[0] in roots else None
    return path is not None and path.name == "__init__.py"


def running_imports(source: str) -> list[ast.Import | ast.ImportFrom]:
    """The imports of a file wherever they stand, but those under `if TYPE_CHECKING`.

    Only lines that can be imports are parsed: whole files take a third of the time that a plan may take. An
    import that stands in a text counts too, which is the safe side.
    """
    found = _IMPORT.findall(_FOR_TYPES.sub("", source))
    try:
        statements = ast.parse("\n".join(found)).body
    except SyntaxError:  # a line of text that only looks like an import
        statements = list(ast.walk(ast.parse(source)))  # type: ignore[arg-type]
    return [node for node in statements if isinstance(node, ast.Import | ast.ImportFrom)]


def _absolute(name: str, path: Path, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    base = package[: len(package) - node.level + 1]
    return ".".join([*base, node.module] if node.module else base)


def _loaded(folder: str, named: set[str]) -> list[str]:
    """The files of an open folder that a setting names; all of them where none is named."""
    known = open_folder.names(folder)
    return [stem for stem in known if stem in named] or known


def _strings(value: Any) -> Iterable[str]:
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield str(name)
            yield from _strings(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _strings(item)
    elif isinstance(value, str):
        yield value


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What changed between the parts of two keys, in words: "learning_rate 1e-4 -> 5e-5"."""
    reasons = _changed(_flat(old.get("config", {})), _flat(new.get("config", {})))
    for name in sorted(set(new) - {"config", "inputs", "files", "code"}):
        if old.get(name) != new.get(name):
            reasons.append(f"{name} {shown(old.get(name))} -> {shown(new.get(name))}")
    reasons += _changed_inputs(old.get("inputs", {}), new.get("inputs", {}))
    for part, words in (("files", "data file"), ("code", "code of")):
        before, after = old.get(part, {}), new.get(part, {})
        for name in sorted({*before, *after}):
            if before.get(name) != after.get(name):
                verb = "is new" if name not in before else "is gone" if name not in after else "changed"
                reasons.append(f"{words} {name} {verb}")
    return reasons


def _changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    reasons = []
    for name in [*new, *(name for name in old if name not in new)]:
        if name not in old:
            reasons.append(f"{name} is new: {shown(new[name])}")
        elif name not in new:
            reasons.append(f"{name} {shown(old[name])} is gone")
        elif old[name] != new[name]:
            reasons.append(f"{name} {shown(old[name])} -> {shown(new[name])}")
    return reasons


def _changed_inputs(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    reasons = []
    for role in sorted({*old, *new}):
        before, after = dict(old.get(role, [])), dict(new.get(role, []))
        if list(before) != list(after):
            reasons.append(f"input {role} {', '.join(before) or 'none'} -> {', '.join(after) or 'none'}")
        reasons += [
            f"input {name} changed" for name in after if name in before and before[name] != after[name]
        ]
    return list(dict.fromkeys(reasons))


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping) and value:
        flat: dict[str, Any] = {}
        for name, item in value.items():
            flat.update(_flat(item, f"{prefix}.{name}" if prefix else str(name)))
        return flat
    return {prefix: value} if prefix else {}


def shown(value: Any) -> str:
    """A setting as one writes it in YAML: 1e-4 rather than 0.0001, null, true."""
    if isinstance(value, float) and value and not 1e-3 <= abs(value) < 1e7:
        shortest = next(text for num in range(18) if float(text := f"{value:.{num}e}") == value)
        mantissa, exponent = shortest.split("e")
        return f"{mantissa}e{int(exponent)}"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
