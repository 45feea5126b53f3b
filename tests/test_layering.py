import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("data", "reward", "pipeline")
MODULES = {
    path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__"): path
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
}
OPEN = ("data.sources", "reward.functions", "pipeline.stages", "pipeline.evals", "pipeline.baselines")
HEAVY = {
    "torch",
    "transformers",
    "trl",
    "datasets",
    "scipy",
    "matplotlib",
    "sklearn",
    "accelerate",
    "peft",
    "numpy",
    "jaxtyping",
}
TRAINERS = {"transformers", "trl", "accelerate", "peft", "datasets"}
MAX_LINES = 500


def imports(path, *, lazy):
    """Modules that a file imports, as written; `lazy` includes imports within functions, never for types."""
    found = set()

    def visit(node, inside):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
                continue
            if isinstance(child, ast.Import) and (lazy or not inside):
                found.update(alias.name for alias in child.names)
            if isinstance(child, ast.ImportFrom) and (lazy or not inside):
                found.add(child.module or "")
                found.update(f"{child.module}.{alias.name}" for alias in child.names)
                assert not child.level, f"{path}: imports are absolute"
            visit(child, inside or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef))

    visit(ast.parse(path.read_bytes()), False)
    return found


def tops(path, *, lazy):
    return {name.partition(".")[0] for name in imports(path, lazy=lazy)}


def open_files():
    return [name for name in MODULES if name.rpartition(".")[0] in OPEN]


def test_imports_run_from_data_to_reward_to_pipeline():
    for name, path in MODULES.items():
        package = name.partition(".")[0]
        above = set(PACKAGES[PACKAGES.index(package) + 1 :])
        assert not tops(path, lazy=True) & above, f"{name} imports from a layer above it"


def test_files_of_an_open_folder_do_not_import_each_other():
    for name in open_files():
        folder = name.rpartition(".")[0]
        others = {other for other in imports(MODULES[name], lazy=True) if other.startswith(f"{folder}.")}
        assert not others, f"{name} imports {others}"


@pytest.mark.parametrize("name", ["pipeline.rl", "reward.preference", "data.collate", "pipeline.statistics"])
def test_pure_modules_need_no_trainer_library(name):
    assert not tops(MODULES[name], lazy=True) & TRAINERS


def test_report_and_chat_never_import_stages():
    for name, path in MODULES.items():
        if name.startswith(("pipeline.report", "pipeline.chat")):
            assert not {other for other in imports(path, lazy=True) if other.startswith("pipeline.stages")}, (
                name
            )


def test_nobody_imports_a_package_of_the_project_bare():
    for name, path in MODULES.items():
        bare = {
            alias.name
            for node in ast.walk(ast.parse(path.read_bytes()))
            if isinstance(node, ast.Import)
            for alias in node.names
        }
        assert not bare & set(PACKAGES), name


def test_every_file_says_what_it_does_and_none_is_too_long():
    for name, path in MODULES.items():
        text = path.read_text(encoding="utf-8")
        docstring = ast.get_docstring(ast.parse(text)) or ""
        assert docstring.partition("\n")[0].endswith((".", ":")), f"{name}: its first line is no sentence"
        assert len(text.splitlines()) <= MAX_LINES, name


def test_every_file_of_an_open_folder_keeps_its_contract():
    needed = {
        "data.sources": ("KINDS", "Config", "files", "read"),
        "reward.functions": ("Config", "load"),
        "pipeline.stages": ("Config", "INPUTS", "run"),
        "pipeline.evals": ("Config", "KIND", "figures"),
        "pipeline.baselines": ("Config",),
    }
    for name in open_files():
        names = _defined(MODULES[name])
        missing = [wanted for wanted in needed[name.rpartition(".")[0]] if wanted not in names]
        assert not missing, f"{name} lacks {missing}"


def _defined(path):
    names = set()
    for node in ast.parse(path.read_bytes()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names.update(target.id for target in node.targets if isinstance(target, ast.Name))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
        elif isinstance(node, ast.ImportFrom):
            names.update(alias.asname or alias.name for alias in node.names)
    return names


def test_what_lists_explains_and_plans_imports_nothing_heavy():
    code = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]: importlib.import_module(name)\n"
        f"print([name for name in {sorted(HEAVY)} if name in sys.modules])"
    )
    light = ["cli", "graph", "schedule", "execute", "catalog", "plan", "status", "doctor", "precision", "run"]
    modules = [f"pipeline.{name}" for name in light] + open_files()
    result = subprocess.run([sys.executable, "-c", code, *modules], capture_output=True, text=True, cwd=ROOT)
    assert result.stdout.strip() == "[]", result.stdout + result.stderr
