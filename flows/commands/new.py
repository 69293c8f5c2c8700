"""`alignflow new`: a small folder to start from, with a loss, an oracle, a wiring and a test of one's own."""

from __future__ import annotations

import re
from pathlib import Path

from flows.wiring.extensions import check_package_name
from flows.wiring.where import Where
from tasks.contract import SpecError

_STARTER = Path(__file__).with_name("starter")
_NAME = re.compile(r"\blab\b|(?<=test_)lab\b")
"""The package's name in the files of the starter."""


def write_project(folder: Path) -> list[Path]:
    """Write the starter's files with a package that is named after the folder. Raises SpecError."""
    package = folder.name.replace("-", "_")
    check_package_name(package, folder.absolute() / package, Where("command line"))
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise SpecError(f"{folder} exists already; choose another name, or remove it")
    written = []
    for source in sorted(p for p in _STARTER.rglob("*") if p.is_file() and p.suffix != ".pyc"):
        name = _NAME.sub(package, source.relative_to(_STARTER).as_posix())
        target = folder / (".gitignore" if name == "gitignore" else name)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(_NAME.sub(package, source.read_text()))
        written.append(target)
    return written
