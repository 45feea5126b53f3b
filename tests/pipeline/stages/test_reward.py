"""The reward model learns a separable toy, stays at one half on shuffled labels, resumes to the same bytes."""

import json
import math
import random

import pytest
import torch

from data.errors import InputError
from data.rows import Item, PreferenceRow, user, write_jsonl
from pipeline import reward_report, reward_training
from pipeline.errors import Interrupted
from pipeline.metrics import read_metrics
from pipeline.pairs import read_pairs
from pipeline.run import StageRun
from pipeline.stages import reward as stage
from reward.functions import load_function
from reward.model import TRANSFORMERS, RewardModel
from reward.preference import bradley_terry_loss, probability
from reward.role_adapters import POLICY, Trunk
from reward.scoring import Row, score_rows

GOOD = ["kind", "nice", "good", "warm"]
BAD = ["rude", "cold", "evil", "sour"]


def toy_pairs(num, seed, *, shuffled=False, start=0):
    """The good word is chosen; with `shuffled` a coin decides, and gold is unknown."""
    rng = random.Random(seed)
    rows = []
    for n in range(start, start + num):
        both = [f"That is {rng.choice(GOOD)}.", f"That is {rng.choice(BAD)}."]
        gold = [None, None] if shuffled else [1.0, -1.0]
        if shuffled and rng.random() < 0.5:
            both = both[::-1]
        prompt = user(f"What is {rng.choice(['tea', 'snow', 'a song'])}?")
        kind = f"good_over_bad/{'even' if n % 2 == 0 else 'odd'}"
        rows.append(PreferenceRow(f"p{n}", prompt, *both, f"c{n // 3}", kind, None, *gold))
    return rows


@pytest.fixture
def make_run(small_world, tmp_path):
    """A factory of reward stages over toy pairs."""

    def make(where="run", train=None, test=None, **options):
        pairs = tmp_path / "pairs"
        if not pairs.exists():
            pairs.mkdir()
            write_jsonl(pairs / "train.jsonl", train or toy_pairs(160, 1))
            write_jsonl(pairs / "test.jsonl", test or toy_pairs(90, 2, start=1000))
        inputs = {"preferences": [pairs], "policy": small_world / "stages" / "sft"}
        return StageRun("reward", tmp_path / where, seed=5, inputs=inputs, **options)

    return make


def settings(**changes):
    given = {
        "batch_size": 16,
        "micro_batch_size": 16,
        "epochs": 3,
        "learning_rate": 3e-3,
        "head_learning_rate": 1e-2,
        "normalise_prompts": 8,
        "max_new_tokens": 8,
        "control_pairs": 0,
        "checkpoint_every": 4,
    }
    return stage.Config(**(given | changes))


# As low a rank as there is: the toy model has a width of 16.
LORA = {"trainable": "lora", "lora_rank": 4, "lora_alpha": 8.0, "learning_rate": 1e-2}


@pytest.mark.parametrize("changes", [{}, {"features": "none"}, LORA, LORA | {"features": "none"}])
def test_a_separable_toy_is_learned(make_run, changes):
    run = make_run()
    stage.run(settings(**changes), run)
    assert run.notes["accuracy_without_noise"]["value"] > 0.95
    assert run.notes["accuracy_by_kind"].keys() == {"good_over_bad/even", "good_over_bad/odd"}
    assert {gate["name"]: gate["passed"] for gate in run.gate_records} == {"reward_accuracy": True}
    metrics = read_metrics(run.dir / "metrics.jsonl")
    assert len(metrics) == run.notes["num_steps"] == 30
    assert {"loss", "accuracy", "score", "score_gap", "grad_norm", "tokens"} <= metrics[0].keys()
    records = [json.loads(line) for line in (run.dir / "records.jsonl").read_text().splitlines()]
    assert len(records) == 90
    assert sum(record["score"] for record in records) / 90 == run.notes["accuracy_without_noise"]["value"]
    function = load_function("learned", stage=run.dir)
    items = [Item("a", user("What is tea?"))] * 2
    good, bad = function(items, ["That is kind.", "That is evil."], [True, True]).tolist()
    assert good > bad


