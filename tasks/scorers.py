"""Scorers made of other artifacts: the implicit reward of a policy, a policy as judge, and several scorers as one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict
from math import isfinite
from typing import TYPE_CHECKING, Annotated, Literal

from tasks.contract import JSON, Bounds, Choice, Chosen, DataError, Seed, SpecError, Workspace
from tasks.declarations import Cost, StepView
from tasks.judging.oracle_totals import QUERY_TOTALS
from tasks.kinds import Completions, Ensemble, ImplicitReward, Policy, PolicyJudge, Preferences, Scorer

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from tasks.judging.ensemble_scorer import Values


def implicit_reward(policy: Policy, ref: Policy, *, beta: Annotated[float, Bounds(above=0)]) -> ImplicitReward:
    """The reward that a policy is the optimum of: β·log π(y)/π_ref(y), summed over the answer's tokens.

    DPO's reward (Rafailov et al., arXiv 2305.18290, equation 5, up to a function of the prompt); after a training with
    β, that β gives it the labels' units. It serves wherever a scorer does, as a judge, a proxy or a reward for PPO.
    The result refers to both policies by content. Raises DataError where their tokenizers or templates differ.

    Args:
        beta: rewards per nat.
    """
    from tasks.training.implicit_scorer import check_one_tokenizer

    check_one_tokenizer(policy, ref)
    return ImplicitReward.made_of({"policy": [policy], "ref": [ref]}, {"beta": beta})


def as_judge(
    policy: Policy,
    *,
    rubric: str = "",
    lead: str = "Score: ",
    lowest: int = 0,
    highest: int = 5,
    how: Literal["sampled", "expected"] = "sampled",
    n: Annotated[int, Bounds(min=1)] = 3,
    temperature: Annotated[float, Bounds(min=0)] = 1.0,
    top_p: Annotated[float, Bounds(above=0, max=1)] = 1.0,
    max_tokens: Annotated[int, Bounds(min=1)] | None = None,
    max_unparsed: Annotated[float, Bounds(min=0, max=1)] = 0.5,
    scale: Annotated[float, Bounds(above=0)] = 1.0,
    seed: Seed = 0,
    engine: Annotated[Chosen, Choice("engines")] = "auto",  # type: ignore[assignment]
) -> PolicyJudge:
    """A policy that rates answers by a rubric, as a scorer: P(a beats b) = σ(scale · (score(a) − score(b))).

    It serves wherever a scorer does; rated by it, a policy's own answers train it (self-rewarding language models, Yuan
    et al., arXiv 2401.10020). The score of an answer is the mean of the scores that n sampled judgements state, or the
    mean of the policy's own distribution over all scores, which is one number without sampling and needs a policy that
    rates, but not one that writes prose. A judgement's noise belongs to (seed, question, its number), and judgements
    are kept in the store of answers: a larger n samples only what is missing. A judgement that was cut, or states no
    score in the bounds, counts in no mean; an answer without any has no score. The result refers to the policy by
    content. Raises SpecError for a rubric that is no template or does not show the answer.

    Args:
        rubric: a template in Jinja's language with the values prompt and answer; default: the additive one of five
            points, after figure 2 of the paper.
        lead: what a judgement writes before its score; empty: it is a score and nothing else.
        lowest: the lowest score.
        highest: the highest one.
        how: sampled: by judgements; expected: Σ score · P(the judgement begins with `lead` and that score), normalised.
        n: judgements of each answer.
        temperature: of judgements.
        top_p: of judgements.
        max_tokens: of a judgement; default: max_new_tokens of generation_config.json, else the remaining positions.
        max_unparsed: largest share of judgements without a score; above it the step that asks fails.
        scale: logits that one point is worth where answers are compared.
        seed: of the judgements.
        engine: that samples them; `auto`: vllm on a machine with a GPU, else transformers.
    """
    from tasks.judging.policy_judge import Judgements
    from tasks.judging.rubric import ADDITIVE, Rubric
    from tasks.sampling.shards import chosen_engine

    made, chosen = Rubric(rubric or ADDITIVE, lead, lowest, highest), chosen_engine(engine)
    judgements = Judgements(n, temperature, top_p, max_tokens, seed, max_unparsed)
    sampler: dict[str, JSON] = {"name": chosen.name, "params": dict(chosen.params), "code": chosen.code}
    params: dict[str, JSON] = {
        "rubric": made.as_json, "scale": scale,
        "judgements": None if how == "expected" else asdict(judgements),
        "engine": None if how == "expected" else sampler,
    }  # fmt: skip
    return PolicyJudge.made_of({"policy": [policy]}, params)


ensemble_totals = QUERY_TOTALS


def ensemble_cost(step: StepView) -> Cost:
    members, samples = len(step.inputs["oracles"]), step.first("base_samples")
    return {"queries": members * samples.rows if samples else 0.0}


def ensemble_wiring(step: StepView) -> None:
    p = step.params
    check_ensemble(
        [one.kind for one in step.inputs["oracles"]], p["how"], p["weights"], p["uncertainty"],
        pairs=bool(step.inputs.get("pairs")), samples=bool(step.inputs.get("base_samples")),
    )  # fmt: skip
    check_member_names(p["names"], len(step.inputs["oracles"]))


def check_ensemble(
    kinds: Sequence[str], how: str, weights: Sequence[float] | None, uncertainty: str, *, pairs: bool, samples: bool
) -> None:
    """Raise SpecError for an ensemble whose score is not defined. kinds: of its members."""
    if how == "weighted" and (weights is None or len(weights) != len(kinds) or not any(weights)):
        raise SpecError(f"`how: weighted` needs `weights`, one for each of the {len(kinds)} oracles, not all 0")
    if weights is not None and how != "weighted":
        raise SpecError(f"`weights` are for `how: weighted`, and `how` is {how}")
    if weights is not None and not all(map(isfinite, weights)):
        raise SpecError(f"`weights` must be finite: {list(weights)}")
    if uncertainty == "features":
        if not pairs:
            raise SpecError("`uncertainty: features` needs `pairs`, the preferences that trained the model")
        if len(kinds) == 1 and kinds[0] in ("Scorer", "ImplicitReward", "PolicyJudge", "Ensemble"):
            raise SpecError(f"a {kinds[0]} has no features; give a reward model, or several oracles")
    elif how == "lower_bound" and len(kinds) < 2:
        raise SpecError("`how: lower_bound` by disagreement needs at least 2 oracles; or set `uncertainty: features`")
    if how in ("worst", "lower_bound") and not samples:
        raise SpecError(
            f"`how: {how}` needs `base_samples`, answers of the base policy to all prompts that are to be judged: a "
            "reward is known up to a constant per prompt, so that members are compared above their means of those"
        )


def check_member_names(names: Sequence[str] | None, members: int) -> None:
    """Raise SpecError for names that are not one for each member, all different, and usable in a metric's name."""
    if names is None:
        return
    if len(names) != members or len(set(names)) < members:
        raise SpecError(f"`names` must give each of the {members} oracles a name of its own, not {list(names)}")
    if wrong := [name for name in names if not re.fullmatch(r"[\w.-]+", name)]:
        raise SpecError(
            f"`names`: {wrong[0]!r} cannot be part of a metric's name; use letters, digits, '_', '.' and '-'"
        )


