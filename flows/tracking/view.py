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
METRICS = ("eval/win_rate", "eval/gold", "eval/kl", "eval/length", "cost/oracle_queries", "cost/seconds")
PARAMS = ("algorithm", "kl_weight", "rounds", "train/lr")
BY_ROUND = ("eval/win_rate", "eval/gold", "eval/proxy", "eval/kl", "eval/length", "eval/accuracy")
AXES = ("algorithm", "kl_weight", "rounds", "oracle")
ENDS = ("eval/kl", "eval/gold", "eval/win_rate")
SECTION = "alignflow"


def view() -> str:
    """The shared view as MLflow reads it: pipeline runs only, newest first."""
    columns: list[JSON] = [
        "attributes.`Models`", *(f"metrics.`{m}`" for m in METRICS), *(f"params.`{p}`" for p in PARAMS)
    ]  # fmt: skip
    state: dict[str, JSON] = {
        "searchFilter": "", "orderByKey": "attributes.start_time", "orderByAsc": False, "startTime": "ALL",
        "lifecycleFilter": "Active", "modelVersionFilter": "All Runs", "datasetsFilter": [],
        "selectedColumns": columns, "compareRunCharts": [*_charts()], "isAccordionReordered": True,
        "compareRunSections": [
            {"uuid": SECTION, "name": "Pipelines", "display": True, "isReordered": False, "deleted": False,
             "isGenerated": False},
        ],
    }  # fmt: skip
    return json.dumps(state, separators=(",", ":"))


def _charts() -> list[JSON]:
    parallel: JSON = {
        "type": "PARALLEL", "selectedParams": [*AXES], "selectedMetrics": [*ENDS], "showAllRuns": False,
        **_card("parallel"), "displayName": "methods and what they reach",
    }  # fmt: skip
    lines: list[JSON] = [
        {
            "type": "LINE", "metricKey": m, "selectedMetricKeys": [m], "xAxisKey": "step", "xAxisScaleType": "linear",
            "scaleType": "linear", "lineSmoothness": 0, "displayPoints": True, "yAxisKey": "metric",
            "yAxisExpressions": [], "selectedXAxisMetricKey": "", "ignoreOutliers": False, "range": {},
            "useGlobalXaxisKey": False, "useGlobalLineSmoothing": False, **_card(m), "displayName": f"{m} by round",
        }
        for m in BY_ROUND
    ]  # fmt: skip
    bought: JSON = {
        "type": "SCATTER", "xaxis": {"key": "eval/kl", "type": "METRIC"},
        "yaxis": {"key": "eval/gold", "type": "METRIC"}, **_card("bought"), "displayName": "gold against KL",
    }  # fmt: skip
    return [lines[0], parallel, *lines[1:], bought]


def _card(name: str) -> dict[str, JSON]:
    return {
        "uuid": f"{SECTION}-{name}", "metricSectionId": SECTION, "deleted": False, "isGenerated": False,
        "runsCountToCompare": 20,
    }  # fmt: skip
