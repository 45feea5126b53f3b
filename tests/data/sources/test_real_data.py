"""The sources of real data: small files in their form, and the real files where FLEDGE_DATA names them."""

import csv
import gzip
import io
import json
import os
from pathlib import Path

import datasets
import pytest

from data.errors import InputError
from data.rows import content_hash
from data.sources import childrens_books, dolly, ethics_utilitarianism, gsm8k, hh_rlhf
from data.verify import is_checkable, is_right

REAL = [childrens_books, dolly, ethics_utilitarianism, hh_rlhf]


def write(root, module, name, text):
    (root / module.FOLDER).mkdir(exist_ok=True)
    (root / module.FOLDER / name).write_bytes(gzip.compress(text.encode()))


def lines(*records):
    return "".join(json.dumps(record) + "\n" for record in records)


# --- small files of the same form ------------------------------------------------------------------------


def test_dialogues_are_parsed_by_speaker():
    text = "\n\nHuman: Hi\nHuman: still me\n\nAssistant: Yes?\n\nHuman: Why\n\nAssistant: So.\n\nBecause."
    assert [(m["role"], m["content"]) for m in hh_rlhf.parse_dialogue(text)] == [
        ("user", "Hi\nHuman: still me"),
        ("assistant", "Yes?"),
        ("user", "Why"),
        ("assistant", "So.\n\nBecause."),
    ]


@pytest.mark.parametrize(
    "text, found",
    [
        ("Human: Hi\n\nAssistant: Yes?", "begins with 'Human: Hi'"),
        ("\n\nHuman: Hi", "expected the assistant to be last"),
        ("\n\nAssistant: Hi", "expected one of the user"),
        ("\n\nHuman: Hi\n\nAssistant: a\n\nAssistant: b", "expected one of the user"),
        ("\n\nHuman: Hi\n\nAssistant: ", "turn 1 is empty"),
        ("", "at least one message"),
    ],
)
def test_broken_dialogues_are_refused(text, found):
    with pytest.raises(ValueError, match=found):
        hh_rlhf.parse_dialogue(text)


def test_broken_and_long_dialogues_are_dropped_and_counted(tmp_path):
    def record(question, chosen, rejected, other=None):
        return {
            "chosen": f"\n\nHuman: {question}\n\nAssistant: {chosen}",
            "rejected": f"\n\nHuman: {other or question}\n\nAssistant: {rejected}",
        }

    good = [record(f"Question {n}", "yes", "no") for n in range(20)]
    bad = [
        record("a", "", "no"),
        record("a", "x" * 801, "y"),
        record("x" * 1001, "a", "b"),
        record("a", "b", "c", "d"),
    ]
    write(tmp_path, hh_rlhf, "helpful.test.jsonl.gz", lines(*good, *bad, good[0]))
    config = hh_rlhf.Config(subsets=("helpful",), rl_prompts=True)
    found = hh_rlhf.read(config, seed=0, data_root=tmp_path)
    assert found.notes["helpful"] == {
        "read": 25,
        "malformed dialogue": 2,
        "completion too long": 1,
        "prompt too long": 1,
        "identical": 1,
    }
    assert len(found.preferences["train"]) + len(found.preferences["test"]) == 20
    assert len(found.items["rl"]) == len(found.preferences["train"])


def test_books_are_cut_without_picture_tags_and_held_out_whole(tmp_path):
    text = (
        "One day the old man of the mill, who was ill,\nwent [Illustration:\n a man] home.\n\n"
        + "\n\n".join(f"Page {n} " + "x" * 60 for n in range(40))
    )
    books = [
        {"pg_id": str(n), "title": "T", "split": "valid" if n == 3 else "train", "text": text}
        for n in range(4)
    ]
    write(tmp_path, childrens_books, "books.jsonl.gz", lines(*books))
    config = childrens_books.Config(document_characters=100, max_characters=2000, max_valid_characters=None)
    found = childrens_books.read(config, seed=0, data_root=tmp_path)
    assert {row.cluster for row in found.text["valid"]} == {"book-3"}
    assert {row.cluster for row in found.text["train"]} == {"book-0", "book-1", "book-2"}
    assert 2000 <= sum(len(row.text) for row in found.text["train"]) < 2100
    assert found.notes["picture tags removed"] == 4
    assert found.text["valid"][0].text == "One day the old man of the mill, who was ill, went home."
    assert all(len(row.text) <= 100 for rows in found.text.values() for row in rows)


