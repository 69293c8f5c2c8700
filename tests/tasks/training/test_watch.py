"""What a training says of itself when it ends: chosen answers that became unlikely."""

from __future__ import annotations

import pytest

from tasks.training.metrics import Watch


@pytest.mark.parametrize(("drifts", "warned"), [([-0.4, -0.45], False), ([-2.0, -2.0], True), ([], False)])
def test_a_user_is_warned_when_chosen_answers_lost_more_than_half_a_nat_per_token(
    drifts: list[float], warned: bool
) -> None:
    watch = Watch()
    for drift in drifts:
        watch.follow(drift)
    assert bool(watch.warning()) is warned


def test_one_bad_batch_in_ten_does_not_warn() -> None:
    watch = Watch()
    for drift in [0.0] * 10 + [-3.0]:
        watch.follow(drift)
    assert watch.drift == pytest.approx(-0.3)
    assert not watch.warning()
