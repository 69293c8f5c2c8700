"""Outputs of the networks for every answer token of a micro-batch: log-probabilities at a temperature, and values."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tasks.training.body import Inputs, hidden_states
from tasks.training.head_divergence import HeadDivergence, head_divergence
from tasks.training.logps import AnswerLogps
from tasks.training.scores import AnswerScores


class TokenLogps(AnswerLogps):
    """A causal language model whose scores are divided by a temperature: the distribution that samples are drawn from.

    Only so is the ratio to the sampling policy 1 before the first update.
    """

    temperature = 1.0
    select_layers: Callable[[], None] | None = None
    """Makes the model compute with the layers of this network, where several share it (`one_base.switch_to`)."""

    def __init__(self, model: Any, temperature: float) -> None:
        super().__init__(model)
        self.temperature = temperature

    def forward(self, inputs: Inputs, *, states: bool = False) -> Tensor:
        """`(M,)` float32, nats; with `states` what the head reads instead, `(M, D)`."""
        return self.answer_states(inputs) if states else self.token_logps(inputs)

    def _cap(self) -> float:
        """cap·tanh(x/cap)/T is (cap/T)·tanh((x/T)/(cap/T)): the cap shrinks with the scores."""
        return super()._cap() / self.temperature

    def _scale(self) -> float:
        return super()._scale() / self.temperature


class TokenDivergence(nn.Module):
    """A policy beside a frozen teacher with the same tokenizer: how far apart their distributions of each token are.

    Both are read at the temperature that they were opened with. The policy comes last, so that its own layers are in
    use when a backward pass computes them again (`one_base`).
    """

    def __init__(self, policy: TokenLogps, teacher: TokenLogps) -> None:
        super().__init__()
        self.policy, self.teacher = policy, teacher

    def forward(self, inputs: Inputs) -> HeadDivergence:
        """Of every answer token, with a gradient to the policy alone."""
        with torch.no_grad():
            others = self.teacher(inputs, states=True)
        own = self.policy(inputs, states=True)
        return head_divergence(own, self.policy.head, others, self.teacher.head, inputs.targets, self.policy.logits)


class TokenValues(nn.Module):
    """A sequence-classification model with one output that estimates an answer's value before each of its tokens."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        AnswerScores(model)  # refuses a body that reads both ways, or a head that is not linear
        self.model = model

    def forward(self, inputs: Inputs) -> Tensor:
        """`(M,)` float32: V of the prompt and the answer up to each token, that token not read."""
        hidden = hidden_states(self.model, inputs).flatten(0, 1)
        # `embedding` and not an index: its backward sums repeated rows in a fixed order.
        picked = nn.functional.embedding(inputs.sources, hidden)
        head = self.model.score
        with torch.autocast(picked.device.type, enabled=False):
            bias = None if head.bias is None else head.bias.float()
            return nn.functional.linear(picked.float(), head.weight.float(), bias)[:, 0]
