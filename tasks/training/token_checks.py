"""Whether models that read one table have one tokenizer and template, as far as their files show before a run."""

from __future__ import annotations

from pathlib import Path

from tasks.contract import SpecError
from tasks.declarations import StepView


def check_same_tokens(step: StepView) -> None:
    """Raise SpecError for a model that scores tokens of another tokenizer or template.

    Known where the model, and the one that made the tokens, come from directories of this machine.
    """
    from tasks.kinds import Policy
    from tasks.template import template_digest

    policy, data = step.first("policy"), step.first("data")
    maker = data.first("policy") if data else None
    own, others = (_directory(one) if one else None for one in (policy, maker))
    if own and others and own != others and template_digest(Policy(own)) != template_digest(Policy(others)):
        raise SpecError(
            f"the model {own} has another tokenizer or chat template than {others}, by which the table was tokenized: "
            "log-probabilities of other tokens cannot be compared. A reference or an anchor must share the tokenizer "
            "and the template of the policy"
        )


def _directory(step: StepView) -> Path | None:
    """The directory of the checkpoint that a step's model goes back to; None where that is not known."""
    root = step
    while before := root.first("policy"):
        root = before
    source = root.choices.get("source")
    if source is None or "path" not in source.params:
        return None
    path = root.base / Path(str(source.params["path"])).expanduser()
    return path if path.is_dir() else None
