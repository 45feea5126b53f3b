import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.errors import InputError
from data.rows import user
from data.world.case import plain as world_plain
from pipeline.chat.session import (
    Answer,
    Conversation,
    Piece,
    Sampling,
    Turn,
    answer_all,
    answer_key,
    from_dict,
    plain_text,
    prepare,
    reply,
    sampling_of,
    speak,
    to_dict,
)

SAMPLING = Sampling()


def two_turns(answers):
    return Conversation("Be kind.", (Turn("one", answers), Turn("two")))


def answers_of(events):
    return {event.name: event for event in events if isinstance(event, Answer)}


def test_pieces_stream_and_add_up_to_the_answer(make_voice):
    *pieces, answer = speak(make_voice(), user("abw"), SAMPLING)
    assert [piece.text for piece in pieces] == ["x", "y", "z"]
    assert (answer.text, answer.reason, len(answer.tokens)) == ("xyz", "end", 4)
    assert answer.logprobs == (-0.5,) * 4


def test_half_characters_are_buffered_in_the_stream(make_voice):
    *pieces, answer = speak(make_voice(policy=lambda prompt, key: "é🦜".encode()), user("a"), SAMPLING)
    assert [piece.text for piece in pieces] == ["é", "🦜"]
    assert answer.text == "é🦜"


def test_all_voices_answer_the_same_turns_with_the_same_stream_of_randomness(make_voice):
    keys = {}

    def noted(name):
        def policy(prompt, key):
            keys[name] = key
            return b"ok"

        return policy

    voices = [make_voice(name, noted(name), plain=name == "base") for name in ("base", "sft", "ppo")]
    # Their own earlier answers differ; what they were asked does not.
    list(reply(voices, two_turns({"base": "x", "sft": "y", "ppo": "z"}), SAMPLING))
    assert len(keys) == 3
    assert len(set(keys.values())) == 1


def test_the_stream_depends_on_what_was_asked_and_seed_and_attempt():
    asked = user("hello")
    keys = [
        answer_key(asked, 0),
        answer_key(asked, 1),
        answer_key(asked, 0, attempt=1),
        answer_key(user("hullo"), 0),
        answer_key([{"role": "system", "content": "Be kind."}, *asked], 0),
    ]
    assert len(set(keys)) == len(keys)
    assert answer_key(asked, 0) == keys[0]


def test_pieces_of_several_voices_come_in_turn(make_voice):
    events = reply([make_voice("sft"), make_voice("ppo")], Conversation().say("x"), SAMPLING)
    pieces = [event for event in events if isinstance(event, Piece)]
    assert pieces == [("sft", "y"), ("ppo", "y"), ("sft", "z"), ("ppo", "z")]


def test_each_voice_goes_on_from_its_own_answers_and_a_newcomer_from_the_first():
    conversation = two_turns({"sft": "I am sft.", "ppo": "I am ppo."})
    said = {name: conversation.messages(name)[2]["content"] for name in ("sft", "ppo", "dpo")}
    assert said == {"sft": "I am sft.", "ppo": "I am ppo.", "dpo": "I am sft."}


def test_a_turn_that_nobody_answered_is_left_out():
    messages = two_turns({}).messages("sft")
    assert [message["content"] for message in messages] == ["Be kind.", "two"]


def test_the_base_model_is_asked_in_the_plain_question_format(make_voice):
    seen = []

    def policy(prompt, key):
        seen.append(prompt)
        return b" In Paris.\nQuestion: Where is Rome?"

    base = make_voice("base", policy, plain=True)
    answer = answers_of(reply([base], two_turns({"base": "Yes."}), SAMPLING))["base"]
    assert seen == ["Be kind.\nQuestion: one\nAnswer: Yes.\nQuestion: two\nAnswer:"]
    assert (answer.text, answer.reason) == ("In Paris.", "stop")


@pytest.mark.parametrize("policy", [b" In Paris.\nQuestion:", b"\nParis", b" no line end", b""])
def test_batches_give_the_answers_of_the_stream(make_voice, policy):
    for plain in (False, True):
        voice = make_voice("base", lambda prompt, key: policy, plain=plain)
        prompts = [user("a"), user("some longer question")]
        streamed = [list(speak(voice, prompt, SAMPLING))[-1] for prompt in prompts]
        assert answer_all(voice, prompts, SAMPLING) == streamed


def test_batches_keep_their_order_where_the_room_for_answers_differs(make_voice):
    voice = make_voice(context=40)
    prompts = [user("a" * 30 + "v"), user("w"), user("a" * 28 + "x")]
    answers = answer_all(voice, prompts, SAMPLING)
    assert [answer.text for answer in answers] == ["wxyz", "xyz", "yz"]
    assert len({answer.limit for answer in answers}) == 3


def test_an_answer_cut_off_says_so(make_voice):
    answer = list(speak(make_voice(), user("a"), Sampling(max_new_tokens=5)))[-1]
    assert (answer.text, answer.reason, answer.limit) == ("bcdef", "length", 5)


