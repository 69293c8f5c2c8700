"""In what two keys differ, in words."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
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
    found = list(_changed("params", old, new, _param))
    found += _code(old, new)
    for part, say in (("identities", _identity), ("packages", _package), ("inputs", _input)):
        found += _changed(part, old, new, say)
    return found


def _changed(part: str, old: Keyed, new: Keyed, say: Callable[[str, JSON, JSON], str]) -> Iterator[KeyDifference]:
    if part in new.parts:
        before, after = _flat(old.parts.get(part)), _flat(new.parts[part])
        for name in sorted(before | after):
            if before.get(name, _NOTHING) != after.get(name, _NOTHING):
                yield KeyDifference(part, name, say(name, before.get(name), after.get(name)))


def _code(old: Keyed, new: Keyed) -> list[KeyDifference]:
    """By the files that the code lies in; which of several functions of one name is meant shows in the wiring alone."""
    before, after = _unmoved(old.code, new.code), _unmoved(new.code, old.code)
    changed = [u for u in sorted(before | after) if before.get(u) != after.get(u)]
    found = [KeyDifference("code", u, _said_of_code(u, before.get(u), after.get(u))) for u in changed]
    if not found and any(old.parts.get(p) != new.parts.get(p) for p in ("code", "wiring")):
        found.append(KeyDifference("code", "", "what its code means by a name changed"))
    return found


def _unmoved(code: Mapping[str, str], other: Mapping[str, str]) -> dict[str, str]:
    """The units without those that the other side has, equal, in another file alone."""
    elsewhere = {(u.partition("::")[2], digest) for u, digest in other.items() if u not in code}
    return {u: d for u, d in code.items() if u in other or (u.partition("::")[2], d) not in elsewhere}


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


def _said_of_code(name: str, old: str | None, new: str | None) -> str:
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
    if re.fullmatch(r"[0-9a-f]{32}", text):
        return text[:8]
    return text if len(text) <= 40 else f"{text[:37]}…"
