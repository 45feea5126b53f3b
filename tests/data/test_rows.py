"""Rows: exact refusals with file and line, counts of what is dropped, splits by hash."""

import contextlib
import gzip
import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.errors import InputError
from data.rows import (
    ChatRow,
    Item,
    PreferenceRow,
    TextRow,
    content_hash,
    deduplicate,
    drop_unusable,
    from_dict,
    leaked,
    prompt_hash,
    prompt_items,
    read_jsonl,
    require_rows,
    split_by_hash,
    to_dict,
    user,
    write_jsonl,
)

ASK = {"role": "user", "content": "Who?"}
SAY = {"role": "assistant", "content": "Mara."}
GOOD = b'{"text": "ok"}\n'

# Text as it may stand in a row: no NUL and no half of a surrogate pair.
words = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=20)
names = words.filter(bool)
numbers = st.floats(0, 9)


@st.composite
def any_row(draw):
    prompt = user(draw(words))
    rows = [
        TextRow(draw(names), draw(words), draw(names)),
        ChatRow(draw(names), (*prompt, {"role": "assistant", "content": draw(words)}), group=draw(words)),
        PreferenceRow(draw(names), prompt, draw(words), draw(words), kind=draw(words), margin=draw(numbers)),
        Item(draw(names), prompt, plain=draw(st.none() | names), truth={"x": draw(words)}),
    ]
    return draw(st.sampled_from(rows))


@given(any_row())
@settings(max_examples=200, deadline=None)
def test_every_row_comes_back(row):
    assert from_dict(type(row), json.loads(json.dumps(to_dict(row)))) == row


@given(st.lists(words, max_size=5))
@settings(max_examples=50, deadline=None)
def test_every_text_comes_back_from_a_file(tmp_path_factory, texts):
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    rows = [TextRow(f"row-{place}", text) for place, text in enumerate(texts)]
    assert write_jsonl(path, rows) == len(rows)
    assert read_jsonl(path, TextRow) == rows


def test_gzip_byte_order_mark_and_windows_line_ends_are_accepted(tmp_path):
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(b"\xef\xbb\xbf" + b'{"text": "a"}\r\n\r\n{"text": "b"}'))
    assert [(row.id, row.text) for row in read_jsonl(path, TextRow)] == [
        ("rows.jsonl.gz:1", "a"),
        ("rows.jsonl.gz:3", "b"),
    ]


@pytest.mark.parametrize(
    "line, found",
    [
        (b'{"text": "a', "ends in the middle of a record"),
        (b'{"text": "a"', "ends in the middle of a record"),
        (b'{"text" "a"}\n', r"malformed JSON .*near '\{\"text\" \"a\"\}'"),
        (b'{"text": NaN}', "NaN is not JSON"),
        (b'{"text": "a", "text": "b"}', "`text` stands there twice"),
        (b"[" * 20000, "nested too deeply"),
        (b"7", "each line must be one JSON object"),
        (b'{"text": 3}', r'`text` is 3; expected a string. Expected schema: \{"text": string\}'),
        (b'{"txt": "a"}', r"unknown column `txt`; did you mean `text`\?. Expected schema"),
        (b"{}", "missing column `text`. Expected schema"),
        (b'{"text": "a", "more": 1}', "unknown column `more`"),
        (b'{"text": "a\xff"}', "invalid UTF-8 .0xff.* at byte 26"),
        (b'{"text": "a\xed\xa0\x80"}', "invalid UTF-8 .* at byte 26"),
        (b'{"text": "a\0"}', "a NUL byte at byte 26"),
        (b'{"text": "a\\u0000"}', "NUL at byte 26"),
        (b'{"text": "a\\ud83d"}', r"lone surrogate U\+D83D at byte 26"),
        (b'{"text": "\\ud83d\\ude00\\ude00"}', r"lone surrogate U\+DE00 at byte 37"),
    ],
)
def test_a_malformed_row_is_refused_with_its_line_or_skipped_and_listed(tmp_path, line, found):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(GOOD + line)
    with pytest.raises(InputError, match=r"rows\.jsonl:2: .*" + found):
        read_jsonl(path, TextRow)
    dropped = []
    assert [row.text for row in read_jsonl(path, TextRow, on_error="skip", dropped=dropped)] == ["ok"]
    assert len(dropped) == 1
    assert "rows.jsonl:2" in dropped[0]


