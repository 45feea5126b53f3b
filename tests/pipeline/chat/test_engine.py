"""The engine: many answers drawn together, a bounded queue, and nobody harmed by somebody else."""

import threading
from contextlib import suppress

import pytest

from data.rows import user
from pipeline.chat.engine import Busy, Engine, Ticket
from pipeline.chat.session import Answer, Piece, Sampling, answer_key, prepare, speak

WAIT = 20.0  # seconds after which a test has failed


class Asked(Ticket):
    """A ticket whose answer can be waited for."""

    def __init__(self, voice, prompt="Begin at c", **sampling):
        self.arrived = threading.Event()
        messages, how = user(prompt), Sampling(**sampling)
        super().__init__(
            voice, prepare(voice, messages, how), how, answer_key(messages, how.seed), self.arrived.set
        )

    def wait(self):
        """All events up to the last, and that one."""
        found = []
        while True:
            assert self.arrived.wait(WAIT), "no event came"
            self.arrived.clear()
            while self.events:
                found.append(self.events.popleft())
                if not isinstance(found[-1], Piece):
                    return found[:-1], found[-1]


@pytest.fixture
def engine():
    started = Engine(max_rows=5, max_waiting=12)
    yield started
    started.close()


def said(voice, prompt, **sampling):
    return list(speak(voice, user(prompt), Sampling(**sampling)))


def test_each_gets_the_answer_that_it_gets_alone(engine, make_voice):
    voices = [make_voice("sft"), make_voice("base", plain=True)]
    prompts = ["Begin at c", "go on after x", "z", "from a"]
    tickets = [(voice, prompt, engine.submit(Asked(voice, prompt))) for voice in voices for prompt in prompts]
    for voice, prompt, ticket in tickets:
        pieces, answer = ticket.wait()
        *expected, last = said(voice, prompt)
        assert pieces == expected
        assert answer == last


def test_a_stop_string_ends_an_answer_and_is_not_shown(engine, make_voice):
    pieces, answer = engine.submit(Asked(make_voice(), "Begin at c", stop=("gh",))).wait()
    assert "".join(piece.text for piece in pieces) == answer.text == "def"
    assert answer.reason == "stop"
    assert (pieces, answer) == (said(make_voice(), "Begin at c", stop=("gh",))[:-1], answer)


class Slow:
    """A batch whose steps wait until they are allowed."""

    def __init__(self, allowed, batch, log):
        self.allowed, self.batch, self.log = allowed, batch, log

    def __len__(self):
        return len(self.batch)

    def join(self, wanted):
        self.batch.join(wanted)

    def leave(self, names):
        self.batch.leave(names)

    def step(self):
        assert self.allowed.acquire(timeout=WAIT)
        self.log.append(len(self.batch))
        return self.batch.step()


@pytest.fixture
def slow_voice(make_voice):
    """A voice that draws a token of each answer for each release of `allowed`; `log` has the batch sizes."""
    from dataclasses import replace

    allowed, log = threading.Semaphore(0), []
    voice = make_voice("slow")
    return replace(voice, new_batch=lambda: Slow(allowed, voice.new_batch(), log)), allowed, log


def test_who_cancels_leaves_at_the_next_token_with_what_there_is(engine, slow_voice):
    voice, allowed, log = slow_voice
    going, staying = engine.submit(Asked(voice, "at a")), engine.submit(Asked(voice, "at v"))
    allowed.release()
    assert going.arrived.wait(WAIT)
    going.cancel()
    allowed.release(100)
    _, answer = going.wait()
    assert answer.reason == "cancelled"
    assert answer.text in ("b", "bc")
    assert staying.wait()[1].text == "wxyz"
    assert log[-1] == 1


def test_a_full_queue_refuses_and_takes_again_when_there_is_room(engine, slow_voice):
    voice, allowed, _ = slow_voice
    first = engine.submit(Asked(voice, "at y"))
    while len(engine._waiting):
        pass
    waiting = [engine.submit(Asked(voice, "at y")) for _ in range(12)]
    with suppress(Busy):
        for _ in range(5):  # those that are live already do not wait
            waiting.append(engine.submit(Asked(voice, "at y")))
    with pytest.raises(Busy, match="try again"):
        engine.submit(Asked(voice, "at y"))
    assert len(waiting) <= 12 + 5
    allowed.release(1000)
    for ticket in [first, *waiting]:
        assert ticket.wait()[1].text == "z"
    assert engine.submit(Asked(voice, "at y")).wait()[1].text == "z"


