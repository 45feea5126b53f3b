"""DPO learns a separable toy, resumes to the same bytes, and TRL's metrics are those of the implicit reward."""

import random

import pytest
import torch

from data.errors import InputError
from data.rows import Item, PreferenceRow, user, write_jsonl
from pipeline import dpo, trl_adapter
from pipeline.errors import Interrupted
from pipeline.language_model import LanguageModel
from pipeline.metrics import read_metrics
from pipeline.pairs import plan, read_pairs
from pipeline.run import StageRun
from pipeline.stages import dpo as stage
from pipeline.stages import implicit_reward
from reward.functions import load_function
from reward.implicit import ImplicitReward, completion_logprobs, log_ratios
from reward.preference import bradley_terry_loss
from reward.scoring import pad
from reward.stored import load_reward

GOOD, BAD = ["kind", "nice", "good", "warm"], ["rude", "cold", "evil", "sour"]


def toy_pairs(num, seed):
    rng = random.Random(seed)
    return [
        PreferenceRow(
            f"p{seed}/{n}",
            user(f"What is {rng.choice(['tea', 'snow', 'a song'])}?"),
            f"That is {rng.choice(GOOD)}.",
            f"That is {rng.choice(BAD)}.",
            f"c{n}",
            "good_over_bad/all",
            None,
            1.0,
            -1.0,
        )
        for n in range(num)
    ]


@pytest.fixture(scope="module")
def inputs(small_world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    write_jsonl(folder / "train.jsonl", toy_pairs(96, 1))
    write_jsonl(folder / "test.jsonl", toy_pairs(40, 2))
    return {"preferences": [folder], "policy": small_world / "stages" / "sft"}


def settings(**changes):
    given = {
        "batch_size": 16,
        "micro_batch_size": 8,
        "epochs": 2,
        "learning_rate": 3e-3,
        "beta": 0.5,
        "checkpoint_every": 4,
    }
    return stage.Config(**(given | changes))


@pytest.fixture(scope="module")
def finished(inputs, tmp_path_factory):
    run = StageRun("dpo", tmp_path_factory.mktemp("run"), seed=5, inputs=inputs)
    stage.run(settings(), run)
    return run


def test_a_separable_toy_is_learned(finished):
    assert finished.notes["accuracy_without_noise"]["value"] > 0.95
    metrics = read_metrics(finished.dir / "metrics.jsonl")
    assert len(metrics) == finished.notes["num_steps"] == 12
    assert {"loss", "accuracy", "score_gap", "chosen_score", "grad_norm", "tokens"} <= metrics[0].keys()
    assert metrics[-1]["accuracy"] > metrics[0]["accuracy"]


def test_the_loss_begins_at_log_two_and_is_bradley_terry_of_the_log_ratio(inputs, finished):
    """At the start the log-ratio is 0; later TRL's metrics are our implicit reward's, pair by pair."""
    from datasets import Dataset
    from trl import DPOConfig

    first = read_metrics(finished.dir / "metrics.jsonl")[0]
    assert first["loss"] == pytest.approx(0.693147, abs=1e-5)
    policy, reference = LanguageModel.load(finished.dir), LanguageModel.load(inputs["policy"])
    run = StageRun("dpo", finished.run_dir / "other", seed=5, inputs=inputs)
    pairs = read_pairs(settings(), run, policy)
    batches = plan(settings(), run, pairs)
    # Every other pair the wrong way round: there are both orders to agree on.
    both = [pairs.held_out_rows[2 * n : 2 * n + 2][:: -1 if n % 2 else 1] for n in range(len(pairs.held_out))]
    chosen, rejected = zip(*both, strict=True)
    rows = Dataset.from_dict(
        {
            "prompt_ids": [row.tokens[: row.start] for row in chosen],
            "chosen_ids": [row.tokens[row.start :] for row in chosen],
            "rejected_ids": [row.tokens[row.start :] for row in rejected],
        }
    )
    arguments = trl_adapter.arguments(run, batches, max_grad_norm=1.0, max_length=None, beta=0.5)
    trainer = trl_adapter.adapt(dpo.trainer_class())(
        stage=run,
        plan=batches,
        describe=lambda inputs: "",
        paired=True,
        model=policy.model,
        ref_model=reference.model,
        args=DPOConfig(**arguments, per_device_eval_batch_size=1),  # its metrics are means of a batch
        train_dataset=rows,
        eval_dataset=rows,
        processing_class=policy.tokenizer,
    )
    of_pairs = {}
    log = trainer.log

    def keep(logs, *given):
        of_pairs.update({name: torch.tensor(values) for name, values in trainer._metrics["eval"].items()})
        log(logs, *given)

    trainer.log = keep
    with trl_adapter.quiet_libraries():
        found = trainer.evaluate()
    # In float32; TRL sums the same log-probabilities in another batch shape.
    ours = 0.5 * log_ratios(policy.model, reference.model, [row for pair in both for row in pair]).view(-1, 2)
    theirs = torch.stack([of_pairs["rewards/chosen"], of_pairs["rewards/rejected"]], dim=1)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)
    right = of_pairs["rewards/accuracies"].bool()
    assert torch.equal(ours[:, 0] > ours[:, 1], right)
    assert 0 < right.sum() < len(right) == len(pairs.held_out)
    assert found["eval_loss"] == pytest.approx(bradley_terry_loss(*ours.unbind(1)).item(), abs=1e-5)
    assert found["eval_rewards/accuracies"] == pytest.approx((ours[:, 0] > ours[:, 1]).float().mean().item())
    assert found["eval_rewards/chosen"] == pytest.approx(ours[:, 0].mean().item(), abs=1e-4)
    assert found["eval_rewards/margins"] == pytest.approx((ours[:, 0] - ours[:, 1]).mean().item(), abs=1e-4)


