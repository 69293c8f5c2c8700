"""The logistic regression behind the length-controlled win rate of AlpacaEval 2, and its values by prompt."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tasks.contract import DataError

Floats = npt.NDArray[np.float64]

GAMED_WEIGHT = 0.2
"""Weight of a prompt's gamed rows, together, beside 1 for the model's own rows of the prompt."""
FOLDS = 5
"""Folds over prompts by which the strength of the L1 penalty is chosen."""
_STRENGTHS, _SEED = 10, 123
_LEAST = 1e-9
"""Labels lie so far from 0 and 1 at least: liblinear needs a row of each class in every fold."""


class LengthRows(NamedTuple):
    """Judged pairs of one answer and one of the baseline's, as the regression reads them."""

    prompts: Sequence[str]
    """`(M,)`: the prompt of each pair."""
    p: Floats
    """`(M,)`: P(the answer beats the baseline's)."""
    lengths: Floats
    """`(M,)`: length of the baseline's answer minus the answer's, in standard deviations (`in_deviations`)."""
    difficulty: Floats | None = None
    """`(M,)`: how hard the prompt is; None: not known."""


class LengthControl(NamedTuple):
    """A fitted regression, and what it says of each prompt."""

    prompts: list[str]
    """`(N,)`, in order of their first pair."""
    at_equal_length: Floats
    """`(N,)`: P that the regression predicts for each prompt where both answers are equally long."""
    values: Floats
    """`(N,)`: their mean is that of `at_equal_length`, and their spread that of the estimate (`_influence`)."""
    length: float
    """Coefficient of the length; below 0 where longer answers win."""
    penalty: float
    """The chosen C of liblinear, the inverse of the strength of its L1 penalty."""


def in_deviations(lengths: Floats) -> Floats:
    """Lengths in standard deviations (ddof 1); 0 where they do not vary, as of a model against itself."""
    spread = float(np.std(lengths, ddof=1)) if len(lengths) > 1 else 0.0
    return lengths / spread if spread > 0 else np.zeros_like(lengths)


def control_length(rows: LengthRows, gamed: Sequence[LengthRows] = ()) -> LengthControl:
    """Fit the regression without intercept, and predict with the length set to 0.

        logit P(answer beats baseline's) = θ·[tanh(length), difficulty, 1]
        max over θ: C·Σ w·[p·log P + (1 − p)·log(1 − P)] − ‖θ‖₁

    Each pair is two rows of liblinear, with labels 1 and 0 and weights w·p and w·(1 − p). A prompt's pairs share a
    weight of 1, so that prompts count alike. Rows of `gamed`, the judged pairs of a baseline with an instruction to
    be verbose or concise, have 0 instead of the 1, so that only length and difficulty can explain them, and share a
    weight of 0.2. C is the best of ten from 1e-4 to 1e4 by log loss over 5 folds of prompts.

    With one pair by prompt this is `length_controlled_v1` of AlpacaEval 2. Raises DataError for fewer than 5 prompts.

    Source: Dubois et al., arXiv 2404.04475, section 3.
    """
    prompts = list(dict.fromkeys(rows.prompts))
    if len(prompts) < FOLDS:
        raise DataError(
            f"{len(prompts)} prompts have an answer from the oracle, and the length control needs {FOLDS} at least: "
            f"its penalty is chosen over {FOLDS} folds of prompts"
        )
    place = {prompt: i for i, prompt in enumerate(prompts)}
    owner = np.array([place[prompt] for prompt in rows.prompts])
    weights = 1 / np.bincount(owner)[owner]
    tables = [_features(table, 0.0) for table in gamed] + [_features(rows, 1.0)]
    x, p = np.concatenate(tables), np.concatenate([t.p for t in (*gamed, rows)])
    w = np.concatenate([*(_gamed_weights(table, len(gamed)) for table in gamed), weights])
    before = len(p) - len(owner)
    groups = np.concatenate([np.arange(before), before + owner])
    theta, penalty = _fit(x, np.clip(p, _LEAST, 1 - _LEAST), w, groups)
    own = x[before:]
    equal = np.zeros((len(prompts), own.shape[1]))
    equal[owner] = own
    equal[:, 0] = 0.0
    predicted = _sigmoid(equal @ theta)
    if rows.p.min() == rows.p.max() and rows.p[0] in (0.0, 1.0):
        predicted = np.full(len(prompts), rows.p[0])  # no finite θ fits them: the limit
    values = predicted + _influence(x, w, theta, own, rows.p, weights, owner, equal)
    return LengthControl(prompts, predicted, values, float(theta[0]), penalty)


