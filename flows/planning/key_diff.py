"""In what two keys differ, in words."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple, Protocol

from tasks.contract import JSON


class KeyDifference(NamedTuple):
    """One difference: the part of the key, what changed in it, and a sentence."""

    part: str
    name: str
    text: str


class Keyed(Protocol):
    """A key, or the record of one."""

    @property
    def parts(self) -> Mapping[str, JSON]: ...
    @property
    def code(self) -> Mapping[str, str]: ...


def differences(old: Keyed, new: Keyed) -> list[KeyDifference]:
    """How `new` differs from `old`: parameters first, then code, outside world, packages, inputs (by port).

    A part that `new` lacks (inputs not known yet) is not compared. Code that only moved to another file is the same.
    """
    found = [*_in_part("params", old, new), *_in_code(old, new)]
    return found + [d for part in ("identities", "packages", "inputs") for d in _in_part(part, old, new)]


def _in_part(part: str, old: Keyed, new: Keyed) -> Iterator[KeyDifference]:
    if part in new.parts:
        yield from _changed(part, _flat(old.parts.get(part)), _flat(new.parts[part]))


def _in_code(old: Keyed, new: Keyed) -> list[KeyDifference]:
    """By the files that the code lies in; which of several functions of one name is meant shows in the wiring alone."""
    found = [*_changed("code", _unmoved(old.code, new.code), _unmoved(new.code, old.code))]
    if not found and any(old.parts.get(p) != new.parts.get(p) for p in ("code", "wiring")):
        found.append(KeyDifference("code", "", "what its code means by a name changed"))
    return found


def _unmoved(code: Mapping[str, str], other: Mapping[str, str]) -> dict[str, str]:
    """The units without those that the other side has, equal, in another file alone."""
    elsewhere = {(u.partition("::")[2], digest) for u, digest in other.items() if u not in code}
    return {u: d for u, d in code.items() if u in other or (u.partition("::")[2], d) not in elsewhere}


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


def _changed(part: str, old: Mapping[str, JSON], new: Mapping[str, JSON]) -> Iterator[KeyDifference]:
    for name in sorted({*old, *new}):
        if name not in old or name not in new or old[name] != new[name]:
            yield KeyDifference(part, name, _sentence(part, name, old.get(name), new.get(name)))


def _sentence(part: str, name: str, old: JSON, new: JSON) -> str:
    shown = name if part == "packages" else f"`{name}`"
    if part in ("params", "identities"):
        subject = shown if part == "params" else f"what {shown} reads"
        return f"{subject} changed {_short(old)} → {_short(new)}"
    if old is None or new is None:
        verb = "fed" if part == "inputs" else "used"
        return f"{shown} is {verb} now" if old is None else f"{shown} is no longer {verb}"
    return {"packages": f"{shown} {old} → {new}", "inputs": f"{shown} came out different"}.get(part, f"{shown} changed")


def _short(value: JSON) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if re.fullmatch(r"[0-9a-f]{32}", text):
        return text[:8]
    return text if len(text) <= 40 else f"{text[:37]}…"
