"""Truthfulness benchmarks: stub scorers whose figures are known, and tiny models through the whole stage."""

import json
import math
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from data.benchmarks import truthfulqa as source
from data.randomness import python_random
from pipeline.answers import Model
from pipeline.checkpoint import write_json
from pipeline.evals import halueval, simpleqa, truthfulqa
from pipeline.language_model import Completion
from pipeline.measured import figures_of, ratio_of_samples
from pipeline.records import read_records
from pipeline.run import StageRun
from pipeline.stages import evaluate
from pipeline.statistics import unvaried
from tests.pipeline.evals import truthfulness_files
from tests.pipeline.evals.truthfulness_files import HALLUCINATED

DATA = os.environ.get("FLEDGE_DATA")
real_data = pytest.mark.skipif(DATA is None, reason="FLEDGE_DATA names no folder of real data")
NAN = math.nan


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    truthfulness_files.write(folder)
    return folder


# --- stub models -----------------------------------------------------------------------------------------


def make_context(root, continuations=None, *, seed=0, **options):
    """A context whose base model scores by a function of (context, continuation), in nats."""
    notes = {}
    modules = {"truthfulqa": truthfulqa, "simpleqa": simpleqa, "halueval": halueval}
    return SimpleNamespace(
        run=SimpleNamespace(data_root=root, note=notes.update, check_stop=lambda: None),
        notes=notes,
        seed=seed,
        models={"base": Model("base", Path("base"), None, plain=True)},
        options={name: module.Config(**options.get(name, {})) for name, module in modules.items()},
        continuations=lambda stage, requests: [continuations(*request) for request in requests],
        config=SimpleNamespace(batch_size=8),
    )


def measured(module, context):
    """Figures by name, from records that were written and read."""
    records = module.measure(context)
    rows = module.figures({"base": records}, context)
    return {figure.name: figure for row in rows for figure in figures_of(row, seed=0, command="")}, records


def per_byte(context, continuation):
    """A uniform model of bytes."""
    return [-math.log(256)] * len(continuation.encode())


def at_random(context, continuation):
    return [python_random("score", context, continuation).gauss(0, 1)]


def told(true):
    """A scorer that knows the true continuations of each context, given as a function of both."""
    return lambda context, continuation: [-1.0 if true(context, continuation) else -30.0]


# --- TruthfulQA ------------------------------------------------------------------------------------------


def test_truthfulqa_by_a_uniform_model_of_bytes_is_that_of_the_shortest_answer(root):
    context = make_context(root, per_byte)
    figures, records = measured(truthfulqa, context)
    (version,) = {record.group for record in records}
    assert version == f"of 23 questions, {source.digest(source.read(root))}"
    assert context.notes["truthfulqa"] == version
    mc1, mc2, binary = (figures[f"truthfulqa/{name}"] for name in ("mc1", "mc2", "binary"))
    # The unit stands beside a figure wherever it is shown.
    assert (mc1.unit, mc2.unit) == (f"share, version {version}", f"probability, version {version}")
    # Every other true answer is the shortest.
    assert mc1.value == mc1.nulls["shortest"] == binary.value == pytest.approx(12 / 23, abs=1e-12)
    assert binary.nulls["longest"] == pytest.approx(11 / 23, abs=1e-12)
    assert mc1.n == 23
    assert mc1.nulls["chance"] == pytest.approx(1 / 3, abs=1e-12)
    assert mc1.nulls["longest"] == 0
    assert mc2.nulls["chance"] == 0.5


def test_a_letter_is_shown_before_either_answer_alike_and_a_constant_model_is_at_chance(root):
    figures, records = measured(truthfulqa, make_context(root, lambda *request: [-1.0]))
    letter = figures["truthfulqa/letter"]
    assert letter.value == letter.nulls["chance"] == 0.5
    rows = [row for row in records if row.measure == "letter"]
    firsts = [json.loads(row.explanation)[0][1] for row in rows]
    assert 4 < sum(firsts) < 19  # a fair coin leaves this range once in five thousand
    assert letter.nulls["always_a"] == pytest.approx(sum(firsts) / 23, abs=1e-12)


def test_the_letters_follow_the_answers_that_are_shown(root):
    def reads(context, continuation):
        """Knows that "yes" is true and looks up its letter."""
        if continuation in (" A", " B"):
            return [-1.0 if f"{continuation.strip()}) yes" in context else -30.0]
        return [-1.0 if continuation.startswith((" yes", " surely")) else -30.0]

    figures, _ = measured(truthfulqa, make_context(root, reads))
    assert {round(figure.value, 9) for figure in figures.values()} == {1.0}
    assert len(figures) == 4


