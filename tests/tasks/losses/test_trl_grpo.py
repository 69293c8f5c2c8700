"""GRPO's objectives, normalisations and KL beside TRL 1.16's GRPOTrainer: its own loss method, with its gradients.

TRL's method is called, not copied: a trainer without its constructor, whose log-probabilities are those of the test.
"""

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from tasks.advantages.kl import kl_losses
from tasks.rollouts.importance import answer_ratio_logps
from tasks.rollouts.normalisation import answer_weights, normalisation_of
from tests.tasks.losses.tables import chosen

trl = pytest.importorskip("trl", reason="TRL is not installed: pip install --no-deps trl==1.16.0")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        trl.__version__ != "1.16.0", reason=f"these are the branches of TRL 1.16.0, not {trl.__version__}"
    ),
]
LENGTHS = torch.tensor([4, 2, 6, 3])
MASK = torch.arange(6)[None] < LENGTHS[:, None]
ANSWER = MASK.nonzero()[:, 0]
ADVANTAGES = torch.tensor([1.0, -0.5, 0.3, -2.0]).double()
LONGEST = 8


def _theirs(policy: Tensor, old: Tensor, ref: Tensor, advantages: Tensor = ADVANTAGES, **settings: Any) -> Tensor:
    from trl import GRPOTrainer

    trainer: Any = object.__new__(GRPOTrainer)
    accelerator = SimpleNamespace(
        device=torch.device("cpu"), gather=lambda x: x, gather_for_metrics=lambda x: x, num_processes=1,
        reduce=lambda x, reduction: x,
    )  # fmt: skip
    given = {
        "loss_type": "grpo", "importance_sampling_level": "token", "epsilon_low": 0.2, "epsilon_high": 0.28,
        "beta": 0.0, "corrected": False, **settings,
    }  # fmt: skip
    args = SimpleNamespace(use_bias_correction_kl=given.pop("corrected"), delta=None, steps_per_generation=1)
    trainer.__dict__.update(
        accelerator=accelerator, args=args, aux_loss_enabled=False, model=SimpleNamespace(training=True),
        top_entropy_quantile=1.0, off_policy_mask_threshold=None, use_vllm=False, _entropy_bonus_enabled=False,
        current_gradient_accumulation_steps=1, max_completion_length=LONGEST,
        _metrics={"train": defaultdict(list)}, **given,
    )  # fmt: skip
    trainer._get_per_token_logps_and_entropies = lambda *_args, **_kwargs: (policy, torch.zeros_like(policy), None)
    ids = MASK.long()
    loss: Tensor = trainer._compute_loss(trainer.model, {
        "prompt_ids": ids[:, :1], "prompt_mask": ids[:, :1], "completion_ids": ids, "completion_mask": ids,
        "advantages": advantages, "old_per_token_logps": old, "ref_per_token_logps": ref,
        "num_items_in_batch": MASK.sum(),
    })  # fmt: skip
    return loss


def _ours(
    policy: Tensor, old: Tensor, ref: Tensor, objective: str, params: dict[str, float], name: Any, *,
    advantages: Tensor = ADVANTAGES, sequence: bool = False, kl: Any = None, beta: float = 0.0,
) -> Tensor:  # fmt: skip
    logps = answer_ratio_logps(policy[MASK], old[MASK], ANSWER) if sequence else policy[MASK]
    losses = chosen(f"rl/{objective}", params)(logps, old[MASK], advantages[ANSWER])
    if kl is not None:
        losses = losses + beta * kl_losses(kl, "token", policy[MASK] - ref[MASK], ANSWER)
    weights = answer_weights(
        normalisation_of(name), LENGTHS, tokens_in_all=int(LENGTHS.sum()), minibatches=1, max_tokens=LONGEST
    )
    return (weights[ANSWER] * losses).sum()


def _logps(far: float = 0.3) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    old, moved, ref = (torch.randn(MASK.shape, generator=generator).double() for _ in range(3))
    return (old - 3 + far * moved).requires_grad_(), old - 3, old - 3 + 0.3 * ref


def _same(ours: Tensor, theirs: Tensor, leaf: Tensor) -> None:
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-12)
    gradients = [torch.autograd.grad(loss, leaf, retain_graph=True)[0] for loss in (ours, theirs)]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-12, atol=1e-12)
    assert gradients[0].abs().max() > 0


@pytest.mark.parametrize("loss_type", ["grpo", "bnpo", "dr_grpo", "dapo"])
def test_each_normalisation_of_the_clipped_surrogate_is_trls(loss_type: Any) -> None:
    given = _logps()
    ours = _ours(*given, "clipped", {"clip_eps": 0.2, "clip_high": 0.28}, loss_type)
    _same(ours, _theirs(*given, loss_type=loss_type), given[0])


@pytest.mark.parametrize("far", [0.3, 3.0])
def test_cispo_is_trls_and_divides_by_all_tokens(far: float) -> None:
    given = _logps(far)
    theirs = _theirs(*given, loss_type="cispo", epsilon_high=2.0)
    _same(_ours(*given, "cispo", {"max_ratio": 2.0}, "dapo"), theirs, given[0])


@pytest.mark.parametrize("loss_type", ["grpo", "cispo"])
def test_importance_per_answer_is_trls(loss_type: str) -> None:
    given = _logps(0.01)
    settings: dict[str, Any] = {"loss_type": loss_type, "importance_sampling_level": "sequence"}
    if loss_type == "grpo":
        settings |= {"epsilon_low": 3e-4, "epsilon_high": 4e-4}
        ours = _ours(*given, "clipped", {"clip_eps": 3e-4, "clip_high": 4e-4}, "grpo", sequence=True)
        _same(ours, _theirs(*given, **settings), given[0])
    else:  # values differ, because TRL multiplies by each token's own log-probability; gradients are equal
        ours = _ours(*given, "cispo", {"max_ratio": 5.0}, "dapo", sequence=True)
        theirs = _theirs(*given, **settings, epsilon_high=5.0)
        gradients = [torch.autograd.grad(loss, given[0])[0] for loss in (ours, theirs)]
        torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)


def test_the_kl_as_a_loss_is_trls_k3_of_each_token_without_its_correction() -> None:
    given = _logps()
    ours = _ours(*given, "clipped", {"clip_high": 0.28}, "dapo", kl="k3", beta=0.4)
    _same(ours, _theirs(*given, loss_type="dapo", beta=0.4), given[0])


def test_trls_corrected_k3_has_the_gradient_of_k2_of_each_token_in_the_first_step() -> None:
    policy, _, ref = _logps()
    zeros = torch.zeros(4).double()
    ours = _ours(policy, policy.detach(), ref, "clipped", {}, "dapo", advantages=zeros, kl="k2", beta=0.4)
    theirs = _theirs(policy, policy.detach(), ref, zeros, loss_type="dapo", beta=0.4, corrected=True)
    gradients = [torch.autograd.grad(loss, policy)[0] for loss in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)
    assert gradients[0].abs().max() > 0