def ensemble(
    oracles: list[Scorer],
    work: Workspace,
    pairs: Preferences | None = None,
    base_samples: Completions | None = None,
    *,
    how: Literal["mean", "worst", "lower_bound", "weighted"],
    weights: list[float] | None = None,
    names: list[str] | None = None,
    c: Annotated[float, Bounds(min=0)] = 1.0,
    uncertainty: Literal["ensemble", "features"] = "ensemble",
    ridge: Annotated[float, Bounds(above=0)] = 1.0,
    dtype: Literal["auto", "float32", "bfloat16"] = "auto",
) -> Ensemble:
    """Several scorers as one, which refers to them by content and knows how uncertain it is of a comparison.

        mean          r̄ = (1/M)·Σ_m r_m                       weighted      Σ_m w_m·r_m
        worst         min_m (r_m − b_m)                       lower_bound   mean of r_m − b_m, less c·(its deviation)
        lower_bound by features   r̄(x, y) − c·‖φ(x, y) − φ̄(x)‖ in Σ⁻¹,   Σ = λI + Σ_i Δφ_i Δφ_iᵀ over `pairs`

    r_m is a member's score times its scale, so that P = σ of differences for all of them. A reward is known up to a
    function b(x) of the prompt, so members are compared above b_m(x), their mean score of the `base_samples` for x; the
    deviation is that of the members' r_m − b_m, with M − 1 in the denominator. φ is the last hidden state of the one
    reward model, or the scores of several members; φ̄(x) is its mean over the base samples. The √d of the theory is in
    c. Worst and lower bound judge the prompts of the base samples alone.

    So `weighted` adds up a reward model, a format and a length with a price each: `{task: ensemble, oracles: [reward,
    format, length], how: weighted, weights: [1, 0.5, 0.1]}`, where `format` and `length` load the choices
    `format_reward` and `length_penalty`. A training by it reports the mean and the standard deviation of r_m over an
    iteration's answers, before the weights, as curves `rewards/NAME/mean` and `rewards/NAME/std`.

    Its uncertainty of a comparison, which `compare` writes down, is the members' standard deviation of P(a beats b), or
    ‖φ(x, a) − φ(x, b)‖ in Σ⁻¹. Raises DataError where pairs or base samples have no score.

    Source: ensembles: Coste et al., arXiv 2310.02743; features: Zhu et al., arXiv 2301.11270, section 3; Xiong et al.,
    arXiv 2312.11456, Algorithms 1 and 2.

    Args:
        how: what the scores of several become.
        weights: of the oracles in their order, for `weighted`.
        names: of the oracles in their order, for the curves of a training by it; default: those of their choices, or
            `reward_model`.
        c: deviations, or distances, that a lower bound lies below the mean.
        uncertainty: by disagreement of the members, or by distance of features.
        ridge: λ.
        dtype: that models compute in; auto: float32 on a CPU, bfloat16 on a GPU.
    """
    from tasks.judging.ensemble_scorer import member_scores, write_baselines
    from tasks.judging.ensembles import baselines
    from tasks.judging.opening import open_oracle
    from tasks.judging.oracle_report import report_paid

    kinds = [type(one).__name__ for one in oracles]
    check_ensemble(kinds, how, weights, uncertainty, pairs=pairs is not None, samples=base_samples is not None)
    check_member_names(names, len(oracles))
    live = [open_oracle(one, dtype, work) for one in oracles]
    means: dict[str, npt.NDArray[np.float64]] = {}
    feature_means: dict[str, npt.NDArray[np.float64]] = {}
    if base_samples is not None:
        means = baselines(_prompts_of(base_samples), _values_of(base_samples, member_scores(live), work))
    if uncertainty == "features" and pairs is not None:
        feature_means = _write_features(oracles, live, pairs, base_samples, ridge, dtype, work)
    report_paid(work)
    if means:
        write_baselines(work.output, means, feature_means)
    params = {"how": how, "weights": weights, "c": c, "uncertainty": uncertainty, "names": names}
    return Ensemble.made_of({"member": oracles}, params, work.output)  # type: ignore[arg-type]