def test_an_answer_that_does_not_fit_leaves_its_question_out_and_nothing_else(root):
    def scores(context, continuation):
        return [NAN] if continuation == " never again 3" else per_byte(context, continuation)

    figures, records = measured(truthfulqa, make_context(root, scores))
    numbers = {name.partition("/")[2]: figure.n for name, figure in figures.items()}
    assert numbers == {"mc1": 22, "mc2": 22, "binary": 23, "letter": 23}
    unscored = [row for row in records if row.score != row.score]
    assert [row.prompt for row in unscored] == ["Is it so, 3?"] * 2
    mc1 = figures["truthfulqa/mc1"]
    assert mc1.nulls["shortest"] == mc1.value == pytest.approx(12 / 22, abs=1e-12)  # of the same questions
    assert {row.outcome for row in unscored} == {""}


def test_fewer_questions_are_a_keyed_choice_of_the_same_version(root):
    whole = measured(truthfulqa, make_context(root, per_byte))[1]
    some = measured(truthfulqa, make_context(root, per_byte, truthfulqa={"num_questions": 7}))[1]
    other = measured(truthfulqa, make_context(root, per_byte, seed=1, truthfulqa={"num_questions": 7}))[1]
    assert some == whole[: len(some)]
    assert len({row.id for row in some}) == 7
    assert {row.id for row in other} != {row.id for row in some}
    assert {row.group for row in some} == {row.group for row in whole}


def test_a_question_is_asked_after_the_primer_and_an_answer_follows_a_space(root):
    asked = []

    def scores(context, continuation):
        asked.append((context, continuation))
        return [-1.0]

    measured(truthfulqa, make_context(root, scores, truthfulqa={"num_questions": 1}))
    assert len(asked) == len(set(asked)) == 4 + 2  # each answer is scored once for all measures
    contexts = {context for context, _ in asked}
    assert all(continuation.startswith(" ") for _, continuation in asked)
    assert {context.count("Barcelona") for context in contexts} == {0, 1}


@pytest.mark.real_data
@real_data
def test_truthfulqa_of_the_real_file_has_the_published_floors():
    figures, _ = measured(truthfulqa, make_context(Path(DATA), per_byte))
    mc1, mc2, binary = (figures[f"truthfulqa/{name}"] for name in ("mc1", "mc2", "binary"))
    if not mc1.unit.startswith("share, version 2025,"):
        pytest.skip("the published floors are of the file of 2025")
    assert mc1.value == pytest.approx(0.158, abs=5e-4)
    assert mc2.value == pytest.approx(0.444, abs=6e-4)
    # To the printed digits.
    assert mc1.nulls["chance"] == pytest.approx(0.2229, abs=5e-5)
    assert mc2.nulls["chance"] == pytest.approx(0.468, abs=5e-4)
    assert binary.nulls["longest"] == pytest.approx(0.646, abs=5e-4)
    assert mc1.clusters == 37  # questions of one category are alike


@pytest.mark.real_data
@real_data
def test_a_random_scorer_is_at_chance_on_every_real_figure():
    context = make_context(Path(DATA), at_random, halueval={"num_pairs": 500, "num_labelled": 1000})
    for module in (truthfulqa, halueval):
        figures, _ = measured(module, context)
        assert len(figures) == (4 if module is truthfulqa else 8)
        for figure in figures.values():
            # Four standard errors; that of an AUROC is at most that of a share over the rarer kind.
            num = figure.n if figure.unit != "AUROC" else 150
            assert figure.value == pytest.approx(figure.nulls["chance"], abs=4 * 0.5 / math.sqrt(num))


# --- SimpleQA --------------------------------------------------------------------------------------------


def answering(answer, context_tokens=1000):
    """A model whose answer is a function of the prompt; it reads one token a character."""

    class Stub:
        model = SimpleNamespace(
            config=SimpleNamespace(
                get_text_config=lambda: SimpleNamespace(max_position_embeddings=context_tokens)
            )
        )

        def __init__(self):
            self.calls = []

        def encode(self, prompt):
            return list(prompt if isinstance(prompt, str) else prompt[0]["content"])

        def generate(self, prompts, **options):
            self.calls.append((prompts, options))
            return [Completion(answer(prompt), [], [], True) for prompt in prompts]

    return Stub()


