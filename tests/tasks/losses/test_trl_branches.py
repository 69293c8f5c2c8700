"""Losses beside TRL 1.16: the trainers' own loss methods, on the same batch, with the same gradients.

TRL's methods are called, not copied. A trainer is made without its constructor and given the attributes that its loss
reads; its model returns the log-probabilities (or logits) of the batch.
"""

import os
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax

from tests.tasks.losses.tables import arguments, chosen

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
trl = pytest.importorskip("trl", reason="TRL is not installed: pip install --no-deps trl==1.16.0")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        trl.__version__ != "1.16.0", reason=f"these are the branches of TRL 1.16.0, not {trl.__version__}"
    ),
]
CHOSEN, REJECTED = [4, 2, 6, 3], [5, 3, 1, 6]
VOCABULARY = 7


class Branch:
    """A loss type of TRL with its settings, and which loss it is here."""

    def __init__(self, loss: str, params: dict[str, Any], times: float = 1.0, **trl_settings: Any) -> None:
        self.loss, self.params, self.times, self.trl_settings = loss, params, times, trl_settings


DPO = {
    "sigmoid": Branch("pairwise/dpo", {"beta": 0.3}),
    "sigmoid_norm": Branch("pairwise/dpo", {"beta": 0.3, "norm": "length"}),
    "robust": Branch("pairwise/robust_dpo", {"beta": 0.3, "label_smoothing": 0.1}, label_smoothing=0.1),
    "hinge": Branch("pairwise/hinge", {"beta": 0.3}),
    "ipo": Branch("pairwise/ipo", {"tau": 0.3, "norm": "length"}),
    "exo_pair": Branch("pairwise/exo", {"beta": 0.3, "label_smoothing": 1e-3}, label_smoothing=1e-3),
    "nca_pair": Branch("pairwise/nca", {"beta": 0.3}),
    "bco_pair": Branch("pairwise/bco", {"beta": 0.3}),
    "sppo_hard": Branch("pairwise/sppo_single", {"eta": 1 / 0.3}, times=2),
    "aot": Branch("pairwise/aot", {"beta": 0.3, "label_smoothing": 0.1}, label_smoothing=0.1),
    "apo_zero": Branch("pairwise/apo_zero", {"beta": 0.3}),
    "apo_down": Branch("pairwise/apo_down", {"beta": 0.3}),
    "discopop": Branch("pairwise/discopop", {"beta": 0.3, "tau": 0.05}),
    "sigmoid, ld_alpha": Branch("pairwise/ld_dpo", {"beta": 0.3, "alpha": 0.5}, ld_alpha=0.5),
    "sigmoid, use_weighting": Branch("pairwise/wpo", {"beta": 0.3}, use_weighting=True),
}  # fmt: skip
NOT_HERE = {"aot_unpaired": "sorts a and b, which no loss here does", "sft": "a mean over the micro-batch's tokens"}


def test_every_loss_type_of_trls_dpo_trainer_is_compared_or_named() -> None:
    from trl import DPOConfig

    named = DPOConfig.__dataclass_fields__["loss_type"].metadata["help"]
    types = {name for name in [*DPO, *NOT_HERE] if "," not in name}
    assert len(types) == 15
    assert all(f"`'{name}'`" in named or name in named for name in types), named


@pytest.mark.parametrize("loss_type", DPO)
def test_dpo_trainers_branch(loss_type: str) -> None:
    from trl import DPOTrainer

    branch = DPO[loss_type]
    mask = _mask([*CHOSEN, *REJECTED])
    policy, ref = _token_logps(mask, 0).requires_grad_(), _token_logps(mask, 1)
    squares = _token_logps(mask, 2)
    trainer = _trainer(
        DPOTrainer, model=_Outputs(policy * mask, squares), ref_model=_Outputs(ref * mask, squares), beta=0.3,
        loss_types=[loss_type.split(",")[0]], loss_weights=[1.0], f_divergence_type="reverse_kl",
        args=SimpleNamespace(discopop_tau=0.05, gradient_checkpointing_kwargs=None), precompute_ref_logps=False,
        **{"label_smoothing": 0.0, "use_weighting": False, "ld_alpha": None, **branch.trl_settings},
    )  # fmt: skip
    inputs = {
        "completion_mask": _with_prompt(mask),
        "input_ids": _with_prompt(mask),
        "attention_mask": _with_prompt(mask),
    }
    theirs = trainer._compute_loss(trainer.model, inputs, False)
    ours = branch.times * _pair_loss(branch, policy, ref, squares, mask).mean()
    _same(ours, theirs, policy, 1e-7 if loss_type == "exo_pair" else 1e-12)  # its ε is a float32


