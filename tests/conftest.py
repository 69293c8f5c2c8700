"""The table of closed forms that trainings reached, at the end of a run that proves them, and a fixture for them."""

from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Torch computes in one thread: a tiny model gains nothing from more, and on busy cores they wait."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests that download from a hub run only where they are chosen by their marker."""
    if "network" not in config.option.markexpr:
        for item in items:
            if item.get_closest_marker("network"):
                item.add_marker(pytest.mark.skip(reason="downloads from the hub: run `pytest -m network`"))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """What tests recorded as the property `closed form`: method, optimum, nats at the start and at the end."""
    reports = [r for kind in ("passed", "failed") for r in terminalreporter.stats.get(kind, [])]
    rows = [value for r in reports for name, value in getattr(r, "user_properties", []) if name == "closed form"]
    if not rows:
        return
    terminalreporter.section("closed forms: KL(policy ‖ optimum), nats")
    terminalreporter.line(f"{'method':42} {'optimum':46} {'start':>6} {'reached':>8} {'steps':>6} {'s':>6}")
    for method, optimum, start, reached, steps, seconds in rows:
        nats = f"{start:6.2f} {reached:8.1e}" if start is not None else f"{'–':>6} {'–':>8}"
        terminalreporter.line(f"{method:42} {optimum:46} {nats} {steps:6} {seconds:6.1f}")
