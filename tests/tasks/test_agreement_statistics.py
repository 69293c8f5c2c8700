"""Agreement of annotators: hand-worked examples of the textbooks, and the libraries against our formulas."""

import numpy as np
import pytest

from tasks.contract import DataError
from tasks.judging.agreement import (
    agreement_of,
    alpha_of_coincidences,
    cohens_kappa,
    fleiss_kappa,
    fleiss_of_counts,
    kappa_of_counts,
    krippendorffs_alpha,
    most_frequent_verdict,
)

NAN = float("nan")


def _array(*rows: tuple[float, ...]) -> np.ndarray:
    return np.array(rows, dtype=np.float64)


def test_cohens_kappa_by_hand() -> None:
    # 50 proposals: both yes 20, both no 15, only the first yes 5, only the second yes 10. p_o = .7;
    # p_e = .5·.6 + .5·.4 = .5; kappa = (.7 − .5) / .5 = .4.
    a = np.repeat([1.0, 1.0, -1.0, -1.0], [20, 5, 10, 15])
    b = np.repeat([1.0, -1.0, 1.0, -1.0], [20, 5, 10, 15])
    assert cohens_kappa(a, b) == pytest.approx(0.4)


def test_a_tie_is_a_verdict_of_its_own() -> None:
    # Verdicts 1 1 | 0 0 | 0 1 | −1 −1: p_o = 3/4; shares of a: ¼ ½ ¼, of b: ½ ¼ ¼: p_e = 1/8 + 1/8 + 1/16 = 5/16.
    a, b = np.array([1.0, 0, 0, -1]), np.array([1.0, 0, 1, -1])
    assert cohens_kappa(a, b) == pytest.approx((3 / 4 - 5 / 16) / (11 / 16))


def test_a_missing_verdict_leaves_its_pair_out() -> None:
    a, b = np.array([1.0, 0, 0, -1, NAN, 1]), np.array([1.0, 0, 1, -1, 1, NAN])
    assert cohens_kappa(a, b) == pytest.approx((3 / 4 - 5 / 16) / (11 / 16))


def test_kappa_is_undefined_where_both_always_say_the_same_one_thing() -> None:
    assert cohens_kappa(np.ones(3), np.ones(3)) is None
    assert cohens_kappa(np.ones(3), -np.ones(3)) == 0
    assert cohens_kappa(np.array([NAN]), np.ones(1)) is None


def test_fleiss_kappa_by_hand() -> None:
    # Three annotators, three pairs: 1 1 1 | 1 1 −1 | 0 0 −1. P_i = 1, 1/3, 1/3: P̄ = 5/9.
    # Shares: 5/9, 2/9, 2/9: P̄_e = 33/81. kappa = (45 − 33) / (81 − 33) = 1/4.
    verdicts = _array((1, 1, 1), (1, 1, -1), (0, 0, -1))
    assert fleiss_kappa(verdicts) == pytest.approx(1 / 4)
    assert fleiss_kappa(np.vstack([verdicts, [1, 1, NAN]])) == pytest.approx(1 / 4)


def test_krippendorffs_alpha_by_hand() -> None:
    # Units with two verdicts or more: (1 1), (1 −1), (−1 −1 −1). Coincidences: 1·1: 2; 1·−1: 1 each way;
    # −1·−1: 6/2 = 3. n = 7; n_1 = 3, n_−1 = 4. Observed 2·(7 − 1) = 12, expected 49 − 9 − 16 = 24: alpha = ½.
    verdicts = _array((1, 1, NAN), (1, -1, NAN), (-1, -1, -1), (1, NAN, NAN))
    assert krippendorffs_alpha(verdicts) == pytest.approx(1 / 2)


def test_the_majority_is_the_one_most_frequent_verdict() -> None:
    verdicts = _array((1, 1, -1), (0, 0, 1), (1, 0, -1), (1, -1, NAN), (NAN, NAN, NAN), (-1, NAN, NAN))
    np.testing.assert_array_equal(most_frequent_verdict(verdicts), [1, 0, NAN, NAN, NAN, -1])


