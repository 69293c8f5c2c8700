"""Real ticks through real Prefect: gates, rejections, convergence, rollback, what is unfinished."""

from __future__ import annotations

import pytest

from tests.flows.continuing.conftest import Loop


def test_three_ticks_in_a_row_go_on_from_each_other(loop: Loop) -> None:
    went = loop.tick(rounds=3)
    assert (went.ticked.status, went.ticked.made) == ("done", [1, 2, 3])
    assert loop.verdicts() == ["accepted"] * 3
    assert loop.size() == pytest.approx(3.004)
    first = loop.tick()
    assert first.ticked.made == [4]
    assert loop.size() == pytest.approx(4.010)
