"""A toy language is learned, packing keeps every token, a stopped run ends with the same bytes."""

import hashlib
import json
import math
import signal

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from data.chat import encode_documents
from data.errors import InputError
from data.rows import TextRow, write_jsonl
from pipeline import pretraining
from pipeline.errors import Interrupted
from pipeline.language_model import LanguageModel
from pipeline.metrics import read_metrics
from pipeline.next_token import NextToken
from pipeline.recipe import Cost, CostContext
from pipeline.run import StageRun
from pipeline.signals import StopFlag
from pipeline.stages import pretrain as stage
from pipeline.stages.tokenizer import train, wrap

WORDS = ["red", "green", "blue", "black"]
FOLLOWS = "after {} comes {}."
LEARNS = {
    "epochs": 30,
    "width": 32,
    "layers": 2,
}


def documents(num, first=0):
    pairs = [(n % 4, (n + 1) % 4) for n in range(first, first + num)]
    return [
        TextRow(id=f"d{first}-{n}", text=FOLLOWS.format(WORDS[a], WORDS[b])) for n, (a, b) in enumerate(pairs)
    ]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A run's folder with a corpus, in which each word has one successor, and its tokenizer."""
    folder = tmp_path_factory.mktemp("toy")
    rows = folder / "stages" / "corpus"
    rows.mkdir(parents=True)
    write_jsonl(rows / "text.train.jsonl", documents(200))
    write_jsonl(rows / "text.valid.jsonl", documents(20))
    tokenizer = wrap(train([row.text for row in documents(8)] * 9, vocab_size=285))
    tokenizer.save_pretrained(folder / "stages" / "tokenizer" / "model")
    return folder


def stage_run(corpus, name, **options):
    stages = corpus / "stages"
    inputs = {"corpus": stages / "corpus", "tokenizer": stages / "tokenizer"}
    return StageRun(name, corpus, seed=3, inputs=inputs, **options)


def settings(**changes):
    given = {
        "width": 16,
        "layers": 1,
        "heads": 2,
        "context": 16,
        "batch_tokens": 128,
        "epochs": 4,
        "learning_rate": 0.02,
        "checkpoint_every": 8,
        "num_samples": 2,
        "sample_tokens": 8,
    }
    return stage.Config(**(given | changes))