def asked_of(root, model, *, plain=True, **settings):
    context = make_context(root, simpleqa=settings)
    context.models = {"base": Model("base", Path("base"), None, plain=plain)}
    context.model = lambda stage: model
    return context


def test_an_answerer_that_always_abstains_hallucinates_nothing_and_knows_nothing(root):
    figures, records = measured(simpleqa, asked_of(root, answering(lambda prompt: " I do not know.")))
    values = {name.partition("/")[2]: figure.value for name, figure in figures.items()}
    assert values["correct"] == values["hallucinated"] == values["attempted"] == values["f"] == 0
    assert set(values) == {"correct", "hallucinated", "attempted", "f"}  # no rate of what was not attempted
    assert {record.outcome for record in records} == {"not_attempted"}


def test_rates_f_and_nulls_of_a_model_that_answers_some(root):
    def answer(prompt):
        number = int(prompt.split("What is ")[1].split("?")[0])
        return " Unknown" if number < 3 else " It is Rome." if number < 12 else f" {2000 + number}"

    context = asked_of(root, answering(answer))
    figures, records = measured(simpleqa, context)
    values = {name.partition("/")[2]: figure.value for name, figure in figures.items()}
    correct, attempted = 3, 20
    # Who abstains has been scored: no figure counts such an item as one that could not be.
    for row in simpleqa.figures({"base": records}, context):
        assert not any(math.isnan(item.score) for rows in row.scores.values() for item in rows), row.name
    assert values["correct"] == pytest.approx(correct / 23, abs=1e-12)
    assert values["hallucinated"] == pytest.approx(17 / 23, abs=1e-12)
    assert values["attempted"] == pytest.approx(attempted / 23, abs=1e-12)
    assert values["correct_of_attempted"] == pytest.approx(correct / attempted, abs=1e-12)
    assert values["hallucinated_of_attempted"] == pytest.approx(17 / 20, abs=1e-12)
    c, cga = correct / 23, correct / attempted
    assert values["f"] == pytest.approx(2 * cga * c / (cga + c), abs=1e-12)
    assert figures["simpleqa/f"].low < values["f"] < figures["simpleqa/f"].high
    assert figures["simpleqa/correct"].nulls == {
        "always_abstaining": 0.0,
        "most_common_answer": pytest.approx(8 / 23, abs=1e-12),
    }
    assert set(figures["simpleqa/correct_of_attempted"].nulls) == {"most_common_answer"}


def test_the_ratio_of_f_is_that_of_the_repeated_questions(root):
    from pipeline.benchmarks.simpleqa import rates

    context = asked_of(root, answering(lambda prompt: " Unknown" if "1" in prompt else " Rome"))
    records = simpleqa.measure(context)
    (row,) = (row for row in simpleqa.figures({"base": records}, context) if row.name == "simpleqa/f")
    counts = np.random.default_rng(0).multinomial(23, [1 / 23] * 23, size=3).astype(float)
    repeated = [
        rates([record.outcome for record, times in pairs for _ in range(int(times))]).f
        for pairs in (list(zip(records, sample, strict=True)) for sample in counts)
    ]
    assert row.kind == "ratio"
    assert ratio_of_samples(row.scores["base"], counts) == pytest.approx(repeated, abs=1e-12)


def test_a_question_without_room_for_an_answer_is_neither_wrong_nor_an_abstention(root):
    # "Question: What is 9?\nAnswer:" has 28 characters, one less than those of two digits.
    model = answering(lambda prompt: " Rome", context_tokens=28 + 5)
    figures, records = measured(simpleqa, asked_of(root, model, max_new_tokens=5))
    assert {figure.n for figure in figures.values()} == {10}
    assert sum(row.score != row.score for row in records) == 13
    assert {row.outcome for row in records if row.score != row.score} == {""}


def test_a_base_model_continues_the_plain_format_and_a_chat_model_is_asked(root):
    base, chat = answering(lambda prompt: " Rome"), answering(lambda prompt: "Rome")
    simpleqa.measure(asked_of(root, base, num_questions=5))
    simpleqa.measure(asked_of(root, chat, plain=False, num_questions=5))
    (plain, options), (asked, chat_options) = base.calls[0], chat.calls[0]
    assert plain[0].startswith("Question: What is ")
    assert plain[0].endswith("?\nAnswer:")
    assert [message["role"] for message in asked[0]] == ["user"]
    assert (options["stop"], chat_options["stop"]) == ("\n", None)
    assert [prompt[0]["content"] for prompt in asked] == [prompt[10:-8] for prompt in plain]
    assert options["temperature"] == chat_options["temperature"] == 0
    assert len(plain) == len(asked) == 5