@pytest.mark.parametrize("alpha", [1.0, 0.005])
def test_dpo_trainers_sum_of_sigmoid_and_sft_is_rpo_where_chosen_answers_are_of_one_length(alpha: float) -> None:
    """TRL's likelihood is a mean over tokens, `rpo`'s over answers."""
    from trl import DPOTrainer

    mask = _mask([4, 4, 4, 4, *REJECTED])
    policy, ref = _token_logps(mask, 0).requires_grad_(), _token_logps(mask, 1)
    trainer = _trainer(
        DPOTrainer, model=_Outputs(policy * mask, ref), ref_model=_Outputs(ref * mask, ref), beta=0.3,
        loss_types=["sigmoid", "sft"], loss_weights=[1.0, alpha], f_divergence_type="reverse_kl", label_smoothing=0.0,
        use_weighting=False, ld_alpha=None, args=SimpleNamespace(gradient_checkpointing_kwargs=None),
        precompute_ref_logps=False,
    )  # fmt: skip
    inputs = {
        "completion_mask": _with_prompt(mask),
        "input_ids": _with_prompt(mask),
        "attention_mask": _with_prompt(mask),
    }
    theirs = trainer._compute_loss(trainer.model, inputs, False)
    ours = _pair_loss(Branch("pairwise/rpo", {"beta": 0.3, "alpha": alpha}), policy, ref, ref, mask).mean()
    _same(ours, theirs, policy)


@pytest.mark.parametrize(("loss_type", "far"), [("kto", 0.5), ("kto", -0.5), ("apo_zero_unpaired", 0.5)])
def test_kto_trainers_branch(loss_type: str, far: float) -> None:
    """With a mean of the mismatched log-ratios above 0, and below, where it is clamped."""
    from trl import KTOTrainer

    loss = f"pointwise/{loss_type}"
    mask, labels = _mask(CHOSEN), torch.tensor([True, False, False, True])
    policy, ref = _token_logps(mask, 0).requires_grad_(), _token_logps(mask, 1)
    other = _token_logps(mask, 2)
    trainer = _trainer(
        KTOTrainer, model=_Outputs(policy * mask, mismatched=other * mask + far * mask),
        ref_model=_Outputs(ref * mask, mismatched=other * mask), beta=0.3, loss_type=loss_type,
        calculate_KL=loss_type == "kto", precompute_ref_logps=False, desirable_weight=1.5, undesirable_weight=0.5,
        args=SimpleNamespace(gradient_checkpointing_kwargs=None),
    )  # fmt: skip
    ids = _with_prompt(mask)
    inputs = {
        "input_ids": ids, "attention_mask": ids, "completion_mask": ids, "label": labels,
        "KL_input_ids": ids + 2, "KL_attention_mask": ids, "KL_completion_mask": ids,
    }  # fmt: skip
    theirs = trainer._compute_loss(trainer.model, inputs, False)
    given = {
        "policy_logps": (policy * mask).sum(1), "ref_logps": (ref * mask).sum(1), "label": labels,
        "kl_reference": (far * mask).sum(1).mean().expand(4), "desirable_share": torch.full((4,), 0.5).double(),
    }  # fmt: skip
    params: dict[str, float] = {"beta": 0.3}
    if loss_type == "kto":
        params |= {"lambda_d": 1.5, "lambda_u": 0.5}
    losses = chosen(loss, params)(**{name: given[name] for name in arguments(loss)})
    weights = 1.0 if loss_type == "kto" else torch.where(labels, 1.5, 0.5)
    _same((losses * weights).mean(), theirs, policy)


