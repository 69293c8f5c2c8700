"""A page for every wiring: its paper, its equations, its steps, what it should give, and where its code is."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from docs.generate.markdown import escaped, formulas, page, table, value, with_papers
from docs.generate.picture import graph_html
from flows.wiring.catalogue import Catalogue
from flows.wiring.grammar import PipelineText
from flows.wiring.graph import compile_from
from flows.wiring.model import ChoiceValue, Graph
from flows.wiring.text import PipelineFile
from flows.wiring.tree import entries
from tasks.contract import JSON

GROUPS: Mapping[str, str] = {
    "Offline": r"offline-|sft$|rso|one-round",
    "Self-play": r"sppo(?!.*cycle)|spin|self-rewarding|raft|worst-group",
    "Iterative DPO": r"iterative-dpo(?!.*cycle)|snorkel|online-rlhf|rebel|optimistic|conservative|verifiable|human-loop"
    r"|llm-judge",
    "Nash policies": r"inpo|comal|mnpo|nash-md|.*-cycle",
    "Adversarial": r"apo",
    "Reinforcement learning": r"rm-(?!farthest)|rlhf-llama2|online-dpo|xpo|distill",
    "Reward and preference models": r"reward-(?!bench)|preference-model|weak-to-strong|best-of-n|judge-agreement",
    "Several objectives": r"soups|preference-conditioned",
    "Benchmarks and diagnoses": r".*-bench|alpaca-eval|arena|sft-probe|rm-farthest-kl|objective-correlations",
}
"""Title → what the names of its pipelines begin with; what fits none is under `Others`."""
FIGURES = {
    "win_rate": ("sppo",), "reward_models": ("reward-model", "rm-ppo"), "overoptimisation": ("rm-ppo-overoptimised",),
    "last_iterates": ("sppo-cycle", "inpo-cycle", "comal-cycle"),
}  # fmt: skip
"""Figure of `docs/` → the methods that it shows."""


def group_of(name: str) -> str:
    """The heading under which a method is listed."""
    return next((title for title, names in GROUPS.items() if re.match(names, name)), "Others")


@dataclass(frozen=True)
class Method:
    """A pipeline as its file has it, and compiled."""

    name: str
    written: str
    """Its lines in the file."""
    text: PipelineText
    """With what it inherits."""
    graph: Graph

    @property
    def extends(self) -> str:
        """The pipeline that it extends; empty if it extends none."""
        return str(entries(self.text.node)["extends"].value) if "extends" in entries(self.text.node) else ""

    @cached_property
    def tasks(self) -> Mapping[str, str]:
        """Step → the task that it names."""
        named = {step.name: entries(step.node).get("task") for step in self.text.steps.values()}
        return {step: str(task.value) for step, task in named.items() if task}

    @cached_property
    def choices(self) -> Sequence[ChoiceValue]:
        """The choices of its steps, each once, in the order of the steps, but for those that make a world's base."""
        bases = {step for step, task in self.tasks.items() if task == "load_policy"}
        nodes = (node for node in self.graph.nodes.values() if re.split("[/@]", node.id)[0] not in bases)
        values = (value for node in nodes for value in node.params.values())
        found = {(c.folder, c.name): c for c in values if isinstance(c, ChoiceValue)}
        return list(found.values())


def methods_of(file: Path, catalogue: Catalogue) -> list[Method]:
    """All pipelines of a file that can run, compiled with their own values."""
    source = PipelineFile(file)
    written = _written(file.read_text())
    return [
        Method(name, written[name], source.pipeline(name), compile_from(source, catalogue, name, {}, lenient=True))
        for name in source.names
    ]


def _written(text: str) -> dict[str, str]:
    """Pipeline → its lines, without the comment above the next one."""
    parts = re.split(r"^(?=  [A-Za-z_][\w-]*:\s*$)", text.partition("\npipelines:\n")[2], flags=re.M)
    found = {}
    for part in parts:
        name = part.strip().partition(":")[0]
        found[name] = re.sub(r"(\n  #[^\n]*|\n\s*)+\Z", "", part)
    return found


def wired(methods: Iterable[Method]) -> dict[str, list[str]]:
    """Task or FOLDER/CHOICE → the pipelines that use it."""
    found: dict[str, list[str]] = {}
    for method in methods:
        names = {node.task for node in method.graph.nodes.values()} | set(method.tasks.values())
        for name in sorted({*names, *(f"{c.folder}/{c.name}" for c in method.choices)}):
            found.setdefault(name, []).append(method.name)
    return found