def test_interrupted_and_resumed_equals_uninterrupted(inputs, finished, stopping_run, digests, tmp_path):
    run = stopping_run(7, "dpo", tmp_path / "again", seed=5, inputs=inputs)
    with pytest.raises(Interrupted):
        stage.run(settings(), run)
    resumed = StageRun("dpo", tmp_path / "again", seed=5, inputs=inputs)
    assert resumed.checkpoints.latest().step == 7
    stage.run(settings(), resumed)
    assert digests(resumed.dir / "model") == digests(finished.dir / "model")
    assert (resumed.dir / "records.jsonl").read_bytes() == (finished.dir / "records.jsonl").read_bytes()


def test_the_implicit_reward_scores_like_the_log_ratio_and_survives_its_folder(inputs, finished, tmp_path):
    run = StageRun("implicit", tmp_path / "run", seed=5, inputs={**inputs, "tuned": finished.dir})
    implicit_reward.run(implicit_reward.Config(normalise_prompts=3, max_new_tokens=8, beta=0.5), run)
    assert run.notes["accuracy_without_noise"] == finished.notes["accuracy_without_noise"]
    assert run.notes["scale"] != pytest.approx(1, rel=0.1)
    errors = [one.notes["calibration_error"]["value"] for one in (run, finished)]
    assert errors[0] == pytest.approx(errors[1], abs=1e-5)
    loaded = load_reward(run.dir / "model")
    assert isinstance(loaded, ImplicitReward)
    items = [Item("a", user("What is tea?"))] * 2
    good, bad = load_function("learned", stage=run.dir)(
        items, ["That is kind.", "That is evil."], [True, True]
    )
    assert good > bad
    rows = read_pairs(implicit_reward.Config(), run, LanguageModel.load(inputs["policy"])).held_out_rows
    ratios = log_ratios(loaded.tuned, loaded.start, rows[:6])
    batch = pad(rows[:6])
    with torch.no_grad():
        torch.testing.assert_close(loaded(*batch), (0.5 * ratios - loaded.offset) / loaded.scale)


def test_log_probabilities_of_a_completion_by_hand(tiny_llama):
    model = tiny_llama()
    tokens = torch.tensor([[3, 4, 5, 6], [7, 8, 0, 0]])
    completion = torch.tensor([[False, False, True, True], [False, True, False, False]])
    with torch.no_grad():
        logprobs = model(input_ids=tokens).logits.log_softmax(dim=-1)
        expected = [logprobs[0, 1, 5] + logprobs[0, 2, 6], logprobs[1, 0, 8]]
        torch.testing.assert_close(completion_logprobs(model, tokens, completion), torch.stack(expected))


def test_a_model_of_another_tokenizer_is_refused(inputs, finished, small_world, tmp_path):
    other = tmp_path / "other"
    policy = LanguageModel.load(finished.dir)
    policy.tokenizer.add_tokens(["zzz"])
    policy.model.save_pretrained(other / "model")
    policy.tokenizer.save_pretrained(other / "model")
    run = StageRun("implicit", tmp_path / "run", seed=5, inputs={**inputs, "tuned": other})
    with pytest.raises(InputError, match="different tokenizers"):
        implicit_reward.run(implicit_reward.Config(), run)
