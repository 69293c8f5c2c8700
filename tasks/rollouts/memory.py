"""What PPO needs of a device's memory. Light: a plan asks."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from tasks.contract import Chosen
from tasks.declarations import Machine, Memory, StepView
from tasks.training.memory import FLOAT, HALF, ModelShape, TrainingSetup, scoring_memory, training_memory
from tasks.training.passes import setup_of, shape_of, training_need

ONE_AT_A_TIME = {"activations": max, "head": max, "bfloat16 copies of weights": max}
"""What exists for one network alone, because the other's graph is gone."""
Learning = Sequence[tuple[ModelShape, TrainingSetup]]
"""The networks that learn, each with what decides its memory."""


def memory_of_ppo(step: StepView, machine: Machine) -> Memory | None:
    """Policy and value network as in a training, one's activations at a time; the reference; the engine's weights and
    its cache."""
    policy, ref = shape_of(step.first("policy")), shape_of(step.first("ref"))
    value = shape_of(step.first("value")) or policy
    if policy is None or value is None or ref is None:
        return None
    answers = step.params["prompts_per_iteration"] * step.params["k"]
    frozen = frozen_bytes(policy, ref, step.choices["engine"], answers, half=step.params["dtype"] == "bfloat16")
    learning = [(shape, setup_of(step, shape, machine)) for shape in (policy, value)]
    again = checkpointing_wanted(step.params["gradient_checkpointing"], learning, frozen, machine.device_bytes)
    needs = [training_need(step, shape, machine, replace(setup, checkpointed=again)) for shape, setup in learning]

    def both(one: Memory, other: Memory) -> Memory:
        return Memory(together([one.parts, other.parts], frozen), one.host + other.host)

    changes = {
        change: both(need, needs[1].alternatives[change])
        for change, need in needs[0].alternatives.items()
        if "weight_dtype" not in change
    }
    return replace(both(*needs), alternatives=changes)


def checkpointing_wanted(setting: str, learning: Learning, frozen: Mapping[str, float], device_bytes: float) -> bool:
    """Whether policy and value network compute activations again; `auto`: where PPO does not fit on the device
    otherwise. Without a known shape it does not. frozen: as `frozen_bytes`."""
    if setting != "auto" or not learning:
        return setting == "on"
    needs = [training_memory(shape, replace(setup, checkpointed=False)) for shape, setup in learning]
    return sum(together(needs, frozen).values()) > device_bytes


def together(learning: Sequence[Mapping[str, float]], frozen: Mapping[str, float]) -> dict[str, float]:
    """Bytes by what needs them, of networks that learn in turn, and of what lies beside them."""
    names = learning[0]
    return {n: float(ONE_AT_A_TIME.get(n, sum)([need[n] for need in learning])) for n in names} | dict(frozen)


def frozen_bytes(policy: ModelShape, ref: ModelShape, engine: Chosen, answers: int, *, half: bool) -> dict[str, float]:
    """Bytes of reference and engine. half: whether the networks compute in bfloat16."""
    reference = scoring_memory(ref, 0, half=half, logits=0)["weights"]
    return {"reference": reference, "engine": engine_bytes(policy, engine, answers)}


def engine_bytes(shape: ModelShape, engine: Chosen, answers: int) -> float:
    """Weights and cached keys and values of the engine. vLLM on a GPU takes what is left for its cache."""
    number = HALF if engine.params.get("dtype") == "bfloat16" else FLOAT
    limit, rows = engine.params.get("memory"), engine.params.get("batch")
    column = 2 * shape.layers * shape.keys * number
    longest = min(answers, int(str(rows or answers))) * column * shape.positions
    cache = min(longest, float(str(limit)) * 2**30) if limit else 0.0
    return number * shape.parameters + cache
