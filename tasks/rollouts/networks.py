"""The three networks of PPO: the policy and its value network, which learn, and the reference, which does not.

Three networks of P parameters take 36·P bytes with AdamW (weights in float32, gradients and state of two), a little
less in bfloat16; activations and the engine come besides. vLLM on a GPU gets no more than that leaves it.
"""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tasks.contract import DataError
from tasks.kinds import Model, Policy, RewardModel
from tasks.rollouts.token_heads import TokenLogps, TokenValues
from tasks.template import template_digest
from tasks.training.batches import MicroBatch, sorted_micro_batches
from tasks.training.body import Inputs, inputs_of, sender
from tasks.training.device import Device, this_device
from tasks.training.heads import is_classifier
from tasks.training.model import halve_products, open_model, packing_for, positions_of
from tasks.training.packing import PackingConfig, packing_of_all
from tasks.training.reward import open_reward_model
from tasks.training.rows import Ints, Rows
from tasks.training.settings import ComputeConfig


@dataclass(frozen=True)
class Networks:
    """Loaded on one device; weights in float32."""

    policy: TokenLogps
    value: TokenValues
    ref: TokenLogps
    plain: TokenLogps
    """The policy at temperature 1, which samplers' log-probabilities and demonstrations are measured at."""
    device: Device
    half: bool
    """Whether bodies compute in bfloat16."""
    shape: PackingConfig
    checkpointed: bool = False
    """Whether the layers of those that learn compute their activations again in the backward pass."""

    def computing(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.kind, torch.bfloat16, enabled=self.half)

    @property
    def learning(self) -> nn.ModuleDict:
        """Policy and value network, as one module."""
        return nn.ModuleDict({"policy": self.policy.model, "value": self.value.model})

    def inputs(self, batch: MicroBatch) -> Inputs:
        return inputs_of(batch, self.device.torch_device)

    def places(self, rows: Rows, part: Ints) -> Tensor:
        """`places_of` on the device, without waiting for it."""
        return sender(self.device.torch_device)(places_of(rows, part))


def open_networks(
    policy: Policy, value: RewardModel, ref: Policy, temperature: float, compute: ComputeConfig
) -> Networks:
    """Load all three; how rows are laid out suits each of them. Raises DataError and SpecError as their heads do."""
    device = this_device()
    model = open_model(policy, torch.float32).to(device.torch_device)
    critic = open_reward_model(value, torch.float32).to(device.torch_device)
    half = device.dtype(compute.dtype) == torch.bfloat16
    anchor = open_model(ref, torch.float32).requires_grad_(False)
    if half:
        halve_products(anchor)
    anchor.to(device.torch_device)
    shapes = [packing_for(m, device, compute.max_tokens_per_microbatch) for m in (model, critic, anchor)]
    shape = packing_of_all(shapes)
    tempered = TokenLogps(model, temperature)
    plain = tempered if temperature == 1 else TokenLogps(model, 1.0)
    with torch.autocast(device.kind, torch.bfloat16, enabled=half):  # products in bfloat16 need it
        frozen = TokenLogps(anchor, temperature)
    return Networks(tempered, TokenValues(critic), frozen, plain, device, half, shape)


def value_start(policy: Policy, value: RewardModel | None) -> RewardModel:
    """The start of the value network: `value`, else the policy's own. Raises DataError if it cannot serve."""
    start = value or RewardModel(policy.path / "value")
    if value is None and not start.path.is_dir():
        raise DataError(
            f"there is no value network: feed `value` with a reward model (the usual start), or with "
            f"`{{task: value_of, policy: …}}`; the policy at {policy.path} has no value/ of its own, which PPO leaves"
        )
    if not is_classifier(start.path):
        raise DataError(f"{start.path} has no classification head, as a value network needs: `train_reward` makes one")
    return start


def check_tokens(policy: Policy, other: Model, port: str) -> None:
    """Refuse a model that would read the policy's ids as another text. Raises DataError."""
    wanted, own = template_digest(policy), template_digest(other)
    if own == wanted:
        return
    difference = f"`{port}` at {other.path} has tokenizer and template {own}, the policy at {policy.path} has {wanted}"
    if port == "value":
        raise DataError(
            f"{difference}: a value network reads the policy's own ids, token by token. Start it from a reward model "
            "that was trained from this policy (`train_reward`). As `oracle` this one serves: there it reads texts"
        )
    raise DataError(f"{difference}: their log-probabilities are of different tokens. Give a policy with the same files")


def check_room(longest: int, models: dict[str, Model]) -> None:
    """Refuse a model that cannot read the longest prompt and answer. Raises DataError."""
    for port, model in models.items():
        positions = positions_of(model)
        if positions is not None and positions < longest:
            raise DataError(
                f"`{port}` at {model.path} reads {positions} positions, and a prompt with its answer may have "
                f"{longest}: give a smaller max_tokens"
            )


def read_tokens(networks: Networks, rows: Rows, which: dict[str, nn.Module]) -> dict[str, Tensor]:
    """The output of each network for every answer token, `(M,)` float32 on the CPU, answers end to end as in `rows`.

    They stay on the device until the last micro-batch, so that a GPU is never waited for in between.
    """
    out = torch.empty(len(which), int(rows.answers.offsets[-1]), device=networks.device.torch_device)
    for batch in sorted_micro_batches(rows, networks.shape):
        inputs, places = networks.inputs(batch), networks.places(rows, batch.rows)
        with torch.inference_mode(), networks.computing():
            for row, network in zip(out, which.values(), strict=True):
                row[places] = network(inputs).float()
    return dict(zip(which, out.cpu(), strict=True))


def places_of(rows: Rows, part: Ints) -> Ints:
    """Where the tokens of these rows' answers lie among those of all rows, in the order of `part`."""
    offsets = rows.answers.offsets
    return np.concatenate([np.arange(offsets[i], offsets[i + 1]) for i in part.tolist()])
