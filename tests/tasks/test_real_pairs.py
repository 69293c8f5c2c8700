"""Offline DPO on real pairs, whole: HH dialogues in, a checkpoint with room for them, held-out accuracy out."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.agree import agreement
from tasks.contract import Chosen
from tasks.kinds import Policy, Preferences
from tasks.load import init_policy, load_demonstrations, read_policy, read_preferences
from tests.flat import fit, logps, tokenize
from tests.workspace import Workspace

PAIRS = Path(__file__).parents[3] / "shared" / "data" / "preferences" / "helpful_test.jsonl.gz"
pytestmark = pytest.mark.skipif(not PAIRS.exists(), reason="the real pairs are not on this machine")


class House:
    """Steps with a folder each; what a step made is saved, as the flow would."""

    def __init__(self, root: Path) -> None:
        self._root, self._steps = root, 0
        self.last: Workspace

    def step(self) -> Workspace:
        self._steps += 1
        self.last = Workspace(self._root / str(self._steps))
        return self.last


def _checkpoint(house: House) -> Policy:
    """A real checkpoint directory with 1,024 positions, for which nothing but its path is known."""
    source = Chosen("sources", "path", {"path": str(PAIRS)})
    told = load_demonstrations(house.step(), source=source, split="gate")
    made = init_policy(told, house.step(), vocab=1024, hidden=32, layers=1, heads=2, ffn=64, positions=1024)
    return read_policy(source=Chosen("sources", "path", {"path": str(made.path)}))


def test_dpo_on_real_dialogues_learns_them_and_is_measured_on_held_out_ones(tmp_path: Path) -> None:
    house = House(tmp_path)
    base = _checkpoint(house)

    def pairs(split: str) -> Preferences:
        read = read_preferences(house.step(), source=Chosen("sources", "path", {"path": str(PAIRS)}), split=split)
        return tokenize(base, read, house.step())

    trained, held_out = pairs("gate"), pairs("heldout")
    assert not set(trained.table["prompt_id"].to_pylist()) & set(held_out.table["prompt_id"].to_pylist())
    ref = logps(base, trained, house.step())
    policy = fit(
        base,
        trained,
        house.step(),
        ref,
        loss=Chosen("losses/pairwise", "dpo", {"beta": 0.1}),
        lr=1e-3,
        epochs=2,
        batch=16,
    )
    curve = [row["rewards/accuracies"] for _, row in house.last.curves if "rewards/accuracies" in row]
    assert curve[-1] > 0.6
    known = agreement(trained, logps(policy, trained, house.step()), ref, house.step())
    after, before = logps(policy, held_out, house.step()), logps(base, held_out, house.step())
    report = agreement(held_out, after, before, house.step())
    values = {row["name"]: row["value"] for row in report.table.to_pylist()}
    assert known.table["value"][0].as_py() > 0.6
    assert 0.3 < values["eval/accuracy"] < 0.8
    assert 0.5 < values["eval/chosen_longer"] < 0.7
