"""`online_dpo`, `xpo` and `nash_md` on a tiny policy: what they compare, resume after a kill, and refuse."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tasks.contract import Chosen, DataError, SpecError
from tasks.engines.transformers import TransformersEngine
from tasks.kinds import Oracle, Policy, Scorer
from tests.adapters import adapter_policy
from tests.flat import nash_md, online_dpo, xpo
from tests.tasks.rollouts.small import CLIPPED, FIXED, SHORT, TRANSFORMERS, files_of, plain_curves, prompts
from tests.workspace import Killed, Mortal, Workspace

DPO = Chosen("losses/pairwise", "dpo", {})
COMMON: dict[str, Any] = {
    "iterations": 4, "prompts_per_iteration": 4, "lr": 1e-3, "schedule": "constant", "engine": TRANSFORMERS,
    "minibatches": 2,
}  # fmt: skip
METHODS: dict[str, tuple[Any, dict[str, Any]]] = {
    "online_dpo": (online_dpo, {"loss": DPO, "k": 3, "pairs": "best_and_worst"}),
    "xpo": (xpo, {"loss": DPO, "k": 2, "k_ref": 2, "alpha": 1e-2}),
    "nash_md": (nash_md, {"k": 2, "k_opponent": 2, "mixture": 0.5, "objective": CLIPPED, "kl_controller": FIXED}),
}


def run(name: str, policy: Policy, work: Workspace, oracle: Oracle = SHORT, **options: Any) -> Policy:
    task, own = METHODS[name]
    ref = options.pop("ref", policy)
    made: Policy = task(policy, ref, prompts(), oracle, work, None, **{**COMMON, **own, **options})
    return made


class Judge:
    """Prefers the shorter of two answers, and the one that it is shown first; dies after so many questions."""

    def __init__(self, mortal_after: int | None = None) -> None:
        self.asked: list[tuple[str, str, str]] = []
        self._mortal_after = mortal_after

    def __call__(self, asked: Sequence[Any], a: Sequence[str], b: Sequence[str], truths: Any) -> list[float]:
        if self._mortal_after is not None and len(self.asked) >= self._mortal_after:
            raise Killed
        self.asked += [(json.dumps(p), x, y) for p, x, y in zip(asked, a, b, strict=True)]
        return [0.8 if len(x) <= len(y) else 0.4 for x, y in zip(a, b, strict=True)]


@pytest.mark.parametrize("name", METHODS)
def test_a_killed_training_ends_with_the_bytes_of_an_undisturbed_one(name: str, policy: Policy, tmp_path: Path) -> None:
    straight = Workspace(tmp_path / "straight")
    expected = run(name, policy, straight, checkpoint_every=2)
    with pytest.raises(Killed):
        run(name, policy, Mortal(tmp_path / "killed", 3), checkpoint_every=2)
    work = Workspace(tmp_path / "killed")
    assert files_of(run(name, policy, work, checkpoint_every=2).path) == files_of(expected.path)
    assert plain_curves(work) == plain_curves(straight)[2:]
    assert work.totals == straight.totals


def test_an_oracle_that_depends_on_the_order_is_queried_in_both_and_a_kill_loses_one_shard(
    policy: Policy, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"iterations": 1, "k": 8, "pairs": "all"}
    whole, straight = Judge(), Workspace(tmp_path / "straight")
    expected = run("online_dpo", policy, straight, Oracle.of(compare=whole, antisymmetric=False), **options)
    first, second = Judge(64), Judge()
    with pytest.raises(Killed):
        run(
            "online_dpo",
            policy,
            Workspace(tmp_path / "killed"),
            Oracle.of(compare=first, antisymmetric=False),
            **options,
        )
    made = run(
        "online_dpo", policy, Workspace(tmp_path / "killed"), Oracle.of(compare=second, antisymmetric=False), **options
    )
    assert set(whole.asked) == {(p, b, a) for p, a, b in whole.asked}
    assert first.asked + second.asked == whole.asked
    assert len(second.asked) < len(whole.asked)
    assert files_of(made.path) == files_of(expected.path)
    assert straight.totals["queries"] == len(whole.asked)


def test_opponents_have_draws_of_their_own_and_are_only_counted_as_samples(policy: Policy, tmp_path: Path) -> None:
    """4 iterations × 4 prompts × (2 + 2) answers. The mixture 0 is the policy itself, with other noise."""
    judge, work = Judge(), Workspace(tmp_path)
    run("nash_md", policy, work, Oracle.of(compare=judge, antisymmetric=True), mixture=0.0, lr=1e-9)
    assert work.totals["samples"] == 64
    rates = [row["objective/win_rate"] for _, row in work.curves]
    assert len(judge.asked) > 30
    assert all(0 < rate < 1 for rate in rates)
    assert {row["val/length"] for _, row in work.curves} != {9.0}


def test_xpo_pushes_the_answers_of_the_reference_down(policy: Policy, tmp_path: Path) -> None:
    """By α alone: no label prefers anything, so without α their log-probability only varies with the draws."""
    even = Oracle.of(compare=lambda asked, a, b, truths: [0.5] * len(a), antisymmetric=True)
    falls = []
    for alpha in (0.0, 1.0):
        work = Workspace(tmp_path / str(alpha))
        run("xpo", policy, work, even, alpha=alpha, labels="soft", lr=3e-3)
        logps = [row["logps/reference_answers"] for _, row in work.curves]
        falls.append(logps[0] - logps[-1])
    assert abs(falls[0]) < 4
    assert falls[1] > 8


def test_an_adapter_learns_against_a_reference_that_is_its_base(policy: Policy, tmp_path: Path) -> None:
    """The reference decodes on the trainer's copy, whose layers are switched off for it."""
    base = Policy(policy.path, digest=policy.digest)
    adapter = adapter_policy(base, tmp_path / "adapter", seed=3)
    lora = Chosen("adapters", "lora", {"rank": 4, "alpha": 8})
    drawn: list[list[list[int]]] = []
    real = TransformersEngine.generate_mixture

    def recorded(self: Any, *arguments: Any) -> Any:
        answers = real(self, *arguments)
        drawn.append([a.tokens for a in answers])
        return answers

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(TransformersEngine, "generate_mixture", recorded)
        run(
            "nash_md",
            adapter,
            Workspace(tmp_path / "a"),
            ref=base,
            adapter=lora,
            mixture=1.0,
            iterations=1,
            max_kl=None,
        )
        run("nash_md", base, Workspace(tmp_path / "b"), ref=base, mixture=1.0, iterations=1)
    assert drawn[0] == drawn[1]


def test_an_oracle_that_compares_nothing_is_refused(policy: Policy, tmp_path: Path) -> None:
    silent = Scorer.scoring(lambda asked, told, truths: [None] * len(told))
    with pytest.raises(DataError, match=r"the oracle compared none of 12 pairs of answers"):
        run("online_dpo", policy, Workspace(tmp_path), silent)


@pytest.mark.parametrize(
    ("name", "options", "text"),
    [
        ("online_dpo", {"k": 1}, r"k = 1: a pair needs two answers"),
        ("online_dpo", {"loss": Chosen("losses/pairwise", "wpo", {})}, r"'wpo' names policy_chosen_log_weights"),
        ("xpo", {"loss": Chosen("losses/pairwise", "aot", {}), "labels": "soft"}, r"'aot' couples the pairs"),
        ("nash_md", {"k": 1}, r"k = 1 leaves no other answer .* `leave_one_out`: set k, or `even`"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_are_refused_before_any_work(
    name: str, options: dict[str, Any], text: str, policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TransformersEngine, "__init__", lambda *_: pytest.fail("an engine was loaded"))
    with pytest.raises(SpecError, match=text):
        run(name, policy, Workspace(tmp_path), **options)