@pytest.mark.parametrize("changes", [{}, {"features": "none"}, LORA])
def test_the_heads_learn_first_and_alone(make_run, changes):
    run = make_run()
    config = settings(head_epochs=10, **changes)
    policy = reward_training.load_policy(run)
    pairs = read_pairs(config, run, policy)
    known = reward_training.likelihoods(config, run, policy, pairs)

    def fitted(epochs):
        model = reward_training.new_model(config, run)
        reward_training.standardise(model, pairs, known)
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        again = config.model_copy(update={"head_epochs": epochs})
        reward_training.fit_heads(again, run, model, pairs, known, range(0, 2 * pairs.num_train, 2))
        return model, {name for name, tensor in model.state_dict().items() if not tensor.equal(before[name])}

    model, changed = fitted(10)
    assert "head.weight" in changed
    assert ("likelihood.query.weight" in changed) == (config.features == "likelihood")
    assert not any(name.startswith(TRANSFORMERS) for name in changed)
    start, unchanged = fitted(0)
    assert unchanged == set()

    def loss(model):
        reward_training.attach(model, policy)
        return bradley_terry_loss(*score_rows(model, pairs.train_rows, raw=True).view(-1, 2).T)

    assert loss(model) < loss(start)


def test_shuffled_labels_teach_nothing(make_run):
    run = make_run(train=toy_pairs(160, 1, shuffled=True), test=toy_pairs(90, 2, shuffled=True, start=1000))
    stage.run(settings(epochs=1), run)
    # One half of 90 labels, within three standard errors.
    assert run.notes["accuracy_on_labels"]["value"] == pytest.approx(0.5, abs=0.16)
    assert {gate["name"]: gate["passed"] for gate in run.gate_records} == {"reward_accuracy": False}


def test_the_control_stands_beside_the_accuracy(make_run):
    run = make_run()
    stage.run(settings(control_pairs=96), run)
    assert 0 <= run.notes["shuffled_labels_accuracy"] <= 1
    assert "by shuffled labels" in run.gate_records[0]["message"]
    assert run.notes["shuffled_labels"]["value"] == pytest.approx(run.notes["shuffled_labels_accuracy"])
    assert 0 <= run.notes["longer_accuracy"] <= 1


def test_completions_of_the_policy_score_zero_on_average_with_variance_one(make_run):
    run = make_run()
    config = settings(epochs=1, normalise_prompts=3)
    policy = reward_training.load_policy(run)
    pairs = read_pairs(config, run, policy)
    model = reward_training.new_model(config, run)
    known = reward_training.likelihoods(config, run, policy, pairs)
    reward_training.standardise(model, pairs, known)
    scored = []
    original = reward_training.score_rows
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            reward_training,
            "score_rows",
            lambda m, rows, **options: scored.append(rows) or original(m, rows, **options),
        )
        reward_training.attach(model, policy)
        reward_training.normalise(config, run, model, policy, pairs)
    scores = original(model, scored[0])
    assert scores.mean().item() == pytest.approx(0, abs=1e-5)
    assert scores.std().item() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("changes", [{}, LORA])
def test_interrupted_and_resumed_equals_uninterrupted(make_run, changes, stopping_run, digests):
    config = settings(**changes)
    whole = make_run("whole")
    stage.run(config, whole)

    run = stopping_run(7, "reward", whole.run_dir.parent / "again", seed=5, inputs=whole.inputs)
    with pytest.raises(Interrupted):
        stage.run(config, run)
    resumed = make_run("again")
    assert resumed.checkpoints.latest().step == 7
    stage.run(config, resumed)
    assert digests(resumed.dir / "model") == digests(whole.dir / "model")
    assert (resumed.dir / "records.jsonl").read_bytes() == (whole.dir / "records.jsonl").read_bytes()
    assert resumed.notes == whole.notes


def test_the_model_folder_names_no_path_and_holds_no_pickle(make_run, digests):
    run = make_run()
    stage.run(settings(epochs=1), run)
    names = set(digests(run.dir / "model"))
    assert {"reward.json", "heads.safetensors", "backbone/config.json", "reference/config.json"} <= names
    for path in (run.dir / "model").rglob("*"):
        if path.is_file():
            assert str(run.run_dir).encode() not in path.read_bytes()
            assert path.suffix not in (".bin", ".pt", ".pth")
    # The backbone is a plain headless transformer, from which a critic can start.
    from transformers import AutoModel

    model = RewardModel.load(run.dir / "model")
    plain = AutoModel.from_pretrained(run.dir / "model" / "backbone").state_dict()
    assert all(torch.equal(plain[name], weight) for name, weight in model.backbone.state_dict().items())