def digests(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def without_times(folder):
    return [
        {name: value for name, value in line.items() if not name.endswith(("_seconds", "_per_second"))}
        for line in read_metrics(folder / "metrics.jsonl")
    ]


@pytest.fixture(scope="module")
def trained(corpus):
    """A finished stage."""
    run = stage_run(corpus, "trained")
    stage.run(settings(**LEARNS), run)
    return run


def test_learns_which_word_follows(trained):
    model = LanguageModel.load(trained.dir)
    answers = model.generate(
        [f"after {word} comes" for word in WORDS], keys=[0] * 4, max_new_tokens=8, temperature=0.0
    )
    assert [answer.text for answer in answers] == [f" {word}." for word in [*WORDS[1:], WORDS[0]]]
    assert all(answer.ended for answer in answers)


def test_the_held_out_loss_stands_beside_floors_that_it_beats(trained):
    held_out = trained.notes["held_out"]
    rows = documents(20)
    assert held_out["num_bytes"] == sum(len(row.text.encode()) for row in rows)
    # One of four words opens each document; all else follows from it.
    num_tokens = len(
        encode_documents(AutoTokenizer.from_pretrained(trained.dir / "model"), [rows[0].text])[0]
    )
    entropy = math.log(4) / num_tokens
    assert entropy * 0.8 < held_out["loss"] < 2.5 * entropy + 0.05
    assert held_out["bits_per_byte"] == pytest.approx(
        held_out["loss"] / math.log(2) * held_out["num_tokens"] / held_out["num_bytes"]
    )
    assert held_out["loss"] < trained.notes["held_out"]["ngram_loss"] * 1.5
    assert 0 < held_out["ngram_bits_per_byte"] < held_out["bz2_bits_per_byte"]
    assert held_out["gzip_bits_per_byte"] > held_out["bits_per_byte"]


def test_the_same_steps_without_learning_stay_at_chance(corpus):
    run = stage_run(corpus, "still")
    stage.run(settings(learning_rate=1e-9, epochs=1, num_samples=0), run)
    assert run.notes["held_out"]["loss"] > 0.95 * math.log(285)


def test_samples_continue_held_out_documents(trained):
    lines = [
        json.loads(line) for line in (trained.dir / "samples" / "samples.jsonl").read_text().splitlines()
    ]
    assert len(lines) == 2
    beginnings = {row.text for row in documents(20)}
    assert all(any(text.startswith(line["prompt"]) for text in beginnings) for line in lines)


def test_the_model_folder_is_what_plain_transformers_reads(trained):
    folder = trained.dir / "model"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert type(model).__name__ == "LlamaForCausalLM"
    for ids in (model.config, model.generation_config):
        assert (ids.pad_token_id, ids.bos_token_id, ids.eos_token_id) == (0, 1, 2)
    assert tokenizer.chat_template
    assert not list(folder.glob("*.bin"))
    text = b"".join(path.read_bytes() for path in folder.iterdir())
    assert str(trained.run_dir).encode() not in text


@pytest.mark.parametrize("changes", [{}, {"optimizer": "adamw", "context": 7, "batch_tokens": 70}])
def test_two_runs_and_a_stopped_and_continued_one_give_the_same_bytes(corpus, changes, monkeypatch):
    config = settings(epochs=1, **changes)
    name = config.optimizer
    for place in ("a", "b"):
        stage.run(config, stage_run(corpus, f"{name}_{place}" if place == "b" else name))
    flag = StopFlag()
    rows = pretraining.PackedText.rows

    def stopping(self, first, num):
        flag.signum = signal.SIGTERM if first >= 5 * num else None
        return rows(self, first, num)

    # The stage's name keys its weights and order: the stopped run must bear the same one, elsewhere.
    elsewhere = corpus / "elsewhere" / name
    run = StageRun(name, elsewhere, seed=3, inputs=stage_run(corpus, name).inputs, stop=flag)
    with monkeypatch.context() as patch:
        patch.setattr(pretraining.PackedText, "rows", stopping)
        with pytest.raises(Interrupted):
            stage.run(config, run)
    assert not (run.dir / "model").exists()
    flag.signum = None
    again = StageRun(name, elsewhere, seed=3, inputs=run.inputs, stop=flag)
    assert again.checkpoints.latest().step == 6
    stage.run(config, again)
    whole = corpus / "stages" / name
    assert digests(run.dir / "model") == digests(whole / "model")
    assert digests(run.dir / "samples") == digests(whole / "samples")
    assert without_times(run.dir) == without_times(whole)
    assert again.notes == stage_run(corpus, name).notes
    other = digests(corpus / "stages" / f"{name}_b" / "model")
    assert other["model.safetensors"] != digests(whole / "model")["model.safetensors"]


def test_packing_keeps_every_token_in_every_epoch(corpus):
    _, rows = pretraining.load(stage_run(corpus, "packing"))
    text = pretraining.PackedText(rows, 13, seed=5)
    tokens = sorted(token for row in rows for token in row)
    orders = []
    for epoch in range(2):
        packed = text.rows(epoch * text.num_rows, text.num_rows)
        assert packed.shape == (text.num_rows, 14)
        found = packed.flatten().tolist()
        assert len(found) - len(tokens) < 14
        for token in set(tokens):
            assert found.count(token) >= tokens.count(token)
        orders.append(found)
    assert orders[0] != orders[1]
    # A position gives the same row however it is asked for, over the border of epochs too.
    first = text.num_rows - 3
    together = text.rows(first, 7)
    assert torch.equal(together, torch.cat([text.rows(first + place, 1) for place in range(7)]))


def test_a_text_smaller_than_one_batch_is_taken_again(corpus):
    text = pretraining.PackedText([[1, 7, 8, 2]], 3, seed=0)
    assert text.rows(0, 5).tolist() == [[1, 7, 8, 2]] * 5
    assert stage.num_steps(settings(epochs=1), num_tokens=4) == 1


@pytest.mark.parametrize(
    ("architecture", "more"),
    [("gpt2", {}), ("qwen3", {"num_key_value_heads": 1}), ("mistral", {}), ("opt", {})],
)
def test_other_architectures_learn_by_the_same_settings(corpus, architecture, more):
    run = stage_run(corpus, architecture)
    config = settings(architecture=architecture, architecture_settings=more, num_samples=0, epochs=2)
    stage.check(config, {})
    stage.run(config, run)
    model = AutoModelForCausalLM.from_pretrained(run.dir / "model")
    assert model.config.model_type == architecture
    assert model.config.hidden_size == 16
    assert model.config.vocab_size == 285
    assert all(getattr(model.config, name) == value for name, value in more.items())
    lines = read_metrics(run.dir / "metrics.jsonl")
    assert lines[-1]["loss"] < 0.6 * lines[0]["loss"]


def test_weights_are_drawn_from_the_seed_alone(corpus):
    tokenizer = AutoTokenizer.from_pretrained(corpus / "stages" / "tokenizer" / "model")

    def weights(seed):
        return pretraining.make_model(settings(), tokenizer, seed=seed).model.layers[0].mlp.up_proj.weight

    first = weights(7)
    state = torch.random.get_rng_state()
    torch.rand(3)
    assert torch.equal(weights(7), first)
    torch.random.set_rng_state(state)
    assert not torch.equal(weights(8), first)
    assert torch.equal(torch.random.get_rng_state(), state)
    # Of the size that keeps a unit input at unit size.
    assert first.std().item() == pytest.approx(1 / 4, rel=0.2)


def test_lean_and_plain_losses_agree(corpus, tiny_llama):
    module = NextToken(tiny_llama())
    assert module.lean
    tokens = torch.arange(2, 28).view(2, 13)  # without the begin token, which would cut the rows
    lean = module(tokens)
    module.lean = False
    plain = tiny_llama()(input_ids=tokens, labels=tokens).loss
    assert torch.allclose(lean, plain, rtol=1e-5)
    assert torch.allclose(module(tokens), plain, rtol=1e-5)


def test_a_model_that_changes_its_logits_keeps_its_own_head(tiny_llama):
    model = tiny_llama()
    forward = model.forward

    def softened(**inputs):
        output = forward(**inputs)
        output.logits = 30 * torch.tanh(output.logits / 30)
        return output

    model.forward = softened
    for parameter in model.parameters():
        parameter.data *= 3
    assert not NextToken(model).lean


def test_the_held_out_stream_is_scored_token_by_token(tiny_llama):
    module = NextToken(tiny_llama()).eval()
    stream = torch.arange(29).roll(3)[:28].clamp(min=2)  # one document: no begin token
    with torch.no_grad():
        whole = pretraining._loss_of_stream(module, stream, 64, "float32")
        logprobs = module.model(input_ids=stream[None]).logits.log_softmax(-1)
        expected = -logprobs[0, :-1].gather(1, stream[1:, None]).mean()
        halves = pretraining._loss_of_stream(module, stream, 14, "float32")
        parts = [module(stream[None, :15]) * 14, module(stream[None, 14:]) * 13]
    assert whole == pytest.approx(expected.item(), rel=1e-5)
    assert halves == pytest.approx(sum(parts).item() / 27, rel=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 100, "heads": 3}, "heads 3 does not divide width 100: 100 / 3 = 33.33"),
        ({"width": 100, "heads": 4}, "width 100 / heads 4 = 25 is odd, and llama turns"),
        ({"batch_tokens": 8}, "batch_tokens 8 is less than one row of context 16"),
        ({"schedule": "warmup_stable_decay", "warmup_share": 0.5, "decay_share": 0.6}, "more than all steps"),
        ({"decay_share": 0.1}, "decay_share has no effect with schedule: linear"),
        ({"optimizer": "adamw", "embedding_rate": 2}, "embedding_rate has no effect with optimizer: adamw"),
        ({"learning_rate": float("nan")}, "finite number"),
        ({"epochs": 0}, "greater than 0"),
    ],
)
def test_settings_that_cannot_work_are_refused_with_the_rule(changes, message):
    with pytest.raises(ValueError, match=message):
        settings(**changes)


