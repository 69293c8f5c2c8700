"""What MLflow's pages show at first: columns of the table of runs, and charts across them.

MLflow keeps a saved view as a tag of the experiment, offers it in its menu of views, and opens it by
`?viewStateShareKey=NAME`. The tag holds the state of its page, packed as version 3.17 packs it; another version ignores
what it does not know. The address also has to say that runs are trainings: by itself MLflow 3.17 opens every experiment
as one of agents and conversations, whatever kind the experiment has.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from zlib import compress

from flows.python.declared import Declarations
from tasks.contract import JSON

NAME = "alignflow"
TAG = f"mlflow.sharedViewState.{NAME}"
TITLE = "Win rate, gold, KL"
"""What the view is called in MLflow's menu of views."""
PACKED = "deflate;"
"""Before a state that is compressed; MLflow cuts longer tags."""
TRAINING = "workflowType=machine_learning"
TABLE = f"?{TRAINING}&viewStateShareKey={NAME}"
"""What is appended to the page of an experiment's runs."""
CHARTS = f"{TABLE}&compareRunsMode=CHART"
REPORT = "report.html"
"""The artifact of a run that is its report."""
NOTE_BEGINS = "alignflow's runs by win rate, gold and KL: "
PARAMS = ("algorithm", "kl_weight", "rounds", "train/lr")
OTHER_ROLES = ("proxy", "gap", "mixture_gap")
"""Roles of metrics that have a chart and no column: the table is for what all methods are compared by."""
AXES = ("algorithm", "oracle", "kl_weight")
"""Of the parallel coordinates."""
WIDE, MANY = "alignflow-methods", "alignflow-rounds"
"""Sections of the charts: two to a row, three to a row."""


def run_page(link: str) -> str:
    """A run's page below the address of MLflow. `link`: EXPERIMENT/RUN, as `Run.links` has it."""
    experiment, _, run = link.partition("/")
    return f"#/experiments/{experiment}/runs/{run}?{TRAINING}"


def report_page(page: str) -> str:
    """The page that shows a run's report, from the run's page."""
    run, _, query = page.partition("?")
    return f"{run}/artifacts/{REPORT}?{query}"


def table_page(experiment: str) -> str:
    """The page of an experiment's runs with our columns, below the address of MLflow."""
    return f"#/experiments/{experiment}/runs{TABLE}"


def charts_page(experiment: str) -> str:
    """The page of the charts across an experiment's runs, below the address of MLflow."""
    return f"#/experiments/{experiment}/runs{CHARTS}"


def note(experiment: str) -> str:
    """The experiment's description, which MLflow shows above its runs."""
    return f"{NOTE_BEGINS}[table]({table_page(experiment)}) · [charts]({charts_page(experiment)})"


def view(declared: Declarations) -> str:
    """The saved view as MLflow reads it: newest first, the columns and charts by which pipelines are compared."""
    metrics = {name: m for _, several in declared.all_of("metrics") for name, m in several.items() if m.chart}
    charts = sorted(metrics, key=lambda name: metrics[name].chart)
    shown = [*(name for name in charts if metrics[name].role not in OTHER_ROLES), "cost/seconds"]
    of_role = {m.role: name for name, m in metrics.items()}
    columns: list[JSON] = [*(f"metrics.`{m}`" for m in shown), *(f"params.`{p}`" for p in PARAMS)]
    state: dict[str, JSON] = {
        "searchFilter": "", "orderByKey": "attributes.start_time", "orderByAsc": False, "startTime": "ALL",
        "lifecycleFilter": "Active", "modelVersionFilter": "All Runs", "datasetsFilter": [],
        "selectedColumns": columns, "columnOrder": columns, "compareRunCharts": [*_charts(charts, of_role)],
        "compareRunSections": [_section(WIDE, "Methods", 2, 420), _section(MANY, "By round", 3, 320)],
        "isAccordionReordered": True,
    }  # fmt: skip
    packed = b64encode(compress(json.dumps(state).encode())).decode()
    return json.dumps({"name": TITLE, "createdAt": 1, "updatedAt": 1, "state": f"{PACKED}{packed}"})


def _section(uuid: str, name: str, columns: int, height: int) -> JSON:
    return {
        "uuid": uuid, "name": name, "display": True, "isReordered": False, "deleted": False, "isGenerated": False,
        "columns": columns, "cardHeight": height,
    }  # fmt: skip


def _charts(by_round: Sequence[str], of_role: Mapping[str, str]) -> list[JSON]:
    """One chart for each metric by round; across methods, what each nat of KL bought. Colours follow the win rate."""
    distance, gold, win_rate = (of_role.get(role, "") for role in ("distance", "score", "win_rate"))
    axes: dict[str, JSON] = {"xaxis": {"key": distance, "type": "METRIC"}, "yaxis": {"key": gold, "type": "METRIC"}}
    return [
        {"type": "PARALLEL", "selectedParams": [*AXES], "selectedMetrics": [distance, win_rate], "showAllRuns": False,
         **_card("parallel", WIDE)},
        {"type": "SCATTER", **axes, **_card("bought", WIDE)},
        *(_by_round(metric) for metric in by_round),
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