class MethodPages:
    """The pages of methods. `numbers` and `papers`: the pages from which their rows come, as Markdown."""

    def __init__(self, methods: Sequence[Method], catalogue: Catalogue, numbers: str, papers: str) -> None:
        self._methods = {method.name: method for method in methods}
        self._catalogue = catalogue
        self._numbers, self._papers = numbers, papers

    def pages(self) -> dict[str, str]:
        return {f"methods/{name}.md": self._page(method) for name, method in self._methods.items()}

    def _page(self, method: Method) -> str:
        return page(
            f"# {method.name}", escaped(method.graph.about) + ".", *self._about(method),
            *self._equations(method), *self._wiring(method), *self._expected(method), *_parameters(method),
        )  # fmt: skip

    def _about(self, method: Method) -> Iterator[str]:
        yield f"```\nalignflow run {method.name}\n```"
        rows = [row for row in _rows(self._papers) if f"`{method.name}`" in row[1]]
        yield table(("what", "code", "source"), ((_up(r[0]), _up(r[2]), _up(with_papers(r[3]))) for r in rows))
        variants = [m.name for m in self._methods.values() if m.extends == method.name]
        if variants:
            yield "Variants: " + ", ".join(f"[`{name}`]({name}.md)" for name in variants) + "."

    def _equations(self, method: Method) -> Iterator[str]:
        losses = [c for c in method.choices if c.folder.startswith("losses/")]
        if losses:
            yield "## What is minimised"
        for loss in losses:
            doc = self._catalogue.codebase.public(loss.module).functions[loss.name].doc
            where = f"../reference/choices/{loss.folder.replace('/', '-')}.md#{loss.name}"
            values = ", ".join(f"{name} {value(v)}" for name, v in loss.params.items())
            about = escaped(doc.split("\n\n")[0])
            yield f"[`{loss.name}`]({where}){f' with {values}' if values else ''}: {about}"
            yield from (f"```text\n{formula}\n```" for formula in formulas(doc))

    def _wiring(self, method: Method) -> Iterator[str]:
        yield "## The wiring"
        yield graph_html(method.graph, method.tasks)
        yield "Dashed arrows feed the next round. Point at a step to see what it makes."
        if method.extends in self._methods:
            yield f"What differs from [`{method.extends}`]({method.extends}.md):"
        yield f"```yaml\n{method.written.rstrip()}\n```"
        if method.extends:
            yield f'??? note "All of its steps, with what it inherits"\n\n{_indented(_whole(method))}'

    def _expected(self, method: Method) -> Iterator[str]:
        parts = list(self._tables(method.name))
        bullets = [b for b in re.findall(r"^- .*(?:\n  .*)*", self._numbers, re.M) if f"`{method.name}`" in b]
        figures = [name for name, of in FIGURES.items() if method.name in of]
        if parts or bullets:
            yield "## Expected numbers"
            yield "On the toy world; [machine, dates, seeds and what the columns mean](../numbers.md)."
        yield from parts
        yield from (_up(re.sub(r"\n+ *!\[.*", "", bullet)) for bullet in bullets)
        yield from (f"![{name.replace('_', ' ')}](../{name}.png)" for name in figures)

    def _tables(self, name: str) -> Iterator[str]:
        """The rows of the method, each table with its head."""
        for block in re.findall(r"(?:^\|.*\n)+", self._numbers, re.M):
            head, _, *rows = _rows(block)
            own = [row for row in rows if f"`{name}`" in row[0]]
            yield table(head, own)


def _rows(markdown: str) -> list[list[str]]:
    """The rows of the tables in a page."""
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def _up(text: str) -> str:
    """Links of a page in `docs/` as seen from a folder below it."""
    return re.sub(r"\]\((?!https?:|#|\.\./)([^)]+)\)", r"](../\1)", text)


def _whole(method: Method) -> str:
    """The steps of a pipeline and of all that it extends, as one wiring."""
    order = {re.split("[/@]", node)[0]: number for number, node in reversed(list(enumerate(method.graph.nodes)))}
    sections = {"steps": "steps:", "repeat": "repeat: # the steps of a round", "after": "after:"}
    lines = ["```yaml"]
    for section, title in sections.items():
        steps = [step for step in method.text.steps.values() if step.section == section]
        steps.sort(key=lambda step: order.get(step.name, len(order)))
        width = max((len(step.name) for step in steps), default=0) + 1
        lines += [title] if steps else []
        lines += [f"  {step.name + ':':{width}} {_flow(step.node.plain)}" for step in steps]
    return "\n".join([*lines, "```"])


def _flow(plain: JSON) -> str:
    """A value in YAML's flow style."""
    if isinstance(plain, Mapping):
        return "{" + ", ".join(f"{key}: {_flow(v)}" for key, v in plain.items()) + "}"
    if isinstance(plain, list):
        return "[" + ", ".join(map(_flow, plain)) + "]"
    return plain if isinstance(plain, str) else json.dumps(plain)


def _parameters(method: Method) -> Iterator[str]:
    rows = [(f"`{p.name}`", value(p.value), escaped(p.help)) for p in method.graph.parameters.values()]
    yield "## Parameters"
    yield table(("parameter", "value", ""), rows)


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" if line else "" for line in text.splitlines())
