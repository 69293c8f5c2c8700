"""Refusals that know what tasks mean: losses and their data, comparison with itself, evaluation on what trained."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from flows.wiring.model import Node, Where
from flows.wiring.signatures import Catalogue, Signature
from flows.wiring.tree import fail
from tasks.families import DATA, LOSSES, REFERENCES

if TYPE_CHECKING:
    from flows.wiring.builder import Handle
    from flows.wiring.choices import Picked

Ports = dict[str, "list[Handle]"]


def check_losses(
    catalogue: Catalogue, where: Where, what: str, signature: Signature, ports: Ports,
    picked: Mapping[str, Picked], notices: list[str],
) -> Ports:  # fmt: skip
    """Ports without the reference that the step's loss does not read. Raises SpecError where a loss cannot train."""
    for name, loss in ((name, p.signature) for name, p in picked.items() if not p.missing):
        if loss.folder not in LOSSES:
            continue
        family = LOSSES[loss.folder]
        given = any(port in ports for port in REFERENCES)
        for data in [catalogue.kinds[handle.kind] for handle in ports.get(DATA, [])] or [()]:
            model = catalogue.kinds.get(signature.returns, (signature.returns,))
            if problem := family.mismatch(loss.arguments, model, data, given):
                fail(where, f"{what}.{name}: the loss {loss.name} ({loss.folder}) {problem}")
        if not family.needs_reference(loss.arguments):
            ports = _without_reference(catalogue, what, signature, ports, loss.name, notices)
    return ports


def _without_reference(
    catalogue: Catalogue, what: str, signature: Signature, ports: Ports, loss: str, notices: list[str]
) -> Ports:
    """Ports without the optional one of a reference that would have to be computed."""
    models = [n for n in REFERENCES if n in ports and any(handle.is_a("Model") for handle in ports[n])]
    dropped = [n for n in models if signature.ports[n].optional]
    texts = [f"{what}: the loss {loss} takes no `{n}`, so that edge is dropped" for n in dropped]
    notices += [text for text in texts if text not in notices]
    return {n: handles for n, handles in ports.items() if n not in dropped}


def check_node(
    catalogue: Catalogue, nodes: Sequence[Node], above: Sequence[int], signature: Signature, node: Node, what: str
) -> None:
    """Refuse one table on both sides of a comparison, and an evaluation on a table that trained. Raises SpecError.

    above: of every node, the nodes upstream of it as a set of bits (`upstream_of`).
    """
    single = [p for p in signature.ports.values() if not p.is_list and p.name in node.inputs]
    for i, one in enumerate(single):
        for other in single[i + 1 :]:
            same = node.inputs[one.name] == node.inputs[other.name] and one.kinds == other.kinds
            by_proxy = one.name == other.name.replace("proxy_", "")  # gold may be its own proxy
            if same and not by_proxy and all(catalogue.is_a(k, "Table") for k in one.kinds):
                source = nodes[int(node.inputs[one.name][0])].id
                fail(node.where, f"{what} ({node.task}): '{one.name}' and '{other.name}' are the same step, {source}")
    if "allow_seen" in signature.params and node.params["allow_seen"] is False:
        _check_seen(catalogue, nodes, above, node, what)


def upstream_of(node: Node, above: Sequence[int]) -> int:
    """The nodes upstream of a node as a set of bits: bit i is node i. Sets of thousands of rounds stay small so."""
    bits = 0
    for i in (int(i) for indices in node.inputs.values() for i in indices):
        bits |= above[i] | 1 << i
    return bits


def _check_seen(
    catalogue: Catalogue, nodes: Sequence[Node], above: Sequence[int], node: Node, what: str
) -> None:  # fmt: skip
    """What is measured must not be downstream of the prompts or pairs on which it is measured."""

    def measured(found: int, kind: str, models: Iterable[int]) -> None:
        trained = 0
        for m in (m for m in models if catalogue.is_a(nodes[m].kind, "Model")):
            trained |= above[m]
        for i in _bits(found & trained):
            if catalogue.is_a(nodes[i].kind, kind):
                fail(
                    node.where, f"{what}: {nodes[i].id}, on which this measures, also trained what is measured; "
                    "say `allow_seen: true` if that is meant",
                )  # fmt: skip

    for sampled in _fed(node, "completions"):
        fed = [i for port in nodes[sampled].inputs for i in _fed(nodes[sampled], port)]
        measured(sum(1 << i for i in set(fed)), "Prompts", fed)
    judges = [i for logps in _fed(node, "logps") for i in _fed(nodes[logps], "policy")] + _fed(node, "oracle")
    judges += _fed(node, "before")
    for pairs in _fed(node, "pairs"):
        measured(above[pairs] | 1 << pairs, "Preferences", judges)


def _fed(node: Node, port: str) -> list[int]:
    return [int(i) for i in node.inputs.get(port, ())]


def _bits(bits: int) -> Iterable[int]:
    while bits:
        lowest = bits & -bits
        yield lowest.bit_length() - 1
        bits ^= lowest
