"""The chat page in a real browser, against a fake server of its contract (fake_server.py)."""

import json
import runpy
import shutil
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
WINDOWS = {
    "light": ({"width": 1280, "height": 900}, "light"),
    "dark": ({"width": 1280, "height": 900}, "dark"),
    "phone": ({"width": 390, "height": 844}, "light"),
}
FAKE = runpy.run_path(str(Path(__file__).with_name("fake_server.py")))
ANSWERS, HOSTILE, RUN, PAGE = (FAKE[name] for name in ("ANSWERS", "HOSTILE", "RUN", "PAGE"))
WAIT = 5000  # milliseconds; what is waited for comes within some hundred


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("chromium is not installed (Debian: apt-get install chromium)")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM)
        yield started
        started.close()


@pytest.fixture(scope="module")
def running():
    with FAKE["Fake"]() as server:
        yield server


@pytest.fixture
def fake(running):
    running.posted.clear()
    running.votes = RUN["votes"]
    return running


@pytest.fixture
def opened(browser, fake):
    """Opens the page in a window; `page.asked` and `page.said` collect requests and console messages."""
    contexts = []

    def open_page(window="light", suffix=""):
        viewport, scheme = WINDOWS[window]
        context = browser.new_context(viewport=viewport, color_scheme=scheme, reduced_motion="reduce")
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(WAIT)
        page.asked, page.said = [], []
        page.on("request", lambda request: page.asked.append(request.url))
        page.on("console", lambda message: page.said.append(message.text))
        page.on("pageerror", lambda error: page.said.append(str(error)))
        page.goto(fake.address + suffix)
        page.wait_for_selector(".suggestion, .turn")
        return page

    yield open_page
    for context in contexts:
        context.close()


def send(page, text, *, done=True):
    page.fill("#message", text)
    page.press("#message", "Enter")
    if done:
        page.wait_for_selector("#send:not([hidden])")


def texts(page):
    """The answers of the last turn, by the heading of their column."""
    cards = page.query_selector(".turn:last-child").query_selector_all(".answer")
    return {
        card.query_selector("h3 span[dir]").inner_text(): card.query_selector(".said").inner_text()
        for card in cards
    }


def width(page):
    return page.evaluate("document.documentElement.scrollWidth")


# --- talking -----------------------------------------------------------------------------------------------


def test_all_stages_get_the_same_message_and_stream_into_their_columns(opened, fake):
    page = opened()
    assert page.title() == "quickstart · fledge"
    page.click(".suggestion >> nth=0")
    page.wait_for_selector("article:last-child .gold")
    assert texts(page) == {name: ANSWERS[name] for name in ("base", "sft", "ppo")}
    (body,) = fake.bodies("/api/reply")
    assert body == {
        "stages": ["base", "sft", "ppo"],
        "conversation": {"system": "", "turns": [{"user": "Where does Agnes Reed live?", "answers": {}}]},
        "sampling": RUN["sampling"],
        "attempt": 0,
        "plain_base": True,
    }
    send(page, "And Owen?")
    turns = fake.bodies("/api/reply")[1]["conversation"]["turns"]
    assert turns[0]["answers"] == {name: ANSWERS[name] for name in ("base", "sft", "ppo")}
    assert turns[1] == {"user": "And Owen?", "answers": {}}


def test_text_is_seen_before_the_answer_is_finished_and_stop_ends_it_on_the_server(opened, fake):
    page = opened()
    left = fake.left
    send(page, "slow", done=False)
    page.locator(".said", has_text="on and on").first.wait_for()
    assert page.is_disabled("#regenerate")
    page.click("#stop")
    page.wait_for_selector("#send:not([hidden])")
    assert page.inner_text(".note >> nth=0") == "stopped"
    for _ in range(100):
        if fake.left > left:
            break
        page.wait_for_timeout(20)
    assert fake.left == left + 1
    assert page.query_selector(".votes") is None  # no verdict on an unfinished answer
    assert fake.bodies("/api/insight") == []
    assert page.evaluate("document.activeElement.id") in ("stop", "send")
    send(page, "go on")
    assert "on and on" in fake.bodies("/api/reply")[1]["conversation"]["turns"][0]["answers"]["base"]