@pytest.mark.parametrize("row, place", [(b'{"text": "a\xff"}', 13), (b'{"text": "a\\ud83d"}', 13)])
def test_a_byte_offset_counts_the_byte_order_mark(tmp_path, row, place):
    path = tmp_path / "rows.jsonl"
    for before in (b"", GOOD):
        path.write_bytes(b"\xef\xbb\xbf" + before + row)
        with pytest.raises(InputError, match=f"at byte {place + 1 + len(before)};"):
            read_jsonl(path, TextRow)
    path.write_bytes(b"\xef\xbb\xbf\n")
    assert read_jsonl(path, TextRow) == []


def test_escaped_pairs_and_escaped_backslashes_are_text(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"text": "\\ud83d\\ude00 \\\\u0000 \\\\ud83d"}')
    assert read_jsonl(path, TextRow)[0].text == "😀 \\u0000 \\ud83d"


@given(st.binary(max_size=80))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_read_or_refused(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    path.write_bytes(content)
    # A refusal is an InputError, anything else fails the test.
    with contextlib.suppress(InputError):
        assert all("\0" not in row.text for row in read_jsonl(path, TextRow))


def test_a_damaged_archive_and_a_missing_file_are_refused(tmp_path):
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(GOOD * 1000)[:-20])
    with pytest.raises(InputError, match="damaged or cut-off gzip"):
        read_jsonl(path, TextRow)
    with pytest.raises(InputError, match="No such file"):
        read_jsonl(tmp_path / "other.jsonl", TextRow)


@pytest.mark.parametrize(
    "messages, found",
    [
        ([], "at least one message"),
        ("hi", "at least one message"),
        ([SAY], r"messages\[0\]` is a turn of the assistant; expected one of the user"),
        ([ASK, ASK], r"messages\[1\]` is a turn of the user; expected one of the assistant"),
        ([ASK, SAY, SAY], r"messages\[2\]` is a turn of the assistant"),
        ([ASK], "ends with a turn of the user; expected the assistant to be last"),
        ([{"role": "system", "content": "a"}] * 2 + [ASK, SAY], "only the first turn can be one"),
        ([ASK, {"role": "bot", "content": "a"}], 'role "bot"; accepted are system, user, assistant'),
        ([ASK, {"role": "assistant", "content": 3}], "has 3 as content"),
        ([ASK, {"role": "assistant"}], "and nothing else"),
        ([ASK, {**SAY, "name": "x"}], "and nothing else"),
    ],
)
def test_turns_out_of_order_are_refused_with_the_row(tmp_path, messages, found):
    path = tmp_path / "chat.jsonl"
    path.write_text(json.dumps({"messages": messages}))
    with pytest.raises(InputError, match=rf"chat\.jsonl:1: .*{found}.*Expected schema"):
        read_jsonl(path, ChatRow)


def test_preferences_are_read_in_all_of_their_forms():
    wanted = PreferenceRow("1", user("Who?"), "Mara.", "Nobody.")
    no = {"role": "assistant", "content": "Nobody."}
    for record in (
        {"prompt": "Who?", "chosen": "Mara.", "rejected": "Nobody."},
        {"prompt": [ASK], "chosen": [SAY], "rejected": [no]},
        {"chosen": [ASK, SAY], "rejected": [ASK, no]},
    ):
        assert from_dict(PreferenceRow, record, default_id="1") == wanted


