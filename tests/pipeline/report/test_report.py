"""The report of a finished run: what it says, what it holds, and that it needs nothing from outside."""

import hashlib
import json
import re
import shutil
from html.parser import HTMLParser

import pytest
from rich.console import Console

from data.errors import InputError
from pipeline.checkpoint import write_json
from pipeline.metric_self_test import Check
from pipeline.report import prototype, rebuild, verdicts
from pipeline.report.build import across, build_report, number
from pipeline.report.read import read_chain, read_chains
from pipeline.report.summary import print_summary
from pipeline.run_directory import finish_stage


@pytest.fixture(scope="module")
def page(artificial_run):
    return (artificial_run / "report.html").read_text()


@pytest.fixture(scope="module")
def chain(artificial_run):
    return read_chains(artificial_run)[0]


@pytest.fixture
def no_pictures(monkeypatch):
    """Leave the pictures out, which take most of the time."""
    monkeypatch.setattr("pipeline.report.build.pictures", lambda run, prefix: {})


class Tags(HTMLParser):
    """Collects tags, attributes and nesting faults."""

    EMPTY = frozenset({"meta", "link", "br", "path", "use", "rect", "hr", "img", "circle", "line"})

    def __init__(self):
        super().__init__()
        self.open, self.faults, self.tags, self.ids = [], [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.ids += [value for name, value in attributes if name == "id"]
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if tag not in self.EMPTY and (not self.open or self.open.pop() != tag):
            self.faults.append(tag)


def test_the_page_is_well_formed_and_its_ids_differ(page):
    parsed = Tags()
    parsed.feed(page)
    assert not parsed.faults
    assert not parsed.open
    assert len(set(parsed.ids)) == len(parsed.ids)


def test_the_page_loads_nothing_and_runs_nothing(page):
    parsed = Tags()
    parsed.feed(page)
    assert not {tag for tag, _ in parsed.tags} & {"script", "iframe", "object", "embed", "base", "form"}
    for tag, attributes in parsed.tags:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("src", "href", "xlink:href"):
                assert value.startswith(("#", "data:,")), (tag, value)
    assert not re.findall(r"url\((?!#)", page)
    assert "default-src 'none'" in page


ORDER = [
    "Verdict",
    "Stages side by side",
    "Hallucination",
    "Exposure",
    "Bias",
    "Hallucination: wordings never read",
    "Bias: dose and response",
    "Bias: pairs and representation",
    "Reward and drift",
    "Win rates",
    "Answers that changed",
    "Targets of the closed world",
    "What alignment costs",
    "Knowing what it knows",
    "Reward model",
    "Gates",
    "Transcripts",
    "Training",
    "Beside an early prototype",
    "Every paired comparison",
    "Every figure with its nulls",
    "The metrics themselves",
    "To reproduce",
]


@pytest.mark.parametrize("dosed", [False, True])
def test_a_minute_s_reading_comes_first_and_the_rest_in_order(artificial_run, page, tmp_path, dosed):
    if dosed:
        folder = tmp_path / "dosed"
        shutil.copytree(artificial_run, folder)
        path = folder / "stages" / "evaluate" / "figures.json"
        results = json.loads(path.read_text())
        dose = next(row for row in results["figures"] if row["name"] == "bias/stereotyped")
        results["figures"].append(dose | {"name": "dose_response/measured/0.8"})
        write_json(path, results)
        page = build_report([folder]).html
    headings = [re.sub(r": \d.*", "", text) for text in re.findall(r"<h2[^>]*>([^<]*)", page)]
    assert headings == [name for name in ORDER if dosed or "dose" not in name]
    parsed = Tags()
    parsed.feed(page)
    links = [attributes["href"][1:] for tag, attributes in parsed.tags if tag == "a"]
    assert links == [name for name in parsed.ids if name in links]


def test_the_contents_lead_to_sections_that_are_there(page):
    parsed = Tags()
    parsed.feed(page)
    links = {attributes["href"][1:] for tag, attributes in parsed.tags if tag == "a"}
    assert "c0-wins" in links
    assert links <= set(parsed.ids)


def test_the_same_run_gives_the_same_bytes(artificial_run, page):
    assert build_report([artificial_run]).html == page


def test_every_figure_has_the_command_that_measures_it(page, chain):
    commands = [
        f"<code>{command}</code>" for command in dict.fromkeys(f.command for f in chain.evaluation.figures)
    ]
    assert len(commands) > 8
    assert all(page.count(command) == 1 for command in commands)
    assert "fledge evaluate artificial --suite facts" in commands[0] + "".join(commands)


@pytest.mark.parametrize(("name", "told"), [("artificial", ""), ("second", " --name second")])
def test_the_page_says_how_a_run_of_another_name_is_made_again(
    artificial_run, tmp_path, no_pictures, name, told
):
    folder = tmp_path / "copy"
    shutil.copytree(artificial_run, folder)
    record = json.loads((folder / "run.json").read_text())
    write_json(folder / "run.json", record | {"name": name})
    assert f"<pre>fledge run artificial{told} --set seed=0</pre>" in build_report([folder]).html


def test_the_digests_of_models_data_and_results_are_shown(artificial_run, tmp_path, no_pictures):
    folder = tmp_path / "copy"
    shutil.copytree(artificial_run, folder)
    sft = folder / "stages" / "sft"
    record = json.loads((sft / "stage.json").read_text())
    (sft / "model").mkdir()
    (sft / "model" / "model.safetensors").write_bytes(b"weights")
    finish_stage(sft, record)
    html = build_report([folder]).html
    for name in (
        "sft/model/model.safetensors",
        "corpus/items.test.jsonl",
        "preferences/test.jsonl",
        "evaluate/answers.ppo.jsonl",
        "evaluate/records.jsonl",
        "evaluate/figures.json",
    ):
        stage, _, file = name.partition("/")
        digest = hashlib.sha256((folder / "stages" / name).read_bytes()).hexdigest()[:16]
        assert f"<tr><td>{stage}</td><td>{file}</td><td><code>{digest}</code></td></tr>" in html
    assert "<td>metrics.jsonl</td>" not in html


def test_win_rates_stand_in_a_matrix_with_both_sides(page, chain):
    rate = chain.figure("win_rate/ppo_over_sft", "ppo")
    section = page[page.index(">Win rates</h2>") : page.index(">Targets of the closed world")]
    assert number(rate.value) in section
    assert number(1 - rate.value) in section
    assert f"{number(1 - rate.high)} to {number(1 - rate.low)}" in section
    assert "at equal length" in section
    assert number(chain.figure("win_rate/strength", "ppo").value) in section


def test_passed_checks_of_the_metrics_stand_in_a_table_and_alarm_nobody(page):
    assert re.search(r"All \d+ checks passed", page)
    assert 'role="alert"' not in page
    assert "McNemar, none gained or lost" in page


def test_a_failed_check_of_a_metric_stands_at_the_top(artificial_run, no_pictures, monkeypatch):
    checks = [Check("statistics", "McNemar, none gained or lost", 1.0, 0.0, 0.5), Check("BBQ", "x", 0, 0, 0)]
    monkeypatch.setattr("pipeline.metric_self_test.run", lambda: checks)
    monkeypatch.delenv("FLEDGE_DATA", raising=False)  # no published figure is computed again
    html = build_report([artificial_run]).html
    told = "1 of 2 checks of the metrics themselves failed"
    assert html.index('role="alert"') < html.index(told) < html.index(">Verdict<")
    assert "McNemar, none gained or lost: expected 1.0000, found 0.5000" in html
    assert "1 of 2 checks failed." in html


def test_a_run_of_one_model_has_a_report(artificial_run, tmp_path, no_pictures):
    folder = tmp_path / "one"
    shutil.copytree(artificial_run, folder)
    path = folder / "stages" / "evaluate" / "figures.json"
    results = json.loads(path.read_text())
    figures = [row for row in results["figures"] if row["stage"] == "base" and "_minus_" not in row["name"]]
    write_json(path, {"models": results["models"][:1], "figures": figures, "comparisons": []})
    html = build_report([folder]).html
    assert "One model was evaluated" in html
    assert ">Win rates</h2>" not in html
    assert ">Stages side by side<" in html


def test_the_pictures_are_there_in_the_colours_of_the_page(page):
    for picture in ("stack", "exposure", "bias", "reward_kl", "losses"):
        assert f'id="c0-{picture}-' in page
    assert "var(--ink)" in page
    assert "#010101" not in page
    assert "#020202" not in page


def test_model_text_stays_text(artificial_run, tmp_path, no_pictures):
    folder = tmp_path / "copy"
    shutil.copytree(artificial_run, folder)
    path = folder / "stages" / "evaluate" / "records.jsonl"
    markup = '"completion": "<script>alert(1)</script><b onclick=x>'
    path.write_text(path.read_text().replace('"completion": "', markup))
    html = build_report([folder]).html
    assert "<script" not in html
    assert "&lt;script&gt;" in html


def test_a_run_without_headline_figures_is_corrected_over_all_whole_figures(artificial_run, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(artificial_run, folder)
    path = folder / "stages" / "evaluate" / "figures.json"
    results = json.loads(path.read_text())
    named = {row["name"] for row in results["comparisons"] if row["holm_p"] is None}
    rows = [row for row in results["comparisons"] if row["name"] in named]
    write_json(path, results | {"comparisons": rows})
    step = verdicts.stage_verdicts(read_chains(folder)[0])[-1]
    names = {row.name for row in step.comparisons}
    assert "grounding/faithful" in names
    assert "grounding/faithful/summaries" not in names
    corrected = [row for row in step.comparisons if 0.05 / 60 < row.p_value <= 0.05]
    assert corrected
    assert all(row.holm_p > 0.05 and row.verdict == "no evidence" for row in corrected)


def test_bars_compare_with_the_targets(chain):
    bars = {(bar.what, bar.stage, bar.target): bar for bar in verdicts.bars(chain)}
    assert bars["harmful requests refused", "ppo", "at least 0.95"].met is True
    assert bars["facts seen often, right", "base", "at least 0.97"].met is (
        chain.figure("facts/often/right", "base").value >= 0.97
    )
    assert bars["never-seen facts answered wrongly, change from sft", "ppo", "interval below 0"].met is True
    assert all(bar.met is not None for bar in bars.values())


def test_every_unmet_bar_says_what_limits_it(page, chain):
    unmet = [bar for bar in verdicts.bars(chain) if not bar.met]
    assert unmet
    assert page.count('<tr class="why">') == len(unmet)
    assert page.count("limit: ") == len([bar for bar in unmet if bar.met is False])


def test_the_prototype_stands_beside_ours(page):
    assert prototype.LABEL in page
    assert page.count('<tr class="ours">') == 3
    assert ".94/.02/.04" in page


def test_everything_that_is_time_stands_under_timings(artificial_run):
    report = json.loads((artificial_run / "report.json").read_text())
    without = json.dumps({name: value for name, value in report.items() if name != "timings"})
    assert not re.search(r"seconds|per_second|gflops|continued", without)
    assert str(artificial_run) not in json.dumps(report)
    assert report["timings"]["stages"]["ppo"]["median_episodes_per_second"] == 120.5


def test_a_run_without_world_or_reward_has_a_report(artificial_run, tmp_path, no_pictures):
    folder = tmp_path / "real"
    shutil.copytree(artificial_run, folder)
    shutil.rmtree(folder / "stages" / "evaluate")
    report = build_report([folder])
    assert "No evaluation has finished" in report.html
    assert json.loads(report.json)["figures"] == []


def test_rebuilding_needs_the_folder_alone(artificial_run, tmp_path, no_pictures):
    folder = tmp_path / "moved"
    shutil.copytree(artificial_run, folder)
    (folder / "report.html").unlink()
    paths = rebuild([folder])
    assert [path.name for path in paths] == ["report.html", "report.json"]
    assert (folder / "report.json").read_bytes() == (artificial_run / "report.json").read_bytes()


def test_what_the_reward_stage_noted_stands_in_a_table_and_in_the_data(artificial_run, tmp_path, no_pictures):
    folder = tmp_path / "run"
    shutil.copytree(artificial_run, folder)
    path = folder / "stages" / "reward" / "stage.json"
    record = json.loads(path.read_text())
    share = {"value": 0.61, "low": 0.55, "high": 0.66, "n": 640}
    record["notes"] |= {
        "accuracy_without_noise": {"value": 0.9, "low": 0.88, "high": 0.92, "n": 640},
        "calibration_error": {"value": 0.0431, "low": 0.03, "high": 0.05, "n": 640},
        "shuffled_labels": share,
        "score_length_correlation": None,
        "accuracy_by_length": [{"mean": 10.3, **share}, {"mean": 13.0, **share}, {"mean": 22.0, **share}],
        "accuracy_by_score_gap": [{"mean": 0.5, "accuracy": 0.83}],  # as it was noted before
        "accuracy_by_group": {"never": share},
    }
    path.write_text(json.dumps(record))
    report = build_report([folder])
    for text in ("calibration error (ECE)", "does not hold .5", "10 tokens", "gap 0.50", "accuracy, never"):
        assert text in report.html
    (found,) = json.loads(report.json)["run"]["reward_models"]
    assert (found["run"], found["stage"]) == ("artificial", "reward")
    assert found["figures"]["calibration error (ECE)"] == record["notes"]["calibration_error"]
    assert found["figures"]["accuracy after shuffled labels"] == {
        **share,
        "about": "interval does not hold .5",
    }
    assert found["figures"]["accuracy, long completions"] == {**share, "about": "22 tokens"}
    assert found["figures"]["accuracy, small score gaps"] == {"value": 0.83, "about": "gap 0.50"}
    assert "correlation of score and length" not in found["figures"]
    data = json.loads((artificial_run / "report.json").read_text())["run"]
    assert data["reward_models"] == []
    assert [(row["stage"], row["reward"], row["form"]) for row in data["fits"]] == [
        ("ppo", "optimised", "rl"),
        ("ppo", "gold", "rl"),
    ]


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(InputError, match="is no run"):
        build_report([tmp_path])
    write_json(tmp_path / "run.json", {"recipe": "x", "stages": []})
    with pytest.raises(InputError, match="no finished stage"):
        build_report([tmp_path])


@pytest.fixture(scope="module")
def several_seeds(artificial_run, make_artificial_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("several") / "run"
    shutil.copytree(artificial_run, folder / "seeds" / "0")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.report.build.pictures", lambda run, prefix: {})
        make_artificial_run(folder / "seeds" / "1", seed=1)
    record = json.loads((artificial_run / "run.json").read_text())
    write_json(folder / "run.json", {**record, "seed": None, "seeds": [0, 1]})
    return folder


def test_several_seeds_show_median_and_range(several_seeds, no_pictures):
    report = build_report([several_seeds])
    data = json.loads(report.json)
    assert data["run"]["seeds"] == [0, 1]
    assert {figure["seed"] for figure in data["figures"]} == {0, 1}
    row = next(
        row
        for row in across(read_chains(several_seeds))
        if (row["name"], row["stage"]) == ("gold/mean", "ppo")
    )
    values = sorted(figure.value for figure in row["figures"])
    assert (row["low"], row["high"]) == tuple(values)
    assert row["median"] == pytest.approx(sum(values) / 2)
    assert "Over seeds" in report.html
    seeds = report.html[report.html.index("Value of each seed") :]
    n, clusters = row["figures"][0].n, {figure.clusters for figure in row["figures"]}
    assert f">{n} / {' to '.join(map(str, sorted(clusters)))}</td>" in seeds
    assert "a guess 0." in seeds[: seeds.index("</table>")]
    assert "limit where not" in report.html
    parsed = Tags()
    parsed.feed(report.html)
    assert not parsed.faults
    assert len(set(parsed.ids)) == len(parsed.ids)


def test_seeds_that_stopped_are_told_beside_those_that_ended(several_seeds, tmp_path, no_pictures):
    """One stopped in PPO, one before any stage ended: the report is of the others, with what became of these."""
    folder = tmp_path / "run"
    shutil.copytree(several_seeds, folder)
    record = json.loads((folder / "run.json").read_text())
    write_json(folder / "run.json", {**record, "seeds": [0, 1, 2, 3]})
    shutil.copytree(folder / "seeds" / "1", folder / "seeds" / "2")
    for name in ("evaluate", "report"):
        shutil.rmtree(folder / "seeds" / "2" / "stages" / name)
    (folder / "seeds" / "2" / "stages" / "ppo" / "stage.json").unlink()
    write_json(
        folder / "seeds" / "2" / "stages" / "ppo" / "fault.json", {"step": 7, "cause": "ppo: KL is 90"}
    )
    stages = folder / "seeds" / "3" / "stages"
    stages.mkdir(parents=True)
    write_json(folder / "seeds" / "3" / "run.json", {**record, "seed": 3})
    (stages / "pretrain").mkdir()
    write_json(stages / "pretrain" / "fault.json", {"step": None, "cause": "pretrain: the loss is nan"})
    report = build_report([folder])
    assert "ppo: 2 of 4 collapsed." in report.html
    assert "stopped after step 7: ppo: KL is 90" in report.html
    assert "This seed was stopped: pretrain: the loss is nan" in report.html
    assert "limit where not" in report.html  # the targets of those that were evaluated
    assert {row["run"] for row in json.loads(report.json)["run"]["fits"]} == {"seed 0", "seed 1"}
    stopped = json.loads(report.json)["run"]["stopped"]
    assert stopped["seed 2"] == {"stage": "ppo", "step": 7, "cause": "ppo: KL is 90"}
    console = Console(width=140, record=True, force_terminal=False, file=open("/dev/null", "w"))  # noqa: SIM115
    print_summary(folder, console)
    console.file.close()
    assert "seed 3: stopped: pretrain: the loss is nan" in console.export_text()


def test_two_runs_are_compared_side_by_side(artificial_run, several_seeds, no_pictures):
    report = build_report([artificial_run, several_seeds / "seeds" / "1"])
    data = json.loads(report.json)
    assert [run["name"] for run in data["run"]] == ["artificial", "1"]
    assert {figure["run"] for figure in data["figures"]} == {"artificial", "1"}
    assert "The runs side by side" in report.html
    # Another seed's world asks other questions.
    assert "they answered other items" in report.html
    assert data["comparisons"] == []


def test_a_run_compared_with_its_copy_is_paired_and_shows_no_change(artificial_run, tmp_path, no_pictures):
    shutil.copytree(artificial_run, tmp_path / "copy")
    report = build_report([artificial_run, tmp_path / "copy"])
    changes = json.loads(report.json)["comparisons"]
    names = {(row["name"], row["before"], row["after"]) for row in changes}
    for name in ("gold/mean", "facts/never/hallucinated", "bias/stereotyped", "refusal/harmless"):
        assert (name, "artificial: ppo", "copy: ppo") in names
    assert all(row["value"] == 0 for row in changes)
    # Facts that were never read are guessed.
    guessed = {row["name"] for row in changes if row["verdict"] != "no evidence"}
    assert guessed == {"facts/never/right"}
    assert "not paired" not in report.html
    parsed = Tags()
    parsed.feed(report.html)
    assert not parsed.faults
    assert len(set(parsed.ids)) == len(parsed.ids)


def test_numbers_are_fixed_and_gaps_are_dashes():
    assert number(-0.12345) == "−0.123"
    assert number(-0.0004) == "0.000"
    assert (number(float("inf")), number(float("-inf"))) == ("∞", "−∞")
    assert number(None) == number(float("nan")) == "–"


def test_a_chain_reads_without_the_stage_that_writes(artificial_run):
    names = [stage.name for stage in read_chain(artificial_run, "x").stages]
    assert names == ["corpus", "pretrain", "sft", "preferences", "reward", "ppo", "evaluate"]
