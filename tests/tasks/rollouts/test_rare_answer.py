"""An answer of 0.7% that is worth a third of the optimum (`rare.py`; all rows: `python -m benchmarks.rare_answer`).

A network that shares its weights pushes the answer down at first, to about 5e-4, however many samples there are. 256
samples a prompt still draw it there, and it comes back; 16 do not, and most trainings lose it. In a table nothing
pushes it down. So it is lost by any code: by ours as often as by one that shares no line with it.
"""

import pytest

from tests.tasks.rollouts.rare import RareWorld, Settings, rare_world, train_by_hand, train_by_task

RUNS = 20
pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> RareWorld:
    return rare_world(tmp_path_factory.mktemp("rare"))


def _lost(world: RareWorld, settings: Settings) -> int:
    return sum(course.lost(world) for course in train_by_hand(world, settings, RUNS))


def test_a_table_keeps_what_a_network_loses_with_16_samples_and_keeps_with_256(world: RareWorld) -> None:
    assert _lost(world, Settings(policy="table", iterations=600)) <= 1
    assert _lost(world, Settings()) >= 6
    courses = train_by_hand(world, Settings(k=256), RUNS)
    assert not any(course.lost(world) for course in courses)
    assert max(course.missed for course in courses) < 0.05


def test_ppo_loses_it_no_more_often_than_a_ppo_written_by_hand(world: RareWorld) -> None:
    """20 runs each of 60 iterations. Were the chances equal, 7 or more apart have a probability of 0.01."""
    settings = Settings(iterations=60)
    by_hand = train_by_hand(world, settings, RUNS)
    by_task = train_by_task(world, settings, RUNS)
    lost = [sum(course.lost(world) for course in courses) for courses in (by_task, by_hand)]
    missed = [sum(course.missed for course in courses) / RUNS for courses in (by_task, by_hand)]
    print(f"lost of {RUNS}: ppo {lost[0]}, by hand {lost[1]}; KL to the optimum: {missed[0]:.3f} and {missed[1]:.3f}")
    assert lost[0] - lost[1] < 7


@pytest.mark.xfail(reason="seed 2 ends .12 nats away after 200 iterations, .10 after 400: why is open")
def test_ppo_with_256_samples_reaches_the_optimum(world: RareWorld) -> None:
    courses = train_by_task(world, Settings(k=256), 3)
    print("KL to the optimum:", *(f"{course.missed:.4f}" for course in courses))
    assert max(course.missed for course in courses) < 0.05
