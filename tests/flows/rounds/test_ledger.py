"""The ledger on disk: the rest of a kill is no event, damage is an error, and `gc` keeps what heads name."""

import random
import threading
from pathlib import Path

import pytest

from flows.rounds.history import RolledBack, Stalled
from flows.rounds.ledger import Ledger, ledgers
from flows.store.store import Store
from tasks.contract import DataError, SpecError
from tests.flows.rounds.test_history import NOW, begun, finished, rounds


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(Store(tmp_path / "artifacts"), "sppo", "nightly")


def test_events_come_back_as_they_were_written(ledger: Ledger) -> None:
    events = [
        *rounds(True, False, gain=0.1, text="ü\u2028\n"), RolledBack(1, when=NOW), begun(3), finished(3), Stalled(),
    ]  # fmt: skip
    for event in events:
        ledger.append(event)
    assert ledger.events() == events
    assert ledger.path.name == "sppo.nightly.jsonl"
    assert [one.name for one in ledgers(Store(ledger.path.parents[1]))] == ["sppo/nightly"]


def test_a_torn_last_line_is_ignored_at_whatever_byte_it_was_torn(ledger: Ledger) -> None:
    events = rounds(True)
    for event in events:
        ledger.append(event)
    whole = ledger.path.read_bytes()
    ledger.append(begun(2))
    line = ledger.path.read_bytes()[len(whole) :]
    for cut in range(len(line)):
        ledger.path.write_bytes(whole + line[:cut])
        assert ledger.events() == events
    for cut in (1, len(line) // 2, len(line) - 1):
        ledger.path.write_bytes(whole + line[:cut])
        ledger.append(RolledBack(0, when=NOW))
        assert ledger.events() == [*events, RolledBack(0, when=NOW)]
    ledger.path.write_bytes(b"{")
    assert ledger.history().last == 0


@pytest.mark.parametrize("seed", range(4))
def test_damage_before_the_last_line_is_an_error_with_its_line(ledger: Ledger, seed: int) -> None:
    for event in rounds(True, True, True):
        ledger.append(event)
    data = bytearray(ledger.path.read_bytes())
    ends = [i for i, c in enumerate(data) if c == 10]
    at = random.Random(seed).randrange(ends[-2])
    data[at : at + 1] = b"\0"
    ledger.path.write_bytes(bytes(data))
    with pytest.raises(DataError, match=r"sppo\.nightly\.jsonl") as text:
        ledger.history()
    assert str(text.value).count("sppo.nightly.jsonl") == 1


def test_a_ledgers_name_stays_inside_the_store(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="leaves the store"):
        Ledger(Store(tmp_path / "artifacts"), "../../x", "y")


def test_one_lock_holds_the_deployment_and_names_its_holder(ledger: Ledger) -> None:
    order: list[str] = []

    def second() -> None:
        with ledger.lock(lambda seconds, holder: order.append(holder)):
            order.append("second")

    with ledger.lock():
        assert ledger.is_locked()
        thread = threading.Thread(target=second)
        thread.start()
        while not order:
            pass
        order.append("first")
    thread.join(10)
    assert order[-1] == "second"
    assert order[0].startswith("pid ")
    assert not ledger.is_locked()
