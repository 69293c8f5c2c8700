"""The networks of reinforcement learning: the policy and, for some methods, its value network, which learn, and the
reference, which does not.

Three networks of P parameters take 36·P bytes with AdamW (weights in float32, gradients and state of two), a little
less in bfloat16; activations and the engine come besides. vLLM on a GPU gets no more than that leaves it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tasks.calls import Adapter
from tasks.contract import DataError
from tasks.kinds import Model, Policy, RewardModel
from tasks.ranks import Ranks, add_up, join, this_rank
from tasks.rollouts.one_base import VALUE, learned_by, open_on_base, reference_layers, switch_to
from tasks.rollouts.token_heads import TokenDivergence, TokenLogps, TokenValues
from tasks.template import template_digest
from tasks.training.adapters import NAME, adapter_in, learning_parameters
from tasks.training.batches import MicroBatch, micro_batches, sorted_micro_batches
from tasks.training.body import Inputs, inputs_of, sender
from tasks.training.device import Device, this_device
from tasks.training.heads import check_one_score, is_classifier
from tasks.training.model import open_frozen, open_model, packing_for, positions_of
from tasks.training.packing import PackingConfig, packing_of_all
from tasks.training.parallel import Reduction
from tasks.training.rank_plan import split_rows
from tasks.training.reward import open_reward_model
from tasks.training.rows import Ints, Rows
from tasks.training.settings import ComputeConfig


@dataclass(frozen=True)
class Networks:
    """Loaded on one device; weights that learn are float32. With an adapter some may share a base (`one_base`)."""

    policy: TokenLogps
    value: TokenValues | None
    """None for a method without one."""
    ref: TokenLogps | None
    """None where no nat has a price."""
    plain: TokenLogps
    """The policy at temperature 1, which samplers' log-probabilities and demonstrations are measured at."""
    device: Device
    half: bool
    """Whether bodies compute in bfloat16."""
    shape: PackingConfig
    checkpointed: bool = False
    """Whether the layers of those that learn compute their activations again in the backward pass."""
    reduction: Reduction | None = None
    """Sums the gradients of several ranks; None for a process alone."""

    def computing(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.kind, torch.bfloat16, enabled=self.half)

    @property
    def learning(self) -> nn.ModuleDict:
        """Policy and value network, as one module."""
        value = {} if self.value is None else {"value": self.value.model}
        return nn.ModuleDict({"policy": self.policy.model, **value})

    @property
    def learned(self) -> list[list[nn.Parameter]]:
        """What learns in the policy, and in the value network if there is one."""
        value = [] if self.value is None else [learned_by(self.value.model, VALUE)]
        return [learned_by(self.policy.model, NAME), *value]

    @property
    def weights(self) -> tuple[Iterable[tuple[str, Tensor]], Adapter | None]:
        """The policy's weights as an engine takes them: those of its adapter, with the adapter, else all of them."""
        model = self.policy.model
        adapter = adapter_in(model)
        return (learning_parameters(model) if adapter else model.state_dict()).items(), adapter

    @property
    def divergence(self) -> TokenDivergence:
        """Policy and reference together. Raises ValueError without a reference."""
        if self.ref is None:
            raise ValueError("there is no reference, so nothing diverges from it")
        return TokenDivergence(self.policy, self.ref)

    def read(self, inputs: Inputs, *, divergences: bool) -> tuple[Tensor, dict[str, Tensor]]:
        """What the policy's loss reads of a micro-batch's tokens, with gradient, `(m,)` float64 each: log-probabilities
        and, on request by their name, divergences from the reference."""
        with self.computing():
            if not divergences:
                return self.policy(inputs).double(), {}
            found = self.divergence(inputs)
        return found.logps.double(), {"divergences": found.reverse_kl.double()}

    def inputs(self, batch: MicroBatch) -> Inputs:
        return inputs_of(batch, self.device.torch_device)

    def places(self, rows: Rows, part: Ints) -> Tensor:
        """`places_of` on the device, without waiting for it."""
        return sender(self.device.torch_device)(places_of(rows, part))


