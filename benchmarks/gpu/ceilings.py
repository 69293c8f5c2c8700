"""What the device can do at best: a large bfloat16 product, and a copy. Every MFU is divided by the first."""

from __future__ import annotations

from typing import Any

from benchmarks.gpu.bare import this_device
from benchmarks.gpu.timing import median_seconds


def run(*, tiny: bool, ceiling: float | None) -> dict[str, Any]:
    """`ceiling` of the result: FLOP/s of the product. On a CPU it is one of float32."""
    import torch

    del ceiling
    device = this_device()
    size, dtype = (256 if tiny else 8192), (torch.bfloat16 if device == "cuda" else torch.float32)
    a, b, out = (torch.randn(size, size, device=device).to(dtype) for _ in range(3))
    flops = 2 * size**3 / median_seconds(lambda: torch.mm(a, b, out=out))
    source = torch.randn((1 << 20) if tiny else (1 << 30), device=device)
    target = torch.empty_like(source)
    copied = 2 * source.numel() * source.element_size() / median_seconds(lambda: target.copy_(source))
    name = str(dtype).removeprefix("torch.")
    rows = [
        {"name": f"{size} × {size} × {size}, {name}", "tflops": flops / 1e12},
        {"name": f"copy of {source.numel() * 4 / 1e9:.1f} GB, bytes read and written", "gb_per_second": copied / 1e9},
    ]
    return {"rows": rows, "ceiling": flops}
