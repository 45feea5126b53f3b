import json
import os
import shutil
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch

from data import open_folder
from data.errors import InputError
from pipeline import cli, decoder_kernel
from pipeline.checkpoint import StorageFault
from pipeline.errors import GateStopped, Interrupted, TrainingFault
from pipeline.graph import load_recipe
from pipeline.plan import format_plan, make_plan
from pipeline.run import StageRun
from pipeline.schedule import Selection


@pytest.fixture
def fledge(tmp_path, monkeypatch, capsys):
    """Runs a command line in an empty folder and returns its exit code, output and errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "_quiet_libraries", lambda: None)

    def run(*arguments):
        code = cli.run_safely(lambda: cli.app(list(arguments), prog_name="fledge", standalone_mode=False))
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


def seconds_of(*arguments, times=5):
    """The fastest of several runs of the command in a process of its own: others use the machine too."""
    best = float("inf")
    for _ in range(times):
        start = time.monotonic()
        subprocess.run([sys.executable, "-m", "pipeline", *arguments], stdout=subprocess.DEVNULL, check=True)
        best = min(best, time.monotonic() - start)
    return best


@pytest.mark.parametrize("arguments", [("--help",), ("status", "--runs-dir", "nowhere"), ("explain", "seed")])
def test_what_needs_no_model_answers_in_half_a_second(arguments):
    assert seconds_of(*arguments) < 0.5


@pytest.mark.parametrize("closing", [">&- 2>&-", "| true"])
def test_a_closed_output_is_no_error(closing):
    command = f"set -o pipefail; {sys.executable} -m pipeline list {closing}"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run",), "Missing argument"),
        (("run", "quickstart", "--bogus"), "No such option"),
        (("run", "quickstrat"), "no recipe `quickstrat`; did you mean `quickstart`?"),
        (("run", "quickstart", "--set", "seed"), "needs KEY=VALUE"),
        (("explain", "ppo.learnin_rate"), "did you mean `learning_rate`?"),
        (("explain", "pp"), "did you mean `ppo`?"),
        (("plan", "a" * 5000 + ".yaml"), "File name too long; give another path"),
        (("status", "a" * 5000), "File name too long; give another path"),
        (("status", "nothing"), "no run 'nothing'"),
        (("compare", "nothing", "--prompt", "hi"), "no run 'nothing'"),
        (("data", "check", "nothing.jsonl", "--schema", "chat"), "no such file"),
        (("data", "check", "nothing.jsonl", "--schema", "chta"), "did you mean `chat`?"),
    ],
)
def test_what_a_person_got_wrong_is_said_and_leaves_with_2(fledge, arguments, message):
    code, out, err = fledge(*arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err
    assert os.listdir() == []


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (TrainingFault("NaN"), 1),
        (StorageFault("full"), 1),
        (GateStopped("gate"), 3),
        (Interrupted(2), 130),
        (Interrupted(15), 143),
        (KeyboardInterrupt(), 130),
        (ZeroDivisionError(), 1),
    ],
)
def test_exit_codes(error, code, capsys):
    def work():
        raise error

    assert cli.run_safely(work) == code
    assert ("Traceback" in capsys.readouterr().err) == isinstance(error, ZeroDivisionError)


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_a_seed_that_stopped_is_told_at_the_end_with_the_faults_code(toy, fledge, monkeypatch, options):
    """The other seeds are done and shown by then."""
    monkeypatch.setattr("pipeline.graph.load_recipe", partial(load_recipe, package="toy_stages"))
    original = StageRun.log

    def log(self, step, **values):
        if (self.seed, self.name) == (1, "tuned"):
            raise TrainingFault(f"{self.name}: KL is 90 nats")
        original(self, step, **values)

    monkeypatch.setattr(StageRun, "log", log)
    code, out, err = fledge("run", "recipe.yaml", "--set", "seeds=[1, 2]", *options)
    assert code == 1
    assert "error: seed 1, tuned: KL is 90 nats" in err
    assert "the same command tries it again" in err
    assert '"action": "stopped"' in out if options else "seed 2: stages" in out


def test_a_message_cannot_act_on_the_terminal(capsys):
    def work():
        raise InputError("no setting `\x1b]0;x\x07red\u202e`")

    assert cli.run_safely(work) == 2
    assert capsys.readouterr().err == "error: no setting `]0;xred`\n"


def test_our_own_fault_shows_its_story_without_secrets(capsys):
    def work():
        raise ZeroDivisionError("with hf_" + "a" * 30)

    cli.run_safely(work)
    printed = capsys.readouterr().err
    assert "ZeroDivisionError: with <redacted>" in printed


def test_the_list_shows_the_first_line_of_every_file_of_the_open_folders(fledge):
    code, out, _ = fledge("list", "--json")
    listed = json.loads(out)
    assert code == 0
    assert set(open_folder.names("pipeline.stages")) == set(listed["stages"])
    assert all(line for group in listed.values() for line in group.values())
    assert "quickstart" in fledge("list")[1]


def test_explain_answers_for_settings_things_and_recipe_keys(fledge):
    assert "accepts a number, > 0; default 1e-05" in fledge("explain", "ppo.learning_rate")[1]
    assert "input policy: the latest earlier sft" in fledge("explain", "ppo")[1]
    assert json.loads(fledge("explain", "gates", "--json")[1])["accepts"] == "warn | stop"
    several = json.loads(fledge("explain", "learning_rate", "--json")[1])["settings"]
    assert {"ppo.learning_rate", "sft.learning_rate"} <= {setting["key"] for setting in several}
    assert "(of world)" in fledge("explain", "corpus.people")[1]


def test_every_setting_of_every_open_folder_can_be_explained(fledge):
    from pipeline.catalog import _all_names, explain

    for name in _all_names():
        for setting in explain(name).get("settings", ()):
            assert setting["meaning"], f"{setting['key']} has no description"


def test_data_check_counts_and_names_rows(fledge):
    rows = [{"text": "one"}, {"text": "one"}, {"txt": "two"}]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"text": "torn')
    code, out, _ = fledge("data", "check", "rows.jsonl", "--schema", "text", "--json")
    found = json.loads(out)
    assert (code, found["num_rows"], found["num_identical"], len(found["malformed"])) == (2, 2, 1, 2)
    assert "rows.jsonl:3" in found["malformed"][0]
    Path("bare.jsonl").write_text("\n")
    code, out, _ = fledge("data", "check", "bare.jsonl", "--schema", "text")
    assert (code, "no row to use" in out) == (2, True)
    Path("acts.jsonl").write_text('{"id": "\\u001b[2J", "text": ""}\n')
    assert "\x1b" not in fledge("data", "check", "acts.jsonl", "--schema", "text")[1]
    Path("good.jsonl").write_text('{"text": "one"}\n')
    assert fledge("data", "check", "good.jsonl", "--schema", "text")[0] == 0
    assert fledge("data")[0] == 0


def test_a_plan_says_what_and_why_and_writes_nothing(toy):
    recipe = load_recipe(
        Path("recipe.yaml"), ["train.num_steps=3", "train.num_steps=4"], package="toy_stages"
    )
    plan = make_plan(recipe, runs_dir=Path("runs"), name=None, selection=Selection(), probe=False)
    assert os.listdir() == ["recipe.yaml"]
    assert plan["changes"] == ["train.num_steps=3", "train.num_steps=4"]
    rows = {row["stage"]: row for row in plan["stages"]}
    assert (rows["train"]["action"], rows["train"]["steps"], rows["train"]["seconds"]) == ("run", 4, None)
    assert rows["source"]["reasons"] == ["not run yet"]
    assert plan["total"]["stages"] == plan["total"]["stages_of_unknown_time"] == 4
    text = format_plan(plan)
    assert "--set train.num_steps=3" in text
    assert "4 steps, 1 parameters; not run yet" in text


def test_a_plan_with_a_probe_estimates_time_from_operations(toy):
    recipe = load_recipe(Path("recipe.yaml"), package="toy_stages")
    plan = make_plan(recipe, runs_dir=Path("runs"), name=None, selection=Selection(), probe=True)
    rows = {row["stage"]: row for row in plan["stages"]}
    assert 0 < rows["train"]["seconds"] < 1
    assert plan["total"]["stages_of_unknown_time"] == 2


def test_doctor_examines_the_machine(fledge):
    code, out, _ = fledge("doctor", "--json")
    found = json.loads(out)
    assert found["precision"] in ("float32", "bfloat16")
    assert (code == 0) == (found["problems"] == [])
    assert (found["decoder_kernel"] == "compiled") == (decoder_kernel.load(torch.float32, 64) is not None)


def test_a_plan_counts_what_stages_of_another_run_give(artificial_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(artificial_run, tmp_path / "runs" / "done")
    Path("more.yaml").write_text(
        "name: more\nprecision: float32\nstages:\n"
        "  ppo: {corpus: done/corpus, policy: done/sft, reward: done/reward, value_model: head}\n"
    )
    plan = make_plan(
        load_recipe(Path("more.yaml")), runs_dir=Path("runs"), name=None, selection=Selection(), probe=False
    )
    (row,) = plan["stages"]
    assert row["parameters"] > 1000  # those of the model that the other run pretrained
    assert row["steps"] == 32
