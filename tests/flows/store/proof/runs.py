"""Runs the steps of `proof.yaml` for real and says what of `tasks/` each of them executed.

A process of its own, which reads one request per line of its input and answers each with one line. Every step runs in a
fork that has loaded nothing of `tasks` yet, as steps do in production, with the code below a given folder. What a step
executes is found by `sys.settrace`, what it could execute by a walk over bytecode: neither reads the index that makes
keys.
"""

from __future__ import annotations

import ast
import dis
import importlib
import importlib.util
import json
import os
import pickle
import shutil
import signal
import sys
import threading
import types
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from flows.python.code_index import CodeIndex
from flows.python.codebase import Codebase, tasks_in
from flows.run.executors.job import Input, Job
from flows.run.executors.worker import _arguments, _handles
from flows.run.executors.workspace import StepWorkspace
from flows.store.content import Contents
from flows.store.keys import Choices
from flows.wiring.graph import compile_pipeline
from flows.wiring.model import Graph
from tasks.contract import SpecError
from tests.flows.store.proof.edits import bound_by, module_of

LIGHT = ("numpy", "polars", "pyarrow", "scipy.stats")
HEAVY = ("accelerate", "jinja2.sandbox", "transformers.models.auto", "transformers.models.llama.modeling_llama")
"""What steps load from outside: once, here, so that a step takes half a second."""
SECONDS = 60
"""Longest that a step may take: an edit can make it endless."""
ROOT = Path(__file__).parents[4]
Lines = dict[str, list[int]]


class Server:
    """The steps of one graph and what they made."""

    def __init__(self, folder: Path) -> None:
        os.chdir(folder)
        self.folder = folder
        self.graph: Graph = compile_pipeline(folder / "pipelines.yaml", "proof")
        self.contents = Contents()
        self.made: dict[str, tuple[str, Path, str]] = {}
        """Node id → kind, folder, content."""

    def answer(self, step: str, root: str, given: list[str] | None = None) -> dict[str, Any]:
        """Run a step with the code below `root`; `given`: kind, folder and content of what stands for its result."""
        if given:
            self.made[step] = (given[0], Path(given[1]), given[2])
            return {}
        node = self.graph.nodes[step]
        folder = self.folder / "made" / step.replace("/", "-") if root == str(ROOT) else self.folder / "again"
        code = CodeIndex(Codebase([tasks_in(Path(root, "tasks"))], self.folder / "parsed.json"))
        choices = Choices(code, self.contents, self.folder)
        inputs = {port: tuple(self._input(i) for i in ids) for port, ids in node.inputs.items()}
        groups = {name: (group.module, group.name) for name, group in node.groups.items()}
        try:
            arguments = choices.prepare(node).arguments
        except SpecError as e:
            return {"content": f"refused: {e}"}
        job = Job(node.module, node.task, inputs, node.lists, arguments, folder, folder / "log", node.work, groups)
        call = pickle.dumps(job)
        answer = _forked(lambda: _run(call, folder, root))
        if root == str(ROOT) and "kind" in answer:
            self.made[step] = (answer["kind"], Path(answer["path"]), answer["content"])
        return answer

    def _input(self, step: str) -> Input:
        return self._opened(*self.made[step])

    def _opened(self, kind: str, path: Path, content: str) -> Input:
        """A result with what it refers to: the base of an adapter, the members of a scorer."""
        from tasks.kinds import KINDS

        made = {digest: (kind, path, digest) for kind, path, digest in self.made.values()}
        refers_to = KINDS[kind](path, content).refers_to.items()
        members = {role: tuple(self._opened(*made[one.content]) for one in several) for role, several in refers_to}
        return Input(kind, path, content, members)


def _forked(work: Any) -> dict[str, Any]:
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.close(read)
        os.dup2(2, 1)  # what tasks print is no answer
        signal.alarm(SECONDS)
        try:
            answer = work()
        except BaseException as e:
            answer = {"content": f"{type(e).__name__}: {e}"}
        with os.fdopen(write, "w") as pipe:
            json.dump(answer, pipe)
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    return json.loads(text or '{"content": "killed"}')


