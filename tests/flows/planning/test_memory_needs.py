"""Plans on a fake GPU of 80 GB: what a step needs of it, and steps that are refused because it has less."""

import json
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any

import pytest

from flows.planning.memory import check_memory, memory_text
from flows.planning.plan import Plan, make_plan
from flows.store.store import Store
from flows.wiring import machine
from flows.wiring.graph import compile_pipeline
from flows.wiring.model import ChoiceValue, Node, Profile
from flows.wiring.where import Where
from tasks.contract import SpecError
from tasks.declarations import Machine, Memory
from tests.configs import CONFIGS

GB, GIB = 10**9, 2**30
H100, LAPTOP = Machine(True, 80 * GB, 512 * GB), Machine(False, 16 * GB, 16 * GB)
WIRING = """
pipelines:
  mine:
    extends: alignflow#offline-dpo
    params: {model: ./0.5B, pairs: ./pairs.jsonl, split: all, optimizer: adamw, weights: float32,
             tokens: 0, lr: 1.0e-6}
    steps:
      policy: {optimizer: $optimizer, weight_dtype: $weights, max_tokens_per_microbatch: $tokens}
      report: null
  lora:
    extends: mine
    steps: {policy: {adapter: {lora: {rank: 16}}, gradient_checkpointing: on}}
  merged:
    extends: lora
    steps: {whole: {task: merge, policies: [policy]}}
  ppo:
    extends: alignflow#rm-ppo
    params: {model: ./0.5B, prompts: ./pairs.jsonl, split: all, pairs: ./pairs.jsonl, pairs_split: all, rounds: 1,
             lr: 3.0e-6, reward_lr: 3.0e-6}
    steps: {base_check: null, reward_report: null}
    repeat: {steps: {report: null}}
  ppo-lora:
    extends: alignflow#rm-ppo-lora
    params: {model: ./8B, prompts: ./pairs.jsonl, split: all, pairs: ./pairs.jsonl, pairs_split: all, rounds: 2,
             lr: 1.0e-5, reward_lr: 1.0e-5}
    steps: {base_check: null, reward_report: null}
    repeat: {steps: {report: null}}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Models without weights, pairs, a wiring; 80 GB."""
    for name, config in CONFIGS.items():
        model = tmp_path / name
        model.mkdir()
        (model / "config.json").write_text(json.dumps({**config, "eos_token_id": 1}))
        (model / "tokenizer.json").write_text("{}")
        (model / "chat_template.jinja").write_text("{{ messages }}")
        (model / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    row = {"prompt": "why", "chosen": "because", "rejected": "so"}
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps({**row, "prompt": f"why {i}"}) + "\n" for i in range(9)))
    (tmp_path / "pipelines.yaml").write_text(WIRING)
    use(H100, monkeypatch)
    return tmp_path


def use(there: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "has_gpu", lambda: there.gpu)
    monkeypatch.setattr(machine, "this_machine", lambda: there)


def plan(folder: Path, model: str, name: str = "mine", **params: str) -> Plan:
    graph = compile_pipeline(folder / "pipelines.yaml", name, {"model": f"./{model}", **params})
    return make_plan(graph, Store(folder / "store"))


def need(planned: Plan, task: str) -> Memory:
    (found,) = [step.memory for step in planned.steps if step.node.task == task]
    assert found
    return found


def test_a_plan_states_what_training_and_scoring_need_of_a_device(folder: Path) -> None:
    """1.5B: 28 GiB and 25 GiB of activations; its reference has 1.54e9 weights of 2 bytes, 0.23e9 of 4."""
    planned = plan(folder, "1.5B")
    assert need(planned, "fit").device / GIB == pytest.approx(28 + 25, rel=0.15)
    assert need(planned, "logps").parts["weights"] == 2 * 1543656960 + 2 * 151936 * 1536
    line = next(line for line in planned.text().splitlines() if line[11:].strip().startswith("policy "))
    assert line.endswith(" GiB per device]")
    (step,) = [s for s in planned.as_json()["steps"] if s["task"] == "fit"]  # type: ignore[index, call-overload, union-attr]
    assert step["memory"]["device"] == need(planned, "fit").device  # type: ignore[index, call-overload]


