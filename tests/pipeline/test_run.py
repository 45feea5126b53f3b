import json
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest

from data.errors import InputError
from pipeline.errors import GateStopped, Interrupted, NoMemory, TrainingFault
from pipeline.execute import execute
from pipeline.graph import load_recipe
from pipeline.metrics import MetricsFile, read_metrics
from pipeline.plan import make_plan
from pipeline.run import StageRun
from pipeline.run_directory import STAGE_JSON
from pipeline.schedule import Selection
from pipeline.signals import StopFlag
from pipeline.status import format_status, run_status

OUTCOME = {0: "finished", 130: "stopped by SIGINT", 143: "stopped by SIGTERM"}
SLOW = ("train.num_steps=300", "train.step_seconds=0.02", "train.save_every=3")


def run(*changes, name=None, selection=None):
    recipe = load_recipe(Path("recipe.yaml"), changes, package="toy_stages")
    return execute(recipe, name=name, selection=selection)


def results(run_dir):
    """Every result file of a run; time fields and stage records aside."""
    found = {}
    for path in sorted(Path(run_dir).rglob("*")):
        name = path.relative_to(run_dir).as_posix()
        if path.is_dir() or path.name in ("run.lock", STAGE_JSON, "run.json"):
            continue
        if path.name == "metrics.jsonl":
            lines = [
                {k: v for k, v in line.items() if not k.endswith("_seconds")} for line in read_metrics(path)
            ]
            found[name] = json.dumps(lines)
        else:
            found[name] = path.read_bytes()
    return found


def wait_for(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.005)


def metrics(toy, stage="train"):
    return read_metrics(toy / "runs/toy/stages" / stage / "metrics.jsonl")


def test_input_that_a_stage_refuses_is_corrected_and_the_same_command_goes_on(toy, monkeypatch):
    from toy_stages import source

    Path("rows.txt").write_text("bad")
    work = source.run

    def refuse(config, run):
        if "bad" in Path("rows.txt").read_text():
            raise InputError("rows.txt:1: bad")
        work(config, run)

    monkeypatch.setattr(source, "run", refuse)
    with pytest.raises(InputError, match=r"rows.txt:1"):
        run("source.path=rows.txt")
    assert list(Path("runs/toy/stages").iterdir()) == []
    Path("rows.txt").write_text("good")
    assert [stage.action for stage in run("source.path=rows.txt").stages] == ["done"] * 4


def test_a_run_leaves_what_the_design_says_and_is_skipped_the_second_time(toy):
    first = run()
    assert [stage.action for stage in first.stages] == ["done"] * 4
    assert sorted(results("runs/toy")) == [
        "recipe.yaml",
        "report.html",
        "report.json",
        "stages/source/numbers.txt",
        "stages/summary/report.html",
        "stages/summary/report.json",
        *(
            f"stages/{name}/{file}"
            for name in ("train", "tuned")
            for file in ("metrics.jsonl", "model/ballast.bin", "model/state.json")
        ),
    ]
    before = results("runs/toy")
    assert [stage.action for stage in run().stages] == ["skip"] * 4
    assert results("runs/toy") == before


def test_the_same_recipe_gives_the_same_bytes_wherever_its_folder_lies(toy):
    run()
    run(name="other")
    assert results("runs/toy") == results("runs/other")
    records = {name: json.loads(Path("runs", name, "run.json").read_text()) for name in ("toy", "other")}
    assert {name: (record["name"], record["recipe"]) for name, record in records.items()} == {
        "toy": ("toy", "toy"),
        "other": ("other", "toy"),
    }
    shutil.move("runs/toy", "runs/moved")
    assert [stage.action for stage in run(name="moved").stages] == ["skip"] * 4
    for path in Path("runs").rglob("*.json"):
        assert str(toy) not in path.read_text()


def test_a_deleted_report_comes_back_from_its_stage(toy):
    run()
    Path("runs/toy/report.html").unlink()
    run()
    assert Path("runs/toy/report.html").is_file()


