"""Evaluations that need models, on tiny ones without a closed world, as on real data."""

import json
import math
import shlex
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from data.chat import encode_plain
from data.errors import InputError
from data.rows import Item, TextRow, user, write_jsonl
from pipeline import answers
from pipeline.byte_ngram import gzip_bits_per_byte
from pipeline.checkpoint import write_json
from pipeline.cli import app
from pipeline.evaluation import evaluate as evaluate_sources
from pipeline.rankings import bradley_terry
from pipeline.records import read_records
from pipeline.run import StageRun
from pipeline.stages import evaluate
from tests.pipeline.evals.tiny_run import TEXTS, finished


def test_an_untrained_model_of_the_same_architecture_is_a_null_of_every_figure(chain):
    run, figures = evaluated(chain, suite=["held_out_loss", "form"])
    rows = read_records(run.dir / "records.untrained.jsonl")
    assert {row.stage for row in rows} == {"untrained"}
    nats = [row for row in rows if row.measure == "nats"]
    expected = sum(row.score for row in nats) / sum(row.weight for row in nats)
    for stage in ("base", "sft", "ppo"):
        assert figures["loss/held_out", stage]["nulls"]["untrained"] == pytest.approx(expected)
        assert "untrained" in figures["length", stage]["nulls"]
    assert {row.stage for row in read_records(run.dir / "records.jsonl")} == {"base", "sft", "ppo"}
    assert not any("untrained" in name for name, _ in figures)
    # Fresh weights of the architecture: near to uniform over the vocabulary, and the same every time.
    assert expected == pytest.approx(math.log(300), abs=0.3)
    _, again = evaluated(chain, name="again", suite=["held_out_loss", "form"])
    assert again["loss/held_out", "sft"]["nulls"] == figures["loss/held_out", "sft"]["nulls"]


def test_win_rates_have_the_untrained_model_in_the_place_of_who_is_compared(chain, monkeypatch):
    golds = {"base": [0, 1, 2], "sft": [1, 1, 1], "ppo": [2, 0, 3], "untrained": [1, 0, 2]}
    monkeypatch.setattr("pipeline.answers.Context.knows", lambda context, item: True)

    def judge(context, item, answer):
        (stage,) = (stage for stage, rows in context.answers.items() if rows.get(item.id) is answer)
        score = float(golds[stage][int(item.id) % 3])
        return SimpleNamespace(score=score, terms={}, outcome="", explanation="")

    monkeypatch.setattr("pipeline.answers.Context.judge", judge)
    monkeypatch.setattr("pipeline.answers.Context.other_answer", lambda c, stage, items: c.answers[stage])
    _, figures = evaluated(chain, suite=["win_rate"])
    ids = range(7)

    def win(ours, theirs):
        sides = [(golds[ours][n % 3], golds[theirs][n % 3]) for n in ids]
        return sum((a > b) + (a == b) / 2 for a, b in sides) / len(sides)

    for ours, theirs in (("sft", "base"), ("ppo", "base"), ("ppo", "sft")):
        figure = figures[f"win_rate/{ours}_over_{theirs}", ours]
        assert figure["value"] == pytest.approx(win(ours, theirs))
        assert figure["nulls"]["untrained"] == pytest.approx(win("untrained", theirs))
        assert "untrained" in figures[f"win_rate/length_controlled/{ours}_over_{theirs}", ours]["nulls"]
    # Of as many sides, with the untrained one in this one's place.
    sides = [golds[stage] for stage in ("base", "sft", "untrained")]
    wins = np.array(
        [[sum((a[n % 3] > b[n % 3]) + (a[n % 3] == b[n % 3]) / 2 for n in ids) for b in sides] for a in sides]
    )
    assert figures["win_rate/strength", "ppo"]["nulls"] == {
        "no_difference": 0.0,
        "untrained": pytest.approx(bradley_terry(wins)[2]),
    }


