"""Losses that a test writes itself: as files that the compiler reads, and as modules that the trainer imports."""

import sys
import textwrap
from pathlib import Path
from types import ModuleType

import pytest

from tasks.contract import Chosen

PLACKETT_LUCE = """
    import torch
    from torch import Tensor


    def plackett_luce(scores: Tensor, target_scores: Tensor, mask: Tensor) -> Tensor:
        '''-log P(the order of the target scores), where each place goes to one of the rest with P ∝ exp(score).'''
        order = target_scores.masked_fill(~mask, -torch.inf).argsort(dim=1, descending=True, stable=True)
        ranked = scores.masked_fill(~mask, -1e9).gather(1, order)
        rest = ranked.flip(1).logcumsumexp(1).flip(1)
        return torch.where(mask.gather(1, order), rest - ranked, 0.0).sum(dim=1)
"""


def loss_of(monkeypatch: pytest.MonkeyPatch, folder: str, name: str, text: str, **params: float) -> Chosen:
    """The loss `name` of a folder, from the text of its file."""
    loss = Chosen(f"losses/{folder}", name, params)
    module = ModuleType(loss.module)
    exec(textwrap.dedent(text), module.__dict__)
    monkeypatch.setitem(sys.modules, loss.module, module)
    return loss


def write_loss(root: Path, folder: str, name: str, text: str) -> None:
    """The same file below a tree of tasks."""
    file = root / "losses" / folder / f"{name}.py"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(textwrap.dedent(text))