@pytest.mark.parametrize("centring", [None, 0.01])
@pytest.mark.parametrize("with_margin", [False, True])
def test_reward_trainers_loss_is_bradley_terry(centring: float | None, with_margin: bool) -> None:
    from trl import RewardTrainer

    scores = torch.randn(8, 1, generator=torch.Generator().manual_seed(0)).double().requires_grad_()
    margin = torch.tensor([0.0, 1.0, 2.0, 0.5]).double()
    trainer = _trainer(RewardTrainer, model=_Scores(scores), args=SimpleNamespace(center_rewards_coefficient=centring))
    inputs = {"attention_mask": torch.ones(8, 3), **({"margin": margin} if with_margin else {})}
    theirs = trainer.compute_loss(trainer.model, inputs)
    params = {"margin_scale": float(with_margin), "centring": centring or 0.0}
    ours = chosen("reward/bradley_terry", params)(scores[:4, 0], scores[4:, 0], margin).mean()
    _same(ours, theirs, scores)


def test_orpo_trainers_loss_after_prompts_of_one_token() -> None:
    """TRL's likelihood covers the prompt, so that of one token none of it is predicted; it is a mean over tokens."""
    from trl.experimental.orpo import ORPOTrainer

    logits, batch, mask = _logits([4, 4, 4, 4])
    trainer = _trainer(ORPOTrainer, beta=0.1, is_encoder_decoder=False, padding_value=0)
    theirs, _ = trainer.get_batch_loss_metrics(_Logits(logits), batch)
    _same(_from_logits("pairwise/orpo", {"lam": 0.1}, logits, mask).mean(), theirs, logits, 1e-6)


@pytest.mark.parametrize(
    ("loss", "params", "settings"),
    [
        ("pairwise/cpo", {"beta": 0.2, "alpha": 1.0}, {"loss_type": "sigmoid", "beta": 0.2, "cpo_alpha": 1.0}),
        ("pairwise/dpo_reference_free", {"beta": 0.2}, {"loss_type": "sigmoid", "beta": 0.2, "cpo_alpha": 0.0}),
        ("pairwise/simpo", {"beta": 2.0, "gamma": 1.0},
         {"loss_type": "simpo", "beta": 2.0, "cpo_alpha": 0.0, "simpo_gamma": 1.0}),
    ],
)  # fmt: skip
def test_cpo_trainers_branch(loss: str, params: dict[str, Any], settings: dict[str, Any]) -> None:
    from trl.experimental.cpo import CPOTrainer

    logits, batch, mask = _logits([4, 4, 4, 4])
    trainer = _trainer(CPOTrainer, alpha=0.0, label_smoothing=0.0, is_encoder_decoder=False, pad_token_id=0, **settings)
    theirs, _ = trainer.get_batch_loss_metrics(_Logits(logits), batch)
    _same(_from_logits(loss, params, logits, mask).mean(), theirs, logits)


class _Outputs(nn.Module):
    """A model that TRL calls for fused log-probabilities: those of answers, or of mismatched ones by their ids."""

    is_gradient_checkpointing = False

    def __init__(self, logps: Tensor, squares: Tensor | None = None, mismatched: Tensor | None = None) -> None:
        super().__init__()
        self.logps, self.squares, self.mismatched = logps, squares, mismatched

    def forward(self, input_ids: Tensor, **_kwargs: Any) -> SimpleNamespace:
        logps = self.mismatched if self.mismatched is not None and int(input_ids.max()) > 1 else self.logps
        zeros = torch.zeros_like(logps)
        return SimpleNamespace(
            log_probs=logps, log_sum_sq_probs=self.squares, entropy=zeros, mean_logits=zeros, is_top1=zeros.bool()
        )


class _Scores(nn.Module):
    def __init__(self, scores: Tensor) -> None:
        super().__init__()
        self.scores = scores

    def forward(self, **_inputs: Any) -> SimpleNamespace:
        return SimpleNamespace(logits=self.scores)


