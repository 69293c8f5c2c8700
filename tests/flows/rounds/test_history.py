"""What events come to, by hand."""

from dataclasses import replace
from typing import Any

import pytest

from flows.rounds.gate import Evidence, level_of
from flows.rounds.history import (
    AfterDone,
    Begun,
    Event,
    Finished,
    History,
    Measured,
    Resumed,
    RolledBack,
    Stalled,
    alpha_use,
    changed_parameters,
    history_of,
)
from flows.wiring.graph import CarriedValue
from tasks.contract import DataError

NOW = "2026-01-02T02:00:00+00:00"


def begun(number: int, run: str = "", **parameters: Any) -> Begun:
    return Begun(number, run or f"run-{number}", parameters, parameters, "pipelines.yaml", "c0ffee", when=NOW)


def policy(digest: str) -> CarriedValue:
    return CarriedValue("Policy", digest)


def finished(number: int, accepted: bool = True, pool: CarriedValue | None = None) -> Finished:
    left = policy(f"p{number}")
    gate = Measured(0.6, 0.55 if accepted else 0.45, 0.65, 64)
    return Finished(number, accepted, gate, None, {}, {"policy": left, "pool": pool}, {"policy": left}, when=NOW)


def rounds(*accepted: bool, first: int = 1, **parameters: Any) -> list[Event]:
    """Whole rounds with these verdicts."""
    return [e for n, a in enumerate(accepted, first) for e in (begun(n, **parameters), finished(n, a))]


def test_nothing_is_the_start() -> None:
    h = history_of([])
    assert (h.last, h.open, h.head.round, dict(h.head.values), h.is_stalled({})) == (0, None, 0, {}, False)


def test_an_accepted_round_moves_the_head_and_lengthens_the_lists() -> None:
    h = history_of(rounds(True, True))
    assert (h.last, h.head.round, h.head.values["policy"]) == (2, 2, policy("p2"))
    assert h.head.every == {"policy": (policy("p1"), policy("p2"))}
    assert "pool" in h.head.values
    assert h.head.values["pool"] is None


def test_a_rejected_round_uses_its_number_and_leaves_the_head() -> None:
    h = history_of(rounds(True, False))
    assert (h.last, h.head) == (2, history_of(rounds(True)).head)
    after = history_of([*rounds(True, False), *rounds(True, first=3)])
    assert after.head.every == {"policy": (policy("p1"), policy("p3"))}


def test_a_round_without_a_verdict_is_unfinished_and_its_attempts_are_kept() -> None:
    h = history_of([*rounds(True), begun(2), Resumed(2, "again")])
    assert h.open is h.rounds[-1]
    assert (h.open.verdict, h.open.runs) == ("unfinished", ("run-2", "again"))
    assert h.head.round == 1
    assert history_of([*rounds(True), begun(2), Resumed(2, "again"), finished(2)]).head.round == 2


def test_rolling_back_restores_that_head_gives_up_what_is_open_and_numbers_go_on() -> None:
    events = [*rounds(True, False, True), begun(4), RolledBack(1)]
    h = history_of(events)
    assert [r.verdict for r in h.rounds] == ["accepted", "rejected", "accepted", "given up"]
    assert (h.open, h.last, h.head) == (None, 4, history_of(rounds(True)).head)
    on = history_of([*events, *rounds(True, first=5)])
    assert on.head.every == {"policy": (policy("p1"), policy("p5"))}
    assert sorted(on.heads) == [0, 1, 3, 5]
    assert history_of([*events, RolledBack(3)]).head.round == 3, "and forward again"
    assert history_of([*events, RolledBack(0)]).head.values == {}


def test_three_rejections_with_the_same_parameters_since_the_head_moved_are_a_stall() -> None:
    no = False
    assert not history_of(rounds(True, no, no, gain=1)).is_stalled({"gain": 1})
    assert history_of(rounds(True, no, no, no, gain=1)).is_stalled({"gain": 1})
    assert not history_of(rounds(True, no, no, no, gain=1)).is_stalled({"gain": 2})
    assert not history_of(rounds(no, no, True, no, gain=1)).is_stalled({"gain": 1})
    turns = history_of([e for n in range(1, 6) for e in rounds(no, first=n, gain=n % 2)])
    assert (turns.rejections({"gain": 1}), turns.rejections({"gain": 0})) == (3, 2)
    assert turns.is_stalled({"gain": 1})
    assert not turns.is_stalled({"gain": 0})
    mixed = [*rounds(no, no, gain=1), *rounds(no, first=3, gain=2), *rounds(no, first=4, gain=1)]
    assert history_of(mixed).is_stalled({"gain": 1})
    assert not history_of(mixed).is_stalled({"gain": 2})
    assert not history_of([*rounds(no, no, no, gain=1), RolledBack(0)]).is_stalled({"gain": 1})


