"""What PPO asks of its sampler: the policy's own answers, found out at small rates too, and a share of a GPU."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tasks.calls import StateBytes
from tasks.contract import Chosen, DataError, SpecError
from tasks.engines.transformers import TransformersEngine
from tasks.kinds import Policy
from tasks.rollouts import loop
from tasks.rollouts.gpu_budget import bytes_to_come, fitting_share, shared_memory, with_remaining_memory
from tasks.rollouts.memory import engine_need
from tasks.rollouts.mismatch import check_sampler
from tasks.rollouts.networks import Networks, open_networks
from tasks.training.memory import ModelShape
from tasks.training.model import open_model
from tasks.training.settings import ComputeConfig
from tests.configs import CONFIGS
from tests.devices import H100
from tests.tasks.rollouts.small import TRANSFORMERS, files_of, grouped, run, value_from
from tests.workspace import Killed, Mortal, Workspace


@pytest.mark.parametrize("lr", [2e-2, 3e-5])
def test_an_engine_that_keeps_its_old_weights_is_found_out(
    lr: float, policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TransformersEngine, "update", lambda *_: None)
    with pytest.raises(DataError, match=r"sampler and trainer differ by .* the engine still has old weights"):
        run(policy, value_from(policy, tmp_path / "v"), Workspace(tmp_path), lr=lr, iterations=6)


def test_a_stale_engine_is_found_out_after_a_kill_too(
    policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second attempt's own first difference is a stale engine's: what counts is the one in the checkpoint."""
    value = value_from(policy, tmp_path / "v")
    with pytest.raises(Killed):
        run(policy, value, Mortal(tmp_path, 3), lr=3e-4, iterations=6, checkpoint_every=2)
    monkeypatch.setattr(TransformersEngine, "update", lambda *_: None)
    with pytest.raises(DataError, match="the engine still has old weights"):
        run(policy, value, Workspace(tmp_path), lr=3e-4, iterations=6, checkpoint_every=2)


@pytest.mark.parametrize(
    ("first", "difference", "text"),
    [
        (None, 0.06, r"differ by 0\.06 .*allowed: 0\.05.*number type"), (1e-6, 2e-3, r"allowed: 0\.001.*old weights"),
        (0.014, 0.05, r"allowed: 0\.042.*old weights"), (None, float("nan"), r"not finite.*NaN or infinite"),
        (1e-6, float("inf"), r"not finite.*NaN or infinite"),
    ],
)  # fmt: skip
def test_what_is_another_policys_is_refused(first: float | None, difference: float, text: str) -> None:
    with pytest.raises(DataError, match=text):
        check_sampler(difference, first)


@pytest.mark.parametrize(("first", "difference"), [(None, 0.016), (1e-6, 9e-4), (0.014, 0.03)])
def test_what_number_types_differ_by_is_not(first: float | None, difference: float) -> None:
    check_sampler(difference, first)


GIB = 2**30


def test_an_engine_gets_what_the_networks_leave_it() -> None:
    """100 GiB, 60 free; 26.8 are to come: 33 are left."""
    assert fitting_share(0.9, 60 * GIB, 100 * GIB, 26.8 * GIB) == 0.33
    assert fitting_share(0.2, 60 * GIB, 100 * GIB, 26.8 * GIB) == 0.2
    with pytest.raises(SpecError, match=r"no memory is left for vLLM: 60\.0 of the GPU's 100\.0 GiB.*smaller models"):
        fitting_share(0.9, 60 * GIB, 100 * GIB, 60 * GIB)


def test_only_vllm_on_a_gpu_is_given_another_share(
    policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    networks = open_networks(policy, value_from(policy, tmp_path / "v"), policy, 1.0, ComputeConfig("float32"))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (50 * GIB, 100 * GIB))
    on_gpu = replace(networks, device=H100)
    vllm, work = Chosen("engines", "vllm", {}, execution={"gpu_memory": 0.9, "tensor_parallel": 1}), Workspace(tmp_path)
    state = StateBytes(device=8)

    def shared(engine: Chosen, networks: Networks, answers: int = 8, longest: int = 64) -> tuple[Chosen, bool]:
        return with_remaining_memory(engine, networks, state, answers, longest, work, may_rest=True)

    assert shared(vllm, networks) == (vllm, False)
    assert shared(TRANSFORMERS, on_gpu) == (TRANSFORMERS, False)
    assert work.notices == []
    given, rests = shared(vllm, on_gpu)
    assert (given.execution, rests) == ({"gpu_memory": 0.49, "tensor_parallel": 1}, False)
    assert work.notices == ["vLLM gets 49% of the GPU's memory, not 90%: the rest is for the networks"]
    # 256 sequences of 4e6 tokens, 2 layers, 64 channels of keys and values in 2 bytes: 488 GiB
    assert [shared(engine, on_gpu, 1000, 4_000_000)[1] for engine in (vllm, TRANSFORMERS)] == [True, True]
    assert work.notices[-1].endswith(", which have all of it while they learn")