def test_shift_enter_is_a_new_line_and_a_blank_message_is_not_sent(opened, fake):
    page = opened()
    page.press("#message", "Enter")
    page.fill("#message", "one")
    page.press("#message", "Shift+Enter")
    page.type("#message", "two")
    assert fake.bodies("/api/reply") == []
    page.press("#message", "Enter")
    page.wait_for_selector(".turn")
    assert page.inner_text(".question") == "one\ntwo"


def test_regenerate_counts_attempts_and_undo_gives_the_message_back(opened, fake):
    page = opened()
    send(page, "first")
    send(page, "second")
    page.click("#regenerate")
    page.wait_for_selector("#send:not([hidden])")
    page.click("#regenerate")
    page.wait_for_selector("#send:not([hidden])")
    bodies = fake.bodies("/api/reply")
    assert [body["attempt"] for body in bodies] == [0, 0, 1, 2]
    assert bodies[3]["conversation"] == bodies[1]["conversation"]
    page.click("#undo")
    assert page.locator(".turn").count() == 1
    assert page.input_value("#message") == "second"
    page.click("#new")
    assert page.locator(".turn").count() == 0
    assert page.is_visible(".suggestion")


def test_stages_sampling_format_and_system_text_are_sent_as_chosen(opened, fake):
    page = opened()
    page.check("#stages input[value=dpo]")
    page.uncheck("#stages input[value=sft]")
    page.fill("#temperature", "0.33")
    page.fill("#seed", "7")
    page.check("input[value=chat]")
    page.fill("#system", "Be brief.")
    page.select_option("#reference", "")
    send(page, "one")
    page.wait_for_selector("article:last-child .figures >> text=log-prob")
    page.select_option("#only", "ppo")
    send(page, "two")
    first, second = fake.bodies("/api/reply")
    assert first["stages"] == ["base", "ppo", "dpo"]
    assert second["stages"] == ["ppo"]
    assert (first["sampling"]["temperature"], first["sampling"]["seed"]) == (0.33, 7)
    assert first["plain_base"] is False
    assert first["conversation"]["system"] == "Be brief."
    assert fake.bodies("/api/insight")[0]["reference"] is None
    page.fill("#temperature", "6")
    send(page, "three")
    assert len(fake.bodies("/api/reply")) == 2
    assert page.inner_text("#error") == "Temperature: give a number from 0 to 5."
    assert page.input_value("#message") == "three"


def test_no_more_than_four_stages_and_no_fewer_than_one_can_be_chosen(opened):
    page = opened()
    page.check("#stages input[value=dpo]")
    for name in ("base", "sft", "ppo"):
        page.uncheck(f"#stages input[value={name}]")
    assert page.is_disabled("#stages input[value=dpo]")


# --- what is known of an answer ----------------------------------------------------------------------------


def test_numbers_stand_below_an_answer_and_what_is_null_does_not(opened):
    page = opened()
    send(page, "long")
    page.wait_for_selector("article:last-child .figures >> text=value")
    base, _, ppo = (card.inner_text() for card in page.query_selector_all(".foot"))
    assert "wrong gold −1.00 (truth −1.00); home is Larkfield" in base
    assert "cut off after 128 tokens; the oldest 2 turns were left out" in base
    assert "KL to sft 2.10" in base
    assert "reward" not in base
    assert "value" not in base
    assert "abstain gold +0.20" in ppo
    assert "reward +0.80" in ppo
    assert "value +0.30" in ppo
    assert page.inner_text(".facts li") == "Agnes Reed (seen often): home Larkfield, trade baker"
    assert page.locator(".facts li").count() == 1  # three answers touch it


