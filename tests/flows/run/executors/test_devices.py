"""The machine's devices: taken all at once or not at all, in turn, by one step at a time whatever its store is."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows.run.executors import devices as module
from flows.run.executors.base import Needs
from flows.run.executors.devices import Devices, locks_folder
from flows.run.executors.pool import Grant, Pool
from tasks.contract import SpecError
from tests.flows.tiny import ROOT

CARDS = ["GPU-a", "GPU-b", "GPU-c", "GPU-d"]


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGNFLOW_LOCKS", str(tmp_path / "locks"))


def test_a_step_takes_all_devices_that_it_needs_or_none() -> None:
    first, second = Devices("gpu", CARDS, "first"), Devices("gpu", CARDS, "second")
    taken = first.take(1, 3)
    assert list(taken or ()) == ["GPU-a", "GPU-b", "GPU-c"]
    assert second.take(2, 2) is None
    assert second.holders() == "first"
    assert list(second.take(1, 1) or ()) == ["GPU-d"]


def test_a_step_that_has_waited_for_long_is_not_overtaken_for_devices_that_it_could_use() -> None:
    cards, last = Devices("gpu", CARDS, "all four"), Devices("gpu", CARDS[3:], "only d")
    patient = cards.wait_in_queue(time.time())
    assert last.others_wait()
    assert not cards.others_wait()
    taken = last.take(1, 1)
    assert taken
    taken["GPU-d"].release()
    patient.close()
    long_ago = last.wait_in_queue(time.time() - 2 * module.PATIENCE)
    assert list(cards.take(1, 4) or ()) == CARDS[:3]  # d is due to the other
    assert list(last.take(1, 1, long_ago) or ()) == ["GPU-d"]


def test_a_step_does_not_wait_for_an_earlier_one_of_its_own_run() -> None:
    """Which is behind it in the run's order, so that neither would ever be served."""
    cpus = Devices("cpu", ["cpus"], "run")
    behind = cpus.wait_in_queue(time.time() - 3 * module.PATIENCE)
    first = cpus.wait_in_queue(time.time() - 2 * module.PATIENCE)
    assert Devices("cpu", ["cpus"], "another").take(1, 1) is None
    assert list(cpus.take(1, 1, first) or ()) == ["cpus"]
    behind.close()


def test_a_folder_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ALIGNFLOW_LOCKS")
    monkeypatch.setattr(module, "TEMPORARY", tmp_path)
    folder = locks_folder()
    assert folder == tmp_path / f"alignflow-{os.getuid()}"
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.rmdir()
    folder.symlink_to(tmp_path)
    with pytest.raises(SpecError, match="is not a folder of your own: remove it, or set ALIGNFLOW_LOCKS"):
        locks_folder()


class Engine:
    """A process that keeps a model."""

    def __init__(self, *, can_rest: bool = True) -> None:
        self.did: list[str] = []
        self._can_rest = can_rest

    def rest(self) -> bool:
        self.did.append("rest")
        return self._can_rest

    def close(self) -> None:
        self.did.append("close")


def _pool(names: list[str], who: str = "run", room: Callable[..., bool] = lambda *_: True) -> Pool[Engine]:
    return Pool(Devices("gpu", names, who), threading.Event(), room)


def _step(pool: Pool[Engine], affinity: str = "", order: int = 0, count: int = 1) -> Grant[Engine]:
    return pool.enter(Needs(True, 1, affinity=affinity, order=order), count)


def test_of_the_steps_that_wait_the_one_with_the_warm_model_goes_first_then_the_earliest() -> None:
    pool = _pool(["GPU-a"])
    grant, order = _step(pool, "a"), []

    def step(affinity: str, number: int) -> None:
        mine = _step(pool, affinity, number)
        order.append(number)
        pool.leave(mine, Engine(), affinity)

    threads = [threading.Thread(target=step, args=w) for w in (("b", 3), ("a", 9), ("b", 2))]
    for thread in threads:
        thread.start()
    while len(pool._waiting) < 3:
        time.sleep(0.01)
    pool.leave(grant, Engine(), "a")
    for thread in threads:
        thread.join(5)
    pool.close()
    assert order == [9, 2, 3]


def test_a_round_of_sampling_training_and_sampling_needs_one_engine() -> None:
    pool, engine = _pool(["GPU-a"]), Engine()
    pool.leave(_step(pool, "base"), engine, "base")
    fit = _step(pool)
    assert (fit.process, engine.did) == (None, ["rest"])
    pool.leave(fit)
    again = _step(pool, "base")
    assert (again.process, again.devices) == (engine, ("GPU-a",))
    pool.leave(again, engine, "base")
    pool.close()
    assert engine.did == ["rest", "close"]


@pytest.mark.parametrize(("can_rest", "fits"), [(False, True), (True, False)])
def test_an_engine_ends_where_it_cannot_rest_or_a_step_would_not_fit_beside_it(can_rest: bool, fits: bool) -> None:
    engine = Engine(can_rest=can_rest)
    pool = _pool(["GPU-a"], room=lambda *_: fits)
    pool.leave(_step(pool, "base"), engine, "base")
    pool.leave(_step(pool))
    assert engine.did == ["rest", "close"]
    assert _step(pool, "base").process is None


