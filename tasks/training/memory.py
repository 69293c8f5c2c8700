"""Bytes that trainings and scorings need on a device, from a model's config.json alone. Light, because `plan` calls it.

Constants per channel are those of Llama-like layers; they were measured as saved tensors of one forward pass
(`tests/tasks/training/test_memory.py` measures them again).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from tasks.calls import StateBytes

FLOAT, HALF = 4, 2
"""Bytes of a float32 and of a bfloat16."""
ADAMW = StateBytes(device=8)
"""Two means in float32."""
_TWO_MATRICES = ("bloom", "falcon", "gpt2", "gpt_bigcode", "gpt_neo", "gptj", "opt", "phi", "starcoder2")
"""`model_type`s, by their beginnings, whose feed-forward part has no gate."""
_TIED = ("gemma", "gpt2", "opt")
"""Those whose configuration leaves out that the embedding is also the head."""


@dataclass(frozen=True)
class ModelShape:
    """The sizes of a decoder that decide its memory."""

    layers: int
    width: int
    inner: int
    """Width of the feed-forward part, of one expert."""
    queries: int
    """Channels of all query heads together."""
    keys: int
    """Channels of all key heads together, and of all value heads."""
    vocabulary: int
    tied: bool
    """Whether the embedding is also the head."""
    experts: int = 1
    active: int = 1
    """Experts that a token goes through."""
    positions: int = 2048
    """Longest sequence, in tokens."""
    matrices: int = 3
    """Of a feed-forward part: gate, up and down, or two without a gate."""

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> ModelShape | None:
        """The shape that a config.json describes; None where it lacks a size."""
        inner = config.get("text_config") or config
        read = {**config, **inner}
        family = str(read.get("model_type", ""))
        width, layers = read.get("hidden_size", read.get("n_embd")), read.get("num_hidden_layers", read.get("n_layer"))
        heads, vocabulary = read.get("num_attention_heads", read.get("n_head")), read.get("vocab_size")
        if not (width and layers and heads and vocabulary):
            return None
        channels = read.get("head_dim") or width // heads
        experts = read.get("num_local_experts") or read.get("num_experts") or 1
        of_experts = read.get("moe_intermediate_size") if experts > 1 else None
        return cls(
            layers, width, of_experts or read.get("intermediate_size") or read.get("n_inner") or 4 * width,
            heads * channels, (read.get("num_key_value_heads") or heads) * channels, vocabulary,
            bool(read.get("tie_word_embeddings", family.startswith(_TIED))), experts,
            read.get("num_experts_per_tok") or 1 if experts > 1 else 1,
            read.get("max_position_embeddings") or read.get("n_positions") or 2048,
            2 if family.startswith(_TWO_MATRICES) else 3,
        )  # fmt: skip

    @property
    def embedding(self) -> int:
        """Weights of the embedding, and of the head."""
        return self.vocabulary * self.width

    @property
    def body(self) -> int:
        """Weights of all layers."""
        attention = 2 * self.width * (self.queries + self.keys)
        return self.layers * (attention + self.matrices * self.width * self.inner * self.experts + 2 * self.width)

    @property
    def parameters(self) -> int:
        return self.body + self.embedding * (1 if self.tied else 2) + self.width

    def lora_parameters(self, rank: int) -> int:
        """Weights of an adapter of every linear layer; experts, which are parts of one tensor, have none."""
        attention = 4 * self.width + 2 * (self.queries + self.keys)
        inner = self.matrices * (self.width + self.inner) if self.experts == 1 else 0
        return self.layers * rank * (attention + inner)


@dataclass(frozen=True)
class TrainingSetup:
    """What decides the memory of a training, besides the model."""

    tokens: int
    """Of a micro-batch, padding included."""
    half: bool
    """Whether products are computed in bfloat16."""
    logits: int
    """Largest number of logits in memory."""
    state: StateBytes = ADAMW
    half_weights: bool = False
    """Whether weights and gradients are bfloat16, with float32 weights in the optimizer; of an adapter: whether all of
    its base is bfloat16."""
    checkpointed: bool = False
    """Whether a layer's activations are computed again in the backward pass."""
    shards: int = 1
    """Devices over which weights, gradients and optimizer are spread."""
    rank: int = 0
    """Of an adapter that learns in float32 beside a frozen base; 0: the whole model learns."""


