"""Templates of texts for models, in Jinja's language: nothing is escaped, and nothing executed."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from tasks.contract import SpecError

if TYPE_CHECKING:
    from jinja2 import Template

UNFILLABLE = (TypeError, ValueError, ArithmeticError, LookupError, AttributeError)
"""What filling a template may raise besides jinja2's own errors, by what the template computes."""


def compiled_template(source: str, noun: str) -> Template:
    """The template in a sandbox: no escaping, no access beyond the values, no unknown names.

    noun: what it is, for messages. Raises SpecError where the source is not valid.
    """
    from jinja2 import StrictUndefined, TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    try:
        return ImmutableSandboxedEnvironment(autoescape=False, undefined=StrictUndefined).from_string(source)
    except TemplateError as e:
        raise SpecError(f"{noun} is not a valid template: {e}") from None


class SandboxTemplate:
    """A template in a sandbox. Texts are its values, so nothing in them is read as a template.

    source: its text. noun: what it is, for messages. Raises SpecError where it is not valid.
    """

    def __init__(self, source: str, noun: str) -> None:
        self._source, self._noun = source, noun
        self._template = compiled_template(source, noun)

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
        except (TemplateError, *UNFILLABLE) as e:
            raise SpecError(f"{self._noun} cannot be filled: {e}") from None

    @cached_property
    def _names(self) -> set[str]:
        from jinja2.meta import find_undeclared_variables

        return set(find_undeclared_variables(self._template.environment.parse(self._source)))
