"""Win rates by judges whose taste is known: by an endpoint on this machine, and by a reward model."""

import json
import math
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
from pydantic import ValidationError

from data.errors import InputError
from data.randomness import key
from data.rows import Item, user
from pipeline import judges, reward_scores
from pipeline.answers import Answer, Model
from pipeline.errors import Interrupted
from pipeline.evals import judge
from pipeline.measured import figures_of
from pipeline.rankings import length_controlled_win_rate
from pipeline.records import Record, from_json, to_json
from pipeline.stages.evaluate import by_stage

NUM = 60
SECRET = "secret-key-1"


def completion(text):
    return 200, json.dumps({"choices": [{"message": {"content": text}}]}).encode()


def answers_of(body):
    shown = body["messages"][-1]["content"]
    return tuple(shown.split(f"<answer_{x}>\n")[1].split("\n</answer_")[0] for x in "ab")


def longer(body):
    first, second = map(len, answers_of(body))
    return completion(f"Verdict: {'tie' if first == second else 'A' if first > second else 'B'}")


@pytest.fixture
def serve(serve):
    """Start an endpoint that replies with reply(body); gives its URL."""
    return lambda reply: serve(lambda body, number: reply(body))[0]


def make_context(tmp_path, *, gold=True, reward=False, **settings):
    """Base, sft and ppo; ppo's answers are longer than sft's in 2 of 3 items, base's are as long as sft's."""
    items = [Item(str(n), user(f"Question {n}?"), f"c{n // 2}", truth={"a": 1}) for n in range(NUM)]
    lengths = {
        "base": [9] * NUM,
        "sft": [9] * NUM,
        "ppo": [5 if n % 3 == 0 else 12 for n in range(NUM)],
    }
    answers = {
        stage: {str(n): Answer(str(n), f" {'x' * num}\n", True, [1], [0.0]) for n, num in enumerate(row)}
        for stage, row in lengths.items()
    }
    notes, said = {}, []
    quick = {"retry_seconds": 0.0, "num_retries": 1} if settings.get("url") else {}
    return SimpleNamespace(
        seed=1,
        notes=notes,
        said=said,
        headline=items,
        answers=answers,
        models={
            "base": Model("base", tmp_path, None, plain=True),
            "sft": Model("sft", tmp_path, "base", plain=False),
            "ppo": Model("ppo", tmp_path, "sft", plain=False),
        },
        options={"judge": judge.Config(**quick | settings)},
        folder=lambda role: tmp_path if reward and role == "reward" else None,
        knows=lambda item: gold,
        # Gold prefers the shorter answer.
        judge=lambda item, answer: SimpleNamespace(score=-len(answer.text)),
        run=SimpleNamespace(
            progress=lambda *_: nullcontext(SimpleNamespace(advance=lambda num: None)),
            check_stop=lambda: None,
            checkpoints=SimpleNamespace(folder=tmp_path / "checkpoints"),
            note=notes.update,
            say=said.append,
        ),
    )


def measured(context):
    """Figures {(name, stage): figure} from records that were written and read."""
    rows = [from_json(Record, json.loads(json.dumps(to_json(row)))) for row in judge.measure(context)]
    found = judge.figures(by_stage(rows, "judge"), context)
    figures = [figure for row in found for figure in figures_of(row, seed=1, command="")]
    return rows, {(figure.name.removeprefix("judge/"), figure.stage): figure for figure in figures}


def endpoint(tmp_path, serve, reply, **settings):
    context = make_context(tmp_path, url=serve(reply), model="m", **settings)
    return context, *measured(context)


# --- by an endpoint


