"""What stands beside a figure in the tables: items, clusters, trivial answers, what could not be scored."""

import json
import re
import shutil

import pytest

from pipeline.checkpoint import write_json
from pipeline.report.build import build_report, number
from pipeline.report.read import read_chains


@pytest.fixture(scope="module")
def page(artificial_run):
    return (artificial_run / "report.html").read_text()


@pytest.fixture(scope="module")
def chain(artificial_run):
    return read_chains(artificial_run)[0]


def test_items_clusters_and_nulls_stand_beside_the_figures(page, chain):
    table = page[page.index(">Stages side by side</h2>") : page.index(">Hallucination</h2>")]
    often = chain.figure("facts/often/right", "ppo")
    row = table[table.index("facts seen often, right") :].partition("</tr>")[0]
    assert f">{often.n} / {often.clusters} few</td>" in row
    assert f"a guess {number(often.nulls['guess_a_value'])}" in row
    assert 1 + row.count("<td") == len(re.findall(r"<th\b", table.partition("</tr>")[0]))
    matrix = page[page.index(">Win rates</h2>") : page.index(">Answers that changed</h2>")]
    assert re.search(r"n / clusters 160 / \d+( to \d+)?, no difference 0.500", matrix)
    targets = page[page.index(">Targets of the closed world") : page.index(">Knowing what it knows")]
    assert f">{often.n} / {often.clusters} few</td>" in targets


def test_items_that_could_not_be_scored_are_counted_beside_n(artificial_run, tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.report.build.pictures", lambda run, prefix: {})
    folder = tmp_path / "copy"
    shutil.copytree(artificial_run, folder)
    path = folder / "stages" / "evaluate" / "figures.json"
    unscored = [{"name": "gold/mean", "stage": "ppo", "num": 3}]
    write_json(path, json.loads(path.read_text()) | {"unscored": unscored})
    report = build_report([folder])
    figure = read_chains(folder)[0].figure("gold/mean", "ppo")
    assert f">{figure.n} / {figure.clusters}, 3 unscored</td>" in report.html  # in the table of every figure
    assert ", 0 to 3 unscored</td>" in report.html  # in that of the stages
    counts = {(row["name"], row["stage"]): row.get("unscored") for row in json.loads(report.json)["figures"]}
    assert counts["gold/mean", "ppo"] == 3
    assert counts["gold/mean", "sft"] is None


def test_few_clusters_are_marked_wherever_a_figure_stands(artificial_run, page, chain):
    assert "“few” stands where there are fewer than 30 of these" in page
    few = chain.figure("facts/often/right", "ppo")
    many = chain.figure("gold/mean", "ppo")
    assert few.clusters < 30 <= many.clusters
    table = page[page.index(">Stages side by side</h2>") : page.index(">Hallucination</h2>")]
    figures = page[page.index(">Every figure with its nulls</h2>") :]
    for part in (table, figures):
        assert f">{few.n} / {few.clusters} few</td>" in part
        assert f">{many.n} / {many.clusters}</td>" in part
    reward = next(f for f in chain.evaluation.figures if f.stage == "reward" and f.clusters < 30)
    section = page[page.index(">Reward model</h2>") : page.index(">Gates</h2>")]
    assert f">{reward.n} / {reward.clusters} few</td>" in section
    change = next(row for row in chain.evaluation.comparisons if row.clusters < 30)
    assert f">{change.n} / {change.clusters} few</td>" in page[page.index(">Every paired comparison</h2>") :]
