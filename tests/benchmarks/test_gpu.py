"""The script for one GPU, at tiny sizes on the CPU."""

import json
from pathlib import Path

import pytest

from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu.__main__ import PARTS, Part, measured, rows_of
from benchmarks.processes import in_process

NOT_NEEDED = ("blake3", "polars", "datasets", "trl", "mlflow", "prefect", "vllm", "rich", "typer", "ruamel", "pydantic")


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which what the script does not need cannot be imported."""
    for name in NOT_NEEDED:
        (tmp_path / f"{name}.py").write_text(f"raise ImportError('{name} is not there')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


def test_a_part_that_fails_reports_its_error_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "PARTS", {"broken": Part("missing", 60), "ceilings": PARTS["ceilings"]})
    broken, ceilings = measured(["broken", "ceilings"], tiny=True, seconds=300)
    assert "No module named 'benchmarks.gpu.missing'" in broken["error"]
    assert rows_of(broken) == [{"case": {"part": "broken"}, "name": "broken", "error": broken["error"]}]
    assert ceilings["ceiling"] > 1e8
    assert rows_of(ceilings)[0]["tflops"] == pytest.approx(ceilings["ceiling"] / 1e12)


def test_parts_behind_the_end_of_the_time_are_skipped() -> None:
    (result,) = measured(["head"], tiny=True, seconds=0)
    assert "used up" in result["skipped"]


def test_every_part_has_its_function_and_all_limits_are_within_ten_minutes() -> None:
    for part in PARTS.values():
        assert (Path(gpu.__file__).parent / f"{part.function}.py").exists()
        assert part.limit < gpu.TOTAL_SECONDS


@pytest.mark.slow
def test_trainings_run_on_a_machine_without_the_packages_that_are_not_needed(bare: None) -> None:
    dpo, lora = measured(["dpo-0.6b", "lora-8b"], tiny=True, seconds=600)
    assert "error" not in dpo, dpo
    assert "error" not in lora, lora
    reference, few, some, _ = dpo["rows"]
    assert reference["seconds"] > 0
    assert few["passes_per_step"] > some["passes_per_step"] >= 1
    assert few["first_loss"] == pytest.approx(0.6931, abs=1e-4)
    assert few.keys() >= {"tokens_per_second", "mfu", "device_peak_gb", "passes_per_step", "idle_share"}
    (adapter,) = lora["rows"]
    assert adapter["last_loss"] != adapter["first_loss"] == pytest.approx(0.6931, abs=1e-4)
    # Rank 16 times inputs and outputs of the seven products of each of two layers.
    assert adapter["trained_weights"] == 2 * 16 * (128 + 96 + 96 + 128 + 3 * 224)


@pytest.mark.slow
def test_a_killed_training_ends_in_the_bytes_of_an_undisturbed_one(bare: None) -> None:
    (result,) = measured(["resume"], tiny=True, seconds=600)
    assert [row["equal"] for row in result["rows"]] == [True, True]
    assert [row["resumed_at_step"] for row in result["rows"]] == [5, 5], "step 4 was the last checkpoint"


def test_the_stand_in_for_blake3_gives_digests_of_the_same_form() -> None:
    from benchmarks.gpu.bare import _Digest

    assert len(_Digest(b"a").hexdigest(16)) == 32
    assert _Digest(b"ab").hexdigest(16) == _Digest(b"a").update(b"b").hexdigest(16) != _Digest(b"b").hexdigest(16)


def test_results_are_json(capsys: pytest.CaptureFixture[str]) -> None:
    measured(["head"], tiny=True, seconds=0)
    assert json.loads(capsys.readouterr().out)["part"] == "head"


def test_a_missing_gpu_is_refused_before_any_part_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert in_process("benchmarks.gpu.bare:device", {}, limit=120)["device"] == "cpu"
    with pytest.raises(SystemExit, match="--tiny"):
        gpu._check_device()
