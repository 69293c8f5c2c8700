"""What PPO needs of a machine's memory. Light: a plan asks."""

from dataclasses import replace

from tasks.contract import Chosen
from tasks.declarations import Machine, Memory, StepView
from tasks.training.memory import FLOAT, HALF, ModelShape, scoring_memory
from tasks.training.passes import shape_of, training_need


def memory_of_ppo(step: StepView, machine: Machine) -> Memory | None:
    """Policy and value network as in a training, one's activations at a time; the reference; the engine's weights and
    its cache."""
    policy, ref = shape_of(step.first("policy")), shape_of(step.first("ref"))
    value = shape_of(step.first("value")) or policy
    if policy is None or value is None or ref is None:
        return None
    needs = training_need(step, policy, machine), training_need(step, value, machine)
    frozen = {
        "reference": scoring_memory(ref, 0, half=step.params["dtype"] == "bfloat16", logits=0)["weights"],
        "engine": engine_bytes(policy, step.choices["engine"], step.params["prompts_per_iteration"] * step.params["k"]),
    }  # fmt: skip

    def both(one: Memory, other: Memory) -> Memory:
        parts = {n: ONE_AT_A_TIME.get(n, sum)((b, other.parts[n])) for n, b in one.parts.items()}
        return Memory({**parts, **frozen}, one.host + other.host)

    changes = {
        change: both(need, needs[1].alternatives[change])
        for change, need in needs[0].alternatives.items()
        if "weight_dtype" not in change
    }
    return replace(both(*needs), alternatives=changes)


ONE_AT_A_TIME = {"activations": max, "head": max, "bfloat16 copies of weights": max}
"""What exists for one network alone, because the other's graph is gone."""


def engine_bytes(shape: ModelShape, engine: Chosen, answers: int) -> float:
    """Weights and cached keys and values of the engine. vLLM on a GPU takes what is left for its cache."""
    number = HALF if engine.params.get("dtype") == "bfloat16" else FLOAT
    limit, rows = engine.params.get("memory"), engine.params.get("batch")
    column = 2 * shape.layers * shape.keys * number
    longest = min(answers, int(str(rows or answers))) * column * shape.positions
    cache = min(longest, float(str(limit)) * 2**30) if limit else 0.0
    return number * shape.parameters + cache
