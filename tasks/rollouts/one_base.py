"""The networks of a training whose policy is an adapter, on as few base models in memory as possible.

The policy is the base with its adapter. The reference is the base alone, where `ref` is the base, or the base with a
frozen adapter, where `ref` is an adapter of it. The value network is the same body with an adapter and a head of its
own, where `value` is an adapter of the base. A reference that is another model, and a value network that is a whole
reward model, have weights of their own, and the latter learns as a whole.

A network switches to its own layers when it is called, and they stay in use until the next one is called, so that a
backward pass that computes layers again finds them, too.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from tasks.calls import Adapter
from tasks.contract import DataError, SpecError
from tasks.kinds import Policy, RewardModel
from tasks.rollouts.token_heads import TokenLogps, TokenValues
from tasks.training.adapters import (
    NAME,
    adapted_layers,
    layers_of,
    learning_parameters,
    read_layers,
    use_layers,
)  # fmt: skip
from tasks.training.learner import check_learner, open_learner
from tasks.training.model import is_same, open_frozen, open_model
from tasks.training.reward import classifier_on, open_reward_model
from tasks.training.settings import ComputeConfig, TrainComputeConfig

VALUE, REFERENCE = "value", "reference"
"""Names of the layers of value network and reference on the policy's base; the policy's own are `NAME`."""


def check_adapters(policy: Policy, value: RewardModel | None, adapter: Adapter | None) -> None:
    """Refuse models that cannot learn together, before they are read. Raises SpecError and DataError.

    adapter: that of the policy; None: the whole policy learns.
    """
    check_learner(policy, adapter, "float32")
    if value is None or value.adapter is None:
        return
    if adapter is None:
        raise SpecError(
            f"`value` at {value.path} is an adapter, and the whole policy is to learn: set `adapter`, or `merge` the "
            "reward model"
        )
    if not is_same(value.whole, policy.whole):
        raise DataError(
            f"`value` at {value.path} is an adapter of {value.whole.path}, and the policy's base is "
            f"{policy.whole.path}: train the reward model from the policy's base (`train_reward` with `adapter`), or "
            "`merge` it"
        )


def open_on_base(
    policy: Policy, value: RewardModel | None, ref: Policy | None, adapter: Adapter, compute: ComputeConfig, *,
    half: bool, seed: int,
) -> tuple[Any, Any, Any]:  # fmt: skip
    """Models of policy, value network and reference, which may share modules; those that learn alone need gradients.
    None for one that there is not.

    half: whether bodies compute in bfloat16. seed: draws a new adapter of the policy.
    """
    settings = TrainComputeConfig(compute.dtype)
    model = open_learner(policy, adapter, lambda dtype: open_model(policy, dtype), lambda m: m, settings, seed)
    critic: Any = value and _open_value(model, value)
    anchor = ref and _open_reference(model, policy, ref, half=half)
    learning, head = {*learning_parameters(model).values()}, []
    if value is not None and value.adapter is not None:
        learning |= {*learning_parameters(critic, VALUE).values()}
        head = [*critic.score.parameters()]
    for parameter in (*model.parameters(), *head):
        parameter.requires_grad_(parameter in learning)
    return model, critic, anchor


def _open_value(model: Any, value: RewardModel) -> Any:
    if value.adapter is None:
        return open_reward_model(value, torch.float32).to(model.device)
    critic = classifier_on(model, value)
    read_layers(critic, value, VALUE, head=True)
    return critic


def _open_reference(model: Any, policy: Policy, ref: Policy, *, half: bool) -> Any:
    if not is_same(ref.whole, policy.whole):
        return open_frozen(ref, lambda dtype: open_model(ref, dtype), "float32", half=half).to(model.device)
    if ref.adapter is not None:
        read_layers(model, ref, REFERENCE)
    return model


def switch_to(network: TokenLogps | TokenValues, name: str | None) -> None:
    """Whenever a network is called, its model computes with the layers of this name, with None as its base alone."""
    layers = adapted_layers(network.model)
    network.register_forward_pre_hook(lambda *_: use_layers(layers, name))
    if isinstance(network, TokenLogps):
        network.select_layers = lambda: use_layers(layers, name)


def reference_layers(ref: Policy | None, models: tuple[Any, Any, Any]) -> str | None:
    """Name of the layers that the reference computes with. models: as `open_on_base`."""
    model, _, anchor = models
    if ref is None or ref.adapter is None:
        return None
    return REFERENCE if anchor is model else NAME


def learned_by(model: Any, name: str) -> list[nn.Parameter]:
    """What learns in a model: its layers of this name with its head, else all of it."""
    return list(learning_parameters(model, name).values() if layers_of(model, name) else model.parameters())