def test_the_backbone_starts_from_the_policy_and_the_reference_stays_it(make_run):
    run = make_run()
    policy = reward_training.load_policy(run)
    model = reward_training.new_model(settings(), run)
    for name, weight in policy.model.model.state_dict().items():
        assert torch.equal(weight, model.backbone.state_dict()[name])
    stage.run(settings(epochs=1), run)
    trained = RewardModel.load(run.dir / "model")
    assert torch.equal(trained.reference.lm_head.weight, policy.model.lm_head.weight)
    assert not torch.equal(trained.backbone.norm.weight, policy.model.model.norm.weight)


def test_an_adapter_scores_on_a_trunk_in_memory_as_on_its_own_and_on_no_other(make_run):
    run = make_run()
    stage.run(settings(epochs=1, **LORA), run)
    assert not (run.dir / "model" / "backbone").exists()
    items, texts = [Item("a", user("What is tea?"))] * 2, ["That is kind.", "That is evil."]
    alone = load_function("learned", stage=run.dir)(items, texts, [True, True])
    trunk = Trunk(reward_training.load_policy(run).model)
    trunk.add(POLICY, rank=2, alpha=2.0, seed=0)
    shared = load_function("learned", stage=run.dir, trunk=trunk)(items, texts, [True, True])
    assert torch.equal(alone, shared)
    other = reward_training.load_policy(run).model
    other.lm_head.weight.data += 0.1
    with pytest.raises(InputError, match="other weights than the policy's"):
        load_function("learned", stage=run.dir, trunk=Trunk(other))


def test_several_reward_models_score_by_their_mean_less_their_disagreement(make_run):
    runs = [make_run("one"), make_run("two")]
    for run, epochs in zip(runs, (1, 2), strict=True):
        stage.run(settings(epochs=epochs), run)
    folders = [run.dir for run in runs]
    items, texts = [Item("a", user("What is tea?"))] * 3, ["That is kind.", "That is evil.", "Tea."]
    single = torch.stack(
        [load_function("learned", stage=folder)(items, texts, [True] * 3) for folder in folders]
    )
    assert not torch.allclose(single[0], single[1])
    mean = load_function("learned", stage=folders)(items, texts, [True] * 3)
    torch.testing.assert_close(mean, single.mean(dim=0))
    careful = load_function("learned", stage=folders, settings={"disagreement": 2.0})(
        items, texts, [True] * 3
    )
    torch.testing.assert_close(careful, single.mean(dim=0) - (single[0] - single[1]).abs())


def test_pairs_that_are_too_long_or_equal_are_dropped_and_counted(make_run):
    rows = [*toy_pairs(20, 3), PreferenceRow("same", user("?"), "yes", "yes")]
    run = make_run(train=rows)
    policy = reward_training.load_policy(run)
    pairs = read_pairs(settings(), run, policy)
    assert pairs.num_train == 20
    assert run.notes["dropped_train"] == 1
    with pytest.raises(InputError, match=r"no row is left \(longer than 3 tokens: 21"):
        read_pairs(settings(max_length=3), run, policy)


def test_pairs_of_several_rounds_are_joined_and_what_one_holds_out_none_trains_on(make_run, tmp_path):
    run = make_run(train=toy_pairs(20, 3), test=toy_pairs(8, 2, start=1000))
    second = tmp_path / "refresh"
    second.mkdir()
    leaks = toy_pairs(5, 6, start=1000)  # of the first round's held-out clusters
    write_jsonl(second / "train.jsonl", [*toy_pairs(12, 4, start=500), *leaks])
    write_jsonl(second / "test.jsonl", toy_pairs(8, 5, start=2000))
    run.inputs = {**run.inputs, "preferences": [*run.inputs["preferences"], second]}
    pairs = read_pairs(settings(), run, reward_training.load_policy(run))
    trained, held_out = pairs.pairs[: pairs.num_train], pairs.held_out
    assert (len(trained), len(held_out)) == (32, 16)
    assert not {pair.cluster for pair in trained} & {pair.cluster for pair in held_out}
    ids = [pair.id for pair in pairs.pairs]
    assert len(set(ids)) == len(ids)
    assert {name.split("/")[0] for name in ids} == {"1", "2"}


