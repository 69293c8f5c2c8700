"""How the losses of a minibatch's tokens become one number: the weight of each answer's tokens. Pure.

Every token of an answer has one weight, so that a minibatch's loss is Σ_i w_i·Σ_t loss_{i,t}, however it is cut into
micro-batches and over ranks. n is the number of answers of the minibatch, n_i the number of tokens of answer i.

| name       | of the field | w_i                          | what counts                                        |
|------------|--------------|------------------------------|----------------------------------------------------|
| `sequence` | `grpo`       | 1 / (n·n_i)                  | answers alike: a token of a long one counts little |
| `token`    | `bnpo`       | 1 / Σ n_i of the minibatch   | tokens of the minibatch alike; PPO's               |
| `global`   | `dapo`       | minibatches / Σ n_i of all   | tokens of the whole iteration alike                |
| `constant` | `dr_grpo`    | 1 / (n·max_tokens)           | tokens alike, whatever the answers' lengths        |
| `sum`      |              | 1 / n                        | the mean of the answers' sums, as RLOO's           |

With one minibatch, `global` is `token`. The names of the field are the `loss_type` of TRL 1.16's GRPOTrainer, where
`dapo` divides by all processes' tokens of a generation, per optimizer step, and `bnpo` and `grpo` are means of one
device's micro-batch, averaged: here they are of the whole minibatch, whatever the devices and micro-batches.
"""

from typing import Literal

import torch
from torch import Tensor

Normalisation = Literal["sequence", "token", "constant", "global", "sum"]
NormalisationName = Literal["sequence", "token", "constant", "global", "sum", "grpo", "bnpo", "dr_grpo", "dapo"]
_ALIASES: dict[str, Normalisation] = {"grpo": "sequence", "bnpo": "token", "dr_grpo": "constant", "dapo": "global"}
_OWN: dict[str, Normalisation] = {
    "sequence": "sequence", "token": "token", "constant": "constant", "global": "global", "sum": "sum",
}  # fmt: skip


def normalisation_of(name: NormalisationName) -> Normalisation:
    """The normalisation with a name of ours or of the field."""
    return (_OWN | _ALIASES)[name]


def answer_weights(
    normalisation: Normalisation,
    lengths: Tensor,
    *,
    tokens_in_all: int,
    minibatches: int,
    max_tokens: int | None = None,
) -> Tensor:
    """The weight of every token of each answer of a minibatch, `(n,)` float64; the module describes each.

    lengths: n_i, `(n,)`, tokens of each answer of the minibatch that are learnt from; 0 for an answer that is not.
    tokens_in_all: those of all minibatches of a pass. minibatches: how many a pass has. max_tokens: the longest answer
    allowed, which `constant` needs. Raises ValueError where it is missing, and for a minibatch without answers.
    """
    if not len(lengths):
        raise ValueError("the minibatch has no answers")
    ones = torch.ones(len(lengths), dtype=torch.float64, device=lengths.device)
    if normalisation == "sequence":
        return ones / len(lengths) / lengths.clamp(min=1)
    if normalisation == "token":
        return ones / lengths.sum().clamp(min=1)
    if normalisation == "global":
        return ones * minibatches / max(1, tokens_in_all)
    if normalisation == "sum":
        return ones / len(lengths)
    if max_tokens is None:
        raise ValueError("the normalisation `constant` divides by max_tokens, which is not set")
    return ones / len(lengths) / max_tokens
