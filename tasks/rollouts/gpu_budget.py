"""The memory of a device that the networks need once they train, and what is left of it for an engine."""

from dataclasses import replace
from typing import Any, NamedTuple

import torch

from tasks.calls import Adapter, StateBytes
from tasks.contract import Chosen, SpecError, Workspace
from tasks.rollouts.memory import ONE_AT_A_TIME, Learner, checkpointing_wanted, engine_bytes, engine_need
from tasks.rollouts.networks import Networks
from tasks.rollouts.one_base import VALUE
from tasks.rollouts.settings import LoopConfig
from tasks.training.adapters import NAME, adapter_in
from tasks.training.gradient_checkpointing import use_gradient_checkpointing
from tasks.training.memory import FLOAT, ModelShape, TrainingSetup, scoring_memory


class EngineMemory(NamedTuple):
    """How an engine shares a GPU with the networks."""

    share: float
    """Of the GPU's memory, that vLLM takes for its weights, keys and values."""
    rests: bool
    """Whether the engine gives its memory back while the networks learn."""


def with_remaining_memory(
    engine: Chosen,
    networks: Networks,
    state: StateBytes,
    answers: int,
    longest: int,
    work: Workspace,
    *,
    may_rest: bool,
) -> tuple[Chosen, bool]:
    """The engine with no more memory than the networks leave it, and whether it must rest while they learn.

    Only vLLM takes its share at once, and refuses where that much is not free. answers: of an iteration. longest:
    tokens of a prompt with its answer. Raises SpecError where nothing is left.
    """  # fmt: skip
    if not networks.device.is_gpu:
        return engine, False
    free, total = torch.cuda.mem_get_info(networks.device.torch_device)
    to_come, shape = bytes_to_come(networks, state), _shape_of(networks.policy.model)
    need = engine_need(shape, engine, answers, longest) if shape else 0.0
    if engine.name != "vllm":
        return engine, may_rest and need > free - to_come
    configured = engine.execution.get("gpu_memory")
    wanted = float(configured) if isinstance(configured, int | float) else 1.0
    lasting = state.device * _learning_parameters(networks)
    memory = shared_memory(wanted, need, free, total, to_come, lasting, may_rest=may_rest)
    if memory.share < wanted or memory.rests:
        work.notice(
            f"vLLM gets {memory.share:.0%} of the GPU's memory, not {wanted:.0%}: the rest is for the networks"
            + (", which have all of it while they learn" if memory.rests else "")
        )
    return replace(engine, execution={**engine.execution, "gpu_memory": memory.share}), memory.rests


def shared_memory(
    wanted: float, need: float, free: int, total: int, to_come: float, lasting: float, *, may_rest: bool
) -> EngineMemory:
    """The engine rests where it could not hold an iteration's answers beside networks that learn, and then has what
    they leave it between two updates. Raises SpecError where that is nothing.

    wanted: share of the memory that the engine may have. need: bytes of its weights, and of keys and values of an
    iteration's answers. free: bytes, of `total`, beside the loaded networks. to_come: bytes that the networks take
    once they learn; `lasting` of these, the optimizer's state, stay.
    """
    if not may_rest or min(need, wanted * total) <= free - to_come:
        return EngineMemory(fitting_share(wanted, free, total, to_come), rests=False)
    return EngineMemory(fitting_share(wanted, free, total, lasting), rests=True)


def with_room_for(adapter: Adapter | None, engine: Chosen) -> Chosen:
    """The engine with room for the policy's adapter from the beginning, so that vLLM does not load its base again."""
    if adapter is None or engine.name != "vllm":
        return engine
    configured = engine.execution.get("lora_rank")
    rank = max(configured if isinstance(configured, int) else 0, adapter.rank)
    return replace(engine, execution={**engine.execution, "lora_rank": rank})


def with_gradient_checkpointing(
    networks: Networks, engine: Chosen, state: StateBytes, config: LoopConfig, k: int
) -> Networks:
    """The networks, whose layers compute activations again in the backward pass where the configuration says so.

    k: answers that are sampled to a prompt.

    Raises SpecError where they are to, and have no layers that can.
    """
    learning, answers = _learning(networks, state), config.rollout.prompts_per_iteration * k
    frozen = {"engine": engine_bytes(learning[0].shape, engine, answers)} if learning else {}
    ref = networks.ref
    if ref and ref.model is not networks.policy.model and (shape := _shape_of(ref.model)):
        frozen["reference"] = scoring_memory(shape, 0, half=networks.half, logits=0)["weights"]
    if not checkpointing_wanted(config.compute.gradient_checkpointing, learning, frozen, networks.device.memory_bytes):
        return networks
    # A body that both share must not be wrapped twice.
    bodies = {model.base_model: model for model in networks.learning.values()}
    for model in bodies.values():
        use_gradient_checkpointing(model)
    return replace(networks, checkpointed=True)


def bytes_to_come(networks: Networks, state: StateBytes) -> float:
    """What the networks take once they train: gradients, the optimizer's state, and the activations of one of them."""
    learning = _learning_parameters(networks)
    needs = (one.parts.items() for one in _learning(networks, state))
    passing = (sum(size for part, size in need if part in ONE_AT_A_TIME) for need in needs)
    return (FLOAT + state.device) * learning + max(passing, default=0.0)


def _learning_parameters(networks: Networks) -> int:
    return sum(p.numel() for parameters in networks.learned for p in parameters)


def _learning(networks: Networks, state: StateBytes) -> list[Learner]:
    """Those of known shape."""
    policy = networks.policy.model
    setup = TrainingSetup(
        networks.shape.tokens, networks.half, networks.device.head_logits, state, checkpointed=networks.checkpointed
    )
    models = [(policy, NAME, False)]
    if networks.value is not None:
        value = networks.value.model
        models.append((value, VALUE, value.base_model is policy.base_model))
    return [
        Learner(shape, replace(setup, rank=adapter.rank if adapter else 0), on_base)
        for model, name, on_base in models
        for shape, adapter in [(_shape_of(model), adapter_in(model, name))]
        if shape
    ]


def _shape_of(model: Any) -> ModelShape | None:
    return ModelShape.of(model.config.to_dict())


def fitting_share(wanted: float, free: int, total: int, to_come: float) -> float:
    """`wanted`, or the whole percents of `total` bytes that are left of `free`. Raises SpecError below one."""
    share = min(wanted, int(100 * (free - to_come) / total) / 100)
    if share < 0.01:
        raise SpecError(
            f"no memory is left for vLLM: {free / 2**30:.1f} of the GPU's {total / 2**30:.1f} GiB are free beside the "
            f"networks, and their gradients, optimizer and activations take {to_come / 2**30:.1f} more. Take smaller "
            "models, another optimizer, or a GPU that nothing else runs on"
        )
    return share
