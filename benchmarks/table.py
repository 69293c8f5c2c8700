"""Markdown tables from the JSON files of `benchmarks/results/`.

    python -m benchmarks.table benchmarks/results/training-20261127-2110.json …

One table per case: a line per row and a column per measured number that any of its rows has. Where the settings name
a `peer`, numbers are followed by their ratio to the peer's: above 1 is better for speeds, below 1 for the rest. Where
they name a `floor`, CPU seconds are given as multiples of its.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import median
from typing import Any

COLUMNS = {
    "step_tokens_per_second": "tokens/s, steps",
    "all_tokens_per_second": "tokens/s, all",
    "tokens_per_second": "tokens/s",
    "tokens_per_cpu_second": "tokens per CPU s",
    "step_cpu_seconds": "CPU s, steps",
    "cpu_seconds": "CPU s, all",
    "times_floor": "CPU s ÷ floor",
    "system_seconds": "CPU s in the kernel",
    "seconds": "s",
    "peak_memory_gb": "peak memory, GB",
    "mfu": "MFU",
    "tflops": "TFLOP/s",
    "share_of_ceiling": "share of the ceiling",
    "device_peak_gb": "peak device memory, GB",
    "passes_per_step": "passes per step",
    "idle_share": "idle share",
    "largest_difference": "largest difference",
    "equal": "equal",
    "forward_seconds": "s, forward",
    "gb_per_second": "GB/s",
    "memory_growth_mb": "memory growth, MB",
}
"""Field → heading, in the order of columns. Other fields of a row stay in the file."""
COMPARED = (
    "step_tokens_per_second", "all_tokens_per_second", "tokens_per_second", "tokens_per_cpu_second", "seconds",
    "step_cpu_seconds", "cpu_seconds", "peak_memory_gb", "memory_growth_mb",
)  # fmt: skip


def table_of_file(file: Path) -> str:
    """All tables of one results file, with a line about machine and date."""
    record = json.loads(file.read_text())
    cases = {json.dumps(row["case"]): row["case"] for row in record["rows"]}
    parts = [about(record)]
    for case in cases.values():
        rows = merged([row for row in record["rows"] if row["case"] == case])
        rows = with_floor(rows, record["settings"].get("floor"))
        parts.append(f"{words(case)}\n\n{table(rows, record['settings'].get('peer'))}")
    return "\n\n".join(parts)


def about(record: dict[str, Any]) -> str:
    """The machine, date, commit and conditions in one line."""
    machine, versions = record["machine"], record["versions"]
    device = machine.get("gpu") or f"{machine['cores']} cores of {machine['cpu']}"
    known = [f"{name} {versions[name]}" for name in ("torch", "transformers", "trl", "vllm") if name in versions]
    load = f"load {machine['load']} at the start" if "load" in machine else ""
    facts = [record["benchmark"], record["date"][:10], device, *known, f"commit {record['commit']}", load]
    return ", ".join(filter(None, [*facts, record["note"]])) + "."


def words(case: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in case.items())


def merged(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per name: medians over repeated measurements."""
    names = dict.fromkeys(row["name"] for row in rows)
    return [_medians([row for row in rows if row["name"] == name]) for name in names]


def with_floor(rows: list[dict[str, Any]], floor: str | None) -> list[dict[str, Any]]:
    """The rows with `times_floor`: CPU seconds as multiples of those of the row called `floor`."""
    least = next((row.get("cpu_seconds") for row in rows if row["name"] == floor), None)
    if not least:
        return rows
    return [{**row, "times_floor": row["cpu_seconds"] / least} if "cpu_seconds" in row else row for row in rows]


def table(rows: list[dict[str, Any]], peer: str | None) -> str:
    """One line per row; `peer` is the name of the row that others are compared with."""
    columns = [name for name in COLUMNS if any(row.get(name) is not None for row in rows)]
    base = next((row for row in rows if row["name"] == peer), None)
    headings = [COLUMNS[name] for name in columns] or ["result"]
    lines = ["| | " + " | ".join(headings) + " |", "|" + "---|" * (len(headings) + 1)]
    for row in rows:
        if problem := row.get("error") or row.get("skipped"):
            lines.append(f"| {row['name']} | {problem} |" + " |" * (len(headings) - 1))
        else:
            lines.append(f"| {row['name']} | " + " | ".join(_cell(row, name, base) for name in columns) + " |")
    return "\n".join(lines)


def number(value: Any) -> str:
    """Three significant digits, thousands with commas."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return {True: "yes", False: "no", None: "–"}.get(value, str(value))
    if value != 0 and abs(value) < 1e-3:
        return f"{value:.1e}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _cell(row: dict[str, Any], name: str, base: dict[str, Any] | None) -> str:
    if name not in row:
        return "–"
    text = number(row[name])
    if base is None or base is row or name not in COMPARED or not base.get(name):
        return text
    return f"{text} ({row[name] / base[name]:.2f} ×)"


def _medians(rows: list[dict[str, Any]]) -> dict[str, Any]:
    good = [row for row in rows if "error" not in row and "skipped" not in row] or rows[:1]
    numbers = {
        name: median(row[name] for row in good if name in row)
        for name, value in good[0].items() if isinstance(value, float | int) and not isinstance(value, bool)
    }  # fmt: skip
    return {**good[0], **numbers}


def main() -> None:
    print("\n\n".join(table_of_file(Path(file)) for file in sys.argv[1:]))


if __name__ == "__main__":
    main()