def test_free_devices_are_taken_before_those_of_an_engine_and_each_keeps_one_engine() -> None:
    pool, first, second = _pool(CARDS[:2]), Engine(), Engine()
    pool.leave(_step(pool, "a"), first, "a")
    other = _step(pool, "b")
    assert other.devices == ("GPU-b",)
    pool.leave(other, second, "b")
    both = _step(pool, "c", count=2)
    assert (first.did, second.did) == (["rest"], ["rest"])
    third = Engine()
    pool.leave(both, third, "c")
    assert (first.did, second.did) == (["rest", "close"], ["rest", "close"])
    pool.close()


def test_an_idle_engine_on_another_card_ends_where_the_machine_is_too_full() -> None:
    pool, engine = _pool(CARDS[:2], room=lambda *_: False), Engine()
    pool.leave(_step(pool, "a"), engine, "a")
    assert _step(pool).devices == ("GPU-b",)
    assert engine.did == ["close"]


def test_an_idle_engine_gives_its_device_to_another_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.run.executors.holdings.IDLE_SECONDS", 0.05)
    pool, engine, other = _pool(["GPU-a"]), Engine(), _pool(["GPU-a"], "another run")
    pool.leave(_step(pool, "a"), engine, "a")
    waited: list[str] = []
    mine = other.enter(Needs(True, 1), 1, lambda seconds, holder: waited.append(holder))
    assert engine.did[-1] == "close"
    assert set(waited) == {"run"}
    other.leave(mine)


def test_runs_take_turns_however_many_steps_of_one_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    for patience in ("devices.PATIENCE", "pool.PATIENCE"):
        monkeypatch.setattr(f"flows.run.executors.{patience}", 0.05)
    many, one = _pool(["GPU-a"], "many"), _pool(["GPU-a"], "one")
    first, order = _step(many), []

    def step(pool: Pool[Engine], who: str, number: int) -> None:
        mine = _step(pool, order=number)
        order.append(who)
        time.sleep(0.2)
        pool.leave(mine)

    threads = [threading.Thread(target=step, args=(many, "many", number)) for number in range(4)]
    threads.append(threading.Thread(target=step, args=(one, "one", 0)))
    for thread in threads:
        thread.start()
        time.sleep(0.05)
    many.leave(first)
    for thread in threads:
        thread.join(10)
    assert len(order) == 5
    assert "one" in order[:2]


def test_a_run_uses_no_more_devices_at_a_time_than_its_profile_allows() -> None:
    pool: Pool[Engine] = Pool(Devices("gpu", CARDS, "run"), threading.Event(), lambda *_: True, 2)
    first, second = _step(pool), _step(pool)
    third: list[Grant[Engine]] = []
    thread = threading.Thread(target=lambda: third.append(_step(pool)))
    thread.start()
    time.sleep(0.3)
    assert not third
    pool.leave(first)
    thread.join(5)
    assert third[0].devices == first.devices
    assert second.devices == ("GPU-b",)


RUN = """
import random, sys, threading, time
from pathlib import Path
from flows.run.executors.base import Needs
from flows.run.executors.devices import Devices
from flows.run.executors.pool import Pool

who, log = sys.argv[1], Path(sys.argv[2])
pool = Pool(Devices("gpu", ["GPU-a", "GPU-b", "GPU-c", "GPU-d"], who), threading.Event(), lambda *_: True)

class Engine:
    def rest(self): return True
    def close(self): pass

def write(*fields):
    with log.open("a") as file:
        file.write(" ".join(map(str, fields)) + "\\n")

def step(order, count, affinity):
    grant = pool.enter(Needs(True, 1, affinity=affinity, order=order), count)
    for name in grant.devices:
        write(time.monotonic(), "enter", name, who, order)
    time.sleep(0.05)
    for name in grant.devices:
        write(time.monotonic(), "leave", name, who, order)
    pool.leave(grant, (grant.process or Engine()) if affinity else None, affinity)

draw = random.Random(who)
log.with_name(who).touch()
while not all(log.with_name(one).exists() for one in ("first", "second")):
    time.sleep(0.01)
steps = [(i, draw.choice([1, 1, 2, 4]), draw.choice(["", "", "a", "b"])) for i in range(12)]
threads = [threading.Thread(target=step, args=one) for one in steps]
for thread in threads: thread.start()
for thread in threads: thread.join()
pool.close()
"""


def test_two_runs_share_four_cards_one_step_on_each_at_a_time(tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = [sys.executable, "-c", RUN]
    runs = [subprocess.Popen([*command, who, str(log)], cwd=ROOT) for who in ("first", "second")]
    assert [run.wait(60) for run in runs] == [0, 0]
    owner: dict[str, Any] = {}
    most = 0
    for line in sorted(log.read_text().splitlines(), key=lambda line: float(line.split()[0])):
        _, what, card, *step = line.split()
        if what == "enter":
            assert card not in owner, f"{step} and {owner[card]} on {card}"
            owner[card] = step
        else:
            assert owner.pop(card) == step
        most = max(most, len(owner))
    assert (owner, most) == ({}, 4)
    steps = {tuple(line.split()[3:]) for line in log.read_text().splitlines()}
    assert steps == {(who, str(i)) for who in ("first", "second") for i in range(12)}
