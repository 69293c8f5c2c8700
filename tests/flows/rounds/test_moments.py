"""Death at every moment at which the ledger changes: before an event is written, in its middle, and behind it."""

from pathlib import Path

import pytest

from flows.rounds.history import Event
from flows.rounds.ledger import Ledger
from tests.flows.rounds.conftest import Loop, loop_project

MOMENTS = [(event, how) for event in ("begun", "finished", "after") for how in ("before", "torn", "behind")]


class Killed(BaseException):
    """The process ends here."""


def _deadly(monkeypatch: pytest.MonkeyPatch, kind: str, how: str) -> None:
    """The next event of that kind is the last thing that is done, or not quite done."""
    write = Ledger.append

    def append(self: Ledger, event: Event) -> None:
        if event.event != kind:
            write(self, event)
            return
        before = self.path.read_bytes() if self.path.exists() else b""
        write(self, event)
        after = self.path.read_bytes()
        kept = {"before": before, "torn": after[: (len(before) + len(after)) // 2], "behind": after}[how]
        self.path.write_bytes(kept)
        raise Killed

    monkeypatch.setattr(Ledger, "append", append)


def test_death_around_any_event_skips_and_repeats_no_round(loop: Loop, tmp_path: Path) -> None:
    for kind, how in MOMENTS:
        with pytest.MonkeyPatch.context() as monkeypatch:
            _deadly(monkeypatch, kind, how)
            with pytest.raises(Killed):
                loop.tick()
        left = loop.history
        expected = (
            "unfinished" if (kind, how) in {("begun", "behind"), ("finished", "before"), ("finished", "torn")} else ""
        )
        assert (left.rounds[-1].verdict if left.open else "") == expected, (kind, how)
    loop.tick()
    numbers = [r.begun.number for r in loop.history.rounds]
    assert numbers == list(range(1, len(numbers) + 1))
    assert set(loop.verdicts()) == {"accepted"}
    assert loop.history.after == loop.history.last
    whole = Loop(loop_project(tmp_path / "whole"))
    whole.tick(rounds=len(numbers))
    assert [h.values for h in whole.history.heads.values()] == [h.values for h in loop.history.heads.values()]
    assert whole.history.head == loop.history.head