def test_killed_at_random_moments_it_ends_with_the_same_bytes(toy, start_toy):
    changes = (
        "train.num_steps=40",
        "train.step_seconds=0.01",
        "tuned.num_steps=20",
        "tuned.step_seconds=0.005",
    )
    run(*changes, name="whole")
    moments = random.Random(0)
    begun = Path("runs/toy/stages/train/begun.json")
    kills = 0
    for _ in range(4):
        process = start_toy(*changes)
        wait_for(lambda process=process: begun.exists() or process.poll() is not None)
        time.sleep(moments.random() * 0.25)
        if process.poll() is None:
            kills += 1
        process.kill()
        process.wait()
    last = start_toy(*changes)
    assert last.wait(30) == 0, last.stdout.read()
    assert kills >= 1
    assert results("runs/toy") == results("runs/whole")


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_stops_and_the_same_command_continues(toy, start_toy, signum):
    process = start_toy(*SLOW)
    wait_for(lambda: len(metrics(toy)) >= 5)
    process.send_signal(signum)
    assert process.wait(10) == 128 + signum
    assert OUTCOME[128 + signum] in process.stdout.read()
    done = metrics(toy)[-1]["step"]
    saved = sorted((toy / "runs/toy/stages/train/checkpoints").iterdir())[-1].name
    assert saved == f"step-{done:09d}"
    fast = start_toy(*SLOW[:1], "train.step_seconds=0.02", "train.save_every=3")
    wait_for(lambda: metrics(toy)[-1]["step"] > done)
    steps = [line["step"] for line in metrics(toy)]
    assert steps == list(range(1, len(steps) + 1))
    fast.kill()


def test_a_second_signal_stops_at_once_with_the_checkpoint_intact(toy, start_toy):
    process = start_toy("train.num_steps=9", "train.step_seconds=0.4", "train.save_every=1")
    wait_for(lambda: len(metrics(toy)) >= 2)
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    time.sleep(0.05)
    start = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.wait(5) == 130
    assert time.monotonic() - start < 0.25
    assert StageRun("train", toy / "runs/toy", stage_key=_key(toy)).checkpoints.latest() is not None


def _key(toy):
    return json.loads((toy / "runs/toy/stages/train/begun.json").read_text())["key"]


def test_two_processes_cannot_work_on_one_run(toy, start_toy):
    process = start_toy(*SLOW)
    wait_for(lambda: len(metrics(toy)) >= 1)
    with pytest.raises(InputError, match=f"in use by process {process.pid}"):
        run(*SLOW)
    assert run_status(toy / "runs/toy")["active"]
    process.kill()
    process.wait()
    assert not run_status(toy / "runs/toy")["active"]
    states = {row["stage"]: row["state"] for row in run_status(toy / "runs/toy")["stages"]}
    assert states == {"source": "done", "train": "unfinished", "tuned": "waiting", "summary": "waiting"}


def test_training_goes_on_when_nobody_reads_its_output(toy, start_toy):
    reading, writing = os.pipe()
    process = start_toy("train.num_steps=20", "train.step_seconds=0.02", stdout=writing, stderr=writing)
    os.close(writing)
    wait_for(lambda: len(metrics(toy)) >= 2)
    os.close(reading)
    assert process.wait(20) == 0
    assert len(metrics(toy)) == 20
    assert Path("runs/toy/report.html").is_file()


def test_a_lost_terminal_does_not_stop_training(toy, start_toy):
    process = start_toy("train.num_steps=20", "train.step_seconds=0.02")
    wait_for(lambda: len(metrics(toy)) >= 2)
    process.send_signal(signal.SIGHUP)
    assert process.wait(20) == 0


def test_a_damaged_checkpoint_falls_back_to_the_same_bytes(toy, start_toy):
    run("train.num_steps=60", "train.step_seconds=0.01", name="whole")
    process = start_toy("train.num_steps=60", "train.step_seconds=0.01")
    wait_for(lambda: len(metrics(toy)) >= 20)
    process.kill()
    process.wait()
    newest = sorted((toy / "runs/toy/stages/train/checkpoints").glob("step-*"))[-1]
    (newest / "state.json").write_text("{")
    again = start_toy("train.num_steps=60", "train.step_seconds=0.01")
    assert again.wait(20) == 0
    assert f"checkpoint {newest.name} is not used" in again.stdout.read()
    assert results("runs/toy") == results("runs/whole")


def test_changed_settings_start_an_unfinished_stage_anew(toy, start_toy):
    process = start_toy(*SLOW)
    wait_for(lambda: len(metrics(toy)) >= 5)
    process.kill()
    process.wait()
    run("train.num_steps=3")
    run("train.num_steps=3", name="whole")
    assert results("runs/toy") == results("runs/whole")


def test_several_seeds_lie_beside_each_other_and_equal_single_runs(toy):
    outcome = run("seeds=[2, 5]")
    assert [(stage.seed, stage.stage) for stage in outcome.stages][::4] == [(2, "source"), (5, "source")]
    run("seed=5", name="single")
    several, single = results("runs/toy/seeds/5"), results("runs/single")
    assert several == single
    assert json.loads(Path("runs/toy/seeds/5/run.json").read_text())["name"] == "toy"
    assert [stage.action for stage in run("seeds=[2, 5]").stages] == ["skip"] * 8


