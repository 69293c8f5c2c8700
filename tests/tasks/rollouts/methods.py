"""Every method of reinforcement learning with small settings, so that one test can be of them all."""

import inspect
from dataclasses import fields, is_dataclass
from typing import Any

from tasks.contract import Chosen
from tasks.kinds import Policy, RewardModel
from tests.flat import distill, grpo, nash_md, online_dpo, ppo, rloo, xpo
from tests.tasks.rollouts.small import SETTINGS, SHORT, prompts
from tests.workspace import Workspace

_PAIRS = {"loss": Chosen("losses/pairwise", "dpo", {})}
METHODS: dict[str, tuple[Any, dict[str, Any]]] = {
    "ppo": (ppo, {}),
    "grpo": (grpo, {}),
    "rloo": (rloo, {"kl_form": "sequence_k3"}),
    "online_dpo": (online_dpo, _PAIRS),
    "xpo": (xpo, {**_PAIRS, "k_ref": 2}),
    "nash_md": (nash_md, {"k_opponent": 2}),
    "distill": (distill, {"estimator": "full"}),
}
"""Their tasks, and settings of their own."""


def run_method(name: str, policy: Policy, value: RewardModel, work: Workspace, **options: Any) -> Policy:
    """The method's task with the settings of `small.py`, as far as it has them. `value` is of one that has a critic."""
    task, own = METHODS[name]
    given = {**SETTINGS, **own, **options}
    feeds = {"policy": policy, "ref": policy, "prompts": prompts(), "oracle": SHORT, "value": value, "work": work}
    named = inspect.signature(task.args[0]).parameters
    groups = [p.default for p in named.values() if is_dataclass(p.default)]
    accepted = {*named, *(field.name for group in groups for field in fields(group))}
    ports = {port: x for port, x in feeds.items() if port in named}
    made: Policy = task(**ports, **{option: x for option, x in given.items() if option in accepted})
    return made
