"""Every loss as its paper prints it, in arithmetic of 50 digits, and the parameters with which it is tried.

A formula takes one row by the names of the loss's arguments; where a row holds several answers, lists of those that
there are. A formula of a batch takes lists of rows and gives the losses of all. Nothing here is guarded against large
numbers: mpmath has no overflow, and its derivatives are those of the formula.
"""

from collections.abc import Callable
from itertools import combinations
from typing import Any, NamedTuple

from mpmath import exp, log, mp, mpf

Row = Any
Formula = Callable[..., Any]


class Paper(NamedTuple):
    """A formula, and the settings of its parameters that are tried."""

    formula: Formula
    settings: tuple[dict[str, Any], ...] = ({},)
    batch: bool = False
    """Whether the formula is of a whole batch."""
    weight: Formula = lambda **_row: 1
    """Of a row: a factor of the formula that has no gradient."""


def _sigma(z: Row) -> Row:
    return 1 / (1 + exp(-z))


def _ls(z: Row) -> Row:
    return log(_sigma(z))


def _a(row: Row) -> Row:
    return row["policy_chosen_logps"] - row["ref_chosen_logps"]


def _b(row: Row) -> Row:
    return row["policy_rejected_logps"] - row["ref_rejected_logps"]


def _d(row: Row) -> Row:
    return _a(row) - _b(row)


def _normed(row: Row, norm: str) -> Row:
    return _d(row) if norm == "sum" else _a(row) / row["chosen_lengths"] - _b(row) / row["rejected_lengths"]


def _dpo(beta: float, labels: str = "hard", label_smoothing: float = 0.0, norm: str = "sum", **row: Row) -> Row:
    p = 1 if labels == "hard" else row["p"]
    q = (1 - 2 * label_smoothing) * p + label_smoothing
    z = beta * _normed(row, norm)
    return -q * _ls(z) - (1 - q) * _ls(-z)


def _robust(beta: float, label_smoothing: float, **row: Row) -> Row:
    z, e = beta * _d(row), label_smoothing
    return (-(1 - e) * _ls(z) + e * _ls(-z)) / (1 - 2 * e)


def _exo(beta: float, label_smoothing: float, **row: Row) -> Row:
    z, e = beta * _d(row), label_smoothing
    return _sigma(z) * (_ls(z) - log(1 - mpf(e))) + _sigma(-z) * (_ls(-z) - log(mpf(e)))


def _sppo_single(eta: float, p: Row, **row: Row) -> Row:
    return ((_a(row) - eta * (p - 0.5)) ** 2 + (_b(row) + eta * (p - 0.5)) ** 2) / 2


def _gpo(curve: str, beta: float, **row: Row) -> Row:
    curves: dict[str, Formula] = {
        "logistic": lambda z: log(1 + exp(-z)), "hinge": lambda z: max(0, 1 - z), "squared": lambda z: (z - 1) ** 2,
        "exponential": lambda z: exp(-z), "truncated_squared": lambda z: max(0, 1 - z) ** 2,
        "savage": lambda z: 1 / (1 + exp(z)) ** 2,
    }  # fmt: skip
    return curves[curve](beta * _d(row))


def _orpo(
    lam: float, policy_chosen_logps: Row, policy_rejected_logps: Row, chosen_lengths: Row, rejected_lengths: Row
) -> Row:
    won, lost = exp(policy_chosen_logps / chosen_lengths), exp(policy_rejected_logps / rejected_lengths)
    return -log(won) - lam * _ls(log(won / (1 - won)) - log(lost / (1 - lost)))


def _simpo(beta: float, gamma: float, **row: Row) -> Row:
    won, lost = (row[f"policy_{side}_logps"] / row[f"{side}_lengths"] for side in ("chosen", "rejected"))
    return -_ls(beta * won - beta * lost - gamma)


def _cpo(beta: float, alpha: float, **row: Row) -> Row:
    preference = -_ls(beta * (row["policy_chosen_logps"] - row["policy_rejected_logps"]))
    return preference - alpha * row["policy_chosen_logps"] / row["chosen_lengths"]


def _discopop(beta: float, tau: float, **row: Row) -> Row:
    z = beta * _d(row)
    m = _sigma(z / tau)
    return (1 - m) * log(1 + exp(-z)) + m * exp(-z)


def _ld_dpo(beta: float, alpha: float, **row: Row) -> Row:
    def part(model: str, side: str) -> Row:
        common = row[f"{model}_{side}_common_logps"]
        return common + alpha * (row[f"{model}_{side}_logps"] - common)

    a, b = (part("policy", side) - part("ref", side) for side in ("chosen", "rejected"))
    return -_ls(beta * (a - b))