def test_scenarios_of_the_test_are_kept_out_of_training(tmp_path):
    def table(*pairs):
        text = io.StringIO()
        csv.writer(text).writerows(pairs)
        return text.getvalue()

    test = [("good", "bad"), ("good", "bad"), ("fine", "bad")]
    train = [("bad", "good"), ("good", "worse"), ("nice, very", "ugly"), ("nice, very", "ugly"), ("a", "b")]
    write(tmp_path, ethics_utilitarianism, "util_test.csv.gz", table(*test))
    write(tmp_path, ethics_utilitarianism, "util_train.csv.gz", table(*train))
    found = ethics_utilitarianism.read(ethics_utilitarianism.Config(), seed=0, data_root=tmp_path)
    assert [(row.chosen, row.rejected) for row in found.preferences["train"]] == train[2:3] + train[4:]
    assert [(row.chosen, row.rejected) for row in found.preferences["test"]] == test
    assert [row.cluster for row in found.preferences["test"]] == ["ethics-test-like-1"] * 2 + [
        "ethics-test-like-3"
    ]
    assert found.notes["train pairs that are test pairs"] == 1
    assert found.notes["identical test pairs, kept"] == 1
    config = ethics_utilitarianism.Config(keep_shared_scenarios=True)
    assert len(ethics_utilitarianism.read(config, seed=0, data_root=tmp_path).preferences["train"]) == 3
    write(tmp_path, ethics_utilitarianism, "util_test.csv.gz", "a,b,c\n")
    with pytest.raises(InputError, match=r"csv\.gz:1: 3 columns"):
        ethics_utilitarianism.read(config, seed=0, data_root=tmp_path)


def test_instructions_carry_their_context_and_category(tmp_path):
    def record(n, **more):
        return {
            "instruction": f"Do {n}",
            "context": "",
            "response": f"Done {n}",
            "category": "open_qa",
            **more,
        }

    records = [record(n) for n in range(400)] + [record(n, response="Otherwise") for n in range(400)]
    records += [
        record(999, context="Of this."),
        record(1),
        record(2, response="x" * 601),
        record(3, context="x" * 601),
    ]
    records += [record(4, category="closed_qa")]
    write(tmp_path, dolly, "dolly15k.jsonl.gz", lines(*records))
    config = dolly.Config(rl_share=0.3, test_share=0.2, valid_share=0.1, categories=("open_qa",))
    found = dolly.read(config, seed=0, data_root=tmp_path)
    reasons = ("other category", "prompt too long", "response too long", "identical")
    assert [found.notes[reason] for reason in reasons] == [1] * 4
    prompts = [{row.messages[0]["content"] for row in rows} for rows in found.chat.values()]
    prompts += [{item.prompt[0]["content"] for item in items} for items in found.items.values()]
    assert sum(map(len, prompts)) == len(set().union(*prompts)) == 401
    assert [round(len(side) / 401, 1) for side in prompts] == [0.4, 0.1, 0.3, 0.2]
    assert "Do 999\n\nOf this." in set().union(*prompts)
    assert {row.group for row in found.chat["train"]} == {"open_qa"}
    assert all(
        item.plain == f"Question: {item.prompt[0]['content']}\nAnswer:" for item in found.items["test"]
    )


@pytest.mark.parametrize("module", [dolly, hh_rlhf, childrens_books])
def test_a_file_with_other_columns_is_refused_with_its_line(module, tmp_path):
    names = {dolly: "dolly15k.jsonl.gz", hh_rlhf: "helpful.test.jsonl.gz", childrens_books: "books.jsonl.gz"}
    write(tmp_path, module, names[module], lines({"text": "a"}))
    config = module.Config(subsets=("helpful",)) if module is hh_rlhf else module.Config()
    with pytest.raises(InputError, match=r"\.gz:1: expected the strings"):
        module.read(config, seed=0, data_root=tmp_path)


# --- the hub ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", REAL)
@pytest.mark.parametrize("root", [None, Path("nowhere")])
def test_without_files_and_network_it_says_where_files_go(module, root, monkeypatch):
    def unreachable(*_, **__):
        raise ConnectionError("Couldn't reach the Hub")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    assert module.files(module.Config(), root) == []
    with pytest.raises(InputError, match=f"reach the Hub.*put the files into {module.FOLDER}/ of a folder"):
        module.read(module.Config(), seed=0, data_root=root)


def test_rows_of_the_hub_are_read_as_those_of_files(monkeypatch):
    asked = []

    def load(repository, *, split, **options):
        asked.append((repository, split, options))
        return {
            dolly.HUB_ID: [
                {"instruction": f"Do {n}", "context": "", "response": "Done", "category": "a"}
                for n in range(99)
            ],
            hh_rlhf.HUB_ID: [
                {
                    "chosen": f"\n\nHuman: {n} {options.get('data_dir')}\n\nAssistant: yes",
                    "rejected": f"\n\nHuman: {n} {options.get('data_dir')}\n\nAssistant: no",
                }
                for n in range(9)
            ],
            childrens_books.HUB_ID: [{"title": split, "content": f"Text of {split}"}],
            "csv": [{"baseline": f"good {options.get('data_files')}", "less_pleasant": "bad"}],
        }[repository]

    monkeypatch.setattr(datasets, "load_dataset", load)
    found = [module.read(module.Config(), seed=0, data_root=None) for module in REAL]
    assert [row.text for row in found[0].text["valid"]] == ["Text of validation"]
    assert found[1].notes["read"] == 99
    assert len(found[2].preferences["test"]) == 1
    assert len(found[3].preferences["train"] + found[3].preferences["test"]) == 18
    assert ("Anthropic/hh-rlhf", "test", {"data_dir": "harmless-base"}) in asked


