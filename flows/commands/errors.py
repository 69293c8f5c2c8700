"""How a command that fails ends: one message and an exit code, never a traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperGroup

from flows.commands.printing import escape_control_characters
from flows.system.disk import is_out_of_space
from tasks.contract import DataError, SpecError


class Commands(TyperGroup):
    """Ends quietly when its reader leaves: `alignflow plan sppo | head -1`."""

    def invoke(self, ctx: Any) -> Any:
        """Flushes here: at Python's own end it is too late, and click would exit with 1."""
        try:
            try:
                return super().invoke(ctx)
            finally:
                sys.stdout.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None


def with_plain_errors(command: Callable[[], None]) -> None:
    """Call it; a user's mistake becomes a message of one line, and so does a file that cannot be read or written."""
    try:
        command()
    except (SpecError, DataError) as e:
        _exit(str(e), 2 if isinstance(e, SpecError) else 1)
    except OSError as e:
        if is_out_of_space(e):
            _exit("a disk is full: make room, then run the same again", 1)
        if e.filename is None:
            raise
        _exit(f"{os.fsdecode(e.filename)}: {e.strerror}", 2)
    except KeyboardInterrupt:
        sys.exit(130)


def _exit(message: str, code: int) -> None:
    print(escape_control_characters(f"alignflow: {message}"), file=sys.stderr)
    sys.exit(code)
