"""Plans of a batch: how many passes, how much padding, on a CPU and on GPUs that are not here."""

from types import SimpleNamespace

import numpy as np
import pytest

from tasks.training.device import Device, this_device
from tasks.training.model import packing_for
from tasks.training.packing import PackingConfig, packing_of_all, plan_batch, plan_table
from tasks.training.rows import Ragged, Rows
from tests.devices import H100


def _pairs(count: int, prompt: int, answer: int, spread: float = 0.0) -> Rows:
    """Log-normal lengths of these medians."""
    rng = np.random.default_rng(0)

    def lists(n: int, median: int) -> Ragged:
        lengths = np.maximum(1, median * np.exp(spread * rng.standard_normal(n))).astype(int)
        return Ragged(rng.integers(1, 30000, lengths.sum()).astype(np.int32), np.cumsum([0, *lengths]))

    names = [str(i) for i in range(2 * count)]
    return Rows(lists(count, prompt), lists(2 * count, answer), np.arange(count + 1) * 2, names[:count], names)


def _packing(device: Device, width: int, layers: int, tokens: int = 0, attention: str = "sdpa") -> PackingConfig:
    text = SimpleNamespace(hidden_size=width, num_hidden_layers=layers, rope_theta=1e4)
    config = SimpleNamespace(_attn_implementation=attention, get_text_config=lambda: text)
    return packing_for(SimpleNamespace(config=config), device, tokens)


def test_64_pairs_take_8_full_passes_of_half_a_billion_parameters_on_a_gpu() -> None:
    """Prompt 300, answers 350: 300 + 2·349 = 998 tokens a pair, 8 of which fit in 8,192."""
    plans = plan_batch(_pairs(64, 300, 350), np.arange(64), _packing(H100, 896, 24))
    assert [plan.shape for plan in plans] == [(1, 8 * 998)] * 8
    assert all(plan.in_spans for plan in plans)


@pytest.mark.parametrize("spread", [0.3, 0.6])
def test_passes_on_a_gpu_are_nearly_full_whatever_the_lengths(spread: float) -> None:
    plans = plan_batch(_pairs(64, 300, 350, spread), np.arange(64), _packing(H100, 896, 24))
    sizes = [rows * length for rows, length in (plan.shape for plan in plans)]
    assert max(sizes) <= 8192
    assert len(plans) <= sum(sizes) / 8192 + 1.5


def test_a_gpu_that_has_no_flash_attention_uses_a_mask() -> None:
    volta = Device("cuda", "V100", 2**34, 6e13, 6e-4, (7, 0))
    assert _packing(volta, 896, 24).span_cost is None
    assert _packing(H100, 896, 24, attention="eager").span_cost is None
    assert _packing(H100, 896, 24).span_cost == 0


@pytest.mark.parametrize(("span_cost", "segments"), [(None, 2), (0.0, 1)], ids=["with a mask", "in spans"])
def test_in_spans_a_short_prompt_is_shared_by_long_answers_too(span_cost: float | None, segments: int) -> None:
    """Prompt 300, answers 2,000, width 896: with a mask one segment costs 4,298 · (5,376 + 4,298) = 41.6e6, two cost
    2 · 2,299 · (5,376 + 2,299) = 35.3e6."""
    packing = PackingConfig(8192, 896, share=True, span_cost=span_cost)
    (plan,) = plan_batch(_pairs(1, 300, 2000), np.arange(1), packing)
    assert len(plan.groups[0].segments) == segments


def test_rows_of_one_prompt_are_split_where_they_do_not_fit_into_a_pass() -> None:
    rows = _pairs(1, 300, 350)
    many = Rows(
        Ragged(np.tile(rows.prompts.values, 20), np.arange(21) * 300),
        Ragged(np.tile(rows.answers.values, 20), np.arange(41) * 350), np.arange(21) * 2, ["0"] * 20, ["0"] * 40,
    )  # fmt: skip
    plans = plan_batch(many, np.arange(20), PackingConfig(4096, 896, share=True, span_cost=0.0))
    assert all(plan.shape[1] <= 4096 for plan in plans)
    assert sorted(r for plan in plans for group in plan.groups for r in group.rows) == list(range(20))


def test_a_whole_table_is_read_in_full_passes_too() -> None:
    plans = list(plan_table(_pairs(64, 300, 350, 0.6), _packing(H100, 896, 24)))
    assert len(plans) <= sum(plan.shape[1] for plan in plans) / 8192 + 1.5
    assert all(plan.shape[0] == 1 and plan.shape[1] <= 8192 for plan in plans)


def test_short_rows_are_packed_with_a_mask_on_a_cpu_and_long_ones_in_spans() -> None:
    packing = _packing(Device("cpu", "cpu", 2**34, 9e10, 4e-3), 256, 6)
    short, long = (plan_batch(_pairs(8, *sizes), np.arange(8), packing) for sizes in ((12, 14), (200, 200)))
    assert [plan.in_spans for plan in short] == [False] * len(short)
    assert [plan.in_spans for plan in long] == [True] * len(long)


def test_networks_that_read_the_same_rows_take_what_suits_each() -> None:
    merged = packing_of_all([PackingConfig(100, 8, True, 2.0, 1.0), PackingConfig(50, 16, True, 3.0, None)])
    assert merged == PackingConfig(50, 16, True, 3.0, None)


def test_an_explicit_budget_is_kept_on_every_device() -> None:
    assert [_packing(device, 896, 24, tokens=512).tokens for device in (H100, this_device())] == [512, 512]
