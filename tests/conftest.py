"""Tiny models and tokenizers, made from config."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch

torch.set_num_threads(1)  # for tiny models a second thread costs more than it gives


@pytest.fixture(scope="session")
def tiny_llama():
    """A factory of small Llama-type models with fixed weights; `noise` makes them far from uniform."""
    from transformers import LlamaConfig, LlamaForCausalLM

    def make(vocabulary=29, width=16, layers=2, seed=0, context=64, noise=0.3):
        config = LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=layers,
            num_attention_heads=2,
            max_position_embeddings=context,
            tie_word_embeddings=True,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        )
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = LlamaForCausalLM(config)
            for parameter in model.parameters():
                parameter.data += noise * torch.randn_like(parameter)
        return model.eval()

    return make


@pytest.fixture
def tiny_model():
    """A factory of small causal language models of any architecture, far from uniform by `noise`."""
    from transformers import AutoConfig, AutoModelForCausalLM

    def make(name, noise=0.2, **settings):
        sizes = {
            "vocab_size": 29,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 128,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 0,
        }
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **sizes | settings))
            for parameter in model.parameters():
                parameter.data += noise * torch.randn_like(parameter)
        return model.eval()

    return make


@pytest.fixture(scope="session")
def small_tokenizer():
    """A byte-level tokenizer of 275 tokens."""
    from pipeline.stages.tokenizer import train, wrap

    return wrap(train(["red green blue black ?"] * 9, vocab_size=275))
