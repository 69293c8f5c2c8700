"""Refusals by the meaning of steps: losses without their data, comparison with itself, evaluation on what trained."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from flows.wiring.catalogue import Catalogue
from flows.wiring.model import Node
from flows.wiring.signatures import Signature
from flows.wiring.tree import fail
from flows.wiring.views import COMPOSED, View
from flows.wiring.where import Where
from tasks.contract import NEEDS_TARGETS
from tasks.declarations import Evaluation
from tasks.families import ALL_REFERENCES, DATA, LOSSES, NO_TARGETS, TARGETS, LossFamily

if TYPE_CHECKING:
    from flows.wiring.choices import Picked
    from flows.wiring.model import Handle

Ports = dict[str, "list[Handle]"]


def check_losses(
    catalogue: Catalogue, where: Where, what: str, signature: Signature, ports: Ports,
    picked: Mapping[str, Picked], notices: list[str],
) -> Ports:  # fmt: skip
    """Ports without those that the step's loss does not read. Raises SpecError where a loss cannot train."""
    for name, loss in ((name, p.signature) for name, p in picked.items() if not p.missing):
        if loss.folder not in LOSSES:
            continue
        family = LOSSES[loss.folder]
        for data in [handle.kinds for handle in ports.get(DATA, [])] or [()]:
            model = _trained_kinds(catalogue, signature, family)
            if problem := family.mismatch(loss.arguments, model, data, signature.ports, ports):
                fail(where, f"{what}.{name}: the loss {loss.name} ({loss.folder}) {problem}")
        if NEEDS_TARGETS in loss.companions and not set(TARGETS) & ports.keys():
            fail(where, f"{what}.{name}: the loss {loss.name} ({loss.folder}) {NO_TARGETS}")
        unread = [n for n in family.unread_ports(loss.arguments) if n in ports and signature.ports[n].optional]
        ports = _without_models_and_tables(what, ports, unread, loss.name, notices)
    return ports


def can_train(catalogue: Catalogue, task: Signature, loss: Signature) -> bool:
    """Whether the task can train with the loss on some kind of table, where all its ports are fed."""
    family, port = LOSSES[loss.folder], task.ports.get(DATA)
    tables = [kinds for kinds in catalogue.kinds.values() if port and not set(kinds).isdisjoint(port.kinds)] or [()]
    model = _trained_kinds(catalogue, task, family)
    fed = {*task.ports, *ALL_REFERENCES}
    return any(not family.mismatch(loss.arguments, model, table, task.ports, fed) for table in tables)


def _trained_kinds(catalogue: Catalogue, task: Signature, family: LossFamily) -> tuple[str, ...]:
    """The kinds of the model that a loss of the task trains: its result, or, of a composed one, a member."""
    returned = catalogue.kinds.get(task.returns, (task.returns,))
    return (family.trains,) if COMPOSED & {*returned} else returned


def _without_models_and_tables(what: str, ports: Ports, unread: list[str], loss: str, notices: list[str]) -> Ports:
    """Ports without those of `unread` for which something would have to be computed. Log-probabilities stay: metrics
    may use them."""
    dropped = [n for n in unread if not all(handle.is_a("Logps") for handle in ports[n])]
    texts = [f"{what}: the loss {loss} takes no `{n}`, so that edge is dropped" for n in dropped]
    notices += [text for text in texts if text not in notices]
    return {n: handles for n, handles in ports.items() if n not in dropped}


def check_node(
    catalogue: Catalogue, nodes: Sequence[Node], above: Sequence[int], signature: Signature, node: Node, view: View,
    what: str,
) -> None:  # fmt: skip
    """Refuse one table on both sides of a comparison, and an evaluation on a table that trained. Raises SpecError.

    Args:
        catalogue: the catalogue of the graph.
        nodes: all nodes before this one.
        above: of each of them, the nodes upstream of it as a set of bits (`upstream_of`).
        signature: of the node's task.
        node: the node, whose inputs are indices of nodes.
        view: its view, like those of its inputs with the index of its node as origin.
        what: its name in messages.
    """
    single = [p for p in signature.ports.values() if not p.is_list and p.name in node.inputs]
    for i, one in enumerate(single):
        for other in single[i + 1 :]:
            same = node.inputs[one.name] == node.inputs[other.name] and one.kinds == other.kinds
            by_proxy = one.name == other.name.replace("proxy_", "")  # gold may be its own proxy
            if same and not by_proxy and all(catalogue.is_a(k, "Table") for k in one.kinds):
                source = nodes[int(node.inputs[one.name][0])].id
                fail(node.where, f"{what} ({node.task}): '{one.name}' and '{other.name}' are the same step, {source}")
    evaluation = view.evaluation
    if evaluation and not evaluation.allow_seen:
        _check_seen(catalogue, nodes, above, node, what, evaluation)


def upstream_of(node: Node, above: Sequence[int], excluded: Sequence[str]) -> int:
    """The nodes upstream of a node as a set of bits: bit i is node i. So the sets of thousands of rounds stay small.

    excluded: ports whose rows its task keeps out of its result.
    """
    bits = 0
    for i in (int(i) for port, indices in node.inputs.items() if port not in excluded for i in indices):
        bits |= above[i] | 1 << i
    return bits


def _check_seen(
    catalogue: Catalogue, nodes: Sequence[Node], above: Sequence[int], node: Node, what: str, evaluation: Evaluation
) -> None:  # fmt: skip
    """Refuse a measured model that is downstream of the prompts or pairs on which it is measured."""
    for table, models in evaluation.measured:
        i, kind = table.origin, table.kind
        found = _tables_behind(catalogue, nodes, i)
        if catalogue.is_a(kind, "Completions"):  # the policy that answered is upstream: only the prompts count
            inputs = {int(n) for several in nodes[i].inputs.values() for n in several}
            found, kind = sum(1 << n for n in inputs), "Prompts"
        trained = 0
        for m in (m for m in models if catalogue.is_a(m.kind, "Model")):
            trained |= above[m.origin]
        for seen in _bits(found & trained):
            if catalogue.is_a(nodes[seen].kind, kind):
                problem = f"{nodes[seen].id}, on which this measures, also trained what is measured"
                fail(node.where, f"{what}: {problem}; set `allow_seen: true` if that is intended")


def _tables_behind(catalogue: Catalogue, nodes: Sequence[Node], i: int) -> int:
    """A table and the tables that it is made of, as bits; not what trained the policy or oracle that made it."""
    found, todo = 0, [i]
    while todo:
        n = todo.pop()
        if not found >> n & 1:
            found |= 1 << n
            fed = (int(m) for several in nodes[n].inputs.values() for m in several)
            todo += [m for m in fed if catalogue.is_a(nodes[m].kind, "Table")]
    return found


def _bits(bits: int) -> Iterable[int]:
    while bits:
        lowest = bits & -bits
        yield lowest.bit_length() - 1
        bits ^= lowest
