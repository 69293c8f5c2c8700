"""On a cyclic game the last policy of COMAL settles where that of SPPO goes round, exactly and by real training."""

from pathlib import Path

import numpy as np
import pytest

from tests.cyclic_games import COMAL, GROUP, INPO, SPPO, Method, cycle, exact_rounds, gap, trained_rounds
from tests.enumerable import Matrix, closed_world_in, normalised

P = cycle(GROUP)
UNEVEN = normalised(np.log(np.array([[0.12, 0.05, 0.25, 0.12, 0.1, 0.12, 0.24]])))
ROUNDS = 18


def gaps(log_policies: list[Matrix]) -> list[float]:
    return [gap(P, np.exp(log_policy)) for log_policy in log_policies]


def test_by_exact_updates_comals_last_policy_settles_and_those_of_sppo_and_inpo_stay_exploitable() -> None:
    """COMAL's condition: step 3, anchor's weight ⅓, moved every 6 rounds. INPO settles too, held by the base."""
    comal, inpo, sppo = (gaps(exact_rounds(P, UNEVEN, method, 60)) for method in (COMAL, INPO, SPPO))
    assert max(comal[14:]) <= 0.1
    assert comal[60] < 0.01
    assert max(sppo[50:]) > 0.6
    assert np.ptp(sppo[30:]) > 0.3
    assert min(inpo[50:]) == pytest.approx(max(inpo[50:]), abs=0.01)
    assert min(inpo[50:]) > 0.1


def test_a_larger_step_or_an_anchor_that_moves_too_soon_goes_round_again() -> None:
    soon, large = COMAL._replace(anchor_rounds=3), COMAL._replace(step=8.0)
    for method in (soon, large):
        assert max(gaps(exact_rounds(P, UNEVEN, method, 60))[50:]) > 0.2


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_trained_in_rounds_comals_last_policies_settle_where_sppos_swing(tmp_path: Path) -> None:
    """Each round is a `fit` from the policy before: `nash` with the anchor's log-probabilities, `sppo` with log Z.

    Each round is within 0.0001 nats of its exact step, so that the methods differ and not how well they are trained.
    """
    world = closed_world_in(tmp_path)

    def played(method: Method) -> list[float]:
        rounds = list(trained_rounds(world, method, ROUNDS, tmp_path / method.name))
        last, missed = gaps([r.log_policy for r in rounds]), max(r.missed for r in rounds)
        mixture = gap(P, np.mean([np.exp(r.log_policy) for r in rounds], axis=0))
        print(f"{method.name}: last {[round(g, 2) for g in last]}, mixture {mixture:.3f}, "
              f"nats from the exact step {missed:.1e}")  # fmt: skip
        assert missed <= 1e-4
        return last

    comal, sppo = played(COMAL), played(SPPO)
    assert comal[0] == sppo[0] > 0.3
    assert max(comal[-5:]) <= 0.1
    assert max(sppo[-5:]) > 0.6
    assert np.ptp(sppo[-5:]) > 0.2
