"""How a flow run ends that waits for people.

The run of a deployment is suspended: its process ends, and the button Resume on its page, or
`prefect api POST /flow_runs/ID/resume`, lets the deployment's process call the flow again, which takes from the store
what was finished. No process could call any other flow run again, so that ends in a final state of a name of its own,
and the user runs the command again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from flows.store.runs import Run

if TYPE_CHECKING:
    from prefect.states import State

WAITING = "Waiting"
"""The name of the state of tasks, and of flow runs, that wait for people."""


def waiting_state(message: str) -> State[Any]:
    """The final state of what waits for people. Its type is not that of a failure, so nothing retries or alarms."""
    from prefect.states import Cancelled

    return Cancelled(name=WAITING, message=message)


def waits(state: State[Any]) -> bool:
    """Whether this is the state of something that waits for people."""
    return state.name == WAITING


def flow_result(futures: Sequence[Any], runs: Sequence[Run]) -> Any:
    """What a flow returns that executed these runs, the last of which tells how it went: the futures of all steps, from
    which Prefect makes the flow's state, or the state of a flow that waits for people.

    In the flow run of a deployment the latter suspends the flow run, which ends this process.
    """
    if not runs or runs[-1].status != "waiting":
        return futures
    from prefect.flow_runs import suspend_flow_run
    from prefect.runtime import deployment

    if deployment.id:
        suspend_flow_run(key=runs[-1].id)  # by default the second suspension has the first one's key, and is ignored
    return waiting_state(_tasks_of_people(runs[-1]))


def _tasks_of_people(run: Run) -> str:
    return "; ".join(f"{step.title}: {step.reason}" for step in run.steps.values() if step.state == "waiting")
