"""From a recipe's text to validated stages: built-in names, `--set`, settings, inputs, cross-checks, files.

Everything that can be wrong with a recipe is found here, all of it at once, before any work.
"""

from __future__ import annotations

import inspect
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from data import open_folder
from data.errors import InputError
from data.settings import Settings
from pipeline.config import REDACTED, redact, suggest, validate
from pipeline.recipe import Input, Recipe, RecipeSettings, Reference, StageSpec
from pipeline.run_directory import check_name, find_stage
from pipeline.strict_yaml import Node, read, read_file, resolve

STAGES = "pipeline.stages"
SETTABLE = ("seed", "seeds", "data_root", "budget", "gates", "precision")
_STAGE_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}\Z")


def built_in_recipes() -> dict[str, Path]:
    """The recipes that come with the project, by name."""
    return {path.stem: path for path in sorted(open_folder.folder("configs").glob("*.yaml"))}


def find_recipe(source: str) -> Path:
    """The file of a recipe: a path, the folder of a run (its recipe.yaml), or a built-in name."""
    path, known = Path(source), built_in_recipes()
    if path.suffix in (".yaml", ".yml") or os.sep in source:
        path = path / "recipe.yaml" if path.is_dir() else path
        if path.is_file():
            return path
        raise InputError(f"no recipe at {source}; give a YAML file or a built-in name: {', '.join(known)}")
    if source in known:
        return known[source]
    raise InputError(
        f"no recipe `{source}`{suggest(source, known)} (built in: {', '.join(known)}; or a path)"
    )


def load_recipe(
    source: str | Path, changes: Sequence[str] = (), *, runs_dir: Path = Path("runs"), package: str = STAGES
) -> Recipe:
    """Read and validate a recipe with its `--set` changes; InputError holds every problem found."""
    path = source if isinstance(source, Path) else find_recipe(source)
    root, problems = read_file(path)
    if not isinstance(root.value, dict):
        raise InputError(f"{root.place}: a recipe is `key: value` lines with `name` and `stages`")
    root = _apply_changes(root, changes, problems)
    recipe = _Builder(root, runs_dir, package, problems).build()
    if problems or recipe is None:
        raise InputError(sorted(dict.fromkeys(problems), key=_line))
    return replace(recipe, source=str(path), changes=tuple(redact_change(change) for change in changes))


def changed_settings(stage: str, settings: Mapping[str, Any], changes: Sequence[str]) -> Node:
    """The settings of one stage with `--set` changes, each KEY=VALUE or STAGE.KEY=VALUE.

    Raises:
        InputError: a change that is none, or that leads through a single value.
    """
    root, problems = read(json.dumps({"stages": {stage: settings}}), stage)
    whole = [change if change.startswith(f"{stage}.") else f"{stage}.{change}" for change in changes]
    root = _apply_changes(root, whole, problems)
    if problems:
        raise InputError(problems)
    found: Node = root.value["stages"].value[stage]
    return found


def redact_change(change: str) -> str:
    """A `--set` text without secrets."""
    key, _, text = change.partition("=")
    try:
        value = read(text, "--set")[0].plain()
    except InputError:
        value = text
    value = value if isinstance(value, dict | list) else text
    hidden = redact(value, key.strip().rpartition(".")[2])
    return change if hidden == value else f"{key}={hidden if isinstance(hidden, str) else json.dumps(hidden)}"


def data_root_of(given: str | None) -> Path | None:
    """The folder of real data: the one given, else that of FLEDGE_DATA; relative to the working directory."""
    wanted = given or os.environ.get("FLEDGE_DATA") or None
    if wanted is None:
        return None
    path = Path(wanted).expanduser()
    if not path.is_dir():
        name = "data_root" if given else "FLEDGE_DATA"
        raise InputError(
            f"{name} is {wanted!r}, which is no folder; name the folder that holds the data sets"
        )
    return path


def resolved(recipe: Recipe, precision: str, seed: int | None = None) -> dict[str, Any]:
    """The recipe as plain data with every default and input written out; it loads to the same stages."""
    settings = redact(recipe.settings.model_dump(mode="json", exclude_none=True))
    if not settings["description"]:
        del settings["description"]
    settings["precision"] = precision
    settings.pop("seed" if "seeds" in settings else "seeds", None)
    if seed is not None and "seeds" in settings:  # one of several chains: `seed` stands where `seeds` stood
        named = {"seeds": "seed"}
        settings = {
            named.get(name, name): seed if name == "seeds" else item for name, item in settings.items()
        }
    stages: dict[str, Any] = {}
    for spec in recipe.stages:
        section: dict[str, Any] = {} if spec.kind == spec.name else {"stage": spec.kind}
        for role, value in spec.inputs.items():
            section[role] = (
                [str(item) for item in value] if isinstance(value, tuple) else value and str(value)
            )
        stages[spec.name] = {**section, **redact(spec.config.model_dump(mode="json"))}
    return {**settings, "stages": stages}