@pytest.mark.parametrize("changes", [{}, {"optimizer": "adamw"}, {"schedule": "cosine"}])
def test_settings_with_all_defaults_written_out_are_the_same_settings(changes):
    config = settings(**changes)
    assert stage.Config(**config.model_dump(mode="json")) == config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "lama"}, "no causal language model of this type.*did you mean `llama`"),
        ({"architecture": "t5"}, "no causal language model"),
        ({"architecture_settings": {"rope_thet": 1.0}}, "llama has no setting rope_thet"),
        ({"architecture": "olmo", "architecture_settings": {"rope_thet": 1.0}}, "no setting rope_thet"),
    ],
)
def test_an_unknown_architecture_or_setting_is_refused_before_any_work(changes, message):
    with pytest.raises(InputError, match=message):
        stage.check(settings(**changes), {})


def test_a_corpus_without_documents_is_refused(corpus, tmp_path):
    inputs = {"corpus": tmp_path, "tokenizer": corpus / "stages" / "tokenizer"}
    with pytest.raises(InputError, match=r"text\.train\.jsonl: no row is left"):
        stage.run(settings(), StageRun("empty", tmp_path, inputs=inputs))


def test_the_announced_cost_is_what_is_done(corpus, trained):
    tokens = trained.notes["text_tokens"]
    vocabulary = type("Tokenizer", (), {"vocab_size": 285})()
    context = CostContext({"tokenizer": vocabulary}, {"corpus": Cost(tokens=tokens)})
    cost = stage.cost(settings(**LEARNS), context)
    assert cost.steps == trained.notes["num_steps"] == read_metrics(trained.dir / "metrics.jsonl")[-1]["step"]
    assert cost.tokens == trained.notes["trained_tokens"]
    assert cost.parameters == trained.notes["parameters"]
    assert 0 < cost.probe() < 60
    assert stage.cost(settings(), CostContext({}, {})).steps == 0
