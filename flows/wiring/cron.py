"""The check of cron expressions, by the parser with which Prefect reads them."""

from __future__ import annotations

import importlib.util
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from types import ModuleType

from flows.python.loading import load_as


def cron_error(cron: str) -> str:
    """Why Prefect cannot run anything by this cron expression; empty if it can."""
    croniter = _croniter()
    if not croniter.croniter.is_valid(cron) or {"r", "h"} & {field[:1].casefold() for field in cron.split()}:
        return 'no valid cron expression: minute, hour, day, month, weekday, e.g. "0 2 * * *"'
    try:
        croniter.croniter(cron, datetime.now(UTC)).get_next(datetime)
    except croniter.CroniterError:
        return "no date matches it, so that it would never run"
    return ""


@cache
def _croniter() -> ModuleType:
    """The croniter in Prefect. Importing it by its own name would import all of Prefect (2 s)."""
    prefect = importlib.util.find_spec("prefect")
    assert prefect is not None
    assert prefect.origin is not None
    folder = Path(prefect.origin).parent / "_vendor" / "croniter"
    return load_as(f"{__name__}._croniter", folder / "__init__.py", [str(folder)])