def test_problems_become_chats_and_items_with_their_number(tmp_path):
    problems = [
        {"question": f"What is {n} + 1?", "answer": f"It is <<{n}+1={n + 1}>>{n + 1}.\n#### {n + 1}"}
        for n in range(60)
    ]
    write(tmp_path, gsm8k, "train.jsonl.gz", lines(*problems))
    write(tmp_path, gsm8k, "test.jsonl.gz", lines({"question": "Two?", "answer": "Yes.\n#### 1,002"}))
    found = gsm8k.read(gsm8k.Config(), seed=0, data_root=tmp_path)
    assert len(found.chat["train"]) + len(found.chat["valid"]) + len(found.items["rl"]) == 60
    asked = {item.prompt[0]["content"]: item.truth for item in found.items["rl"]}
    assert asked
    assert all(truth == {"answer": str(int(text.split()[2]) + 1)} for text, truth in asked.items())
    shown = {row.messages[0]["content"] for row in found.chat["train"]}
    assert not shown & set(asked)
    assert "<<" not in found.chat["train"][0].messages[1]["content"]
    assert found.items["test"][0].truth == {"answer": "1,002"}


@pytest.mark.parametrize("broken", [{"question": "a", "answer": "no number"}, {"question": "a"}])
def test_a_problem_without_its_number_is_refused_by_line(tmp_path, broken):
    write(tmp_path, gsm8k, "train.jsonl.gz", lines({"question": "a", "answer": "#### 1"}, broken))
    with pytest.raises(InputError, match=r"train.jsonl.gz:2: "):
        gsm8k.read(gsm8k.Config(), seed=0, data_root=tmp_path)


# --- the real files --------------------------------------------------------------------------------------

real_data = pytest.mark.skipif(
    "FLEDGE_DATA" not in os.environ, reason="FLEDGE_DATA names no folder of real data"
)


@pytest.fixture(scope="module")
def root():
    return Path(os.environ["FLEDGE_DATA"])


@pytest.mark.real_data
@real_data
def test_the_real_books(root):
    found = childrens_books.read(childrens_books.Config(max_characters=10**6), seed=0, data_root=root)
    assert len({row.cluster for row in found.text["valid"]}) == 4
    assert len({row.cluster for row in found.text["train"]}) > 60
    assert 10**6 <= sum(len(row.text) for row in found.text["train"]) < 10**6 + 2001
    assert not any("[illustration" in row.text.lower() for rows in found.text.values() for row in rows)


@pytest.mark.real_data
@real_data
def test_the_announced_tokens_of_the_real_books_are_theirs(root):
    found = childrens_books.read(childrens_books.Config(max_valid_characters=1), seed=0, data_root=root)
    characters = sum(len(row.text) for row in found.text["train"])
    # Picture tags and the marks of printed lines are a few characters in a hundred.
    assert characters == pytest.approx(childrens_books.TRAIN_CHARACTERS, rel=0.05)
    announced = childrens_books.num_tokens(childrens_books.Config(max_characters=10**6))
    assert announced == round(10**6 / childrens_books.CHARACTERS_PER_TOKEN)


@pytest.mark.real_data
@real_data
def test_the_real_instructions(root):
    found = dolly.read(dolly.Config(), seed=0, data_root=root)
    assert found.notes["read"] == 15_011
    assert len(found.chat["train"]) > 6000
    assert len(found.items["rl"]) > 1500
    assert len(found.items["test"]) > 300


@pytest.mark.real_data
@real_data
def test_the_real_dialogues(root):
    found = hh_rlhf.read(hh_rlhf.Config(), seed=0, data_root=root)
    assert len(found.preferences["test"]) >= 900
    assert sum(found.notes[subset]["malformed dialogue"] for subset in ("harmless", "helpful")) < 50
    train, test = (
        {row.prompt[0]["content"] for row in found.preferences[split]} for split in ("train", "test")
    )
    assert not train & test


@pytest.mark.real_data
@real_data
def test_the_real_scenarios(root):
    found = ethics_utilitarianism.read(ethics_utilitarianism.Config(), seed=0, data_root=root)
    train, test = found.preferences["train"], found.preferences["test"]
    assert len(test) == 4_808
    assert len(train) > 12_000
    assert len({content_hash(row) for row in train}) == len(train)
    assert not {s for row in train for s in (row.chosen, row.rejected)} & {
        s for row in test for s in (row.chosen, row.rejected)
    }


@pytest.mark.real_data
@real_data
def test_the_real_problems(root):
    found = gsm8k.read(gsm8k.Config(), seed=0, data_root=root)
    assert len(found.items["test"]) == 1_319
    assert found.notes["train problems"] + found.notes["train duplicates"] == 7_473
    assert all(is_checkable(item.truth) for item in found.items["rl"])
    assert all(is_right(item.truth, item.truth["answer"]) for item in found.items["test"])
