"""A toy is learned by every way of training, only the assistant's tokens pull, killed and resumed are equal."""

import hashlib
import os
import signal
import time
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from data.errors import InputError
from data.rows import ChatRow, Message, TextRow, read_jsonl, write_jsonl
from pipeline import sft, trl_adapter
from pipeline.errors import Interrupted, TrainingFault
from pipeline.language_model import LanguageModel
from pipeline.metrics import read_metrics
from pipeline.run import StageRun
from pipeline.stages import sft as stage
from pipeline.stages.tokenizer import train, wrap

WORDS = ["red", "green", "blue", "black"]
OPPOSITE = dict(zip(WORDS, reversed(WORDS), strict=True))


def conversation(number, answer=None):
    word = WORDS[number % len(WORDS)]
    return ChatRow(
        id=f"c{number}",
        messages=(
            Message(role="user", content=f"{word} ?" + " ?" * (number // 16 == 3)),
            Message(role="assistant", content=answer or OPPOSITE[word]),
        ),
    )


@pytest.fixture(scope="module")
def world(tmp_path_factory, tiny_llama):
    """A corpus, a tokenizer and a model that knows nothing yet; returns the run's folder."""
    folder = tmp_path_factory.mktemp("toy")
    corpus = folder / "stages" / "corpus"
    corpus.mkdir(parents=True)
    write_jsonl(corpus / "chat.train.jsonl", [conversation(n) for n in range(64)])
    write_jsonl(corpus / "chat.valid.jsonl", [conversation(n) for n in range(8)])
    documents = [TextRow(id=f"d{n}", text=" ".join(WORDS[n % 4 :] * (1 + n % 3))) for n in range(40)]
    write_jsonl(corpus / "text.train.jsonl", documents)
    tokenizer = wrap(train([" ".join(WORDS) + " ?"] * 9, vocab_size=275))
    base = folder / "stages" / "pretrain" / "model"
    tiny_llama(275, noise=0.0).save_pretrained(base)
    tokenizer.save_pretrained(base)
    return folder


def stage_run(world, name, **options):
    stages = world / "stages"
    inputs = {"corpus": stages / "corpus", "policy": stages / "pretrain"}
    return StageRun(name, world, seed=3, inputs=inputs, **options)


def settings(**changes):
    given = {
        "epochs": 4,
        "batch_size": 8,
        "micro_batch_size": 8,
        "learning_rate": 0.02,
        "max_new_tokens": 6,
        "gate_prompts": 4,
        "checkpoint_every": 4,
    }
    return stage.Config(**(given | changes))


def digests(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def without_times(folder):
    return [
        {name: value for name, value in line.items() if not name.endswith(("_seconds", "_per_second"))}
        for line in read_metrics(folder / "metrics.jsonl")
    ]


def test_learns_the_answers_and_to_stop(world):
    run = stage_run(world, "learns")
    stage.run(settings(epochs=12), run)
    chat = LanguageModel.load(run.dir)
    answers = chat.generate(
        [[Message(role="user", content=f"{word} ?")] for word in WORDS],
        keys=[0] * 4,
        max_new_tokens=6,
        temperature=0.0,
    )
    assert [answer.text for answer in answers] == [OPPOSITE[word] for word in WORDS]
    assert all(answer.ended for answer in answers)
    gates = {gate["name"]: gate["passed"] for gate in run.gate_records}
    assert gates == {"held_out_loss": True, "end_rate": True}
    assert run.notes["held_out_loss"] < 0.1 < 1.0 < run.notes["held_out_loss_before"]


def test_an_untrained_model_fails_the_gates(world):
    run = stage_run(world, "untrained")
    stage.run(settings(epochs=1, learning_rate=1e-9), run)
    gates = {gate["name"]: gate for gate in run.gate_records}
    assert gates["end_rate"]["passed"] is False
    # What does not change is no worse either: the loss must fall.
    run.log(0, held_out_loss=0.0)
    run.cut_metrics(-1)
    run.log(0, held_out_loss=0.0)
    sft.gates(settings(), run, 1)
    (failed,) = (gate for gate in run.gate_records if gate["name"] == "held_out_loss")
    assert failed["passed"] is False
    assert "mend untrained: lower learning_rate (now" in failed["message"]


def test_only_what_the_assistant_says_pulls(world):
    run = stage_run(world, "targets")
    model, tokenizer = sft.load(settings(), run)
    rows = sft.encode(settings(), run, model, tokenizer)
    row, targets = rows.tokens[0], rows.targets[0]
    assert tokenizer.convert_ids_to_tokens(row)[:2] == ["<|begin|>", "<|user|>"]
    answer = [token for token, said in zip(row, targets, strict=True) if said]
    assert tokenizer.decode(answer) == f"{OPPOSITE[WORDS[0]]}<|end|>"
    # The loss as the trainer takes it: no gradient reaches the logits of a position that is not a target.
    trl_labels = torch.tensor([[t if said else -100 for t, said in zip(row, targets, strict=True)]])
    sft.use_lean_head(model)
    hidden = []
    model.model.norm.register_forward_hook(lambda *_, **__: None)
    model.model.norm.register_forward_hook(lambda module, inputs, output: hidden.append(output))
    output = model(input_ids=torch.tensor([row]), labels=trl_labels, fused_lm_head=True)
    hidden[0].retain_grad()
    (-output.log_probs.sum()).backward()
    pulled = hidden[0].grad[0].abs().sum(dim=-1) > 0
    assert pulled[:-1].tolist() == targets[1:]


def test_the_lean_head_equals_trl(world, monkeypatch, tmp_path):
    results = []
    for lean in (True, False):
        if not lean:
            monkeypatch.setattr(sft, "use_lean_head", lambda model: None)
        # The stage's name enters the order of the data, so both have the same one.
        run = StageRun("head", tmp_path / str(lean), seed=3, inputs=stage_run(world, "any").inputs)
        stage.run(settings(epochs=1, gate_prompts=0), run)
        results.append(without_times(run.dir))
    for ours, theirs in zip(*results, strict=True):
        assert ours.keys() == theirs.keys()
        for name in ours:
            assert ours[name] == pytest.approx(theirs[name], rel=1e-4, abs=1e-5), name


@pytest.mark.parametrize("trainable", ["last_layer", "lora"])
def test_last_layer_and_adapters_change_what_they_should(world, trainable):
    run = stage_run(world, trainable)
    stage.run(settings(trainable=trainable, epochs=2, gate_prompts=0), run)
    before = AutoModelForCausalLM.from_pretrained(world / "stages" / "pretrain" / "model").state_dict()
    after = AutoModelForCausalLM.from_pretrained(run.dir / "model").state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert run.notes["held_out_loss"] < run.notes["held_out_loss_before"]
    if trainable == "last_layer":
        assert {"model.norm.weight", "model.layers.1.mlp.up_proj.weight"} <= changed
        assert not any("layers.0" in name or "embed" in name or "lm_head" in name for name in changed)
    else:
        assert changed == {name for name in before if "_proj" in name}
        saved = {path.name for path in (run.dir / "adapter").iterdir()}
        assert {"adapter_config.json", "adapter_model.safetensors"} <= saved
        assert str(world) not in (run.dir / "adapter" / "adapter_config.json").read_text()


def test_a_share_of_pretraining_text_is_mixed_in(world):
    run = stage_run(world, "mixed")
    model, tokenizer = sft.load(settings(), run)
    rows = sft.encode(settings(pretrain_share=0.5, epochs=3), run, model, tokenizer)
    num_chats = run.notes["conversations"]
    documents = [[row for row in epoch if row >= num_chats] for epoch in rows.epochs]
    assert len({row for epoch in documents for row in epoch}) == sum(map(len, documents))
    for epoch in documents:
        num = sum(rows.lengths[row] for row in epoch)
        assert num == pytest.approx(sum(rows.lengths[:num_chats]), rel=0.1)
        assert all(all(rows.targets[row]) for row in epoch)


def test_rows_too_long_are_dropped_and_counted(world):
    run = stage_run(world, "long")
    model, tokenizer = sft.load(settings(), run)
    shortest = min(len(row) for row in sft.encode(settings(), run, model, tokenizer).tokens)
    rows = sft.encode(settings(max_length=shortest), run, model, tokenizer)
    assert {len(row) for row in rows.tokens} == {shortest}
    assert run.notes["dropped_too_long"] == 64 - len(rows.tokens) > 0
    with pytest.raises(InputError, match=r"no row is left \(longer than 2 tokens: 64"):
        sft.encode(settings(max_length=2), run, model, tokenizer)


def test_lora_settings_without_lora_are_refused():
    with pytest.raises(ValueError, match="lora_rank has no effect with trainable: all"):
        stage.Config(lora_rank=4)


def test_no_absolute_path_and_no_pickle_is_published(world):
    run = stage_run(world, "clean")
    stage.run(settings(epochs=1, gate_prompts=0), run)
    names = {path.name for path in (run.dir / "model").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= names
    for path in run.dir.rglob("*"):
        assert path.name != "training_args.bin"
    for path in (run.dir / "model").iterdir():
        assert str(world).encode() not in path.read_bytes(), path.name


def test_interrupted_and_resumed_equals_uninterrupted(world):
    config = settings(pretrain_share=0.3, optimizer="muon")
    whole = stage_run(world, "whole")
    stage.run(config, whole)

    class StopAfter:
        signum = None
        polls = 0

        def check(self):
            if self.signum:
                raise Interrupted(self.signum)

    class Polled(StageRun):
        def stop_requested(self):
            self._stop.polls += 1
            if self._stop.polls == 6:
                self._stop.signum = signal.SIGTERM
            return self._stop.signum is not None

    stages = world / "stages"
    inputs = {"corpus": stages / "corpus", "policy": stages / "pretrain"}
    # The stage's name enters its random streams, so the interrupted run stands in another folder.
    elsewhere = world / "elsewhere"
    with pytest.raises(Interrupted):
        stage.run(config, Polled("whole", elsewhere, seed=3, inputs=inputs, stop=StopAfter()))
    assert [line["step"] for line in without_times(elsewhere / "stages" / "whole")][-1] == 6
    resumed = StageRun("whole", elsewhere, seed=3, inputs=inputs)
    assert resumed.checkpoints.latest().step == 6
    stage.run(config, resumed)
    assert digests(resumed.dir / "model") == digests(whole.dir / "model")
    assert without_times(resumed.dir) == without_times(whole.dir)


def test_killed_and_resumed_equals_uninterrupted(world):
    config = settings(checkpoint_every=2)
    whole = stage_run(world, "killed")
    stage.run(config, whole)
    elsewhere = world / "killed_elsewhere"
    inputs = whole.inputs
    process = get_context("spawn").Process(target=_train, args=(config, elsewhere, inputs))
    process.start()
    store = elsewhere / "stages" / "killed" / "checkpoints"
    deadline = time.monotonic() + 60
    while not (store / "step-000000004").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    resumed = StageRun("killed", elsewhere, seed=3, inputs=inputs)
    # The newest checkpoint is damaged as well: the one before it serves.
    newest = resumed.checkpoints.latest()
    (weights,) = newest.path.glob("checkpoint-*/model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-7])
    resumed = StageRun("killed", elsewhere, seed=3, inputs=inputs)
    assert 0 < resumed.checkpoints.latest().step < newest.step
    stage.run(config, resumed)
    assert digests(resumed.dir / "model") == digests(whole.dir / "model")
    assert without_times(resumed.dir) == without_times(whole.dir)


def _train(config, folder, inputs):
    stage.run(config, StageRun("killed", folder, seed=3, inputs=inputs))


def test_the_end_of_training_is_a_checkpoint_of_its_own(world):
    run = stage_run(world, "finished")
    stage.run(settings(gate_prompts=0, checkpoint_every=5), run)
    first = digests(run.dir / "model")
    again = stage_run(world, "finished")
    assert again.checkpoints.latest().step == 32
    stage.run(settings(gate_prompts=0, checkpoint_every=5), again)
    assert digests(again.dir / "model") == first


@pytest.mark.parametrize("what", ["loss", "gradient norm"])
def test_a_nan_stops_before_the_step_and_keeps_the_batch(world, monkeypatch, what):
    run = stage_run(world, f"nan_{what[0]}")
    config = settings(gate_prompts=0, epochs=1)
    model, tokenizer = sft.load(config, run)
    rows = sft.encode(config, run, model, tokenizer)
    plan = sft.plan(config, run, rows)
    weight = model.model.layers[0].mlp.up_proj.weight

    def poison(module, inputs, output):
        if (
            read_metrics(run.dir / "metrics.jsonl")[-1:]
            and read_metrics(run.dir / "metrics.jsonl")[-1]["step"] == 3
        ):
            if what == "loss":
                return output * float("nan")
            output.register_hook(lambda gradient: gradient * float("inf"))
        return output

    model.model.layers[0].mlp.register_forward_hook(poison)
    with pytest.raises(TrainingFault, match=f"the {what} of step 4 is (nan|inf); the step was not applied"):
        sft.train(config, run, plan, rows, model, tokenizer)
    assert bool(torch.isfinite(weight).all())
    assert [line["step"] for line in read_metrics(run.dir / "metrics.jsonl")] == [1, 2, 3]
    assert (run.dir / "diagnosis" / "state.safetensors").exists()


def train_with_room_for(rows, world, name, *, only_call=None, folder=None, **changes):
    """Train in a model whose last layer holds so many rows, always or at one call of it; tells what was said."""
    config = settings(**{"gate_prompts": 0, "epochs": 1, **changes})
    run = StageRun("room", folder or world / name, seed=3, inputs=stage_run(world, name).inputs)
    said, calls = [], []
    run.say = said.append
    model, tokenizer = sft.load(config, run)
    encoded = sft.encode(config, run, model, tokenizer)

    def hold(module, inputs):
        calls.append(len(inputs[0]))
        if len(inputs[0]) > rows and only_call in (None, len(calls)):
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")

    model.base_model.layers[-1].register_forward_pre_hook(hold)
    sft.train(config, run, sft.plan(config, run, encoded), encoded, model, tokenizer)
    return run, model, said


def equal_weights(first, second):
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    return all(torch.allclose(a, b, atol=2e-4) for a, b in pairs)


def test_memory_that_runs_out_halves_the_micro_batch_and_keeps_the_batch(world):
    whole, expected, silence = train_with_room_for(8, world, "roomy")
    run, model, said = train_with_room_for(3, world, "narrow")
    assert silence == []
    assert [text.rpartition("of ")[2] for text in said] == ["4 rows", "2 rows"]
    assert equal_weights(model, expected)
    losses, same = (
        [line["loss"] for line in read_metrics(one.dir / "metrics.jsonl")] for one in (run, whole)
    )
    assert len(losses) == 8
    assert losses == pytest.approx(same, abs=1e-4)


@pytest.mark.parametrize("call", [2, 3, 4])
def test_memory_that_runs_out_within_a_step_spoils_no_gradient(world, call):
    """Steps of two micro-batches: the second may fail when the first has left its gradients."""
    _, expected, _ = train_with_room_for(8, world, "two", micro_batch_size=4)
    run, model, said = train_with_room_for(2, world, f"late{call}", micro_batch_size=4, only_call=call)
    assert len(said) == 1
    assert equal_weights(model, expected)
    assert len(read_metrics(run.dir / "metrics.jsonl")) == 8


def test_a_continued_run_goes_on_with_the_micro_batch_that_fitted(world):
    class Polled(StageRun):
        polls = 0

        def stop_requested(self):
            self.polls += 1
            return self.polls == 4

    whole, expected, _ = train_with_room_for(3, world, "narrow_whole")
    folder = world / "narrow_again"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(globals(), "StageRun", Polled)
        patch.setattr(Polled, "check_stop", lambda self: None)
        train_with_room_for(3, world, "narrow_again", folder=folder)
    run, model, said = train_with_room_for(3, world, "narrow_again", folder=folder)
    assert said == []
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), expected.parameters(), strict=True))
    assert without_times(run.dir) == without_times(whole.dir)


def test_memory_that_does_not_hold_one_row_is_said(world):
    with pytest.raises(TrainingFault, match="out of memory with a micro-batch of 1 rows"):
        train_with_room_for(0, world, "none")


def test_the_template_answers_like_plain_transformers(world):
    run = stage_run(world, "template")
    stage.run(settings(gate_prompts=0), run)
    tokenizer = AutoTokenizer.from_pretrained(run.dir / "model")
    model = AutoModelForCausalLM.from_pretrained(run.dir / "model")
    prompt = [Message(role="user", content="red ?")]
    tokens = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_tensors="pt")[
        "input_ids"
    ]
    plain = model.generate(tokens, do_sample=False, max_new_tokens=6)[0, tokens.shape[1] :].tolist()
    ours = (
        LanguageModel.load(run.dir).generate([prompt], keys=[0], max_new_tokens=6, temperature=0.0)[0].tokens
    )
    assert ours == plain


def test_a_loss_above_twice_its_start_is_divergence():
    steady = [1.0] * 40
    assert not trl_adapter.diverged(steady)
    assert not trl_adapter.diverged([1.0] * 20 + [9.0] * 19 + [1.0])
    assert trl_adapter.diverged([1.0] * 20 + [2.1] * 20)
    assert not trl_adapter.diverged([9.0] * 39)


def test_batches_are_the_same_for_any_number_of_processes():
    epochs = [[list(range(8)), list(range(8, 16)), [16, 17, 18]]]
    lengths = [5] * 19
    for processes, micro in ((1, 8), (1, 2), (2, 8), (2, 2), (4, 1)):
        plan = trl_adapter.batches(epochs, lengths, micro_batch_size=micro, processes=processes)
        assert all(len(rows) <= micro for rows in plan.micro)
        steps = [
            sorted(row for rows in plan.micro[n * plan.per_step : (n + 1) * plan.per_step] for row in rows)
            for n in range(plan.num_steps)
        ]
        assert steps == [sorted(batch) for batch in epochs[0]][: len(steps)]
        assert plan.counted_after(1) == 40
        assert plan.num_steps == (3 if plan.per_step <= 3 else 2)


def test_held_out_rows_are_kept_as_samples(world):
    run = stage_run(world, "samples")
    stage.run(settings(epochs=1), run)
    lines = (run.dir / "samples" / "held_out.jsonl").read_text().splitlines()
    assert len(lines) == 4
    assert '"completion"' in lines[0]
    assert len(read_jsonl(Path(run.inputs["corpus"]) / "chat.valid.jsonl", ChatRow)) == 8


def test_resolved_settings_load_again():
    from pipeline.stages.sft import Config

    assert Config(**Config().model_dump()) == Config()
    with pytest.raises(ValueError, match="lora_rank has no effect"):
        Config(lora_rank=7)
