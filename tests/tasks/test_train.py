"""fit and logps as tasks: what is learnt, what is written, kills, divergence."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from safetensors.numpy import load_file

from tasks.contract import Chosen, DataError
from tasks.kinds import Demonstrations, Logps, Policy
from tests.flat import fit, logps
from tests.tasks.training.tables import DPO, SFT, SPPO, demonstrations, preferences, tokenized, win_rates
from tests.workspace import Killed, Mortal, Workspace

TIMING = {"tokens_per_second"}


def _weights(policy: Policy) -> bytes:
    return (policy.path / "model.safetensors").read_bytes()


def _apart(a: Policy, b: Policy) -> float:
    """Largest difference between two policies' weights."""
    one, other = (load_file(p.path / "model.safetensors") for p in (a, b))
    return max(float(np.abs(one[name] - other[name]).max()) for name in one)


def _curve(work: Workspace, name: str) -> list[float]:
    return [metrics[name] for _, metrics in work.curves]


def test_sft_makes_the_demonstrations_likelier(policy: Policy, tmp_path: Path) -> None:
    data = tokenized(demonstrations(), policy, tmp_path)
    work = Workspace(tmp_path)
    trained = fit(policy, data, work, loss=SFT, lr=1e-2, epochs=8, batch=8)
    losses = _curve(work, "train/loss")
    assert len(losses) == 24
    assert losses[-1] < 0.6 * losses[0]
    before, after = (logps(p, data, Workspace(tmp_path / "l")).frame["logps"].mean() for p in (policy, trained))
    assert after > before + 10


def test_the_first_losses_are_log_2_for_dpo_and_the_targets_squares_for_sppo(policy: Policy, tmp_path: Path) -> None:
    pairs = tokenized(preferences(8), policy, tmp_path / "p")
    work = Workspace(tmp_path / "dpo")
    ref = logps(policy, pairs, work)
    fit(policy, pairs, work, ref, loss=DPO, lr=1e-3, batch=8)
    assert _curve(work, "train/loss") == [pytest.approx(np.log(2), abs=1e-5)]
    assert _curve(work, "rewards/margins") == [pytest.approx(0, abs=1e-4)]
    rates = tokenized(win_rates(20), policy, tmp_path / "w")
    work = Workspace(tmp_path / "sppo")
    fit(policy, rates, work, logps(policy, rates, work), loss=SPPO, lr=1e-3, batch=20)
    targets = 10 * (rates.frame["win_rate"].to_numpy() - 0.5)
    assert _curve(work, "train/loss") == [pytest.approx(np.mean(targets**2), rel=1e-4)]


@pytest.mark.parametrize(("kind", "loss"), [("pairs", DPO), ("rates", SPPO)])
def test_the_preferred_answers_rise_above_the_others(kind: str, loss: Chosen, policy: Policy, tmp_path: Path) -> None:
    data = tokenized(preferences() if kind == "pairs" else win_rates(), policy, tmp_path)
    work = Workspace(tmp_path)
    fit(policy, data, work, logps(policy, data, work), loss=loss, lr=3e-3, epochs=20, batch=8)
    assert _curve(work, "train/loss")[-1] < 0.7 * _curve(work, "train/loss")[0]
    assert _curve(work, "rewards/margins")[-1] > 0.2
    assert _curve(work, "rewards/accuracies")[-1] > 0.7
    names = {"train/loss", "grad_norm", "lr", "tokens_per_second", "logps/chosen", "logps/rejected", "rewards/chosen",
             "rewards/rejected", "rewards/margins", "rewards/accuracies"}  # fmt: skip
    assert all(set(metrics) == names for _, metrics in work.curves)


def test_the_policy_keeps_everything_but_its_weights_byte_for_byte(policy: Policy, tmp_path: Path) -> None:
    data = tokenized(demonstrations(8), policy, tmp_path)
    trained = fit(policy, data, Workspace(tmp_path), loss=SFT, lr=1e-3, batch=8)
    names = {p.name for p in policy.path.iterdir()}
    assert {p.name for p in trained.path.iterdir()} == names >= {"generation_config.json", "tokenizer.json"}
    for name in names - {"model.safetensors"}:
        assert (trained.path / name).read_bytes() == (policy.path / name).read_bytes()
    assert _weights(trained) != _weights(policy)


