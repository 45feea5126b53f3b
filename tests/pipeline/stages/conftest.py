"""A very small closed world with a tokenizer and an untrained chat model, as stage directories."""

import pytest
import torch

from pipeline.run import StageRun


@pytest.fixture(scope="session")
def small_world(tmp_path_factory):
    """The run directory; stages `corpus`, `tokenizer` and `sft`. Read only."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from pipeline.stages import corpus, tokenizer

    run_dir = tmp_path_factory.mktemp("runs") / "small"
    stages = run_dir / "stages"
    settings = corpus.config_class({"source": "world"})(
        people=16, extra_never_people=16, scale=0.02, often=8, some=3, rarely=1
    )
    corpus.run(settings, StageRun("corpus", run_dir))
    inputs = {"corpus": stages / "corpus"}
    tokenizer.run(tokenizer.Config(vocab_size=400), StageRun("tokenizer", run_dir, inputs=inputs))
    config = LlamaConfig(
        vocab_size=400,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
    model.save_pretrained(stages / "sft" / "model")
    AutoTokenizer.from_pretrained(stages / "tokenizer" / "model").save_pretrained(stages / "sft" / "model")
    return run_dir
