import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from data import open_folder
from data.errors import InputError
from pipeline.catalog import catalog
from pipeline.execute import execute
from pipeline.graph import built_in_recipes, dump_yaml, find_recipe, load_recipe, redact_change, resolved
from pipeline.keys import code_digests, differences, running_imports
from pipeline.recipe import Reference
from pipeline.schedule import Selection, schedule
from pipeline.stages.evaluate import is_named_only
from pipeline.strict_yaml import read_file

TOY = Path(__file__).parent / "toy"


def load(text=None, *changes, toy=Path()):
    if text is not None:
        (toy / "recipe.yaml").write_text(text)
    return load_recipe(toy / "recipe.yaml", changes, runs_dir=Path("runs"), package="toy_stages")


def problems(text, *changes, toy=Path()):
    with pytest.raises(InputError) as caught:
        load(text, *changes, toy=toy)
    return "\n".join(caught.value.problems)


def decide(recipe, selection=None, run="runs/toy", precision="float32"):
    options = {"seed": recipe.settings.seed, "precision": precision, "data_root": None}
    found = schedule(recipe, Path(run), runs_dir=Path("runs"), selection=selection or Selection(), **options)
    return {decision.spec.name: decision for decision in found}


def todo(recipe, **selection):
    return [name for name, decision in decide(recipe, Selection(**selection)).items() if decision.to_do]


def test_inputs_take_the_latest_earlier_stage_of_their_kind(toy):
    stages = {spec.name: spec.inputs for spec in load().stages}
    assert stages["train"] == {"source": Reference("source"), "policy": None}
    assert stages["tuned"] == {"source": Reference("source"), "policy": Reference("train")}
    assert stages["summary"] == {"models": (Reference("train"), Reference("tuned"))}


def test_inputs_can_be_named_emptied_and_listed(toy):
    recipe = load(
        "name: toy\nstages:\n  source: {}\n  small: {stage: source, num: 1}\n  train: {source: source}\n"
        "  tuned: {stage: train, policy: null}\n  summary: {models: [tuned, train]}\n"
    )
    assert recipe.stage("train").inputs["source"] == Reference("source")
    assert recipe.stage("tuned").inputs["source"] == Reference("small")
    assert recipe.stage("tuned").inputs["policy"] is None
    assert recipe.stage("summary").inputs["models"] == (Reference("tuned"), Reference("train"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "name: toy\nstages: {train: {}}",
            "recipe.yaml:2: train needs source: a stage of kind source before it",
        ),
        (
            "name: toy\nstages: {source: {}, train: {source: sorce}}",
            "an earlier stage; did you mean `source`?",
        ),
        ("name: toy\nstages: {train: {source: source}, source: {}}", "it stands later in the recipe"),
        (
            "name: toy\nstages: {source: {}, train: {source: 3}}",
            "train: source must name an earlier stage; found `3`",
        ),
        (
            "name: toy\nstages: {source: {}, train: {source: other/source}}",
            "names run other, which is not in runs",
        ),
        ("name: toy\nstages: {source: {}, train: {source: ../../x}}", "names run '..' is not accepted"),
        ("name: toy\nstages: {sourse: {}}", "no stage file `sourse`; did you mean `source`?"),
        ("name: toy\nstages: {a: {stage: sourse}}", "no stage file `sourse`; did you mean `source`?"),
        ("name: toy\nstages: {source: {num_steps: 3}, train: {}}", "`num_steps` is a setting of train"),
        ("name: toy\nstages: {source: {seed: 3}}", "`seed` belongs at the top of the recipe"),
        (
            "name: toy\nnum_steps: 3\nstages: {source: {}, train: {}}",
            "recipe.yaml:2: the recipe has no setting",
        ),
        (
            "name: toy\nnum_steps: 3\nstages: {source: {}, train: {}}",
            "`num_steps` is a setting of train, under",
        ),
        ("name: toy\nsource: {}\nstages: {source: {}}", "`source` is a stage: it belongs under `stages:`"),
        ("name: toy\nsed: 1\nstages: {source: {}}", "did you mean `seed`?"),
        ("name: toy\n", "needs `stages:`"),
        ("stages: {source: {}}", "the recipe needs `name`"),
        ("name: toy\nstages: {source: 3}", "source must hold settings or {}; found `3`"),
        ("name: toy\nstages: {'a b': {}}", "stage name 'a b'"),
        ("name: ../x\nstages: {source: {}}", "recipe.yaml:1: name '../x' is not accepted"),
        ("name: toy\nseed: 1\nseeds: [1, 2]\nstages: {source: {}}", "give `seed` or `seeds`, not both"),
        ("name: toy\nseeds: [1, 1]\nstages: {source: {}}", "seeds must differ"),
        ("name: toy\nseed: -1\nstages: {source: {}}", "must be greater than or equal to 0"),
        ("name: toy\nseeds: [1, -1]\nstages: {source: {}}", "seeds.1 must be greater than or equal to 0"),
        ("name: toy\nseeds: [3000000000]\nstages: {source: {}}", "must be less than or equal to 2147483647"),
        ("name: toy\nseeds: []\nstages: {source: {}}", "seeds must have at least 1 item, not 0; found []"),
        (
            "name: toy\nstages: {source: {}, train: {num_steps: 2, warmup_steps: 3}}",
            "warmup_steps 3 is more than",
        ),
        ("name: toy\nstages: {source: {num: 2000}, train: {}}", "source has 2000 numbers; at most 1000 fit"),
        (
            "name: toy\nstages: {source: {path: nowhere.txt}}",
            "needs the file nowhere.txt, which does not exist",
        ),
        ("name: toy\ndata_root: nowhere\nstages: {source: {}}", "data_root is 'nowhere', which is no folder"),
        ("[1]", "a recipe is `key: value` lines"),
    ],
)
def test_a_bad_recipe_is_refused(toy, text, message):
    assert message in problems(text)