def explodes(monkeypatch, seed, step, fault=TrainingFault):
    """Let the second toy training of one seed stop at a step, each time it gets there."""
    original = StageRun.log

    def log(self, at, **values):
        if (self.seed, self.name, at) == (seed, "tuned", step):
            raise fault(f"{self.name}: the loss of step {at} is nan")
        original(self, at, **values)

    monkeypatch.setattr(StageRun, "log", log)


def test_a_seed_whose_training_stops_does_not_take_the_others_along(toy, monkeypatch):
    explodes(monkeypatch, 2, 5)
    outcome = run("seeds=[2, 3, 5]")
    assert [(s.seed, s.stage) for s in outcome.stages if s.action == "stopped"] == [(2, "tuned")]
    assert [stage.seed for stage in outcome.stages].count(2) == 3  # what comes after it is missing
    assert Path("runs/toy/run.json").is_file()
    for seed in (3, 5):
        run(f"seed={seed}", name=f"single{seed}")
        assert results(f"runs/toy/seeds/{seed}") == results(f"runs/single{seed}")
    fault = json.loads(Path("runs/toy/seeds/2/stages/tuned/fault.json").read_text())
    assert fault == {"step": 4, "cause": "tuned: the loss of step 5 is nan"}
    status = run_status(Path("runs/toy"))
    rows = [row for row in status["stages"] if (row["seed"], row["stage"]) == (2, "tuned")]
    assert [(row["state"], row["cause"]) for row in rows] == [("stopped", fault["cause"])]
    assert "seed 2 tuned     stopped: tuned: the loss of step 5 is nan" in format_status(status)


def test_the_same_command_tries_a_stopped_seed_again_from_its_checkpoint(toy):
    with pytest.MonkeyPatch.context() as patch:
        explodes(patch, 2, 5)
        first = run("seeds=[2, 3]")
        again = run("seeds=[2, 3]")
    assert [stage.action for stage in again.stages] == ["skip"] * 2 + ["stopped"] + ["skip"] * 4
    assert again.faults == ("seed 2, tuned: the loss of step 5 is nan",) == first.faults
    mended = run("seeds=[2, 3]")
    assert "continues after step 4" in mended.stages[2].reasons[0]
    assert mended.faults == ()
    run("seed=2", name="single")
    assert results("runs/toy/seeds/2") == results("runs/single")


def test_memory_that_does_not_suffice_is_no_collapse_and_ends_all_seeds(toy, monkeypatch):
    explodes(monkeypatch, 2, 5, NoMemory)
    with pytest.raises(NoMemory):
        run("seeds=[2, 3]")
    assert not list(Path("runs/toy").rglob("fault.json"))


def test_without_seeds_a_fault_ends_the_run(toy, monkeypatch):
    explodes(monkeypatch, 2, 5)
    with pytest.raises(TrainingFault, match="step 5 is nan"):
        run("seed=2")
    assert not list(Path("runs/toy").rglob("fault.json"))


@pytest.mark.parametrize("name", ["../../x", "/tmp/x", "", ".hidden", "a" * 65, "a\x00b", "a b", "a\n", "é"])
def test_a_run_name_that_could_lead_elsewhere_is_refused(toy, name):
    recipe = load_recipe(Path("recipe.yaml"), package="toy_stages")
    with pytest.raises(InputError, match=r"run name .* is not accepted"):
        execute(recipe, name=name)
    assert not Path("runs").exists()


def test_a_link_out_of_the_runs_folder_is_refused(toy):
    Path("runs").mkdir()
    Path("elsewhere").mkdir()
    Path("runs/toy").symlink_to(toy / "elsewhere")
    with pytest.raises(InputError, match="leads out of runs"):
        run()


