"""The same chat with real models: a tiny run on the disk, its weights drawn from fixed seeds."""

import json
import threading
import time

import pytest
import torch

from data.randomness import python_random
from data.rows import user
from pipeline.chat.compare import compare
from pipeline.chat.engine import Engine, Ticket
from pipeline.chat.session import (
    Conversation,
    Sampling,
    answer_all,
    answer_key,
    prepare,
    reply,
    speak,
)
from pipeline.chat.voices import open_run
from pipeline.chat.why import explain
from pipeline.language_model import LanguageModel
from pipeline.stages.tokenizer import train, wrap

NAMES = ("pretrain", "sft", "ppo")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("runs") / "tiny"
    tokenizer = wrap(train(["Who is it? It is the cat.\n"] * 3, vocab_size=270))
    for seed, name in enumerate(NAMES):
        config = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=96,
            tie_word_embeddings=True,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        )
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = LlamaForCausalLM(config)
            for parameter in model.parameters():
                parameter.data += 0.3 * torch.randn_like(parameter)
        model.save_pretrained(folder / "stages" / name / "model")
        tokenizer.save_pretrained(folder / "stages" / name / "model")
    stages = [{"name": name, "stage": name} for name in NAMES]
    (folder / "run.json").write_text(json.dumps({"stages": stages}))
    return folder


@pytest.fixture(scope="module")
def voices(run):
    return open_run(run)


@pytest.fixture(scope="module")
def prompts():
    rng = python_random("chat prompts")
    words = ["who", "is", "the", "cat", "it", "?", "<|end|>", "é", "🦜"]
    return [" ".join(rng.choices(words, k=rng.randrange(1, 12))) for _ in range(23)]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("name", ["base", "ppo"])
def test_streaming_alone_and_in_batches_gives_the_same_text(voices, prompts, name, temperature):
    voice, sampling = voices.pick(name), Sampling(temperature=temperature, max_new_tokens=24)
    conversations = [user(prompt) for prompt in prompts]
    together = answer_all(voice, conversations, sampling)
    alone = [list(speak(voice, conversation, sampling))[-1] for conversation in conversations]
    assert [answer.tokens for answer in together] == [answer.tokens for answer in alone]
    assert [answer.text for answer in together] == [answer.text for answer in alone]
    assert len({answer.text for answer in alone}) > len(prompts) // 2


def test_the_comparison_prints_what_the_chat_says(run, voices, prompts, capsys):
    sampling = Sampling(max_new_tokens=24, seed=3)
    compare(run, prompts[:3], seed=3, max_new_tokens=24, as_json=True)
    record = json.loads(capsys.readouterr().out)
    assert record["stages"] == ["base", "sft", "ppo"]
    for row in record["prompts"]:
        events = reply(
            [voices.pick(name) for name in record["stages"]], Conversation().say(row["prompt"]), sampling
        )
        chatted = {event.name: event.text for event in events if hasattr(event, "tokens")}
        assert {name: answer["text"] for name, answer in row["answers"].items()} == chatted


def test_it_is_what_the_language_model_generates(run, voices):
    from pipeline.chat.session import answer_key

    model = LanguageModel.load(run / "stages" / "ppo")
    sampling = Sampling(temperature=1.0, max_new_tokens=24)
    conversation = user("who is it")
    (completion,) = model.generate(
        [conversation], keys=[answer_key(conversation, 0)], max_new_tokens=24, temperature=1.0
    )
    answer = list(speak(voices.pick("ppo"), conversation, sampling))[-1]
    assert (answer.text, list(answer.tokens)) == (completion.text, completion.tokens)


def test_why_agrees_with_the_logprobs_of_the_draw(voices):
    voice = voices.pick("ppo")
    answer = list(speak(voice, user("who is it"), Sampling(temperature=1.0, max_new_tokens=24)))[-1]
    views = explain(voice, answer, reference=voices.pick("sft"))
    assert [view.logprob for view in views] == pytest.approx(answer.logprobs, abs=1e-4)
    assert all(view.kl > 0 for view in views)


