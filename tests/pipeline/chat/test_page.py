"""The chat page in a real browser, against a fake server of its contract: talking, numbers, votes."""

import runpy
from pathlib import Path

KIT = runpy.run_path(str(Path(__file__).with_name("fake_server.py")))
ANSWERS, RUN, send, texts = (KIT[name] for name in ("ANSWERS", "RUN", "send", "texts"))


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