def test_figures_of_the_report_by_hand():
    pairs = toy_pairs(4, 0)
    flipped = PreferenceRow("f", user("?"), "bad", "good", "c", "k", None, -1.0, 1.0)
    unknown = PreferenceRow("u", user("?"), "a", "b")
    hits = torch.tensor([1.0, 0.0, 1.0, 0.5, 0.0, 1.0])
    true = reward_report.true_order([*pairs, flipped, unknown], hits)
    assert true[:5].tolist() == [1.0, 0.0, 1.0, 0.5, 1.0]
    assert bool(true[5].isnan())
    thirds = reward_report.by_thirds(hits, torch.tensor([6.0, 5.0, 4.0, 3.0, 2.0, 1.0]), list("abcdef"))
    assert [third["value"] for third in thirds] == [0.5, 0.75, 0.5]
    assert [third["mean"] for third in thirds] == [1.5, 3.5, 5.5]
    assert [third["n"] for third in thirds] == [2, 2, 2]
    of = list("aabbcc")
    assert reward_report.correlation(hits, 2 * hits + 1, of, key=1)["value"] == pytest.approx(1)
    assert reward_report.correlation(hits, torch.ones(6), of, key=1) is None
    other = torch.tensor([3.0, 1.0, 2.0, 2.5, 0.0, 4.0])
    expected = torch.corrcoef(torch.stack([hits, other]))[0, 1].item()
    found = reward_report.correlation(hits, other, of, key=1)
    assert found["value"] == pytest.approx(expected, abs=1e-6)
    assert found["low"] <= expected <= found["high"]


def told_by(folder, hits, *, lengths=None, noise=0.0, control=None):
    """The run of a report on pairs that are met (1) or not (0); `noise` is the share of wrong labels."""
    pairs, scores = [], []
    for n, hit in enumerate(hits):
        wrong = n < noise * len(hits)
        golds = (-1.0, 1.0) if wrong else (1.0, -1.0)
        kind = f"right_over_{'wrong' if n % 2 else 'abstain'}/{'often' if n % 4 < 2 else 'never'}"
        pairs.append(PreferenceRow(f"p{n}", user("?"), "a", "b", f"c{n}", kind, None, *golds))
        scores.append([1.0, 0.0] if bool(hit) != wrong else [0.0, 1.0])
    lengths = lengths or [3] * len(hits)
    rows = [Row([1] * (1 + length), 1) for length in lengths for _ in range(2)]
    run = StageRun("reward", folder, input_names={"preferences": ["pairs"]})
    run.said = []
    run.say = run.said.append
    control = (
        None if control is None else torch.tensor([[1.0, 0.0] if hit else [0.0, 1.0] for hit in control])
    )
    reward_report.report(run, pairs, rows, torch.tensor(scores), control)
    return run


def test_pairs_are_trivial_where_the_true_order_is_met_whatever_the_noise_of_the_labels(tmp_path):
    """Of labels that are wrong in 12 of 100 no model meets more than .88."""
    hits = [n % 20 != 0 for n in range(200)]
    run = told_by(tmp_path / "easy", hits, noise=0.12)
    assert run.notes["accuracy_on_labels"]["value"] < 0.9
    assert [text for text in run.said if "95% of the pairs" in text and "trivial" in text]
    assert "trivial" in run.gate_records[0]["message"]
    assert not told_by(tmp_path / "hard", [n % 4 != 0 for n in range(200)], noise=0.12).said


def test_a_failed_gate_names_the_stage_to_mend(tmp_path):
    run = told_by(tmp_path / "fails", [n % 2 == 0 for n in range(200)])
    (gate,) = run.gate_records
    assert gate["passed"] is False
    assert "mend reward (more training or another learning_rate) or its pairs in pairs" in gate["message"]
    assert (
        "mend"
        not in told_by(tmp_path / "passes", [n % 4 != 0 for n in range(200)]).gate_records[0]["message"]
    )