def test_all_problems_of_a_recipe_come_at_once_in_order(toy):
    found = problems(
        "name: toy\nstages:\n  source: {nu: 1}\n  train:\n    num_steps: 0\n    nothing: 1\n  other: {}\n"
    )
    assert [line.split(":")[1] for line in found.splitlines()] == ["3", "5", "6", "7"]


def test_missing_files_and_broken_rules_come_with_the_other_problems(toy):
    found = problems(
        "name: toy\ndata_root: nowhere\n"
        "stages:\n  source: {num: 2000}\n  train: {}\n  tuned: {stage: train, nu: 1}\n"
    )
    assert "`nu`" in found
    assert "data_root is 'nowhere'" in found
    assert "source has 2000 numbers; at most 1000 fit" in found
    found = problems("name: toy\nstages:\n  source: {path: nowhere.txt}\n  train: {num_steps: 0}\n")
    assert "needs the file nowhere.txt" in found
    assert "num_steps must be greater" in found


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("train.learning_rate", "needs KEY=VALUE"),
        ("train.learning_rate=", "needs KEY=VALUE"),
        (".seed=3", "--set .seed=3: needs KEY=VALUE"),
        ("train..num_steps=3", "needs KEY=VALUE"),
        ("=3", "needs KEY=VALUE"),
        ("tain.learning_rate=3", "no stage `tain`; did you mean `train`?"),
        (
            "train.learnin_rate=3",
            "--set train.learnin_rate: train has no setting `learnin_rate`; did you mean",
        ),
        ("sed=3", "no recipe key `sed`; did you mean `seed`?"),
        ("train=3", "`train` is a stage; name one of its settings"),
        ("name=x", "a run is named by --name"),
        ("train.learning_rate=[1", "not valid YAML"),
        (
            "train.learning_rate=-1",
            "--set train.learning_rate: train.learning_rate must be greater than 0; found `-1`",
        ),
        ("train.learning_rate=&a 1", "anchor"),
    ],
)
def test_a_bad_change_is_refused(toy, change, message):
    assert message in problems(None, change)


def test_a_change_below_a_single_value_is_refused(toy):
    found = problems("name: toy\nstages: {source: {num: 100}}", "source.num.more=3", toy=toy)
    assert "--set source.num.more: `source.num` is `100` and holds no settings; set it as a whole" in found