class _Logits(nn.Module):
    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, _ids: Tensor, **_kwargs: Any) -> SimpleNamespace:
        return SimpleNamespace(logits=self.logits)


def _trainer(kind: type, **attributes: Any) -> Any:
    trainer = object.__new__(kind)
    accelerator = SimpleNamespace(device=torch.device("cpu"), gather=lambda x: x, gather_for_metrics=lambda x: x)
    trainer.__dict__.update(
        accelerator=accelerator, aux_loss_enabled=False, _metrics={"train": defaultdict(list)}, _total_train_tokens=0,
        _tp_size=1, **attributes,
    )  # fmt: skip
    return trainer


def _mask(lengths: list[int]) -> Tensor:
    return torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]


def _with_prompt(mask: Tensor) -> Tensor:
    """Ids and masks of rows whose prompt is one token."""
    return nn.functional.pad(mask.long(), (1, 0))


def _token_logps(mask: Tensor, seed: int) -> Tensor:
    return torch.randn(mask.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).abs() * -0.7


def _pair_loss(branch: Branch, policy: Tensor, ref: Tensor, squares: Tensor, mask: Tensor) -> Tensor:
    half = len(mask) // 2
    lengths = mask.sum(1).double()
    common = mask & (torch.arange(mask.shape[1])[None] < lengths.reshape(2, half).amin(0).repeat(2)[:, None])
    sums = {
        "policy_{}_logps": (policy * mask).sum(1), "ref_{}_logps": (ref * mask).sum(1), "{}_lengths": lengths,
        "policy_{}_common_logps": (policy * common).sum(1), "ref_{}_common_logps": (ref * common).sum(1),
        "policy_{}_log_weights": ((policy - squares) * mask).sum(1) / lengths,
    }  # fmt: skip
    given = {
        n.format(s): x[half * i : half * (i + 1)] for n, x in sums.items() for i, s in enumerate(("chosen", "rejected"))
    }
    given |= {"p": torch.ones(half).double()}
    losses: Tensor = chosen(branch.loss, branch.params)(**{name: given[name] for name in arguments(branch.loss)})
    return losses


def _logits(chosen_lengths: list[int]) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    """Logits of chosen above rejected rows, TRL's batch, and which positions hold answers."""
    mask = _mask([*chosen_lengths, *REJECTED])
    width = mask.shape[1] + 1
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(1, VOCABULARY, (len(mask), width), generator=generator)
    labels = ids.masked_fill(~nn.functional.pad(mask, (1, 0)), -100)
    attention = nn.functional.pad(mask.long(), (1, 0), value=1)
    batch = {}
    for side, rows in (("chosen", slice(0, 4)), ("rejected", slice(4, 8))):
        batch |= {
            f"{side}_input_ids": ids[rows], f"{side}_labels": labels[rows], f"{side}_attention_mask": attention[rows]
        }  # fmt: skip
    logits = torch.randn(len(mask), width, VOCABULARY, generator=generator, dtype=torch.float64).requires_grad_()
    return logits, batch, labels


def _from_logits(loss: str, params: dict[str, Any], logits: Tensor, labels: Tensor) -> Tensor:
    targets = labels[:, 1:]
    there = targets != -100
    logps = log_softmax(logits[:, :-1], dim=-1).gather(2, targets.clamp(min=0)[..., None])[..., 0]
    sums, lengths = (logps * there).sum(1), there.sum(1).double()
    given = {
        "policy_chosen_logps": sums[:4], "policy_rejected_logps": sums[4:],
        "chosen_lengths": lengths[:4], "rejected_lengths": lengths[4:],
    }  # fmt: skip
    losses: Tensor = chosen(loss, params)(**{name: given[name] for name in arguments(loss)})
    return losses


def _same(ours: Tensor, theirs: Tensor, leaf: Tensor, tolerance: float = 1e-12) -> None:
    assert ours.item() == pytest.approx(theirs.item(), rel=tolerance)
    gradients = [torch.autograd.grad(loss, leaf, retain_graph=True)[0] for loss in (ours, theirs)]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=tolerance, atol=tolerance)
    assert gradients[0].abs().max() > 0
