"""What a training leaves in a policy's `state/`, so that the next round continues as one training would.

progress.json         iterations of all rounds (they number shuffles), the order of prompts and the iterations before
                      it began, the KL coefficient, its controller, the optimizer, the method
optimizer.safetensors the optimizer's state of policy and value network, by parameter

A round continues exactly where lr, epochs and minibatches are the same too, because weights are stored in float32. The
coefficient continues only under an equal controller with an equal starting coefficient, the optimizer's state only with
the same method, the same optimizer and the weights that it belongs to, the order of prompts only with equal size, k,
seed and prompts: another one begins at its first prompt, with noise that none before it had.
"""

import filecmp
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from tasks.contract import JSON
from tasks.ids import digest
from tasks.kinds import Policy, RewardModel
from tasks.rollouts.settings import KlConfig
from tasks.sampling.plan import Draws, SamplingPlan
from tasks.training.model import trainable
from tasks.training.optimizer import Updater, full_weight, parameter_state

PROGRESS, MOMENTS = "progress.json", "optimizer.safetensors"


@dataclass(frozen=True)
class ResumeState:
    """Where an earlier round ended; all zero before the first."""

    iterations: int
    begun: int
    """Iterations of all rounds before the order of prompts began."""
    order: Mapping[str, JSON]
    """The order of prompts, as `prompt_order_id` identifies it."""
    coefficient: float
    moments: Path | None
    """File of the optimizer's state; None: it begins anew."""
    optimizer: str = "adamw"
    """Name of that optimizer."""

    def noise(self, draws: Draws) -> Draws:
        """The draws of this order: a later one has a seed of its own, so that it repeats no draw of an earlier one."""
        if not self.begun:
            return draws
        return replace(draws, seed=int(digest(str(draws.seed), "course", str(self.begun))[:16], 16) >> 1)


def prompt_order_id(plan: SamplingPlan, draws: Draws, size: int) -> dict[str, JSON]:
    """What the prompts and numbers of an iteration's draws depend on. Streams have noise of their own anyway."""
    return {"prompts": digest(*plan.prompt_ids), "size": size, "k": draws.k, "seed": draws.seed}


def read_resume_state(
    method: str, policy: Policy, value: RewardModel | None, kl: KlConfig, order: Mapping[str, JSON]
) -> ResumeState:
    """The state in the policy's `state/`, as far as it suits this round; zero where it has none."""
    file = policy.path / "state" / PROGRESS
    if not file.exists():
        return ResumeState(0, 0, order, kl.kl_coef, None)
    state = json.loads(file.read_text())
    iterations = int(state["iterations"])
    begun = int(state["begun"]) if state.get("order") == order else iterations
    coefficient = float(state["coefficient"]) if state["control"] == kl.spec else kl.kl_coef
    moments = policy.path / "state" / MOMENTS
    same = value is None or _same_weights(policy.path / "value", value.path)
    suits = moments.exists() and same and state.get("method", "ppo") == method
    optimizer = state.get("optimizer", "adamw")
    return ResumeState(iterations, begun, order, coefficient, moments if suits else None, optimizer)


def write_resume_state(
    folder: Path, method: str, before: ResumeState, iterations: int, coefficient: float, kl: KlConfig, optimizer: str
) -> None:
    """Make the folder `state/` with its progress.json, `iterations` after the state `before`."""
    folder.mkdir()
    state = {
        "iterations": before.iterations + iterations, "begun": before.begun, "order": before.order,
        "coefficient": coefficient, "control": kl.spec, "optimizer": optimizer, "method": method,
    }  # fmt: skip
    (folder / PROGRESS).write_text(json.dumps(state, sort_keys=True, indent=1) + "\n")


def write_moments(folder: Path, learning: nn.Module, optimizer: Updater) -> bool:
    """Write the optimizer's state into `state/`. False where it is made of more than plain tensors."""
    moments = {
        f"{name}.{key}": torch.as_tensor(value).detach().cpu().contiguous()
        for name, parameter in trainable(learning)
        for key, value in parameter_state(optimizer, parameter).items()
    }
    if any(type(tensor) is not torch.Tensor for tensor in moments.values()):
        return False
    save_file(moments, folder / MOMENTS)
    return True


def restore_moments(file: Path, learning: nn.Module, optimizer: Updater) -> None:
    """Give the optimizer the state of an earlier round."""
    parameters = dict(trainable(learning))
    for name, tensor in load_file(file).items():
        owner, _, key = name.rpartition(".")
        if owner in parameters:
            own = full_weight(optimizer, parameters[owner])
            parameter_state(optimizer, parameters[owner])[key] = tensor.to(own.device)


def _same_weights(a: Path, b: Path) -> bool:
    """Whether two checkpoints hold equal weights, byte for byte."""
    names = sorted(f.name for f in a.glob("*.safetensors"))
    equal, _, _ = filecmp.cmpfiles(a, b, names, shallow=False)
    return bool(names) and len(equal) == len(names)
