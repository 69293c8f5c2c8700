"""Every method of reinforcement learning with small settings, so that one test can be of them all."""

import inspect
from dataclasses import fields, is_dataclass
from typing import Any

from tasks.kinds import Policy, RewardModel
from tests.flat import distill, grpo, ppo, rloo
from tests.tasks.rollouts.small import SETTINGS, SHORT, prompts
from tests.workspace import Workspace

METHODS = {"ppo": ppo, "grpo": grpo, "rloo": rloo, "distill": distill}


def run_method(name: str, policy: Policy, value: RewardModel, work: Workspace, **options: Any) -> Policy:
    """The method's task with the settings of `small.py`, as far as it has them. `value` is of one that has a critic."""
    task, given = METHODS[name], {**SETTINGS, **options}
    feeds = {"policy": policy, "ref": policy, "prompts": prompts(), "oracle": SHORT, "value": value, "work": work}
    named = inspect.signature(task.args[0]).parameters
    groups = [p.default for p in named.values() if is_dataclass(p.default)]
    accepted = {*named, *(field.name for group in groups for field in fields(group))}
    ports = {port: x for port, x in feeds.items() if port in named}
    made: Policy = task(**ports, **{option: x for option, x in given.items() if option in accepted})
    return made
