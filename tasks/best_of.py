"""Best of n: what choosing by a proxy gains in the proxy and in gold, and how far it moves from the policy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from tasks.contract import Bounds, DataError, SpecError, Workspace
from tasks.declarations import Evaluation, Metric, StepView
from tasks.kinds import Report, Scores

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import polars as pl

best_of_metrics = {
    "eval/n": Metric("n", ".0f"),
    "eval/gold": Metric(
        "gold\n(95% CI)", interval=True, ranks=True, role="score", baseline="eval/baseline_gold", chart=2,
        axis="mean gold score",
    ),
    "eval/gold_gain": Metric("gain\n(95% CI)", "+.2f", interval=True),
    "eval/proxy": Metric("proxy", role="proxy", baseline="eval/baseline_proxy", chart=4),
    "eval/proxy_gain": Metric("gain\nin proxy", "+.2f"),
    "eval/kl": Metric("KL\n(nats, ≤)", role="distance", best_of_n=True, higher_is_better=False, chart=3),
}  # fmt: skip


def best_of_evaluation(step: StepView) -> Evaluation:
    from tasks.judging.evaluated import behind, measured_tables, settings_of

    return Evaluation(
        "best of n by a proxy", measured_tables(step.inputs.get("gold", ())),
        behind(step, "gold", "completions", "policy"), behind(step, "gold", "completions", "prompts"),
        oracle=behind(step, "gold", "oracle"), scores=[*step.inputs.get("gold", ())],
        settings={**settings_of(behind(step, "gold", "completions")), "n": step.params.get("n")},
        allow_seen=step.params.get("allow_seen", False),
    )  # fmt: skip


def best_of_wiring(step: StepView) -> None:
    """Refuse n above the number of answers, where that is known."""
    for port in ("proxy", "gold"):
        for table in step.inputs.get(port, ()):
            if table.k < step.params["n"]:
                raise SpecError(
                    f"n = {step.params['n']}, and `{port}` has {table.k:g} answers per prompt: sample with "
                    f"k ≥ {step.params['n']}"
                )


def best_of(
    proxy: Scores,
    gold: Scores,
    work: Workspace,
    *,
    n: Annotated[int, Bounds(min=1)],
    allow_seen: bool = False,
) -> Report:
    """The gold score of the answer that a proxy finds best among n samples of a policy: unbiased, from K ≥ n of them.

        E[gold of the best of n] = Σ_{i=n}^{K} C(i − 1, n − 1)/C(K, n)·gold_(i),   (i): i-th lowest by the proxy

    which is the mean over all subsets of n of the K samples; among equal proxies each is as likely to be chosen.
    Both tables hold scores of the same K answers to every prompt.

    eval/gold, eval/proxy: means over prompts of this, for gold and for the proxy itself · eval/baseline_gold,
    eval/baseline_proxy: the same for n = 1, the policy · eval/gold_gain, eval/proxy_gain: the difference by prompt, so
    that its interval is paired · eval/kl: log n − (n − 1)/n nats, an upper bound of KL(best of n ‖ policy), reached
    where no two samples are equal · eval/n. Where the proxy's gain rises while gold's falls, n is too large for this
    proxy. Intervals are 95%, over prompts.

    Raises DataError where the tables hold other answers, an answer has no score, K differs between prompts, or n > K.

    Source: estimator: Nakano et al., arXiv 2112.09332, appendix I, and Gao et al., arXiv 2210.10760, section 2; the KL:
    Beirami et al., arXiv 2401.01879 (an upper bound in general).

    Args:
        n: answers that one is chosen from.
        allow_seen: permit prompts that may have trained the policy; a notice says so.
    """
    import numpy as np
    import polars as pl

    from tasks.judging import measuring as m

    prompts, by_proxy, by_gold = _aligned(proxy, gold)
    answers = by_proxy.shape[1]
    if n > answers:
        raise DataError(f"n = {n}, and there are {answers} answers to each prompt: sample with k ≥ {n}")
    if allow_seen:
        work.notice("allow_seen: prompts of this evaluation may have trained the policy")
    weights = np.stack([selection_weights(row, n) for row in by_proxy])
    values = {"gold": (weights * by_gold).sum(axis=1), "baseline_gold": by_gold.mean(axis=1),
              "proxy": (weights * by_proxy).sum(axis=1), "baseline_proxy": by_proxy.mean(axis=1)}  # fmt: skip
    values |= {f"{name}_gain": values[name] - values[f"baseline_{name}"] for name in ("gold", "proxy")}
    metrics = {name: pl.DataFrame({"prompt_id": prompts, "value": value}) for name, value in values.items()}
    rows = pl.concat([m.report_rows(metrics), _constants(n, len(prompts))], how="diagonal_relaxed")
    return Report.of(rows).with_per_prompt(m.per_prompt_table(prompts, metrics))


def selection_weights(proxy: npt.NDArray[np.float64], n: int) -> npt.NDArray[np.float64]:
    """`(K,)`: probability that each of K answers is the best by the proxy of n drawn without replacement.

    The answer with the i-th lowest score, from 1: C(i − 1, n − 1)/C(K, n); equal scores share theirs evenly.
    """
    from math import comb

    import numpy as np

    k = len(proxy)
    by_rank = np.array([comb(i, n - 1) / comb(k, n) for i in range(k)])
    _, place, counts = np.unique(proxy, return_inverse=True, return_counts=True)
    shared = np.bincount(np.sort(place), by_rank) / counts
    return np.asarray(shared[place])


def kl_of_best_of(n: int) -> float:
    """log n − (n − 1)/n, nats."""
    from math import log

    return log(n) - (n - 1) / n


def _constants(n: int, prompts: int) -> pl.DataFrame:
    import polars as pl

    both = (("kl", kl_of_best_of(n), "nats"), ("n", float(n), "answers"))
    rows = [{"name": f"eval/{name}", "value": v, "n": prompts, "unit": unit} for name, v, unit in both]
    none = pl.lit(None, pl.Float64)
    return pl.DataFrame(rows).with_columns(ci_low=none, ci_high=none)


def _aligned(proxy: Scores, gold: Scores) -> tuple[list[str], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The prompts, and `(G, K)` scores of the same answers by both. Raises DataError."""
    import numpy as np
    import polars as pl

    names = ["prompt_id", "completion_id", "score"]
    tables = [pl.DataFrame(pl.from_arrow(table.table.select(names))) for table in (proxy, gold)]
    for what, table in zip(("proxy", "gold"), tables, strict=True):
        if table.is_empty() or table["completion_id"].n_unique() != len(table):
            raise DataError(f"the table `{what}` is empty or contains a draw twice")
        if missing := table["score"].null_count():
            raise DataError(f"{missing} of {len(table)} answers have no score by `{what}`: best of n needs all of them")
    one, other = tables
    both = one.join(other, on=["prompt_id", "completion_id"], how="inner", maintain_order="left", suffix="_gold")
    if not len(both) == len(one) == len(other):
        raise DataError(
            f"`proxy` scores {len(one)} answers and `gold` {len(other)}, of which {len(both)} are the same: score one "
            "table of completions by both"
        )
    grouped = both.group_by("prompt_id", maintain_order=True).agg("score", "score_gold")
    sizes = sorted(grouped["score"].list.len().to_list())
    if sizes[0] < sizes[-1]:
        raise DataError(
            f"the prompts have {sizes[0]} to {sizes[-1]} answers; best of n needs equally many (K) for each"
        )
    by_proxy, by_gold = (np.array(grouped[c].to_list(), np.float64) for c in ("score", "score_gold"))
    return grouped["prompt_id"].to_list(), by_proxy, by_gold