def length_control_of_itself(rows: LengthRows) -> LengthControl:
    """That of a model which is its own baseline: ½ for every prompt, without a regression."""
    prompts = list(dict.fromkeys(rows.prompts))
    half = np.full(len(prompts), 0.5)
    return LengthControl(prompts, half, half, 0.0, float("nan"))


def mean_over_prompts(rows: LengthRows) -> float:
    """The raw win rate: the mean over prompts of the mean of P over a prompt's pairs."""
    _, inverse = np.unique(np.asarray(rows.prompts), return_inverse=True)
    return float((np.bincount(inverse, rows.p) / np.bincount(inverse)).mean())


def _features(rows: LengthRows, constant: float) -> Floats:
    """`(M, F)`"""
    columns = [np.tanh(rows.lengths), np.full(len(rows.p), constant)]
    return np.stack(columns if rows.difficulty is None else [columns[0], rows.difficulty, columns[1]], axis=1)


def _gamed_weights(rows: LengthRows, tables: int) -> Floats:
    _, inverse, counts = np.unique(np.asarray(rows.prompts), return_inverse=True, return_counts=True)
    return GAMED_WEIGHT / tables / counts[inverse]


def _fit(x: Floats, p: Floats, w: Floats, groups: npt.NDArray[np.int64]) -> tuple[Floats, float]:
    """`(F,)` coefficients, and the chosen C."""
    from sklearn.linear_model import LogisticRegressionCV
    from sklearn.model_selection import GroupKFold

    twice, labels = np.concatenate([x, x]), np.repeat([1, 0], len(p))
    weights = np.concatenate([w * p, w * (1 - p)])
    folds = list(GroupKFold(FOLDS).split(twice, labels, np.concatenate([groups, groups])))
    model = LogisticRegressionCV(
        Cs=_STRENGTHS, l1_ratios=(1.0,), solver="liblinear", fit_intercept=False, cv=folds, scoring=_log_likelihood,
        random_state=_SEED, use_legacy_attributes=False,
    )  # fmt: skip
    model.fit(twice, labels, sample_weight=weights)
    return np.asarray(model.coef_, np.float64).ravel(), float(model.C_)


def _log_likelihood(model: Any, x: Floats, labels: Any, sample_weight: Floats) -> float:
    """Mean over pairs, whose two rows both belong to a fold."""
    likely = model.predict_proba(x)[np.arange(len(labels)), labels]
    return float(2 * (sample_weight * np.log(np.clip(likely, 1e-15, None))).mean())


def _influence(
    x: Floats, w: Floats, theta: Floats, own: Floats, p: Floats, weights: Floats, owner: Any, equal: Floats
) -> Floats:
    """`(N,)`, mean 0: N times what each prompt's rows move the mean prediction, to first order.

    With scores gᵢ = Σ w(p − P)·x over a prompt's rows, H = Σ w·P(1 − P)·x·xᵀ over all rows, and a = the gradient of
    the mean prediction in θ, it is N·aᵀH⁻¹(gᵢ − ḡ): the infinitesimal jackknife (Efron, Ann. Statist. 9, 1981). The
    penalty is left out of H, which makes intervals a little wider, and keeps them open where it sets θ to 0. Without
    length and difficulty a prompt's value is its own P.
    """
    q = _sigmoid(x @ theta)
    hessian = (x * (w * q * (1 - q))[:, None]).T @ x
    scores = np.zeros(equal.shape)
    np.add.at(scores, owner, (weights * (p - _sigmoid(own @ theta)))[:, None] * own)
    at = _sigmoid(equal @ theta)
    gradient = (at * (1 - at)) @ equal
    moved = scores @ (np.linalg.pinv(hessian, hermitian=True) @ gradient)
    return np.asarray(moved - moved.mean())


def _sigmoid(x: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-x)))
