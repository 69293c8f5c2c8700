"""How commands print: control characters in texts of files and models, which a terminal would obey, are escaped."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

_DIRECTION = "\u202a-\u202e\u2066-\u2069"
"""Characters that turn the direction of writing."""
_CONTROL = re.compile(f"[\x00-\x08\x0b-\x1f\x7f-\x9f{_DIRECTION}]")
"""C0 and C1 but for tab and newline, and those of direction."""


def escape_control_characters(text: str) -> str:
    """The text with control characters as Python writes them: `\\x1b[31m`."""
    return _CONTROL.sub(lambda match: ascii(match[0])[1:-1], text)


def json_text(data: Any) -> str:
    """The data as JSON, with control characters as JSON escapes them."""
    text = json.dumps(data, indent=1, ensure_ascii=False)
    return re.sub(f"[\x7f-\x9f{_DIRECTION}]", lambda match: f"\\u{ord(match[0]):04x}", text)


def console() -> Console:
    """The console of a command, which escapes control characters in lines, tables and trees.

    It goes quiet when its reader leaves (`| head`): rich by itself would end the process, and a run of hours with it.
    """
    from rich.console import Console
    from rich.text import Text

    class Output(Console):
        def on_broken_pipe(self) -> None:
            self.quiet = True

        def render_str(self, text: str, **options: Any) -> Text:
            return super().render_str(escape_control_characters(text), **options)

    return Output(highlight=False) if sys.stdout.isatty() else Output(highlight=False, width=160)


def say(console: Console, text: str) -> None:
    """Print a line as it is: without markup, colours or line breaks."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def short_path(path: Path) -> str:
    """A path relative to the working directory if it lies in it."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)