def _wpo(beta: float, max_weight: float | None = None, **row: Row) -> Row:
    weight = exp(row["policy_chosen_log_weights"]) * exp(row["policy_rejected_log_weights"])
    return -(weight if max_weight is None else min(weight, max_weight)) * _ls(beta * _d(row))


def _nash(eta: float, r: float, **row: Row) -> Row:
    def apart(model: str) -> Row:
        return row[f"{model}_chosen_logps"] - row[f"{model}_rejected_logps"]

    h = apart("policy") - r * apart("anchor") - (1 - mpf(r)) * apart("ref")
    return (h - 1 / (2 * mpf(eta))) ** 2


def _slic(delta: float, lam: float, **row: Row) -> Row:
    return max(0, delta - row["policy_chosen_logps"] + row["policy_rejected_logps"]) - lam * row["target_logps"]


def _aot(beta: float, label_smoothing: float, **batch: Row) -> list[Row]:
    policy = [
        won - lost for won, lost in zip(batch["policy_chosen_logps"], batch["policy_rejected_logps"], strict=True)
    ]
    ref = sorted(won - lost for won, lost in zip(batch["ref_chosen_logps"], batch["ref_rejected_logps"], strict=True))
    places = {i: place for place, i in enumerate(sorted(range(len(policy)), key=lambda i: policy[i]))}
    apart = [beta * (policy[i] - ref[places[i]]) for i in range(len(policy))]
    return [-(1 - label_smoothing) * _ls(z) - label_smoothing * _ls(-z) for z in apart]


def _sppo(policy_logps: Row, ref_logps: Row, win_rate: Row, prompt_win_rates: Row, eta: float, log_z: str) -> Row:
    mean = sum(exp(eta * p) for p in prompt_win_rates) / len(prompt_win_rates)
    subtracted = mpf(eta) / 2 if log_z == "half" else log(mean)
    return (policy_logps - ref_logps - (eta * win_rate - subtracted)) ** 2


def _kto(
    policy_logps: Row, ref_logps: Row, label: bool, kl_reference: Row, desirable_share: Row, beta: float,
    lambda_d: float, lambda_u: float, balance: bool = False,
) -> Row:  # fmt: skip
    z, ratio = max(0, kl_reference), policy_logps - ref_logps
    if balance:
        lambda_d *= max(1, (1 - desirable_share) / desirable_share)
        lambda_u *= max(1, desirable_share / (1 - desirable_share))
    return lambda_d * (1 - _sigma(beta * (ratio - z))) if label else lambda_u * (1 - _sigma(beta * (z - ratio)))


def _apo_zero_unpaired(policy_logps: Row, ref_logps: Row, label: bool, beta: float) -> Row:
    sigma = _sigma(beta * (policy_logps - ref_logps))
    return 1 - sigma if label else sigma


def _rrhf(
    policy_logps: Row, lengths: Row, target_scores: Row, rank_weight: float = 1.0, length_norm: str = "own",
    average: str = "answer",
) -> Row:  # fmt: skip
    p = [s / (n if length_norm == "own" else max(lengths)) for s, n in zip(policy_logps, lengths, strict=True)]
    ranks = range(len(p))
    rank = sum(max(0, p[i] - p[j]) for i in ranks for j in ranks if target_scores[i] < target_scores[j])
    best = max(ranks, key=lambda i: target_scores[i])
    return rank_weight * rank - policy_logps[best] / (lengths[best] if average == "token" else 1)


def _plackett_luce(scores: Row, target_scores: Row) -> Row:
    order = sorted(range(len(scores)), key=lambda i: -target_scores[i])
    r = [scores[i] for i in order]
    return -sum(r[k] - log(sum(exp(x) for x in r[k:])) for k in range(len(r) - 1))


def _pl_dpo(policy_logps: Row, ref_logps: Row, target_scores: Row, beta: float) -> Row:
    return _plackett_luce([beta * (s - t) for s, t in zip(policy_logps, ref_logps, strict=True)], target_scores)


def _all_pairs(scores: Row, target_scores: Row) -> Row:
    ordered = sorted(range(len(scores)), key=lambda i: -target_scores[i])
    pairs = list(combinations(ordered, 2))
    return sum((-_ls(scores[i] - scores[j]) for i, j in pairs), mpf(0)) / max(1, len(pairs))


