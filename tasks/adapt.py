"""Models of models: adapters come in and become whole models, and several models become one."""

from dataclasses import asdict
from typing import Annotated, Any, Literal

from tasks.contract import Bounds, Choice, Chosen, DataError, SpecError, Workspace
from tasks.declarations import HEAVY, Machine, Memory, Resources, StepView
from tasks.formats.early import check_peft_directory
from tasks.kinds import AnyModel, Policy, RewardModel
from tasks.source import Source
from tasks.training.memory import FLOAT
from tasks.training.passes import shape_of

merge_resources = HEAVY
load_adapter_resources = HEAVY
renew_resources = Resources()
load_adapter_files = check_peft_directory


def merge_wiring(step: StepView) -> None:
    """Refuse one model that is whole, weights that do not fit, and models of several shapes."""
    from tasks.training.merging_checks import check_rotation, shares

    sources = step.inputs["policies"]
    if len(sources) == 1 and "adapter" in sources[0].params:
        raise SpecError(
            "`policies` has one model, which is whole, because the step that trains it has no `adapter`: nothing to "
            "merge"
        )
    weights = shares(step.params["weights"], len(sources))
    if step.params["how"] == "slerp":
        check_rotation(weights)
    shapes = [asdict(shape) for shape in map(shape_of, [*sources, *step.inputs.get("base", ())]) if shape]
    for shape in shapes[1:]:
        differing = [
            f"{n} {shapes[0][n]} and {shape[n]}" for n in shape if n != "positions" and shape[n] != shapes[0][n]
        ]
        if differing:
            raise SpecError(f"only models of one shape can be merged, and these have {', '.join(differing)}")


def merge_memory(step: StepView, _machine: Machine) -> Memory | None:
    """In the machine's memory, in float32: a model, the result, and the base that it may be rotated about."""
    shape = shape_of(step.first("policies"))
    models = min(2, len(step.inputs["policies"])) + len(step.inputs.get("base", ()))
    return Memory({}, host=models * FLOAT * shape.parameters) if shape else None


def merge(
    policies: list[AnyModel],
    work: Workspace,
    base: AnyModel | None = None,
    *,
    weights: list[float] | None = None,
    how: Literal["linear", "slerp"] = "linear",
    dtype: Literal["float32", "bfloat16"] = "float32",
) -> AnyModel:
    """One whole model of several, whose weights are the mean of theirs; adapters are added to their bases before.

        linear: θ = Σ wᵢ·θᵢ / Σ wᵢ
        slerp:  θ₀ + the spherical interpolation of θ₁ − θ₀ and θ₂ − θ₀, tensor by tensor with an angle of its own

    Rewarded soups of policies that were trained for several objectives, averaged reward models (WARM), an anchor that
    follows its policy as an exponential moving average. One adapter alone becomes a whole model. Sums are float32.
    Everything but the weights (tokenizer, template, configuration) is that of the first. Raises SpecError for
    unsuitable `weights`, DataError for one whole model, for several tokenizers or chat templates, or several shapes.

    Source: Ramé et al., rewarded soups, arXiv 2306.04488; WARM, arXiv 2401.12187; WARP, arXiv 2406.16768.

    Args:
        base: θ₀, from which the models of `slerp` were trained; default: 0. Models that were trained from one base
            point in nearly the same direction from 0, and slerp is nearly linear there.
        weights: one for each of `policies`, in any unit; default: equal ones. A negative one moves away from its model.
        how: slerp takes two models, and the second weight's share of both is the place on the arc.
        dtype: of the stored weights. bfloat16 rounds away what an adapter adds below 1/512 of a weight, so that
            log-probabilities change.
    """
    from tasks.training.merging import average, check_outputs, check_tokenizers, open_merged, rotate
    from tasks.training.merging_checks import check_rotation, shares
    from tasks.training.model import save_model
    from tasks.training.reward import save_reward_model

    first = policies[0]
    if len(policies) == 1 and first.adapter is None:
        raise DataError(f"{first.path} is a whole model: nothing to merge")
    if base is not None and how == "linear":
        raise SpecError("`base` is what `how: slerp` rotates about; a linear mean needs none")
    parts = shares(weights, len(policies))
    check_tokenizers(policies)
    check_outputs(policies)
    if how == "slerp":
        check_rotation(parts)
        merged = rotate(open_merged, policies, parts, base)
    else:
        merged = average(open_merged, policies, parts)
    saving: Any = save_reward_model if isinstance(first, RewardModel) else save_model
    saving(merged, first, work.output, dtype)
    return type(first)(work.output)


def renew(
    current: AnyModel,
    fresh: AnyModel,
    *,
    every: Annotated[int, Bounds(min=1)],
    index: Annotated[int, Bounds(min=1)],
) -> AnyModel:
    """`current`, or `fresh` in every `every`-th round from round `every` + 1 on: an anchor that moves now and then.

    With `current: prev.anchor, fresh: prev.policy, index: $round` the policy of each `every`-th round becomes the
    anchor of the rounds behind it. The result is the same content, so nothing that depends on it is computed again.

    Source: COMAL, arXiv 2410.23223, whose reference is renewed once the regularised game is solved.

    Args:
        every: rounds between renewals.
        index: number of the round, from 1.
    """
    model = fresh if index > 1 and (index - 1) % every == 0 else current
    return type(model)(model.path, base=model.base)


def load_adapter(
    policy: Policy,
    work: Workspace,
    *,
    source: Annotated[Chosen, Choice("sources", other="path")],
) -> Policy:
    """A LoRA adapter as peft stores it (adapter_config.json, adapter_model.safetensors) on its base policy.

    It computes what peft computes, and trainings go on with it where their `adapter` is the same. Raises DataError
    where names or shapes are not those of the policy, and for settings that are not supported (DoRA, modules_to_save,
    biases, ranks by layer).

    Args:
        source: a local directory, or a hub id.
    """
    from tasks.formats.peft_files import read_settings, read_tensors
    from tasks.training.adapters import layers_for, write_adapter
    from tasks.training.model import copy_files, model_without_weights

    if policy.adapter is not None:
        raise DataError(f"{policy.path} is itself an adapter: `merge` it, or give its base")
    opened = source()
    if not isinstance(opened, Source):
        raise TypeError(f"{source.module} must return a Source, not {type(opened).__name__}")
    path = opened.pinned(source.identity).adapter()
    settings, tensors = read_settings(path), read_tensors(path)
    adapter = layers_for(model_without_weights(policy), tensors, settings.rank, settings.alpha, str(path))
    if settings.base:
        work.notice(f"the adapter {path.name} says that its base is {settings.base}; its shapes are those of `policy`, "
                    "but that does not show that both are the same model")  # fmt: skip
    write_adapter(work.output, adapter, tensors, policy)
    copy_files(policy, work.output)
    return Policy(work.output, base=policy)
