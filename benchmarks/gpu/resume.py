"""A training that is killed at step 5 of 8 and run again: does it end in the bytes of an undisturbed one?

With PyTorch's deterministic algorithms and without them.
"""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.inputs import SHAPES, Lengths, read_pairs, write_pairs, write_policy
from benchmarks.processes import in_process

STEPS, BATCH, KILLED_AT, CHECKPOINT_EVERY = 8, 8, 5, 2


def run(*, tiny: bool, ceiling: float | None) -> dict[str, Any]:
    del ceiling
    shape = SHAPES["tiny" if tiny else "30m"]
    with TemporaryDirectory() as temporary:
        root = Path(temporary)
        write_policy(root / "policy", shape)
        write_pairs(root / "pairs.json", STEPS * BATCH, Lengths(10, 10) if tiny else Lengths(60, 60), shape.vocab)
        return {"rows": [row(root, deterministic=deterministic) for deterministic in (False, True)]}


def row(root: Path, *, deterministic: bool) -> dict[str, Any]:
    """One process is killed; the next one trains undisturbed, then takes up what the first one left."""
    name = f"{'deterministic' if deterministic else 'default'} algorithms"
    arguments = {"root": str(root), "mode": name.split()[0], "deterministic": deterministic}
    killed = _child("resume:killed", arguments)
    if killed.get("error") != f"exit code {-signal.SIGKILL}":
        return {"name": name, "error": f"the training that was to be killed: {killed.get('error', 'it ended')}"}
    return {"name": name, **_child("resume:both", arguments)}


def _child(function: str, arguments: dict[str, Any]) -> dict[str, Any]:
    environment = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}  # cuBLAS is deterministic with it alone
    return in_process("benchmarks.gpu.bare:run", {"function": function, **arguments}, limit=60, environment=environment)


def killed(*, root: str, mode: str, deterministic: bool) -> dict[str, Any]:
    from tasks.workspace import LocalWorkspace

    class Killed(LocalWorkspace):
        def log(self, step: int, metrics: Mapping[str, float]) -> None:
            super().log(step, metrics)
            if step == KILLED_AT:
                os.kill(os.getpid(), signal.SIGKILL)

    _attempt(Path(root), Killed(Path(root) / f"{mode}-killed"), deterministic)
    return {}


def both(*, root: str, mode: str, deterministic: bool) -> dict[str, Any]:
    """Whether the resumed training ends in the bytes of the undisturbed one, and where it went on."""
    from tasks.workspace import LocalWorkspace

    folder = Path(root)
    undisturbed, resumed = (LocalWorkspace(folder / f"{mode}-{name}") for name in ("undisturbed", "killed"))
    digests = {_attempt(folder, work, deterministic) for work in (undisturbed, resumed)}
    return {"equal": len(digests) == 1, "resumed_at_step": resumed.curves[0][0]}


def _attempt(folder: Path, work: Any, deterministic: bool) -> str:
    """Digest of the trained weights."""
    import torch

    from benchmarks.gpu.fitting import data_of, train
    from tasks.kinds import Policy

    torch.use_deterministic_algorithms(deterministic)
    policy = Policy(folder / "policy")
    data = data_of(policy, read_pairs(folder / "pairs.json"), folder / "reference")
    trained = train(
        policy, data, work, steps=STEPS, batch=BATCH, lr=1e-4, save_dtype="float32", checkpoint_every=CHECKPOINT_EVERY
    )
    digest = hashlib.sha256()
    for file in sorted(trained.path.glob("*.safetensors")):
        digest.update(file.read_bytes())
    return digest.hexdigest()