def test_an_old_talk_gives_way_to_the_context(voices):
    conversation = Conversation()
    for place in range(20):
        conversation = conversation.say(f"who is it {place}").answered({"ppo": "It is the cat."})
    conversation = conversation.say("who")
    voice = voices.pick("ppo")
    answer = list(speak(voice, conversation.messages("ppo"), Sampling(max_new_tokens=24)))[-1]
    assert answer.num_dropped > 10
    assert len(voice.encode(answer.prompt)) + answer.limit <= voice.context == 96


def test_a_control_token_in_a_message_is_text(voices):
    voice = voices.pick("ppo")
    ids = voice.encode(user("<|end|><|assistant|>"))
    assert ids.count(2) == 1
    assert voice.decode(ids) == "<|end|><|assistant|>"


def through_engine(voice, prompts, sampling):
    """Every prompt's answer, all asked at once of one engine."""
    engine, tickets = Engine(max_rows=16, max_waiting=1000), []
    for prompt in prompts:
        messages = user(prompt)
        request, arrived = prepare(voice, messages, sampling), threading.Event()
        ticket = Ticket(voice, request, sampling, answer_key(messages, sampling.seed), arrived.set)
        tickets.append(engine.submit(ticket))
    answers = []
    for ticket in tickets:
        while not ticket.over:
            time.sleep(0.001)
        answers.append(ticket.events[-1])
    engine.close()
    return answers


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("name", ["base", "ppo"])
def test_beside_fifteen_others_the_answer_is_that_which_it_is_alone(voices, prompts, name, temperature):
    voice, sampling = voices.pick(name), Sampling(temperature=temperature, max_new_tokens=24, stop=("cat",))
    together = through_engine(voice, prompts, sampling)
    alone = [list(speak(voice, user(prompt), sampling))[-1] for prompt in prompts]
    assert [answer.text for answer in together] == [answer.text for answer in alone]
    assert [answer.reason for answer in together] == [answer.reason for answer in alone]
    batched = answer_all(voice, [user(prompt) for prompt in prompts], sampling)
    assert [answer.tokens for answer in batched] == [answer.tokens for answer in alone]


def test_voices_of_one_run_hold_equal_weights_once(run):
    import shutil

    stages = run / "stages"
    shutil.copytree(stages / "ppo", stages / "copy")
    try:
        opened = open_run(run)
        pairs = [opened.pick(name).new_batch().model for name in ("ppo", "copy")]
        assert all(
            first.data_ptr() == second.data_ptr()
            for first, second in zip(*(model.parameters() for model in pairs), strict=True)
        )
    finally:
        shutil.rmtree(stages / "copy")


def test_two_threads_that_encode_at_once_get_what_each_gets_alone(save_foreign, tmp_path):
    """Encoding a foreign chat format switches the tokenizer for a moment."""
    template = "{% for m in messages %}<|end|>{{ m['role'] }}: {{ m['content'] }}{% endfor %}<|end|>"
    folder = save_foreign(tmp_path / "model", "gpt2", template=template)
    voice = open_run(folder).pick("model")
    expected, found = voice.encode(user("Is <|end|> a cat?")), set()

    def encode():
        for _ in range(300):
            found.add(tuple(voice.encode(user("Is <|end|> a cat?"))))

    threads = [threading.Thread(target=encode) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {tuple(expected)}


def test_a_model_without_a_chat_template_is_asked_in_the_plain_format(save_foreign, tmp_path):
    voice = open_run(save_foreign(tmp_path / "model", "llama")).pick("model")
    assert voice.plain
    *_, answer = speak(voice, user("What is a cat?"), Sampling(max_new_tokens=5))
    assert answer.prompt == "Question: What is a cat?\nAnswer:"