def dump_yaml(value: Any) -> str:
    """YAML that the strict reader reads back to equal data."""
    import yaml

    class _Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True

        def represent_str(self, data: str) -> Any:
            """Text that reads back as a number here, though not in YAML 1.1 (`0E0`), is quoted."""
            style = None if resolve(data) == data else '"'
            return self.represent_scalar("tag:yaml.org,2002:str", data, style)

    _Dumper.add_representer(str, _Dumper.represent_str)
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, width=100)


def _line(problem: str) -> int:
    found = re.match(r"[^:]*:([0-9]+): ", problem)
    return int(found[1]) if found else 10**9


def _apply_changes(root: Node, changes: Sequence[str], problems: list[str]) -> Node:
    for change in changes:
        key, equals, text = change.partition("=")
        path = key.strip().split(".")
        if not equals or not text.strip() or not all(path):
            problems.append(f"--set {redact_change(change)}: needs KEY=VALUE, such as sft.epochs=2 or seed=1")
            continue
        try:
            value, found = read(text.strip(), f"--set {key.strip()}")
        except InputError as error:
            problems.append(f"{error}; quote text with special characters: --set {key}=\"'...'\"")
            continue
        problems.extend(found)
        path = path[1:] if path[0] == "stages" and len(path) > 2 else path
        problem = _unknown_target(root, path)
        if problem:
            problems.append(f"--set {key.strip()}: {problem}")
            continue
        root = _changed(root, path if len(path) == 1 else ["stages", *path], _placed(value, key.strip()))
    return root


def _placed(node: Node, key: str) -> Node:
    value = node.value
    if isinstance(value, dict):
        value = {name: _placed(item, key) for name, item in value.items()}
    elif isinstance(value, list):
        value = [_placed(item, key) for item in value]
    keys = dict.fromkeys(node.keys, f"--set {key}") if node.keys is not None else None
    return replace(node, value=value, place=f"--set {key}", keys=keys)


def _unknown_target(root: Node, path: Sequence[str]) -> str | None:
    section = root.value.get("stages")
    stages = list(section.value) if section is not None and isinstance(section.value, dict) else []
    if len(path) > 1 and path[0] in stages:
        return _no_section(root.value["stages"].value[path[0]], path)
    if len(path) > 1:
        hint = suggest(path[0], stages) or f"; there are {', '.join(stages)}"
        return f"the recipe has no stage `{path[0]}`{hint}"
    if path[0] in SETTABLE:
        return None
    if path[0] in stages:
        return f"`{path[0]}` is a stage; name one of its settings: {path[0]}.KEY=VALUE"
    if path[0] == "name":
        return "a run is named by --name"
    hint = suggest(path[0], [*SETTABLE, *stages]) or f"; there are {', '.join(SETTABLE)} and STAGE.KEY"
    return f"no recipe key `{path[0]}`{hint}"


def _no_section(node: Node, path: Sequence[str]) -> str | None:
    """What is wrong with a path below a stage: it leads through a single value, which holds no settings."""
    inner: Any = node
    for place, part in enumerate(path[1:-1], start=1):
        inner = inner.value.get(part) if isinstance(inner.value, dict) else None
        if inner is None:
            return None
        if inner.value is not None and not isinstance(inner.value, dict):
            whole = ".".join(path[: place + 1])
            return f"`{whole}` is {inner.shown()} and holds no settings; set it as a whole: {whole}=VALUE"
    return None


def _changed(node: Node, path: Sequence[str], value: Node) -> Node:
    if not path:
        return value
    items = dict(node.value) if isinstance(node.value, dict) else {}
    inner = items.get(path[0], Node({}, value.place, keys={}))
    items[path[0]] = _changed(inner, path[1:], value)
    if path[0] in ("seed", "seeds") and len(path) == 1:
        items.pop("seeds" if path[0] == "seed" else "seed", None)  # the one that was set takes effect
    keys = {**(node.keys or {}), path[0]: (node.keys or {}).get(path[0], value.place)}
    return replace(node, value=items, keys=keys, text=None)


