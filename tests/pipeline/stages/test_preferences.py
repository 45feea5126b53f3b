"""Pairs are ordered by gold with the asked noise, split by person, the same after a stop, mixed as asked."""

import json
import signal

import pytest

from data.errors import InputError
from data.rows import PreferenceRow, read_jsonl, user, write_jsonl
from data.world import Settings
from pipeline import preferences
from pipeline.errors import Interrupted
from pipeline.recipe import Cost, CostContext
from pipeline.run import StageRun
from pipeline.stages import preferences as stage


def run_in(folder, small_world, **options):
    stages = small_world / "stages"
    inputs = {"corpus": stages / "corpus", "policy": stages / "sft"}
    return StageRun("preferences", folder, seed=1, inputs=inputs | options.pop("inputs", {}), **options)


def settings(**changes):
    return stage.Config(
        **({"num_prompts": 60, "samples_per_prompt": 2, "max_new_tokens": 16, "test_share": 0.3} | changes)
    )


@pytest.fixture(scope="module")
def finished(small_world, tmp_path_factory):
    run = run_in(tmp_path_factory.mktemp("runs"), small_world)
    stage.run(settings(), run)
    return run


def rows_of(run, split):
    return read_jsonl(run.dir / f"{split}.jsonl", PreferenceRow)


def test_people_of_held_out_pairs_are_never_trained_on(finished):
    train, test = rows_of(finished, "train"), rows_of(finished, "test")
    assert len(train) > len(test) > 10
    assert {row.cluster for row in train}.isdisjoint(row.cluster for row in test)
    assert len({row.id for row in train + test}) == len(train) + len(test)


def test_test_people_of_the_world_occur_nowhere(finished, small_world):
    corpus = small_world / "stages" / "corpus"
    asked = {
        json.loads(line)["cluster"]
        for line in (corpus / "items.test.jsonl").read_text().splitlines()
        if "facts" in line
    }
    rl = {json.loads(line).get("cluster") for line in (corpus / "items.rl.jsonl").read_text().splitlines()}
    for row in rows_of(finished, "train") + rows_of(finished, "test"):
        assert row.cluster in rl
        assert not (row.cluster.startswith("person") and row.cluster in asked)


@pytest.mark.parametrize("noise", [0.0, 0.4])
def test_labels_follow_gold_but_for_the_noise(small_world, tmp_path, noise):
    run = run_in(tmp_path, small_world)
    stage.run(settings(label_noise=noise, samples_per_prompt=0, num_prompts=300), run)
    rows = rows_of(run, "train")
    flipped = [row.chosen_gold < row.rejected_gold for row in rows]
    # 3 standard deviations of a share of at least 500 labels.
    assert sum(flipped) / len(rows) == pytest.approx(noise, abs=0.07 if noise else 0)
    assert run.notes["labels_flipped"] == sum(flipped) / len(rows)


def test_contrasts_are_kept(finished):
    kinds = {row.kind for row in rows_of(finished, "train") + rows_of(finished, "test")}
    for contrast in ("right_over_wrong", "right_over_abstain", "abstain_over_wrong"):
        assert any(kind.startswith(contrast) for kind in kinds), kinds
    assert sum(finished.notes["kinds_train"].values()) == finished.notes["pairs_train"]


def test_samples_are_candidates_when_they_end(finished):
    lines = [json.loads(line) for line in (finished.dir / "candidates.jsonl").read_text().splitlines()]
    sampled = [line for line in lines if line["kind"] == "on_policy"]
    assert len(sampled) == finished.notes["samples"] > 0
    # An untrained model rarely ends; what is cut off is no candidate.
    assert finished.notes["samples_without_end"] == 120 - finished.notes["samples"] > 60
    assert all(set(line) == {"id", "kind", "completion", "gold", "outcome"} for line in lines)


def test_a_run_stopped_between_chunks_gives_the_same_bytes(finished, small_world, tmp_path, monkeypatch):
    monkeypatch.setattr(preferences, "CHUNK", 25)

    class Stops:
        signum = None
        checks = 0

        def check(self):
            self.checks += 1
            if self.checks == 2:
                raise Interrupted(signal.SIGTERM)

    with pytest.raises(Interrupted):
        stage.run(settings(), run_in(tmp_path, small_world, stop=Stops()))
    resumed = run_in(tmp_path, small_world)
    assert resumed.checkpoints.latest().step == 50
    stage.run(settings(), resumed)
    whole = run_in(tmp_path / "whole", small_world)
    stage.run(settings(), whole)
    for name in ("train.jsonl", "test.jsonl", "candidates.jsonl"):
        assert (resumed.dir / name).read_bytes() == (whole.dir / name).read_bytes()
    assert resumed.notes == whole.notes


def judged(num, kind):
    return [
        PreferenceRow(f"{kind}{n}", user(f"{kind} {n}"), "good", f"bad {n}", kind=kind) for n in range(num)
    ]


def test_pairs_of_people_pass_through_and_are_thinned_by_kind(small_world, tmp_path):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    rows = judged(200, "hh/helpful") + judged(200, "hh/harmless") + judged(200, "ethics")
    write_jsonl(corpus / "preferences.train.jsonl", rows)
    write_jsonl(corpus / "preferences.test.jsonl", judged(10, "ethics"))
    run = run_in(tmp_path, small_world, inputs={"corpus": corpus})
    stage.run(settings(keep={"hh": 0.25, "hh/harmless": 0.0}), run)
    kinds = run.notes["kinds_train"]
    assert kinds["ethics"] == 200
    assert "hh/harmless" not in kinds
    assert 30 < kinds["hh/helpful"] < 70
    assert run.notes["pairs_test"] == 10
    with pytest.raises(InputError, match="the kind `hx`; the corpus has pairs of ethics, hh, hh/harmless"):
        stage.run(settings(keep={"hx": 0.1}), run)


def test_without_any_pair_it_is_refused(small_world, tmp_path):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    with pytest.raises(InputError, match="training pairs: no row is left"):
        stage.run(settings(), run_in(tmp_path, small_world, inputs={"corpus": corpus}))


def test_where_all_pairs_are_held_out_the_refusal_says_so(small_world, tmp_path):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    write_jsonl(corpus / "preferences.test.jsonl", judged(1, "vote"))
    with pytest.raises(InputError, match=r"no row is left \(held out for testing: 1"):
        stage.run(settings(), run_in(tmp_path, small_world, inputs={"corpus": corpus}))


def test_one_sample_without_variants_makes_no_pair():
    with pytest.raises(ValueError, match="makes no pair"):
        stage.Config(variants=False, samples_per_prompt=1)


def test_the_announced_cost_is_about_what_is_done(finished, small_world):
    world = json.loads((small_world / "stages" / "corpus" / "world.json").read_text())["settings"]
    context = CostContext({"corpus": Settings(**world)}, {"policy": Cost(parameters=1000)})
    cost = stage.cost(settings(), context)
    assert cost.steps == finished.notes["prompts"]
    assert cost.memory_bytes == 4 * 1000
    names = ("candidates.jsonl", "train.jsonl", "test.jsonl")
    assert cost.disk_bytes == pytest.approx(sum((finished.dir / n).stat().st_size for n in names), rel=0.5)