def test_the_answers_of_the_untrained_model_are_rewarded_as_those_of_chat_models_are(chain, monkeypatch):
    monkeypatch.setattr(
        "pipeline.reward_scores.score_with",
        lambda items, texts, *_, **__: [float(len(t)) for t in texts],
    )
    run, figures = evaluated(chain, suite=["proxy"], more={"reward": chain / "stages" / "reward"})
    rows = read_records(run.dir / "records.untrained.jsonl")
    assert len(rows) == 7
    assert {stage for _, stage in figures} == {"sft", "ppo"}
    mean = sum(len(row.completion) for row in rows) / 7
    assert figures["proxy/mean", "sft"]["nulls"]["untrained"] == pytest.approx(mean)


def test_without_it_no_untrained_model_is_asked(chain):
    run, figures = evaluated(chain, suite=["form"], untrained=False)
    assert "untrained" not in figures["length", "sft"]["nulls"]
    assert not (run.dir / "records.untrained.jsonl").exists()


def test_every_model_is_written_down_with_the_stage_that_made_it(chain):
    """Two models of one name, as where a run evaluates its PPO beside that of another run."""
    other = chain.parent / "other"
    shutil.copytree(chain, other)
    folders = [other / "stages" / "ppo", chain / "stages" / "ppo"]
    names = {"models": ["other/ppo", "ppo"]}
    run = StageRun("evaluate", chain, inputs={"models": folders}, input_names=names)
    evaluate.run(evaluate.config_class({"suite": ["form"]})(suite=["form"]), run)
    models = json.loads((run.dir / "figures.json").read_text())["models"]
    assert [(model["name"], model["kind"], model["reference"]) for model in models] == [
        ("ppo", "ppo", "other/ppo"),
        ("ppo_2", "ppo", "ppo"),
    ]


def evaluated(chain, name="evaluate", more=None, **settings):
    stages = chain / "stages"
    inputs = {"corpus": stages / "corpus", "models": [stages / model for model in ("pretrain", "sft", "ppo")]}
    inputs |= more or {}
    run = StageRun(name, chain, seed=3, inputs=inputs)
    model = evaluate.config_class(settings)
    evaluate.run(model(max_new_tokens=9, **settings), run)
    found = json.loads((run.dir / "figures.json").read_text())
    return run, {(figure["name"], figure["stage"]): figure for figure in found["figures"]}


def test_without_a_world_form_drift_and_loss_are_measured(chain):
    run, figures = evaluated(chain)
    names = {name for name, _ in figures if "_minus_" not in name}
    assert names == {"length", "ends", "kl", "loss/held_out", "loss/bits_per_byte"}
    assert figures["kl", "ppo"]["value"] == pytest.approx(0, abs=1e-4)  # equal weights, other batch shapes
    assert set(run.notes["models"]) == {"base", "sft", "ppo"}
    for stage in ("sft", "ppo"):
        assert figures["length", stage]["n"] == 7
    assert figures["length", "sft"]["value"] == figures["length", "ppo"]["value"]


def test_without_gold_the_reward_model_judges_unnamed(chain, tmp_path, monkeypatch):
    def score(items, completions, context, *, ended=None):
        return [float(len(text)) for text in completions]

    monkeypatch.setattr("pipeline.reward_scores.score_with", score)
    stages = chain / "stages"
    models = [stages / name for name in ("pretrain", "sft", "ppo")]
    inputs = {"corpus": stages / "corpus", "models": models, "reward": tmp_path}
    run = StageRun("evaluate", chain, seed=3, inputs=inputs)
    evaluate.run(evaluate.Config(max_new_tokens=9), run)
    names = {figure["name"] for figure in json.loads((run.dir / "figures.json").read_text())["figures"]}
    assert {"judge/reward_model/ppo_over_sft", "judge/reward_model/strength"} <= names
    assert "pipeline.evals.judge" in evaluate.loaded(evaluate.Config())
    assert "pipeline.evals.judge" not in evaluate.loaded(evaluate.Config(suite=("form",)))


def test_kl_of_two_models_is_the_log_ratio_of_the_answers(chain, tiny_llama, tokenizer):
    other = tiny_llama(vocabulary=len(tokenizer), seed=5, context=48)
    other.save_pretrained(chain / "stages" / "ppo" / "model")
    _, figures = evaluated(chain)
    assert figures["kl", "ppo"]["value"] > 1


