"""How a command that fails ends: one message and an exit code, never a traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperGroup

from flows.commands.escaping import escape_control_characters
from flows.system.disk import is_out_of_space
from tasks.contract import DataError, SpecError

if TYPE_CHECKING:
    from rich.console import Console


class Commands(TyperGroup):
    """Ends quietly where whoever reads the output has had enough of it: `alignflow plan sppo | head -1`."""

    def invoke(self, ctx: Any) -> Any:
        """Flushes here, for at Python's own end it is too late, and click would exit with 1."""
        try:
            try:
                return super().invoke(ctx)
            finally:
                sys.stdout.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None


def console() -> Console:
    """Where a command prints. It goes quiet where whoever reads the output leaves: a run of hours is not ended by
    `| head`, as rich would do it. Control characters in texts, also in tables and trees, are shown escaped."""
    from rich.console import Console
    from rich.text import Text

    class Output(Console):
        def on_broken_pipe(self) -> None:
            self.quiet = True

        def render_str(self, text: str, **options: Any) -> Text:
            return super().render_str(escape_control_characters(text), **options)

    return Output(highlight=False) if sys.stdout.isatty() else Output(highlight=False, width=160)


def with_plain_errors(command: Callable[[], None]) -> None:
    """Run it; a user's mistake becomes a message of one line, and so does a file that cannot be read or written."""
    try:
        command()
    except (SpecError, DataError) as e:
        print(escape_control_characters(f"alignflow: {e}"), file=sys.stderr)
        sys.exit(2 if isinstance(e, SpecError) else 1)
    except OSError as e:
        if is_out_of_space(e):
            print("alignflow: a disk is full: make room, then run the same again", file=sys.stderr)
            sys.exit(1)
        if e.filename is None:
            raise
        print(escape_control_characters(f"alignflow: {os.fsdecode(e.filename)}: {e.strerror}"), file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
