"""What a step will cost, before it runs: samples, oracle queries and training steps from the sizes of its inputs,
tokens and seconds from the nearest former record of its task. Upper bounds where sizes are only bounded.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from flows.store.records import Record
from flows.wiring.model import ChoiceValue, Node
from tasks.contract import JSON
from tasks.formats.checkpoint import max_answer_tokens

Params = Mapping[str, object]
Sizes = Mapping[str, Sequence["Size"]]


@dataclass(frozen=True)
class Size:
    """How large a result is: rows, and answers per prompt where it holds samplings. None: not known before it runs."""

    rows: float | None = None
    k: int | None = None


@dataclass(frozen=True)
class Cost:
    """What a step takes. A quantity that is None is not known before it runs."""

    units: Mapping[str, float | None] = field(default_factory=dict)
    """`samples`, `queries`, `tokens`, `steps`."""
    seconds: float | None = None
    more: frozenset[str] = frozenset()
    """Of a sum: the quantities that some step did not know, so that more will come."""
    bounds: frozenset[str] = frozenset()
    """The quantities that are the most it can be, not what is expected."""

    def text(self) -> str:
        """`500 samples · 12 s`; empty for a step that costs nothing worth saying."""
        most = dict.fromkeys(self.bounds, "at most ")
        parts = [f"{most.get(name, '')}{_count(value)} {name}" for name, value in self.units.items() if value != 0]
        return " · ".join([*parts, *([_time(self.seconds)] if self.seconds is not None else [])])

    def as_json(self) -> JSON:
        more: list[JSON] = [*sorted(self.more)]
        return {**self.units, "seconds": self.seconds, **({"more": more} if more else {})}


def total(costs: Iterable[Cost]) -> Cost:
    """The sum of what is known, and of which quantities some is not."""
    several = list(costs)
    names = dict.fromkeys(n for c in several for n in c.units)
    values = {n: [c.units[n] for c in several if n in c.units] for n in names}
    seconds = [c.seconds for c in several]
    more = {n for n, of in {**values, "seconds": seconds}.items() if None in of}
    return Cost({n: _known(of) for n, of in values.items()}, _known(seconds), frozenset(more))


def _known(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) if known else None


def result_size(task: str, params: Params, inputs: Sizes, record: Record | None = None) -> Size:
    """The size of a result: known if there is a record, else as bounded by parameters and inputs."""
    first = _main(inputs)
    k = _int(params.get("k")) if task == "sample" else first.k
    if record is not None:
        return Size(record.rows, k)
    if task == "part":
        size = _int(params.get("size"))
        fits = first.rows is not None and size is not None and not params.get("wrap")
        return Size(min(first.rows, size) if fits else size, k)  # type: ignore[type-var]
    if task == "concat":
        several = inputs.get("tables", ())
        return Size(_sum(s.rows for s in several), _int(_sum(s.k for s in several)))
    if task == "sample":
        return Size(_times(_rows(inputs, "prompts"), k), k)
    if task == "compare":
        return Size(_queries(inputs), k)
    if task == "deviations":  # as many as the rule makes
        return Size()
    return first


def units_of(task: str, params: Params, inputs: Sizes) -> dict[str, float | None]:
    """What the step consumes, besides time."""
    if task == "sample":
        return {"samples": _times(_rows(inputs, "prompts"), _int(params.get("k")))}
    if task == "compare":
        return {"queries": _queries(inputs)}
    if task == "ppo":
        answers = _times(_times(_int(params.get("iterations")), _int(params.get("size"))), _int(params.get("k")))
        return {"samples": answers, "queries": answers}
    if task == "score":
        return {"queries": _rows(inputs, "completions")}
    if "epochs" in params and "batch" in params:
        return {"steps": _steps(params, _main(inputs).rows)}
    return {}


def cost(
    task: str, params: Params, inputs: Sizes, former: tuple[Record, Sizes] | None, longest: Longest | None = None
) -> Cost:
    """Units by size, tokens and seconds scaled from a former record of the task and the sizes of its inputs.

    longest: what bounds the answers that the step samples.
    """
    units = units_of(task, params, inputs)
    most = _times(units.get("samples"), longest.tokens) if longest else None
    if former is None:
        return _with_tokens(units, None, None, most)
    record, old_inputs = former
    old = record.parts.get("params")
    factor = _ratio(_work(task, params, inputs), _work(task, old if isinstance(old, dict) else {}, old_inputs))
    expected = None
    if "tokens" in record.totals and task == "sample" and not (longest and longest.outside):
        expected = _times(record.totals["tokens"], factor)
    return _with_tokens(units, record.seconds * (1.0 if factor is None else factor), expected, most)


def _with_tokens(
    units: dict[str, float | None], seconds: float | None, expected: float | None, most: float | None
) -> Cost:
    if expected is not None and (most is None or expected <= most):
        return Cost({**units, "tokens": expected}, seconds)
    if most is not None:
        return Cost({**units, "tokens": most}, seconds, bounds=frozenset({"tokens"}))
    return Cost(units, seconds)


class Longest(NamedTuple):
    """What bounds the answers that a step samples."""

    tokens: int
    outside: bool
    """The policy comes from outside: how long its answers are is not known from those of other models."""


def longest_answer(node: Node, nodes: Mapping[str, Node], base: Path) -> Longest | None:
    """The most tokens that one answer of a sampling step can have: the step's max_tokens, else what its model says.

    base: the folder that paths of sources are relative to. None where that is not known before the run.
    """
    if "max_tokens" not in node.params:
        return None
    root = node
    while root.inputs.get("policy"):
        root = nodes[root.inputs["policy"][0]]
    source, outside = root.params.get("source"), root.task == "read_policy"
    found = _int(root.params.get("max_new_tokens"))
    if outside and isinstance(source, ChoiceValue):
        found = max_answer_tokens(base / Path(str(source.params.get("path"))).expanduser())
    tokens = _int(node.params["max_tokens"]) or found
    return Longest(tokens, outside) if tokens else None


def _work(task: str, params: Params, inputs: Sizes) -> float | None:
    """What a step's time is proportional to."""
    units = units_of(task, params, inputs)
    if "steps" in units:
        return _times(units["steps"], _int(params.get("batch")))
    return next(iter(units.values()), _main(inputs).rows)