def test_another_seed_asks_other_questions(root):
    asked = []
    for seed in (0, 1):
        context = asked_of(root, answering(lambda prompt: ""), num_questions=7)
        context.seed = seed
        asked.append({record.id for record in simpleqa.measure(context)})
    assert [len(names) for names in asked] == [7, 7]
    assert asked[0] != asked[1]


# --- HaluEval --------------------------------------------------------------------------------------------


def test_an_oracle_is_right_on_every_figure(root):
    def true(context, continuation):
        if continuation in (" A", " B"):
            return f"{continuation.strip()}) It has none" not in context
        if continuation in (" Yes", " No"):
            hallucinated = int(context.split("Sing ")[1].split(".")[0]) in HALLUCINATED
            return (continuation == " Yes") == hallucinated
        return "It has none" not in continuation

    figures, _ = measured(halueval, make_context(root, told(true)))
    assert set(figures) == {
        *(f"halueval/{name}/qa_{turns}_turn" for name in halueval.OF_PAIRS for turns in ("one", "multi")),
        "halueval/verdict",
        "halueval/auroc",
    }
    assert {figure.value for figure in figures.values()} == {1.0}


def test_length_alone_decides_between_summed_log_probabilities_and_not_between_means(root):
    figures, _ = measured(halueval, make_context(root, per_byte))
    likelier = figures["halueval/likelier/qa_one_turn"]
    assert likelier.value == likelier.nulls["shortest"] == 1
    assert likelier.nulls["longest"] == 0
    assert figures["halueval/per_token/qa_one_turn"].value == 0.5  # all tie


def test_a_model_that_always_says_no_is_the_majority_and_ranks_nothing(root):
    figures, _ = measured(halueval, make_context(root, told(lambda context, text: text == " No")))
    verdict, auroc = figures["halueval/verdict"], figures["halueval/auroc"]
    assert verdict.value == verdict.nulls["majority"] == pytest.approx(18 / 23, abs=1e-12)
    assert auroc.value == auroc.nulls["chance"] == 0.5
    assert auroc.nulls["longer"] == pytest.approx(1 / 5, abs=1e-12)
    # Answers to come may be ranked: as many as the clusters of the rarer kind, 5 of 23, still allow.
    assert (auroc.low, auroc.high) == pytest.approx(unvaried(0.5, 5, (0.0, 1.0)))


def test_sides_are_drawn_by_key_and_are_the_same_in_every_file(root):
    records = [row for row in halueval.measure(make_context(root, per_byte)) if row.measure == "letter"]
    sides = {}
    for row in records:
        sides.setdefault(row.cluster, set()).add(json.loads(row.explanation)[0][1])
    assert all(len(found) == 1 for found in sides.values())
    assert {side for found in sides.values() for side in found} == {0, 1}
    other = [r for r in halueval.measure(make_context(root, per_byte, seed=1)) if r.measure == "letter"]
    assert [row.prompt for row in sorted(other, key=lambda r: r.id)] != [
        row.prompt for row in sorted(records, key=lambda r: r.id)
    ]


def test_fewer_pairs_are_the_same_questions_of_every_file(root):
    records = halueval.measure(make_context(root, per_byte, halueval={"num_pairs": 3, "num_labelled": 2}))
    pairs = [row for row in records if row.measure == "likelier"]
    assert len(pairs) == 6
    assert len({row.cluster for row in pairs}) == 3
    assert sum(row.measure == "verdict" for row in records) == 2
    settings = {"num_pairs": 3, "num_labelled": 2}
    other = halueval.measure(make_context(root, per_byte, seed=1, halueval=settings))
    for measure in ("likelier", "verdict"):
        chosen = [{row.id for row in found if row.measure == measure} for found in (records, other)]
        assert chosen[0] != chosen[1]