def tokens_for(shape: ModelShape, gpu: bool) -> int:
    """Tokens of a micro-batch where nothing is said: on a CPU as many as need about 200 MB of activations."""
    return 8192 if gpu else max(256, 2_000_000 // (shape.width * shape.layers))


def training_memory(shape: ModelShape, setup: TrainingSetup) -> dict[str, float]:
    """Bytes on each device at the peak of a training, by what needs them."""
    learning = shape.lora_parameters(setup.rank) if setup.rank else shape.parameters
    rounded = setup.half_weights and not setup.rank
    weight = HALF if rounded else FLOAT
    masters = FLOAT if rounded and not setup.state.host else 0
    copies = HALF if setup.half and not rounded else 0
    frozen = base_bytes(shape, half=setup.half, whole=setup.half_weights) if setup.rank else 0
    gathered = _gathered_bytes(shape, setup) if setup.shards > 1 else 0
    copied = 0 if setup.shards > 1 else copies * (learning if setup.rank else shape.body + shape.embedding)
    return {
        "weights": (learning * weight + frozen) / setup.shards + gathered,
        "bfloat16 copies of weights": copied,
        "gradients": learning * weight / setup.shards,
        "optimizer": learning * (setup.state.device + masters) / setup.shards,
        "head": head_bytes(shape, setup, learns=not setup.rank),
        "activations": activation_bytes(shape, setup),
    }


def _gathered_bytes(shape: ModelShape, setup: TrainingSetup) -> float:
    """What is whole on a device while weights are in shards: the head, two layers, and a layer's gradient."""
    number = HALF if setup.half or setup.half_weights else FLOAT
    layer = shape.body / shape.layers
    gradient = 0 if setup.rank else number * layer
    return (HALF + FLOAT) * shape.embedding + 2 * number * layer + gradient


def base_bytes(shape: ModelShape, *, half: bool, whole: bool) -> int:
    """Bytes of a model that does not learn. half: products in bfloat16, norms and embedding in float32; whole: all in
    bfloat16."""
    if whole:
        return HALF * shape.parameters
    return HALF * (shape.parameters + shape.embedding) if half else FLOAT * shape.parameters


def host_memory(shape: ModelShape, setup: TrainingSetup) -> float:
    """Bytes in the machine's memory of an optimizer that steps there: its state, float32 weights and gradients."""
    state = setup.state.host
    learning = shape.lora_parameters(setup.rank) if setup.rank else shape.parameters
    return (state + 2 * FLOAT) * learning if state else 0.0


def activation_bytes(shape: ModelShape, setup: TrainingSetup) -> float:
    """Bytes that the forward pass of a micro-batch keeps for the backward pass.

    Checkpointed: the input of every layer, and everything of the one that is computed again.
    """
    whole = setup.tokens * _layer_bytes(shape, setup)
    if not setup.checkpointed:
        return shape.layers * whole
    residual = HALF if setup.half_weights and not setup.rank else FLOAT
    return shape.layers * setup.tokens * shape.width * residual + whole


def _layer_bytes(shape: ModelShape, setup: TrainingSetup) -> float:
    """Bytes per token that a layer keeps: norms and residual stream, attention, feed-forward part. Frozen weights need
    no inputs of products; an adapter keeps them anew for each of its layers."""
    number = HALF if setup.half else FLOAT
    stream = 22 if setup.half_weights else 30 if setup.half else 36
    if setup.rank:
        stream = 26 if setup.half else 28
    forward = (shape.matrices + 1) * number * shape.inner * shape.active
    return stream * shape.width + number * shape.keys + forward


def head_bytes(shape: ModelShape, setup: TrainingSetup, *, learns: bool) -> float:
    """Bytes of the head's logits at a time, and of the gradient of its weights while it is computed.

    In bfloat16 that gradient exists in float32, as bfloat16, and cast back for float32 weights.
    """
    logits = min(setup.logits, setup.tokens * shape.vocabulary) * (FLOAT + HALF * setup.half)
    casts = HALF + (0 if setup.half_weights else FLOAT) if setup.half else 0
    return logits + (shape.embedding * (FLOAT + casts) if learns else 0)


def scoring_memory(
    shape: ModelShape, tokens: int, *, half: bool, logits: int, whole: bool = False, rank: int = 0
) -> dict[str, float]:
    """Bytes on the device of a frozen model that gives log-probabilities or scores, in bfloat16 if `half`.

    whole: the embedding is bfloat16 too. rank: of the adapter that the model is, in float32.
    """
    number = HALF if half else FLOAT
    layer = 6 * shape.width + shape.queries + 2 * shape.keys + shape.matrices * shape.inner * shape.active
    weights = base_bytes(shape, half=half, whole=half and whole) + FLOAT * shape.lora_parameters(rank)
    return {
        "weights": float(weights),
        "head": float(min(logits, tokens * shape.vocabulary) * FLOAT),
        "activations": float(tokens * number * layer),
    }


def fits(shape: ModelShape, setup: TrainingSetup, memory_bytes: float) -> bool:
    """Whether a training fits on a device."""
    return sum(training_memory(shape, setup).values()) <= memory_bytes


def checkpointing_needed(shape: ModelShape, setup: TrainingSetup, memory_bytes: float) -> bool:
    """Whether a training fits on a device only with gradient checkpointing, if at all."""
    return not fits(shape, replace(setup, checkpointed=False), memory_bytes)


def shards_of(sharding: str, world: int, shape: ModelShape | None, setup: TrainingSetup, memory_bytes: float) -> int:
    """Shards of a training on `world` devices; `auto`: several only where it does not fit on one in any way."""
    if sharding != "auto":
        return world if sharding == "fsdp" else 1
    fitting = shape is None or fits(shape, replace(setup, shards=1, checkpointed=True), memory_bytes)
    return 1 if fitting else world
