"""Settings that several stages have: type, range and meaning. Each stage gives its own default."""

from typing import Annotated, Literal

from pydantic import Field

from reward.functions import Terms

# how weights learn
Optimizer = Annotated[
    Literal["adamw", "muon"], Field(description="AdamW, or Muon on the matrices and AdamW on the rest")
]
SmallModelRate = Annotated[
    float, Field(gt=0, le=1, description="At its highest; higher for models of a few million parameters")
]
WarmupShare = Annotated[float, Field(ge=0, lt=1, description="Share of the steps in which it rises")]
Schedule = Annotated[
    Literal["constant", "linear", "cosine"], Field(description="How it falls to 0 after the warm-up")
]
WeightDecay = Annotated[float, Field(ge=0, lt=1, description="Decoupled, of the matrices")]
MaxGradNorm = Annotated[float, Field(gt=0, description="Gradients are clipped to this norm")]
CheckpointEvery = Annotated[int, Field(gt=0, description="Steps from checkpoint to checkpoint")]
LoraRank = Annotated[
    int, Field(gt=0, le=1024, description="Rank of the low-rank adapters, where they are used")
]
LoraAlpha = Annotated[float, Field(gt=0, description="Adapters are scaled by lora_alpha / lora_rank")]

# preference pairs
PairEpochs = Annotated[int, Field(gt=0, le=100, description="Passes over the training pairs")]
PairBatch = Annotated[int, Field(gt=0, description="Pairs in one step, over all processes")]
PairMicroBatch = Annotated[
    int, Field(gt=0, description="Pairs in one pass of one process; halved when memory runs out")
]
MaxPairLength = Annotated[
    int | None, Field(gt=1, description="Longest prompt with completion, tokens; null: the context")
]
NormalisePrompts = Annotated[
    int, Field(ge=2, description="Prompts whose SFT completions set the scores' mean and variance")
]
NormaliseTemperature = Annotated[float, Field(gt=0, le=10, description="Of those completions")]
NormaliseTokens = Annotated[int, Field(gt=0, description="Longest of those completions, tokens")]

# episodes: sampled completions that earn a score
EpisodeRewards = Annotated[
    Terms,
    Field(
        min_length=1,
        description="Rewards by file name in reward/functions, or path; a weight, or `weight` and `settings`",
    ),
]
UNENDED_SCORE = -1.0
UnendedScore = Annotated[
    float | None, Field(description="Replaces the score of a completion without an end; null keeps the score")
]
NumEpisodes = Annotated[int, Field(gt=0, description="Completions sampled in all")]
EpisodeBatch = Annotated[int, Field(gt=1, description="Completions sampled for one step")]
EpisodeMicroBatch = Annotated[int, Field(gt=0, description="Sequences in one forward and backward pass")]
SamplingTemperature = Annotated[
    float, Field(gt=0, description="Divides the logits, when sampling and learning")
]
MaxNewTokens = Annotated[int, Field(gt=0, description="Longest completion, tokens")]
BatchEpochs = Annotated[int, Field(gt=0, description="Passes over each batch")]