def _run(call: bytes, folder: Path, root: str) -> dict[str, Any]:
    """In the fork: load the task and what it is given from `root`, run it under the trace, save what it returns."""
    sys.path.insert(0, root)
    space = _workspace(folder)
    for name in [m for m in sys.modules if m.split(".")[0] == "tasks"]:
        del sys.modules[name]
    trace = _Trace(root)
    trace.start()
    job: Job = pickle.loads(call)
    function = getattr(__import__(job.module, fromlist=[job.task]), job.task)
    handles, arguments = _handles(job), _arguments(job)
    result = function(**handles, **arguments, **({"work": space} if job.work else {}))
    if result._path is None:
        result.save(space.output)
    path = result._path or space.output
    trace.stop()
    kinds = {("tasks.kinds", i.kind) for several in job.inputs.values() for i in several}
    chosen = {(c.module, c.name) for c in job.params.values() if type(c).__name__ == "Chosen"}
    of_result = ("tasks.kinds", type(result).__name__)
    walk = Walk([(job.module, job.task), of_result, *chosen, *kinds, *job.groups.values(), *trace.ran()])
    return {
        "content": Contents().digest(path), "kind": type(result).__name__, "path": str(path), **trace.found(),
        "reachable": sorted(walk.names),
    }  # fmt: skip


def _workspace(folder: Path) -> Any:
    shutil.rmtree(folder, ignore_errors=True)
    return _Workspace(folder, lambda *_: None)


