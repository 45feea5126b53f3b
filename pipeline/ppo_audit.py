"""Every detail that decides whether PPO on language models works: where it is set, who says so, what tests it.

`fledge explain ppo` prints the list, a run's report says how each one was set in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

ZIEGLER = "Ziegler et al. 2019, arXiv 1909.08593"
STIENNON = "Stiennon et al. 2020, arXiv 2009.01325"
OUYANG = "Ouyang et al. 2022, arXiv 2203.02155"
HUANG = "Huang et al. 2024, arXiv 2403.17031"
SCHULMAN = "Schulman et al. 2017, arXiv 1707.06347"
GAE = "Schulman et al. 2016, arXiv 1506.02438"
ZHENG = "Zheng et al. 2023, arXiv 2307.04964"
OWN = "this project"
NUM_ROWS = 20


class Detail(NamedTuple):
    """One detail; its settings as `ppo.gamma`, none for a fixed choice, its test as `file::name` below tests/.

    `row` is its number among the `NUM_ROWS` published details, several of which are made of parts; None for what
    is watched before and while it runs, and for what is beyond them.
    """

    what: str
    row: int | None
    settings: tuple[str, ...]
    source: str
    test: str

    def value(self, configs: Mapping[str, Mapping[str, Any]]) -> str:
        """How it was set, from the settings of a run's stages by kind; "fixed" where it cannot be."""
        found = []
        for name in self.settings:
            stage, _, key = name.partition(".")
            if key in configs.get(stage, {}):
                found.append(f"{key} {_shown(configs[stage][key])}")
        return ", ".join(found) if found else "fixed" if not self.settings else "–"


