"""When checkpoints are written, on a clock that the test moves, and how many lie there."""

from pathlib import Path

import pytest
import torch

from tasks.calls import StateBytes
from tasks.kinds import Policy
from tasks.training import checkpoint
from tasks.training.checkpoint import SMALL, CheckpointSchedule, checkpoint_bytes, save_checkpoint
from tasks.training.parallel import whole_weights
from tests.flat import fit
from tests.tasks.training.tables import SFT, demonstrations, tokenized
from tests.workspace import Killed, Mortal, Workspace


class Clock:
    """Seconds, which go on only where a test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(checkpoint, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def _written(schedule: CheckpointSchedule, clock: Clock, seconds_per_step: float, steps: int) -> list[int]:
    found = []
    for step in range(1, steps + 1):
        clock.now += seconds_per_step
        if schedule.is_due(step):
            schedule.written()
            found.append(step)
    return found


def test_small_checkpoints_are_written_every_few_steps(clock: Clock) -> None:
    schedule = CheckpointSchedule(None, 15, SMALL - 1, usual=50)
    assert _written(schedule, clock, 1, 160) == [50, 100, 150]


def test_large_ones_are_written_by_time_alone_unless_a_number_of_steps_is_given(clock: Clock) -> None:
    """90 GiB, 20 seconds a step: 15 minutes are 45 steps."""
    size = 90 * 2**30
    assert _written(CheckpointSchedule(None, 15, size, usual=10), clock, 20, 160) == [45, 90, 135]
    assert _written(CheckpointSchedule(20, 60, size, usual=10), clock, 20, 70) == [20, 40, 60]


def test_slow_steps_do_not_wait_for_their_number(clock: Clock) -> None:
    """Two minutes a step: after 8 steps 15 minutes have passed; from then on the time counts anew."""
    assert _written(CheckpointSchedule(None, 15, 0, usual=50), clock, 120, 30) == [8, 16, 24]


def test_the_time_that_writing_takes_does_not_count(clock: Clock) -> None:
    schedule = CheckpointSchedule(None, 1, SMALL, usual=50)
    clock.now = 60
    assert schedule.is_due(1)
    clock.now = 500  # it took so long
    schedule.written()
    clock.now = 559
    assert not schedule.is_due(2)


def test_a_checkpoint_has_float32_weights_and_what_the_optimizer_keeps() -> None:
    layer = torch.nn.Linear(3, 4)
    layer.bias.requires_grad_(False)
    weights = whole_weights(layer)
    assert checkpoint_bytes(weights, StateBytes(device=8)) == checkpoint_bytes(weights, StateBytes(host=8)) == 12 * 12


class Ticking(Mortal):
    """Ten minutes pass with every step."""

    def __init__(self, folder: Path, clock: Clock, step: int = 0) -> None:
        super().__init__(folder, step)
        self._clock = clock

    def log(self, step: int, metrics: dict[str, float]) -> None:  # type: ignore[override]
        self._clock.now += 600
        super().log(step, metrics)


def test_a_training_that_a_clock_checkpoints_ends_in_the_same_bytes(
    policy: Policy, tmp_path: Path, clock: Clock
) -> None:
    """15 minutes: a checkpoint behind every second step. Killed in step 5 it goes on behind step 4."""
    data = tokenized(demonstrations(), policy, tmp_path)
    options = {"loss": SFT, "lr": 1e-3, "steps": 8, "batch": 4}
    expected = fit(policy, data, Workspace(tmp_path / "straight"), **options)
    with pytest.raises(Killed):
        fit(policy, data, Ticking(tmp_path / "killed", clock, 5), **options)
    assert [p.name for p in (tmp_path / "killed" / "work" / "checkpoint").iterdir()] == ["step-4"]
    work = Ticking(tmp_path / "killed", clock)
    found = fit(policy, data, work, **options)
    assert [step for step, _ in work.curves] == [5, 6, 7, 8]
    assert (found.path / "model.safetensors").read_bytes() == (expected.path / "model.safetensors").read_bytes()


def test_never_are_there_more_than_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The older one goes when the newer one is whole."""
    layer = torch.nn.Linear(3, 4)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    seen: list[int] = []
    real = checkpoint.save_file
    monkeypatch.setattr(
        checkpoint, "save_file", lambda *args: (seen.append(len(list(tmp_path.iterdir()))), real(*args))
    )
    for step in range(1, 5):
        save_checkpoint(tmp_path, step, whole_weights(layer), optimizer, {})
    assert seen == [1, 2, 2, 2]
    assert [p.name for p in tmp_path.iterdir()] == ["step-4"]