def test_held_out_loss_is_the_models_cross_entropy(chain, tokenizer):
    from transformers import AutoModelForCausalLM

    _, figures = evaluated(chain)
    model = AutoModelForCausalLM.from_pretrained(chain / "stages" / "sft" / "model")
    nats = tokens = num_bytes = 0
    for text in TEXTS:
        ids = torch.tensor([encode_plain(tokenizer, text)])
        with torch.no_grad():
            logprobs = model(input_ids=ids).logits.log_softmax(-1)[0, :-1]
        nats -= logprobs.gather(1, ids[0, 1:, None]).sum().item()
        tokens += ids.shape[1] - 1
        num_bytes += len(text.encode())
    assert figures["loss/held_out", "sft"]["value"] == pytest.approx(nats / tokens, abs=1e-4)
    bits = nats / math.log(2) / num_bytes
    assert figures["loss/bits_per_byte", "sft"]["value"] == pytest.approx(bits, abs=1e-4)
    nulls = figures["loss/held_out", "sft"]["nulls"]
    assert nulls["uniform"] == pytest.approx(math.log(len(tokenizer)))
    floors = figures["loss/bits_per_byte", "sft"]["nulls"]
    assert floors["byte_5_gram"] < 1 < floors["gzip"] + 1


def test_a_document_longer_than_the_context_is_cut(chain):
    write_jsonl(
        chain / "stages" / "corpus" / "text.valid.jsonl",
        [TextRow("a", " ".join(TEXTS * 5)), TextRow("b", "é")],
    )
    run, _ = evaluated(chain, suite=["held_out_loss"])
    rows = [row for row in read_records(run.dir / "records.jsonl") if row.measure == "nats"]
    assert max(row.weight for row in rows) < 48
    assert all(row.score > 0 for row in rows)


def test_a_document_is_cut_to_the_same_text_for_all_models(chain, tiny_llama, tokenizer):
    longer = tiny_llama(vocabulary=len(tokenizer), seed=2, context=512)
    longer.save_pretrained(chain / "stages" / "sft" / "model")
    text = " ".join(TEXTS)
    write_jsonl(chain / "stages" / "corpus" / "text.valid.jsonl", [TextRow("a", text)])
    run, figures = evaluated(chain, suite=["held_out_loss"])
    rows = [row for row in read_records(run.dir / "records.jsonl") if row.measure == "bits"]
    (num_bytes,) = {row.weight for row in rows}
    assert num_bytes < len(text)
    floor = gzip_bits_per_byte(text.encode()[: int(num_bytes)])
    assert figures["loss/bits_per_byte", "sft"]["nulls"]["gzip"] == floor


def test_a_question_that_leaves_no_room_for_an_answer_is_left_out_for_all_and_counted(chain):
    rows = [Item("short", user("Where?")), Item("long", user(" ".join(TEXTS)))]
    write_jsonl(chain / "stages" / "corpus" / "items.test.jsonl", rows)
    run, figures = evaluated(chain, suite=["form"])
    assert run.notes["items_too_long"] == 1
    assert {figure["n"] for figure in figures.values()} == {1}


def test_scores_do_not_depend_on_the_batch_size(chain):
    small, _ = evaluated(chain, "small", batch_size=2)
    large, _ = evaluated(chain, "large", batch_size=256)
    pairs = zip(*(read_records(run.dir / "records.jsonl") for run in (small, large)), strict=True)
    for one, other in pairs:
        assert one.completion == other.completion
        assert one.score == pytest.approx(other.score, abs=1e-4)


def test_an_interrupted_evaluation_keeps_the_answers_that_are_whole(chain):
    first, _ = evaluated(chain)
    path = first.dir / "answers.sft.jsonl"
    before = path.read_text()
    lines = before.splitlines(keepends=True)
    path.write_text(before.replace('"text": "', '"text": "kept '))
    again, _ = evaluated(chain)
    assert "kept" in (again.dir / "records.jsonl").read_text()
    path.write_text("".join(lines[:3]))  # of other items: answered again
    evaluated(chain)
    assert path.read_text() == before


