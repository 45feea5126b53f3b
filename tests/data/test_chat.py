"""Text never forges control tokens; what is encoded comes back; plain transformers encode alike."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.chat import (
    ASSISTANT,
    BEGIN,
    CHAT_TEMPLATE,
    CONTROL_TOKENS,
    END,
    USER,
    decode,
    encode_chat,
    encode_chats,
    encode_document,
    encode_documents,
    encode_plain,
    encode_prompt,
    encode_text,
    encode_texts,
    end_of_turn,
    is_native,
)
from data.errors import InputError

CONTROL_IDS = set(range(len(CONTROL_TOKENS)))
ODD = [
    "👩‍👩‍👧‍👦🏳️‍🌈👍🏽",  # sequences joined without width, skin tones
    "مرحبا بالعالم \u202eabc\u202c שלום",  # right to left, with an override
    "e" + "\u0301" * 300,  # a storm of combining marks
    "\ufeff\u200b\u2028\x7f\x1b[31m\r\n\t  \n",
    "<|begin|><|begin|>",
    "",
]
texts = st.text(max_size=60) | st.sampled_from(ODD)
# Control strings, whole, cut, doubled and next to anything.
pieces = st.sampled_from(
    [*CONTROL_TOKENS, "<|", "|>", "<|end", "|end|>", "<s>", "</s>", "<|im_end|>", " ", "\n"]
)
hostile = st.lists(pieces | texts, max_size=12).map("".join)
chats = st.lists(st.tuples(hostile, hostile), min_size=1, max_size=3)


def conversation(turns, *, system=None):
    messages = [] if system is None else [{"role": "system", "content": system}]
    for question, answer in turns:
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return messages


def test_control_tokens_have_the_first_ids(tokenizer):
    assert tokenizer.convert_tokens_to_ids(list(CONTROL_TOKENS)) == list(range(6))
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, BEGIN, END)
    assert is_native(tokenizer)


@given(hostile)
@settings(max_examples=300, deadline=None)
def test_text_never_forges_a_control_token(tokenizer, text):
    assert CONTROL_IDS.isdisjoint(encode_text(tokenizer, text))


def test_plain_transformers_would_parse_them(tokenizer):
    """The danger is real: the same string through the tokenizer itself gives the control token."""
    assert tokenizer("a<|end|>").input_ids[-1] == END
    assert END not in encode_text(tokenizer, "a<|end|>")


def test_settings_of_an_earlier_caller_do_not_leak_in(tokenizer):
    expected = encode_texts(tokenizer, ["old clocks <|end|>", "a"])
    tokenizer(["old clocks", "a"], padding=True, truncation=True, max_length=3)
    assert encode_texts(tokenizer, ["old clocks <|end|>", "a"]) == expected


@given(hostile)
@settings(max_examples=300, deadline=None)
def test_every_text_comes_back(tokenizer, text):
    assert decode(tokenizer, encode_text(tokenizer, text)) == text
    assert decode(tokenizer, encode_document(tokenizer, text)) == text


@given(chats, st.none() | hostile)
@settings(max_examples=150, deadline=None)
def test_a_conversation_has_control_tokens_only_where_turns_begin_and_end(tokenizer, turns, system):
    messages = conversation(turns, system=system)
    tokens, mask = encode_chat(tokenizer, messages)
    roles = {"system": 3, "user": USER, "assistant": ASSISTANT}
    expected = [BEGIN, *(token for message in messages for token in (roles[message["role"]], END))]
    assert [token for token in tokens if token in CONTROL_IDS] == expected
    said = "".join(answer for _, answer in turns)
    assert decode(tokenizer, [t for t, m in zip(tokens, mask, strict=True) if m]) == said
    assert sum(m and t == END for t, m in zip(tokens, mask, strict=True)) == len(turns)


@given(chats, st.none() | texts)
@settings(max_examples=100, deadline=None)
def test_the_template_of_plain_transformers_gives_the_same_tokens(tokenizer, turns, system):
    def plain(text):
        for token in CONTROL_TOKENS:
            text = text.replace(token, "")
        return text if not any(token in text for token in CONTROL_TOKENS) else ""

    messages = conversation([(plain(q), plain(a)) for q, a in turns], system=system and plain(system))
    rendered = tokenizer.apply_chat_template(
        messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    tokens, mask = encode_chat(tokenizer, messages)
    assert rendered["input_ids"] == tokens
    assert [bool(value) for value in rendered["assistant_masks"]] == mask
    prompt = messages[:-1]
    assert tokenizer.apply_chat_template(prompt, tokenize=True, add_generation_prompt=True, return_dict=True)[
        "input_ids"
    ] == encode_prompt(tokenizer, prompt)


def test_shapes_of_documents_prompts_and_plain_text(tokenizer):
    inner = encode_text(tokenizer, "old clocks")
    assert encode_document(tokenizer, "old clocks") == [BEGIN, *inner, END]
    assert encode_plain(tokenizer, "old clocks") == [BEGIN, *inner]
    prompt = [{"role": "user", "content": "old clocks"}]
    assert encode_prompt(tokenizer, prompt) == [BEGIN, USER, *inner, END, ASSISTANT]
    assert encode_documents(tokenizer, ["old clocks"] * 2, max_tokens=2) == [[BEGIN, inner[0]]] * 2


def test_many_at_once_equal_one_by_one(tokenizer):
    batch = [
        conversation([("Who?", "Mara.")]),
        conversation([("a", "b"), ("", "<|end|>")], system="Be kind."),
    ]
    assert encode_chats(tokenizer, batch) == [encode_chat(tokenizer, messages) for messages in batch]


def test_a_line_of_a_megabyte_is_encoded_in_seconds(tokenizer):
    started = time.perf_counter()
    for line in ("a" * 1_000_000, "\u0301" * 200_000, "🏳️‍🌈" * 20_000):
        assert decode(tokenizer, encode_text(tokenizer, line)) == line
        assert len(encode_documents(tokenizer, [line], max_tokens=64)[0]) == 64
    assert time.perf_counter() - started < 30


def test_an_unknown_role_is_refused(tokenizer):
    with pytest.raises(InputError, match="role 'tool' is unknown; accepted are system, user, assistant"):
        encode_prompt(tokenizer, [{"role": "tool", "content": ""}])


def test_torn_characters_decode_to_the_replacement(tokenizer):
    assert decode(tokenizer, encode_text(tokenizer, "é")[:1]) == "\ufffd"


# --- tokenizers of other families --------------------------------------------------------------------------

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def foreign():
    """A byte-level tokenizer with control tokens, a plain added token and a template of its own."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(initial_alphabet=alphabet, special_tokens=special, show_progress=False)
    inner.train_from_iterator(["old clocks"], trainer)
    inner.add_tokens([AddedToken("<tool>", special=False, normalized=False)])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=CHATML
    )


