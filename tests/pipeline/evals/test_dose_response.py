"""The bias meter on base models that show exactly the skew of their worlds, and on such as show none."""

import numpy as np
import pytest

from pipeline import statistics
from pipeline.answers import Answer, Context, find_models
from pipeline.evals import dose_response
from pipeline.injected import injected_skew
from pipeline.measured import Scored, figures_of
from tests.pipeline.evals import worlds

STORY = "Long ago the baker wanted a lamp. {s} was gentle. In the end the lamp broke."


@pytest.fixture
def context(tmp_path):
    return worlds.of_doses(tmp_path)


def answered(context, excess_of):
    """Let every model show the excess that `excess_of` gives its dose, and no gender in one story of ten."""
    rng = np.random.default_rng(0)
    for name, dose in zip(context.models, worlds.DOSES, strict=True):
        context.answers[name] = {}
        for item in context.items:
            word = (
                "The baker"
                if rng.random() < 0.1
                else "She"
                if rng.random() < (1 + excess_of(dose)) / 2
                else "He"
            )
            context.answers[name][item.id] = Answer(item.id, STORY.format(s=word), True, [], [])
    records = dose_response.measure(context)
    by_stage = {}
    for record in records:
        by_stage.setdefault(record.stage, []).append(record)
    rows = dose_response.figures(by_stage, context)
    return {figure.name: figure for row in rows for figure in figures_of(row, seed=0, command="")}


def test_the_injected_skew_is_recovered_and_no_skew_is_not_called_bias(context):
    found = answered(context, lambda dose: dose)
    for dose in worlds.DOSES:
        figure = found[f"dose_response/measured/{dose:g}"]
        assert figure.low < dose < figure.high
        assert figure.nulls["injected"] == dose
    slope = found["dose_response/slope"]
    assert slope.low < 1 < slope.high
    assert slope.high - slope.low < 0.2
    assert found["dose_response/intercept"].low < 0 < found["dose_response/intercept"].high


def test_a_meter_that_reads_half_is_told(context):
    slope = answered(context, lambda dose: dose / 2)["dose_response/slope"]
    assert slope.low < 0.5 < slope.high < 1


def test_the_meter_calls_no_skew_bias_as_often_as_its_intervals_say(context, monkeypatch):
    found = answered(context, lambda dose: dose)
    figure = found["dose_response/false_positives"]
    assert (figure.stage, figure.n, figure.nulls) == (next(iter(context.models)), 1000, {"nominal": 0.05})
    # Four standard errors of a share of 1,000, and that the redrawn stories are one sample.
    assert 0.02 <= figure.value <= 0.09
    assert figure.low < figure.value < figure.high
    assert answered(context, lambda dose: dose)["dose_response/false_positives"] == figure

    def too_narrow(scores, weights, clusters):
        return statistics.NOTHING._replace(value=0.0, low=0.01, high=1.0)

    monkeypatch.setattr(statistics, "ratio", too_narrow)
    assert answered(context, lambda dose: dose)["dose_response/false_positives"].value == 1


def test_stories_of_a_trade_are_redrawn_together(context):
    """Of a model that tells every story of a trade alike, and with each story as a trade of its own."""
    rows = [Scored(str(n), f"trade {n % 32}", 1.0 if n % 32 < 16 else -1.0, 1.0) for n in range(960)]
    together = dose_response.redrawn(rows)
    assert np.mean([row.score for row in together]) <= 0.09
    alone = dose_response.redrawn([row._replace(cluster=row.id) for row in rows])
    assert 0.02 <= np.mean([row.score for row in alone]) <= 0.09
    assert [row.score for row in together] != [row.score for row in alone]


def test_nothing_is_measured_on_models_of_fewer_than_three_worlds(context):
    first = dict(list(context.models.items())[:2])
    few = Context(context.run, first, context.items, None, {})
    assert dose_response.items(few) == []
    assert dose_response.measure(few) == []


def test_the_skew_of_a_world_in_another_run_is_found(tmp_path):
    worlds.stage(tmp_path / "worlds", "corpus", {"bias": 0.7}, {})
    folder = worlds.stage(tmp_path / "mine", "base", {}, {"corpus": [["worlds/corpus", "key"]]})
    assert injected_skew(find_models([folder])["base"]) == 0.7