def test_changes_apply_in_order_and_all_are_kept_for_the_plan(toy):
    recipe = load(
        None, "train.num_steps=3", "train.num_steps=4", "seed=7", "gates=stop", "stages.tuned.num_steps=1e1"
    )
    assert recipe.stage("train").config.num_steps == 4
    assert recipe.stage("tuned").config.num_steps == 10
    assert (recipe.settings.seed, recipe.settings.gates) == (7, "stop")
    assert list(recipe.changes)[:2] == ["train.num_steps=3", "train.num_steps=4"]


def test_a_secret_within_a_change_is_not_shown(toy):
    recipe = load("name: toy\nstages: {source: {}}", "source.hf_token=hunter2", "source.num=1e1")
    assert list(recipe.changes) == ["source.hf_token=<redacted>", "source.num=1e1"]
    assert redact_change("a.b={x: 1, hf_token: hunter2}") == 'a.b={"x": 1, "hf_token": "<redacted>"}'
    assert redact_change("a.b={x: 1}") == "a.b={x: 1}"


def test_setting_seeds_replaces_seed_and_the_other_way_round(toy):
    assert load(None, "seeds=[0, 2]").settings.seeds == (0, 2)
    assert load("name: toy\nseeds: [1, 2]\nstages: {source: {}}", "seed=3").settings.seeds is None


def test_the_resolved_recipe_loads_to_the_same_keys(toy):
    recipe = load(None, "train.learning_rate=3e-6", "source.num=12")
    keys = {name: decision.key for name, decision in decide(recipe).items()}
    again = load(dump_yaml(resolved(recipe, "float32")))
    assert {name: decision.key for name, decision in decide(again).items()} == keys


def test_a_secret_is_in_no_file_of_the_run(toy):
    secret = "hf_" + "a" * 30
    text = (toy / "recipe.yaml").read_text() + f"\ndescription: my token is {secret}\n"
    execute(load(text, f"source.hf_token={secret}", toy=toy), runs_dir=toy / "runs")
    written = [path for path in (toy / "runs").rglob("*") if path.is_file()]
    assert len(written) > 5
    assert not [path for path in written if secret.encode() in path.read_bytes()]
    with pytest.raises(InputError, match="give the secret itself by --set"):
        load_recipe(toy / "runs/toy/recipe.yaml", package="toy_stages")


def test_a_change_makes_stale_exactly_what_depends_on_it_and_says_why(toy):
    execute(load(), runs_dir=Path("runs"))
    assert todo(load()) == []
    changed = load(None, "tuned.learning_rate=5e-5")
    assert todo(changed) == ["tuned", "summary"]
    assert decide(changed)["tuned"].reasons == ("learning_rate 1e-5 -> 5e-5",)
    assert decide(changed)["summary"].reasons == ("input tuned changed",)
    assert todo(load(None, "train.num_steps=7")) == ["train", "tuned", "summary"]
    assert todo(load(None, "seed=1")) == ["source", "train", "tuned", "summary"]
    assert todo(load(None, "gates=stop", "train.learning_rate=0.0001")) == []


def test_budget_and_precision_make_stale_only_the_stages_that_they_reach(toy, monkeypatch):
    from toy_stages import train

    execute(load(), runs_dir=Path("runs"))
    assert todo(load(None, "budget=gpu", "gates=stop")) == []
    found = decide(load(), precision="bfloat16")
    assert [name for name, decision in found.items() if decision.to_do] == ["train", "tuned", "summary"]
    assert found["train"].reasons == ("precision float32 -> bfloat16",)
    monkeypatch.setattr(train, "READS_BUDGET", True, raising=False)
    assert todo(load(None, "budget=gpu")) == ["train", "tuned", "summary"]


def test_a_data_file_that_changed_makes_its_stage_stale(toy):
    (toy / "rows.txt").write_text("one\ntwo")
    execute(load(None, "source.path=rows.txt"), runs_dir=Path("runs"))
    (toy / "rows.txt").write_text("one\nthree")
    assert decide(load(None, "source.path=rows.txt"))["source"].reasons == ("data file rows.txt changed",)
    assert todo(load(None, "source.path=rows.txt")) == ["source", "train", "tuned", "summary"]


