"""Self-play on a game without a best answer: what SPPO's mixture and its last policy come to, exactly and by training.

Three groups of answers go round (each beats the next with 0.9); all others lose to them with 0.8. In the enumerable
world the groups are the ended answers by their first letter; what is cut or empty is dominated.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pytest
from scipy.special import logsumexp

from tasks.contract import Chosen
from tasks.kinds import Policy, WinRates
from tasks.template import template_digest
from tests.cyclic_games import cycle, gap
from tests.enumerable import (
    ANSWERS,
    EOS,
    LETTERS,
    PROMPTS,
    Matrix,
    N,
    World,
    distribution,
    kl,
    normalised,
    row,
    world_in,
)
from tests.flat import fit, logps
from tests.workspace import Workspace


def weights(p: Matrix, log_policy: Matrix, eta: float) -> Matrix:
    """The next iterate of exponential weights, π·exp(η·P(y ≻ π))/Z."""
    return normalised(log_policy + eta * np.exp(log_policy) @ p.T)


def test_the_gap_is_nothing_at_the_von_neumann_winner_and_not_elsewhere() -> None:
    p = cycle(np.array([0, 1, 2, -1, -1]))
    assert gap(p, np.array([1, 1, 1, 0, 0]) / 3) == pytest.approx(0)
    assert gap(p, np.array([1, 0, 0, 0, 0])) == pytest.approx(2 * 0.9 - 1)
    assert gap(p, np.array([0, 0, 0, 1, 0])) == pytest.approx(2 * 0.8 - 1)
    # Half of one, half of the next: .5·.5 + .9·.5 = .7 for the one.
    assert gap(p, np.array([1, 1, 0, 0, 0]) / 2) == pytest.approx(0.4)


@pytest.mark.parametrize("eta", [1.0, 10.0])
def test_the_mixture_of_exponential_weights_comes_to_the_winner_and_the_last_does_not(eta: float) -> None:
    p = cycle(np.array([0, 1, 2, -1, -1, -1, -1, -1]))
    last = np.log(np.array([[0.05, 0.25, 0.1, *[0.12] * 5]]))
    policies = []
    for _ in range(400):
        policies.append(np.exp(last))
        last = weights(p, last, eta)
    mixed = {t: gap(p, np.mean(policies[:t], axis=0)) for t in (3, 10, 30, 100, 400)}
    found = list(mixed.values())
    assert found == sorted(found, reverse=True)
    assert mixed[400] < 0.04 < 0.25 < mixed[3]
    assert max(gap(p, x) for x in policies[300:]) > 0.5


class Round(NamedTuple):
    policy: Policy
    log: Matrix


GROUP = np.array([LETTERS.index(a[0]) if a[-1] == EOS and len(a) > 1 else -1 for a in ANSWERS])
ETA = 10.0


def one_round(before: Round, rates: Matrix, log_z: Matrix, folder: Path) -> Round:
    """SPPO against the policy of the round before, on all answers alike, with the exact log Z."""
    rows = [
        {**row(x, y), "win_rate": rates[x, y], "opponents": N, "prompt_win_rates": [float(log_z[x, 0] / ETA)]}
        for x in range(PROMPTS) for y in range(N)
    ]  # fmt: skip
    data = WinRates.of(pa.Table.from_pylist(rows), {"template": template_digest(before.policy)})
    ref_logps = logps(before.policy, data, Workspace(folder))
    trained = fit(
        before.policy, data, Workspace(folder), ref_logps,
        loss=Chosen("losses/pointwise", "sppo", {"eta": ETA, "log_z": "estimated"}), lr=3e-3, steps=300,
        batch=PROMPTS * N, schedule="cosine", warmup=0.02, max_grad_norm=1e3, checkpoint_every=10**6,
    )  # fmt: skip
    return Round(trained, distribution(trained, folder))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return world_in(tmp_path_factory.mktemp("world"))


@pytest.mark.slow
def test_trained_in_rounds_the_mixture_comes_to_the_winner_and_the_last_policy_goes_round(
    world: World, tmp_path: Path
) -> None:
    """SPPO's theorem 4.1 (arXiv 2405.00675) by real training: each round is the exponential-weights step from the
    policy before it, within 0.01 nats; the mixture's gap falls as that of exact exponential weights; the last's rises.
    """
    p = cycle(GROUP)
    now, exact = Round(world.ref, world.log_ref), world.log_ref
    policies, targets = [np.exp(now.log)], [np.exp(exact)]
    started, missed = [], []
    for t in range(1, 10):
        rates = np.exp(now.log) @ p.T
        log_z = logsumexp(now.log + ETA * rates, axis=1, keepdims=True)
        target = now.log + ETA * rates - log_z
        started.append(kl(now.log, target))
        now = one_round(now, rates, log_z, tmp_path / str(t))
        missed.append(kl(now.log, target))
        exact = weights(p, exact, ETA)
        policies.append(np.exp(now.log))
        targets.append(np.exp(exact))
    mixed = {t: gap(p, np.mean(policies[:t], axis=0)) for t in (1, 3, 10)}
    wanted = {t: gap(p, np.mean(targets[:t], axis=0)) for t in (1, 3, 10)}
    last = [gap(p, x) for x in policies]
    print(f"nats to each round's step: {[f'{m:.1e}' for m in missed]}, from {[round(s, 2) for s in started]}")
    print(f"gap of the mixture: {mixed}, of exact weights' {wanted}; of each policy: {[round(g, 2) for g in last]}")
    assert max(missed) < 0.01 < 0.5 < max(started)
    assert mixed == pytest.approx(wanted, abs=0.02)
    assert mixed[10] < 0.2 < mixed[3] < 0.35 < mixed[1]
    assert max(last[5:]) > 0.6 > last[0]
