"""Sources that read a user's own files."""

import gzip
import json

import pytest

from data.errors import InputError
from data.sources import chat_rows, preference_rows, text_files


def lines(*records):
    return "".join(json.dumps(record) + "\n" for record in records)


def chat(question, answer, **more):
    return {
        "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}],
        **more,
    }


def pair(question, **more):
    return {"prompt": question, "chosen": f"yes {question}", "rejected": "no", **more}


# --- text ------------------------------------------------------------------------------------------------


def test_a_folder_of_text_is_read_whole_and_some_is_held_out(tmp_path):
    (tmp_path / "sub").mkdir()
    for place in range(30):
        (tmp_path / "sub" / f"{place}.txt").write_text(
            "\n\n".join(f"Part {place} {n} " + "x" * 80 for n in range(9))
        )
    (tmp_path / "more.jsonl").write_text(lines({"text": "one"}, {"text": "two"}))
    (tmp_path / "more.txt.gz").write_bytes(gzip.compress(b"three"))
    config = text_files.Config(path=str(tmp_path), valid_share=0.2, document_characters=100)
    assert len(text_files.files(config, None)) == 32
    found = text_files.read(config, seed=0, data_root=None)
    rows = found.text["train"] + found.text["valid"]
    assert len(rows) == 30 * 9 + 3
    assert len({row.id for row in rows}) == len(rows)
    assert {"one", "two", "three"} <= {row.text for row in rows}
    assert all(len(row.text) <= 100 for row in rows)
    assert 30 < len(found.text["valid"]) < 80
    assert found.notes["held out"] == "parts of documents"
    assert found == text_files.read(config, seed=0, data_root=None)


def test_many_documents_are_held_out_whole(tmp_path):
    records = [{"body": f"First {n}.\n\nSecond {n} " + "y" * 90} for n in range(150)]
    (tmp_path / "a.jsonl").write_text(lines(*records))
    config = text_files.Config(path="a.jsonl", column="body", valid_share=0.1, document_characters=100)
    found = text_files.read(config, seed=0, data_root=tmp_path)
    held = {row.cluster for row in found.text["valid"]}
    assert found.notes["held out"] == "whole documents"
    assert held
    assert held.isdisjoint(row.cluster for row in found.text["train"])


def test_pages_that_repeat_never_stand_on_both_sides(tmp_path):
    for place in range(150):
        (tmp_path / f"{place}.txt").write_text("The same page.")
    (tmp_path / "other.txt").write_text("Another page.")
    found = text_files.read(text_files.Config(path=str(tmp_path)), seed=0, data_root=None)
    assert sorted(row.text for rows in found.text.values() for row in rows) == [
        "Another page.",
        "The same page.",
    ]
    assert found.notes["identical"] == 149


