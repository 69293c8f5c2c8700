"""The graph of a wiring as a picture: that of a run's report, of a run that has not begun."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache

from jinja2 import Environment, PackageLoader, Template

from flows.reporting.report.graph import graph_picture
from flows.store.runs import Run, RunStep
from flows.wiring.model import Graph


def graph_html(graph: Graph, tasks: Mapping[str, str]) -> str:
    """A block of HTML with the picture as SVG, in one line; `docs/style.css` has its colours.

    tasks: step → the task that the wiring names, which for a step made of steps is not that of its last one.
    """
    steps = {
        node.id: RunStep(
            node.id, node.addresses, tasks.get(node.id.partition("@")[0], node.task), node.title, node.round,
            kind=node.kind, fed_by=tuple(source for sources in node.inputs.values() for source in sources),
        )
        for node in graph.nodes.values()
    }  # fmt: skip
    picture = graph_picture(Run("", graph.pipeline, {}, rounds=graph.rounds, steps=steps), [])
    html = _macros().module.graph(picture, graph.pipeline) if picture else ""  # type: ignore[attr-defined]
    return re.sub(r"\s*\n\s*", " ", re.sub(r"\n(\d+ × )?not run(?=</title>)", "", str(html))).strip()


@cache
def _macros() -> Template:
    templates = Environment(
        loader=PackageLoader("flows.reporting.report", "."), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    return templates.get_template("page.parts.html")
