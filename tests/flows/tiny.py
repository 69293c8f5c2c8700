"""A tiny tree of tasks, for tests of what runs them: the real contracts, and one module with tasks of no weight."""

import shutil
from pathlib import Path
from typing import Any

from flows.python.codebase import tasks_in
from flows.wiring.model import Graph, Node, Parameter
from flows.wiring.where import Where

ROOT = Path(__file__).parents[2]

TASKS = '''
from __future__ import annotations

import json, os, signal, sys, time
from typing import Annotated
from pathlib import Path

import pyarrow as pa

from tasks.contract import Bounds, Choice, Chosen, DataError, SpecError, Waiting, Workspace
from tasks.declarations import Resources
from tasks.files import atomic_replace
from tasks.kinds import Oracle, Policy, Prompts, Report

CACHE: dict[str, int] = {}
UNKEYED = {"os.environ": "a look at the child", "sys.modules": "a look at the child", "__path__": "a look at it"}


def _prompts(texts: list[str]) -> pa.Table:
    return pa.table({"prompt_id": texts, "prompt": [[{"role": "user", "content": t}] for t in texts]})


def numbers(*, count: Annotated[int, Bounds(min=1)], seed: int = 0) -> Prompts:
    """Prompts that are numbers."""
    return Prompts.of(_prompts([str(i + seed) for i in range(count)]))


def shout(prompts: Prompts, *, suffix: str = "!") -> Prompts:
    """Every prompt with a suffix."""
    return Prompts.of(_prompts([i + suffix for i in prompts.table.column("prompt_id").to_pylist()]))


def join(tables: list[Prompts]) -> Prompts:
    """All rows of all tables."""
    return Prompts.of(pa.concat_tables([t.table for t in tables]))


def slow(prompts: Prompts, work: Workspace, *, steps: int = 5, pause: float = 0.05) -> Prompts:
    """Works step by step, and goes on where it was killed."""
    done = work.path / "done"
    first = int(done.read_text()) if done.exists() else 0
    for step in range(first, steps):
        time.sleep(pause)
        work.log(step, {"train/loss": 1 / (step + 1)})
        with atomic_replace(done, durable=False) as fresh:  # a kill leaves a number
            fresh.write_text(str(step + 1))
        work.progress(step + 1, steps, "steps")
    work.count(steps=steps - first)
    work.notice(f"began at {first}")
    return Prompts.of(_prompts([f"{p}-{steps}" for p in prompts.table.column("prompt_id").to_pylist()]))


def model(prompts: Prompts, work: Workspace) -> Policy:
    """A folder that looks like a checkpoint."""
    (work.output / "config.json").write_text(f'{{"rows": {len(prompts)}}}')
    return Policy(work.output)


def adapted(policy: Policy, work: Workspace, *, n: int = 0) -> Policy:
    """A folder that looks like an adapter of a policy, or of that policy's base."""
    base = policy.whole
    (work.output / "adapter.json").write_text(json.dumps({"type": "none", "base": base.digest}))
    (work.output / "adapter.safetensors").write_text(str(n))
    return Policy(work.output, base=base)


def opened(policy: Policy) -> Prompts:
    """Where the policy lies, and where the model lies that has its weights, with its digest."""
    whole = policy.whole
    return Prompts.of(_prompts([str(policy.path), str(whole.path), whole.digest]))


def refer(*, at: Annotated[Chosen, Choice("models")]) -> Policy:
    """A model where it lies."""
    return Policy(Path(at()))


def disturbed(policy: Policy, work: Workspace) -> Prompts:
    """Reads a model which somebody writes over and puts back while it is read, the first time."""
    file, once = policy.path / "config.json", policy.path.resolve().parent / "disturbed"
    part = work.path / "part"
    if not part.exists():
        before, stat = file.read_text(), file.stat()
        if not once.exists():
            file.write_text(before.upper())
        part.write_text(file.read_text())
        if not once.exists():
            file.write_text(before)
            os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        once.touch()
    return Prompts.of(_prompts([part.read_text()]))


def warm(policy: Policy, *, engine: Annotated[Chosen, Choice("engines")] = "plain", n: int = 0) -> Prompts:
    """Heavy: its result names this process and how often the process ran it."""
    CACHE["calls"] = CACHE.get("calls", 0) + 1
    return Prompts.of(_prompts([f"{os.getpid()}:{CACHE['calls']}:{engine()}:{n}"]))


def refuse(*, how: str = "spec") -> Prompts:
    """Fails in a given way."""
    print("about to fail")
    if how == "spec":
        raise SpecError("no such thing")
    if how == "data":
        raise DataError("3 rows do not match")
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "exit":
        os._exit(7)
    raise ZeroDivisionError("seven by nought")


def answered() -> Prompts:
    """The words in the file ANSWERS, which people write; waits for them while it is missing."""
    file = Path(os.environ["ANSWERS"])
    if not file.exists():
        raise Waiting(f"write {file}")
    return Prompts.of(_prompts(file.read_text().split()))


ranked_resources = Resources(exclusive=True, gpus=1, ranks=True)


def placed(policy: Policy, *, together: int, n: int = 0) -> Prompts:
    """Computes with a model, beside others that come to the same folder. Its result names the GPUs that it sees."""
    meet = Path(os.environ["MEET"])
    (meet / str(n)).touch()
    until = time.monotonic() + 30
    while len(list(meet.iterdir())) < together and time.monotonic() < until:
        time.sleep(0.01)
    return Prompts.of(_prompts([os.environ.get("CUDA_VISIBLE_DEVICES", "-"), str(len(list(meet.iterdir())))]))


def ranked(
    prompts: Prompts, work: Workspace, *, how: str = "", at: int = 0, steps: int = 4, rest: float = 0.0
) -> Prompts:
    """Ranks that wait for each other at every step, over files; one of them may fail. Rank 0 returns what each was."""
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    print("begins", flush=True)
    variables = [os.environ.get(n, "-") for n in ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "ALIGNFLOW_SHARDING")]
    own = ":".join([str(rank), str(world), *variables, work.output.name])
    (work.path / f"pid-{rank}").write_text(str(os.getpid()))
    for step in range(steps):
        (work.path / f"{step}-{rank}").write_text(own)
        while not all((work.path / f"{step}-{other}").exists() for other in range(world)):
            time.sleep(0.005)
        if rank == at and step == 1 and how == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif rank == at and step == 1 and how:
            refuse(how=how)
        work.progress(step + 1, steps, "steps")
        work.count(steps=1)
        time.sleep(rest)
    return Prompts.of(_prompts([(work.path / f"{steps - 1}-{other}").read_text() for other in range(world)]))


def specify(*, at: Annotated[Chosen, Choice("models")]) -> Oracle:
    """An oracle as a specification."""
    return Oracle().with_choice(at)


def execution_of(oracle: Oracle) -> Prompts:
    """The execution parameters of the oracle's choice."""
    return Prompts.of(_prompts([json.dumps(dict(oracle.choice.execution))]))


def surroundings() -> Prompts:
    """What a child sees of its process."""
    import tasks

    variables = [os.environ["OMP_WAIT_POLICY"], os.environ["KMP_BLOCKTIME"], os.environ["OMP_NUM_THREADS"]]
    session = str(os.getsid(0) == os.getpid())
    clean = "clean" if "pytest" not in sys.modules else "pytest"
    return Prompts.of(_prompts([*variables, "session " + session, tasks.__path__[0], clean]))
'''

