"""What trainings that go over a table, and scorings of one, declare. Light: a plan asks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from tasks.calls import StateBytes
from tasks.contract import COUPLES_ROWS
from tasks.declarations import Cost, Curve, Machine, Memory, StepView, Training
from tasks.training.device import head_logits
from tasks.training.learner import rank_of
from tasks.training.memory import (
    ModelShape,
    TrainingSetup,
    checkpointing_needed,
    host_memory,
    scoring_memory,
    shards_of,
    tokens_for,
    training_memory,
)


def optimizer_steps(step: StepView) -> float:
    """As many as its `steps` says, else those of all passes over the rows of its `data`."""
    rows, params = step.rows_of("data"), step.params
    return params["steps"] or -(-rows // params["batch"]) * params["epochs"]


def cost_of_passes(step: StepView) -> Cost:
    return {"steps": optimizer_steps(step)}


def rows_trained(step: StepView) -> float:
    return optimizer_steps(step) * step.params["batch"]


def forward_passes(step: StepView) -> float:
    """What a fit's time is proportional to: rows, times 3 for a forward and a backward pass over their answers.

    A pair with a target has three answers instead of two. Answers to other prompts cost a forward pass more, and so
    does a loss that couples rows, if the batch does not fit in one pass.
    """
    answers = 1.5 if step.inputs.get("targets") else 1.0
    coupled = step.declares("loss", COUPLES_ROWS) is not None
    each = answers * (3 + coupled) + bool(step.inputs.get("mismatched"))
    return rows_trained(step) * each


def training_by_loss(step: StepView) -> Training:
    constants = {name: step.params.get(name) for name in ("lr", "epochs", "batch")}
    return Training(step.choices["loss"].name, constants=constants)


def check_optimizer(step: StepView) -> None:
    """Raise SpecError for an optimizer that cannot be used on this machine."""
    check = step.declares("optimizer", "check_machine")
    if check is not None:
        check()


def shape_of(step: StepView | None) -> ModelShape | None:
    """The shape of the model that a step makes; None where it is not known."""
    return ModelShape.of(step.config) if step and step.config else None


def memory_of_passes(step: StepView, machine: Machine) -> Memory | None:
    """What a training needs, and what it would need otherwise."""
    shape = shape_of(step.first("policy"))
    return training_need(step, shape, machine) if shape else None


def training_need(step: StepView, shape: ModelShape, machine: Machine) -> Memory:
    """What a training needs, and what it would need otherwise."""

    def need(setups: Sequence[TrainingSetup]) -> Memory:
        return Memory(training_memory(shape, setups[0]), host_memory(shape, setups[0]))

    own = [setup_of(step, shape, machine)]
    return replace(need(own), alternatives=alternatives(own, need, machine, step))


def alternatives(
    own: Sequence[TrainingSetup], need: Callable[[Sequence[TrainingSetup]], Memory], machine: Machine, step: StepView
) -> dict[str, Memory]:
    """Changes of a step's parameters → what it would need then. own: of all models that it trains, as it is."""

    def changed(setups: Sequence[TrainingSetup]) -> dict[str, Memory]:
        each = [dict(_changes(setup, machine, step)) for setup in setups]
        common = [change for change in each[0] if all(change in one for one in each)]
        return {change: need([one[change] for one in each]) for change in common}

    several = changed(own)
    if own[0].tokens > _FEW_TOKENS and not any(one.fits(machine) for one in several.values()):
        fewer = changed([replace(setup, tokens=_FEW_TOKENS) for setup in own])
        several = {f"{change}, max_tokens_per_microbatch: {_FEW_TOKENS}": one for change, one in fewer.items()}
    return several


