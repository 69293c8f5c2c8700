"""The course of the learning rate; what optimizers do, keep and refuse."""

from collections.abc import Callable

import pytest
import torch

from flows.wiring.catalogue import Catalogue
from tasks.contract import SpecError
from tasks.training.optimizer import (
    Updater,
    chosen_optimizer,
    full_weight,
    make_optimizer,
    parameter_state,
    set_rate,
    state_bytes_of,
)
from tasks.training.settings import StepConfig


def test_the_rate_rises_in_equal_parts_and_falls_to_zero_behind_the_last_step() -> None:
    """8 steps, a quarter of warm-up: ⅓ ⅔ | 1 5/6 4/6 3/6 2/6 1/6."""
    rates = [StepConfig("linear", 0.25).lr_at(s, 8, 6.0) for s in range(8)]
    assert rates == pytest.approx([2, 4, 6, 5, 4, 3, 2, 1])


def test_cosine_is_half_way_down_in_the_middle_and_constant_stays() -> None:
    assert StepConfig("cosine", 0.0).lr_at(5, 10, 1.0) == pytest.approx(0.5)
    assert [StepConfig("constant", 0.0).lr_at(s, 10, 1.0) for s in (0, 9)] == [1.0, 1.0]


def _networks() -> tuple[torch.nn.Parameter, torch.nn.Parameter]:
    """A matrix and a vector of ones."""
    return torch.nn.Parameter(torch.ones(64, 64)), torch.nn.Parameter(torch.ones(2))


def _made(name: str, *parameters: torch.nn.Parameter, half_weights: bool = False, **params: float) -> Updater:
    return make_optimizer(chosen_optimizer({name: params}), [parameters], half_weights=half_weights)


def _stepped(optimizer: Updater, rate: float, gradients: dict[torch.nn.Parameter, torch.Tensor]) -> None:
    for parameter, gradient in gradients.items():
        parameter.grad = gradient.to(parameter.dtype)
    set_rate(optimizer, rate)
    optimizer.step()
    optimizer.zero_grad()


@pytest.mark.parametrize("name", Catalogue().choices("optimizers"))
def test_matrices_decay_and_vectors_do_not(name: str) -> None:
    if name == "adamw_8bit":
        pytest.importorskip("torchao")
    matrix, vector = _networks()
    optimizer = _made(name, matrix, vector, weight_decay=0.5)
    _stepped(optimizer, 0.1, {matrix: torch.zeros(64, 64), vector: torch.zeros(2)})
    assert (matrix < 1).all()
    assert (vector == 1).all()


@pytest.mark.parametrize("name", Catalogue().choices("optimizers"))
def test_every_optimizer_says_what_it_keeps(name: str) -> None:
    """By its own state, but for what torchao keeps of tensors below 4,096 numbers."""
    if name == "adamw_8bit":
        pytest.importorskip("torchao")
    matrix, _ = _networks()
    optimizer = _made(name, matrix)
    _stepped(optimizer, 0.1, {matrix: torch.randn(64, 64)})
    state = parameter_state(optimizer, matrix).values()
    kept = sum(_bytes(value) for value in state if isinstance(value, torch.Tensor) and value.numel() > 1)
    declared = state_bytes_of(chosen_optimizer(name))
    assert kept / matrix.numel() == pytest.approx(declared.device + declared.host, abs=0.26)


def _bytes(tensor: torch.Tensor) -> int:
    parts, _ = tensor.__tensor_flatten__() if hasattr(tensor, "__tensor_flatten__") else ([], None)  # type: ignore[attr-defined]
    inner = [getattr(tensor, part) for part in parts if part != "qmap"]
    return sum(t.numel() * t.element_size() for t in (inner or [tensor]))


@pytest.mark.parametrize(("name", "own"), [
    ("adamw", lambda groups: torch.optim.AdamW(groups, lr=0.1, betas=(0.9, 0.999), eps=1e-8, fused=True)),
    ("rmsprop", lambda groups: torch.optim.RMSprop(groups, lr=0.1, alpha=0.99, eps=1e-8)),
    ("adamw_offloaded", lambda groups: torch.optim.AdamW(groups, lr=0.1, betas=(0.9, 0.999), eps=1e-8, fused=True)),
])  # fmt: skip
def test_they_are_those_of_torch_bit_for_bit(name: str, own: Callable[..., torch.optim.Optimizer]) -> None:
    ours, theirs = _networks(), _networks()
    optimizer = _made(name, *ours, weight_decay=0.25)
    expected = own([{"params": [p], "weight_decay": decay} for p, decay in zip(theirs, (0.25, 0.0), strict=True)])
    for seed in range(3):
        gradients = [torch.randn(p.shape, generator=torch.Generator().manual_seed(seed)) for p in ours]
        _stepped(optimizer, 0.1, dict(zip(ours, gradients, strict=True)))
        for parameter, gradient in zip(theirs, gradients, strict=True):
            parameter.grad = gradient
        expected.step()
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_adam_moves_a_weight_by_the_learning_rate_whatever_the_gradient() -> None:
    """At step 1 both means are those of the gradient: g/√g² = ±1."""
    matrix, _ = _networks()
    _stepped(_made("adamw", matrix), 0.1, {matrix: torch.full((64, 64), -3.0)})
    torch.testing.assert_close(matrix.detach(), torch.full((64, 64), 1.1))


@pytest.mark.parametrize("name", ["adamw", "adamw_offloaded"])
def test_half_weights_add_up_steps_that_are_too_small_for_them(name: str) -> None:
    """Below 1 numbers of bfloat16 lie 1/256 apart; a step of 1/1000 is 0.256 of that."""
    matrix, _ = _networks()
    optimizer = _made(name, matrix, half_weights=True)
    matrix.data = matrix.data.to(torch.bfloat16)
    moved = []
    for _ in range(8):
        _stepped(optimizer, 1e-3, {matrix: torch.ones(64, 64)})
        moved.append(256 * (1 - float(matrix.detach()[0, 0])))
    assert moved == [0, 1, 1, 1, 1, 2, 2, 2]
    assert float(full_weight(optimizer, matrix).detach()[0, 0]) == pytest.approx(0.992, abs=1e-6)


def test_networks_have_rates_of_their_own() -> None:
    one, other = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    optimizer = make_optimizer(chosen_optimizer("adamw"), [[one], [other]])
    for parameter in (one, other):
        parameter.grad = torch.ones(2)
    set_rate(optimizer, (0.1, 0.2))
    optimizer.step()
    torch.testing.assert_close(torch.stack([one, other]).detach(), torch.tensor([[0.9, 0.9], [0.8, 0.8]]))


def test_without_torchao_its_optimizer_is_refused_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SpecError, match=r"adamw_8bit needs the package torchao, .*: pip install 'torchao"):
        _made("adamw_8bit", *_networks())
