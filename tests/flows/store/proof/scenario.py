"""The steps of `proof.yaml`, run and traced once, and their keys for any edit of the code, parameters or inputs."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.python.code_index import CodeIndex
from flows.python.codebase import Codebase, tasks_in
from flows.store.content import Contents
from flows.store.identities import choices_of
from flows.store.keys import Choices
from flows.wiring.graph import compile_pipeline
from flows.wiring.model import Node
from tasks.contract import SpecError
from tests.flows.store.proof.edits import module_of as module_named

HERE = Path(__file__).parent
FAILED = "failed"
SPECIFYING = frozenset({"load_oracle", "as_judge"})
"""Tasks whose results hold the digest of the code of a choice."""
ROOT = Path(__file__).parents[4]
PEOPLE = [
    {"prompt": f"where does the {a} live ?", "chosen": f"the {a} lives in the swamp .", "rejected": "no idea ."}
    for a in ("swan", "fox", "bear", "mole")
]


def write_answers(folder: Path) -> None:
    """The files that `proof.yaml` reads: pairs, scored answers, conversations, and a program that scores answers."""
    scored = ({"prompt": r["prompt"], "completion": r["chosen"], "helpful": i % 3} for i, r in enumerate(PEOPLE))
    turns = ({"category": "ab"[i % 2], "turns": [r["prompt"], "and the fox ?"]} for i, r in enumerate(PEOPLE))
    for name, rows in (("pairs", PEOPLE), ("scored", scored), ("turns", turns)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    judged = [
        {"instruction": f"ask {i}", "output_1": "b" * (i + 2), "output_2": "a" * (5 - i), "preference": 1 + i / 5}
        for i in range(5)
    ]
    (folder / "annotations.json").write_text(json.dumps(judged))
    (folder / "rewards.py").write_text("def words(prompt, completion, truth):\n    return len(completion.split())\n")


def _write_peft(folder: Path) -> None:
    """An adapter as peft stores it, of one layer of the policies that `proof.yaml` trains."""
    import numpy as np
    from safetensors.numpy import save_file

    folder.mkdir()
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    layer = "base_model.model.model.layers.0.self_attn.q_proj"
    shapes = {"lora_A": (2, 16), "lora_B": (16, 2)}
    tensors = {f"{layer}.{name}.weight": np.full(shape, 0.1, np.float32) for name, shape in shapes.items()}
    save_file(tensors, folder / "adapter_model.safetensors")


@dataclass(frozen=True)
class Traced:
    """What one step did."""

    kind: str
    path: str
    content: str
    executed: Mapping[str, frozenset[int]]
    """File → lines that the step ran."""
    loading: Mapping[str, frozenset[int]]
    """File → lines that ran while it was being imported."""
    reachable: frozenset[tuple[str, str]]
    """Modules and top-level names that its bytecode could use."""
    packages: frozenset[str]
    """Packages from outside that lines which ran name."""


class Scenario:
    """Steps with their traces, in a folder of their own, beside a copy of `tasks/` to edit."""

    def __init__(self, folder: Path, *, light: Sequence[str] = (), given: Mapping[str, Any] | None = None) -> None:
        """`light`: only these steps, none of which loads torch; `given`: tables that stand for results of others."""
        self.folder, self.root = folder, folder / "edited"
        shutil.copy(HERE / "proof.yaml", folder / "pipelines.yaml")
        write_answers(folder)
        shutil.copytree(ROOT / "tasks", self.root / "tasks", ignore=shutil.ignore_patterns("__pycache__"))
        if not light:
            from tests.models import tiny_policy

            tiny_policy(folder / "policy")
            _write_peft(folder / "peft")
        self.files = {f.relative_to(self.root).as_posix(): f.read_text() for f in self.root.rglob("*.py")}
        nodes = compile_pipeline(folder / "pipelines.yaml", "proof").nodes
        self.nodes: dict[str, Node] = {id: nodes[id] for id in light or nodes}
        command = [sys.executable, "-m", "tests.flows.store.proof.runs", str(folder), *(["light"] if light else [])]
        log = (folder / "log").open("w")
        pipe = subprocess.PIPE
        self._server = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=log, text=True, cwd=ROOT)
        self.contents = Contents()
        self.made: dict[str, Traced] = {}
        for id, handle in (given or {}).items():
            (path := folder / "given" / id).mkdir(parents=True)
            handle.save(path)
            made = [type(handle).__name__, str(path), self.contents.digest(path)]
            self._ask(step=id, root=str(ROOT), given=made)
            self.made[id] = Traced(*made, {}, {}, frozenset(), frozenset())
        self._unedited = Codebase([tasks_in(ROOT / "tasks")])
        self._edited: set[str] = set()
        self._codes: dict[str, list[str]] = {}
        self.made |= {id: self._traced(id) for id in self.nodes}
        choices = Choices(CodeIndex(self._unedited), self.contents, folder)
        self.keys = {id: self.key(node, choices, self.inputs(node, choices)) for id, node in self.nodes.items()}

    def close(self) -> None:
        assert self._server.stdin
        self._server.stdin.close()
        self._server.wait(60)

    def _ask(self, **request: Any) -> dict[str, Any]:
        assert self._server.stdin
        assert self._server.stdout
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        return dict(json.loads(self._server.stdout.readline()))

    def _traced(self, id: str) -> Traced:
        answer = self._ask(step=id, root=str(ROOT))
        assert "kind" in answer, f"{id}: {answer['content']}"
        lines = ({file: frozenset(of) for file, of in answer[name].items()} for name in ("executed", "loading"))
        reachable = frozenset((module, name) for module, name in answer["reachable"])
        return Traced(
            answer["kind"], answer["path"], answer["content"], *lines, reachable, frozenset(answer["packages"])
        )

    def result(self, id: str) -> str:
        """The content that a step really makes with the edited code, or `FAILED`."""
        answer = self._ask(step=id, root=str(self.root))
        return str(answer["content"]) if "kind" in answer else FAILED

    # Keys

    @contextmanager
    def edited(self, files: Mapping[str, str]) -> Iterator[None]:
        """Other texts of these files, while it lasts."""
        self._edited = {module_named(name) for name in files}
        try:
            for name, text in files.items():
                (self.root / name).parent.mkdir(parents=True, exist_ok=True)
                (self.root / name).write_text(text)
            yield
        finally:
            self._edited = set()
            for name in files:
                if name in self.files:
                    (self.root / name).write_text(self.files[name])
                else:
                    (self.root / name).unlink(missing_ok=True)

    def keys_of(self, ids: Iterable[str], root: Path | None = None) -> dict[str, str]:
        """The keys of these steps with the (edited) code; `refused` where it cannot be followed."""
        codebase = Codebase([tasks_in((root or self.root) / "tasks")])
        parsed = self._unedited._parses.items()  # an edit changes one file: the others are parsed once
        codebase._parses = {m: p for m, p in parsed if p and m not in self._edited}
        choices = Choices(CodeIndex(codebase), self.contents, self.folder)
        return {id: self.key(self.nodes[id], choices, self.inputs(self.nodes[id], choices)) for id in ids}

    def key(self, node: Node, choices: Choices, inputs: Mapping[str, Sequence[str]]) -> str:
        try:
            return choices.prepare(node).key(inputs).digest
        except SpecError:
            return "refused"

    def inputs(self, node: Node, choices: Choices) -> dict[str, list[str]]:
        return {port: [self._content(i, choices) for i in ids] for port, ids in node.inputs.items()}

    def _content(self, id: str, choices: Choices) -> str:
        """A specification holds the digest of its code and of the packages that it uses: with others, its step really
        runs again. An ensemble names its members by content: with other members it has another content."""
        node, content = self.nodes.get(id), self.made[id].content
        if node is not None and self.made[id].kind == "Ensemble":
            members = [self._content(one, choices) for one in node.inputs["oracles"]]
            same = members == [self.made[one].content for one in node.inputs["oracles"]]
            return content if same else " ".join(members)
        if node is None or node.task not in SPECIFYING:
            return content
        codes = self._choice_codes(node, choices.code)
        if codes == self._codes.setdefault(id, codes):  # first called before anything is edited
            return content
        return self.result(id) if self._edited else f"{content} with other packages"

    def _choice_codes(self, node: Node, code: CodeIndex) -> list[str]:
        try:
            return [code.reach(choice.module, choice.name).digest for _, choice in choices_of(node.params)]
        except SpecError:
            return ["refused"]