def test_a_judge_who_prefers_the_longer_answer(tmp_path, serve):
    context, rows, figures = endpoint(tmp_path, serve, longer)
    win = figures["endpoint/ppo_over_sft", "ppo"]
    assert win.value == pytest.approx(2 / 3)
    assert (win.n, win.clusters) == (NUM, NUM // 2)
    assert win.nulls == {"no_difference": 0.5, "longest_wins": pytest.approx(2 / 3)}
    assert figures["endpoint/sft_over_base", "sft"].value == 0.5  # equal lengths: ties
    assert figures["endpoint/ppo_over_sft/longer_wins", "ppo"].value == 1
    assert figures["endpoint/ppo_over_sft/gold_accord", "ppo"].value == 0
    assert figures["endpoint/ppo_over_sft/flips", "ppo"].value == 0
    assert figures["endpoint/ppo_over_sft/failed_calls", "ppo"].value == 0
    assert {name for name, _ in figures if name.count("/") == 1} == {
        "endpoint/sft_over_base",
        "endpoint/ppo_over_sft",
        "endpoint/ppo_over_base",
        "endpoint/strength",
    }
    assert context.notes == {"judge": "m", "judge_calls": 6 * NUM, "judge_calls_failed": 0}
    assert context.said == []
    won = next(row for row in rows if row.measure == "win" and row.outcome == "win")
    assert won.explanation == "over: xxxxxxxxx\nours first: Verdict: A\ntheirs first: Verdict: B"


def test_a_judge_who_always_takes_the_first_says_nothing(tmp_path, serve):
    _, _, figures = endpoint(tmp_path, serve, lambda body: completion("A"))
    win = figures["endpoint/ppo_over_sft", "ppo"]
    assert win.value == 0.5
    assert figures["endpoint/ppo_over_sft/flips", "ppo"].value == 1
    assert ("endpoint/ppo_over_sft/longer_wins", "ppo") not in figures


def test_the_win_rate_at_equal_length_is_that_of_these_wins_and_lengths(tmp_path, serve):
    _, _, figures = endpoint(tmp_path, serve, longer)
    controlled = figures["endpoint/length_controlled/ppo_over_sft", "ppo"]
    # Of three pairs ours is 3 characters longer in two, which it wins, and 4 shorter in one, which it loses.
    wins, lengths = [0.0, 1.0, 1.0] * (NUM // 3), [-4.0, 3.0, 3.0] * (NUM // 3)
    expected = length_controlled_win_rate(wins, lengths, np.ones((1, NUM)))[0]
    assert controlled.value == pytest.approx(expected)
    assert controlled.n == NUM


def test_strengths_are_the_log_odds_over_all_models(tmp_path, serve):
    _, _, figures = endpoint(tmp_path, serve, longer)
    strengths = {stage: figures["endpoint/strength", stage] for stage in ("base", "sft", "ppo")}
    # Two to one over either of two equals.
    assert strengths["ppo"].value == pytest.approx(2 / 3 * math.log(2))
    assert strengths["sft"].value == pytest.approx(strengths["base"].value) == pytest.approx(-math.log(2) / 3)
    assert strengths["ppo"].low > 0


def test_failed_calls_are_counted_and_never_scored(tmp_path, serve):
    def fails_where_short_is_first(body):
        """Fails one order of every pair with a short answer, so of one in three; the rest is fine."""
        return (500, b"busy") if len(answers_of(body)[0]) == 5 else longer(body)

    context, rows, figures = endpoint(tmp_path, serve, fails_where_short_is_first)
    win = figures["endpoint/ppo_over_sft", "ppo"]
    assert (win.value, win.n) == (
        1.0,
        2 * NUM // 3,
    )  # all that could be scored; a loss, tie or win would show
    failed = figures["endpoint/ppo_over_sft/failed_calls", "ppo"]
    assert failed.value == pytest.approx(1 / 6)
    assert context.notes["judge_calls_failed"] == 2 * NUM // 3
    assert "HTTP 500: busy" in context.said[0]
    unscored = [row for row in rows if row.measure == "win" and math.isnan(row.score)]
    assert {row.outcome for row in unscored} == {"failed"}


def test_where_every_call_fails_there_is_no_win_rate(tmp_path, serve):
    _, _, figures = endpoint(tmp_path, serve, lambda body: completion("I would rather not."))
    assert {name.rpartition("/")[2] for name, _ in figures} == {"failed_calls"}
    assert {figure.value for figure in figures.values()} == {1.0}


def test_a_coin_is_at_chance(tmp_path, serve):
    """Of 60 pairs; a fair rate leaves .5 +- .2 once in 500 tries, and seeds are fixed."""

    def coin(body):
        return completion("AB"[key("coin", json.dumps(body)) % 2])

    _, _, figures = endpoint(tmp_path, serve, coin, gold=False)
    assert abs(figures["endpoint/ppo_over_sft", "ppo"].value - 0.5) < 0.2
    assert 0.2 < figures["endpoint/ppo_over_sft/flips", "ppo"].value < 0.8
    assert not [name for name, _ in figures if name.endswith("gold_accord")]


def test_at_most_so_many_pairs_are_judged_and_always_the_same(tmp_path, serve):
    _, first, _ = endpoint(tmp_path / "first", serve, longer, num_pairs=7)
    _, again, _ = endpoint(tmp_path / "again", serve, longer, num_pairs=7, num_parallel=1)
    assert first == again
    assert len({row.id for row in first}) == 7
    assert {row.id for row in first} != {str(n) for n in range(7)}


# --- interrupted


def counted(serve, reply):
    """An endpoint, and the requests that it got."""
    got = []

    def count(body):
        got.append(json.dumps(body))
        return reply(body, len(got))

    return serve(count), got


def lines(rows):
    return [json.dumps(to_json(row)) for row in rows]


def test_after_a_death_of_the_endpoint_only_what_is_missing_is_asked(tmp_path, serve):
    alive = range(1, 101)  # the calls that it answers
    url, got = counted(serve, lambda body, n: longer(body) if n in alive else (503, b"gone"))
    settings = {"url": url, "model": "m", "num_retries": 0}
    first = judge.measure(make_context(tmp_path, **settings))
    assert sum(row.score for row in first if row.measure == "failed") == 6 * NUM - 100
    assert len(got) == 6 * NUM
    alive = range(1, 10_000)
    again = judge.measure(make_context(tmp_path, **settings))
    assert len(got) == 6 * NUM + (6 * NUM - 100)
    assert lines(again) == lines(judge.measure(make_context(tmp_path / "whole", **settings)))


def test_an_interrupted_judge_goes_on_and_leaves_the_records_of_an_uninterrupted_one(tmp_path, serve):
    url, got = counted(serve, lambda body, n: longer(body))
    context = make_context(tmp_path, url=url, model="m")
    seen = []

    def stop():
        seen.append(1)
        if len(seen) == 50:
            raise Interrupted(15)

    context.run.check_stop = stop
    with pytest.raises(Interrupted):
        judge.measure(context)
    assert 50 <= len(got) < 70  # four at a time, and no more are begun
    kept = tmp_path / "checkpoints" / judges.REPLIES
    whole = kept.read_bytes()
    kept.write_bytes(whole + whole.splitlines()[0][:40])  # a death within a line
    again = judge.measure(make_context(tmp_path, url=url, model="m"))
    assert len(got) == 6 * NUM
    assert lines(again) == lines(judge.measure(make_context(tmp_path / "whole", url=url, model="m")))


def test_equal_requests_are_each_asked_and_keep_their_own_verdicts(tmp_path, serve):
    # Base and sft give equal answers, so that ppo over either is the same request; this judge changes its mind.
    url, _ = counted(serve, lambda body, n: completion("AB"[n % 2]))
    first = judge.measure(make_context(tmp_path, url=url, model="m", num_parallel=1))
    assert lines(judge.measure(make_context(tmp_path, url=url, model="m"))) == lines(first)


def test_another_model_or_setting_is_asked_anew(tmp_path, serve):
    url, got = counted(serve, lambda body, n: longer(body))
    for settings in ({"model": "m"}, {"model": "other"}, {"model": "m", "temperature": 1.0}):
        before = len(got)
        judge.measure(make_context(tmp_path, url=url, **settings))
        assert len(got) - before == 6 * NUM


# --- by a reward model


def test_the_reward_model_judges_without_the_space_of_a_continued_line(tmp_path, monkeypatch):
    seen = []

    def scores(items, texts, context, *, ended):
        seen.extend(texts)
        return [float("nan") if len(text) == 5 else float(len(text)) for text in texts]

    monkeypatch.setattr(reward_scores, "score_with", scores)
    rows, figures = measured(make_context(tmp_path, reward=True))
    assert set(seen) == {"x" * 5, "x" * 9, "x" * 12}
    win = figures["reward_model/ppo_over_sft", "ppo"]
    assert (win.value, win.n) == (1.0, 2 * NUM // 3)
    assert not [name for name, _ in figures if name.endswith(("flips", "failed_calls"))]
    assert figures["reward_model/length_controlled/ppo_over_sft", "ppo"].n == 2 * NUM // 3
    assert figures["reward_model/strength", "ppo"].n == 2 * NUM // 3
    assert all(row.prompt and row.completion and row.cluster for row in rows)


def test_it_judges_unnamed_where_there_is_a_reward_model_and_no_gold(tmp_path):
    for gold, reward in ((False, False), (False, True), (True, False), (True, True)):
        context = make_context(tmp_path, gold=gold, reward=reward)
        context.items = context.headline
        assert judge.by_default(context) == (reward and not gold)


def test_one_model_alone_is_not_judged(tmp_path):
    context = make_context(tmp_path, reward=True)
    context.models = {"untrained": context.models["base"]}
    assert judge.measure(context) == []
    assert context.notes == {}
    assert judge.figures({}, context) == []


# --- settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"url": "file:///etc/passwd", "model": "m"}, "http:// or https://"),
        ({"url": "http://user:word@host/v1", "model": "m"}, "no user, password or query"),
        ({"url": "http://host/v1?key=1", "model": "m"}, "no user, password or query"),
        ({"url": "http://host/v1"}, "url and model go together"),
        ({"model": "m"}, "url and model go together"),
        (
            {"url": "http://host", "model": "m", "api_key_variable": "sk-abc"},
            "NAME of an environment variable",
        ),
        ({"api_key_variable": "KEY"}, "no effect without url"),
    ],
)
def test_unsound_settings_are_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        judge.Config(**settings)


def test_the_key_comes_from_the_environment_and_into_no_record(tmp_path, serve, monkeypatch):
    settings = {"model": "m", "api_key_variable": "JUDGE_KEY"}
    context = make_context(tmp_path, url=serve(lambda body: (401, SECRET.encode())), **settings)
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    with pytest.raises(InputError, match="the environment has no JUDGE_KEY"):
        judge.items(context)
    monkeypatch.setenv("JUDGE_KEY", f"{SECRET}\nX-Other: 1")
    with pytest.raises(InputError, match="holds is no key") as raised:
        judge.items(context)
    assert SECRET not in str(raised.value)
    monkeypatch.setenv("JUDGE_KEY", f"{SECRET}\n")
    rows, _ = measured(context)
    kept = (tmp_path / "checkpoints" / judges.REPLIES).read_text()
    assert SECRET not in str(rows) + str(context.said) + str(context.options) + kept
    assert "HTTP 401" in str(rows)


def test_without_any_judge_nothing_begins(tmp_path):
    with pytest.raises(InputError, match="there is no judge"):
        judge.items(make_context(tmp_path))
    with pytest.raises(InputError, match="there is no judge"):
        judge.items(make_context(tmp_path, reward=True, reward_model=False))