class _Workspace(StepWorkspace):
    """As a worker has it. What it calls of `tasks/` to write curves is no part of the step, so it is not traced."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        traced = sys.gettrace()
        sys.settrace(None)
        try:
            super().log(step, metrics)
        finally:
            sys.settrace(traced)


class _Trace:
    """Lines of `tasks/` that ran: `executed` by the step itself, `loading` while a file was being imported."""

    def __init__(self, root: str) -> None:
        self._prefix, self._cut = f"{root}/tasks/", len(root) + 1
        self._ran: dict[tuple[types.CodeType, int], bool] = {}
        self._depth = threading.local()

    def start(self) -> None:
        threading.settrace(self._call)
        sys.settrace(self._call)

    def stop(self) -> None:
        sys.settrace(None)
        threading.settrace(None)  # type: ignore[arg-type]

    def _call(self, frame: types.FrameType, event: str, arg: object) -> Any:
        code = frame.f_code
        if not code.co_filename.startswith(self._prefix):
            return None
        if code.co_name == "<module>":
            self._depth.files = getattr(self._depth, "files", 0) + 1
        return self._line

    def _line(self, frame: types.FrameType, event: str, arg: object) -> Any:
        code = frame.f_code
        files = getattr(self._depth, "files", 0)
        if event == "line":
            self._ran[code, frame.f_lineno] = self._ran.get((code, frame.f_lineno), False) or not files
        elif event == "return" and code.co_name == "<module>":
            self._depth.files = files - 1
        return self._line

    def found(self) -> dict[str, Any]:
        executed: Lines = {}
        loading: Lines = {}
        for (code, line), by_step in self._ran.items():
            where = executed if by_step else loading
            where.setdefault(code.co_filename[self._cut :], []).append(line)
        return {"executed": executed, "loading": loading, "packages": sorted(self._packages())}

    def ran(self) -> set[tuple[str, str]]:
        """Top-level functions and classes of which a line ran."""
        codes = {code for (code, _), by_step in self._ran.items() if by_step}
        return {(module_of(c.co_filename[self._cut :]), c.co_qualname.split(".")[0]) for c in codes}

    def _packages(self) -> set[str]:
        """Packages from outside that an executed line names."""
        by_code: dict[types.CodeType, set[int]] = {}
        for (code, line), by_step in self._ran.items():
            if by_step:
                by_code.setdefault(code, set()).add(line)
        found = set()
        for code, lines in by_code.items():
            module = module_of(code.co_filename[self._cut :])
            for line, target, _ in _named(code, Module.of(module)):
                found |= {target.split(".")[0]} if line in lines else set()
        return found - {"tasks"}


class Module:
    """A loaded module of ours: what its names were bound to by imports, and the code of its top-level statements."""

    known: ClassVar[dict[str, Module]] = {}

    def __init__(self, name: str) -> None:
        self.name = name
        self.imports: dict[str, tuple[str, str]] = {}
        self.code: dict[str, list[types.CodeType]] = {}
        """Name → code of the statements that bind it; `` for those that bind none."""
        loaded = importlib.import_module(name)
        for statement in ast.parse(Path(str(loaded.__file__)).read_text()).body:
            self._add(statement, str(loaded.__file__))

    @classmethod
    def of(cls, name: str) -> Module:
        if name not in cls.known:
            cls.known[name] = cls(name)
        return cls.known[name]

    def _add(self, statement: ast.stmt, file: str) -> None:
        if isinstance(statement, ast.Import):
            self.imports |= {
                a.asname or a.name.split(".")[0]: (a.name if a.asname else a.name.split(".")[0], "")
                for a in statement.names
            }
        elif isinstance(statement, ast.ImportFrom):
            self.imports |= {a.asname or a.name: (str(statement.module), a.name) for a in statement.names}
        else:
            code = compile(ast.Module([statement], []), file, "exec")
            for name in bound_by(statement) or [""]:
                self.code.setdefault(name, []).append(code)


def _named(code: types.CodeType, module: Module) -> Iterator[tuple[int, str, str]]:
    """(line, module, name in it or ``) for each name that an instruction takes from elsewhere or from the top."""
    line, target = code.co_firstlineno, ""
    local: dict[str, str] = {}
    """What local names were bound to by imports."""
    for op in dis.get_instructions(code):
        line = op.positions.lineno if op.positions and op.positions.lineno else line
        name = str(op.argval)
        if op.opname == "IMPORT_NAME":
            package, target = name, name
            yield line, target, ""
        elif op.opname == "IMPORT_FROM":
            yield line, package, name
            target = f"{package}.{name}"
        elif op.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            target, inner = module.imports.get(name, (module.name, name))
            yield line, target, inner
            target = f"{target}.{inner}" if inner else target
        elif op.opname in ("LOAD_ATTR", "LOAD_METHOD"):
            if target:
                yield line, target, name
                target = f"{target}.{name}"
        elif op.opname in ("STORE_FAST", "STORE_DEREF"):
            local[name], target = target, ""
        elif op.opname in ("LOAD_FAST", "LOAD_DEREF"):
            target = local.get(name, "")
        elif op.opname != "POP_TOP":
            target = ""
    for inner_code in code.co_consts:
        if isinstance(inner_code, types.CodeType):
            yield from _named(inner_code, module)


class Walk:
    """Top-level names of ours that these ones could use, by what their bytecode names."""

    def __init__(self, roots: Iterable[tuple[str, str]]) -> None:
        self.names: set[tuple[str, str]] = set()
        self._todo = list(roots)
        while self._todo:
            self._visit(*self._todo.pop())

    def _visit(self, module: str, name: str) -> None:
        if (module, name) in self.names or not is_ours(module):
            return
        self.names.add((module, name))
        of = Module.of(module)
        if name in of.imports:
            self._follow(*of.imports[name])
        for code in of.code.get(name, ()):
            for _, target, inner in _named(code, of):
                self._follow(target, inner)

    def _follow(self, target: str, name: str) -> None:
        if is_ours(f"{target}.{name}"):
            self._todo += [(f"{target}.{name}", n) for n in ("",)]
        if name and is_ours(target):
            self._todo.append((target, name))


def is_ours(module: str) -> bool:
    if module.split(".")[0] != "tasks":
        return False
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def main() -> None:
    """Load what steps load, but nothing of theirs; then answer. With `light`, only what steps without torch load."""
    for name in LIGHT if "light" in sys.argv else (*LIGHT, *HEAVY):
        importlib.import_module(name)
    server = Server(Path(sys.argv[1]))
    for line in sys.stdin:
        print(json.dumps(server.answer(**json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
