"""When a training is stopped or warned of: by most of its last steps, never by a single batch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import pytest

from tasks.contract import DataError
from tasks.training.metrics import DivergenceMonitor


def stopped_at(losses: Sequence[float]) -> int | None:
    """The step, counted from 1, at which a training with these losses is stopped."""
    watch = DivergenceMonitor()
    for step, loss in enumerate(losses):
        try:
            watch.check_loss(step, loss, 1.0, "")
        except DataError:
            return step + 1
    return None


def lost_at(drifts: Sequence[float]) -> int | None:
    watch = DivergenceMonitor()
    for step, drift in enumerate(drifts):
        try:
            watch.check_drift(step, drift, "")
        except DataError:
            return step + 1
    return None


@pytest.mark.parametrize("at", [0, 1, 2, 5, 39])
def test_one_batch_a_thousand_times_heavier_does_not_stop(at: int) -> None:
    losses = [0.7] * 40
    losses[at] = 700.0
    assert stopped_at(losses) is None


def test_heavy_batches_now_and_then_do_not_stop() -> None:
    losses = np.full(200, 0.7)
    losses[::2] = 100.0
    assert stopped_at(losses.tolist()) is None


def test_losses_that_stay_ten_times_above_the_start_stop_at_the_sixth() -> None:
    assert stopped_at([0.7] * 40 + [7.1] * 20) == 46
    assert stopped_at([0.7] * 40 + [6.9] * 20) is None
    assert stopped_at([0.7, *[700.0] * 20]) == 7


def test_a_heavy_first_batch_hides_no_divergence() -> None:
    assert stopped_at([700.0] + [0.7] * 20 + [7.1] * 20) == 27


def test_small_losses_may_grow_to_one() -> None:
    assert stopped_at([0.7] + [0.001] * 20 + [0.99] * 20) is None
    assert stopped_at([0.001] * 20 + [0.99] * 20) is None
    assert stopped_at([0.001] * 20 + [1.01] * 20) == 26


def test_losses_below_zero_are_measured_by_their_size() -> None:
    assert stopped_at([-1.0] + [-50.0] * 20 + [499.0] * 20) is None
    assert stopped_at([-1.0] + [-50.0] * 20 + [501.0] * 20) == 27


@pytest.mark.parametrize(("loss", "norm", "what"), [(float("nan"), 1.0, "loss is nan"), (1.0, float("inf"), "norm")])
def test_what_is_no_number_stops_at_once(loss: float, norm: float, what: str) -> None:
    with pytest.raises(DataError, match=what):
        DivergenceMonitor().check_loss(0, loss, norm, "")


def test_chosen_answers_that_became_impossible_stop_though_the_loss_falls() -> None:
    assert lost_at([0.0] * 5 + [-1.6] * 20) == 11
    assert lost_at([0.0] * 5 + [-1.4] * 20) is None
    assert lost_at([0.0] * 5 + [-50.0] + [0.0] * 20) is None


@pytest.mark.parametrize(("drifts", "warned"), [([-0.4, -0.45], False), ([-1.3, -1.4], True), ([], False)])
def test_a_user_is_warned_when_chosen_answers_lost_more_than_half_a_nat_per_token(
    drifts: list[float], warned: bool
) -> None:
    watch = DivergenceMonitor()
    for step, drift in enumerate(drifts):
        watch.check_drift(step, drift, "")
    assert bool(watch.warning()) is warned


def test_one_bad_batch_in_ten_does_not_warn() -> None:
    watch = DivergenceMonitor()
    for step, drift in enumerate([0.0] * 10 + [-30.0]):
        watch.check_drift(step, drift, "")
    assert not watch.warning()


def test_a_watch_goes_on_from_its_checkpoint() -> None:
    watch = DivergenceMonitor()
    for step in range(25):
        watch.check_loss(step, 0.7 if step < 20 else 8.0, 1.0, "")
        watch.check_drift(step, -1.0, "")
    again = DivergenceMonitor(**json.loads(json.dumps(asdict(watch))))
    assert again == watch
    with pytest.raises(DataError, match="diverges at step 26"):
        again.check_loss(25, 8.0, 1.0, "")
