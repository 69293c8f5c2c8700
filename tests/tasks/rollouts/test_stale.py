"""Answers that are sampled and scored while the iteration before is learnt from (`stale: 1`)."""

import threading
from typing import Any

import pytest

from tasks.contract import DataError
from tasks.rollouts.ahead import Ahead, OneAhead, Stopped


def test_each_iterations_answers_are_sampled_by_the_policy_that_the_one_before_starts_from() -> None:
    """Weights are counted by updates: the first two iterations are sampled with the first ones."""
    weights = 0
    engine: list[int] = []
    sampled: list[tuple[int, int]] = []
    laps: list[str] = []

    def draw(iteration: int, check: Any) -> Any:
        check()
        sampled.append((iteration, engine[-1]))
        return iteration

    source = OneAhead(lambda: engine.append(weights), draw, 4, None)
    for iteration in range(4):
        assert source.of(iteration, laps.append) == iteration
        weights += 1
    assert sampled == [(0, 0), (1, 0), (2, 1), (3, 2)]
    assert source.pending() is None
    assert laps == ["draw", "push", "draw", *["draw", "push"] * 3]
    resumed = OneAhead(lambda: engine.append(7), draw, 4, 2)  # type: ignore[arg-type]
    assert [resumed.of(2, laps.append), resumed.of(3, laps.append), sampled[4:]] == [2, 3, [(3, 7)]]
    for one in (source, resumed):
        one.stop()


def test_the_thread_raises_its_own_errors_and_stops_at_the_next_check() -> None:
    ahead: Ahead[int] = Ahead()

    def fail() -> int:
        raise DataError("the oracle is gone")

    ahead.begin(fail)
    with pytest.raises(DataError, match="the oracle is gone"):
        ahead.result()
    entered = threading.Event()

    def endless() -> int:
        while True:
            entered.set()
            ahead.check()

    ahead.begin(endless)
    entered.wait()
    assert ahead.stop(10.0)
    with pytest.raises(Stopped):
        ahead.result()