def test_what_cannot_fit_is_refused_with_the_changes_that_would_fit(folder: Path) -> None:
    with pytest.raises(SpecError) as caught:
        plan(folder, "8B")
    text = str(caught.value)
    assert "mine.policy needs about 146 GiB per device (optimizer 60 GiB, weights 30 GiB, gradients 30 GiB" in text
    assert "and the GPU has 75 GiB, the machine has 477 GiB" in text
    change = "optimizer: adamw_offloaded, weight_dtype: bfloat16"
    assert f"`{change}` (38 GiB per device and 120 GiB of the machine)" in text
    assert "max_tokens_per_microbatch" not in text


def test_a_plan_offers_an_adapter_which_then_fits(folder: Path) -> None:
    """Of 8B: 2 bytes a weight, and 4 of the embedding."""
    with pytest.raises(SpecError, match=r"`adapter: \{lora: \{rank: 16\}\}` \(2\d GiB per device\)"):
        plan(folder, "8B")
    planned = plan(folder, "8B", "lora")
    assert need(planned, "fit").device < 30e9
    assert need(planned, "fit").parts["weights"] == pytest.approx(2 * (8.03e9 + 0.525e9) + 4 * 42e6, rel=0.01)


def test_a_scoring_in_float32_that_does_not_fit_is_refused_with_the_type_that_fits(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """8B: 8.03e9 weights of 4 bytes; in bfloat16 of 2 bytes, with 128,256 · 4,096 of the embedding in float32."""
    use(Machine(False, 24 * GB, 24 * GB), monkeypatch)
    with pytest.raises(SpecError, match=r"mine\.policy/logps needs about 3\d GiB") as caught:
        plan(folder, "8B")
    assert "; these changes of the step would fit: `dtype: bfloat16` (16 GiB per device). Or take" in str(caught.value)


def test_a_merge_needs_the_base_in_float32_on_the_machine(folder: Path) -> None:
    planned = need(plan(folder, "8B", "merged"), "merge")
    assert (planned.device, planned.host) == (0, 4 * 8030261248)


def test_an_optimizer_on_the_host_fits_where_its_memory_is(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"optimizer": "adamw_offloaded", "weights": "bfloat16", "tokens": "2048"}
    assert need(plan(folder, "8B", **given), "fit").host == 16 * 8030261248
    use(Machine(True, 80 * GB, 64 * GB), monkeypatch)
    with pytest.raises(SpecError, match=r"GiB per device and 120 GiB of the machine .* the machine has 60 GiB"):
        plan(folder, "8B", **given)


def test_ppo_needs_three_networks_and_the_engine(folder: Path) -> None:
    """36 bytes a parameter of three networks of 0.5B, and 2 of the engine's copy."""
    memory = need(plan(folder, "0.5B", "ppo"), "ppo")
    networks = sum(
        memory.parts[n] for n in ("weights", "gradients", "optimizer", "bfloat16 copies of weights", "reference")
    )
    assert networks / GIB == pytest.approx(17, rel=0.15)
    assert memory.parts["engine"] >= 2 * 0.494e9


def test_ranks_of_ppo_do_not_share_weights_whatever_the_profile(folder: Path) -> None:
    graph = compile_pipeline(folder / "pipelines.yaml", "ppo", {"model": "./0.5B"})
    several = replace(graph, ranks=dict.fromkeys(graph.nodes, 4), profile=Profile("four", sharding="fsdp"))
    planned = make_plan(several, Store(folder / "store"))
    assert need(planned, "ppo") == need(plan(folder, "0.5B", "ppo"), "ppo")
    assert need(planned, "fit_reward").device < need(plan(folder, "0.5B", "ppo"), "fit_reward").device


def test_ppo_is_refused_where_its_reward_model_could_still_be_trained(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(Machine(True, 16 * GB, 512 * GB), monkeypatch)
    with pytest.raises(
        SpecError,
        match=r"ppo\.policy@1 needs about \d+ GiB per device.*`adapter: \{lora: .*, and for the reward model` \(5",
    ):
        plan(folder, "0.5B", "ppo")


def test_ppo_computes_activations_again_where_it_does_not_fit_otherwise(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 0.5B: 33 GiB, 12 of them activations; the reward model alone trains in 25 GB without it."""
    plain = need(plan(folder, "0.5B", "ppo"), "ppo")
    use(Machine(True, 25 * GB, 512 * GB), monkeypatch)
    planned = plan(folder, "0.5B", "ppo")
    less = need(planned, "ppo")
    changed = {name for name in plain.parts if plain.parts[name] != less.parts[name]}
    assert changed == {"activations"}
    assert less.parts["activations"] < plain.parts["activations"] / 5
    assert plain.device > 25 * GB > less.device
    assert "gradient_checkpointing: on" in need(planned, "fit_reward").alternatives


def test_ppo_with_adapters_needs_their_base_once_and_no_reference(folder: Path) -> None:
    """8.03e9 weights of 2 bytes, 0.53e9 of the embedding and as many of the head besides; two adapters of rank 16 with
    42e6 weights each. The engine has the base again."""
    planned = plan(folder, "8B", "ppo-lora")
    rounds = [step.memory for step in planned.steps if step.node.task == "ppo"]
    assert len(rounds) == 2
    for memory in rounds:
        assert memory
        assert memory.device / GIB == pytest.approx(39.4, abs=0.1)
        assert memory.parts["reference"] == 0
        assert memory.parts["weights"] == 2 * (8030261248 + 128256 * 4096) + 2 * 4 * 41943040


def test_without_a_gpu_the_machines_memory_counts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(LAPTOP, monkeypatch)
    assert need(plan(folder, "0.5B"), "fit").device / GIB == pytest.approx(9, abs=2)
    with pytest.raises(SpecError, match=r"GiB.*, and the machine has 15 GiB"):
        plan(folder, "1.5B")


def test_a_trained_model_has_the_shape_of_the_one_it_starts_from(folder: Path) -> None:
    """The value network of PPO starts from the reward model, and that from the policy. Of the reference 2 bytes a
    parameter, of its embedding 4."""
    memory = need(plan(folder, "0.5B", "ppo"), "ppo")
    assert memory.parts["optimizer"] == 2 * 8 * 494005120
    assert memory.parts["reference"] == 2 * 494005120 + 2 * 151936 * 896


def test_an_optimizer_and_its_parameters_are_given_on_the_command_line(folder: Path) -> None:
    graph = compile_pipeline(
        folder / "pipelines.yaml", "mine", {"model": "./0.5B", "optimizer": "{adamw: {betas: [0.9, 0.95]}}"}
    )
    (fit,) = [node for node in graph.nodes.values() if node.task == "fit"]
    assert fit.params["optimizer"] == ChoiceValue(
        "optimizers", "adamw", {"betas": [0.9, 0.95], "eps": 1e-8, "weight_decay": 0.0}
    )
    with pytest.raises(SpecError, match=r"optimizer = 'adam'; there is no such choice; choose one of \[adafactor, "):
        plan(folder, "0.5B", optimizer="adam")


def test_an_optimizer_whose_package_is_missing_is_refused_before_any_work(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SpecError, match=r"mine\.policy: the optimizer adamw_8bit needs .* torchao.*pip install"):
        plan(folder, "0.5B", optimizer="adamw_8bit")


def memory(gib: float, **given: Any) -> Memory:
    return Memory({"weights": gib * GIB}, **given)


def test_a_need_within_the_accuracy_of_its_estimate_is_not_refused() -> None:
    """Of a device of 100 GiB: 117 could be 99.5, 118 would be 100.3."""
    node = Node("x", (), "fit", "", "Policy", {}, {}, {}, frozenset(), True, None, Where("f", 1, 2))
    there = Machine(True, 100 * GIB, inf)
    check_memory(node, "p", memory(117), there)
    with pytest.raises(SpecError, match=r"f:1:2: p\.x needs about 118 GiB per device"):
        check_memory(node, "p", memory(118), there)


def test_small_and_unknown_needs_are_not_mentioned() -> None:
    assert memory_text(None) == memory_text(memory(0.9)) == ""
    assert memory_text(memory(1.26)) == "1.3 GiB per device"
    assert memory_text(memory(20, host=40 * GIB)) == "20 GiB per device and 40 GiB of the machine"
