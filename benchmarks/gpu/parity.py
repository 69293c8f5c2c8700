"""The same training on the CPU and on the GPU: how far the losses of its steps lie apart."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.inputs import SHAPES, Lengths, read_pairs, write_pairs, write_policy
from benchmarks.processes import in_process

STEPS, BATCH = 6, 8
TOLERANCE = {"float32": 1e-4, "bfloat16": 2e-2}
WITHOUT_GPU = {"CUDA_VISIBLE_DEVICES": ""}


def run(*, tiny: bool, ceiling: float | None) -> dict[str, Any]:
    """Rows have the largest difference of a loss, and whether it is within the tolerance."""
    del ceiling
    shape = SHAPES["tiny" if tiny else "30m"]
    with TemporaryDirectory() as temporary:
        root = Path(temporary)
        write_policy(root / "policy", shape)
        write_pairs(root / "pairs.json", STEPS * BATCH, Lengths(10, 10) if tiny else Lengths(60, 60), shape.vocab)
        expected = losses(root, "cpu", "float32", WITHOUT_GPU)
        return {"rows": [row(root, dtype, expected) for dtype in TOLERANCE]}


def row(root: Path, dtype: str, expected: list[float]) -> dict[str, Any]:
    apart = max(abs(a - b) for a, b in zip(losses(root, "device", dtype, {}), expected, strict=True))
    return {
        "name": f"{dtype} on the device beside float32 on the CPU", "largest_difference": apart,
        "tolerance": TOLERANCE[dtype], "equal": apart <= TOLERANCE[dtype],
    }  # fmt: skip


def losses(root: Path, where: str, dtype: str, environment: dict[str, str]) -> list[float]:
    """Of all steps, in a process of its own."""
    arguments = {"function": "parity:attempt", "root": str(root), "work": f"{where}-{dtype}", "dtype": dtype}
    result = in_process("benchmarks.gpu.bare:run", arguments, limit=60, environment=environment)
    if "error" in result:
        raise RuntimeError(f"{dtype} on the {where}: {result['error']}")
    return list(result["losses"])


def attempt(*, root: str, work: str, dtype: str) -> dict[str, Any]:
    from benchmarks.gpu.fitting import data_of, losses_of, train
    from tasks.kinds import Policy
    from tasks.workspace import LocalWorkspace

    folder = Path(root)
    policy, training = Policy(folder / "policy"), LocalWorkspace(folder / work)
    data = data_of(policy, read_pairs(folder / "pairs.json"), folder / f"{work}-reference")
    train(policy, data, training, steps=STEPS, batch=BATCH, lr=1e-4, dtype=dtype)
    return {"losses": losses_of(training)}
