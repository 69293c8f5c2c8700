"""The probe of fine-tuning: its answers, and its numbers by hand."""

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from tasks.contract import DataError, SpecError
from tasks.kinds import Demonstrations, Logps, Preferences
from tasks.probe import KINDS, probe, probe_answers, probe_wiring
from tasks.turns import take_groups
from tests.workspace import Workspace

GOLDEN = {"x": ["the swan", "a swan", "the swan"], "y": ["big fox"], "z": ["owls fly by night", "at night owls fly"]}


def demonstrations(texts: Mapping[str, list[str]] = GOLDEN) -> Demonstrations:
    rows = [(prompt, text, k) for prompt, several in texts.items() for k, text in enumerate(several)]
    return Demonstrations.of(pa.table({
        "prompt_id": [p for p, _, _ in rows], "prompt": [[{"role": "user", "content": p}] for p, _, _ in rows],
        "completion_id": [f"{p}/{k}" for p, _, k in rows], "completion": [text for _, text, _ in rows],
    }))  # fmt: skip


def pairs(*prompts: str) -> Preferences:
    n = len(prompts)
    return Preferences.of(pa.table({
        "prompt_id": list(prompts), "prompt": [[{"role": "user", "content": p}] for p in prompts],
        "chosen_id": ["c"] * n, "rejected_id": ["r"] * n, "chosen": ["good"] * n,
        "rejected": [f"bad {p} {i}" for i, p in enumerate(prompts)],
    }))  # fmt: skip


def texts_of(probes: Demonstrations) -> dict[str, dict[str, str]]:
    """Kind → prompt → text."""
    found: dict[str, dict[str, str]] = {}
    for row in probes.table.to_pylist():
        found.setdefault(row["group"], {})[row["prompt_id"]] = row["completion"]
    return found


def test_each_prompt_with_two_wordings_and_a_pair_has_one_answer_of_each_kind(tmp_path: Path) -> None:
    probes = probe_answers(demonstrations(), pairs("x", "x", "y", "z"), Workspace(tmp_path))
    found = texts_of(probes)
    words = found.pop("random words")
    assert found == {
        "gold": {"x": "the swan", "z": "owls fly by night"}, "paraphrase": {"x": "a swan", "z": "at night owls fly"},
        "rejected": {"x": "bad x 0", "z": "bad z 3"},
        "other prompt's": {"x": "owls fly by night", "z": "the swan"},
    }  # fmt: skip
    assert {p: len(text.split()) for p, text in words.items()} == {"x": 2, "z": 4}
    assert {w for text in words.values() for w in text.split()} <= {"the", "swan", "owls", "fly", "by", "night"}
    ids = probes.table.column("completion_id").to_pylist()
    assert len({*ids}) == len(ids) == 10
    assert texts_of(take_groups(probes, groups=["gold"], others=[*KINDS[1:]])) == {"gold": found["gold"]}
    again = probe_answers(demonstrations(), pairs("x", "x", "y", "z"), Workspace(tmp_path / "2"))
    assert again.table.equals(probes.table)


def test_a_probe_without_two_such_prompts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="of 3 prompts with demonstrations and 2 with pairs, 1 have"):
        probe_answers(demonstrations(), pairs("x", "y"), Workspace(tmp_path))


def logps(probes: Demonstrations, of_kind: Mapping[str, tuple[float, float]]) -> Logps:
    """By kind, the log-probability of its answer to x and to z; each has 2 and 4 tokens."""
    rows = probes.table.select(["prompt_id", "completion_id", "group"]).to_pylist()
    values = [of_kind[row["group"]]["xz".index(row["prompt_id"])] for row in rows]
    return Logps.of(pa.table({
        "prompt_id": [r["prompt_id"] for r in rows], "completion_id": [r["completion_id"] for r in rows],
        "logps": values, "lengths": pa.array([2 if r["prompt_id"] == "x" else 4 for r in rows], pa.int32()),
    }))  # fmt: skip


def test_levels_are_per_token_and_changes_are_paired_by_prompt(tmp_path: Path) -> None:
    """Gold: (−4 − 8) / 6 tokens before; it gains 3 and 5, mean 4 ± t·1. Rejected answers lose 1 each."""
    probes = probe_answers(demonstrations(), pairs("x", "z"), Workspace(tmp_path))
    before = dict.fromkeys(KINDS, (-4.0, -8.0))
    after = before | {"gold": (-1.0, -3.0), "rejected": (-5.0, -9.0)}
    report = probe(probes, [logps(probes, t) for t in (before, before, after)], at=[1, 8])
    found = {row["name"]: row for row in report.table.to_pylist()}
    assert found["eval/probe/0/gold"]["value"] == pytest.approx(-2)
    assert found["eval/probe/8/gold"]["value"] == pytest.approx(-4 / 6)
    assert found["eval/probe/0/gold"]["unit"] == "nats per token"
    gain = found["eval/probe_gain/gold"]
    assert gain == found["eval/probe_change/8/gold"] | {"name": "eval/probe_gain/gold"}
    assert (gain["value"], gain["n"], gain["unit"]) == (4, 2, "nats")
    assert gain["ci_high"] - gain["value"] == pytest.approx(12.706, abs=1e-3)
    rejected = found["eval/probe_gain/rejected"]
    assert (rejected["value"], rejected["ci_low"], rejected["ci_high"]) == (-1, -1, -1)
    assert found["eval/probe_change/1/gold"]["value"] == 0
    assert report.per_prompt is not None
    assert report.per_prompt.column("probe_gain/gold").to_pylist() == [3, 5]


def test_a_table_that_lacks_a_probe_is_refused(tmp_path: Path) -> None:
    probes = probe_answers(demonstrations(), pairs("x", "z"), Workspace(tmp_path))
    whole = logps(probes, dict.fromkeys(KINDS, (-4.0, -8.0)))
    with pytest.raises(DataError, match="step 8 lacks 1 of 10 probes"):
        probe(probes, [whole, Logps.of(pl.from_arrow(whole.table)[1:].to_arrow())], at=[8])  # type: ignore[union-attr,index]


@pytest.mark.parametrize(
    ("tables", "at", "message"),
    [(2, [1, 2], "must be one before"), (3, [2, 1], "rising"), (2, [0], "rising"), (1, [], "rising")],
)
def test_steps_that_do_not_fit_the_tables_are_refused_before_anything_runs(
    tables: int, at: list[int], message: str
) -> None:
    step: Any = SimpleNamespace(inputs={"logps": [None] * tables}, params={"at": at})
    with pytest.raises(SpecError, match=message):
        probe_wiring(step)
