"""Verify and gc as commands: what they say, and that neither touches what is in use."""

from pathlib import Path

import pytest

from flows.commands.maintenance import gc_text, verify_text
from flows.rounds.history import RolledBack
from flows.rounds.ledger import Ledger
from flows.store.store import Store
from tasks.contract import SpecError
from tests.flows.fabricated import fabricate


def test_verify_counts_what_is_whole_and_names_what_is_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = fabricate(tmp_path, rounds=1)
    assert verify_text(made.store) == 0
    assert capsys.readouterr().out == f"✓ {len(made.records)} results are what their digests say\n"
    (made.store.root / made.records["heldout"].path / "table.arrow").write_bytes(b"noise")
    (made.store.root / "keys" / f"{made.records['report@1'].key}.json").write_text("{")
    (made.store.root / "runs" / f"{made.run.id}.json").write_text("{}")
    ledger = Ledger(made.store, "sppo", "nightly")
    ledger.append(RolledBack(1, when="now"))
    ledger.path.write_bytes(ledger.path.read_bytes().replace(b"now", b"new"))
    assert verify_text(made.store) == 1
    message = capsys.readouterr().out
    assert f"✗ Prompts {made.records['heldout'].content[:12]} (load_prompts): " in message
    assert "✗ a record: keys/" in message
    assert f"✗ a run: runs/{made.run.id}.json is not what was written; set aside in damaged/run-" in message
    assert f"✗ a ledger: {ledger.path}:1: invalid ledger event" in message
    assert f"✓ {len(made.records) - 2} results are what their digests say; the next run makes the others" in message


def test_a_folder_that_is_not_there_is_a_wrong_request_and_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="there are no artifacts in"):
        verify_text(Store(tmp_path / "none"))
    for dry in (True, False):
        with pytest.raises(SpecError, match="there are no artifacts in"):
            gc_text(Store(tmp_path / "none"), dry=dry)
    assert not (tmp_path / "none").exists()


def test_gc_lists_what_it_deletes_and_deletes_what_it_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = fabricate(tmp_path, rounds=1)
    store = made.store
    (store.root / "Prompts" / ("c" * 32)).mkdir()
    gc_text(store, dry=True)
    assert "would be reclaimed" in capsys.readouterr().out
    assert (store.root / "Prompts" / ("c" * 32)).is_dir()
    gc_text(store, dry=False)
    assert not (store.root / "Prompts" / ("c" * 32)).exists()
    assert all((store.root / r.path).is_dir() for r in made.records.values())