def _bradley_terry(
    chosen_scores: Row, rejected_scores: Row, margin: Row, margin_scale: float = 0.0, centring: float = 0.0
) -> Row:
    gap = chosen_scores - rejected_scores - margin_scale * margin
    return -_ls(gap) + centring * (chosen_scores + rejected_scores) ** 2


def _clipped(logps: Row, old_logps: Row, advantages: Row, clip_eps: float, clip_high: float | None = None) -> Row:
    ratio = exp(logps - old_logps)
    bound = 1 + (clip_eps if clip_high is None else clip_high)
    return -min(ratio * advantages, max(1 - clip_eps, min(ratio, bound)) * advantages)


def _kl_penalty(logps: Row, old_logps: Row, advantages: Row, beta: float) -> Row:
    ratio = exp(logps - old_logps)
    return -ratio * advantages + beta * (ratio - 1 - log(ratio))


_BETAS: tuple[dict[str, Any], ...] = ({"beta": 0.1}, {"beta": 0.7})
PAPERS: dict[str, Paper] = {
    "pairwise/dpo": Paper(_dpo, (
        *_BETAS, {"beta": 0.3, "labels": "soft"}, {"beta": 0.3, "label_smoothing": 0.2},
        {"beta": 0.5, "labels": "soft", "label_smoothing": 0.1}, {"beta": 5.0, "norm": "length", "labels": "soft"},
    )),
    "pairwise/robust_dpo": Paper(_robust, ({"beta": 0.3, "label_smoothing": 0.1}, {"beta": 0.1, "label_smoothing": 0})),
    "pairwise/dpo_reference_free": Paper(
        lambda policy_chosen_logps, policy_rejected_logps, beta:
        -_ls(beta * (policy_chosen_logps - policy_rejected_logps)), _BETAS,
    ),
    "pairwise/dpo_two_betas": Paper(
        lambda beta_plus, beta_minus, **row: -_ls(beta_plus * _a(row) - beta_minus * _b(row)),
        ({"beta_plus": 0.3, "beta_minus": 0.1}, {"beta_plus": 0.05, "beta_minus": 0.2}),
    ),
    "pairwise/dpo_positive": Paper(
        lambda beta, lam, **row: -_ls(beta * (_d(row) - lam * max(0, -_a(row)))),
        ({"beta": 0.3, "lam": 50.0}, {"beta": 0.1, "lam": 2.0}),
    ),
    "pairwise/rpo": Paper(
        lambda beta, alpha, **row: -_ls(beta * _d(row)) - alpha * row["policy_chosen_logps"] / row["chosen_lengths"],
        ({"beta": 0.1, "alpha": 1.0}, {"beta": 0.5, "alpha": 0.005}),
    ),
    "pairwise/ipo": Paper(
        lambda tau, norm, **row: (_normed(row, norm) - 1 / (2 * mpf(tau))) ** 2,
        ({"tau": 0.1, "norm": "sum"}, {"tau": 0.5, "norm": "length"}),
    ),
    "pairwise/hinge": Paper(lambda beta, **row: max(0, 1 - beta * _d(row)), _BETAS),
    "pairwise/slic": Paper(_slic, ({"delta": 1.0, "lam": 0.5}, {"delta": 5.0, "lam": 0.1})),
    "pairwise/sppo_single": Paper(_sppo_single, ({"eta": 10.0}, {"eta": 1000.0})),
    "pairwise/apo_zero": Paper(lambda beta, **row: 1 - _sigma(beta * _a(row)) + _sigma(beta * _b(row)), _BETAS),
    "pairwise/apo_down": Paper(lambda beta, **row: _sigma(beta * _a(row)) + 1 - _sigma(beta * _d(row)), _BETAS),
    "pairwise/exo": Paper(_exo, ({"beta": 0.1, "label_smoothing": 1e-3}, {"beta": 0.5, "label_smoothing": 0.2})),
    "pairwise/nca": Paper(
        lambda beta, **row: -_ls(beta * _a(row)) - _ls(-beta * _a(row)) / 2 - _ls(-beta * _b(row)) / 2, _BETAS,
    ),
    "pairwise/bco": Paper(lambda beta, **row: -_ls(beta * _a(row)) - _ls(-beta * _b(row)), _BETAS),
    "pairwise/gpo": Paper(_gpo, tuple(
        {"curve": curve, "beta": beta}
        for curve in ("logistic", "hinge", "squared", "exponential", "truncated_squared", "savage")
        for beta in (0.1, 0.4)
    )),
    "pairwise/orpo": Paper(_orpo, ({"lam": 0.1}, {"lam": 2.0})),
    "pairwise/simpo": Paper(_simpo, ({"beta": 2.0, "gamma": 1.0}, {"beta": 2.5, "gamma": 1.375})),
    "pairwise/cpo": Paper(_cpo, ({"beta": 0.1, "alpha": 1.0}, {"beta": 0.4, "alpha": 0.0})),
    "pairwise/length_dpo": Paper(
        lambda beta, alpha, **row: -_ls(beta * _d(row) - alpha * (row["chosen_lengths"] - row["rejected_lengths"])),
        ({"beta": 0.1, "alpha": 0.05}, {"beta": 0.3, "alpha": -0.5}),
    ),
    "pairwise/ld_dpo": Paper(_ld_dpo, ({"beta": 0.1, "alpha": 0.5}, {"beta": 0.4, "alpha": 0.0})),
    "pairwise/wpo": Paper(_wpo, (*_BETAS, {"beta": 0.1, "max_weight": 0.5})),
    "pairwise/xpo": Paper(
        lambda beta, alpha, **row: -_ls(beta * _d(row)) + alpha * row["target_logps"],
        ({"beta": 0.1, "alpha": 1e-5}, {"beta": 0.4, "alpha": 0.5}),
    ),
    "pairwise/soft_sft": Paper(
        lambda p, **row: -p * row["policy_chosen_logps"] - (1 - p) * row["policy_rejected_logps"]
    ),
    "pairwise/rebel": Paper(
        lambda eta, reward_margin, **row: (_d(row) - eta * reward_margin) ** 2, ({"eta": 1.0}, {"eta": 30.0})
    ),
    "pairwise/nash": Paper(_nash, ({"eta": 0.1, "r": 1 / 3}, {"eta": 0.0075, "r": 2 / 3}, {"eta": 1.0, "r": 1.0})),
    "pairwise/discopop": Paper(_discopop, ({"beta": 0.1, "tau": 0.05}, {"beta": 0.3, "tau": 1.0})),
    "pairwise/aot": Paper(
        _aot, ({"beta": 0.1, "label_smoothing": 0.1}, {"beta": 0.5, "label_smoothing": 0.0}), batch=True,
    ),
    "pointwise/sppo": Paper(_sppo, ({"eta": 10.0, "log_z": "half"}, {"eta": 5.0, "log_z": "estimated"})),
    "pointwise/kto": Paper(_kto, (
        {"beta": 0.1, "lambda_d": 1.0, "lambda_u": 1.0}, {"beta": 0.3, "lambda_d": 1.5, "lambda_u": 0.5},
        {"beta": 0.1, "lambda_d": 1.0, "lambda_u": 1.0, "balance": True},
    )),
    "pointwise/apo_zero_unpaired": Paper(_apo_zero_unpaired, _BETAS),
    "pointwise/sft": Paper(
        lambda policy_logps, lengths, average: -policy_logps / (lengths if average == "token" else 1),
        ({"average": "token"}, {"average": "answer"}),
    ),
    "listwise/rrhf": Paper(_rrhf, (
        {}, {"rank_weight": 0.5, "average": "token"}, {"rank_weight": 100.0, "length_norm": "longest"},
    )),
    "listwise/pl_dpo": Paper(_pl_dpo, _BETAS),
    "reward/bradley_terry": Paper(_bradley_terry, ({}, {"margin_scale": 0.5, "centring": 0.01})),
    "reward/regression": Paper(lambda scores, target_scores: (scores - target_scores) ** 2),
    "reward/cross_entropy": Paper(lambda scores, win_prob: -win_prob * _ls(scores) - (1 - win_prob) * _ls(-scores)),
    "reward/plackett_luce": Paper(_plackett_luce),
    "reward/all_pairs": Paper(_all_pairs),
    "rl/clipped": Paper(_clipped, ({"clip_eps": 0.2}, {"clip_eps": 0.05}, {"clip_eps": 0.2, "clip_high": 0.28})),
    "rl/cispo": Paper(
        lambda logps, old_logps, advantages, max_ratio: -logps * advantages, ({"max_ratio": 5.0}, {"max_ratio": 1.1}),
        weight=lambda logps, old_logps, advantages, max_ratio: min(exp(logps - old_logps), max_ratio),
    ),
    "rl/kl_penalty": Paper(_kl_penalty, ({"beta": 1.0}, {"beta": 0.0})),
}  # fmt: skip
"""Loss → its formula. Parameters that a setting leaves out have the loss's defaults, which the formula repeats."""

mp.dps = 50
