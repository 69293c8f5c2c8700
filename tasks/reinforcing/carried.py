"""What PPO leaves in a policy's `state/`, so that the next round goes on as if there had been no end.

progress.json         iterations of all rounds (they number draws and shuffles), the KL coefficient, its controller
optimizer.safetensors Adam's moments of policy and value network, by parameter

The coefficient goes on only under an equal controller with an equal starting coefficient, the moments only with the
weights that they belong to. Weights are kept in the type of the checkpoint: from float32 a round goes on exactly.
"""

from __future__ import annotations

import filecmp
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tasks.contract import JSON, Chosen
from tasks.kinds import Policy, RewardModel

PROGRESS, MOMENTS = "progress.json", "optimizer.safetensors"
_ADAM = ("step", "exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Control:
    """The KL penalty's coefficient and how it moves."""

    controller: Chosen
    start: float

    def after(self, coefficient: float, kl: float, samples: int) -> float:
        return float(self.controller(coefficient, kl, samples))

    @property
    def spec(self) -> dict[str, JSON]:
        return {"controller": self.controller.name, "with": dict(self.controller.params), "start": self.start}


@dataclass(frozen=True)
class Carried:
    """Where an earlier round ended; a first one begins at nothing."""

    iterations: int
    coefficient: float
    moments: Mapping[str, Tensor]
    """`<parameter>.<name>`; empty: Adam begins anew."""


def read_carried(policy: Policy, value: RewardModel, control: Control) -> Carried:
    """What the policy's `state/` says; the beginning where it has none."""
    file = policy.path / "state" / PROGRESS
    if not file.exists():
        return Carried(0, control.start, {})
    told = json.loads(file.read_text())
    coefficient = float(told["coefficient"]) if told["control"] == control.spec else control.start
    moments = policy.path / "state" / MOMENTS
    goes_on = moments.exists() and _same_weights(policy.path / "value", value.path)
    return Carried(int(told["iterations"]), coefficient, load_file(moments) if goes_on else {})


def write_carried(
    folder: Path, iterations: int, coefficient: float, control: Control, learning: nn.Module,
    optimizer: torch.optim.Optimizer | None,
) -> None:  # fmt: skip
    """Write `state/` as `folder`; without moments if there is no optimizer."""
    folder.mkdir()
    told = {"iterations": iterations, "coefficient": coefficient, "control": control.spec}
    (folder / PROGRESS).write_text(json.dumps(told, sort_keys=True, indent=1) + "\n")
    if optimizer is None:
        return
    moments = {
        f"{name}.{key}": torch.as_tensor(value).detach().cpu().contiguous()
        for name, parameter in learning.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }
    save_file(moments, folder / MOMENTS)


def put_moments(moments: Mapping[str, Tensor], learning: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Give Adam the moments of an earlier round."""
    for name, parameter in learning.named_parameters():
        if f"{name}.step" in moments:
            optimizer.state[parameter] = {key: moments[f"{name}.{key}"].to(parameter.device) for key in _ADAM}


def _same_weights(a: Path, b: Path) -> bool:
    """Whether two checkpoints hold equal weights, byte for byte."""
    names = sorted(f.name for f in a.glob("*.safetensors"))
    equal, _, _ = filecmp.cmpfiles(a, b, names, shallow=False)
    return bool(names) and len(equal) == len(names)