def _steps(params: Params, rows: float | None) -> float | None:
    """Optimizer steps: as many as asked for, else those of all passes over the rows."""
    asked, batch = _int(params.get("steps")), _int(params["batch"])
    if asked is not None or rows is None or not batch:
        return asked
    return _times(math.ceil(rows / batch), _int(params["epochs"]))


def _queries(inputs: Sizes) -> float | None:
    """Every answer against every other of its prompt, or against every one of the other table's: both orders."""
    mine, others = inputs.get("completions", (Size(),))[0], inputs.get("others")
    if others:
        return _times(mine.rows, others[0].k)
    return _times(mine.rows, None if mine.k is None else max(mine.k - 1, 0))


def node_sizes(node: Node, sizes: Mapping[str, Size]) -> dict[str, list[Size]]:
    """Sizes of a step's inputs by port."""
    return {port: [sizes[i] for i in ids] for port, ids in node.inputs.items()}


def _rows(inputs: Sizes, port: str) -> float | None:
    return inputs[port][0].rows if inputs.get(port) else None


def _main(inputs: Sizes) -> Size:
    """The table that a step goes through row by row."""
    ports = [*(p for p in ("data", "completions", "table") if p in inputs), *inputs]
    several = [s for p in ports for s in inputs[p]]
    return next((s for s in several if s.rows is not None), next((s for s in several if s.k is not None), Size()))


def _int(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _times(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a * b


def _ratio(a: float | None, b: float | None) -> float | None:
    return None if a is None or not b else a / b


def _sum(values: object) -> float | None:
    known = list(values)  # type: ignore[call-overload]
    return None if None in known else sum(known)


def _count(value: float | None) -> str:
    return "?" if value is None else f"{math.ceil(value):,}"


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 1 else "<1 s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
