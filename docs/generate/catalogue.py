"""Tasks, choices, kinds, metrics and keys of the grammar, from signatures, docstrings and declarations."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property

from docs.generate.markdown import docstring, escaped, page, table, value
from flows.python.functions import Argument
from flows.wiring import grammar
from flows.wiring.catalogue import Catalogue
from flows.wiring.groups import find_fields
from flows.wiring.signatures import Param, Signature
from flows.wiring.types import Type, parse_type
from tasks import kinds
from tasks.artifact import Table
from tasks.contract import SEED
from tasks.families import LOSSES

Pages = dict[str, str]
"""Path below `docs/` → Markdown."""


class Reference:
    """The pages of the reference. `wired`: task or FOLDER/CHOICE → the pipelines that name it."""

    def __init__(self, catalogue: Catalogue, wired: Mapping[str, Sequence[str]]) -> None:
        self._catalogue = catalogue
        self._wired = wired
        self._signatures = {**catalogue.tasks, **catalogue.composites}

    def pages(self) -> Pages:
        return {
            **self._tasks(), **self._choices(), "reference/groups.md": self._groups(),
            "reference/kinds.md": _kinds(), "reference/metrics.md": self._metrics(),
            "reference/loss-arguments.md": _loss_arguments(), "reference/keys.md": _keys(),
        }  # fmt: skip

    def _tasks(self) -> Pages:
        modules: dict[str, list[Signature]] = defaultdict(list)
        for signature in self._signatures.values():
            modules[signature.module].append(signature)
        pages, rows = {}, []
        for module, signatures in sorted(modules.items()):
            name = module.rpartition(".")[2]
            pages[f"reference/tasks/{name}.md"] = page(
                f"# tasks/{name}.py", *(block for s in signatures for block in self._task(s))
            )
            rows += [(f"[`{s.name}`]({name}.md#{s.name})", escaped(s.about), f"`{s.returns}`") for s in signatures]
        about = "A step names one of these tasks; a task that is made of steps is named alike."
        pages["reference/tasks/index.md"] = page(
            "# Every task", about, table(("task", "what it does", "result"), sorted(rows))
        )
        return pages

    def _task(self, s: Signature) -> Iterator[str]:
        doc = self._catalogue.codebase.public(s.module).functions[s.name].doc
        yield f"## {s.name} {{ #{s.name} }}"
        yield from docstring(doc)
        ports = [
            (f"`{p.name}`", f"`{p}`", "may be empty" if p.optional else "needed") for p in s.ports.values()
        ]  # fmt: skip
        yield table(("port", "kind", ""), ports)
        grouped = {field for group in s.groups.values() for field in group.fields}
        own = [p for p in s.params.values() if p.name not in grouped]
        rows = [*map(self._param, own), *(self._group_row(s, name) for name in s.groups)]
        yield table(("parameter", "value", "default", ""), rows)
        yield f"Result: {self._kind(s.returns)}"
        yield from self._metric_list(s.name)
        yield self._users(s.name)

    def _kind(self, name: str) -> str:
        return (
            f"[`{name}`](../kinds.md#{name.lower()})"
            if isinstance(getattr(kinds, name, None), type)
            else f"`{name}`, as its input"
        )

    def _metric_list(self, task: str) -> Iterator[str]:
        metrics = self._catalogue.declared.of_task(task, "metrics")
        if metrics:
            yield "Metrics: " + ", ".join(f"`{name}`" for name in metrics) + " ([columns](../metrics.md))"

    def _users(self, name: str, up: str = "../../") -> str:
        users = self._wired.get(name, ())
        shown = ", ".join(f"[{user}]({up}methods/{user}.md)" for user in users[:8])
        rest = f" and {len(users) - 8} more" if len(users) > 8 else ""
        return f"Wired in {shown}{rest}." if users else ""

    def _param(self, p: Param) -> tuple[str, str, str, str]:
        return f"`{p.name}`", type_text(p.type), "needed" if p.required else value(p.default), escaped(p.help)

    def _group_row(self, s: Signature, name: str) -> tuple[str, str, str, str]:
        group = s.groups[name]
        usual = {f.name: f.default for f in self._fields(group.module, group.name)}
        own = {f: s.params[f].default for f in group.fields if s.params[f].default != usual[f]}
        text = "those of the group" + (" but " + ", ".join(f"{f} {value(v)}" for f, v in own.items()) if own else "")
        return f"`{name}`", f"[{group.name}](../groups.md#{group.name.lower()})", text, "flat or as a mapping"

    def _fields(self, module: str, name: str) -> tuple[Argument, ...]:
        found = find_fields(self._catalogue.codebase, module, name)
        return found.fields if found else ()

    @cached_property
    def _group_users(self) -> Mapping[tuple[str, str], list[str]]:
        users: dict[tuple[str, str], list[str]] = defaultdict(list)
        for s in self._signatures.values():
            for group in s.groups.values():
                users[group.module, group.name].append(s.name)
        return users

    def _groups(self) -> str:
        blocks = []
        for (module, name), users in sorted(self._group_users.items()):
            rows = [
                (f"`{f.name}`", type_text(parse_type(f.annotation)), "needed" if f.required else value(f.default),
                 escaped(f.doc))
                for f in self._fields(module, name)
            ]  # fmt: skip
            of = ", ".join(f"`{user}`" for user in sorted(users))
            blocks += [f"## {name} {{ #{name.lower()} }}", f"Of {of}.", table(("field", "value", "default", ""), rows)]
        about = "Parameters that several tasks share. A step writes them flat, or as a mapping under the group's name."
        return page("# Groups of parameters", about, *blocks).replace("](../choices/", "](choices/")

    def _choices(self) -> Pages:
        found: dict[str, dict[str, Signature]] = defaultdict(dict)
        takers: dict[str, set[str]] = defaultdict(set)
        for choice, several in self._catalogue.takers.items():
            for s in self._catalogue.all_choices(choice.folder):
                found[s.folder][s.name] = s
                takers[s.folder] |= {taker.name for taker in several}
        pages, rows = {}, []
        for folder, choices in sorted(found.items()):
            file = f"{folder.replace('/', '-')}.md"
            pages[f"reference/choices/{file}"] = self._folder(folder, sorted(choices.items()), sorted(takers[folder]))
            rows += [(f"[`{s.name}`]({file}#{s.name})", folder, escaped(s.about)) for _, s in sorted(choices.items())]
        about = "What a step may name where its task takes a choice: a file below `tasks/`, or in a folder of your own."
        index = page("# Every choice", about, table(("choice", "folder", "what it is"), rows))
        return {**pages, "reference/choices/index.md": index}

    def _folder(self, folder: str, choices: Sequence[tuple[str, Signature]], takers: Sequence[str]) -> str:
        rows = [(f"[`{name}`](#{name})", escaped(s.about)) for name, s in choices]
        of = ", ".join(f"`{name}`" for name in takers)
        loss = "[What their arguments mean](../loss-arguments.md)." if folder.startswith("losses/") else ""
        blocks = [block for _, s in choices for block in self._choice(s)]
        head = table(("choice", "what it is"), rows)
        return page(f"# tasks/{folder}/", f"Taken by {of}. {loss}", head, *blocks)

    def _choice(self, s: Signature) -> Iterator[str]:
        doc = self._catalogue.codebase.public(s.module).functions[s.name].doc
        yield f"## {s.name} {{ #{s.name} }}"
        yield from docstring(doc)
        if s.folder in LOSSES:
            yield "Arguments: " + ", ".join(f"`{a}`" for a in s.arguments)
        yield table(("parameter", "value", "default", ""), map(self._param, s.params.values()))
        yield self._users(f"{s.folder}/{s.name}")

    def _metrics(self) -> str:
        rows = [
            (f"`{name}`", f"[`{task}`](tasks/{self._signatures[task].module.rpartition('.')[2]}.md#{task})",
             escaped(m.column) or "–", "yes" if m.interval else "", "higher" if m.higher_is_better else "lower")
            for task, metrics in self._catalogue.declared.all_of("metrics") for name, m in metrics.items()
        ]  # fmt: skip
        about = (
            "What reports measure. The docstring of the task says what each is, in which unit and how its interval is "
            "made. A name also covers those that begin with it: `eval/beats` covers `eval/beats/2/1`."
        )
        head = ("metric", "task", "column of tables, with its unit", "interval shown", "better is")
        return page("# Every metric", about, table(head, rows))


def type_text(kind: Type) -> str:
    """The values that a parameter accepts, in words; of a choice a link to its page."""
    if kind.choice:
        folder = kind.choice.folder
        where = "index" if folder == "losses" else folder.replace("/", "-")
        other = ", or a path or hub id" if kind.choice.other else ""
        return f"[one of {folder}](../choices/{where}.md){other}" + (" or null" if kind.optional else "")
    return escaped(str(kind).replace(f" and at most {SEED.max}", ""))


def _kinds() -> str:
    blocks = []
    for name, kind in vars(kinds).items():
        if isinstance(kind, type) and kind.__module__ == kinds.__name__ and kind.__doc__:
            blocks += [f"## {name} {{ #{name.lower()} }}", *docstring(kind.__doc__)]
            if issubclass(kind, Table) and hasattr(kind, "SCHEMA"):
                blocks.append(table(("column", "type", ""), _columns(kind.SCHEMA)))
    about = (
        "An artifact is a directory of data: an Arrow table, a Hugging Face directory, or an oracle's specification. "
        "Log-probabilities are nats, lengths are tokens."
    )
    return page("# Kinds of artifacts", about, *blocks)


def _columns(schema: Iterable[object]) -> Iterator[tuple[str, str, str]]:
    for field in schema:
        about = (field.metadata or {}).get(b"about", b"").decode()
        yield (
            f"`{field.name}`",
            escaped(str(field.type)[:60]),
            escaped(about) + (" (may be null)" if field.nullable else ""),
        )


def _loss_arguments() -> str:
    blocks = []
    for folder, family in LOSSES.items():
        rows = [
            (f"`{a.name}`", escaped(a.about), ", ".join(f"`{k}`" for k in t.kinds) or "sampled answers")
            for t in family.tables for a in t.arguments
        ]  # fmt: skip
        blocks += [
            f"## {folder}",
            f"{family.about[0].upper()}{family.about[1:]}.",
            table(("argument", "is", "of"), rows),
        ]
    about = "A loss names any of its folder's arguments, and gets each as a tensor. Log-probabilities are nats."
    return page("# Arguments of losses", about, *blocks)


def _keys() -> str:
    tables = {
        "The file": grammar.FILE, "A pipeline": grammar.PIPELINE, "`repeat`": grammar.REPEAT,
        "A deployment": grammar.DEPLOYMENT, "`schedule`": grammar.SCHEDULE, "`continue`": grammar.CONTINUE,
        "A profile": grammar.PROFILE, "Parameters that every pipeline has": grammar.BUILT_IN,
        "Options of ticks": grammar.TICKS,
    }  # fmt: skip
    blocks = []
    for title, keys in tables.items():
        blocks += [f"## {title}", table(("key", "is"), ((f"`{k}`", escaped(text)) for k, text in keys.items()))]
    return page("# Every key of pipelines.yaml", "With examples: [the grammar](../pipelines.md).", *blocks)
