"""Steps of runs on the machine's devices: side by side on several cards, one after the other on one, as ranks."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from flows.run.events import Listener
from flows.run.run import Execution
from flows.store.records import Record
from flows.store.store import Store
from flows.wiring.model import Graph, Node, Profile
from tasks.kinds import Prompts
from tests.flows.processes import all_ended
from tests.flows.tiny import ROOT, graph, node, tiny_project

MODEL = (node("a", "numbers", count=1), node("m", "model", "Policy", inputs={"prompts": "a"}))


@pytest.fixture(autouse=True)
def _own_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGNFLOW_LOCKS", str(tmp_path / "locks"))
    (tmp_path / "meet").mkdir()
    monkeypatch.setenv("MEET", str(tmp_path / "meet"))


@contextmanager
def _run(project: Path, store: Store, steps: Graph, *listeners: Listener) -> Iterator[Execution]:
    with Execution(steps, store, threads=4, listeners=listeners) as run:
        yield run


def _model(run: Execution) -> Record:
    prompts = run.steps.run(MODEL[0], {}).record
    return run.steps.run(MODEL[1], {"prompts": [prompts]}).record


def _ids(store: Store, record: Record) -> list[str]:
    return Prompts(store.root / record.path).table.column("prompt_id").to_pylist()


def _placed(together: int, *numbers: int) -> list[Node]:
    return [node(f"s{n}", "placed", inputs={"policy": "m"}, n=n, together=together) for n in numbers]


def test_independent_steps_of_two_runs_are_side_by_side_on_four_cards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALIGNFLOW_GPUS", "GPU-a=80 GPU-b=80 GPU-c=80 GPU-d=80 GPU-e=80")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,2,1,0")
    steps = _placed(4, 0, 1, 2, 3)
    stores = [Store(tmp_path / "first"), Store(tmp_path / "second")]
    project = tiny_project(tmp_path)
    with (
        _run(project, stores[0], graph(project, *MODEL, *steps)) as one,
        _run(project, stores[1], graph(project, *MODEL, *steps)) as two,
        ThreadPoolExecutor(4) as pool,
    ):
        runs = [(one, steps[0]), (one, steps[1]), (two, steps[2]), (two, steps[3])]
        models = {id(run): _model(run) for run in (one, two)}
        made = [pool.submit(run.steps.run, step, {"policy": [models[id(run)]]}) for run, step in runs]
        seen = [
            _ids(store, future.result().record)
            for future, store in zip(made, [*stores[:1] * 2, *stores[1:] * 2], strict=True)
        ]
    assert {cards for cards, _ in seen} == {"GPU-d", "GPU-c", "GPU-b", "GPU-a"}
    assert {together for _, together in seen} == {"4"}


class Waits(Listener):
    """Keeps what steps wait for."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.waiting = threading.Event()

    def step_waiting(self, node: Node, what: str) -> None:
        self.texts.append(what)
        self.waiting.set()


def test_without_gpus_two_stores_take_turns_and_a_step_that_waits_names_the_other_run(tmp_path: Path) -> None:
    first, second = _placed(2, 0, 1)
    stores, waits = [Store(tmp_path / "first"), Store(tmp_path / "second")], Waits()
    project = tiny_project(tmp_path)
    with (
        _run(project, stores[0], graph(project, *MODEL, first)) as one,
        _run(project, stores[1], graph(project, *MODEL, second), waits) as two,
        ThreadPoolExecutor(2) as pool,
    ):
        models = _model(one), _model(two)
        working = pool.submit(one.steps.run, first, {"policy": [models[0]]})
        while not (tmp_path / "meet" / "0").exists() and not working.done():
            time.sleep(0.01)
        waiting = pool.submit(two.steps.run, second, {"policy": [models[1]]})
        assert waits.waiting.wait(20)
        assert not (tmp_path / "meet" / "1").exists()
        (tmp_path / "meet" / "end").touch()
        assert _ids(stores[0], working.result().record) == ["-", "2"]
        assert _ids(stores[1], waiting.result().record) == ["-", "3"]
        assert waits.texts == [f"the machine is busy with heavy work of another run ({one.run.id} in {stores[0].root})"]


def test_a_step_with_ranks_is_recorded_with_them_and_its_threads(tmp_path: Path) -> None:
    step = node("r", "ranked", inputs={"prompts": "a"})
    project, store = tiny_project(tmp_path), Store(tmp_path / "artifacts")
    steps = replace(graph(project, MODEL[0], step), profile=Profile("two", sharding="ddp"), ranks={"r": 2})
    with _run(project, store, steps) as run:
        record = run.steps.run(step, {"prompts": [run.steps.run(MODEL[0], {}).record]}).record
        assert sorted(file.name for file in run.logs.glob("r*.log")) == ["r.log", "r.rank1.log"]
    assert _ids(store, record) == ["0:2:2:-:ddp:output", "1:2:2:-:ddp:.output-1"]
    assert (record.hardware["ranks"], record.hardware["threads"]) == (2, 2)


RUN = """
import sys
from dataclasses import replace
from pathlib import Path
from flows.run.run import Execution
from flows.store.store import Store
from tests.flows.tiny import graph, node

project = Path(sys.argv[1])
ranked = node("r", "ranked", inputs={"prompts": "a"}, steps=5000, rest=0.01)
steps = graph(project, node("a", "numbers", count=1), ranked)
with Execution(replace(steps, ranks={"r": 3}), Store(project / "artifacts"), threads=3) as run:
    run.find_all()
print(run.run.status)
"""


def test_ctrl_c_ends_all_ranks_and_the_run(tmp_path: Path) -> None:
    project = tiny_project(tmp_path)
    command = [sys.executable, "-c", RUN, str(project)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as main:
        until = time.monotonic() + 60
        while len(files := list(tmp_path.glob("artifacts/partial/*/work/pid-*"))) < 3 and time.monotonic() < until:
            time.sleep(0.02)
        time.sleep(0.1)
        pids = [int(file.read_text()) for file in files]
        main.send_signal(signal.SIGINT)
        assert main.communicate(timeout=30) == ("stopped\n", None)
    assert len(pids) == 3
    assert all_ended(pids)
