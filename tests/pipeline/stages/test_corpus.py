"""The corpus stage: settings of its sources, checks over all rows, files and counts."""

import json

import pytest

from data.errors import InputError
from data.rows import ChatRow, Collected, Item, PreferenceRow, TextRow, read_jsonl, user
from data.sources import text_files
from pipeline.recipe import CostContext
from pipeline.run import StageRun
from pipeline.stages import corpus


def say(question, answer):
    return (*user(question), {"role": "assistant", "content": answer})


@pytest.fixture
def source(monkeypatch):
    """Makes the text_files source give the rows of a test."""
    given = Collected()
    monkeypatch.setattr(text_files, "read", lambda config, **_: given)
    monkeypatch.setattr(text_files, "files", lambda config, data_root: [])
    return given


def start(tmp_path, section=None):
    section = {"source": "text_files", "path": "x", **(section or {})}
    config = corpus.config_class(section).model_validate_json(json.dumps(section), strict=True)
    run = StageRun("corpus", tmp_path, seed=3)
    corpus.run(config, run)
    return run


def counts(run):
    return json.loads((run.dir / "counts.json").read_text())


# --- settings --------------------------------------------------------------------------------------------


def test_settings_of_one_source_stand_beside_those_of_the_stage():
    model = corpus.config_class({"source": "dolly", "rl_share": 0.3})
    config = model(source="dolly", rl_share=0.3, leakage="drop")
    ((name, _, own),) = corpus.sources(config)
    assert (name, own.rl_share, own.test_share) == ("dolly", 0.3, 0.04)
    with pytest.raises(ValueError, match="must be below 1"):  # rules of the source hold
        model(source="dolly", rl_share=0.9, valid_share=0.5)
    with pytest.raises(ValueError, match="extra"):
        model(source="dolly", path="x")


def test_several_sources_as_a_list_or_with_settings():
    config = corpus.config_class({"source": ["dolly", "hh_rlhf"]})(source=("dolly", "hh_rlhf"))
    assert [name for name, _, _ in corpus.sources(config)] == ["dolly", "hh_rlhf"]
    section = {"source": {"hh_rlhf": {"test_share": 0.5}, "dolly": None}}
    config = corpus.config_class(section).model_validate_json(json.dumps(section), strict=True)
    assert [(name, own.test_share) for name, _, own in corpus.sources(config)] == [
        ("hh_rlhf", 0.5),
        ("dolly", 0.04),
    ]


@pytest.mark.parametrize(
    "source, found",
    [
        ("dollly", "did you mean `dolly`"),
        (["dolly", "dollly"], "did you mean `dolly`"),
        ([], "a list of different names"),
        (["dolly", "dolly"], "a list of different names"),
        (3, "a list of different names"),
        (["text_files"], r"text_files needs settings; write `source: \{text_files: \{path"),
    ],
)
def test_other_sources_are_refused(source, found):
    with pytest.raises(InputError, match=found):
        corpus.config_class({"source": source})


def test_the_files_of_all_sources_are_known(tmp_path):
    for name in ("a.txt", "b.jsonl"):
        (tmp_path / name).write_text("x")
    section = {"source": {"text_files": {"path": "a.txt"}, "preference_rows": {"path": "b.jsonl"}}}
    config = corpus.config_class(section).model_validate(section)
    assert corpus.files(config, tmp_path) == [tmp_path / "a.txt", tmp_path / "b.jsonl"]


# --- rows ------------------------------------------------------------------------------------------------


def test_rows_are_written_by_kind_and_split_with_their_counts(tmp_path, source):
    source.text = {
        "train": [TextRow("1", "abc", "x"), TextRow("2", "abcd", "x"), TextRow("3", "abc")],
        "valid": [],
    }
    source.chat = {"train": [ChatRow("1", say("Who?", "Mara.")), ChatRow("2", say("Who?", "Mara."))]}
    source.preferences = {"train": [PreferenceRow("1", user("Q"), "a", "b")]}
    source.items = {"rl": [Item("1", user("R"))], "test": [Item("1", user("T"))]}
    source.extra = {"world.json": {"people": 3}}
    run = start(tmp_path)
    assert [row.id for row in read_jsonl(run.dir / "text.train.jsonl", TextRow)] == ["1", "2"]
    found = counts(run)
    assert found["rows"] == {
        "text.train": 2,
        "chat.train": 1,
        "preferences.train": 1,
        "items.rl": 1,
        "items.test": 1,
    }
    assert found["removed"] == {"text.train": {"identical": 1}, "chat.train": {"identical": 1}}
    assert found["clusters"]["text.train"] == 1
    assert [found["characters"][name] for name in ("text.train", "chat.train", "preferences.train")] == [
        7,
        9,
        3,
    ]
    assert run.notes["rows"] == found["rows"]
    assert json.loads((run.dir / "world.json").read_text()) == {"people": 3}
    assert not (run.dir / "text.valid.jsonl").exists()


