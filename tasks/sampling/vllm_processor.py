"""Keyed noise inside vLLM: a logits processor of its V1 model runner.

vLLM computes the log-probabilities before processors run, and then takes the argmax of what they return. The
completions of one request differ in their seeds only: vLLM gives the i-th of them the request's own seed plus i, and
that is 0, so that the seed of a completion's parameters is its number.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from vllm import SamplingParams
from vllm.sampling_params import RequestOutputKind
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor, process_dict_updates

from tasks.sampling.draw import barred_mask, noisy_scores
from tasks.sampling.noise import Noise
from tasks.sampling.requests import Options, Request

BARRED = "alignflow_barred"
"""Entry of vLLM's additional_config: the ids that are never sampled."""
SEEDS, OPTIONS = "alignflow_seeds", "alignflow_options"


class _Row(NamedTuple):
    noise: Noise
    tokens: list[int]
    """Sampled so far, by reference: vLLM appends to it."""
    options: Options


class KeyedNoise(LogitsProcessor):
    """Bars ids, truncates and adds noise to the scores of all rows of vLLM's batch."""

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        self._rows: dict[int, _Row] = {}
        size = vllm_config.model_config.get_vocab_size()
        self._barred = barred_mask(vllm_config.additional_config[BARRED], size, device)

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        process_dict_updates(self._rows, batch_update, _row)

    def apply(self, logits: Tensor) -> Tensor:
        rows = [self._rows[i] for i in range(len(logits))]
        streams, positions = [row.noise for row in rows], [len(row.tokens) for row in rows]
        return noisy_scores(logits, streams, positions, rows[0].options, self._barred)


def _row(params: SamplingParams, prompt_tokens: list[int] | None, tokens: list[int]) -> _Row:
    return _Row(Noise(params.extra_args[SEEDS][params.seed]), tokens, Options(*params.extra_args[OPTIONS]))


def sampling_params(requests: Sequence[Request], options: Options) -> SamplingParams:
    """Parameters of one vLLM request for completions of the same prompt and maximum length."""
    how = {SEEDS: [r.seed for r in requests], OPTIONS: [options.temperature, options.top_p, options.top_k]}
    params = SamplingParams(
        temperature=0.0, seed=0, extra_args=how, max_tokens=requests[0].max_tokens, stop=list(options.stop), logprobs=0,
        flat_logprobs=True, stop_token_ids=sorted(options.stop_ids), detokenize=bool(options.stop),
        skip_special_tokens=True, output_kind=RequestOutputKind.FINAL_ONLY, skip_clone=True,
    )  # fmt: skip
    # Only the constructor refuses several completions at temperature 0, where without noise all are equal.
    params.n = len(requests)
    return params
