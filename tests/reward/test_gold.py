import numpy as np

from data.rows import Item
from reward.functions import gold

TRUTH = {"name": "Anna Bell", "attribute": "work", "value": "baking", "num_values": 24, "tier": "often"}


def test_scores_are_those_of_the_judge_in_the_order_of_the_batch():
    item = Item(id="x", prompt=({"role": "user", "content": "?"},), task="facts", group="often", truth=TRUTH)
    score = gold.load(gold.Config(), None)
    said = [
        f"The work of Anna Bell is {value}." for value in ("baking", "weaving", "unknown to me", "baking")
    ]
    scores = score([item] * 4, said, [True, True, True, False])
    assert scores.dtype == np.float32
    assert scores.shape == (4,)
    np.testing.assert_allclose(scores, [1.0, -1.0, 0.0, 0.5], atol=1e-6)


def test_an_empty_batch_has_no_scores():
    assert gold.load(gold.Config(), None)([], [], []).shape == (0,)
