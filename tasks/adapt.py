"""Adapters: those of users come in, and all become whole models."""

from typing import Annotated, Any, Literal

from tasks.contract import Choice, Chosen, DataError, SpecError, Workspace
from tasks.declarations import HEAVY, Machine, Memory, StepView
from tasks.formats.early import check_peft_directory
from tasks.kinds import AnyModel, Policy, RewardModel
from tasks.source import Source
from tasks.training.memory import FLOAT
from tasks.training.passes import shape_of

merge_resources = HEAVY
load_adapter_resources = HEAVY
load_adapter_files = check_peft_directory


def merge_wiring(step: StepView) -> None:
    """Refuse what is known to be a whole model."""
    source = step.first("policy")
    if source is not None and "adapter" in source.params:
        raise SpecError("`policy` is a whole model, because the step that trains it has no `adapter`: nothing to merge")


def merge_memory(step: StepView, _machine: Machine) -> Memory | None:
    """The base in float32, in the machine's memory."""
    shape = shape_of(step.first("policy"))
    return Memory({}, host=FLOAT * shape.parameters) if shape else None


def merge(
    policy: AnyModel,
    work: Workspace,
    *,
    dtype: Literal["float32", "bfloat16"] = "float32",
) -> AnyModel:
    """The whole model that an adapter makes of its base: the adapter's products are added to the base's weights.

    Raises DataError for a whole model.

    Args:
        dtype: of the stored weights. Sums are float32; bfloat16 rounds away what an adapter adds below 1/512 of a
            weight, so that log-probabilities change.
    """
    import torch

    from tasks.training.adapters import merge_layers
    from tasks.training.model import open_model, save_model
    from tasks.training.reward import open_reward_model, save_reward_model

    if policy.adapter is None:
        raise DataError(f"{policy.path} is a whole model: nothing to merge")
    opening: Any = open_reward_model if isinstance(policy, RewardModel) else open_model
    saving: Any = save_reward_model if isinstance(policy, RewardModel) else save_model
    model = opening(policy, torch.float32)
    merge_layers(model)
    saving(model, policy, work.output, dtype)
    return type(policy)(work.output)


def load_adapter(
    policy: Policy,
    work: Workspace,
    *,
    source: Annotated[Chosen, Choice("sources", other="path")],
) -> Policy:
    """A LoRA adapter as peft stores it (adapter_config.json, adapter_model.safetensors) on its base policy.

    It computes what peft computes, and trainings go on with it where their `adapter` is the same. Raises DataError
    where names or shapes are not those of the policy, and for settings that are not supported (DoRA, modules_to_save,
    biases, ranks by layer).

    Args:
        source: a local directory, or a hub id.
    """
    from tasks.formats.peft_files import read_settings, read_tensors
    from tasks.training.adapters import layers_for, write_adapter
    from tasks.training.model import copy_files, model_without_weights

    if policy.adapter is not None:
        raise DataError(f"{policy.path} is itself an adapter: `merge` it, or give its base")
    opened = source()
    if not isinstance(opened, Source):
        raise TypeError(f"{source.module} must return a Source, not {type(opened).__name__}")
    path = opened.pinned(source.identity).adapter()
    settings, tensors = read_settings(path), read_tensors(path)
    adapter = layers_for(model_without_weights(policy), tensors, settings.rank, settings.alpha, str(path))
    if settings.base:
        work.notice(f"the adapter {path.name} says that its base is {settings.base}; its shapes are those of `policy`, "
                    "but that does not show that both are the same model")  # fmt: skip
    write_adapter(work.output, adapter, tensors, policy)
    copy_files(policy, work.output)
    return Policy(work.output, base=policy)
