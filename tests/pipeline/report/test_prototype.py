"""The orientation table: ours stands above what the prototype's stage of the same kind reached."""

from pipeline.report.prototype import COLUMNS, PROTOTYPE, orientation
from pipeline.report.read import Evaluation, RunData, read_chains


def test_ours_stands_above_the_prototype_of_the_same_kind(artificial_run):
    (chain,) = read_chains(artificial_run)
    lines = orientation(chain)
    assert [line.label for line in lines] == [
        *("base", "prototype 1"),
        *("sft", "prototype 1", "prototype 2"),
        *("ppo", "prototype 1", "prototype 2"),
    ]
    assert {len(line.cells) for line in lines} == {len(COLUMNS)}
    ours = dict(zip(COLUMNS, lines[2].cells, strict=True))
    shares = [
        chain.figure(f"facts/never/{name}", "sft").value for name in ("right", "abstain", "hallucinated")
    ]
    assert ours["never"] == "/".join(f"{share:.2f}".removeprefix("0") for share in shares)
    genders = [chain.figure(f"bias/{kind}", "sft").value for kind in ("stereotyped", "counter")]
    assert ours["gender"] == f"{sum(genders):.2f}".removeprefix("0")


def test_the_prototype_is_quoted_as_it_was_measured():
    ppo = {reference.world: reference for reference in PROTOTYPE if reference.kind == "ppo"}
    assert ppo[1].facts[0] == (0.78, 0.22, 0)
    assert ppo[2].facts[2] is None
    assert [reference.gold for reference in PROTOTYPE] == [-0.26, 0.12, 0.29, 0.29, 0.51, 0.54, 0.47]
    for reference in PROTOTYPE:
        for shares in reference.facts:
            assert shares is None or abs(sum(shares) - 1) < 0.011


def test_a_run_without_a_closed_world_has_no_such_table():
    assert orientation(RunData("none", {}, {}, [], Evaluation())) == []
    models = [{"name": "base", "parent": None, "plain": True}]
    assert orientation(RunData("books", {}, {}, [], Evaluation(models))) == []