ENGINE = '''
def plain(*, factor: int = 1) -> str:
    """The only engine."""
    return "plain" * factor
'''


MODEL = '''
def folder(*, path: str) -> str:
    """A model in a folder."""
    return path


def identity(*, online, base, path):
    return {"content": base / path}
'''


KINDS_AND_BELOW = ("arrow", "artifact", "attributes", "composed", "kinds", "queried")
"""The file of the kinds, and those of which they are made."""


def tiny_project(folder: Path) -> Path:
    """A project in `folder`: the real contracts and kinds beside `tasks/tiny.py`."""
    tasks = folder / "tasks"
    (tasks / "engines").mkdir(parents=True)
    for name in (*KINDS_AND_BELOW, "__init__", "columns", "contract", "declarations", "digests", "files"):
        shutil.copy2(ROOT / "tasks" / f"{name}.py", tasks / f"{name}.py")
    (tasks / "composites.py").write_text('"""No composites."""\n')
    (tasks / "tiny.py").write_text(TASKS.lstrip())
    (tasks / "engines" / "__init__.py").write_text("")
    (tasks / "engines" / "plain.py").write_text(ENGINE.lstrip())
    (tasks / "models").mkdir()
    (tasks / "models" / "folder.py").write_text(MODEL.lstrip())
    return folder


def node(id: str, task: str, kind: str = "Prompts", **given: Any) -> Node:
    """A step of a tiny graph: ports in `inputs` (one id or a list of them), the rest are parameters."""
    inputs = given.pop("inputs", {})
    several = {port: (ids,) if isinstance(ids, str) else tuple(ids) for port, ids in inputs.items()}
    lists = frozenset(port for port, ids in inputs.items() if not isinstance(ids, str))
    round = int(id.split("@")[1]) if "@" in id else None
    work = task in {"slow", "model", "adapted", "disturbed", "ranked"}
    return Node(id, (id,), task, "tasks.tiny", kind, given, {}, several, lists, work, round, Where("pipelines.yaml"))


def graph(project: Path, *nodes: Node, parameters: tuple[Parameter, ...] = ()) -> Graph:
    """A pipeline `tiny` of these steps, whose file lies in `project`."""
    ids = {n.id: n for n in nodes}
    by_name = {p.name: p for p in parameters}
    return Graph(
        "tiny", "A tiny pipeline.", str(project / "pipelines.yaml"), ids, {i: i for i in ids}, by_name, 0, (),
        packages=(tasks_in(project / "tasks"),),
    )  # fmt: skip


def killable(project: Path) -> Graph:
    """A pipeline that is at work for two seconds."""
    slow = node("s", "slow", inputs={"prompts": "a"}, steps=40, pause=0.05)
    return graph(project, node("a", "numbers", count=2), slow, node("m", "model", "Policy", inputs={"prompts": "s"}))
