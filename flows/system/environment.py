"""Environment variables for the time of a block, for processes that start in it; addresses without their passwords."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""Names of this machine."""


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """`os.environ` with `values` in it."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def python_path() -> str:
    """PYTHONPATH with which a new process can import `flows` from any working directory."""
    project = str(Path(__file__).parents[2])
    return os.pathsep.join(p for p in (project, os.environ.get("PYTHONPATH")) if p)


def without_proxy() -> dict[str, str]:
    """NO_PROXY with this machine's names added: a proxy cannot reach its servers. In both spellings, for urllib, httpx
    and requests read the lower one first."""
    before = ",".join(os.environ.get(name, "") for name in ("no_proxy", "NO_PROXY"))
    hosts = list(dict.fromkeys(h for h in map(str.strip, [*before.split(","), *LOOPBACK]) if h))
    text = "*" if "*" in hosts else ",".join(hosts)  # a star counts only alone
    return {"no_proxy": text, "NO_PROXY": text}


def without_password(text: str) -> str:
    """An address, or a text with addresses in it, without the names and passwords before their hosts."""
    return re.sub(r"(?<=://)[^/\s?#]*@", "", text)