def test_files_of_an_earlier_source_are_gone_and_a_rerun_writes_the_same(tmp_path, source):
    source.text = {"train": [TextRow("1", "a")]}
    source.chat = {"train": [ChatRow("1", say("Who?", "Mara."))]}
    run = start(tmp_path)
    before = {path.name: path.read_bytes() for path in run.dir.iterdir()}
    assert {path.name: path.read_bytes() for path in start(tmp_path).dir.iterdir()} == before
    source.chat = {}
    assert not (start(tmp_path).dir / "chat.train.jsonl").exists()


def test_a_source_whose_repetitions_mean_something_keeps_them(tmp_path, source):
    source.text = {"train": [TextRow("1", "a"), TextRow("2", "a")]}
    source.keep_duplicates = True
    found = counts(start(tmp_path))
    assert found["rows"] == {"text.train": 2}
    assert found["removed"] == {"text.train": {"identical (kept)": 1}}


@pytest.mark.parametrize(
    "rows, where",
    [
        ({"text": {"train": [TextRow("1", "a"), TextRow("2", "b")], "valid": [TextRow("3", "b")]}}, "text"),
        (
            {
                "chat": {"train": [ChatRow("1", say("a", "a")), ChatRow("2", say("b", "x"))]},
                "items": {"test": [Item("3", user("b"))]},
            },
            "chat",
        ),
        (
            {"items": {"rl": [Item("1", user("a")), Item("2", user("b"))], "test": [Item("3", user("b"))]}},
            "items",
        ),
    ],
)
def test_training_rows_in_the_evaluation_are_refused_dropped_or_allowed(tmp_path, source, rows, where):
    for kind, splits in rows.items():
        setattr(source, kind, splits)
    with pytest.raises(
        InputError, match=rf"1 rows of {where}\..* also stand in .*the first: '2'.*leakage to drop"
    ):
        start(tmp_path)
    assert not list((tmp_path / "stages" / "corpus").glob("*.jsonl"))
    train = f"{where}.{'rl' if where == 'items' else 'train'}"
    dropped = counts(start(tmp_path / "drop", {"leakage": "drop"}))
    assert dropped["rows"][train] == 1
    assert list(dropped["leakage"].values()) == [1]
    assert counts(start(tmp_path / "allow", {"leakage": "allow"}))["rows"][train] == 2
    source.allowed_leakage = "small grammars repeat"
    allowed = counts(start(tmp_path / "source"))
    assert allowed["rows"][train] == 2
    assert allowed["leakage"]["allowed because"] == ["small grammars repeat"]


def test_rows_that_cannot_be_used_are_counted_and_refused_above_a_share(tmp_path, source):
    source.chat = {"train": [ChatRow(str(n), say(f"Q{n}", "" if n < 3 else "a")) for n in range(10)]}
    with pytest.raises(
        InputError, match=r"text_files: chat\.train: 3 of 10 rows cannot be used .*max_unusable_share"
    ):
        start(tmp_path)
    found = counts(start(tmp_path, {"max_unusable_share": 0.5}))
    assert found["rows"] == {"chat.train": 7}
    assert found["removed"] == {"chat.train": {"empty completion": 3}}


def test_nothing_left_is_refused_with_the_filter_that_removed_it(tmp_path, source):
    with pytest.raises(InputError, match="the sources gave no rows"):
        start(tmp_path)
    source.text = {"train": [TextRow("1", " ")]}
    with pytest.raises(InputError, match=r"text\.train: no row is left .empty text: 1"):
        start(tmp_path, {"max_unusable_share": 1.0})
    source.text = {"train": [TextRow("1", "a")], "valid": [TextRow("2", "a")]}
    with pytest.raises(InputError, match=r"text\.train: no row is left .also in text\.valid: 1"):
        start(tmp_path, {"leakage": "drop"})


def test_an_id_that_stands_twice_is_refused(tmp_path, source):
    source.text = {"train": [TextRow("1", "a"), TextRow("1", "b")]}
    with pytest.raises(InputError, match=r"text\.train: the id '1' stands there twice"):
        start(tmp_path)


# --- cost ------------------------------------------------------------------------------------------------


def test_the_announced_size_is_about_that_of_the_files(tmp_path):
    section = {"source": "world", "people": 80, "extra_never_people": 20, "scale": 0.2}
    config = corpus.config_class(section)(**section)
    cost = corpus.cost(config, CostContext({}, {}))
    run = StageRun("corpus", tmp_path)
    corpus.run(config, run)
    written = sum(path.stat().st_size for path in run.dir.iterdir())
    assert cost.disk_bytes == pytest.approx(written, rel=0.3)
    assert cost.tokens == pytest.approx(run.notes["characters"]["text.train"] / 3.85, rel=0.15)


@pytest.mark.parametrize("source", ["dolly", {"text_files": {"path": "mine.txt"}, "dolly": {}}])
def test_the_size_of_a_text_that_nobody_announces_is_not_guessed(source):
    cost = corpus.cost(corpus.config_class({"source": source})(source=source), CostContext({}, {}))
    assert (cost.tokens, cost.disk_bytes) == (0, 0)
    assert "when the corpus is there" in cost.note