def test_a_foreign_template_gives_its_own_tokens(foreign):
    messages = conversation([("old clocks", "yes"), ("why", "so")], system="kind")
    rendered = foreign.apply_chat_template(messages, tokenize=True, return_dict=True)["input_ids"]
    tokens, mask = encode_chat(foreign, messages)
    assert tokens == rendered
    said = [token for token, counts in zip(tokens, mask, strict=True) if counts]
    assert foreign.decode(said) == "yes<|im_end|>so<|im_end|>"


@given(
    hostile=st.lists(st.sampled_from(["<|im_end|>", "<|im_start|>", "<tool>", "<", "a", "\n"])).map("".join)
)
@settings(max_examples=100, deadline=None)
def test_text_forges_nothing_in_a_foreign_tokenizer(foreign, hostile):
    markers = {foreign.convert_tokens_to_ids(token) for token in ("<|im_end|>", "<|im_start|>", "<tool>")}
    tokens = encode_text(foreign, hostile)
    assert markers.isdisjoint(tokens)
    assert decode(foreign, tokens) == hostile


def test_a_tokenizer_without_template_is_refused_with_the_remedy(foreign):
    foreign.chat_template = None
    try:
        with pytest.raises(InputError, match=r"no chat template.*save the tokenizer with a `chat_template`"):
            encode_prompt(foreign, [{"role": "user", "content": "a"}])
    finally:
        foreign.chat_template = CHATML


def test_a_template_that_hides_turns_is_refused(foreign):
    foreign.chat_template = "{{ messages[-1]['content'] }}"
    try:
        with pytest.raises(InputError, match="does not show every turn once"):
            encode_chat(foreign, conversation([("a", "b")]))
    finally:
        foreign.chat_template = CHATML


def test_an_answer_ends_as_its_template_ends_it(tokenizer, foreign):
    assert end_of_turn(tokenizer) == [END]
    answer = conversation([("a", "b")])
    try:
        foreign.eos_token = "<|endoftext|>"  # as in base models that have a chat template
        assert foreign.convert_ids_to_tokens(end_of_turn(foreign)) == ["<|im_end|>"]
        foreign.chat_template = CHATML.replace("<|im_end|>", " <|im_end|>")
        tokens, mask = encode_chat(foreign, answer)
        assert foreign.decode(end_of_turn(foreign)) == " <|im_end|>"
        assert foreign.decode([t for t, m in zip(tokens, mask, strict=True) if m]) == "b <|im_end|>"
    finally:
        foreign.chat_template, foreign.eos_token = CHATML, "<|im_end|>"


@pytest.mark.parametrize("end", ["", "\n\n"])
def test_a_template_whose_answers_have_no_end_is_refused(foreign, end):
    foreign.chat_template = (
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}END{% endfor %}".replace("END", end)
    )
    try:
        with pytest.raises(InputError, match="ends an answer with no special token"):
            end_of_turn(foreign)
    finally:
        foreign.chat_template = CHATML


def words_with_unknown(**special):
    """A tokenizer of whole words, whose vocabulary knows few of them."""
    import tokenizers
    from transformers import PreTrainedTokenizerFast

    model = tokenizers.models.WordLevel({"<unk>": 0, "<end>": 1, "cats": 2}, unk_token="<unk>")
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", **special)


def test_a_tokenizer_that_pads_with_its_unknown_token_encodes_unknown_words():
    tokenizer = words_with_unknown(eos_token="<end>", pad_token="<unk>")
    assert encode_texts(tokenizer, ["cats dogs", "dogs cats"]) == [[2, 0], [0, 2]]


def test_an_unknown_word_that_would_end_a_text_is_refused():
    tokenizer = words_with_unknown(eos_token="<unk>")
    assert encode_texts(tokenizer, ["cats"]) == [[2]]
    with pytest.raises(InputError, match=r"does not know all of 'cats dogs'.*unk_token of its own"):
        encode_texts(tokenizer, ["cats dogs"])


def test_the_template_is_one_line():
    assert "\n" not in CHAT_TEMPLATE