def test_two_fits_give_the_same_bytes_and_another_seed_gives_others(policy: Policy, tmp_path: Path) -> None:
    data = tokenized(demonstrations(16), policy, tmp_path)
    a, b, c = (
        fit(policy, data, Workspace(tmp_path / name), loss=SFT, lr=1e-3, batch=4, seed=seed)
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert _weights(a) == _weights(b) != _weights(c)


def test_a_row_of_weight_zero_is_as_if_it_were_not_there_but_counted(policy: Policy, tmp_path: Path) -> None:
    data = demonstrations(8).table
    weights = pa.array([1.0, 0.0] * 4, pa.float64())
    half = Demonstrations.of(data.set_column(data.column_names.index("weight"), "weight", weights))
    doubled = Demonstrations.of(data.take(pa.array([0, 2, 4, 6])))
    settings = {"loss": SFT, "lr": 1e-3, "warmup": 0.0, "max_grad_norm": 1e-3}
    a = fit(policy, tokenized(half, policy, tmp_path / "a"), Workspace(tmp_path / "a"), batch=8, **settings)
    b = fit(policy, tokenized(doubled, policy, tmp_path / "b"), Workspace(tmp_path / "b"), batch=4, **settings)
    assert _apart(a, b) < 1e-5


def test_steps_override_epochs_and_a_last_short_batch_is_taken(policy: Policy, tmp_path: Path) -> None:
    data = tokenized(demonstrations(10), policy, tmp_path)
    counted = []
    for options in ({"steps": 7}, {"epochs": 2}):
        work = Workspace(tmp_path / str(len(counted)))
        fit(policy, data, work, loss=SFT, lr=1e-4, batch=4, **options)
        counted.append(len(work.curves))
    assert counted == [7, 5]


def test_curves_count_steps_from_one_with_the_rate_of_each(policy: Policy, tmp_path: Path) -> None:
    work = Workspace(tmp_path)
    data = tokenized(demonstrations(8), policy, tmp_path)
    fit(policy, data, work, loss=SFT, lr=6.0e-4, batch=1, warmup=0.25)
    assert [step for step, _ in work.curves] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert _curve(work, "lr") == pytest.approx([2e-4, 4e-4, 6e-4, 5e-4, 4e-4, 3e-4, 2e-4, 1e-4])
    assert work.totals["steps"] == 8
    assert work.totals["tokens"] == sum(
        len(r["prompt_tokens"]) + len(r["completion_tokens"]) for r in data.table.to_pylist()
    )


@pytest.mark.parametrize(
    ("loss", "optimizer", "weights"),
    [(SFT, "adamw", "float32"), (DPO, "rmsprop", "float32"), (SFT, "adamw", "bfloat16"), (SFT, "adafactor", "float32"),
     (SFT, "adamw_offloaded", "bfloat16"), (SFT, "adamw_8bit", "float32")],
)  # fmt: skip
def test_an_interrupted_fit_ends_in_the_same_bytes(
    loss: Chosen, optimizer: str, weights: str, policy: Policy, tmp_path: Path
) -> None:
    if optimizer == "adamw_8bit":
        pytest.importorskip("torchao")
    data = tokenized(demonstrations() if loss is SFT else preferences(), policy, tmp_path)
    ref = None if loss is SFT else logps(policy, data, Workspace(tmp_path))
    options = {"loss": loss, "lr": 1e-3, "epochs": 3, "batch": 4, "optimizer": optimizer, "checkpoint_every": 4,
               "weight_dtype": weights}  # fmt: skip
    straight = Workspace(tmp_path / "straight")
    expected = fit(policy, data, straight, ref, **options)
    for at in (3, 8, 11):
        with pytest.raises(Killed):
            fit(policy, data, Mortal(tmp_path / "killed", at), ref, **options)
    work = Workspace(tmp_path / "killed")
    found = fit(policy, data, work, ref, **options)
    assert _weights(found) == _weights(expected)
    assert [step for step, _ in work.curves] == list(range(9, len(straight.curves) + 1))
    for (_, one), (_, other) in zip(straight.curves[8:], work.curves, strict=True):
        assert {k: v for k, v in one.items() if k not in TIMING} == {k: v for k, v in other.items() if k not in TIMING}
    assert work.totals == straight.totals


class Late(Workspace):
    """A workspace whose process dies between the last step and the result."""

    def count(self, **metrics: float) -> None:
        raise Killed


def test_a_kill_behind_the_last_step_loses_none(policy: Policy, tmp_path: Path) -> None:
    data = tokenized(demonstrations(), policy, tmp_path)
    straight = Workspace(tmp_path / "straight")
    expected = fit(policy, data, straight, loss=SFT, lr=1e-3, batch=4)
    with pytest.raises(Killed):
        fit(policy, data, Late(tmp_path / "late"), loss=SFT, lr=1e-3, batch=4)
    work = Workspace(tmp_path / "late")
    found = fit(policy, data, work, loss=SFT, lr=1e-3, batch=4)
    assert (work.curves, work.totals) == ([], straight.totals)
    assert _weights(found) == _weights(expected)


_HALF = """
import sys
from pathlib import Path
from tasks.contract import Chosen
from tasks.kinds import Policy, Preferences
from tests.flat import fit, logps
from tests.workspace import Killed, Mortal, Workspace
policy, data, work = Policy(Path(sys.argv[1])), Preferences(Path(sys.argv[2])), Workspace(Path(sys.argv[3]))
loss = Chosen("losses/pairwise", "dpo", {"beta": 0.5})
for weights in ("float32", "bfloat16"):
    types = {"dtype": "bfloat16", "weight_dtype": weights}
    work = Workspace(Path(sys.argv[3]) / weights)
    fit(policy, data, work, logps(policy, data, work, **types), loss=loss, lr=1e-4, steps=1, batch=8, **types)
    print(work.curves[0][1]["train/loss"])
"""


def test_a_policy_equals_its_reference_in_bfloat16_too(policy: Policy, tmp_path: Path) -> None:
    data = tokenized(preferences(8), policy, tmp_path)
    (tmp_path / "data").mkdir()
    data.save(tmp_path / "data")
    done = subprocess.run(
        [sys.executable, "-c", _HALF, policy.path, tmp_path / "data", tmp_path / "half"], capture_output=True,
        text=True, env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": "."},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-1000:]
    assert [*map(float, done.stdout.splitlines()[-2:])] == pytest.approx([np.log(2)] * 2, abs=1e-4)


def test_a_loss_that_breaks_names_the_step_the_causes_and_the_checkpoint_it_keeps(
    policy: Policy, tmp_path: Path
) -> None:
    data = tokenized(demonstrations(), policy, tmp_path)
    work = Workspace(tmp_path)
    with pytest.raises(DataError, match=r"at step \d+.*lr 1e\+20 is too high") as error:
        fit(policy, data, work, loss=SFT, lr=1e20, epochs=9, batch=4, warmup=0.0, checkpoint_every=1)
    kept = list((work.path / "checkpoint").glob("step-*"))
    assert len(kept) == 1
    assert str(kept[0].name.removeprefix("step-")) in str(error.value)
    tensors = load_file(kept[0] / "model-00001-of-00001.safetensors")
    assert all(np.isfinite(t).all() for t in tensors.values())


def test_a_finite_but_lost_training_is_stopped(policy: Policy, tmp_path: Path) -> None:
    data = tokenized(preferences(), policy, tmp_path)
    work = Workspace(tmp_path)
    noisy = Chosen("losses/pairwise", "dpo", {"beta": 5.0})
    with pytest.raises(DataError, match=r"diverges at step \d+.*Likely causes"):
        fit(policy, data, work, logps(policy, data, work), loss=noisy, lr=0.5, steps=200, batch=4, warmup=0.0)


def test_log_probabilities_come_in_the_tables_order_with_their_ids(policy: Policy, tmp_path: Path) -> None:
    data = tokenized(preferences(5), policy, tmp_path)
    table = logps(policy, data, Workspace(tmp_path))
    assert isinstance(table, Logps)
    ids = table.table.column("completion_id").to_pylist()
    assert ids == [f"{side}{i}" for i in range(5) for side in ("w", "l")]
    rows = data.table.to_pylist()
    assert table.table.column("lengths").to_pylist() == [
        len(r[f"{side}_tokens"]) for r in rows for side in ("chosen", "rejected")
    ]


def test_a_checkpoint_pins_how_rows_are_cut(policy: Policy, tmp_path: Path) -> None:
    data = tokenized(demonstrations(), policy, tmp_path)
    options = {"loss": SFT, "lr": 1e-3, "epochs": 2, "batch": 8, "checkpoint_every": 2}
    expected = fit(policy, data, Workspace(tmp_path / "a"), max_tokens_per_microbatch=4096, **options)
    with pytest.raises(Killed):
        fit(policy, data, Mortal(tmp_path / "b", 3), max_tokens_per_microbatch=4096, **options)
    state = json.loads((tmp_path / "b" / "work" / "checkpoint" / "step-2" / "state.json").read_text())
    assert state["shape"]["tokens"] == 4096
    found = fit(policy, data, Workspace(tmp_path / "b"), max_tokens_per_microbatch=64, **options)
    assert _weights(found) == _weights(expected)
