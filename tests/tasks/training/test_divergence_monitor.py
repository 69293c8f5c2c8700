"""When a training is stopped or warned of: by most of its last steps, never by a single batch."""

import json
from collections.abc import Sequence
from dataclasses import asdict

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


WATCHED = {
    "one batch a thousand times heavier, the first": ([700.0, *[0.7] * 39], None),
    "one batch a thousand times heavier, a later one": ([*[0.7] * 5, 700.0, *[0.7] * 34], None),
    "heavy batches now and then": ([100.0, 0.7] * 100, None),
    "ten times above the start: at the sixth": ([0.7] * 40 + [7.1] * 20, 46),
    "less than ten times above the start": ([0.7] * 40 + [6.9] * 20, None),
    "from the second step on": ([0.7, *[700.0] * 20], 7),
    "a heavy first batch hides no divergence": ([700.0] + [0.7] * 20 + [7.1] * 20, 27),
    "small losses may grow to one": ([0.001] * 20 + [0.99] * 20, None),
    "and not beyond it": ([0.001] * 20 + [1.01] * 20, 26),
    "losses below zero by their size": ([-1.0] + [-50.0] * 20 + [499.0] * 20, None),
    "losses below zero that diverge": ([-1.0] + [-50.0] * 20 + [501.0] * 20, 27),
}  # fmt: skip


@pytest.mark.parametrize("case", WATCHED)
def test_losses_that_stay_ten_times_above_the_start_stop_at_the_sixth_and_single_batches_never_do(case: str) -> None:
    losses, step = WATCHED[case]
    assert stopped_at(losses) == step


@pytest.mark.parametrize(("loss", "norm", "what"), [(float("nan"), 1.0, "loss is nan"), (1.0, float("inf"), "norm")])
def test_what_is_no_number_stops_at_once(loss: float, norm: float, what: str) -> None:
    with pytest.raises(DataError, match=what):
        DivergenceMonitor().check_loss(0, loss, norm, "")


def test_chosen_answers_that_became_impossible_stop_though_the_loss_falls() -> None:
    assert lost_at([0.0] * 5 + [-1.6] * 20) == 11
    assert lost_at([0.0] * 5 + [-1.4] * 20) is None
    assert lost_at([0.0] * 5 + [-50.0] + [0.0] * 20) is None


@pytest.mark.parametrize(
    ("drifts", "warned"), [([-0.4, -0.45], False), ([-1.3, -1.4], True), ([], False), ([*[0.0] * 10, -30.0], False)]
)
def test_a_user_is_warned_when_chosen_answers_lost_more_than_half_a_nat_per_token(
    drifts: list[float], warned: bool
) -> None:
    watch = DivergenceMonitor()
    for step, drift in enumerate(drifts):
        watch.check_drift(step, drift, "")
    assert bool(watch.warning()) is warned


def test_a_watch_goes_on_from_its_checkpoint() -> None:
    watch = DivergenceMonitor()
    for step in range(25):
        watch.check_loss(step, 0.7 if step < 20 else 8.0, 1.0, "")
        watch.check_drift(step, -1.0, "")
    again = DivergenceMonitor(**json.loads(json.dumps(asdict(watch))))
    assert again == watch
    with pytest.raises(DataError, match="diverges at step 26"):
        again.check_loss(25, 8.0, 1.0, "")