DETAILS = (
    # data and tokens
    Detail(
        "pad is a token of its own, never the end",
        1,
        (),
        HUANG,
        "data/test_chat.py::test_control_tokens_have_the_first_ids",
    ),
    Detail(
        "prompts are padded on the left to sample, positions follow the mask",
        2,
        (),
        HUANG,
        "pipeline/test_rollout.py::test_logprobs_equal_a_full_forward_pass",
    ),
    Detail(
        "a completion ends with the end token, which SFT trains on",
        3,
        (),
        HUANG,
        "data/test_collate.py::test_chats_are_padded_with_what_the_assistant_says",
    ),
    Detail(
        "text cannot become a control token",
        4,
        (),
        OWN,
        "data/test_chat.py::test_text_never_forges_a_control_token",
    ),
    # reward model
    Detail(
        "the reward model starts from SFT; head N(0, 1/sqrt(width + 1)), bias 0",
        5,
        (),
        STIENNON,
        "reward/test_model.py::test_heads_start_as_published",
    ),
    Detail(
        "Bradley-Terry loss, one epoch",
        5,
        ("reward.epochs",),
        OUYANG,
        "reward/test_preference.py::test_hand_computed_losses",
    ),
    Detail(
        "the score is read at the last counted token",
        6,
        (),
        HUANG,
        "reward/test_model.py::test_the_plain_score_is_read_at_the_last_counted_token_and_nowhere_else",
    ),
    Detail(
        "scores of SFT completions have mean 0 and variance 1, stored with the model",
        7,
        ("reward.normalise_prompts",),
        ZIEGLER,
        "reward/test_model.py::test_normalisation_survives_saving_and_loading",
    ),
    Detail(
        "held-out accuracy with its interval, by score gap, calibrated, beside the score's tie to length",
        8,
        (),
        STIENNON,
        "pipeline/stages/test_reward.py::test_figures_of_the_report_by_hand",
    ),
    Detail(
        "a control on shuffled labels stands beside the accuracy",
        8,
        ("reward.control_pairs",),
        OWN,
        "pipeline/stages/test_reward.py::test_the_control_stands_beside_the_accuracy",
    ),
    # rollout
    Detail(
        "logits are divided by the sampling temperature in every log-probability",
        9,
        ("ppo.temperature",),
        HUANG,
        "pipeline/test_ppo.py::test_sampling_at_another_temperature_is_found",
    ),
    Detail(
        "no top-k, no top-p, no repetition penalty",
        9,
        (),
        ZIEGLER,
        "pipeline/test_draw.py::test_draws_follow_the_softmax",
    ),
    Detail(
        "old log-probabilities come from the passes that learn; log-softmax in float32",
        10,
        (),
        HUANG,
        "pipeline/test_ppo.py::test_first_pass_repeats_the_old_logprobs_bit_for_bit",
    ),
    Detail(
        "the end token is sampled, counted, and nothing after it",
        11,
        (),
        HUANG,
        "pipeline/test_rollout.py::test_known_policy_counts_up_and_stops_at_the_stop_token",
    ),
    Detail(
        "a completion without an end gets a constant score instead of its own",
        12,
        ("ppo.unended_score",),
        ZIEGLER,
        "pipeline/test_rl.py::test_unended_scores_are_replaced_not_lowered",
    ),
    # rewards and advantages
    Detail(
        "KL penalty on every token, the score once, on the last one",
        13,
        ("ppo.kl_coef",),
        ZIEGLER,
        "pipeline/test_rl.py::test_token_rewards_hold_the_penalty_everywhere_and_the_score_once",
    ),
    Detail(
        "log-ratios are clamped before they are exponentiated",
        13,
        (),
        OWN,
        "pipeline/test_rl.py::test_an_exploded_ratio_stays_finite",
    ),
    Detail(
        "the KL penalty is fixed or adaptive",
        14,
        ("ppo.kl_control", "ppo.kl_target", "ppo.kl_horizon"),
        ZIEGLER,
        "pipeline/test_ppo_governor.py::test_an_adaptive_penalty_follows_the_kl_of_every_batch",
    ),
    Detail(
        "or its KL is a budget, and the last policy inside it is the result",
        14,
        ("ppo.kl_control", "ppo.kl_target"),
        OWN,
        "pipeline/test_ppo_governor.py::test_a_kl_budget_ends_the_run_with_the_last_policy_inside_it",
    ),
    Detail(
        "generalised advantage estimation without a bootstrap after the end",
        15,
        ("ppo.gamma", "ppo.lam"),
        GAE,
        "pipeline/test_rl.py::test_gae_equals_a_plain_reference_in_float64",
    ),
    Detail(
        "advantages are whitened over the counted tokens",
        15,
        ("ppo.whiten_advantages",),
        HUANG,
        "pipeline/test_ppo.py::test_advantages_have_mean_0_and_variance_1_over_counted_tokens",
    ),
    Detail(
        "rewards are whitened, keeping their mean",
        15,
        ("ppo.whiten_rewards",),
        ZIEGLER,
        "pipeline/test_ppo_settings.py::test_whitened_rewards_have_variance_1_and_their_mean",
    ),
    # update
    Detail(
        "several passes over each batch, freshly permuted",
        16,
        ("ppo.num_epochs", "ppo.num_minibatches"),
        SCHULMAN,
        "pipeline/test_ppo.py::test_first_pass_repeats_the_old_logprobs_bit_for_bit",
    ),
    Detail(
        "clipped policy loss, mean over counted tokens",
        16,
        ("ppo.clip_range",),
        SCHULMAN,
        "pipeline/test_rl.py::test_policy_loss_equals_a_plain_reference_in_float64",
    ),
    Detail(
        "clipped value loss, 0.5 times the larger error",
        16,
        ("ppo.clip_range_value", "ppo.value_coef"),
        ZIEGLER,
        "pipeline/test_rl.py::test_value_loss_by_hand",
    ),
    Detail(
        "Adam with its own epsilon, a warm-up where one is set, linear decay to 0",
        17,
        ("ppo.learning_rate", "ppo.adam_eps", "ppo.warmup_share"),
        HUANG,
        "pipeline/test_ppo.py::test_the_value_head_learns_at_its_own_rate_and_both_decay",
    ),
    Detail(
        "gradients are clipped",
        17,
        ("ppo.max_grad_norm",),
        ZHENG,
        "pipeline/test_ppo.py::test_gradients_are_clipped_before_the_step",
    ),
    Detail(
        "dropout is off in every model, which learns in evaluation mode",
        18,
        (),
        HUANG,
        "pipeline/test_ppo_dropout.py::test_an_update_drops_nothing",
    ),
    Detail(
        "the critic is separate, a head on the policy, or an adapter on its trunk",
        19,
        ("ppo.value_model",),
        ZHENG,
        "reward/test_role_adapters.py::test_policy_critic_and_reference_equal_four_separate_models",
    ),
    Detail(
        "the value head starts at 0, so that the first advantages are the returns themselves",
        19,
        (),
        HUANG,
        "pipeline/test_ppo_settings.py::test_the_first_advantages_are_the_returns",
    ),
    Detail(
        "the value head may learn faster than the trunk",
        17,
        ("ppo.value_head_rate",),
        OWN,
        "pipeline/test_ppo.py::test_the_value_head_learns_at_its_own_rate_and_both_decay",
    ),
    Detail(
        "pretraining text is mixed into the update",
        None,
        ("ppo.pretrain_coef", "ppo.pretrain_tokens"),
        OUYANG,
        "pipeline/test_ppo_settings.py::test_pretraining_text_adds_its_gradient_times_its_weight",
    ),
    Detail(
        "random streams are keyed by seed, purpose and step",
        20,
        (),
        OWN,
        "pipeline/test_ppo.py::test_resumed_run_has_the_bits_of_the_uninterrupted_one",
    ),
    # watch
    Detail(
        "the first minibatch has ratio 1, or the run stops",
        None,
        (),
        HUANG,
        "pipeline/test_ppo_invariants.py::test_a_first_ratio_off_1_is_found_before_the_first_step",
    ),
    Detail(
        "nothing learned from is NaN or infinite, or the batch is kept and the run stops",
        None,
        (),
        OWN,
        "pipeline/test_ppo_invariants.py::test_a_critic_that_broke_is_named_with_what_it_broke",
    ),
    Detail(
        "an update with a NaN or infinite figure is not taken, and its batch is kept",
        None,
        (),
        OWN,
        "pipeline/test_ppo_invariants.py::test_a_broken_update_keeps_all_of_its_batch",
    ),
    Detail(
        "whitened advantages have mean 0 and variance 1 in every batch",
        None,
        (),
        OWN,
        "pipeline/test_ppo_invariants.py::test_whitening_that_is_off_is_found",
    ),
    Detail(
        "k3, the estimate of an update's KL, is never negative",
        None,
        (),
        OWN,
        "pipeline/test_ppo_invariants.py::test_a_negative_k3_is_found_before_the_step",
    ),
    Detail(
        "scores differ; later on equal ones are noted, and one answer to all prompts stops",
        None,
        (),
        OWN,
        "pipeline/test_ppo_invariants.py::test_a_policy_that_gives_one_answer_to_every_prompt_is_named",
    ),
    Detail(
        "the epochs of a batch end when one moves the policy too far",
        None,
        ("ppo.stop_approx_kl",),
        OWN,
        "pipeline/test_ppo.py::test_the_epochs_of_a_batch_end_when_one_moves_the_policy_too_far",
    ),
    Detail(
        "past a limit of KL or of lost score the run rolls back once, more gently, then stops",
        None,
        ("ppo.max_kl", "ppo.max_score_drop"),
        OWN,
        "pipeline/test_ppo_governor.py::test_governor_rolls_back_to_the_last_healthy_policy_with_a_gentler_step",
    ),
    Detail(
        "before the first step the best of n must beat single samples by gold, or by a judge, beyond chance",
        None,
        ("ppo.gate_prompts", "ppo.gate_samples"),
        OWN,
        "pipeline/test_ppo_gate.py::test_a_reward_that_draws_lots_rarely_passes",
    ),
    Detail(
        "SFT's answers end and its held-out loss has fallen, or a gate says so",
        None,
        ("sft.gate_prompts", "sft.min_end_rate"),
        OWN,
        "pipeline/stages/test_sft.py::test_an_untrained_model_fails_the_gates",
    ),
    Detail(
        "the reward model's accuracy is above chance and its control, or a gate says so",
        None,
        (),
        OWN,
        "pipeline/stages/test_reward.py::test_shuffled_labels_teach_nothing",
    ),
    Detail(
        "the policy after the last update is held to the KL limit, too",
        None,
        ("ppo.max_kl",),
        OWN,
        "pipeline/test_ppo_governor.py::test_the_policy_after_the_last_update_is_held_to_the_limit_too",
    ),
    Detail(
        "the policy at the peak of gold is kept, and nothing learns from gold",
        None,
        ("ppo.keep_peak",),
        OWN,
        "pipeline/test_ppo.py::test_the_peak_is_the_policy_in_the_middle_of_the_best_batches",
    ),
)


def _shown(value: Any) -> str:
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
