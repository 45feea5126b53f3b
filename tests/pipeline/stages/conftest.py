"""A very small closed world with a tokenizer and an untrained chat model, as stage directories."""

import pytest

from pipeline.run import StageRun


@pytest.fixture(scope="session")
def small_world(tmp_path_factory, tiny_llama):
    """The run directory; stages `corpus`, `tokenizer` and `sft`. Read only."""
    from transformers import AutoTokenizer

    from pipeline.stages import corpus, tokenizer

    run_dir = tmp_path_factory.mktemp("runs") / "small"
    stages = run_dir / "stages"
    settings = corpus.config_class({"source": "world"})(
        people=16, extra_never_people=16, scale=0.02, often=8, some=3, rarely=1
    )
    corpus.run(settings, StageRun("corpus", run_dir))
    inputs = {"corpus": stages / "corpus"}
    tokenizer.run(tokenizer.Config(vocab_size=400), StageRun("tokenizer", run_dir, inputs=inputs))
    model = tiny_llama(400, context=256, noise=0.0)
    model.save_pretrained(stages / "sft" / "model")
    AutoTokenizer.from_pretrained(stages / "tokenizer" / "model").save_pretrained(stages / "sft" / "model")
    return run_dir


@pytest.fixture(scope="session")
def stopping_run():
    """A StageRun class that is asked to stop at its n-th poll: `stopping_run(n, name, folder, ...)`."""
    import signal

    from pipeline.errors import Interrupted

    class Stop:
        signum = None

        def check(self):
            if self.signum:
                raise Interrupted(self.signum)

    class Polled(StageRun):
        polls, last_poll = 0, 0

        def stop_requested(self):
            self.polls += 1
            if self.polls == self.last_poll:
                self._stop.signum = signal.SIGINT
            return self._stop.signum is not None

    def make(poll, *args, **options):
        run = Polled(*args, stop=Stop(), **options)
        run.last_poll = poll
        return run

    return make


@pytest.fixture(scope="session")
def digests():
    """The function that maps each file under a folder to the hash of its bytes."""
    import hashlib

    def found(folder):
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}

    return found
