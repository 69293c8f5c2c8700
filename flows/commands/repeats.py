"""Whether a run would only repeat one that has finished: then its results can be shown without running anything."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping

from flows.planning.plan import Plan, make_plan
from flows.run.prefect.orphans import OWN, has_orphans
from flows.store.runs import Run, Runs
from flows.store.store import Store
from flows.system.environment import without_password
from flows.wiring.model import Graph
from tasks.contract import JSON, DataError


def plan_or_none(graph: Graph, store: Store) -> Plan | None:
    """The plan; None where the identity of a choice needs the network.

    Raises SpecError for what can only fail.
    """
    try:
        return make_plan(graph, store)
    except DataError:
        return None


def all_cached(plan: Plan | None) -> bool:
    """Whether every step's result is in the store, intact, under its present key."""
    return plan is not None and all(step.state == "cached" for step in plan.steps)


def left_open(store: Store) -> bool:
    """Whether a run was killed and is still open in Prefect or here: a run with a server closes it, at its begin."""
    url = os.environ.get("PREFECT_API_URL")
    return has_orphans(store.root, without_password(url) if url else OWN) or bool(Runs(store).open())


def finished_twin(runs: Runs, plan: Plan, deployment: str = "") -> Run | None:
    """The newest finished run that a run of this plan would repeat; None if there is none.

    It has the same pipeline and parameters, and the same steps with the same keys and results.
    """
    graph = plan.graph
    wanted = {s.node.id: (s.key, s.record.content if s.record else "", s.node.addresses) for s in plan.steps}
    parameters = _text({n: p.value for n, p in graph.parameters.items()})
    for run in runs.newest(graph.pipeline):
        if (
            run.status == "done" and run.deployment == deployment and run.headline == tuple(graph.headline)
            and {s.id: (s.key, s.content, tuple(s.addresses)) for s in run.steps.values()} == wanted
            and _text(run.parameters) == parameters
        ):  # fmt: skip
            return run
    return None


def _text(parameters: Mapping[str, JSON]) -> str:
    """Parameters as JSON, as a run's file has them: a tuple equals a list."""
    return json.dumps(parameters, sort_keys=True)