@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_the_formulas_for_resamples_are_those_of_the_libraries(missing: float) -> None:
    noise = np.random.default_rng(7)
    true = noise.choice([-1.0, 0.0, 1.0], (200, 1), p=[0.3, 0.2, 0.5])
    verdicts = np.where(noise.random((200, 4)) < 0.6, true, noise.choice([-1.0, 0.0, 1.0], (200, 4)))
    verdicts[noise.random(verdicts.shape) < missing] = NAN
    values = (-1, 0, 1)
    a, b = verdicts[:, 0], verdicts[:, 1]
    table = np.array([[((a == v) & (b == w)).sum() for w in values] for v in values], float)
    assert kappa_of_counts(table) == pytest.approx(cohens_kappa(a, b))
    whole = verdicts[~np.isnan(verdicts).any(axis=1)]
    counts = np.stack([(whole == v).sum(axis=1) for v in values], axis=1).astype(float)
    assert fleiss_of_counts(counts.sum(axis=0), (counts * (counts - 1)).sum(), 4) == pytest.approx(
        fleiss_kappa(verdicts)
    )
    coincidences = np.zeros((3, 3))
    for row in verdicts:
        known = [values.index(int(v)) for v in row if not np.isnan(v)]
        for i, v in enumerate(known):
            for j, w in enumerate(known):
                coincidences[v, w] += (i != j) / max(1, len(known) - 1)
    assert alpha_of_coincidences(coincidences.reshape(-1)) == pytest.approx(krippendorffs_alpha(verdicts))


def _simulated(prompts: int, noise: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Four pairs of each prompt; two annotators who agree more often on some prompts than on others."""
    easy = noise.random(prompts) < 0.5
    same = noise.random((prompts, 4)) < np.where(easy, 0.95, 0.55)[:, None]
    first = noise.choice([-1.0, 1.0], (prompts, 4))
    verdicts = np.stack([first, np.where(same, first, -first)], axis=-1).reshape(-1, 2)
    return verdicts, np.repeat(np.arange(prompts), 4)


def test_intervals_hold_the_truth_about_as_often_as_stated() -> None:
    # Agreement .75 with both verdicts equally frequent: kappa = 2·.75 − 1 = .5.
    noise = np.random.default_rng(0)
    hits = {"accuracy": 0, "kappa": 0, "fleiss": 0, "alpha": 0}
    for _ in range(60):
        made = agreement_of(*_simulated(60, noise))
        for name, found, true in (("accuracy", made.accuracy[0, 1], 0.75), ("kappa", made.kappa[0, 1], 0.5),
                                  ("fleiss", made.fleiss, 0.5), ("alpha", made.alpha, 0.5)):  # fmt: skip
            hits[name] += found.low <= true <= found.high
    assert all(52 <= n < 60 for n in hits.values()), hits


def test_three_annotators_have_three_couples_and_missing_verdicts_count_nowhere() -> None:
    verdicts = _array((1, 1, NAN), (-1, -1, NAN), (0, 1, 0), (1, 1, 1), (-1, 1, -1))
    made = agreement_of(verdicts, np.array([5, 5, 9, 9, 7]))
    assert {c: i.value for c, i in made.accuracy.items()} == pytest.approx({(0, 1): 3 / 5, (0, 2): 1, (1, 2): 1 / 3})
    assert {c: i.n for c, i in made.accuracy.items()} == {(0, 1): 3, (0, 2): 2, (1, 2): 2}
    assert made.kappa[0, 2].value == pytest.approx(1)
    assert made.fleiss.n == 2
    assert made.alpha.n == 3


def test_annotators_without_a_common_pair_have_no_agreement() -> None:
    made = agreement_of(_array((1, NAN), (NAN, 1)), np.array([0, 1]))
    assert made.accuracy[0, 1] == made.kappa[0, 1] == made.fleiss == made.alpha == (None, None, None, None, 0)


def test_the_same_verdicts_give_the_same_numbers() -> None:
    verdicts, prompts = _simulated(30, np.random.default_rng(3))
    order = np.random.default_rng(4).permutation(len(prompts))
    first, again = agreement_of(verdicts, prompts), agreement_of(verdicts[order], prompts[order])
    assert first == again


def test_other_values_are_refused() -> None:
    with pytest.raises(DataError, match="2 verdicts are not 1, 0, −1 or NaN, the first is 2"):
        agreement_of(_array((2, 1), (0.5, 1)), np.array([0, 1]))