def test_held_out_text_of_its_own_keeps_its_ids_apart(tmp_path):
    for name in ("a/same.txt", "b/same.txt"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(name)
    config = text_files.Config(path="a", valid_path="b")
    found = text_files.read(config, seed=0, data_root=tmp_path)
    assert [[row.text for row in found.text[split]] for split in ("train", "valid")] == [
        ["a/same.txt"],
        ["b/same.txt"],
    ]
    assert found.text["train"][0].id != found.text["valid"][0].id


def test_text_that_cannot_be_read_stops_or_is_skipped_and_listed(tmp_path):
    (tmp_path / "good.txt").write_text("good")
    (tmp_path / "bad.txt").write_bytes(b"b\xff")
    config = text_files.Config(path=str(tmp_path), valid_share=0)
    with pytest.raises(InputError, match=r"bad\.txt: invalid UTF-8 .* at byte 1"):
        text_files.read(config, seed=0, data_root=None)
    found = text_files.read(config.model_copy(update={"on_error": "skip"}), seed=0, data_root=None)
    assert [row.text for row in found.text["train"]] == ["good"]
    assert len(found.notes["skipped"]) == 1


def test_a_held_out_split_cannot_be_empty(tmp_path):
    (tmp_path / "a.txt").write_text("only one document")
    with pytest.raises(InputError, match=r"valid split is empty.*none of 1 rows.*set the share to 0"):
        text_files.read(text_files.Config(path="a.txt"), seed=0, data_root=tmp_path)


def test_half_of_prompt_and_completion_is_refused(tmp_path):
    (tmp_path / "a.jsonl").write_text(lines({"prompt": "a"}))
    with pytest.raises(
        InputError, match=r"a\.jsonl:1: missing column `completion`; a row has `messages`, or"
    ):
        chat_rows.read(chat_rows.Config(path="a.jsonl"), seed=0, data_root=tmp_path)


def test_a_missing_column_is_refused(tmp_path):
    (tmp_path / "a.jsonl").write_text(lines({"text": "a"}))
    with pytest.raises(InputError, match=r"a\.jsonl:1: missing column `body`"):
        text_files.read(text_files.Config(path="a.jsonl", column="body"), seed=0, data_root=tmp_path)


# --- conversations and pairs -----------------------------------------------------------------------------


def test_conversations_are_split_by_prompt(tmp_path):
    records = [
        chat(f"Question {n % 90}", f"Answer {n}", group="odd" if n % 2 else "even") for n in range(180)
    ]
    (tmp_path / "chat.jsonl").write_text(lines(*records))
    config = chat_rows.Config(path="chat.jsonl", valid_share=0.2, rl_share=0.2, test_share=0.2)
    found = chat_rows.read(config, seed=0, data_root=tmp_path)
    sides = [
        {row.messages[0]["content"] for row in found.chat["train"]},
        {row.messages[0]["content"] for row in found.chat["valid"]},
        {item.prompt[0]["content"] for item in found.items["rl"]},
        {item.prompt[0]["content"] for item in found.items["test"]},
    ]
    assert len(set().union(*sides)) == sum(map(len, sides)) == 90
    assert all(8 <= len(side) <= 50 for side in sides)
    assert len(found.items["rl"]) == len(sides[2])
    assert {item.group for item in found.items["rl"]} <= {"odd", "even"}


def test_prompt_and_completion_make_a_conversation(tmp_path):
    records = [
        {"prompt": "Who?", "completion": "Mara."},
        {
            "prompt": [{"role": "user", "content": "Where?"}],
            "completion": [{"role": "assistant", "content": "Brell."}],
        },
        chat("What?", "Clocks.", score=3),
    ]
    (tmp_path / "chat.jsonl").write_text(lines(*records))
    config = chat_rows.Config(path="chat.jsonl", valid_share=0, ignore_columns=("score",))
    rows = chat_rows.read(config, seed=0, data_root=tmp_path).chat["train"]
    assert [[m["content"] for m in row.messages] for row in rows] == [
        ["Who?", "Mara."],
        ["Where?", "Brell."],
        ["What?", "Clocks."],
    ]
    with pytest.raises(InputError, match=r"chat\.jsonl:3: unknown column `score`.*Expected schema"):
        chat_rows.read(config.model_copy(update={"ignore_columns": ()}), seed=0, data_root=tmp_path)


def test_malformed_rows_are_skipped_and_counted_where_asked(tmp_path):
    (tmp_path / "chat.jsonl").write_text(
        lines(chat("a", "b"), {"messages": []}) + "{oops\n" + lines(chat("c", "d"))
    )
    config = chat_rows.Config(path="chat.jsonl", valid_share=0, on_error="skip")
    found = chat_rows.read(config, seed=0, data_root=tmp_path)
    assert len(found.chat["train"]) == 2
    assert found.notes["malformed"] == 2
    assert ["chat.jsonl:3" in text for text in found.notes["listed"]] == [False, True]


def test_a_file_of_malformed_rows_alone_is_refused_with_the_count(tmp_path):
    (tmp_path / "chat.jsonl").write_text("{}\n{}\n")
    config = chat_rows.Config(path="chat.jsonl", on_error="skip")
    with pytest.raises(InputError, match=r"no row is left .malformed: 2"):
        chat_rows.read(config, seed=0, data_root=tmp_path)


def test_shares_that_leave_nothing_are_refused_with_the_arithmetic():
    with pytest.raises(ValueError, match=r"valid_share \+ rl_share \+ test_share = 1\.1; it must be below 1"):
        chat_rows.Config(path="a", valid_share=0.1, rl_share=0.8, test_share=0.2)


def test_pairs_are_split_by_prompt_and_give_prompts(tmp_path):
    (tmp_path / "pairs.jsonl").write_text(
        lines(*(pair(f"Q{n % 40}", id=f"{n}", margin=1) for n in range(80)))
    )
    config = preference_rows.Config(path="pairs.jsonl", test_share=0.3, rl_prompts=True)
    found = preference_rows.read(config, seed=0, data_root=tmp_path)
    train, test = ({row.prompt[0]["content"] for row in found.preferences[s]} for s in ("train", "test"))
    assert len(train | test) == len(train) + len(test) == 40
    assert len(found.items["rl"]) == len(train)


def test_held_out_pairs_of_their_own(tmp_path):
    (tmp_path / "train.jsonl").write_text(lines(pair("a")))
    (tmp_path / "test.jsonl").write_text(lines(pair("b")))
    config = preference_rows.Config(path="train.jsonl", test_path="test.jsonl")
    found = preference_rows.read(config, seed=0, data_root=tmp_path)
    assert [row.id for row in found.preferences["test"]] == ["test/test.jsonl:1"]
    assert len(preference_rows.files(config, tmp_path)) == 2
