"""New weights for a loaded engine: looked over as a whole before the first of them is changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from tasks.contract import SpecError
from tasks.kinds import Policy

SHOWN = 3
"""Names told in an error; the others are counted."""


def weights_identity(policy: Policy) -> str:
    """What tells two policies apart: the content, or for one without a digest its folder and when it was written."""
    if policy.digest:
        return policy.digest
    stats = sorted((f.name, f.stat()) for f in policy.path.iterdir() if f.is_file())
    written = [(name, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for name, s in stats]
    return f"{policy.path.absolute()} {written}"


def blueprint(policy: Policy) -> nn.Module:
    """The policy's transformers model without memory for its weights: their names, their shapes and what is tied."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(policy.path, local_files_only=True)
    with torch.device("meta"):
        model: nn.Module = AutoModelForCausalLM.from_config(config)
    return model


def refuse_renamed(policy: Policy, model: nn.Module) -> None:
    """For an engine that reads weights by the names of checkpoint files: refuses models that have other names there.

    transformers itself renames or fuses some when it loads (a mixture's experts). Raises SpecError.
    """
    from safetensors import safe_open

    stored: set[str] = set()
    for file in sorted(policy.path.glob("*.safetensors")):
        with safe_open(file, "pt") as opened:
            stored |= set(opened.keys())
    body = f"{getattr(model, 'base_model_prefix', '')}."
    names = [name for name, _ in model.named_parameters()]
    if renamed := [name for name in names if name not in stored and name.removeprefix(body) not in stored]:
        raise SpecError(
            f"{policy.path} has no {_told(renamed)} in its *.safetensors: its files name weights otherwise than "
            f"{type(model).__name__} does, so they cannot be replaced here; sample it with engine=transformers"
        )


def checked_weights(weights: Iterable[tuple[str, Tensor]], model: nn.Module) -> dict[str, Tensor]:
    """The weights of `model`, each parameter once, without gradient. Nothing is copied.

    Names are those of `model.state_dict()`. Tied names may all be given, if they are equal, or only one of them, and
    come out under the first. Raises SpecError, naming them, at unknown, missing, misshapen and unequal tied weights.
    """
    given = {name: tensor.detach() for name, tensor in weights}
    known = model.state_dict()
    if unknown := sorted(given.keys() - known.keys()):
        raise SpecError(f"{type(model).__name__} has no weights {_told(unknown)}; it has {_told(sorted(known))}")
    tied = _tied(model)
    if missing := sorted(names[0] for names in tied if not given.keys() & set(names)):
        raise SpecError(f"weights of {type(model).__name__} are missing: {_told(missing)}; an update gives all of them")
    shapes = [(n, list(t.shape), list(known[n].shape)) for n, t in given.items() if t.shape != known[n].shape]
    if shapes:
        raise SpecError(
            "weights have wrong shapes: " + _told([f"{n} {shape}, should be {right}" for n, shape, right in shapes])
        )
    _refuse_unequal(given, tied)
    first = {name: names[0] for names in tied for name in names}
    return {first.get(name, name): tensor for name, tensor in given.items()}


def _tied(model: nn.Module) -> list[list[str]]:
    """Names of every parameter, those of one tensor together."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return list(names.values())


def _refuse_unequal(given: Mapping[str, Tensor], tied: Iterable[list[str]]) -> None:
    for names in tied:
        first, *others = [name for name in names if name in given]
        for other in others:
            a, b = given[first], given[other]
            if a.data_ptr() != b.data_ptr() and not torch.equal(a, b):
                raise SpecError(f"{first} and {other} are one tensor in this model, and the weights given differ")


def _told(names: list[str]) -> str:
    left = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {left} more" if left > 0 else "")
