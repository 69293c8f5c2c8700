"""The implicit reward of a policy as a live scorer. `ImplicitReward.open` calls it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import torch

from tasks.contract import DataError
from tasks.kinds import Policy, Scorer
from tasks.message import Message
from tasks.rendering import Template
from tasks.template import template_digest
from tasks.training.adapters import NAME, adapted_layers, leave_casts_to_autocast, read_layers, use_layers
from tasks.training.device import this_device
from tasks.training.logps import AnswerLogps
from tasks.training.model import is_same, keep_memory, open_frozen, open_model, positions_of
from tasks.training.rows import Rows
from tasks.training.score import score_rows
from tasks.training.texts import placed, readable

REFERENCE = "reference"
"""Name of the reference's layers on the base that it shares with the policy."""


def check_one_tokenizer(policy: Policy, ref: Policy) -> None:
    """Raise DataError unless equal texts are equal tokens for both, so that their probabilities can be compared."""
    if template_digest(policy) != template_digest(ref):
        raise DataError(
            f"the policy at {policy.path} and the reference at {ref.path} have different tokenizers or chat templates, "
            "so log π/π_ref is not defined: use a reference of the same family"
        )


def implicit_scorer(
    *, policy: Sequence[Policy], ref: Sequence[Policy], beta: float,
    dtype: Literal["auto", "float32", "bfloat16"] = "auto",
) -> Scorer:  # fmt: skip
    """The scorer β·[log π(y) − log π_ref(y)], in the policy's own tokens: P(a beats b) = σ(score(a) − score(b)).

    Answers are texts, so each is read as one that ended by itself; one that is longer, with its prompt, than a model
    can read has no score (None), nor has one that the template refuses. Where the policy and its reference are the
    same base with and without an adapter, or with two, the base is in memory once.

    Args:
        policy: one policy.
        ref: one reference.
        beta: factor of the log-ratio, in rewards per nat.
        dtype: that products compute in; `auto`: float32 on a CPU, bfloat16 on a GPU.
    """
    [own], [anchor] = policy, ref
    check_one_tokenizer(own, anchor)
    keep_memory()
    ratios = _LogRatios(own, anchor, dtype)
    template = Template(own)
    longest = min((n for n in map(positions_of, (own, anchor)) if n is not None), default=None)

    def score(
        prompts: Sequence[Sequence[Message]], completions: Sequence[str], truths: Sequence[str | None]
    ) -> list[float | None]:
        found = readable(template, longest, prompts, completions)
        if found is None:
            return [None] * len(completions)
        return placed(len(completions), found.places, (beta * ratios(found.rows)).tolist())

    return Scorer.scoring(score)


class _LogRatios:
    """log π − log π_ref of rows, `(A,)` float64, nats."""

    def __init__(self, policy: Policy, ref: Policy, dtype: str) -> None:
        self._device = this_device()
        self._half = self._device.dtype(dtype) == torch.bfloat16
        model = self._opened(policy)
        shared = is_same(policy.whole, ref.whole)
        if shared and ref.adapter is not None:
            read_layers(model, ref, REFERENCE)
            model.to(self._device.torch_device)
        if self._half:
            leave_casts_to_autocast(model)
        self._policy, self._policy_layers = self._scorer(model), NAME if policy.adapter is not None else None
        self._ref = self._policy if shared else self._scorer(self._opened(ref))
        self._ref_layers = None if ref.adapter is None else REFERENCE if shared else NAME

    def __call__(self, rows: Rows) -> Any:
        return self._logps(self._policy, self._policy_layers, rows) - self._logps(self._ref, self._ref_layers, rows)

    def _logps(self, scorer: AnswerLogps, layers: str | None, rows: Rows) -> Any:
        use_layers(adapted_layers(scorer.model), layers)
        with self._computing():
            return score_rows(scorer, rows, self._device, 0)

    def _opened(self, policy: Policy) -> Any:
        model = open_frozen(policy, partial(open_model, policy), "float32", half=self._half)
        return model.to(self._device.torch_device)

    def _scorer(self, model: Any) -> AnswerLogps:
        with self._computing():
            return AnswerLogps(model)

    def _computing(self) -> Any:
        return torch.autocast(self._device.kind, torch.bfloat16, enabled=self._half)
