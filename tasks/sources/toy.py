"""The embedded toy world: prompts and demonstrations, made by rule, and the world's declaration.

The module top needs the standard library only, because light commands read `world`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.contract import Add, ChoiceSpec, Seed, WorldSpec
from tasks.worlds import SPLITS

if TYPE_CHECKING:
    from tasks.kinds import Policy
    from tasks.source import World

identity = None


def toy(*, tones: list[float] = [0.5, 0.3, 0.2], seed: Seed = 0) -> World:
    """Questions about animals, answered by writers of random quality.

    Args:
        tones: shares of the warm, formal and playful openings among the writers' opening lines.
        seed: which world: facts, splits, demonstrations.
    """
    from tasks.worlds.toy import ToyWorld
    from tasks.worlds.toy_source import ToySource

    return ToySource(ToyWorld(seed, tuple(tones)))


def base_policy(add: Add, source: ChoiceSpec) -> Policy:
    """A small Llama from random weights, fine-tuned on answers of mixed quality, so that much is left to learn."""
    seed = source.params["seed"]
    answers = add("load_demonstrations", source=source, split="sft")
    return add(
        "train", policy=add("init_policy", demonstrations=answers, seed=seed), data=answers,
        loss={"sft": {"average": "answer"}}, lr=3e-3, steps=300, batch=32, schedule="cosine",
        optimizer={"adamw": {"betas": [0.9, 0.95]}}, warmup=0.1, max_grad_norm=15.0, seed=seed,
    )  # fmt: skip


world = WorldSpec(
    base_policy=base_policy,
    splits={"sft": SPLITS["rm"] + SPLITS["policy"], **SPLITS},
    human_split="rm",
    gold="toy_gold",
    oracles=("toy_gold", "toy_judge", "toy_cycle", "toy_length"),
    scorers=("toy_gold", "toy_length"),
    own_values=("lr",),
)