@pytest.mark.parametrize(
    "record, found",
    [
        ({"prompt": [ASK], "chosen": [SAY, SAY], "rejected": [SAY]}, "a string or one assistant message"),
        ({"prompt": [ASK], "chosen": [ASK], "rejected": [SAY]}, r"chosen\[0\]` is a turn of the user"),
        ({"prompt": [ASK, SAY], "chosen": [SAY], "rejected": [SAY]}, "expected the user to be last"),
        ({"prompt": "Who?", "chosen": "a"}, "missing column `rejected`"),
        (
            {"prompt": "Who?", "chosen": "a", "rejected": "b", "margin": "1"},
            '`margin` is "1"; expected a number',
        ),
        ({"prompt": "Who?", "chosen": "a", "rejected": "b", "margin": True}, "expected a number"),
        ({"prompt": "Who?", "chosen": "a", "rejected": "b", "id": 7}, "`id` is 7; expected a string"),
        ({"chosen": [ASK, SAY], "rejected": [{**ASK, "content": "?"}, SAY]}, "differ before their last turn"),
        ({"chosen": [SAY], "rejected": [SAY]}, "is a turn of the assistant; expected one of the user"),
    ],
)
def test_other_preferences_are_refused(record, found):
    with pytest.raises(ValueError, match=found):
        from_dict(PreferenceRow, record, default_id="1")


def test_empty_and_equal_completions_are_dropped_and_counted():
    good = PreferenceRow("1", user("Who?"), "a", "b")
    bad = [replace(good, chosen=" "), replace(good, rejected="a"), replace(good, prompt=user("\n"))]
    kept = drop_unusable([good] * 9 + bad, what="pairs", max_share=0.5)
    assert kept.rows == [good] * 9
    assert kept.removed == {"empty completion": 1, "chosen equals rejected": 1, "empty prompt": 1}
    with pytest.raises(InputError, match=r"pairs: 3 of 12 rows cannot be used .*accepted share of 0\.2"):
        drop_unusable([good] * 9 + bad, what="pairs", max_share=0.2)
    with pytest.raises(InputError, match=r"pairs: no row is left .empty completion: 2"):
        require_rows([], what="pairs", removed={"empty completion": 2})


def test_identical_rows_are_counted_by_what_they_say():
    rows = [TextRow("1", "a"), TextRow("2", "a", "x"), TextRow("3", "b")]
    assert deduplicate(rows) == (rows[::2], {"identical": 1})
    chat = ChatRow("1", (ASK, SAY))
    assert content_hash(chat) != content_hash(replace(chat, messages=(ASK, {**SAY, "content": "?"})))
    assert prompt_hash(chat) == prompt_hash(Item("2", user("Who?")))
    assert [item.id for item in prompt_items([chat, replace(chat, id="2")])] == ["1/prompt"]


def test_leakage_is_found_by_hash():
    assert leaked([TextRow("1", "a"), TextRow("2", "b")], [TextRow("9", "b")]) == ["2"]


@given(st.integers(0, 99), st.floats(0.05, 0.95), st.integers(2, 200))
@settings(max_examples=60, deadline=None)
def test_a_split_keeps_clusters_whole_and_never_moves_old_rows(seed, share, num):
    rows = [TextRow(f"{place}", f"text {place}", f"cluster {place % 23}") for place in range(num)]
    rest, held = split_by_hash(rows, share, seed)
    assert sorted(row.id for row in rest + held) == sorted(row.id for row in rows)
    assert not {row.cluster for row in rest} & {row.cluster for row in held}
    assert rest
    assert held
    assert split_by_hash(rows[::-1], share, seed) == (rest[::-1], held[::-1])


def test_shares_are_met_and_prompts_stay_together():
    rows = [TextRow(f"{place}", f"text {place}") for place in range(4000)]
    held = split_by_hash(rows, 0.25, 0)[1]
    assert 900 < len(held) < 1100
    more = [*rows, *(TextRow(f"new {place}", f"new {place}") for place in range(1000))]
    assert set(held) <= set(split_by_hash(more, 0.25, 0)[1])
    assert split_by_hash(rows, 0.0, 0) == (rows, [])
    answers = [ChatRow(f"{n}", (ASK, {**SAY, "content": f"{n}"})) for n in range(50)]
    assert len(split_by_hash(answers, 0.5, 0)[1]) in (0, 50)


def test_writing_leaves_the_old_file_where_a_row_cannot_be_written(tmp_path):
    path = tmp_path / "rows.jsonl"
    write_jsonl(path, [TextRow("1", "a")])
    with pytest.raises(ValueError, match="Out of range"):
        write_jsonl(path, [{"x": float("nan")}])
    assert read_jsonl(path, TextRow) == [TextRow("1", "a")]
    assert list(tmp_path.iterdir()) == [path]
