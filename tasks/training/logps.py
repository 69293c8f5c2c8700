"""Log-probabilities of answers: the model's body over whole segments, its head over answer tokens only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tasks.contract import SpecError
from tasks.training.batches import single_row
from tasks.training.body import Inputs, computed_dtype, hidden_states, inputs_of
from tasks.training.device import Device, this_device
from tasks.training.head import HeadLogps, LanguageHead, head_logps


class AnswerLogps(nn.Module):
    """A causal language model that returns the summed log-probability of each answer of a micro-batch."""

    def __init__(self, model: Any, device: Device | None = None, outputs: Sequence[str] = ("",)) -> None:
        """
        Args:
            device: where the model will compute, which decides how many logits are in memory; None: this machine's.
            outputs: what it returns of an answer, as `LossArgument.output` names it.
        """
        super().__init__()
        self.model = model
        self.outputs = tuple(outputs)
        self.logits = (device or this_device()).head_logits
        self._check_head()

    def forward(self, inputs: Inputs) -> Tensor:
        """`(S,)` float64, nats: answers in the order of the micro-batch's rows.

        Of several outputs `(S, O)`, in their order.
        """
        found = self._of_head(inputs)
        table = _by_answer(found.logps, inputs)
        each = [_output(name, table, found, inputs) for name in self.outputs]
        return torch.stack(each, dim=1) if len(each) > 1 else each[0]

    def token_logps(self, inputs: Inputs) -> Tensor:
        """`(M,)` float32, nats."""
        return self._of_head(inputs).logps

    def answer_states(self, inputs: Inputs) -> Tensor:
        """`(M, D)`: what the head reads for each answer token."""
        hidden = hidden_states(self.model, inputs).flatten(0, 1)
        # `embedding` and not an index: its backward sums repeated rows in a fixed order.
        return nn.functional.embedding(inputs.sources, hidden)

    @property
    def head(self) -> LanguageHead:
        """The model's head, with the cap and scale of its logits."""
        head = self.model.get_output_embeddings()
        return LanguageHead(head.weight, head.bias, self._cap(), self._scale())

    def _of_head(self, inputs: Inputs) -> HeadLogps:
        return head_logps(
            self.answer_states(inputs), *self.head[:2], inputs.targets, *self.head[2:], self.logits,
            collisions="weight" in self.outputs,
        )  # fmt: skip

    def _cap(self) -> float:
        return float(getattr(self.model.config, "final_logit_softcapping", None) or 0.0)

    def _scale(self) -> float:
        config = self.model.config
        return float(getattr(config, "logit_scale", None) or 1.0) / float(
            getattr(config, "logits_scaling", None) or 1.0
        )

    def _check_head(self) -> None:
        """Compare once with the model's own logits: raises SpecError for an architecture with an unknown head."""
        ids = np.arange(1, 9)[None] % self.model.config.get_text_config().vocab_size
        inputs = inputs_of(single_row(ids[:, :-1], np.arange(7), ids[0, 1:]), self.model.device)
        with torch.no_grad():
            own = self.model(input_ids=inputs.ids, use_cache=False).logits[0].float().log_softmax(-1)
            ours = self.token_logps(inputs)
        # In half precision the model rounds its logits, and this head on a GPU does not.
        near = 1e-3 if computed_dtype(self.model) == torch.float32 else 0.5
        if not torch.allclose(own.gather(1, inputs.targets[:, None])[:, 0], ours, atol=near):
            raise SpecError(
                f"{type(self.model).__name__} computes its logits in a way that `tasks/training/logps.py` does not "
                "support: add it to AnswerLogps"
            )


def _by_answer(values: Tensor, inputs: Inputs) -> Tensor:
    """`(M,)` values of tokens → `(S, T)` float64, 0 after an answer's end.

    Sums are over padded tables, because a scattered sum has no fixed order on a GPU.
    """
    table = values.new_zeros(len(inputs.lengths), inputs.longest, dtype=torch.float64)
    return table.index_put((inputs.answers, inputs.places), values.double())


def _output(name: str, table: Tensor, found: HeadLogps, inputs: Inputs) -> Tensor:
    """`(S,)`: see `LossArgument.output`. table: log-probabilities of tokens, `(S, T)`."""
    if not name:
        return table.sum(dim=1)
    if name == "common":
        assert inputs.common is not None, "the rows have no common lengths"
        places = torch.arange(table.shape[1], device=table.device)
        return torch.where(places < inputs.common[:, None], table, 0.0).sum(dim=1)
    assert name == "weight", f"no scorer gives '{name}'"
    assert found.log_collisions is not None
    return _by_answer(found.logps.detach() - found.log_collisions, inputs).sum(dim=1) / inputs.lengths