def _write_features(
    oracles: list[Scorer], live: list[Scorer], pairs: Preferences, base_samples: Completions | None, ridge: float,
    dtype: str, work: Workspace,
) -> dict[str, npt.NDArray[np.float64]]:  # fmt: skip
    """Write the factor of the features' covariance over `pairs`; returns their means over base samples by prompt."""
    import numpy as np

    from tasks.judging.ensemble_scorer import COVARIANCE, feature_values
    from tasks.judging.ensembles import baselines, covariance_factor

    values = feature_values(oracles, live, dtype)
    sides = [_values_of(pairs, values, work, side) for side in ("chosen", "rejected")]
    differences = sides[0] - sides[1]
    known = differences[~np.isnan(differences).any(axis=1)]
    if not len(known):
        raise DataError(f"none of the {len(pairs)} pairs has features of both answers")
    if missing := len(pairs) - len(known):
        work.notice(f"{missing} of {len(pairs)} pairs have an answer without features and are left out")
    np.save(work.output / COVARIANCE, covariance_factor(known, ridge))
    if base_samples is None:
        return {}
    return baselines(_prompts_of(base_samples), _values_of(base_samples, values, work))


def _prompts_of(table: Completions) -> list[str]:
    """By their content, which is all that a live scorer sees of a prompt."""
    from tasks.ids import prompt_id

    return [prompt_id(prompt) for prompt in table.table.column("prompt").to_pylist()]


_ROWS = 256
"""Answers that are scored between two reports of progress."""


def _values_of(
    table: Completions | Preferences, values: Values, work: Workspace, side: str = "completion"
) -> npt.NDArray[np.float64]:
    """What `values` gives for the answers of a table, `(A, n)`, each distinct one computed once."""
    import numpy as np

    from tasks.contract import chunks
    from tasks.training.texts import once_each

    rows = table.table.select(["prompt", side, "truth"])
    parts = []
    for part in chunks(len(table), _ROWS):
        block = rows.slice(part.start, part.stop - part.start).to_pydict()
        parts += once_each(block["prompt"], block[side], block["truth"], lambda *distinct: list(values(*distinct)))
        work.progress(part.stop, len(table), "answers")
    work.count(queries=len(table))
    return np.array(parts)