def test_the_command_gives_the_figures_of_the_run(chain, capsys):
    _, figures = evaluated(chain)
    finished(chain)
    evaluate_sources(["tiny"], suite=["kl"], runs_dir=chain.parent, as_json=True)
    printed = json.loads(capsys.readouterr().out)
    assert list(printed) == ["run", "recipe", "figures", "comparisons", "unscored", "notes", "timings"]
    found = {(figure["name"], figure["stage"]): figure for figure in printed["figures"]}
    command = f"fledge evaluate tiny --runs-dir {chain.parent} --suite kl"
    assert found["kl", "ppo"] == figures["kl", "ppo"] | {"command": command}


def other_run(chain):
    """A run with a corpus of its own, which evaluates its model beside one of `tiny`, on the corpus of that."""
    folder, stages = chain.parent / "other", chain / "stages"
    shutil.copytree(stages / "pretrain" / "model", folder / "stages" / "dpo" / "model")
    write_json(folder / "stages" / "dpo" / "stage.json", {"stage": "dpo"})
    corpus = folder / "stages" / "corpus"
    corpus.mkdir()
    write_json(corpus / "stage.json", {"stage": "corpus"})
    write_jsonl(corpus / "items.test.jsonl", [Item("a", user("Who was here?"))])
    names = ["corpus", "dpo", "evaluate"]
    write_json(folder / "run.json", {"recipe": "other", "seed": 3, "stages": [{"name": n} for n in names]})
    inputs = {"corpus": stages / "corpus", "models": [stages / "sft", folder / "stages" / "dpo"]}
    run = StageRun("evaluate", folder, seed=3, inputs=inputs)
    config = evaluate.Config(suite=("form",), max_new_tokens=9)
    evaluate.run(config, run)
    record = {
        "stage": "evaluate",
        "config": config.model_dump(mode="json"),
        "inputs": {"corpus": [["tiny/corpus", "0"]], "models": [["tiny/sft", "0"], ["dpo", "0"]]},
    }
    write_json(run.dir / "stage.json", record)
    return json.loads((run.dir / "figures.json").read_text())["figures"]


def test_the_recorded_command_gives_the_figures_of_a_run_that_uses_another(chain, monkeypatch, capsys):
    figures = other_run(chain)
    monkeypatch.chdir(chain.parent.parent)
    (command,) = {figure["command"] for figure in figures}
    app([*shlex.split(command)[1:], "--json"], standalone_mode=False)
    assert json.loads(capsys.readouterr().out)["figures"] == figures
    assert {figure["n"] for figure in figures} == {7}


def test_a_run_of_which_another_uses_a_stage_that_is_gone_is_named(chain):
    other_run(chain)
    shutil.rmtree(chain)
    with pytest.raises(InputError, match="names run tiny, which is not in"):
        evaluate_sources(["other"], runs_dir=chain.parent)


def test_the_recorded_command_names_the_sources_as_they_were_given(chain, tmp_path, capsys):
    finished(chain)
    other = str(chain / "stages" / "pretrain" / "model")
    options = {"suite": ["form"], "runs_dir": chain.parent, "data_root": str(tmp_path)}
    found = evaluate_sources(["tiny/sft", other], **options)
    command = (
        f"fledge evaluate tiny/sft {other} --data-root {tmp_path} --runs-dir {chain.parent} --suite form"
    )
    assert {figure["command"] for figure in found["figures"]} == {command}


