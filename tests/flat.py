"""Tasks that take the fields of their groups as keyword arguments, as a wiring writes them."""

import inspect
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from functools import partial
from typing import Any

import tasks.distillation
import tasks.grouped
import tasks.online
import tasks.reward
import tasks.rl
import tasks.train


def _call(task: Callable[..., Any], *args: Any, **given: Any) -> Any:
    defaults = {p.name: p.default for p in inspect.signature(task).parameters.values()}
    for name, group in ((n, d) for n, d in defaults.items() if is_dataclass(d)):
        own = {f.name: given.pop(f.name) for f in fields(group) if f.name in given}
        given[name] = replace(given.get(name, group), **own)
    return task(*args, **given)


fit, logps, tokenize = (partial(_call, task) for task in (tasks.train.fit, tasks.train.logps, tasks.train.tokenize))
fit_reward, ppo = partial(_call, tasks.reward.fit_reward), partial(_call, tasks.rl.ppo)
grpo, rloo = partial(_call, tasks.grouped.grpo), partial(_call, tasks.grouped.rloo)
distill = partial(_call, tasks.distillation.distill)
online_dpo, xpo = partial(_call, tasks.online.online_dpo), partial(_call, tasks.online.xpo)
nash_md = partial(_call, tasks.online.nash_md)
