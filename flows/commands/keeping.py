"""`alignflow verify` and `alignflow gc`: whether all is what its digest says; what nothing names any more."""

from __future__ import annotations

from flows.store.store import Store
from flows.store.upkeep import gc, results, verify
from tasks.contract import SpecError


def verify_text(store: Store) -> int:
    """Print what is damaged and how much is not. Returns the exit code; raises SpecError where there is no store."""
    _refuse_none(store)
    damaged = verify(store)
    for damage in damaged:
        print(f"✗ {damage.what}: {damage.trouble}")
    whole = sum(1 for _ in results(store)) - sum(d.record is not None for d in damaged)
    print(f"✓ {whole} results are what their digests say" + ("; the next run makes the others again" * bool(damaged)))
    return 1 if damaged else 0


def gc_text(store: Store, *, dry: bool) -> None:
    """Print what was reclaimed, or would be. What a record names stays, of a key or of a ledger.

    Raises SpecError where there is no store.
    """
    _refuse_none(store)
    freed = gc(store, dry=dry)
    for path, why, size in freed:
        print(f"{size / 1e6:9.1f} MB  {path}  ({why})")
    print(f"{sum(f.size for f in freed) / 1e6:.1f} MB {'would be ' if dry else ''}reclaimed")


def _refuse_none(store: Store) -> None:
    if not store.root.is_dir():
        raise SpecError(f"there are no artifacts in {store.root}; say where with --artifacts")