def setup_of(step: StepView, shape: ModelShape, machine: Machine) -> TrainingSetup:
    """What decides the memory of a training, by the parameters of its step."""
    state = step.declares("optimizer", "state_bytes")
    setup = TrainingSetup(
        step.params["max_tokens_per_microbatch"] or tokens_for(shape, machine.gpu),
        half=step.params["dtype"] == "bfloat16", logits=head_logits(gpu=machine.gpu),
        state=state() if state else StateBytes(device=8),
        half_weights=step.params.get("weight_dtype") == "bfloat16", rank=rank_of(step),
    )  # fmt: skip
    memory = machine.device_bytes if machine.gpu else machine.device_bytes / machine.ranks
    by_element = step.declares("optimizer", "steps_by_element")
    if by_element and by_element():
        setup = replace(setup, shards=shards_of(machine.sharding, machine.ranks, shape, setup, memory))
    how = step.params.get("gradient_checkpointing", "off")
    needed = how == "auto" and checkpointing_needed(shape, setup, memory)
    return replace(setup, checkpointed=how == "on" or needed)


def _changes(own: TrainingSetup, machine: Machine, step: StepView) -> Iterator[tuple[str, TrainingSetup]]:
    """Changes of a step's parameters that take less memory."""
    from tasks.optimizers import adafactor, adamw_8bit, adamw_offloaded

    whole = {"adamw_8bit": adamw_8bit.state_bytes(), "adafactor": adafactor.state_bytes()}
    optimizers = {
        **(whole if own.shards == 1 else {}),
        **({"adamw_offloaded": adamw_offloaded.state_bytes()} if machine.gpu else {}),
    }  # fmt: skip
    more = ""
    if "gradient_checkpointing" in step.params and not own.checkpointed:
        more, own = ", gradient_checkpointing: on", replace(own, checkpointed=True)
        yield "gradient_checkpointing: on", own
    if own.rank:
        yield f"weight_dtype: bfloat16{more}", replace(own, half_weights=True)
        return
    for name, state in optimizers.items():
        yield f"optimizer: {name}{more}", replace(own, state=state)
    if own.half and not own.half_weights:
        for name, state in optimizers.items():
            yield f"optimizer: {name}, weight_dtype: bfloat16{more}", replace(own, state=state, half_weights=True)
    if "adapter" in step.params:
        yield f"adapter: {{lora: {{rank: {_RANK}}}}}{more}", replace(own, rank=_RANK)


def memory_of_scoring(step: StepView, machine: Machine, port: str = "policy") -> Memory | None:
    """What a frozen model needs that reads a table, and what it would need otherwise."""
    shape = shape_of(step.first(port))
    if shape is None:
        return None
    tokens = step.params.get("max_tokens_per_microbatch") or tokens_for(shape, machine.gpu)
    whole = step.params.get("weight_dtype", "bfloat16") == "bfloat16"
    half = step.params["dtype"] == "bfloat16" or (whole and "weight_dtype" in step.params)
    logits, rank = head_logits(gpu=machine.gpu), rank_of(step.first(port))

    def need(tokens: int, half: bool) -> Memory:
        return Memory(scoring_memory(shape, tokens, half=half, logits=logits, whole=whole, rank=rank))

    several = {} if half else {"dtype: bfloat16": need(tokens, True)}
    if tokens > _FEW_TOKENS and "max_tokens_per_microbatch" in step.params:
        several[", ".join([*several, f"max_tokens_per_microbatch: {_FEW_TOKENS}"])] = need(_FEW_TOKENS, True)
    return replace(need(tokens, half), alternatives=several)


_RANK = 16
"""Of the adapter that a plan offers."""
_FEW_TOKENS = 2048
"""Of a micro-batch, where memory is short."""

CURVES = {
    "train/loss": Curve("loss"),
    "rewards/margins": Curve("margin of rewards, chosen − rejected", role="margin"),
    "rewards/accuracies": Curve("pairs whose chosen reward is higher", "share"),
    "train/kl_reference": Curve("log-ratio of mismatched answers", "nats"),
    "rewards/chosen": Curve("reward of chosen answers", role="chosen_reward"),
    "grad_norm": Curve("gradient norm"),
    "lr": Curve("learning rate", exact=True),
    "tokens_per_second": Curve("tokens per second"),
    "rewards/rejected": Curve("reward of rejected answers", role="rejected_reward"),
    "logps/chosen": Curve("log-probability of chosen answers", "nats per answer", role="chosen"),
    "logps/rejected": Curve("log-probability of rejected answers", "nats per answer", role="rejected"),
}