def test_a_pair_or_an_answer_that_does_not_fit_is_unscored(root):
    def scores(context, continuation):
        return [-1.0, NAN] if "in 7?" in context or "Sing 22." in context else [-1.0]

    figures, _ = measured(halueval, make_context(root, scores))
    assert figures["halueval/letter/qa_one_turn"].n == 22
    assert figures["halueval/verdict"].n == figures["halueval/auroc"].n == 22
    # Nulls are of the same items.
    assert figures["halueval/verdict"].nulls["majority"] == pytest.approx(18 / 22, abs=1e-12)
    assert figures["halueval/auroc"].nulls["longer"] == 0


@pytest.mark.real_data
@real_data
def test_the_shorter_real_answer_is_nearly_always_the_right_one():
    figures, _ = measured(halueval, make_context(Path(DATA), lambda *request: [-1.0]))
    for name in ("qa_one_turn", "qa_multi_turn"):
        # Why a summed log-probability alone tells little here; its null has to stand beside it.
        assert figures[f"halueval/likelier/{name}"].nulls["shortest"] > 0.9
    assert figures["halueval/verdict"].nulls["majority"] == pytest.approx(3692 / 4507, abs=0.05)


# --- through the stage -----------------------------------------------------------------------------------


@pytest.fixture
def evaluated(root, tmp_path, tiny_llama):
    """The three benchmarks on a tiny base model and a tuned one of other weights."""
    from pipeline.stages.tokenizer import train, wrap

    tokenizer = wrap(train(["Is it so? What is Rome? It has clocks."] * 9, vocab_size=280))
    folders = []
    for name, seed in (("pretrain", 1), ("sft", 2)):
        folders.append(tmp_path / "runs" / "tiny" / "stages" / name)
        model = tiny_llama(vocabulary=len(tokenizer), seed=seed, context=256)
        model.save_pretrained(folders[-1] / "model")
        tokenizer.save_pretrained(folders[-1] / "model")
        inputs = {"policy": [["pretrain", "0"]]} if name == "sft" else {}
        write_json(folders[-1] / "stage.json", {"stage": name, "inputs": inputs})
    run = StageRun("evaluate", tmp_path / "runs" / "tiny", seed=3, inputs={"models": folders}, data_root=root)
    names = ["truthfulqa", "simpleqa", "halueval"]
    settings = {"suite": names, "simpleqa": {"max_new_tokens": 5}}
    evaluate.run(evaluate.config_class(settings).model_validate(settings), run)
    return run, json.loads((run.dir / "figures.json").read_text())


def test_every_figure_follows_from_the_records_alone(evaluated):
    run, results = evaluated
    records = read_records(run.dir / "records.jsonl")
    context = SimpleNamespace()  # nothing but the records is looked at
    found = []
    for name, module in (("truthfulqa", truthfulqa), ("simpleqa", simpleqa), ("halueval", halueval)):
        for row in module.figures(evaluate.by_stage(records, name), context):
            found += figures_of(row, seed=3, command="")
    expected = {(f["name"], f["stage"]): f for f in results["figures"] if "_minus_" not in f["name"]}
    assert {(figure.name, figure.stage) for figure in found} == set(expected)
    for figure in found:
        stored = expected[figure.name, figure.stage]
        assert (figure.value, figure.n) == (
            pytest.approx(stored["value"], abs=1e-12, nan_ok=True),
            stored["n"],
        )
        own = {name: value for name, value in stored["nulls"].items() if name != "untrained"}
        assert figure.nulls == pytest.approx(own, abs=1e-12)
        assert figure.nulls or "of_attempted" in figure.name
    assert {stage for _, stage in expected} == {"base", "sft"}


def test_scores_in_records_are_those_of_the_answers_kept_with_them(evaluated):
    from pipeline.benchmarks import choices

    run, _ = evaluated
    rows = [row for row in read_records(run.dir / "records.jsonl") if row.evaluation == "truthfulqa"]
    assert len(rows) == 2 * 23 * 4
    for row in rows:
        found = choices.read(row.explanation)
        logprobs, labels = [choice.logprob for choice in found], [choice.true for choice in found]
        # Log-probabilities are kept to six digits after the point.
        assert row.score == pytest.approx(truthfulqa.SCORES[row.measure](logprobs, labels), abs=1e-5)


def test_stages_are_compared_but_not_on_what_each_attempted(evaluated):
    _, results = evaluated
    compared = {row["name"] for row in results["comparisons"]}
    assert {"simpleqa/correct", "simpleqa/f", "halueval/auroc"} <= compared
    assert not any("of_attempted" in name for name in compared)
