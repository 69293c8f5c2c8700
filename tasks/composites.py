"""Steps made of steps: light functions that only add steps, at compile time. Their own code is in no key.

Each has the signature of a task behind a first argument `add(task, name=None, **inputs)`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from tasks.families import LOSSES
from tasks.training.settings import OptimConfig, RowsConfig, TrainComputeConfig

if TYPE_CHECKING:
    from tasks.contract import Add, Bounds, Choice, ChoiceSpec, Seed, Step
    from tasks.kinds import (
        Completions,
        Demonstrations,
        Ensemble,
        Labels,
        Policy,
        PreferenceModel,
        Preferences,
        Rankings,
        RewardModel,
        Scores,
        Table,
    )


def train(
    add: Add,
    policy: Policy,
    data: Table,
    ref: Policy | None = None,
    anchor: list[Policy] | None = None,
    targets: Demonstrations | Completions | None = None,
    *,
    loss: Annotated[ChoiceSpec, Choice("losses")],
    lr: Annotated[float, Bounds(above=0)],
    optim: OptimConfig = OptimConfig(),
    rows: RowsConfig = RowsConfig(),
    compute: TrainComputeConfig = TrainComputeConfig(),
    adapter: Annotated[ChoiceSpec, Choice("adapters")] | None = None,
    seed: Seed = 0,
) -> Policy:
    """Train a policy on a table: tokenize, log-probabilities of fixed models (where the loss names any), fit.

    `anchor` is a second reference, or several, of whose log-probabilities the mean counts; `targets` has one answer to
    each prompt, which the loss makes likelier by itself (without it, the chosen answer). A loss that reads neither
    ignores them, as it ignores `ref`.

    Args:
        loss: what is minimised.
        lr: peak learning rate; no default, because no value serves two models.
        adapter: what learns beside a frozen model; default: nothing, the whole model learns.
        seed: order of the rows, and a new adapter.
    """
    table = add("tokenize", policy=policy, data=data, rows=rows)
    settings = {
        "dtype": compute.dtype, "max_tokens_per_microbatch": compute.max_tokens_per_microbatch,
        "weight_dtype": compute.weight_dtype,
    }  # fmt: skip

    def scored(model: Policy, answers: Table, name: str = "logps") -> Any:
        return add("logps", name, policy=model, data=answers, **settings)

    def reads(source: str) -> bool:
        return LOSSES[loss.folder].reads(loss.arguments, source)

    inputs: dict[str, Any] = {}
    if reads("reference") and ref is not None:
        inputs["ref_logps"] = scored(ref, table)
    if reads("anchor") and anchor:
        inputs["anchor_logps"] = [scored(one, table, f"anchor_logps_{i}") for i, one in enumerate(anchor, 1)]
    if reads("target") and targets is not None:
        inputs["targets"] = add("tokenize", "tokenize_targets", policy=policy, data=targets, rows=rows)
    if reads("mismatched") and ref is not None:
        others = add("mismatched_answers", policy=policy, data=table, max_length=rows.max_length)
        inputs |= {"mismatched": others, "mismatched_logps": scored(ref, others, "mismatched_logps")}
    return add(
        "fit", policy=policy, data=table, loss=loss, lr=lr, optim=optim, compute=compute, adapter=adapter, seed=seed,
        **inputs,
    )  # fmt: skip


def train_reward(
    add: Add,
    policy: Policy | RewardModel,
    data: Preferences | Rankings | Scores,
    *,
    loss: Annotated[ChoiceSpec, Choice("losses/reward")] = "bradley_terry",  # type: ignore[assignment]
    lr: Annotated[float, Bounds(above=0)],
    optim: OptimConfig = OptimConfig(batch=64, schedule="cosine", warmup=0.03),
    rows: RowsConfig = RowsConfig(),
    compute: TrainComputeConfig = TrainComputeConfig(),
    adapter: Annotated[ChoiceSpec, Choice("adapters")] | None = None,
    seed: Seed = 0,
) -> RewardModel:
    """Train a reward model on judged answers, from a policy's weights or from another reward model: tokenize, fit.

    Of a table of scores, rows without any are left out before.

    Args:
        loss: what is minimised.
        lr: peak learning rate; no default, because no value serves two models.
        adapter: what learns beside a frozen model, with the head; default: nothing, the whole model learns.
        seed: the new head, the order of the rows, and a new adapter.
    """
    if cast("Step", data).is_a("Scores"):
        data = add("drop_unscored", scores=data, max_skipped=rows.max_skipped)
    table = add("tokenize", policy=policy, data=data, rows=rows)
    return add(
        "fit_reward", policy=policy, data=table, loss=loss, lr=lr, optim=optim, compute=compute, adapter=adapter,
        seed=seed,
    )  # fmt: skip


def train_ensemble(
    add: Add,
    policy: Policy | RewardModel,
    data: Preferences,
    base_samples: Completions | None = None,
    *,
    members: Annotated[int, Bounds(min=1)] = 4,
    how: Literal["mean", "worst", "lower_bound"] = "mean",
    c: Annotated[float, Bounds(min=0)] = 1.0,
    uncertainty: Literal["ensemble", "features"] = "ensemble",
    ridge: Annotated[float, Bounds(above=0)] = 1.0,
    loss: Annotated[ChoiceSpec, Choice("losses/reward")] = "bradley_terry",  # type: ignore[assignment]
    lr: Annotated[float, Bounds(above=0)],
    optim: OptimConfig = OptimConfig(batch=64, schedule="cosine", warmup=0.03),
    rows: RowsConfig = RowsConfig(),
    compute: TrainComputeConfig = TrainComputeConfig(),
    seed: Seed = 0,
) -> Ensemble:
    """Train several reward models, each on a bootstrap of the pairs and with a head of its own, and make them one.

    Where the pairs do not decide, the members disagree: `ensemble` says what their scores become, and how uncertain
    they are. A single member learns from the pairs as they are.

    Args:
        members: reward models.
        how: what the scores of several become; worst and lower_bound need `base_samples`.
        c: deviations, or distances, that a lower bound lies below the mean.
        uncertainty: by disagreement of the members, or by distance of features.
        ridge: λ of the features' covariance.
        loss: what is minimised.
        lr: peak learning rate; no default, because no value serves two models.
        seed: of the first member: its bootstrap, head and order of rows; the others' follow.
    """
    rewards = []
    for i in range(members):
        sample = data if members == 1 else add("bootstrap", f"sample_{i + 1}", table=data, seed=seed + i)
        rewards.append(add(
            "train_reward", f"reward_{i + 1}", policy=policy, data=sample, loss=loss, lr=lr, optim=optim, rows=rows,
            compute=compute, seed=seed + i,
        ))  # fmt: skip
    return add(
        "ensemble", oracles=rewards, pairs=data if uncertainty == "features" else None, base_samples=base_samples,
        how=how, c=c, uncertainty=uncertainty, ridge=ridge,
    )  # fmt: skip


def train_preference(
    add: Add,
    policy: Policy | RewardModel,
    data: Preferences,
    *,
    answers_as: Literal["log_odds", "letter"] = "log_odds",
    labels: Literal["hard", "soft"] = "hard",
    lr: Annotated[float, Bounds(above=0)],
    optim: OptimConfig = OptimConfig(batch=64, schedule="cosine", warmup=0.03),
    rows: RowsConfig = RowsConfig(),
    compute: TrainComputeConfig = TrainComputeConfig(),
    adapter: Annotated[ChoiceSpec, Choice("adapters")] | None = None,
    seed: Seed = 0,
) -> PreferenceModel:
    """Train a model that reads both answers at once to compare them: comparisons, tokenize, fit.

    Args:
        answers_as: log_odds: a number of a linear head, from a policy or a
            sequence-classification checkpoint; letter: A or B, by the language model's own head, from a policy.
        labels: hard: the chosen answer is better; soft: it is better with the probability p of the pair.
        lr: peak learning rate; no default, because no value serves two models.
        adapter: what learns beside a frozen model; default: nothing, the whole model learns.
        seed: the order of each pair's answers, a new head, the order of the rows, and a new adapter.
    """
    pairs: dict[str, Any] = {"pairs": data, "labels": labels, "max_skipped": rows.max_skipped, "seed": seed}
    letter = answers_as == "letter"
    shown = add("letter_comparisons", policy=policy, **pairs) if letter else add("score_comparisons", **pairs)
    model = add(
        "fit" if letter else "fit_reward", policy=policy, data=add("tokenize", policy=policy, data=shown, rows=rows),
        loss="soft_sft" if letter else "cross_entropy", lr=lr, optim=optim, compute=compute, adapter=adapter, seed=seed,
    )  # fmt: skip
    return add("as_preference_model", model=model)


def load_policy(add: Add, *, source: Annotated[ChoiceSpec, Choice("sources", other="path")]) -> Policy:
    """The policy of a source: a real checkpoint, or a world's base policy, made by the world's recipe.

    Args:
        source: a world, or a local Hugging Face directory or hub id.
    """
    if source.world is None:
        return add("read_policy", source=source)
    base: Policy = source.world.base_policy(add, source)
    return base


def load_preferences(
    add: Add,
    *,
    source: Annotated[ChoiceSpec, Choice("sources", other="path")],
    split: str = "train",
    num_pairs: Annotated[int, Bounds(min=1)] = 1200,
    disjoint: bool = False,
    max_skipped: Annotated[float, Bounds(min=0, max=1)] = 0.1,
    seed: Seed = 0,
) -> Preferences:
    """The pairs of a source: real ones, or those of a world's noisy people.

    In a world, the base policy answers each prompt of the split several times, and people compare all these answers,
    or with `disjoint` two and two: each label is sampled with the gold oracle's probability.

    Args:
        source: a world, or a file, directory or hub dataset of pairs.
        split: name of the split; a world's `train` is the split that its people label.
        num_pairs: pairs that a world's people label; a file gives all it has.
        disjoint: each answer of a world is in one pair only, so that its pairs are independent; 3,000 labels then teach
            about 6,000 answers. Default: all pairs of as few answers to each prompt as give `num_pairs`.
        max_skipped: largest share of a file's rows that may be unusable; above it the step fails and names them.
        seed: the samples and labels of a world's people.
    """
    if source.world is None:
        return add("read_preferences", source=source, split=split, max_skipped=max_skipped)
    world, k = source.world, 2
    split = world.human_split if split == "train" else split
    while world.splits.get(split, num_pairs) * (k // 2 if disjoint else k * (k - 1) // 2) < num_pairs:
        k += 1
    completions = add(
        "sample", policy=add("load_policy", source=source), prompts=add("load_prompts", source=source, split=split),
        k=k, stream=_PEOPLES_STREAM, seed=seed,
    )  # fmt: skip
    win_probs = add("compare", completions=completions, oracle=add("load_oracle", oracle=world.gold))
    rule = {"sampled": {"disjoint": disjoint, "seed": seed}}
    labelled = add("pairs", completions=completions, win_probs=win_probs, rule=rule)
    return add("take_batch", table=labelled, index=1, size=num_pairs)


def load_labels(
    add: Add,
    *,
    source: Annotated[ChoiceSpec, Choice("sources", other="path")],
    split: str = "train",
    num_pairs: Annotated[int, Bounds(min=1)] = 1200,
    max_skipped: Annotated[float, Bounds(min=0, max=1)] = 0.1,
    seed: Seed = 0,
) -> Labels:
    """Answers that people called desirable or undesirable: real ones, or those of the pairs of a world's people.

    Args:
        source: a world, or a file, directory or hub dataset of labelled answers or of pairs.
        split: name of the split; a world's `train` is the split that its people label.
        num_pairs: pairs that a world's people label, each of which gives two labels; a file gives all it has.
        max_skipped: largest share of a file's rows that may be unusable; above it the step fails and lists them.
        seed: the samples and labels of a world's people.
    """
    if source.world is None:
        return add("read_labels", source=source, split=split, max_skipped=max_skipped)
    pairs = add("load_preferences", source=source, split=split, num_pairs=num_pairs, seed=seed)
    return add("labels", pairs=pairs)


def load_scores(
    add: Add,
    *,
    source: Annotated[ChoiceSpec, Choice("sources", other="path")],
    split: str = "train",
    attributes: list[str] | None = None,
    k: Annotated[int, Bounds(min=1)] = 2,
    max_skipped: Annotated[float, Bounds(min=0, max=1)] = 0.1,
    seed: Seed = 0,
) -> Scores:
    """Answers with numbers that say how good they are in several ways: real ones, or those of a world's scorers.

    In a world, the base policy answers each prompt of the split k times, and each scorer scores all answers.

    Args:
        source: a world, or a file, directory or hub dataset of answers with columns of numbers.
        split: name of the split; a world's `train` is the split that its people label.
        attributes: columns of a file, or scorers of a world; default: all that there are.
        k: answers to each prompt of a world; a file gives all it has.
        max_skipped: largest share of a file's rows that may be unusable; above it the step fails and lists them.
        seed: the samples of a world.
    """
    if source.world is None:
        return add("read_scores", source=source, split=split, attributes=attributes, max_skipped=max_skipped)
    split = source.world.human_split if split == "train" else split
    completions = add(
        "sample", policy=add("load_policy", source=source), prompts=add("load_prompts", source=source, split=split),
        k=k, stream=_SCORED_STREAM, seed=seed,
    )  # fmt: skip
    names = attributes or [*source.world.scorers]
    tables = [
        add(
            "score", f"{name}_scores", completions=completions, oracle=add("load_oracle", f"{name}_oracle", oracle=name)
        )
        for name in names
    ]
    return add("join_scores", tables=tables, names=names)


_SCORED_STREAM = 7002
"""The same for answers that a world's scorers score."""
_PEOPLES_STREAM = 7001
"""A stream of its own, so that the answers that people compare are draws of no other step."""
