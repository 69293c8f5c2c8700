"""In what two keys differ, in words."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import NamedTuple

from tasks.contract import JSON


class Difference(NamedTuple):
    """One difference: the part of the key, what changed in it, and a sentence."""

    part: str
    name: str
    text: str


def differences(old: Mapping[str, JSON], new: Mapping[str, JSON]) -> list[Difference]:
    """How `new` differs from `old`: parameters first, then code, outside world, packages, inputs (by port).

    A part that `new` lacks (inputs not known yet) is not compared.
    """
    found: list[Difference] = []
    for part, say in (("params", _param), ("code", _code), ("identities", _identity), ("packages", _package),
                      ("inputs", _input)):  # fmt: skip
        if part in new:
            before, after = _flat(old.get(part)), _flat(new[part])
            changed = [n for n in sorted(before | after) if before.get(n, _NOTHING) != after.get(n, _NOTHING)]
            found += [Difference(part, n, say(n, before.get(n), after.get(n))) for n in changed]
    return found


_NOTHING = object()


def _flat(part: JSON, prefix: str = "") -> dict[str, JSON]:
    """Nested mappings as dotted names; a choice is its name and its parameters below that of the parameter."""
    flat: dict[str, JSON] = {}
    for name, value in part.items() if isinstance(part, dict) else ():
        whole = f"{prefix}{name}"
        if isinstance(value, dict) and value.keys() == {"choice", "params"}:
            flat[whole] = str(value["choice"]).rpartition("/")[2]
            flat.update(_flat(value["params"], f"{whole}."))
        elif isinstance(value, dict):
            flat.update(_flat(value, f"{whole}."))
        else:
            flat[whole] = value
    return flat


def _param(name: str, old: JSON, new: JSON) -> str:
    return f"`{name}` changed {_short(old)} → {_short(new)}"


def _code(name: str, old: JSON, new: JSON) -> str:
    if old is None:
        return f"`{name}` is used now"
    return f"`{name}` changed" if new is not None else f"`{name}` is no longer used"


def _identity(name: str, old: JSON, new: JSON) -> str:
    return f"what `{name}` reads changed {_short(old)} → {_short(new)}"


def _package(name: str, old: JSON, new: JSON) -> str:
    if old is None or new is None:
        return f"{name} is used now" if old is None else f"{name} is no longer used"
    return f"{name} {old} → {new}"


def _input(name: str, old: JSON, new: JSON) -> str:
    if old is None:
        return f"`{name}` is fed now"
    return f"`{name}` came out different" if new is not None else f"`{name}` is no longer fed"


def _short(value: JSON) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:37]}…"
