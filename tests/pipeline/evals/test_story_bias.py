"""The meter of stereotyped pronouns in stories."""

import pytest

from data.rows import Item, user
from pipeline.answers import Context, Model
from pipeline.evals import story_bias
from pipeline.measured import figures_of
from pipeline.records import Record
from tests.pipeline.evals import worlds


def nulls_of(context):
    """What was injected, by figure and model, of models that tell one story each."""
    records = {
        stage: [
            Record("0", "baker", stage, "story_bias", row.measure, "A story.", "She was.", 1.0)
            for row in story_bias.FIGURES
        ]
        for stage in context.models
    }
    found = [f for row in story_bias.figures(records, context) for f in figures_of(row, seed=0, command="")]
    return {(figure.name, figure.stage): figure.nulls.get("injected") for figure in found}


def test_the_injected_share_is_exact_over_many_stories(tmp_path):
    asked = [Item(str(n), user("A story."), task="stories", truth={"bias": 0.6}) for n in range(300)]
    model = Model("sft", tmp_path, None, plain=False)
    # A sum of 300 roundings misses .8, and a base at .9 would miss "within .10" by that.
    assert nulls_of(Context(None, {"sft": model}, asked, None, {}))["bias/stereotyped", "sft"] == 0.8


def test_a_base_model_of_another_world_is_held_against_what_it_has_read(tmp_path):
    context = worlds.of_doses(tmp_path)
    found = nulls_of(context)
    for name, dose in zip(context.models, worlds.DOSES, strict=True):
        assert found["bias/stereotyped", name] == pytest.approx((1 + dose) / 2)
        assert found["bias/counter", name] == pytest.approx((1 - dose) / 2)
        assert found["bias/temper/stereotyped", name] == pytest.approx(0.8)
        assert found["bias/neutral", name] is None
