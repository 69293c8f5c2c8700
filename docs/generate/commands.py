"""Every command with its arguments and options, as `alignflow COMMAND --help` prints them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from typer.main import get_command

from docs.generate.markdown import escaped, page, table
from flows.cli import app
from flows.commands.options import PROJECT_OPTIONS

_COMMON = (*PROJECT_OPTIONS, "help")


def commands_page() -> str:
    """`reference/commands.md`."""
    group = get_command(app)
    blocks = [block for name, command in sorted(group.commands.items()) for block in _command(name, command)]
    about = (
        "`alignflow COMMAND --help` prints the same. Exit codes: 0 done, 1 a step failed, 2 the request was wrong, "
        "3 waiting for people, 130 stopped."
    )
    common = [p for p in group.commands["run"].params if p.name in _COMMON]
    everywhere = table(("option of all commands", ""), (_row(p) for p in common))
    return page("# Every command", about, everywhere, *blocks)


def _command(name: str, command: Any) -> Iterator[str]:
    yield f"## {name}"
    yield f"```\nalignflow {name}{''.join(f' {_metavar(p)}' for p in command.params if not _option(p))} [OPTIONS]\n```"
    yield from (escaped(paragraph) for paragraph in (command.help or "").split("\n\n"))
    yield table(("argument", ""), (_row(p) for p in command.params if not _option(p) and getattr(p, "help", "")))
    yield table(("option", ""), (_row(p) for p in command.params if _option(p) and p.name not in _COMMON))


def _option(parameter: Any) -> bool:
    return parameter.param_type_name == "option"


def _metavar(parameter: Any) -> str:
    return parameter.metavar or (parameter.name or "").upper()


def _row(parameter: Any) -> tuple[str, str]:
    names = ", ".join(parameter.opts) if _option(parameter) else _metavar(parameter)
    takes = f" {_metavar(parameter)}" if _option(parameter) and not getattr(parameter, "is_flag", False) else ""
    return f"`{names}{takes}`".replace("|", "&#124;"), escaped(getattr(parameter, "help", None) or "")
