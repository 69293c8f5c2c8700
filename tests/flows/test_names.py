"""`flows` knows no task, choice, parameter, port or metric by its name: what it needs of them, they declare."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import tasks.declarations as tasks_declarations
from flows.python.codebase import Codebase
from flows.python.declared import Declarations
from flows.wiring.catalogue import Catalogue
from flows.wiring.where import Where

FLOWS = Path(__file__).parents[2] / "flows"
WORDS = frozenset({
    "alpha", "answers", "base", "baseline", "best", "compare", "completions", "correlations", "cost", "data", "dtype",
    "every", "exploitability", "gold", "kl", "loss", "memory", "model", "more", "n", "oracle", "oracles", "pairs",
    "part", "path", "policy", "probe", "prompts", "proxy", "r", "rank", "report", "reports", "schedule", "score",
    "seed", "size", "source", "step", "steps", "stop", "stream", "system", "table", "temperature", "ties", "times",
    "value", "version", "weight",
})  # fmt: skip
"""Words of the grammar, of JSON, of sentences and of other libraries, names of columns and figures, that are also names
in `tasks/`."""
BUILT_IN = {
    "flows/wiring/grammar.py": {"engine", "max_skipped", "max_tokens"}, "flows/wiring/builder.py": {"engine"},
    "flows/wiring/machine.py": {"transformers", "vllm"}, "flows/python/packages.py": {"transformers", "vllm"},
    "flows/run/executors/preload.py": {"transformers", "vllm"},
    "flows/reporting/sinks/hub_card.py": {"transformers", "adapter"},
}  # fmt: skip
"""Parameters that every pipeline has without declaring them; what `engine: auto` means; packages of those names;
words of the hub's metadata."""


def _names() -> Iterator[str]:
    catalogue = Catalogue()
    signatures = [*catalogue.tasks.values(), *catalogue.composites.values()]
    folders = {p.type.choice.folder for s in signatures for p in s.params.values() if p.type.choice}
    signatures += [catalogue.choice(f, name, Where(f), f) for f in folders for name in catalogue.choices(f)]
    for signature in signatures:
        yield from (signature.name, *signature.params, *signature.ports)


def _texts(module: ast.Module) -> Iterator[ast.Constant]:
    """Texts that do something: no docstrings."""
    docstrings = {id(node.value) for node in ast.walk(module) if isinstance(node, ast.Expr)}
    texts = (n for n in ast.walk(module) if isinstance(n, ast.Constant) and isinstance(n.value, str))
    return (n for n in texts if id(n) not in docstrings)


def test_no_name_of_a_task_choice_parameter_or_metric_stands_in_flows() -> None:
    declared = Declarations(Codebase())
    several_of = ("metrics", "curves", "totals")
    metrics = {name for what in several_of for _, several in declared.all_of(what) for name in several} - {"queries"}
    prefixes = tuple({f"{name.rpartition('/')[0]}/" for name in metrics if "/" in name} - {"train/"})
    known = {*_names(), *metrics} - WORDS
    found = []
    for file in sorted(FLOWS.rglob("*.py")):
        name = file.relative_to(FLOWS.parent).as_posix()
        for text in _texts(ast.parse(file.read_text())):
            is_name = text.value in known - BUILT_IN.get(name, set())
            if is_name or str(text.value).startswith(prefixes):
                found.append(f"{name}:{text.lineno}: {text.value!r}")
    assert not found, "\n".join(found)
    assert {"measure", "toy_gold", "kl_coef", "win_probs", "lr"} <= known
    assert "eval/" in prefixes


def test_every_declaration_of_the_shipped_tasks_is_that_of_a_task() -> None:
    declared, tasks = Declarations(Codebase()), Catalogue().tasks
    kinds = re.findall(r"^\| `mine_(\w+)`", tasks_declarations.__doc__ or "", re.M)
    assert tuple(kinds) == tasks_declarations.DECLARATIONS
    ends = tuple(f"_{kind}" for kind in kinds)
    names = [n for n in declared.names() if n.endswith(ends) and not n.startswith("_")]
    assert not {n for n in names if n.rpartition("_")[0] not in tasks}
    assert declared.notices == []
