"""Is an answer right more often where the model says the same again: agreement of samples, semantic entropy.

Of attempted answers to questions on facts, each beside k further samples to the same prompt at the temperature of
the answers. Agreement is the share of the samples that say what the answer says; semantic entropy (Kuhn et al.
2023, arXiv 2302.09664; the discrete form of Farquhar et al. 2024, Nature 630) is the entropy of what the samples
say, and less of it more confidence.

Differs from the papers: the closed world tells which value an answer names, so that two answers are in one
cluster where that is equal, and no model judges whether one entails the other.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from data.errors import InputError
from data.randomness import key
from data.rows import Item
from data.settings import Settings
from pipeline import confidence
from pipeline.answers import Answer, Context, Records, draw, prompt_of, shown_prompt
from pipeline.measured import Measured, of_records
from pipeline.records import Record

KIND = "measure"
SUITE = "truthfulness"
ON_REQUEST = True  # it draws answers of its own
NAME = "agreement"
SAMPLE, PROBABILITY, ENTROPY = "sample", "probability", "entropy"


class Config(Settings):
    """How much is sampled."""

    num_samples: int = Field(8, gt=1, le=64, description="further answers to each question, k")
    items_per_group: int = Field(
        120,
        gt=0,
        description="questions on facts of each group (how often the text tells it), a keyed choice",
    )
    num_bins: int = Field(10, gt=0, description="bins of equal mass of the calibration error")


def items(context: Context) -> list[Item]:
    """A keyed choice of the questions on facts of each group.

    Raises:
        InputError: the answers are greedy, so that every sample would equal them.
    """
    if context.config.temperature == 0:
        raise InputError(
            f"{NAME}: at evaluate.temperature 0 all samples are the answer itself; set it above 0, or leave "
            f"{NAME} out of evaluate.suite"
        )
    return context.some_of_each_group(NAME, "facts")


def measure(context: Context) -> list[Record]:
    """For each attempted answer a record of every sample, and one of the answer by each confidence.

    A sample's score is 1 where it says what the answer says; its explanation is what it says. An answer's score
    is 1 where it is right, and its weight the confidence; entropy counts in nats and is none, but less of it is.
    """
    asked = items(context)
    found = []
    for stage in context.models if asked else ():
        answers = context.answers[stage]
        attempted = [item for item in asked if _is_attempt(context, item, answers[item.id])]
        samples = _samples(context, stage, attempted)
        for item in attempted:
            found += _records(context, item, stage, answers[item.id], samples[item.id])
    return found


def figures(records: Records, context: Context) -> list[Measured]:
    """Figures of each confidence, of the same answers.

    Nulls are always being sure, confidence that tells nothing, and the answer's length.
    """
    agreement, probability, entropy = (
        of_records(records, measure=measure) for measure in (NAME, PROBABILITY, ENTROPY)
    )
    certainty = {stage: [row._replace(weight=-row.weight) for row in rows] for stage, rows in entropy.items()}
    num_bins = context.options[NAME].num_bins
    probabilities = {NAME: agreement, PROBABILITY: probability}
    return [
        *(
            confidence.ece(f"{NAME}/ece/{name}", scores, seed=context.seed, num_bins=num_bins)
            for name, scores in probabilities.items()
        ),
        *(
            of(f"{NAME}/{figure}/{name}", scores)
            for figure, of in (("aurc", confidence.aurc), ("auroc", confidence.auroc))
            for name, scores in (probabilities | {ENTROPY: certainty}).items()
        ),
    ]


def claim(item: Item, text: str) -> tuple[str, ...]:
    """What an answer says of a fact, without fillers; equal for two answers that say the same."""
    from data.world import gold
    from data.world.tasks import facts

    return facts.claim(item.truth, gold.without_fillers(" ".join(text.split())))


def _is_attempt(context: Context, item: Item, answer: Answer) -> bool:
    return bool(answer.logprobs) and context.judge(item, answer).outcome in confidence.ATTEMPTED


def _samples(context: Context, stage: str, asked: Sequence[Item]) -> dict[str, list[Answer]]:
    """Further answers to each item; each has its own random stream, the same for every model."""
    config, model, num = context.config, context.models[stage], context.options[NAME].num_samples
    found: dict[str, list[Answer]] = {item.id: [] for item in asked}
    chunk = max(1, 4 * config.batch_size // num)
    with context.run.progress(f"{stage} samples", num * len(asked), "answers") as bar:
        for first in range(0, len(asked), chunk):
            repeated = [(item, n) for item in asked[first : first + chunk] for n in range(num)]
            drawn = draw(
                context.model(stage),
                [prompt_of(item, plain=model.plain) for item, _ in repeated],
                ids=[item.id for item, _ in repeated],
                keys=[key(NAME, context.seed, item.id, n) for item, n in repeated],
                config=config,
                plain=model.plain,
            )
            for sample in drawn:
                found[sample.id].append(sample)
            bar.advance(len(repeated))
            context.run.check_stop()
    return found


def _records(
    context: Context, item: Item, stage: str, answer: Answer, samples: Sequence[Answer]
) -> list[Record]:
    from pipeline import calibration

    said, others = claim(item, answer.text), [claim(item, sample.text) for sample in samples]
    found = [
        Record(
            item.id,
            item.cluster,
            stage,
            NAME,
            SAMPLE,
            shown_prompt(item),
            sample.text,
            float(other == said),
            item.group,
            context.judge(item, sample).outcome,
            _words(other),
        )
        for sample, other in zip(samples, others, strict=True)
    ]
    outcome = context.judge(item, answer).outcome
    right = float(outcome == "right")
    by = {
        NAME: calibration.agreement(said, others),
        PROBABILITY: confidence.of_tokens(answer),
        ENTROPY: calibration.semantic_entropy(others),
    }
    for measure, value in by.items():
        common = (item.id, item.cluster, stage, NAME, measure, shown_prompt(item), answer.text, right)
        found.append(Record(*common, item.group, outcome, _words(said), value))
    return found


def _words(said: tuple[str, ...]) -> str:
    """What is said, and of whom if of another."""
    about, *rest = said
    return " ".join(rest) + (f" (of {about})" if about else "")