def test_an_outcome_is_as_good_as_its_score(opened):
    page = opened()
    page.check("#stages input[value=dpo]")
    send(page, "one")
    page.wait_for_selector("article:last-child .gold")
    tags = page.locator(".gold .tag")
    classes = {tag.inner_text(): tag.get_attribute("class") for tag in tags.all()}
    # A refusal of what does no harm is no good one.
    assert classes == {"wrong": "tag bad", "right": "tag good", "abstain": "tag none", "refused": "tag bad"}


def test_without_numbers_the_answer_stays_with_a_note(opened):
    page = opened()
    send(page, "no numbers")
    page.wait_for_selector("article:last-child >> text=No more numbers: no room for the reference")
    assert texts(page)["ppo"] == ANSWERS["ppo"]


def test_another_reference_asks_again(opened, fake):
    page = opened()
    send(page, "one")
    page.wait_for_selector("article:last-child .gold")
    page.select_option("#reference", "base")
    page.wait_for_selector("article:last-child >> text=KL to base 3.20")
    assert [body["reference"] for body in fake.bodies("/api/insight")] == ["sft"] * 3 + ["base"] * 3


def test_tokens_show_their_alternatives_to_mouse_and_keyboard(opened):
    page = opened()
    send(page, "one")
    page.wait_for_selector("article:last-child .gold")
    page.click("article:last-child button >> text=Tokens")
    tokens = page.locator(".token")
    assert "".join(tokens.all_inner_texts()) == ANSWERS["ppo"] + "(end)"
    tokens.nth(2).hover()
    assert page.inner_text("#tip").split("\n")[0] == "␣not 54.9 %"  # exp(-0.6)
    assert "log-prob −0.60, rank 3, KL to sft 0.40, value 0.10" in page.inner_text("#tip")
    assert page.locator("#tip .alternative").last.inner_text().split() == ["␣other", "10.0", "%"]  # exp(-2.3)
    page.mouse.move(0, 0)
    assert page.is_hidden("#tip")
    page.focus("article:last-child button >> text=Tokens")
    page.keyboard.press("Shift+Tab")  # the choice of the colour
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("ArrowRight")
    assert page.inner_text(":focus").strip() == "do"
    assert page.get_attribute(":focus", "aria-describedby") == "tip"
    assert page.is_visible("#tip")
    page.keyboard.press("Escape")
    assert page.is_hidden("#tip")
    page.keyboard.press("End")
    assert page.inner_text(":focus") == "(end)"


def test_tokens_are_coloured_by_what_is_chosen(opened):
    page = opened()
    send(page, "one")
    page.wait_for_selector("article:last-child .gold")
    page.click("article:last-child button >> text=Tokens")

    def shares():
        return page.evaluate(
            "[...document.querySelectorAll('.token')].slice(0, 5).map(each =>"
            " (each.classList.contains('cold') ? '-' : '') + each.style.getPropertyValue('--share'))"
        )

    assert shares() == ["0%", "4%", "8%", "13%", "17%"]  # 70 % at -5 nats, -0.3 a token
    page.select_option("[aria-label='Colour tokens by']", "kl")
    assert shares() == ["0%", "7%", "14%", "21%", "28%"]
    page.select_option("[aria-label='Colour tokens by']", "value")
    assert shares() == ["-35%", "-21%", "-7%", "7%", "21%"]  # good is cold


# --- votes -------------------------------------------------------------------------------------------------


def test_a_vote_on_two_is_one_vote_and_is_given_once(opened, fake):
    page = opened()
    page.uncheck("#stages input[value=sft]")
    send(page, "one")
    page.click("text=ppo is better")
    page.wait_for_selector("text=Saved, 4 votes so far.")
    assert page.locator(".votes button").count() == 0
    assert fake.bodies("/api/votes") == [
        {
            "conversation": {
                "system": "",
                "turns": [{"user": "one", "answers": {name: ANSWERS[name] for name in ("base", "ppo")}}],
            },
            "left": "base",
            "right": "ppo",
            "verdict": "right",
            "blind": False,
            "sampling": RUN["sampling"],
            "attempt": 0,
        }
    ]
    assert page.evaluate("document.activeElement.className") == "votes soft"


