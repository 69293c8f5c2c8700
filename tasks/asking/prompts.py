"""Prompts from templates: what is judged goes in as values, between marks that no text can have guessed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.contract import DataError, SpecError
from tasks.ids import digest
from tasks.judging.templates import UNFILLABLE, compiled_template
from tasks.message import Message

if TYPE_CHECKING:
    from jinja2 import Template

BLOCKS = ("system", "user")
"""The blocks of a template, each a message; `user` must be there."""


class PromptTemplate:
    """A template file in Jinja's language, in a sandbox: no escaping, no access beyond the values, no unknown names.

    Its blocks `system` and `user` are the messages. Texts that are judged are values, so nothing in them is read as a
    template; `mark` is a number that depends on all of them and occurs in none, so none can end its own frame.
    """

    def __init__(self, file: Path) -> None:
        self._file = file

    @cached_property
    def _template(self) -> Template:
        try:
            source = self._file.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as e:
            raise DataError(f"the template {self._file} cannot be read: {e}") from None
        template = compiled_template(source, f"the template {self._file}")
        if "user" not in template.blocks or (unknown := sorted(template.blocks.keys() - set(BLOCKS))):
            what = f"has the blocks {unknown}" if "user" in template.blocks else "has no block `user`"
            raise SpecError(f"the template {self._file} {what}: its blocks are its messages, `system` and `user`")
        return template

    def messages(self, texts: dict[str, str], **more: Sequence[str]) -> list[Message]:
        """The messages with these texts, and `more` values. Raises SpecError where the template needs others."""
        from jinja2 import TemplateError

        texts = {name: text.encode("utf-8", "replace").decode() for name, text in texts.items()}  # lone surrogates
        values: dict[str, Any] = {**texts, **more, "mark": mark(*texts.values())}
        template = self._template
        try:
            return [
                {"role": name, "content": "".join(block(template.new_context(values))).strip()}
                for name in BLOCKS if (block := template.blocks.get(name))
            ]  # fmt: skip
        except (TemplateError, *UNFILLABLE) as e:
            raise SpecError(
                f"the template {self._file} cannot be filled: {e}; its values are {', '.join(sorted(values))}"
            ) from None


@lru_cache(maxsize=16)
def template_in(file: Path) -> PromptTemplate:
    """The template of a file, read once."""
    return PromptTemplate(file)


def mark(*texts: str) -> str:
    """A number of 16 digits that depends on the texts and occurs in none of them."""
    candidates = (digest(*texts, str(n))[:16] for n in range(len(texts) * max(map(len, texts), default=0) + 1))
    return next(candidate for candidate in candidates if not any(candidate in text for text in texts))