def test_an_engine_rests_where_it_has_no_room_beside_networks_that_learn() -> None:
    """100 GiB, 60 free; 40 are to come, of which 25 stay between updates: 20 are left beside them, and 35 between."""
    sizes = {"free": 60 * GIB, "total": 100 * GIB, "to_come": 40 * GIB, "lasting": 25 * GIB}
    assert shared_memory(0.9, 15 * GIB, **sizes, may_rest=True) == (0.2, False)
    assert shared_memory(0.9, 30 * GIB, **sizes, may_rest=True) == (0.35, True)
    assert shared_memory(0.1, 30 * GIB, **sizes, may_rest=True) == (0.1, False)
    assert shared_memory(0.9, 30 * GIB, **sizes, may_rest=False) == (0.2, False)
    with pytest.raises(SpecError, match="no memory is left for vLLM"):
        shared_memory(0.9, 30 * GIB, 60 * GIB, 100 * GIB, 90 * GIB, 60 * GIB, may_rest=True)


def test_what_an_engine_needs_is_its_weights_with_keys_and_values_of_the_answers() -> None:
    """0.5B: 494e6 parameters; 24 layers of 128 channels of keys and of values: 24,576 bytes a token in 4 bytes."""
    shape = ModelShape.of(CONFIGS["0.5B"])
    assert shape
    token = 2 * shape.layers * shape.keys * 4
    vllm = Chosen("engines", "vllm", {"dtype": "float32"})
    assert engine_need(shape, vllm, 100, 500) == 4 * shape.parameters + 100 * 500 * token
    assert engine_need(shape, vllm, 1000, 500) == engine_need(shape, vllm, 256, 500)
    assert engine_need(shape, Chosen("engines", "vllm", {}), 100, 500) == engine_need(shape, vllm, 100, 500) / 2
    limited = Chosen("engines", "transformers", {"dtype": "float32", "memory": 0.5})
    assert engine_need(shape, limited, 100, 5000) == 4 * shape.parameters + GIB / 2


def _recorded(name: str, calls: list[object]) -> Callable[..., Any]:
    """A method of the engine that adds its name and its keyword arguments to the calls."""
    real = getattr(TransformersEngine, name)

    def record(*args: Any, **named: Any) -> Any:
        calls.append((name, *named.values()))
        return real(*args, **named)

    return record


@pytest.mark.parametrize("adapter", [None, Chosen("adapters", "lora", {"rank": 2, "alpha": 4.0})])
def test_an_engine_that_rests_does_so_between_sampling_and_the_next_update_and_answers_alike(
    adapter: Chosen | None, policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[object] = []
    for name in ("update", "generate", "rest"):
        monkeypatch.setattr(TransformersEngine, name, _recorded(name, calls))
    expected = grouped(policy, Workspace(tmp_path / "awake"), iterations=2, adapter=adapter)
    assert [call for call in calls if call != ("rest",)] == [("update",), ("generate",)] * 2
    calls.clear()
    monkeypatch.setattr(loop, "with_remaining_memory", lambda engine, *_, **o: (engine, o["may_rest"]))
    rested = grouped(policy, Workspace(tmp_path / "rested"), iterations=2, adapter=adapter)
    assert calls == [("update",), ("generate",), ("rest", adapter is None)] * 2
    assert files_of(rested.path) == files_of(expected.path)


def test_with_an_adapter_only_its_weights_are_pushed(
    policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rank 2 on the 7 linear layers of 2 blocks, in float32; the whole policy otherwise."""
    pushed: list[int] = []
    real = TransformersEngine.update

    def update(self: TransformersEngine, weights: Iterable[tuple[str, Tensor]], *rest: Any) -> None:
        given = list(weights)
        pushed.append(sum(t.numel() * t.element_size() for _, t in given))
        real(self, given, *rest)

    monkeypatch.setattr(TransformersEngine, "update", update)
    lora = Chosen("adapters", "lora", {"rank": 2, "alpha": 4.0})
    model = open_model(policy, torch.float32)
    layers = [m.weight.shape for m in model.model.modules() if isinstance(m, torch.nn.Linear)]
    sizes: list[tuple[Chosen | None, int]] = [
        (lora, 2 * 4 * sum(sum(shape) for shape in layers)),
        (None, 4 * sum(t.numel() for t in model.state_dict().values())),
    ]
    for adapter, size in sizes:
        pushed.clear()
        grouped(policy, Workspace(tmp_path / str(size)), iterations=2, adapter=adapter)
        assert pushed == [size, size]


def test_gradients_state_and_the_activations_of_one_network_are_to_come(policy: Policy, tmp_path: Path) -> None:
    """Two networks of P parameters: 4 bytes of gradients and 8 of AdamW, or 0.04 of Adafactor, each."""
    networks = open_networks(policy, value_from(policy, tmp_path / "v"), policy, 1.0, ComputeConfig("float32"))
    learning = sum(p.numel() for p in networks.learning.parameters())
    adamw, adafactor = (bytes_to_come(networks, StateBytes(device=b)) for b in (8, 0.04))
    assert adamw - adafactor == pytest.approx(7.96 * learning)
    assert adamw > 12 * learning