def test_a_loop_is_stalled_by_the_parameters_of_its_last_round() -> None:
    no = [*rounds(True, False, False, gain=1)]
    assert not history_of(no).stalled
    third = [*no, *rounds(False, first=4, gain=1)]
    assert history_of(third).stalled
    assert history_of([*third, Stalled(), *rounds(False, first=5, gain=1)]).stalled, "forced"
    assert not history_of([*third, *rounds(False, first=5, gain=2)]).stalled
    assert not history_of([*third, RolledBack(0)]).stalled
    assert not history_of([*third, *rounds(True, first=5, gain=1)]).stalled


def test_a_list_ends_with_the_first_accepted_round_that_adds_nothing_to_it() -> None:
    later = replace(finished(2), every={"pool": policy("b2")})
    h = history_of([*rounds(True), begun(2), later])
    assert h.head.every == {"pool": (policy("b2"),)}
    assert history_of([*rounds(True), begun(2), later, *rounds(True, first=3)]).head.every == {
        "policy": (policy("p3"),)
    }


def test_what_ran_behind_the_loop_is_known_by_the_heads_round() -> None:
    h = history_of([*rounds(True, True), AfterDone(2, "after")])
    assert h.after == h.head.round == 2
    assert history_of([*rounds(True), Stalled()]).stall_recorded
    assert not history_of([*rounds(True), Stalled(), begun(2)]).stall_recorded


@pytest.mark.parametrize(
    "events",
    [
        [begun(2)], [begun(1), begun(2)], [begun(1), begun(1)], [finished(1)], [*rounds(True), finished(1)],
        [begun(1), finished(2)], [*rounds(True), Resumed(1, "x")], [*rounds(False), RolledBack(1)],
    ],
)  # fmt: skip
def test_events_that_no_tick_writes_are_refused(events: list[Event]) -> None:
    with pytest.raises(DataError, match="cannot stand"):
        history_of(events)


def test_changed_parameters_are_those_that_differ_from_the_round_before() -> None:
    h: History = history_of([*rounds(True, gain=1, k=5), *rounds(True, first=2, gain=2, k=5)])
    assert list(changed_parameters(None, h.rounds[0])) == ["gain", "k"]
    assert list(changed_parameters(*h.rounds)) == ["gain"]


def gated(number: int, accepted: bool, alpha: float = 0.05) -> list[Event]:
    """A round whose gate was tested."""
    level = level_of(alpha, number)
    evidence = Evidence(level / 2 if accepted else 0.5, level, alpha, 64, 0.2, 0.61)
    return [begun(number), replace(finished(number, accepted), evidence=evidence)]


def test_what_tests_used_of_alpha_and_what_all_ticks_to_come_can_use_add_up_to_alpha() -> None:
    """Levels .05/2 + .05/6 = .0333; all from the third on: .05/3 (Σ 1/(t(t + 1)) from t = 3 is 1/3)."""
    assert alpha_use(history_of(rounds(True, True))) is None
    found = alpha_use(history_of([*gated(1, True), *gated(2, False), begun(3), RolledBack(0)]))
    assert found
    assert (found.used, found.bound, found.alpha, found.tests) == pytest.approx((0.05 * 2 / 3, 0.05, 0.05, 2))
    changed = alpha_use(history_of([*gated(1, True), *gated(2, False, alpha=0.3)]))
    assert changed
    assert changed.bound == pytest.approx(0.05 / 2 + 0.3 / 6 + 0.3 / 3), "a larger alpha later allows more in all"


def test_a_stall_names_the_smallest_gain_that_the_last_gate_would_have_seen() -> None:
    h = history_of([*gated(1, True), *gated(2, False), *gated(3, False), *gated(4, False)])
    assert h.stalled
    assert h.stall({}) == (
        "stalled: 3 consecutive rejections with these parameters since the head moved; the smallest gain that the "
        "gate would have seen with 80% probability is 0.110 (win rate 0.610): 64 prompts of standard deviation 0.20 "
        "at level 0.0025"
    )