def open_networks(
    policy: Policy,
    value: RewardModel | None,
    ref: Policy | None,
    temperature: float,
    compute: ComputeConfig,
    adapter: Adapter | None = None,
    seed: int = 0,
) -> Networks:
    """Load all; how rows are laid out suits each of them. Raises DataError and SpecError as their heads do.

    adapter: that of the policy, which `seed` draws where the policy has none yet; None: the whole policy learns.
    """
    device = this_device()
    half = device.dtype(compute.dtype) == torch.bfloat16
    models = (
        open_on_base(policy, value, ref, adapter, compute, half=half, seed=seed)
        if adapter
        else _open_apart(policy, value, ref, device, half=half)
    )
    model, critic, anchor = models
    packing = [packing_for(m, device, compute.max_tokens_per_microbatch) for m in models if m is not None]
    with torch.autocast(device.kind, torch.bfloat16, enabled=half):  # products in bfloat16 need it
        tempered = TokenLogps(model, temperature)
        plain = tempered if temperature == 1 else TokenLogps(model, 1.0)
        values = None if critic is None else TokenValues(critic)
        frozen = None if anchor is None else TokenLogps(anchor, temperature)
    for network, name in ((tempered, NAME), (plain, NAME), (values, VALUE), (frozen, reference_layers(ref, models))):
        if network is not None:
            switch_to(network, name)
    networks = Networks(tempered, values, frozen, plain, device, half, packing_of_all(packing))
    if join().world == 1:
        return networks
    return replace(networks, reduction=Reduction([p for several in networks.learned for p in several]))


def _open_apart(
    policy: Policy, value: RewardModel | None, ref: Policy | None, device: Device, *, half: bool
) -> tuple[Any, Any, Any]:
    """Models of policy, value network and reference, each with weights of its own; None for one that there is not."""
    model = open_model(policy, torch.float32).to(device.torch_device)
    critic = value and open_reward_model(value, torch.float32).to(device.torch_device)
    if ref is None:
        return model, critic, None
    anchor = open_frozen(ref, lambda dtype: open_model(ref, dtype), "float32", half=half).requires_grad_(False)
    return model, critic, anchor.to(device.torch_device)


def value_start(policy: Policy, value: RewardModel | None) -> RewardModel:
    """The start of the value network: `value`, else the policy's own. Raises DataError if it cannot serve."""
    start = value or RewardModel(policy.path / "value", base=policy.base)
    if value is None and not start.path.is_dir():
        raise DataError(
            f"there is no value network: feed `value` with a reward model (the usual start), or with "
            f"`{{task: value_of, policy: …}}`; the policy at {policy.path} has no value/ of its own, which PPO leaves"
        )
    if not is_classifier(start.path):
        raise DataError(f"{start.path} has no classification head, as a value network needs: `train_reward` makes one")
    check_one_score(start.path, "a value network")
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


def check_room(longest: int, models: Mapping[str, Model]) -> None:
    """Refuse a model that cannot read the longest prompt and answer. Raises DataError."""
    for port, model in models.items():
        positions = positions_of(model)
        if positions is not None and positions < longest:
            raise DataError(
                f"`{port}` at {model.path} reads {positions} positions, and a prompt with its answer may have "
                f"{longest}: give a smaller max_tokens"
            )


def read_tokens(
    networks: Networks, rows: Rows, which: Mapping[str, Callable[[Inputs], Tensor]], part: Ints | None = None
) -> dict[str, Tensor]:
    """The output of each network for every answer token, `(M,)` float32 on the CPU, answers end to end as in `rows`.

    part: the rows that are read, None for all; the tokens of others get 0.
    Outputs stay on the device until the last micro-batch, so that a GPU is never waited for in between. Of several
    ranks each reads a share of the rows, and all receive all outputs.
    """
    out = torch.zeros(len(which), int(rows.answers.offsets[-1]), device=networks.device.torch_device)
    for batch in _micro_batches(rows, networks.shape, part):
        inputs, places = networks.inputs(batch), networks.places(rows, batch.rows)
        with torch.inference_mode(), networks.computing():
            for row, network in zip(out, which.values(), strict=True):
                row[places] = network(inputs).float()
    add_up(out)
    return dict(zip(which, out.cpu(), strict=True))


def _micro_batches(rows: Rows, packing: PackingConfig, part: Ints | None) -> Iterator[MicroBatch]:
    """Those of this rank's share of the rows."""
    ranks = this_rank()
    if ranks.world == 1 and part is None:
        return sorted_micro_batches(rows, packing)
    return micro_batches_of(rows, np.arange(len(rows)) if part is None else part, packing, ranks)


def micro_batches_of(rows: Rows, part: Ints, packing: PackingConfig, ranks: Ranks) -> Iterator[MicroBatch]:
    """The micro-batches of a rank's share of the rows `part`, which may be none."""
    own = part if ranks.world == 1 else split_rows(rows, part, packing, ranks.world)[ranks.rank]
    return micro_batches(rows, own, packing) if len(own) else iter(())


def places_of(rows: Rows, part: Ints) -> Ints:
    """Where the tokens of these rows' answers lie among those of all rows, in the order of `part`."""
    offsets = rows.answers.offsets
    return np.concatenate([np.arange(offsets[i], offsets[i + 1]) for i in part.tolist()])