def test_a_vote_on_three_is_one_for_each_pair_that_was_judged(opened, fake):
    page = opened()
    pairs = [("base", "sft"), ("base", "ppo"), ("sft", "ppo")]
    for button, expected in {
        "sft is best": [("base", "sft", "right"), ("sft", "ppo", "left")],
        "All alike": [(*pair, "tie") for pair in pairs],
        "All bad": [(*pair, "both_bad") for pair in pairs],
    }.items():
        fake.posted.clear()
        send(page, "one")
        page.click(f"text={button}")
        page.wait_for_selector(".turn:last-child >> text=Saved")
        votes = fake.bodies("/api/votes")
        assert [(vote["left"], vote["right"], vote["verdict"]) for vote in votes] == expected


def test_blind_columns_tell_nothing_until_the_vote(opened, fake):
    page = opened()
    page.check("#blind")
    send(page, "one")
    page.wait_for_selector(".votes")
    shown = page.inner_html("#log")
    assert not [name for name in ("sft", "ppo", "pretrain") if f">{name}<" in shown or f"of {name}" in shown]
    assert "stage-" not in shown
    assert page.locator(".figures").count() == 0
    assert fake.bodies("/api/insight") == []
    stages = fake.bodies("/api/reply")[0]["stages"]
    assert texts(page) == dict(zip("ABC", (ANSWERS[name] for name in stages), strict=True))
    page.click("text=B is best")
    page.wait_for_selector("text=Saved")
    page.wait_for_selector("article:last-child .gold")
    headings = [heading.split()[:3] for heading in page.locator(".answer h3").all_inner_texts()]
    assert headings == [[letter, "was", name] for letter, name in zip("ABC", stages, strict=True)]
    assert [vote["blind"] for vote in fake.bodies("/api/votes")] == [True, True]


def test_blind_columns_are_shuffled(opened, fake):
    page = opened()
    page.check("#blind")
    send(page, "one")
    for _ in range(9):
        page.click("#regenerate")
        page.wait_for_selector("#send:not([hidden])")
    orders = {tuple(body["stages"]) for body in fake.bodies("/api/reply")}
    assert len(orders) > 1  # of six; a single one in ten draws: once in 6 ** 9


def test_names_shown_before_the_vote_make_it_no_blind_one(opened, fake):
    page = opened()
    page.check("#blind")
    send(page, "one")
    page.uncheck("#blind")
    page.wait_for_selector("article:last-child .gold")
    page.click("text=sft is best")
    page.wait_for_selector("text=Saved")
    assert [vote["blind"] for vote in fake.bodies("/api/votes")] == [False, False]


# --- keeping -----------------------------------------------------------------------------------------------


def test_reload_keeps_conversation_and_settings(opened):
    page = opened()
    page.fill("#seed", "11")
    page.check("#blind")
    send(page, "one")
    page.reload()
    page.wait_for_selector(".turn")
    assert list(texts(page)) == ["A", "B", "C"]  # still secret
    page.click("text=A is best")
    page.wait_for_selector("article:last-child .gold")
    page.reload()
    page.wait_for_selector("text=Saved, 5 votes so far.")
    assert sorted(texts(page).values()) == sorted(ANSWERS[name] for name in ("base", "sft", "ppo"))
    assert page.input_value("#seed") == "11"
    page.click("article:last-child button >> text=Tokens")  # not kept: fetched again
    page.locator(".token").nth(1).wait_for()
    assert page.said == []


def test_a_corrupted_storage_is_dropped_silently(opened):
    page = opened()
    turns = (
        '{"user": 3}',
        '{"user": "a", "stages": ["b"], "answers": {"b": {"text": 4}}}',
        '{"user": "a", "stages": ["b"], "answers": {"b": {"text": "c", "insight": {"gold": {"score": "x"}}}}}',
    )
    states = [f'{{"system": "", "shown": [], "sampling": {{}}, "turns": [{turn}]}}' for turn in turns]
    states.append('{"system": 3, "shown": [], "sampling": {}, "turns": []}')
    for kept in ("{", "null", '{"turns": 3}', *states):
        page.evaluate("kept => localStorage.setItem('fledge:run:quickstart', kept)", kept)
        page.reload()
        page.wait_for_selector(".suggestion")
        assert page.input_value("#system") == ""
    send(page, "one")
    assert texts(page)["sft"] == ANSWERS["sft"]
    assert page.said == []


