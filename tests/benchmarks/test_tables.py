"""The two ways to make win rates and pairs, on a small table."""

from pathlib import Path

from benchmarks.tables import _our_tables, _tables_by_loop, write_input


def test_both_ways_make_as_many_rows_and_pairs(tmp_path: Path) -> None:
    write_input(str(tmp_path), prompts=20, k=3)
    ours = _our_tables(tmp_path, "all")
    loop = _tables_by_loop(tmp_path, "all")
    assert ours["rows"] == loop["rows"] == 60
    assert ours["pairs_made"] == loop["pairs_made"] == 20
