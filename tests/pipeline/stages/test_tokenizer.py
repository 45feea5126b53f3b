"""The tokenizer stage: control tokens, an achievable vocabulary, the same bytes every time."""

import json
import os
import subprocess
import sys

import pytest

from data.chat import CHAT_TEMPLATE, CONTROL_TOKENS, decode, encode_text
from data.errors import InputError
from data.rows import ChatRow, Item, TextRow, user, write_jsonl
from pipeline.recipe import Cost, CostContext
from pipeline.run import StageRun
from pipeline.stages import tokenizer

# Every pair of letters equally often: each merge is decided by a tie.
TIES = [f"{a}{b}" for a in "abcdefghij" for b in "klmnopqrst"] * 3
TEXT = ["Mara mends the old clocks in the town of Brell.", "Nobody but Mara can mend the old clocks."] * 4
TRAIN = f"""
from pipeline.stages.tokenizer import train
print(train({TIES + TEXT!r}, vocab_size=330).to_str())
"""


@pytest.fixture
def corpus(tmp_path):
    folder = tmp_path / "stages" / "corpus"
    folder.mkdir(parents=True)
    write_jsonl(folder / "text.train.jsonl", [TextRow(f"{n}", text) for n, text in enumerate(TEXT)])
    chat = ChatRow("1", (*user("Who mends?"), {"role": "assistant", "content": "Mara, zealously zealously."}))
    write_jsonl(folder / "chat.train.jsonl", [chat])
    write_jsonl(folder / "items.rl.jsonl", [Item("1", user("Where do quokkas quokkas quokkas live?"))])
    return folder


def run_stage(corpus, **settings):
    run = StageRun("tokenizer", corpus.parent.parent, inputs={"corpus": corpus})
    tokenizer.run(tokenizer.Config(**settings), run)
    return run


def test_the_saved_folder_loads_in_plain_transformers(corpus):
    from transformers import AutoTokenizer

    run = run_stage(corpus, vocab_size=300)
    loaded = AutoTokenizer.from_pretrained(run.dir / "model")
    assert len(loaded) == 300
    assert loaded.convert_tokens_to_ids(list(CONTROL_TOKENS)) == list(range(6))
    assert loaded.chat_template == CHAT_TEMPLATE
    assert decode(loaded, encode_text(loaded, "Zürich 😀 <|end|>")) == "Zürich 😀 <|end|>"


def test_notes_tell_size_and_bytes_per_token(corpus):
    notes = run_stage(corpus, vocab_size=300).notes
    assert notes["vocab_size"] == 300
    assert notes["bytes_per_token_text"] > notes["bytes_per_token_prompts"] >= 1
    assert notes["num_characters"] > 300


def test_words_of_conversations_and_prompts_are_learned_too(corpus):
    from transformers import AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(run_stage(corpus, vocab_size=319).dir / "model")
    assert len(encode_text(loaded, " quokkas")) == 1
    assert len(encode_text(loaded, " zealously")) < 5


def test_a_vocabulary_larger_than_the_text_gives_is_refused_with_the_achievable_size(corpus):
    with pytest.raises(
        InputError, match=r"vocab_size is 5,000, but the text gives \d+ tokens at most"
    ) as caught:
        run_stage(corpus, vocab_size=5000)
    achievable = int(str(caught.value).split("set it to ")[1].split()[0])
    assert run_stage(corpus, vocab_size=achievable).notes["vocab_size"] == achievable
    with pytest.raises(InputError, match=f"gives {achievable} tokens"):
        run_stage(corpus, vocab_size=achievable + 1)


def test_a_corpus_without_text_is_refused(tmp_path):
    (tmp_path / "stages" / "corpus").mkdir(parents=True)
    with pytest.raises(InputError, match="holds no training text"):
        run_stage(tmp_path / "stages" / "corpus")


def test_training_gives_the_same_bytes_with_any_number_of_threads_and_with_ties():
    def trained(threads):
        environment = {**os.environ, "RAYON_NUM_THREADS": threads, "TOKENIZERS_PARALLELISM": "true"}
        return subprocess.run(
            [sys.executable, "-c", TRAIN], env=environment, capture_output=True, check=True
        ).stdout

    first = trained("1")
    assert len(first) > 1000
    assert all(trained(threads) == first for threads in ("2", "5"))


def test_text_of_control_strings_teaches_no_token_that_looks_like_one():
    inner = tokenizer.train(["".join(CONTROL_TOKENS), *CONTROL_TOKENS] * 200 + TEXT, vocab_size=310)
    wrapped = tokenizer.wrap(inner)
    for text in CONTROL_TOKENS:
        assert min(encode_text(wrapped, text)) > 5


def test_a_large_text_is_thinned_evenly(corpus):
    notes = run_stage(corpus, vocab_size=262, max_characters=100).notes
    assert notes["trained_on_every"] >= 4
    with pytest.raises(InputError, match="the text gives"):  # all of it gives 319
        run_stage(corpus, vocab_size=319, max_characters=100)


def test_the_announced_steps_are_the_merges(corpus):
    settings = tokenizer.Config(vocab_size=300)
    cost = tokenizer.cost(settings, CostContext({}, {"corpus": Cost(tokens=1000)}))
    saved = run_stage(corpus, vocab_size=300).dir / "model"
    assert cost.steps == len(json.loads((saved / "tokenizer.json").read_text())["model"]["merges"])
    assert cost.disk_bytes == pytest.approx(sum(path.stat().st_size for path in saved.iterdir()), rel=0.1)
    assert cost.memory_bytes > 1000
    assert tokenizer.cost(settings, CostContext({}, {})).memory_bytes == 0
