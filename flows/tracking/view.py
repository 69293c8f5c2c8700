"""What MLflow's pages show at first: columns of the table of runs, and charts across them.

MLflow keeps a shared view as a tag of the experiment and opens it by `?viewStateShareKey=NAME`: the state of its page,
as version 3.17 writes it. Another version ignores what it does not know.
"""

from __future__ import annotations

import json

from tasks.contract import JSON

NAME = "alignflow"
TAG = f"mlflow.sharedViewState.{NAME}"
TABLE = f"?viewStateShareKey={NAME}"
"""What is appended to the page of an experiment's runs."""
CHARTS = f"{TABLE}&compareRunsMode=CHART"
METRICS = ("eval/win_rate", "eval/gold", "eval/kl", "cost/oracle_queries", "cost/seconds")
PARAMS = ("algorithm", "kl_weight", "rounds", "train/lr")
BY_ROUND = ("eval/win_rate", "eval/gold", "eval/kl", "eval/proxy", "eval/length", "eval/accuracy")
AXES, ENDS = ("algorithm", "oracle", "kl_weight"), ("eval/kl", "eval/win_rate")
"""Of the parallel coordinates; colours follow the last."""
WIDE, MANY = "alignflow-methods", "alignflow-rounds"
"""Sections of the charts: two to a row, three to a row."""


def view() -> str:
    """The shared view as MLflow reads it: newest first, the columns and charts by which pipelines are compared."""
    columns: list[JSON] = [*(f"metrics.`{m}`" for m in METRICS), *(f"params.`{p}`" for p in PARAMS)]
    state: dict[str, JSON] = {
        "searchFilter": "", "orderByKey": "attributes.start_time", "orderByAsc": False, "startTime": "ALL",
        "lifecycleFilter": "Active", "modelVersionFilter": "All Runs", "datasetsFilter": [],
        "selectedColumns": columns, "columnOrder": columns, "compareRunCharts": [*_charts()],
        "compareRunSections": [_section(WIDE, "Methods", 2, 420), _section(MANY, "By round", 3, 320)],
        "isAccordionReordered": True,
    }  # fmt: skip
    return json.dumps(state, separators=(",", ":"))


def _section(uuid: str, name: str, columns: int, height: int) -> JSON:
    return {
        "uuid": uuid, "name": name, "display": True, "isReordered": False, "deleted": False, "isGenerated": False,
        "columns": columns, "cardHeight": height,
    }  # fmt: skip


def _charts() -> list[JSON]:
    kl_and_gold: dict[str, JSON] = {"xaxis": {"key": "eval/kl", "type": "METRIC"}}
    kl_and_gold["yaxis"] = {"key": "eval/gold", "type": "METRIC"}
    return [
        {"type": "PARALLEL", "selectedParams": [*AXES], "selectedMetrics": [*ENDS], "showAllRuns": False,
         **_card("parallel", WIDE)},
        {"type": "SCATTER", **kl_and_gold, **_card("bought", WIDE)},
        *(_by_round(metric) for metric in BY_ROUND),
    ]  # fmt: skip


def _by_round(metric: str) -> JSON:
    return {
        "type": "LINE", "metricKey": metric, "selectedMetricKeys": [metric], "xAxisKey": "step",
        "xAxisScaleType": "linear", "scaleType": "linear", "lineSmoothness": 0, "displayPoints": True,
        "yAxisKey": "metric", "yAxisExpressions": [], "selectedXAxisMetricKey": "", "ignoreOutliers": False,
        "range": {}, "useGlobalXaxisKey": False, "useGlobalLineSmoothing": False, **_card(metric, MANY),
    }  # fmt: skip


def _card(name: str, section: str) -> dict[str, JSON]:
    return {
        "uuid": f"alignflow-{name}", "metricSectionId": section, "deleted": False, "isGenerated": False,
        "runsCountToCompare": 20,
    }  # fmt: skip
