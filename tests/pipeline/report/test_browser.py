"""The page in a real browser: opened from the disk, it asks for nothing, says nothing, and fits."""

import json
import shutil

import pytest

from pipeline.checkpoint import write_json
from pipeline.records import Figure, to_json
from pipeline.report import rebuild

WINDOWS = {
    "light": ({"width": 1280, "height": 900}, "light"),
    "dark": ({"width": 1280, "height": 900}, "dark"),
    "phone": ({"width": 390, "height": 844}, "light"),
}


NAMES = (
    "truthfulqa/mc1",
    "bbq/accuracy_dis",
    *(f"bbq/{name}_and_a_long_category/accuracy_amb" for name in "abcdefghijkl"),
    "crows_pairs/a_name_that_is_wider_than_a_telephone_and_has_no_place_to_break_at",
    *(f"dose_response/measured/{dose}" for dose in (0, 0.5, 0.9)),
    "dose_response/slope",
    "dose_response/intercept",
)


def figure(name, stage):
    """A figure of few clusters with many nulls, so that its row is long."""
    nulls = dict.fromkeys(("chance", "longest", "most_common_answer", "always_unknown", "untrained"), 0.5)
    return to_json(
        Figure(name, stage, 0.5, 0.4, 0.6, 80, 20, "share", nulls, 0, "fledge evaluate artificial")
    )


@pytest.fixture(scope="module")
def report(artificial_run, tmp_path_factory):
    """The page of a run that was evaluated by benchmarks and the dose-response, too."""
    folder = tmp_path_factory.mktemp("browser") / "run"
    shutil.copytree(artificial_run, folder)
    path = folder / "stages" / "evaluate" / "figures.json"
    results = json.loads(path.read_text())
    results["figures"] += [figure(name, stage) for name in NAMES for stage in ("base", "sft", "ppo")]
    write_json(path, results)
    return rebuild([folder])[0]


@pytest.fixture
def opened(browser, report):
    """Opens the report in a window; gives the page, what it asked for, and what it said."""
    contexts = []

    def open_page(window, path=report):
        viewport, scheme = WINDOWS[window]
        context = browser.new_context(viewport=viewport, color_scheme=scheme)
        contexts.append(context)
        page, asked, said = context.new_page(), [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(path.as_uri())
        return page, asked, said

    yield open_page
    for context in contexts:
        context.close()


def test_a_fault_would_be_seen(opened, tmp_path):
    path = tmp_path / "bad.html"
    path.write_text("<body style='width: 3000px'><img src='http://127.0.0.1:9/x.png'>")
    _, asked, said = opened("phone", path)
    assert len(asked) == 2
    assert said


@pytest.mark.parametrize("window", WINDOWS)
def test_the_page_asks_for_nothing_and_says_nothing(opened, report, window):
    _, asked, said = opened(window)
    assert [url for url in asked if not url.startswith("data:")] == [report.as_uri()]
    assert said == []


@pytest.mark.parametrize("window", WINDOWS)
def test_the_page_does_not_scroll_sideways(opened, window):
    page, _, _ = opened(window)
    width = WINDOWS[window][0]["width"]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_light_and_dark_differ_and_text_stands_out_in_both(opened):
    shades = {}
    for window in ("light", "dark"):
        page, _, _ = opened(window)
        ink, paper = (
            page.evaluate(f"getComputedStyle(document.body).{name}") for name in ("color", "backgroundColor")
        )
        shades[window] = [sum(map(int, colour[4:-1].split(","))) / 3 for colour in (ink, paper)]
    assert shades["light"][1] - shades["light"][0] > 150
    assert shades["dark"][0] - shades["dark"][1] > 150


def test_the_verdict_and_the_stage_table_stand_on_the_first_screen(opened):
    page, _, _ = opened("light")
    table = page.locator("table").first.bounding_box()
    assert table["y"] + table["height"] < 900
    assert page.locator(".verdict").first.bounding_box()["y"] < table["y"]


def test_seven_models_fit_beside_each_other(opened, artificial_run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(artificial_run, folder)
    path = folder / "stages" / "evaluate" / "figures.json"
    results = json.loads(path.read_text())
    for name in ("dpo", "rloo", "grpo", "ppo_gold"):
        results["models"] += [row | {"name": name} for row in results["models"] if row["name"] == "ppo"]
        for part, key in (("figures", "stage"), ("comparisons", "after")):
            results[part] += [row | {key: name} for row in results[part] if row[key] == "ppo"]
    write_json(path, results)
    page, _, said = opened("light", rebuild([folder])[0])
    table = page.locator(".wide").first
    assert table.locator("th").all_inner_texts()[1:8] == [row["name"] for row in results["models"]]
    assert table.locator(".tag").count() >= 5 * 4
    assert table.evaluate("part => part.scrollWidth <= part.clientWidth")
    assert said == []


def test_in_print_short_parts_are_open_and_no_table_is_cut(opened):
    page, _, _ = opened("light")
    page.emulate_media(media="print")
    page.set_viewport_size({"width": 703, "height": 1000})  # A4 within margins of 12 mm
    heights = page.evaluate(
        "[...document.querySelectorAll('details.short')].map(part => part.getBoundingClientRect().height)"
    )
    assert heights
    assert min(heights) > 60  # a summary alone is one line
    cut = page.evaluate(
        "[...document.querySelectorAll('.wide')].filter(part => part.scrollWidth > part.clientWidth + 1"
        " && getComputedStyle(part).overflowX !== 'visible').length"
    )
    assert cut == 0
    wider = page.evaluate(
        "[...document.querySelectorAll('table')].filter(part => part.checkVisibility()"
        " && part.getBoundingClientRect().right > 703).map(part => part.innerText.slice(0, 60))"
    )
    assert wider == []