def test_a_conversation_too_long_for_the_storage_is_not_kept_in_part(opened):
    page = opened()
    send(page, "one")
    page.evaluate(
        "document.getElementById('log').hidden = true;"  # to lay out so long a line takes seconds
        "document.getElementById('message').value = 'x'.repeat(1_000_000);"
        "document.getElementById('composer').requestSubmit()"
    )
    page.wait_for_selector("#send:not([hidden])")
    page.reload()
    page.wait_for_selector(".suggestion")
    assert page.locator(".turn").count() == 0


def test_a_saved_conversation_is_loaded_again(opened, tmp_path):
    page = opened()
    page.fill("#system", "Be brief.")
    send(page, "one")
    with page.expect_download() as download:
        page.click("#save")
    path = tmp_path / "conversation.json"
    download.value.save_as(path)
    saved = json.loads(path.read_text())
    assert saved == {
        "system": "Be brief.",
        "turns": [{"user": "one", "answers": {name: ANSWERS[name] for name in ("base", "sft", "ppo")}}],
    }
    page.click("#new")
    page.set_input_files("#file", path)
    page.wait_for_selector(".turn")
    assert texts(page) == saved["turns"][0]["answers"]
    assert page.query_selector(".votes") is None  # under which sampling is not known
    page.click("#regenerate")
    page.wait_for_selector("article:last-child .gold")
    path.write_text('{"turns": [3]}')
    page.set_input_files("#file", path)
    page.wait_for_selector("#error >> text=no saved conversation; expected")
    assert page.locator(".turn").count() == 1


# --- safety ------------------------------------------------------------------------------------------------


def test_markup_and_control_characters_of_a_model_are_text(opened):
    page = opened()
    send(page, "hostile")
    page.wait_for_selector("article:last-child .gold")
    page.click("article:last-child button >> text=Tokens")
    page.wait_for_selector(".tokens")
    assert page.locator("#log :is(img, script, b b, a, i)").count() == 0
    said = page.inner_text(".said >> nth=0")
    assert said.startswith(HOSTILE.partition("\u202e")[0])
    assert page.locator(".said >> nth=0").locator(".mark").all_inner_texts() == [
        "RLO",
        "PDF",
        "LRI",
        "PDI",
        "U+200B",
        "U+0007",
    ]
    assert not set("\u202e\u202c\u2066\u2069\u200b\x07") & set(page.inner_text("#log"))
    assert page.title() == "quickstart · fledge"
    assert page.said == []


def test_markup_of_the_user_is_text(opened):
    page = opened()
    send(page, "<img src=y onerror=alert(1)>")
    assert page.inner_text(".question") == "<img src=y onerror=alert(1)>"


def test_nothing_is_asked_of_others_and_nothing_is_said(opened, fake):
    page = opened()
    send(page, "one")
    page.wait_for_selector("article:last-child .gold")
    assert [url for url in page.asked if not url.startswith((fake.address, "data:"))] == []
    assert page.said == []


def test_the_token_leaves_the_address_and_goes_with_each_request(opened, fake):
    page = opened(suffix="#token=s3cret")
    assert page.url == fake.address
    page.reload()
    page.wait_for_selector(".suggestion")
    send(page, "one")
    page.wait_for_selector("article:last-child .gold")
    assert {headers.get("authorization") for _, headers, _ in fake.posted} == {"Bearer s3cret"}
    assert page.get_attribute("#report", "href") == "report?token=s3cret"


def test_no_text_of_others_can_become_markup():
    for path in PAGE.glob("*.js"):
        script = path.read_text()
        for name in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "http"):
            assert name not in script, f"{path.name} has {name}"


# --- errors ------------------------------------------------------------------------------------------------