class _Builder:
    """Turns a recipe's tree into stages and collects problems; each step goes on with what was sound."""

    def __init__(self, root: Node, runs_dir: Path, package: str, problems: list[str]) -> None:
        self.root, self.runs_dir, self.package, self.problems = root, runs_dir, package, problems
        self.sections: dict[str, Node] = {}
        self.kinds: dict[str, str] = {}
        self.modules: dict[str, ModuleType] = {}
        self.classes: dict[str, type[Settings]] = {}
        self.broken: set[str] = (
            set()
        )  # stages that could not be read: what needs them is not said to lack them
        self.named: dict[str, dict[str, Node]] = {}  # inputs that the recipe names, by stage and role

    def build(self) -> Recipe | None:
        """The recipe, or None with problems."""
        self._read_sections()
        settings = self._settings()
        specs = [spec for name in self.sections if (spec := self._stage(name, settings)) is not None]
        if settings is None:
            return None
        self._cross_check(specs, settings)
        return Recipe(settings, specs)

    def _settings(self) -> RecipeSettings | None:
        items = {key: node for key, node in self.root.value.items() if key != "stages"}
        settings, found = validate(
            RecipeSettings, replace(self.root, value=items), "the recipe", elsewhere=self._in_stages
        )
        self.problems.extend(found)
        if settings is None:
            return None
        problem = check_name(settings.name)
        if problem:
            self.problems.append(f"{self.root.value['name'].place}: name {problem}")
        if {"seed", "seeds"} <= set(items):
            self.problems.append(f"{items['seeds'].place}: give `seed` or `seeds`, not both")
        if settings.seeds and len(set(settings.seeds)) < len(settings.seeds):
            self.problems.append(f"{items['seeds'].place}: seeds must differ; found {items['seeds'].shown()}")
        return settings

    def _in_stages(self, key: str) -> str | None:
        if key in open_folder.names(self.package):
            return f"`{key}` is a stage: it belongs under `stages:`"
        having = [name for name, model in self.classes.items() if key in model.model_fields]
        return f"`{key}` is a setting of {' and '.join(having)}, under `stages:`" if having else None

    def _in_other_stage(self, own: str, key: str) -> str | None:
        if key in RecipeSettings.model_fields:
            return f"`{key}` belongs at the top of the recipe"
        having = [name for name, model in self.classes.items() if name != own and key in model.model_fields]
        return f"`{key}` is a setting of {' and '.join(having)}" if having else None

    def _read_sections(self) -> None:
        stages = self.root.value.get("stages")
        if stages is None or not isinstance(stages.value, dict) or not stages.value:
            place = stages.place if stages is not None else self.root.place
            self.problems.append(f"{place}: the recipe needs `stages:`, a mapping of stage names to settings")
            return
        for name, node in stages.value.items():
            place = (stages.keys or {}).get(name, node.place)
            node = Node({}, place, keys={}) if node.value is None else node
            if not _STAGE_NAME.match(name):
                self.problems.append(
                    f"{place}: stage name {name!r}: letters, digits, `_` and `-`, at most 64, a letter first"
                )
            elif not isinstance(node.value, dict):
                self.problems.append(f"{node.place}: {name} must hold settings or {{}}; found {node.shown()}")
            else:
                self._read_section(name, place, node)

    def _read_section(self, name: str, place: str, node: Node) -> None:
        kind_node = node.value.get("stage")
        kind = name if kind_node is None else kind_node.as_text().value
        known = open_folder.names(self.package)
        self.broken.add(name)
        if kind not in known:
            place = place if kind_node is None else kind_node.place
            hint = suggest(str(kind), known) or f"; there are {', '.join(known)}"
            extra = "" if kind_node else "; a stage under its own name says `stage: KIND`"
            self.problems.append(f"{place}: no stage file `{kind}`{hint}{extra}")
            return
        module = open_folder.load(self.package, str(kind))
        body = {key: item for key, item in node.value.items() if key != "stage" and key not in module.INPUTS}
        try:
            model = module.config_class(_plain(body)) if hasattr(module, "config_class") else module.Config
        except InputError as error:
            self.problems.extend(f"{place}: {name}: {problem}" for problem in error.problems)
            return
        self.broken.remove(name)
        self.sections[name] = replace(node, value=body)
        self.kinds[name], self.modules[name], self.classes[name] = str(kind), module, model
        self.named[name] = {role: item for role, item in node.value.items() if role in module.INPUTS}

    def _stage(self, name: str, settings: RecipeSettings | None) -> StageSpec | None:
        section = self.sections[name]
        config, found = validate(
            self.classes[name], section, name, elsewhere=lambda key: self._in_other_stage(name, key)
        )
        self.problems.extend(found)
        self.problems.extend(
            f"{section.place}: {name} holds {REDACTED}; give the secret itself by --set"
            for value in section.value.values()
            if value.value == REDACTED
        )
        inputs = {
            role: self._input(name, role, wanted, settings)
            for role, wanted in self.modules[name].INPUTS.items()
        }
        if config is None:
            return None
        return StageSpec(name, self.kinds[name], self.modules[name], config, inputs)

    def _input(
        self, name: str, role: str, wanted: Input, settings: RecipeSettings | None
    ) -> Reference | tuple[Reference, ...] | None:
        order = list(self.sections)
        earlier = order[: order.index(name)]
        node = self.named[name].get(role)
        if node is not None and not (node.value is None and wanted.optional):
            return self._named_input(name, role, wanted, node, earlier, settings)
        found = [Reference(other) for other in earlier if self.kinds[other] in wanted.kinds]
        if node is not None or (not found and wanted.optional):
            return () if wanted.many else None
        if not found and not self.broken:
            self.problems.append(
                f"{self.sections[name].place}: {name} needs {role}: a stage of kind "
                f"{' or '.join(wanted.kinds)} before it, or `{role}: STAGE` or `{role}: RUN/STAGE`"
            )
        if not found:
            return None
        return tuple(found) if wanted.many else found[-1]

    def _named_input(
        self, name: str, role: str, wanted: Input, node: Node, earlier: list[str], settings: Any
    ) -> Reference | tuple[Reference, ...] | None:
        items = node.value if wanted.many and isinstance(node.value, list) else [node]
        references = []
        for item in items:
            text = item.as_text().value
            reference = Reference(*reversed(text.split("/", 1))) if isinstance(text, str) else None
            problem = self._reference_problem(reference, earlier, settings)
            if problem or reference is None:
                self.problems.append(f"{item.place}: {name}: {role} {problem}; found {item.shown()}")
            else:
                references.append(reference)
        if not references:
            return None
        return tuple(references) if wanted.many else references[0]

    def _reference_problem(
        self, reference: Reference | None, earlier: list[str], settings: Any
    ) -> str | None:
        if reference is None:
            return "must be STAGE or RUN/STAGE"
        if reference.run:
            seeds = [None] if settings is None else settings.seeds or [settings.seed]
            found = (find_stage(self.runs_dir, reference.run, reference.stage, seed) for seed in seeds)
            return next((problem for _, problem in found if problem), None)
        if reference.stage in earlier or reference.stage in self.broken:
            return None
        late = " (it stands later in the recipe)" if reference.stage in self.sections else ""
        return f"must name an earlier stage{late}{suggest(reference.stage, earlier)}"

    def _cross_check(self, specs: Sequence[StageSpec], settings: RecipeSettings) -> None:
        """Rules between settings of several stages, and the files that the stages will read."""
        data_root, has_root = None, True
        try:
            data_root = data_root_of(settings.data_root)
        except InputError as error:
            self.problems.extend(error.problems)
            has_root = False
        configs = {spec.name: spec.config for spec in specs}
        for spec in specs:
            try:
                if hasattr(spec.module, "check") and self._is_whole(spec, configs):
                    upstream = _upstream(spec, configs)
                    arguments = (spec.config, upstream)[
                        : len(inspect.signature(spec.module.check).parameters)
                    ]
                    spec.module.check(*arguments)
                for path in stage_files(spec, data_root) if has_root else ():
                    if not path.is_file():
                        self.problems.append(f"{spec.name}: needs the file {path}, which does not exist")
            except InputError as error:
                self.problems.extend(f"{spec.name}: {problem}" for problem in error.problems)

    def _is_whole(self, spec: StageSpec, configs: Mapping[str, Settings]) -> bool:
        """Whether every input of a stage could be read, so that rules between them can be checked."""
        missing = [role for role, wanted in spec.module.INPUTS.items() if not wanted.optional]
        return all(spec.inputs[role] for role in missing) and all(
            reference.run or reference.stage in configs for _, reference in spec.references()
        )


def stage_files(spec: StageSpec, data_root: Path | None) -> list[Path]:
    """The data files that a stage reads; their digests are part of its key."""
    return list(spec.module.files(spec.config, data_root)) if hasattr(spec.module, "files") else []


def _upstream(spec: StageSpec, configs: Mapping[str, Settings]) -> dict[str, Any]:
    """Configs of a stage's inputs by role (a list where many); None for a stage of another run."""
    found: dict[str, Any] = {}
    for role, value in spec.inputs.items():
        if isinstance(value, tuple):
            found[role] = [configs.get(item.stage) if not item.run else None for item in value]
        elif value is not None:
            found[role] = configs.get(value.stage) if not value.run else None
    return found


def _plain(items: Mapping[str, Node]) -> dict[str, Any]:
    return {key: node.plain() for key, node in items.items()}
