"""The chat page in a real browser: what it keeps, hostile texts, errors, how it looks on any screen."""

import json
import runpy
from pathlib import Path

KIT = runpy.run_path(str(Path(__file__).with_name("fake_server.py")))
ANSWERS, HOSTILE, PAGE, send, texts, width = (
    KIT[name] for name in ("ANSWERS", "HOSTILE", "PAGE", "send", "texts", "width")
)


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
    page.evaluate("document.getElementById('log').scrollTop = 0")
    page.locator(".token").last.focus()  # which scrolls to it
    page.wait_for_timeout(100)
    assert page.is_visible("#tip")
    box = page.locator("#tip").bounding_box()
    assert 0 <= box["y"] <= 844 - box["height"]
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