def test_an_interrupted_command_goes_on_with_the_answers_there_are(chain, cache, monkeypatch, capsys):
    finished(chain)
    real, asked = answers.draw, []

    def draw(loaded, prompts, **options):
        asked.append(loaded.source.split("/")[-1])
        if asked == ["pretrain", "sft"]:
            raise KeyboardInterrupt
        return real(loaded, prompts, **options)

    monkeypatch.setattr(answers, "draw", draw)
    command = {"suite": ["form"], "runs_dir": chain.parent, "as_json": True}
    with pytest.raises(KeyboardInterrupt):
        evaluate_sources(["tiny"], **command)
    assert len(list(cache.rglob("answers.*.jsonl"))) == 1
    found = evaluate_sources(["tiny"], **command)
    assert asked[2:4] == ["sft", "ppo"]
    assert asked.count("pretrain") == 1
    assert not list(cache.iterdir())
    again = evaluate_sources(["tiny"], **command)
    assert again["figures"] == found["figures"]


def test_answers_of_a_model_that_has_changed_are_not_taken(chain, cache, monkeypatch, capsys):
    finished(chain)
    monkeypatch.setattr(evaluate, "summarise", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        evaluate_sources(["tiny"], suite=["form"], runs_dir=chain.parent)
    (kept,) = cache.iterdir()
    (chain / "stages" / "ppo" / "model" / "README.md").write_text("another model")
    with pytest.raises(ZeroDivisionError):
        evaluate_sources(["tiny"], suite=["form"], runs_dir=chain.parent)
    assert len(list(cache.iterdir())) == 2
    assert kept.exists()


def test_answers_are_kept_where_what_comes_after_them_is_refused(chain, cache, monkeypatch):
    finished(chain)

    def refuse(*_, **__):
        raise InputError("no prompts to demonstrate with")

    monkeypatch.setattr(evaluate, "summarise", refuse)
    with pytest.raises(InputError):
        evaluate_sources(["tiny"], suite=["form"], runs_dir=chain.parent)
    kept = {path.name for path in cache.rglob("answers.*.jsonl")}
    assert kept == {f"answers.{name}.jsonl" for name in ("base", "sft", "ppo", "untrained")}


def test_a_cache_that_cannot_be_written_is_done_without(chain, tmp_path, monkeypatch, capsys):
    finished(chain)
    (tmp_path / "file").touch()
    monkeypatch.setattr("pipeline.kept_work.root", lambda: tmp_path / "file" / "cache")
    assert evaluate_sources(["tiny"], suite=["form"], runs_dir=chain.parent)["figures"]


def test_a_stage_is_compared_with_any_other_model(chain, tmp_path, capsys):
    model = str(chain / "stages" / "pretrain" / "model")
    finished(chain)
    results = evaluate_sources([f"{chain.name}/sft", model], suite=["form"], runs_dir=chain.parent)
    assert {figure["stage"] for figure in results["figures"]} == {"sft", "model"}
    assert any(figure["name"] == "length/model_minus_sft" for figure in results["figures"])
    assert "length" in capsys.readouterr().out


def test_what_is_kept_of_several_seeds_is_one_report(chain, tmp_path, capsys):
    finished(chain)
    run = chain.parent / "seeded"
    shutil.copytree(chain, run / "seeds" / "3")
    shutil.copytree(chain, run / "seeds" / "4")
    record = json.loads((chain / "run.json").read_text())
    write_json(run / "seeds" / "4" / "run.json", record | {"seed": 4})
    write_json(run / "run.json", record | {"seed": None, "seeds": [3, 4]})
    found = evaluate_sources(["seeded"], suite=["form"], runs_dir=chain.parent, to=tmp_path / "kept")
    assert found["notes"][0]["models"] == ["base", "sft", "ppo"]
    kept = json.loads((tmp_path / "kept" / "report.json").read_text())
    assert kept["figures"] == found["figures"]
    assert {figure["seed"] for figure in kept["figures"]} == {3, 4}


# --- a reward model on pairs of a file


def test_answers_longer_than_the_context_are_refused(chain, cache):
    with pytest.raises(InputError, match="max_new_tokens 64 in the context of base, 48 tokens"):
        evaluate_sources(["tiny"], suite=["form"], runs_dir=chain.parent)
    assert not list(cache.iterdir())


def test_a_model_alone_has_no_questions(chain):
    with pytest.raises(InputError, match="no run to take the questions from"):
        evaluate_sources([str(chain / "stages" / "sft" / "model")], runs_dir=chain.parent / "none")
