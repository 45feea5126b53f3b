"""The fits of the over-optimisation laboratory, as rows of the page and as data."""

import json
import math

import pytest

from pipeline.overoptimisation import best_of_n_kl
from pipeline.records import Record
from pipeline.report.laboratory import fit_rows, fits_json
from pipeline.report.read import Evaluation, RunData, StageData


def a_run(sizes=range(1, 17)):
    """PPO whose gold bends down, and best-of-n of SFT: the reward only rises, gold turns at KL .39."""
    records = []
    for prompt in range(20):
        for n in sizes:
            d = math.sqrt(best_of_n_kl(n))
            for name, value in (("reward", 0.1 * prompt + d), ("gold", 0.1 * prompt + d - 0.8 * d * d)):
                records.append(
                    Record(f"p{prompt}", "c", "sft", "best_of_n", f"{name}/{n}", "", "", value, "facts")
                )
    metrics = []
    for step in range(1, 61):
        d = step / 15
        metrics.append({"step": step, "kl": d * d, "gold": d - 0.5 * d * math.log(d), "score": d})
    models = [{"name": "sft", "parent": None, "plain": False}]
    stages = [StageData("sft", "sft", {}, []), StageData("ppo", "ppo", {}, metrics)]
    return RunData("run", {"seed": 3}, {}, stages, Evaluation(models, [], [], records))


def test_both_forms_stand_beside_each_other_and_best_of_n_says_that_its_kl_is_a_bound():
    rows = fit_rows(a_run())
    assert [(row.stage, row.reward, row.bound) for row in rows] == [
        ("ppo", "optimised", False),
        ("ppo", "gold", False),
        ("best of n of sft", "optimised", True),
        ("best of n of sft", "gold", True),
    ]
    gold = rows[3].fit
    assert (gold.a[0], gold.b[0], gold.peak_kl[0]) == pytest.approx((1.0, 0.8, (1 / 1.6) ** 2))
    assert rows[2].fit.peak_kl is None


def test_the_data_hold_the_fits_without_infinities():
    found = json.loads(json.dumps(fits_json(a_run()), allow_nan=False))
    by = {(row["stage"], row["reward"]): row for row in found}
    best = by["best of n of sft", "gold"]
    assert (best["form"], best["kl"], best["run"]) == ("best_of_n", "upper bound", "run")
    assert best["peak_kl"][0] == pytest.approx((1 / 1.6) ** 2)
    assert by["ppo", "gold"]["kl"] == "measured"
    assert by["ppo", "gold"]["peak_kl"][0] == pytest.approx(math.exp(2))
    assert by["best of n of sft", "optimised"]["peak_kl"] is None


def test_a_run_whose_records_hold_few_sizes_has_no_fit_of_best_of_n():
    assert {row.stage for row in fit_rows(a_run(sizes=(1, 2, 4, 8, 16)))} == {"ppo"}