def test_an_error_is_told_and_the_message_kept(opened):
    page = opened()
    send(page, "one")
    for message, words in {
        "busy": "The server is busy: Two replies are under way. Try again in a moment.",
        "break": "the model <b>broke</b>",
        "cut": "The server ended before all answers were there. Try again.",
    }.items():
        send(page, message)
        page.wait_for_selector("#error:not([hidden])")
        assert page.inner_text("#error") == words
        assert page.input_value("#message") == message
        assert page.locator(".turn").count() == 1
    assert page.locator("main b b").count() == 0
    send(page, "two")
    assert page.is_hidden("#error")


def test_a_server_that_is_gone_is_told_and_what_was_there_stays(opened):
    page = opened()
    send(page, "one")
    page.route("**/api/reply", lambda route: route.abort())
    send(page, "two")
    page.wait_for_selector("#error:not([hidden])")
    assert page.inner_text("#error") == "The server does not answer. Is fledge serve still running?"
    assert page.input_value("#message") == "two"
    page.click("#regenerate")
    page.wait_for_selector("#send:not([hidden])")
    assert texts(page)["sft"] == ANSWERS["sft"]
    assert page.locator(".turn").count() == 1


def test_a_vote_that_was_not_saved_can_be_given_again(opened):
    page = opened()
    send(page, "one")
    page.route("**/api/votes", lambda route: route.abort())
    page.click("text=All bad")
    page.wait_for_selector("text=Not saved.")
    page.unroute("**/api/votes")
    page.click("text=All bad")
    page.wait_for_selector("text=Saved, 6 votes so far.")


# --- how it looks ------------------------------------------------------------------------------------------


def test_light_and_dark_differ_and_the_choice_is_kept(opened):
    def shade(page):
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(map(int, colour[4:-1].split(","))) / 3

    page = opened("light")
    dark = shade(opened("dark"))
    light = shade(page)
    assert light - dark > 150
    page.click("#theme")
    assert shade(page) == dark
    assert page.get_attribute("#theme", "aria-pressed") == "true"
    page.reload()
    page.wait_for_selector(".suggestion")
    assert shade(page) == dark


def test_a_telephone_scrolls_in_one_direction(opened):
    page = opened("phone")
    assert width(page) <= 390
    send(page, "a_name_that_is_wider_than_a_telephone_and_has_no_place_to_break_at_all")
    send(page, "hostile")
    page.wait_for_selector("article:last-child .gold")
    for button in page.query_selector_all("article button"):
        button.click()
    page.locator(".tokens").nth(5).wait_for()
    page.locator(".token").last.focus()
    assert page.is_visible("#tip")
    assert width(page) <= 390
    assert page.evaluate("document.getElementById('log').scrollWidth <= 390")
    lefts = {round(card.bounding_box()["x"]) for card in page.query_selector_all(".answer")}
    assert len(lefts) == 1  # below each other
    page.click("#open-settings")
    assert page.locator("aside").bounding_box()["width"] == 390
    assert width(page) <= 390


def test_every_control_has_a_name(opened):
    page = opened()
    send(page, "one")
    page.wait_for_selector("article:last-child .gold")
    page.click("article:last-child button >> text=Tokens")
    page.wait_for_selector(".tokens")
    nameless = page.evaluate(
        "[...document.querySelectorAll('button, input, select, textarea, a')].filter(each =>"
        " !(each.ariaLabel || each.textContent.trim() || each.labels?.length)).map(each => each.outerHTML)"
    )
    assert nameless == []


def test_a_screen_reader_hears_finished_answers_and_no_pieces(opened):
    page = opened()
    page.evaluate(
        "window.heard = []; new MutationObserver(() => heard.push(document.getElementById('said').textContent))"
        ".observe(document.getElementById('said'), {childList: true})"
    )
    page.select_option("#only", "sft")
    send(page, "one")
    assert page.evaluate("heard") == [f"sft has answered: {ANSWERS['sft']}"]
    assert page.locator("#log [aria-live], #log[aria-live], #log[role=log]").count() == 0
