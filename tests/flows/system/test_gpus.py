"""Which GPUs a process may use: those that CUDA_VISIBLE_DEVICES leaves, as CUDA reads it."""

import pytest

from flows.system.gpus import Gpu, machine_gpus, visible_gpus
from tasks.contract import SpecError


@pytest.mark.parametrize(
    ("variable", "visible"),
    [
        (None, "abc"), ("", ""), ("-1", ""), ("0", "a"), ("2, 0", "ca"), ("GPU-b", "b"), ("GPU-b,GPU-a,GPU-b", "ba"),
        ("1,7,0", "b"), ("0,-1,1", "a"), ("GPU-", ""), ("NoDevFiles", ""),
    ],
)  # fmt: skip
def test_the_variable_chooses_and_orders_gpus_and_its_first_unknown_entry_ends_it(
    variable: str | None, visible: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALIGNFLOW_GPUS", "GPU-a=80 GPU-b=40 GPU-c")
    if variable is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
    assert [gpu.uuid for gpu in visible_gpus()] == [f"GPU-{letter}" for letter in visible]


def test_the_list_of_gpus_may_be_given_with_their_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGNFLOW_GPUS", "GPU-a=80 GPU-b")
    assert machine_gpus() == (Gpu("GPU-a", 80 * 2**30), Gpu("GPU-b", float("inf")))
    monkeypatch.setenv("ALIGNFLOW_GPUS", "GPU-a=much")
    with pytest.raises(SpecError, match="ALIGNFLOW_GPUS: 'GPU-a=much' is not of the form NAME=GIB"):
        machine_gpus()
