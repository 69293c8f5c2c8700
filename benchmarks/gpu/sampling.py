"""Sampling with the transformers engine: tokens per second by batch, and whether a second run gives equal bytes."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.gpu.bare import this_device
from benchmarks.gpu.timing import device_peak_gb, reset_peak
from benchmarks.inputs import SHAPES, Lengths, read_pairs, write_pairs, write_policy
from benchmarks.processes import Stopwatch

K = 8
KEYS_AND_VALUES_GB = 40.0


def run(*, shape: str, tiny: bool, ceiling: float | None) -> dict[str, Any]:
    from tasks.kinds import Policy

    del ceiling
    sizes = SHAPES["tiny" if tiny else shape]
    with TemporaryDirectory() as temporary:
        root = Path(temporary)
        write_policy(root / "policy", sizes, dtype="bfloat16", device=this_device())
        policy = Policy(root / "policy")
        rows = [row(root, policy, sizes.vocab, batch, tiny) for batch in ((8, 16) if tiny else (64, 256, 512))]
        return {"rows": [*rows, again(root, policy, sizes.vocab, tiny)]}


def row(root: Path, policy: Any, vocab: int, batch: int, tiny: bool) -> dict[str, Any]:
    """One batch of completions; random weights end none of them early, so all rows work until the end."""
    draw(root / f"warm-up-{batch}", policy, vocab, batch, 4)
    reset_peak()
    begun = Stopwatch.start()
    tokens = draw(root / f"rows-{batch}", policy, vocab, batch, 8 if tiny else 192)
    seconds = begun.seconds().wall
    number = sum(map(len, tokens))
    return {
        "name": f"{batch} rows", "tokens_per_second": number / seconds, "seconds": seconds, "tokens": number,
        "device_peak_gb": device_peak_gb(),
    }  # fmt: skip


def again(root: Path, policy: Any, vocab: int, tiny: bool) -> dict[str, Any]:
    first, second = (draw(root / f"equal-{i}", policy, vocab, 64, 8 if tiny else 64) for i in range(2))
    same = sum(a == b for a, b in zip(first, second, strict=True)) / len(first)
    return {"name": "a second run of 64 rows", "equal": first == second, "share_of_equal_completions": same}


def draw(folder: Path, policy: Any, vocab: int, rows: int, max_tokens: int) -> list[list[int]]:
    """Tokens of `rows` completions, K for each prompt of about 64 tokens."""
    import pyarrow as pa

    from tasks.contract import Chosen
    from tasks.kinds import Prompts
    from tasks.sample import sample
    from tasks.workspace import LocalWorkspace

    work = LocalWorkspace(folder)
    write_pairs(folder / "pairs.json", rows // K, Lengths(64, 4), vocab)
    prompts = Prompts.of(pa.Table.from_pylist([
        {"prompt_id": str(i), "prompt": [{"role": "user", "content": pair["prompt"]}]}
        for i, pair in enumerate(read_pairs(folder / "pairs.json"))
    ]))  # fmt: skip
    engine = Chosen("engines", "transformers", {"batch": rows, "memory": KEYS_AND_VALUES_GB})
    completions = sample(policy, prompts, work, k=K, max_tokens=max_tokens, engine=engine)
    (folder / "completions").mkdir()
    completions.save(folder / "completions")
    tokens: list[list[int]] = type(completions)(folder / "completions").table.column("completion_tokens").to_pylist()
    return tokens
