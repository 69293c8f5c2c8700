"""On a cyclic game the last policy of COMAL settles where that of SPPO goes round."""

import numpy as np
import pytest

from tests.cyclic_games import COMAL, GROUP, INPO, SPPO, cycle, exact_rounds, gap
from tests.enumerable import Matrix, normalised

P = cycle(GROUP)
UNEVEN = normalised(np.log(np.array([[0.12, 0.05, 0.25, 0.12, 0.1, 0.12, 0.24]])))


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
