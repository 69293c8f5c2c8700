"""Templates of texts that a policy is asked with, in Jinja's language: nothing is escaped, and nothing executed."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from tasks.contract import SpecError


class SandboxTemplate:
    """A template in a sandbox. Texts are its values, so nothing in them is read as a template.

    source: its text. noun: what it is, for messages. Raises SpecError where it is not valid.
    """

    def __init__(self, source: str, noun: str) -> None:
        from jinja2 import StrictUndefined, TemplateError
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        self._environment = ImmutableSandboxedEnvironment(autoescape=False, undefined=StrictUndefined)
        self._source, self._noun = source, noun
        try:
            self._template = self._environment.from_string(source)
        except TemplateError as e:
            raise SpecError(f"{noun} is not a valid template: {e}") from None

    def require(self, *values: str) -> None:
        """Raise SpecError unless the template uses all of these values and no others."""
        if unknown := sorted(self._names - {*values}):
            raise SpecError(f"{self._noun} names {', '.join(unknown)}; its values are {' and '.join(values)}")
        if missing := [value for value in values if value not in self._names]:
            raise SpecError(f"{self._noun} must show {' and '.join(missing)}, for example {{{{ {missing[0]} }}}}")

    def text(self, **values: Any) -> str:
        """The template with these values, without white space around it. Raises SpecError where it cannot be filled."""
        from jinja2 import TemplateError

        try:
            return str(self._template.render(values)).strip()
        except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as e:
            raise SpecError(f"{self._noun} cannot be filled: {e}") from None

    @cached_property
    def _names(self) -> set[str]:
        from jinja2.meta import find_undeclared_variables

        return set(find_undeclared_variables(self._environment.parse(self._source)))
