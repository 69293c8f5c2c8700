"""What reinforcement learning needs of a device's memory. Light, because `plan` calls it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from tasks.contract import Chosen
from tasks.declarations import Machine, Memory, StepView
from tasks.rollouts.planning import answers_per_prompt
from tasks.rollouts.wiring import base_of, value_rank
from tasks.training.learner import rank_of
from tasks.training.memory import (
    FLOAT,
    HALF,
    ModelShape,
    TrainingSetup,
    base_bytes,
    host_memory,
    scoring_memory,
    training_memory,
)
from tasks.training.passes import alternatives, setup_of, shape_of

ONE_AT_A_TIME = {"activations": max, "head": max, "bfloat16 copies of weights": max}
"""What exists for one network alone, because the other's graph is gone."""

SEQUENCES = 256
"""Sequences that vLLM decodes at once on a GPU, by default at least."""


class Learner(NamedTuple):
    """A network that learns."""

    shape: ModelShape
    setup: TrainingSetup
    on_base: bool = False
    """Whether its base is in memory for another network anyway."""

    @property
    def parts(self) -> dict[str, float]:
        """Bytes by what needs them."""
        parts = training_memory(self.shape, self.setup)
        if self.on_base:
            parts["weights"] -= base_bytes(self.shape, half=self.setup.half, whole=self.setup.half_weights)
        return parts


def memory_of_ppo(step: StepView, machine: Machine) -> Memory | None:
    """Policy and value network as in a training, one's activations at a time; the reference; the engine's weights and
    its cache. Adapters of one base need that once."""
    return _memory(step, machine, critic=True)


def memory_without_critic(step: StepView, machine: Machine) -> Memory | None:
    """The same of a method without a value network, and without a reference where none is fed."""
    return _memory(step, machine, critic=False)


def memory_with_teacher(step: StepView, machine: Machine) -> Memory | None:
    """The same with a teacher in the reference's place."""
    return _memory(step, machine, critic=False, anchor="teacher")


def _memory(step: StepView, machine: Machine, *, critic: bool, anchor: str = "ref") -> Memory | None:
    policy, ref, start = step.first("policy"), step.first(anchor), step.first("value")
    shape, value = shape_of(policy), shape_of(start) or shape_of(policy)
    if policy is None or shape is None or value is None or (ref is not None and shape_of(ref) is None):
        return None
    machine = replace(machine, sharding="ddp")  # the networks lie whole in every rank
    own = [setup_of(step, shape, machine)]
    if critic:
        own.append(replace(setup_of(step, value, machine), rank=value_rank(step)))
    answers = step.params["prompts_per_iteration"] * answers_per_prompt(step.params)
    engine = engine_bytes(shape, step.choices["engine"], answers)

    def learning(setups: Sequence[TrainingSetup]) -> list[Learner]:
        second = [Learner(value, setup, on_base=setup.rank > 0) for setup in setups[1:]]
        return [Learner(shape, setups[0]), *second]

    def frozen(setup: TrainingSetup) -> dict[str, float]:
        if ref is None:
            return {"engine": engine}
        shared = setup.rank > 0 and base_of(ref).origin is base_of(policy).origin
        return {
            "teacher" if anchor == "teacher" else "reference": _reference_bytes(ref, setup, shared=shared),
            "engine": engine,
        }

    def need(setups: Sequence[TrainingSetup]) -> Memory:
        several = learning(setups)
        host = sum(host_memory(one.shape, one.setup) for one in several)
        return Memory(together([one.parts for one in several], frozen(setups[0])), host)

    again = checkpointing_wanted(
        step.params["gradient_checkpointing"], learning(own), frozen(own[0]), machine.device_bytes
    )
    own = [replace(setup, checkpointed=again) for setup in own]
    changes = {
        f"{change}, and for the reward model" if critic and change.startswith("adapter") else change: memory
        for change, memory in alternatives(own, need, machine, step).items()
        if "weight_dtype" not in change
    }
    return replace(need(own), alternatives=changes)


def checkpointing_wanted(
    setting: str, learning: Sequence[Learner], frozen: Mapping[str, float], device_bytes: float
) -> bool:
    """Whether policy and value network compute activations again; `auto`: where PPO does not fit on the device
    otherwise. Without a known shape it does not. frozen: bytes of what lies beside them."""
    if setting != "auto" or not learning:
        return setting == "on"
    plain = [one._replace(setup=replace(one.setup, checkpointed=False)).parts for one in learning]
    return sum(together(plain, frozen).values()) > device_bytes


def together(learning: Sequence[Mapping[str, float]], frozen: Mapping[str, float]) -> dict[str, float]:
    """Bytes by what needs them, of networks that learn in turn, and of what lies beside them."""
    names = learning[0]
    return {n: float(ONE_AT_A_TIME.get(n, sum)([need[n] for need in learning])) for n in names} | dict(frozen)


def _reference_bytes(ref: StepView, setup: TrainingSetup, *, shared: bool) -> float:
    """Bytes of the reference: those of its adapter, if it has one, where it shares the policy's base."""
    shape, rank = shape_of(ref), rank_of(ref)
    assert shape
    if shared:
        return float(FLOAT * shape.lora_parameters(rank))
    return scoring_memory(shape, 0, half=setup.half, logits=0, rank=rank)["weights"]


def engine_bytes(shape: ModelShape, engine: Chosen, answers: int) -> float:
    """Weights and cached keys and values of the engine. vLLM on a GPU takes what is left for its cache."""
    number = HALF if engine.params.get("dtype") == "bfloat16" else FLOAT
    limit, rows = engine.params.get("memory"), engine.params.get("batch")
    column = 2 * shape.layers * shape.keys * number
    longest = min(answers, int(str(rows or answers))) * column * shape.positions
    cache = min(longest, float(str(limit)) * 2**30) if limit else 0.0
    return number * shape.parameters + cache


def engine_need(shape: ModelShape, engine: Chosen, answers: int, longest: int) -> float:
    """Bytes with which an engine on a GPU samples an iteration's answers at once, as far as it takes them at once.

    longest: tokens of a prompt with its answer.
    """
    number = FLOAT if engine.params.get("dtype") == "float32" else HALF
    cache = min(answers, SEQUENCES) * longest * 2 * shape.layers * shape.keys * number
    limit = engine.params.get("memory")
    return number * shape.parameters + (min(cache, float(str(limit)) * 2**30) if limit else cache)
