"""Self-play on a cyclic game by three methods, exactly and by the real trainer, in the enumerable world of 7 answers.

Three answers go round: each beats the next with 0.9. All others lose to them with 0.8. The start is uneven.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from scipy.special import logsumexp

from tasks.contract import Chosen
from tasks.judging.games import response_gaps
from tasks.kinds import Table, WinRates
from tasks.template import template_digest
from tests.enumerable import Matrix, World, kl, normalised, row
from tests.enumerable_training import SETTINGS, distribution_of, drawn_pairs, linear, log_table
from tests.flat import fit
from tests.workspace import Workspace

GROUP = np.array([-1, 0, 1, -1, 2, -1, -1])
"""Place of each of the 7 answers in the cycle; −1: dominated."""


def cycle(group: np.ndarray) -> Matrix:
    """`(answers, answers)` P(row beats column); group −1 is dominated."""
    p = np.full((len(group), len(group)), 0.5)
    for g in range(3):
        mine, next_one = group == g, group == (g + 1) % 3
        p[np.ix_(mine, next_one)], p[np.ix_(next_one, mine)] = 0.9, 0.1
        p[np.ix_(mine, group < 0)], p[np.ix_(group < 0, mine)] = 0.8, 0.2
    return p


def gap(p: Matrix, policy: Matrix) -> float:
    """Duality gap of a policy, mean over prompts, by the function that measures it in a run."""
    rates = p @ np.atleast_2d(policy).T
    return float(response_gaps(rates, rates).mean())


class Method(NamedTuple):
    """π_{t+1} ∝ anchor^r · π_t^(1 − r) · exp(step · P(y ≻ π_t))."""

    name: str
    step: float = 3.0
    r: float = 0.0
    """Weight of the anchor, which is the base at first."""
    anchor_rounds: int | None = None
    """After how many rounds the anchor is replaced by the policy; None: never."""

    def target(self, p: Matrix, log_policy: Matrix, log_anchor: Matrix) -> Matrix:
        """The next iterate."""
        tilt = self.step * np.exp(log_policy) @ p.T
        return normalised(self.r * log_anchor + (1 - self.r) * log_policy + tilt)

    def moves_anchor(self, rounds: int) -> bool:
        """Whether the anchor becomes the policy once so many rounds are done."""
        return self.anchor_rounds is not None and rounds % self.anchor_rounds == 0


SPPO, INPO, COMAL = Method("SPPO"), Method("INPO", r=1 / 3), Method("COMAL", r=1 / 3, anchor_rounds=6)


def exact_rounds(p: Matrix, log_start: Matrix, method: Method, rounds: int) -> list[Matrix]:
    """Log-probabilities of the iterates, the start first."""
    iterates, anchor = [log_start], log_start
    for t in range(1, rounds + 1):
        iterates.append(method.target(p, iterates[-1], anchor))
        anchor = iterates[-1] if method.moves_anchor(t) else anchor
    return iterates


class Round(NamedTuple):
    log_policy: Matrix
    missed: float
    """KL(policy ‖ the exact step from the policy before), nats."""


def trained_rounds(
    world: World, method: Method, rounds: int, folder: Path, steps: int = 100, lr: float = 2e-3
) -> Iterator[Round]:
    """The same by `fit`: each round starts from the policy before, which is its reference; `logps` reads the result.

    A fresh Adam starts each round from weights that have grown: it diverges within 40 rounds at lr 3e-3 without a
    longer warm-up than `SETTINGS` has.
    """
    p, now, log_now, log_anchor = cycle(GROUP), world.ref, world.log_ref, world.log_ref
    yield Round(log_now, 0.0)
    for t in range(1, rounds + 1):
        target = method.target(p, log_now, log_anchor)
        data, loss = (_nash if method.r else _sppo)(world, method, p, log_now)
        now = fit(
            now, data, Workspace(folder / str(t)), log_table(world, log_now), [log_table(world, log_anchor)],
            loss=loss, lr=lr, steps=steps, batch=len(data), **{**SETTINGS, "warmup": 0.1},
        )  # fmt: skip
        log_now = distribution_of(now, world, folder / str(t))
        log_anchor = log_now if method.moves_anchor(t) else log_anchor
        yield Round(log_now, kl(log_now, target))


def _nash(world: World, method: Method, p: Matrix, log_now: Matrix) -> tuple[Table, Chosen]:
    """All pairs alike, and the answers compared with a third draw of π_t: a's order is drawn by
    ½ + (P(a ≻ π_t) − P(b ≻ π_t))/2, so that answers which π_t hardly ever draws reach the same optimum too.

    The margin of a pair is then (P(a ≻ π_t) − P(b ≻ π_t))/(2η) and not /η as with pairs of π_t itself, so η is half.
    """
    orders = linear(np.exp(log_now) @ p.T)
    data = drawn_pairs(world, np.ones_like(orders) - np.eye(len(p)), orders)
    return data, Chosen("losses/pairwise", "nash", {"eta": 1 / (2 * method.step), "r": method.r})


def _sppo(world: World, method: Method, p: Matrix, log_now: Matrix) -> tuple[Table, Chosen]:
    """All answers alike; one listed win rate of log Z / η makes the estimate of log Z exact."""
    rates = np.exp(log_now) @ p.T
    log_z = logsumexp(log_now + method.step * rates, axis=1)
    rows = [
        {**row(x, y, world.asked, world.answers), "win_rate": rate, "opponents": len(p),
         "prompt_win_rates": [float(log_z[x] / method.step)]}
        for (x, y), rate in np.ndenumerate(rates)
    ]  # fmt: skip
    data = WinRates.of(pa.Table.from_pylist(rows), {"template": template_digest(world.ref)})
    return data, Chosen("losses/pointwise", "sppo", {"eta": method.step, "log_z": "estimated"})