def test_a_folder_of_something_else_is_never_overwritten_without_force(toy):
    Path("runs/toy").mkdir(parents=True)
    Path("runs/toy/thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="exists and is no run"):
        run()
    Path("runs/file").write_text("")
    with pytest.raises(InputError, match="is a file"):
        run(name="file")
    assert Path("runs/toy/thesis.txt").read_text() == "years of work"


def test_a_runs_folder_that_is_a_file_is_refused_by_plan_and_run(toy):
    Path("taken").write_text("")
    recipe = load_recipe(Path("recipe.yaml"), package="toy_stages")
    with pytest.raises(InputError, match="taken is a file and can hold no run"):
        execute(recipe, runs_dir=Path("taken"))
    with pytest.raises(InputError, match="taken is a file and can hold no run"):
        make_plan(recipe, runs_dir=Path("taken"), name=None, selection=Selection(), probe=False)


def test_a_run_of_another_recipe_needs_force(toy):
    run()
    Path("recipe.yaml").write_text(Path("recipe.yaml").read_text().replace("name: toy", "name: other"))
    with pytest.raises(InputError, match="is a run of recipe 'toy', not 'other'"):
        run(name="toy")
    assert [stage.action for stage in run(name="toy", selection=Selection(force=True)).stages] == ["done"] * 4


def test_force_runs_the_selected_stages_again_with_equal_results(toy):
    run()
    before = results("runs/toy")
    outcome = run(selection=Selection(only="tuned", force=True))
    assert [stage.action for stage in outcome.stages] == ["leave", "leave", "done", "leave"]
    assert results("runs/toy") == before


def test_gates_warn_or_stop(toy):
    assert len(run("train.gate=false", selection=Selection(until="train")).stages) == 4
    record = json.loads(Path("runs/toy/stages/train/stage.json").read_text())
    assert record["gates"] == [{"name": "toy", "passed": False, "message": "as set"}]
    with pytest.raises(GateStopped, match="train: gate toy failed: as set"):
        run("train.gate=false", "train.num_steps=2", "gates=stop")
    run("train.gate=false", "train.num_steps=2", "gates=warn")


def test_a_stop_between_stages_is_seen(toy, monkeypatch):
    monkeypatch.setattr(StopFlag, "check", lambda flag: (_ for _ in ()).throw(Interrupted(signal.SIGTERM)))
    with pytest.raises(Interrupted) as caught:
        run()
    assert caught.value.exit_code == 143
    assert Path("runs/toy/stages/source/stage.json").is_file()
    assert not Path("runs/toy/stages/train").exists()


# --- the stage's own view ---


def test_metrics_newer_than_the_checkpoint_and_torn_lines_are_cut(tmp_path):
    stage = StageRun("sft", tmp_path)
    for step in (1, 2, 3, 5):
        stage.log(step, loss=1.0 / step, nothing=None, grad_norm=float("nan"))
        if step == 2:
            stage.checkpoints.save(step, lambda folder: (folder / "x").write_text("x"))
    with (stage.dir / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')
    assert [line["step"] for line in read_metrics(stage.dir / "metrics.jsonl")] == [1, 2, 3, 5]
    StageRun("sft", tmp_path)
    assert (stage.dir / "metrics.jsonl").read_text() == (
        '{"step": 1, "loss": 1.0, "grad_norm": null}\n{"step": 2, "loss": 0.5, "grad_norm": null}\n'
    )


def test_metrics_take_numbers_of_any_library(tmp_path):
    import numpy as np
    import torch

    file = MetricsFile(tmp_path / "metrics.jsonl")
    file.append(np.int64(3), {"a": np.float32(0.5), "b": torch.tensor(2), "c": "text", "d": True})
    assert read_metrics(file.path) == [{"step": 3, "a": 0.5, "b": 2, "c": "text", "d": True}]


def test_what_is_published_is_whole_or_absent(tmp_path):
    stage = StageRun("sft", tmp_path)
    with stage.publish("records.jsonl") as path:
        path.write_text("one\n")
    with pytest.raises(ZeroDivisionError), stage.publish("records.jsonl") as path:
        path.write_text(f"half{1 // 0}")
    with stage.publish("model") as folder:
        (folder / "weights").write_text("one")
    with stage.publish("model") as folder:
        (folder / "weights").write_text("two")
    assert (stage.dir / "records.jsonl").read_text() == "one\n"
    assert (stage.dir / "model/weights").read_text() == "two"
    assert sorted(os.listdir(stage.dir)) == ["model", "records.jsonl"]


def test_notes_and_gates_survive_a_kill_and_hold_plain_json(tmp_path):
    import numpy as np

    stage = StageRun("sft", tmp_path)
    stage.note(loss=np.float64(0.5), bad=float("nan"), names=("a", "b"))
    stage.gate("ends", True, "0.99")
    again = StageRun("sft", tmp_path)
    assert again.notes == {"loss": 0.5, "bad": None, "names": ["a", "b"]}
    assert again.gate_records == [{"name": "ends", "passed": True, "message": "0.99"}]
    with pytest.raises(TypeError, match="JSON values"):
        again.note(bad=object())


def test_streams_differ_by_stage_seed_and_parts(tmp_path):
    keys = {
        StageRun(name, tmp_path, seed=seed).key("rollout", step)
        for name in ("sft", "ppo")
        for seed in (0, 1)
        for step in (1, 2)
    }
    assert len(keys) == 8


def test_running_from_recipe_yaml_skips_everything(toy):
    run("train.learning_rate=0.5")
    recipe = load_recipe("runs/toy", package="toy_stages")
    assert [stage.action for stage in execute(recipe).stages] == ["skip"] * 4
