"""Environment variables for the time of a block: what a process started in it inherits, and only there.

And what of an address that such a variable holds may be shown.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path


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
    """PYTHONPATH under which a new process finds `flows`, wherever it is started."""
    project = str(Path(__file__).parents[2])
    return os.pathsep.join(p for p in (project, os.environ.get("PYTHONPATH")) if p)


def public(text: str) -> str:
    """An address, or a text with addresses in it, without the names and passwords before their hosts."""
    return re.sub(r"(?<=://)[^/\s?#]*@", "", text)
