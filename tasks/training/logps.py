"""Log-probabilities of answers: the model's body over whole segments, its head over answer tokens only."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tasks.contract import SpecError
from tasks.training.batches import single_row
from tasks.training.body import Inputs, computed_dtype, hidden_states, inputs_of
from tasks.training.device import Device, this_device
from tasks.training.head import head_logps


class AnswerLogps(nn.Module):
    """A causal language model that returns the summed log-probability of each answer of a micro-batch."""

    def __init__(self, model: Any, device: Device | None = None) -> None:
        """device: where the model will compute, which decides how many logits are in memory; None: this machine's."""
        super().__init__()
        self.model = model
        self.logits = (device or this_device()).head_logits
        self._check_head()

    def forward(self, inputs: Inputs) -> Tensor:
        """`(S,)` float64, nats: answers in the order of the micro-batch's rows."""
        token_logps = self.token_logps(inputs)
        # Summed as a padded table: a scattered sum has no fixed order on a GPU.
        table = token_logps.new_zeros(len(inputs.lengths), inputs.longest, dtype=torch.float64)
        return table.index_put((inputs.answers, inputs.places), token_logps.double()).sum(dim=1)

    def token_logps(self, inputs: Inputs) -> Tensor:
        """`(M,)` float32, nats."""
        hidden = hidden_states(self.model, inputs).flatten(0, 1)
        # `embedding` and not an index: its backward sums repeated rows in a fixed order.
        picked = nn.functional.embedding(inputs.sources, hidden)
        head = self.model.get_output_embeddings()
        return head_logps(picked, head.weight, head.bias, inputs.targets, self._cap(), self._scale(), self.logits)

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
