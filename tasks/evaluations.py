"""Steps made of steps that measure a policy. As all composites, they only add steps: their own code is in no key."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tasks.contract import Add, Bounds, Choice, ChoiceSpec, Seed, Step
    from tasks.kinds import Demonstrations, Oracle, Policy, Prompts, Report, Scorer


def evaluate(
    add: Add,
    policy: Policy,
    baseline: Policy,
    prompts: Prompts,
    oracle: Oracle,
    proxy: Scorer | None = None,
    previous: Policy | None = None,
    references: Demonstrations | None = None,
    *,
    more: list[
        Literal["length_controlled", "kl_to_previous", "diversity", "refusals", "bleu_and_rouge", "perplexity"]
    ] = [],
    k: Annotated[int, Bounds(min=1)] = 4,
    temperature: Annotated[float, Bounds(min=0)] = 1.0,
    max_tokens: Annotated[int, Bounds(min=1)] | None = None,
    orders: Literal["both", "random"] = "both",
    kl: bool = True,
    seed: Seed = 0,
    engine: Annotated[ChoiceSpec, Choice("engines")] = "auto",  # type: ignore[assignment]
    allow_seen: bool = False,
) -> Report:
    """Measure a policy against a baseline: answers of both, compared (and scored, where the oracle can), and KL.

    With `proxy`, the oracle that trained the policy, the same answers are also scored by it (eval/proxy).
    The two sides have streams of noise of their own, so a baseline against itself is a real test.
    `more` names further metrics of the same answers, whose rows become part of the Report (`join_reports`).

    Args:
        more: tasks that measure as well: length_controlled; kl_to_previous, which needs `previous`, the policy of the
            round before; diversity; refusals; bleu_and_rouge and perplexity, which need `references`, gold answers.
        k: answers to each prompt on either side; every pair of them is compared.
        temperature: of both sides; eval/kl is unbiased at 1 only.
        max_tokens: longest answer; default: that of the policy's generation_config.json.
        orders: for an oracle that is not antisymmetric: query in both orders, or in a random one for each pair.
        kl: log-probabilities of the policy's answers under the baseline, which must have the same tokenizer.
        seed: the answers.
        engine: what samples them; see `sample`.
        allow_seen: the prompts may have trained the policy; shown beside the numbers.
    """
    settings: dict[str, Any] = {
        "prompts": prompts, "k": k, "temperature": temperature, "max_tokens": max_tokens, "seed": seed,
        "engine": engine,
    }  # fmt: skip
    answers = add("sample", policy=policy, stream=_POLICYS_STREAM, **settings)
    others = add("sample", "baseline_sample", policy=baseline, stream=_BASELINES_STREAM, **settings)
    gold = oracle if cast("Step", oracle).is_a("Scorer") else None
    scores = {
        f"{side}{measured}scores": add("score", f"{side}{measured}score", completions=rows, oracle=by) if by else None
        for measured, by in (("", gold), ("proxy_", proxy))
        for side, rows in (("", answers), ("baseline_", others))
    }
    judged = add("compare", completions=answers, others=others, oracle=oracle, orders=orders)
    measured: Report = add(
        "measure", win_probs=judged, completions=answers, others=others, **scores,
        logps=add("logps", policy=baseline, data=answers) if kl else None,
        temperature=temperature, allow_seen=allow_seen,
    )  # fmt: skip
    if not more:
        return measured
    ports = {"win_probs": judged, "completions": answers, "others": others}
    models = {"policy": policy, "previous": previous, "tokenizer": baseline if kl else policy}
    further = [
        _further(add, task, ports, models, references, temperature=temperature, allow_seen=allow_seen) for task in more
    ]
    return add("join_reports", reports=[measured, *further])


def _further(
    add: Add, task: str, ports: Mapping[str, Any], models: Mapping[str, Policy | None],
    references: Demonstrations | None, *, temperature: float, allow_seen: bool,
) -> Report:  # fmt: skip
    """One more Report on the answers of an evaluation."""
    answers = ports["completions"]
    settings: dict[str, Any] = {"allow_seen": allow_seen}
    if task == "length_controlled":
        return add(task, **ports, **settings)
    if task == "refusals":
        return add(task, completions=answers, **settings)
    if task == "diversity":
        return add(task, completions=answers, temperature=temperature, **settings)
    if task == "kl_to_previous":
        logps = add("logps", "previous_logps", policy=_needed(models["previous"], task, "previous"), data=answers)
        return add(task, completions=answers, logps=logps, temperature=temperature, **settings)
    gold = _needed(references, task, "references")
    if task == "bleu_and_rouge":
        return add(task, completions=answers, references=gold, **settings)
    texts = add("tokenize", "reference_rows", policy=models["tokenizer"], data=gold)
    return add(
        task, texts=texts, logps=add("logps", "reference_logps", policy=models["policy"], data=texts), **settings
    )


def _needed(given: Any, task: str, port: str) -> Any:
    from tasks.contract import SpecError

    if given is None:
        raise SpecError(f"`more` names {task}, which needs the port `{port}`: name a step that feeds it")
    return given


def assess(
    add: Add,
    policy: Policy,
    baseline: Policy,
    *,
    source: Annotated[ChoiceSpec, Choice("sources", other="path")],
    split: str = "heldout",
    max_tokens: Annotated[int, Bounds(min=1)] | None = None,
    max_skipped: Annotated[float, Bounds(min=0, max=1)] = 0.1,
    seed: Seed = 0,
    allow_seen: bool = False,
) -> Report:
    """Measure a policy by a source: by a world's gold oracle, or on held-out pairs of a file.

    In a world the baseline is also measured against itself, as `base_check`. On pairs that is 0.5 by definition.

    Args:
        source: a world (win rate over the baseline on its prompts), or pairs (accuracy of the implicit reward).
        split: prompts or pairs that trained nothing.
        max_tokens: longest answer in a world; default: that of the policy's generation_config.json.
        max_skipped: largest share of a file's rows that may be unusable; above it the step fails and names them.
        seed: the samples.
        allow_seen: the prompts may have trained the policy; shown beside the numbers.
    """
    if source.world is not None:
        prompts = add("load_prompts", source=source, split=split)
        gold = add("load_oracle", oracle=source.world.gold)
        settings: dict[str, Any] = {
            "prompts": prompts, "oracle": gold, "max_tokens": max_tokens, "seed": seed, "allow_seen": allow_seen,
        }  # fmt: skip
        add("evaluate", "base_check", policy=baseline, baseline=baseline, **settings)
        return add("evaluate", policy=policy, baseline=baseline, **settings)
    pairs = add("load_preferences", source=source, split=split, max_skipped=max_skipped)
    rows = add("tokenize", policy=baseline, data=pairs, max_skipped=max_skipped)
    return add(
        "implicit_accuracy", pairs=rows, logps=add("logps", policy=policy, data=rows),
        ref_logps=add("logps", "ref_logps", policy=baseline, data=rows), allow_seen=allow_seen,
    )  # fmt: skip


_POLICYS_STREAM, _BASELINES_STREAM = 1001, 1002
"""Streams of their own, so that an evaluation shares no draws with a training, and its sides none with each other."""