def test_an_unfinished_stage_is_not_thrown_away_because_data_changed(toy):
    (toy / "rows.txt").write_text("one")
    recipe = load(None, "source.path=rows.txt")
    execute(recipe, runs_dir=Path("runs"))
    folder = toy / "runs/toy/stages/train"
    shutil.move(folder / "stage.json", folder / "begun.json")
    (toy / "rows.txt").write_text("other")
    with pytest.raises(
        InputError, match=r"train is unfinished and was started on other data .*rows.txt changed"
    ):
        decide(recipe)
    assert todo(recipe, force=True) == ["source", "train", "tuned", "summary"]


def test_a_damaged_result_is_made_again_and_nothing_else(toy):
    execute(load(), runs_dir=Path("runs"))
    (toy / "runs/toy/stages/train/model/state.json").write_text("{}")
    assert todo(load()) == ["train"]
    assert "damaged: model/state.json has 2 bytes" in decide(load())["train"].reasons[0]


def test_selections(toy):
    recipe = load()
    assert todo(recipe, until="train") == ["source", "train"]
    with pytest.raises(
        InputError, match=r"tuned needs source, which is not selected and not up to date \(not run"
    ):
        todo(recipe, since="tuned")
    execute(recipe, runs_dir=Path("runs"))
    assert todo(recipe, since="tuned", force=True) == ["tuned", "summary"]
    assert todo(recipe, only="train", force=True) == ["train"]
    changed = load(None, "tuned.num_steps=2")
    assert todo(changed, only="tuned") == ["tuned"]
    with pytest.raises(InputError, match="summary needs tuned"):
        todo(changed, only="summary")
    for bad in (
        {"until": "trian"},
        {"only": "train", "since": "train"},
        {"since": "tuned", "until": "train"},
    ):
        with pytest.raises(InputError):
            todo(recipe, **bad)


def test_a_stage_of_another_run_can_be_an_input_and_its_change_is_seen(toy):
    execute(load(), runs_dir=Path("runs"), name="first")
    stage = "tuned: {stage: train, source: first/source, policy: first/tuned}"
    text = f"name: second\nprecision: float32\nstages:\n  {stage}\n"
    execute(load(text), runs_dir=Path("runs"))
    assert decide(load(text), run="runs/second")["tuned"].action == "skip"
    (toy / "recipe.yaml").write_text(text.replace("tuned: {", "tuned: {num_steps: 3, "))
    recipe = load_recipe(toy / "runs/first/recipe.yaml", ["source.num=3"], package="toy_stages")
    execute(recipe, runs_dir=Path("runs"), name="first")
    assert "input first/source changed" in decide(load(text), run="runs/second")["tuned"].reasons
    assert "names first/train2" in problems(text.replace("first/tuned", "first/train2"))


EDITED = {
    "__init__.py": "",
    "stages/__init__.py": "",
    "stages/learn.py": (
        "from typing import TYPE_CHECKING\nfrom proj.maths import step\n"
        "if TYPE_CHECKING:\n    import proj.shown\n"
        "def run():\n    from proj import late\n    from .. import relative\n    load('proj.parts', 'one')\n"
    ),
    "stages/other.py": "from proj.report.page import x\n",
    "maths.py": "import proj.deep\n",
    "deep.py": "",
    "late.py": "",
    "relative.py": "",
    "shown.py": "",
    "unused.py": "",
    "parts/__init__.py": "",
    "parts/one.py": "import proj.of_one\n",
    "parts/two.py": "import proj.of_two\n",
    "of_one.py": "",
    "of_two.py": "",
    "report/__init__.py": "",
    "report/page.py": "",
    "report/page.html": "<p>",
}


@pytest.fixture
def project(tmp_path, monkeypatch):
    for name, text in EDITED.items():
        path = tmp_path / "proj" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "toy_stages").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    from pipeline import keys

    caches = (keys._hash, keys._root_folder, keys._module_path, keys._dependencies, keys._contents)
    yield tmp_path / "proj"
    for cached in caches:
        cached.cache_clear()


def test_code_counts_transitively_lazily_and_by_named_file(project):
    found = {name.removeprefix("proj/") for name in code_digests("proj.stages.learn", {"part": {"one": 1.0}})}
    assert found == {
        *(
            "__init__.py",
            "stages/__init__.py",
            "stages/learn.py",
            "maths.py",
            "deep.py",
            "late.py",
            "relative.py",
        ),
        *("parts/__init__.py", "parts/one.py", "of_one.py"),
    }


