"""Whether a schedule ever runs, by the parser with which Prefect itself reads it."""

from __future__ import annotations

import importlib.util
import sys
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from types import ModuleType


def cron_error(cron: str) -> str:
    """Why Prefect cannot run by this cron expression; empty if it can."""
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
    """The croniter that Prefect brings along. Importing it by its own name would import all of Prefect (2 s)."""
    prefect = importlib.util.find_spec("prefect")
    assert prefect is not None
    assert prefect.origin is not None
    file = Path(prefect.origin).parent / "_vendor" / "croniter" / "__init__.py"
    name = f"{__name__}._croniter"
    spec = importlib.util.spec_from_file_location(name, file, submodule_search_locations=[str(file.parent)])
    assert spec is not None
    assert spec.loader is not None
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