def test_those_that_were_cancelled_take_no_place_in_the_queue(engine, slow_voice):
    voice, allowed, _ = slow_voice
    tickets = []
    for _ in range(50):  # four times as many as may wait
        tickets.append(engine.submit(Asked(voice)))
        tickets[-1].cancel()
    allowed.release(1000)
    assert {ticket.wait()[1].reason for ticket in tickets} == {"cancelled"}
    assert not engine._waiting


def test_a_fault_of_one_model_ends_its_answers_and_no_other(engine, make_voice):
    def broken(prompt, key):
        raise RuntimeError("the model is broken")

    bad, good = Asked(make_voice("bad", broken)), Asked(make_voice("good"))
    engine.submit(bad)
    engine.submit(good)
    assert isinstance(bad.wait()[1], RuntimeError)
    assert good.wait()[1].text.startswith("def")
    assert isinstance(engine.submit(Asked(make_voice("good"))).wait()[1], Answer)


def test_a_prompt_that_cannot_be_read_ends_no_other_answer(engine, make_voice):
    from dataclasses import replace

    from pipeline.live_batch import Unread

    voice = make_voice("sft")
    batch = voice.new_batch()

    class Refusing:
        def __init__(self):
            self.refused = []

        def join(self, wanted):
            if wanted.max_new_tokens == 7:
                self.refused.append(Unread(wanted.name, MemoryError("too long")))
            else:
                batch.join(wanted)

        def step(self):
            events, self.refused = self.refused, []
            return events + batch.step()

        leave = batch.leave

    voice = replace(voice, new_batch=Refusing)
    good, bad = engine.submit(Asked(voice)), engine.submit(Asked(voice, max_new_tokens=7))
    assert isinstance(bad.wait()[1], MemoryError)
    assert good.wait()[1].text.startswith("def")


def test_a_fault_while_somebody_leaves_harms_nobody_else(engine, make_voice):
    from dataclasses import replace

    voice = make_voice("bad")

    class Stuck:
        def join(self, wanted):
            pass

        def step(self):
            return []

        def leave(self, names):
            if names:
                raise RuntimeError("out of memory")

    bad = engine.submit(Asked(replace(voice, new_batch=Stuck)))
    while not engine._live:
        pass
    bad.cancel()
    assert bad.wait()[1].reason == "cancelled"
    assert engine.submit(Asked(make_voice("good"))).wait()[1].text.startswith("def")
    assert engine.submit(Asked(make_voice("bad"))).wait()[1].text.startswith("def")  # a new batch


def test_who_was_cancelled_while_waiting_is_told(slow_voice):
    engine = Engine(max_rows=1, max_waiting=5)
    voice, allowed, _ = slow_voice
    tickets = [engine.submit(Asked(voice, "at y")) for _ in range(3)]
    tickets[2].cancel()
    tickets.append(engine.submit(Asked(voice, "at y")))
    assert tickets[2].wait()[1].reason == "cancelled"
    allowed.release(1000)
    assert [ticket.wait()[1].text for ticket in (tickets[0], tickets[1], tickets[3])] == ["z"] * 3
    engine.close()


def test_other_work_is_done_between_tokens_and_its_errors_reach_who_asked(engine, slow_voice):
    voice, allowed, _ = slow_voice
    ticket = engine.submit(Asked(voice, "at v"))
    future = engine.run(lambda: 7)
    failing = engine.run(lambda: 1 // 0)
    allowed.release(100)
    assert future.result(WAIT) == 7
    with pytest.raises(ZeroDivisionError):
        failing.result(WAIT)
    assert ticket.wait()[1].text == "wxyz"


def test_closing_ends_what_is_under_way_and_what_waits(slow_voice):
    engine = Engine(max_rows=1, max_waiting=9)
    voice, allowed, _ = slow_voice
    tickets = [engine.submit(Asked(voice)) for _ in range(4)]
    allowed.release()
    tickets[0].arrived.wait(WAIT)
    allowed.release(3)  # whatever the thread has begun
    engine.close()
    assert [ticket.wait()[1].reason for ticket in tickets] == ["cancelled"] * 4
    with pytest.raises(Busy):
        engine.submit(Asked(voice))
    with pytest.raises(Busy):
        engine.run(lambda: 1)