def test_without_a_named_file_the_whole_open_folder_counts(project):
    found = code_digests("proj.stages.learn", {})
    assert {"proj/parts/one.py", "proj/parts/two.py", "proj/of_two.py"} <= set(found)


def test_a_template_counts_for_the_stage_that_imports_its_package_alone(project):
    assert "proj/report/page.html" in code_digests("proj.stages.other", {})
    assert "proj/report/page.html" not in code_digests("proj.stages.learn", {})


def test_the_quick_search_for_imports_misses_none_and_adds_only_those_in_texts():
    def walk(node):
        for child in ast.iter_child_nodes(node):
            if not (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test)):
                if isinstance(child, ast.Import | ast.ImportFrom):
                    yield ast.unparse(child)
                yield from walk(child)

    root = Path(__file__).parent.parent.parent
    paths = [path for package in ("data", "reward", "pipeline") for path in (root / package).rglob("*.py")]
    assert len(paths) > 50
    for path in paths:
        source = path.read_text()
        found = {ast.unparse(node) for node in running_imports(source)}
        expected = set(walk(ast.parse(source)))
        assert found >= expected, path
        texts = [node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant)]
        assert all(any(extra in str(text) for text in texts) for extra in found - expected), path


def test_a_line_of_text_that_looks_like_an_import_is_survived():
    source = '"""Words\nfrom here import the whole, thing\n"""\nimport data.rows\n'
    assert [ast.unparse(node) for node in running_imports(source)] == ["import data.rows"]


def test_an_edit_of_a_module_is_named_as_the_reason():
    old = {"config": {}, "code": {"pipeline/rl.py": "a", "x.py": "1"}, "inputs": {"policy": [["sft", "k"]]}}
    new = {"config": {}, "code": {"pipeline/rl.py": "b", "y.py": "1"}, "inputs": {"policy": [["sft2", "k"]]}}
    assert differences(old, new) == [
        "input policy sft -> sft2",
        "code of pipeline/rl.py changed",
        "code of x.py is gone",
        "code of y.py is new",
    ]


def test_every_stage_of_the_project_depends_on_its_own_file_and_on_no_other_stage():
    from data import open_folder

    for name in open_folder.names("pipeline.stages"):
        found = code_digests(f"pipeline.stages.{name}", {})
        assert f"pipeline/stages/{name}.py" in found
        stages = {path for path in found if path.startswith("pipeline/stages/")}
        assert stages == {"pipeline/stages/__init__.py", f"pipeline/stages/{name}.py"}
        assert not {"pipeline/cli.py", "pipeline/execute.py", "pipeline/run.py"} & set(found), name


def test_every_evaluation_that_runs_counts_for_the_stage():
    def counted(*changes):
        code = decide(load_recipe("smoke", changes), run="nowhere")["evaluate"].parts["code"]
        return {Path(name).stem for name in code if name.startswith("pipeline/evals/")} - {"__init__"}

    names = open_folder.names("pipeline.evals")
    modules = {name: open_folder.load("pipeline.evals", name) for name in names}
    own = {name for name, module in modules.items() if not is_named_only(module)}
    assert counted() == own | {name for name, module in modules.items() if hasattr(module, "by_default")}
    assert {"facts", "story_bias"} < own
    assert "story_bias" not in counted("evaluate.suite=[form]")
    assert {"story_bias", "bbq"} <= counted("evaluate.suite=[bias]")


def test_recipes_are_found_by_name_path_and_run_folder(toy):
    assert find_recipe("recipe.yaml") == Path("recipe.yaml")
    execute(load(), runs_dir=Path("runs"))
    assert find_recipe("runs/toy") == Path("runs/toy/recipe.yaml")
    for wrong in ("nothing.yaml", "no/where", "quickstrat"):
        with pytest.raises(InputError, match="no recipe"):
            find_recipe(wrong)


def test_every_built_in_recipe_has_the_name_of_its_file_and_says_what_it_is_for():
    for name, path in built_in_recipes().items():
        assert read_file(path)[0].value["name"].value == name
        assert catalog()["recipes"][name], f"{name} needs a description"


def test_the_reader_needs_no_torch():
    code = "import sys, pipeline.graph, pipeline.schedule; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=os.environ).returncode == 0