def test_the_gate_looks_at_every_length(tmp_path):
    """Short and middling pairs are met, long ones by chance: the whole is above chance."""
    hits = [n < 200 or n % 2 == 0 for n in range(300)]
    run = told_by(tmp_path / "long", hits, lengths=[3 + n // 100 for n in range(300)])
    (gate,) = run.gate_records
    assert run.notes["accuracy_without_noise"]["low"] > 0.7
    assert gate["passed"] is False
    assert "not shown to be above .5 among pairs of 5 tokens: 0.500" in gate["message"]
    assert told_by(tmp_path / "even", hits, lengths=[3 + n % 3 for n in range(300)]).gate_records[0]["passed"]


def test_the_control_is_judged_and_groups_have_their_accuracy(tmp_path):
    hits = [n % 4 != 0 for n in range(200)]
    near = told_by(tmp_path / "near", hits, control=[n % 2 for n in range(200)])
    assert "0.500 (0.431 to 0.569) by shuffled labels, which holds .5" in near.gate_records[0]["message"]
    far = told_by(tmp_path / "far", hits, control=[n % 3 == 0 for n in range(200)])
    assert "by shuffled labels, which does not hold .5" in far.gate_records[0]["message"]
    assert far.gate_records[0]["passed"]
    groups = far.notes["accuracy_by_group"]
    assert {name: (row["n"], row["value"]) for name, row in groups.items()} == {
        "never": (100, 1.0),
        "often": (100, 0.5),
    }


def test_calibration_by_hand():
    # Confidence sigmoid(log 3) = .75 four times, right three times: no gap. Right once of four: a gap of .5.
    for right, gap in (([1, 1, 1, 0], 0.0), ([1, 0, 0, 0], 0.5)):
        first = torch.tensor(right).double()
        for shift in (0.0, 7.0):  # only differences mean something
            scores = (side * math.log(3) + shift for side in (first, 1 - first))
            found = reward_report.calibration_error(*scores, ["a", "b", "c", "d"], key=0)
            assert found["value"] == pytest.approx(gap, abs=1e-9)


def test_overconfidence_is_a_calibration_error():
    generator = torch.Generator().manual_seed(5)
    strength = torch.randn(6000, generator=generator).double() * 2
    swapped = torch.rand(6000, generator=generator).double() > torch.sigmoid(strength)
    chosen = torch.where(swapped, -strength, strength)
    clusters = [str(n) for n in range(6000)]
    errors = [
        reward_report.calibration_error(times * chosen, torch.zeros_like(chosen), clusters, key=0)["value"]
        for times in (1, 3)
    ]
    # Ten bins of 600 pairs: the standard error of one is at most .02.
    assert errors[0] < 0.02
    assert errors[1] > 0.05


@pytest.mark.parametrize("scale", [0.5, 1.0, 4.0])
def test_the_calibration_error_is_that_of_the_raw_scores(tmp_path, scale):
    """Pairs whose chosen one wins as often as Bradley-Terry says, whatever the model's normalisation."""
    generator = torch.Generator().manual_seed(3)
    raw = torch.randn(6000, 2, generator=generator) * 1.5
    swapped = torch.rand(6000, generator=generator) > probability(*raw.unbind(dim=1))
    raw[swapped] = raw[swapped].flip(1)
    pairs = [PreferenceRow(f"p{n}", user("?"), "a", "b", f"c{n}") for n in range(6000)]
    rows = [Row([1, 2, 3 + n % 3], 1) for n in range(12000)]
    run = StageRun("reward", tmp_path)
    reward_report.report(run, pairs, rows, (raw - 0.3) / scale, None, scale=scale)
    # The error to expect of ten bins of 6,000 pairs by chance is .01.
    found = run.notes["calibration_error"]
    assert found["value"] < 0.02
    unscaled = reward_report.calibration_error(*raw.unbind(dim=1), [pair.cluster for pair in pairs], key=0)
    assert found["value"] == pytest.approx(unscaled["value"], abs=1e-6)  # float32's rounding of the scores
    assert found["low"] <= found["value"] <= found["high"] < 0.04


def test_memory_that_runs_out_halves_the_micro_batch_and_keeps_the_pairs(make_run, monkeypatch):
    """The control, which is trained by a loop of its own, halves as well."""
    config = settings(epochs=1, micro_batch_size=8, control_pairs=32)
    whole = make_run("whole")
    stage.run(config, whole)
    forward = reward_training.Classifier.forward

    def narrow(self, input_ids, *args, **kwargs):
        if len(input_ids) > 2 * 3:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")
        return forward(self, input_ids, *args, **kwargs)

    monkeypatch.setattr(reward_training.Classifier, "forward", narrow)
    run = make_run("narrow")
    said = []
    run.say = said.append
    stage.run(config, run)
    assert [text.rpartition("of ")[2] for text in said if text.startswith("out of memory")] == [
        "4 pairs",
        "2 pairs",
    ] * 2
    losses, same = (
        [line["loss"] for line in read_metrics(one.dir / "metrics.jsonl")] for one in (run, whole)
    )
    assert losses == pytest.approx(same, abs=1e-4)
    assert run.notes["scale"] == pytest.approx(whole.notes["scale"], rel=1e-2)
    assert run.notes["shuffled_labels_accuracy"] == pytest.approx(
        whole.notes["shuffled_labels_accuracy"], abs=0.03
    )