def test_cancelling_keeps_what_was_drawn_and_draws_no_more(make_voice):
    log, events = [], []
    for event in reply(
        [make_voice("sft", log=log), make_voice("ppo", log=log)],
        Conversation().say("a"),
        SAMPLING,
        cancelled=lambda: len(log) >= 6,
    ):
        events.append(event)
    answers = answers_of(events)
    assert [(answer.text, answer.reason) for answer in answers.values()] == [("bcd", "cancelled")] * 2
    assert len(log) == 6


def test_a_closed_reply_stops_every_model_at_once(make_voice):
    log, streams = [], []  # kept here, so that only closing them ends them

    def kept(voice):
        def stream(*arguments, **options):
            streams.append(voice.stream(*arguments, **options))
            return streams[-1]

        return replace(voice, stream=stream)

    voices = [kept(make_voice(name, log=log)) for name in ("sft", "ppo")]
    events = reply(voices, Conversation().say("a"), SAMPLING)
    next(events)
    next(events)
    events.close()
    assert len(log) == 2
    assert [next(stream, "closed") for stream in streams] == ["closed", "closed"]


# --- room in the context -----------------------------------------------------------------------------------


def long_talk(num):
    turns = [Turn(f"question {place}", {"sft": f"answer {place}"}) for place in range(num)]
    return Conversation("Be kind.", tuple(turns)).say("the last one").messages("sft")


def test_the_oldest_turns_are_dropped_and_counted(make_voice):
    voice = make_voice(context=120)
    request = prepare(voice, long_talk(20), Sampling(max_new_tokens=30))
    contents = [message["content"] for message in request.prompt]
    assert contents[0] == "Be kind."
    assert contents[1] == f"question {request.num_dropped}"
    assert contents[-1] == "the last one"
    assert 0 < request.num_dropped < 20
    fewer = long_talk(20)[:1] + long_talk(20)[1 + 2 * (request.num_dropped - 1) :]
    assert len(voice.encode(request.prompt)) + 30 <= 120 < len(voice.encode(fewer)) + 30


def test_nothing_is_dropped_where_all_fits(make_voice):
    assert prepare(make_voice(), long_talk(5), SAMPLING).num_dropped == 0


def test_turns_are_not_given_up_for_an_answer_of_more_than_half_the_context(make_voice):
    request = prepare(make_voice(context=200), long_talk(2), Sampling(max_new_tokens=190))
    assert request.num_dropped == 0
    assert request.limit == 200 - len(make_voice().encode(request.prompt))


def test_a_message_longer_than_the_context_is_refused_before_anything_is_drawn(make_voice):
    log = []
    voices = [make_voice("sft", log=log), make_voice("ppo", context=50, log=log)]
    with pytest.raises(InputError, match=r"too long for ppo: 103 tokens .* is 50"):
        reply(voices, Conversation().say("a" * 100), SAMPLING)
    assert log == []


@given(num=st.integers(0, 12), context=st.integers(30, 300), room=st.integers(1, 300))
def test_prompt_and_answer_always_fit(make_voice, num, context, room):
    voice = make_voice(context=context)
    request = prepare(voice, long_talk(num), Sampling(max_new_tokens=room))
    assert 1 <= request.limit <= room
    assert len(voice.encode(request.prompt)) + request.limit <= context


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [{"role": "assistant", "content": "x"}],
        [*user("a"), *user("b")],
        [{"role": "judge", "content": "x"}],
    ],
)
def test_what_is_no_conversation_is_refused(make_voice, messages):
    with pytest.raises(InputError, match="messages"):
        speak(make_voice(), messages, SAMPLING)


def test_the_plain_format_is_the_one_the_closed_world_teaches():
    for prompt in (user("Who?"), (*user("Who?"), {"role": "assistant", "content": "Me."}, *user("Why?"))):
        assert plain_text(prompt) == world_plain(prompt)


# --- settings and saving -----------------------------------------------------------------------------------


def test_all_bad_settings_are_named_at_once():
    with pytest.raises(InputError) as caught:
        sampling_of(temperature=float("nan"), max_new_tokens=10**9, top_p=0, seed=-1)
    assert [problem.split()[0] for problem in caught.value.problems] == [
        "temperature", "top_p", "max_new_tokens", "seed",
    ]  # fmt: skip
    assert sampling_of(seed=None, temperature=0) == Sampling(temperature=0)


def test_a_conversation_survives_saving():
    conversation = two_turns({"sft": 'a "quote", 🦜\n'})
    assert from_dict(json.loads(json.dumps(to_dict(conversation)))) == conversation


@pytest.mark.parametrize(
    "record",
    [
        [],
        {"turns": []},
        {"system": 1, "turns": []},
        {"system": "", "turns": ["x"]},
        {"system": "", "turns": [{"user": "x", "answers": {"sft": 1}}]},
    ],
)
def test_what_is_no_saved_conversation_is_refused_with_the_schema(record):
    with pytest.raises(InputError, match=r"expected \{"):
        from_dict(record)


def test_regenerating_replaces_and_undoing_removes():
    conversation = Conversation().say("a").answered({"sft": "1", "ppo": "2"}).answered({"sft": "3"})
    assert conversation.turns[-1].answers == {"sft": "3", "ppo": "2"}
    assert conversation.undone() == Conversation()
