"""Results become files, and files become tables."""

import json
from pathlib import Path

from benchmarks.record import now, write_results
from benchmarks.table import merged, number, table, table_of_file, with_floor

ROWS = [
    {"case": {"pairs": 64}, "name": "peer", "all_tokens_per_second": 100.0, "peak_memory_gb": 4.0, "losses": [0.7]},
    {"case": {"pairs": 64}, "name": "ours", "all_tokens_per_second": 250.0, "peak_memory_gb": 1.0},
    {"case": {"pairs": 64}, "name": "broken", "error": "RuntimeError: no memory"},
]


def test_numbers_are_followed_by_their_ratio_to_the_peers() -> None:
    assert table(ROWS, "peer").splitlines() == [
        "| | tokens/s, all | peak memory, GB |",
        "|---|---|---|",
        "| peer | 100 | 4 |",
        "| ours | 250 (2.50 ×) | 1 (0.25 ×) |",
        "| broken | RuntimeError: no memory | |",
    ]


def test_cpu_seconds_are_given_as_multiples_of_the_floors() -> None:
    rows = [{"name": "least", "cpu_seconds": 2.0}, {"name": "ours", "cpu_seconds": 5.0}, {"name": "broken"}]
    assert with_floor(rows, "least") == [{**rows[0], "times_floor": 1.0}, {**rows[1], "times_floor": 2.5}, rows[2]]
    assert with_floor(rows, "not measured") == rows


def test_repeated_measurements_become_their_median_and_a_failed_one_does_not_count() -> None:
    rows = [{"name": "a", "seconds": s} for s in (1.0, 9.0, 2.0)] + [{"name": "a", "error": "stopped after 5 s"}]
    assert merged(rows) == [{"name": "a", "seconds": 2.0}]


def test_numbers_have_three_digits() -> None:
    assert [number(x) for x in (12345.6, 99.94, 0.01234, 0.00012, True, None)] == [
        "12,346", "99.9", "0.0123", "1.2e-04", "yes", "–",
    ]  # fmt: skip


def test_a_results_file_names_machine_date_versions_commit_and_conditions(tmp_path: Path) -> None:
    file = write_results(
        "training", ROWS, settings={"peer": "peer"}, started=now(), load=1.234, note="quiet", file=tmp_path / "r.json"
    )
    record = json.loads(file.read_text())
    assert record["rows"] == ROWS
    assert record["machine"].keys() == {"cpu", "cores", "memory_gb", "gpu", "gpu_memory_gb", "load"}
    assert record["versions"].keys() >= {"python", "torch", "transformers"}
    text = table_of_file(file)
    assert "load 1.23 at the start, quiet." in text
    assert "pairs 64\n\n| | tokens/s, all |" in text
