"""New weights for a loaded engine, validated as a whole before any is changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from tasks.contract import SpecError
from tasks.kinds import Model

UNFILLED = "this engine rests without weights: `update` must bring all of them before it can do anything else"
SHOWN = 3
"""Number of names in an error message; further ones are counted."""


def weights_identity(policy: Model) -> str:
    """Identity of a policy's weights: the content digest, or without one the folder and its modification times."""
    if policy.digest:
        return policy.digest
    stats = sorted((f.name, f.stat()) for f in policy.path.iterdir() if f.is_file())
    written = [(name, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for name, s in stats]
    return f"{policy.path.absolute()} {written}"


def meta_model(policy: Model) -> nn.Module:
    """The policy's transformers model on the meta device: names, shapes and tied weights without memory."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(policy.path, local_files_only=True)
    with torch.device("meta"):
        model: nn.Module = AutoModelForCausalLM.from_config(config)
    return model


def check_file_names(policy: Model, model: nn.Module) -> None:
    """Raises SpecError if the weights have other names in the checkpoint files than in the transformers model.

    transformers renames or fuses some when it loads them (experts of a mixture), which an engine that uses the names of
    the files does not support.
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
            f"the *.safetensors of {policy.path} lack {_some(renamed)}: weights have other names there than in "
            f"{type(model).__name__}, so this engine cannot replace them; use engine=transformers"
        )


def checked_weights(weights: Iterable[tuple[str, Tensor]], model: nn.Module) -> dict[str, Tensor]:
    """The weights of `model`, each parameter once, without gradient. Nothing is copied.

    Names are those of `model.state_dict()`. Of tied names, one is enough; the result has the first of them. Raises
    SpecError for unknown and missing names, wrong shapes, and tied weights that differ.
    """
    given = {name: tensor.detach() for name, tensor in weights}
    known = model.state_dict()
    if unknown := sorted(given.keys() - known.keys()):
        raise SpecError(
            f"{type(model).__name__} has no weights {_some(unknown)}; its weights are {_some(sorted(known))}"
        )
    tied = _tied(model)
    if missing := sorted(names[0] for names in tied if not given.keys() & set(names)):
        raise SpecError(f"weights of {type(model).__name__} are missing: {_some(missing)}; update all of them")
    shapes = [(n, list(t.shape), list(known[n].shape)) for n, t in given.items() if t.shape != known[n].shape]
    if shapes:
        raise SpecError(
            "weights have wrong shapes: " + _some([f"{n} {shape}, should be {right}" for n, shape, right in shapes])
        )
    _check_tied_equal(given, tied)
    first = {name: names[0] for names in tied for name in names}
    return {first.get(name, name): tensor for name, tensor in given.items()}


def drop_values(model: nn.Module) -> list[tuple[nn.Parameter, torch.Size]]:
    """Free the memory of a model's parameters. Returns them with their shapes, for `make_room`."""
    shapes = [(parameter, parameter.shape) for parameter in model.parameters()]
    for parameter, _ in shapes:
        parameter.data = parameter.data.new_empty(0)
    return shapes


def make_room(shapes: Iterable[tuple[nn.Parameter, torch.Size]]) -> None:
    """Give the parameters memory again, whose values are arbitrary."""
    for parameter, shape in shapes:
        parameter.data = parameter.data.new_empty(shape)


def _tied(model: nn.Module) -> list[list[str]]:
    """Names of every parameter, grouped by tensor."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return list(names.values())


def _check_tied_equal(given: Mapping[str, Tensor], tied: Iterable[list[str]]) -> None:
    for names in tied:
        first, *others = [name for name in names if name in given]
        for other in others:
            a, b = given[first], given[other]
            if a.data_ptr() != b.data_ptr() and not torch.equal(a, b):
                raise SpecError(f"{first} and {other} are tied in this model, but the new weights differ")


def _some(names: list[str]) -> str:
    left = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {left} more" if left > 0 else "")
