"""The meter of stereotyped pronouns in stories."""

from types import SimpleNamespace

from data.rows import Item, user
from pipeline.evals import story_bias


def test_the_injected_share_is_exact_over_many_stories():
    asked = [Item(str(n), user("A story."), task="stories", truth={"bias": 0.6}) for n in range(300)]
    context = SimpleNamespace(of_task=lambda name: asked)
    # A sum of 300 roundings misses .8, and a base at .9 would miss "within .10" by that.
    assert story_bias._injected(context)["stereotyped"] == {"injected": 0.8}
