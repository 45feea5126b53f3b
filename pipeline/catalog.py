"""What exists: every file of the open folders and every built-in recipe, and what each setting means."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from data import open_folder
from data.errors import InputError
from pipeline.config import explain_setting, suggest
from pipeline.graph import built_in_recipes
from pipeline.recipe import RecipeSettings
from pipeline.strict_yaml import read_file

if TYPE_CHECKING:
    from pipeline.ppo_audit import Detail

FOLDERS = {
    "stages": "pipeline.stages",
    "sources": "data.sources",
    "rewards": "reward.functions",
    "evaluations": "pipeline.evals",
    "baselines": "pipeline.baselines",
}


def catalog() -> dict[str, dict[str, str]]:
    """Every recipe and every file of the open folders with its first docstring line; nothing is imported."""
    found = {"recipes": {name: _recipe_line(path) for name, path in built_in_recipes().items()}}
    for title, package in _present().items():
        folder = open_folder.folder(package)
        found[title] = {name: first_line(folder / f"{name}.py") for name in open_folder.names(package)}
    return found


def _present() -> dict[str, str]:
    return {title: package for title, package in FOLDERS.items() if find_spec(package) is not None}


def first_line(path: Path) -> str:
    """The first line of a file's docstring."""
    text = ast.get_docstring(ast.parse(path.read_bytes())) or ""
    return text.partition("\n")[0]


def _recipe_line(path: Path) -> str:
    """A recipe's description, or its first comment."""
    node, _ = read_file(path)
    items = node.value if isinstance(node.value, dict) else {}
    if "description" in items:
        return str(items["description"].value)
    lines = path.read_text(encoding="utf-8").splitlines()
    return next((line.strip("# ") for line in lines if line.startswith("#")), "")


def explain(key: str) -> dict[str, Any]:
    """Explain a setting (`sft.learning_rate`, `seed`, `learning_rate`) or a thing (`ppo`, `world`).

    A setting gives {"key", "meaning", "default", "accepts"}; a thing its docstring, inputs and settings;
    a bare setting name all settings of that name. InputError with the nearest name where there is none.
    """
    head, *rest = [part for part in key.split(".") if part] or [""]
    if not rest and head in RecipeSettings.model_fields:
        return explain_setting(RecipeSettings, [head])
    models = list(_models(head))
    if rest:
        return _setting(key, head, rest, models)
    if models:
        return _thing(head, models[0])
    everywhere = {
        name: model for name in _all_names() for model in _models(name) if head in model.model_fields
    }
    if everywhere:
        return {"settings": [_named(name, model, head) for name, model in everywhere.items()]}
    settings = [field for name in _all_names() for model in _models(name) for field in model.model_fields]
    known = [*_all_names(), *RecipeSettings.model_fields, *settings]
    raise InputError(f"nothing is called `{key}`{suggest(head, known)}; `fledge list` shows what there is")


def _all_names() -> list[str]:
    return list(dict.fromkeys(name for package in _present().values() for name in open_folder.names(package)))


def _models(name: str) -> Iterator[type[BaseModel]]:
    """The settings of every open-folder file of this name, stages first."""
    for package in _present().values():
        if name in open_folder.names(package):
            module = open_folder.load(package, name)
            if hasattr(module, "Config"):
                yield module.Config


def _setting(key: str, head: str, rest: list[str], models: list[type[BaseModel]]) -> dict[str, Any]:
    if not models:
        raise InputError(
            f"nothing is called `{head}`{suggest(head, _all_names())}; `fledge list` shows what there is"
        )
    for model in models:
        if rest[0] in model.model_fields:
            return {**explain_setting(model, rest), "key": key}
    # A stage that loads a file by name takes that file's settings too: corpus.people is the world's.
    for package in _present().values():
        if package == FOLDERS["stages"] or package not in _mentioned(head):
            continue
        for name in open_folder.names(package):
            for model in _models(name):
                if rest[0] in model.model_fields:
                    return {**explain_setting(model, rest), "key": key, "of": name}
    explain_setting(models[0], rest)  # raises, with the nearest name
    raise AssertionError(key)


def _mentioned(stage: str) -> str:
    path = open_folder.folder(FOLDERS["stages"]) / f"{stage}.py"
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _named(name: str, model: type[BaseModel], setting: str) -> dict[str, Any]:
    return {**explain_setting(model, [setting]), "key": f"{name}.{setting}"}


def _thing(name: str, model: type[BaseModel]) -> dict[str, Any]:
    import sys

    module = sys.modules[model.__module__]
    inputs = getattr(module, "INPUTS", {})
    return {
        "name": name,
        "about": (module.__doc__ or "").strip(),
        "inputs": {role: _input_words(wanted) for role, wanted in inputs.items()},
        "settings": [_named(name, model, setting) for setting in model.model_fields],
        **({"details": _details(module.details())} if hasattr(module, "details") else {}),
    }


def _details(details: Sequence[Detail]) -> list[dict[str, str]]:
    """A stage's audit, with every setting at its default."""
    kinds = {name.partition(".")[0] for detail in details for name in detail.settings}
    fields = {kind: open_folder.load(FOLDERS["stages"], kind).Config.model_fields for kind in kinds}
    defaults = {
        kind: {name: field.default for name, field in found.items()} for kind, found in fields.items()
    }
    return [{**detail._asdict(), "settings": detail.value(defaults)} for detail in details]


def _input_words(wanted: Any) -> str:
    number = "all earlier" if wanted.many else "the latest earlier"
    return f"{number} {' or '.join(wanted.kinds)}{', may be empty' if wanted.optional else ''}"
