"""Adapters beside one loaded base: both engines answer as the base and each adapter would alone."""

import importlib.util
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file, save_file

from tasks.calls import Adapter
from tasks.contract import Chosen, DataError, SpecError
from tasks.engines import vllm as vllm_module
from tasks.engines.transformers import TransformersEngine
from tasks.kinds import Policy
from tasks.rendering import Template
from tasks.sampling.requests import Engine, Options, Request, SampledAnswer, close_engine
from tasks.sampling.weights import meta_model
from tasks.template import stop_ids
from tasks.training.adapters import adapter_in, add_layers, learning_parameters
from tasks.training.model import open_model
from tests.adapters import adapted_model, adapter_policy
from tests.models import tiny_policy

TEXTS = ("where does the swan live ?", "a", "tell me what the bear eats and how big it is .", "hm")
K = 2
ENGINES = ("transformers", "vllm")
ORDER = ("base", "first", "second", "base", "wide", "first")
"""The policies in the order in which one engine answers as them."""
LONG = [1, *[10 + i % 250 for i in range(300)]]
"""A prompt of two of vLLM's blocks (128 tokens on a CPU) and more, so that its prefix cache has something to keep."""


def requests_of(policy: Policy) -> list[Request]:
    prompts: Any = Template(policy).prompts([[{"role": "user", "content": t}] for t in TEXTS])
    return [Request(p, 10 * i + k, 8) for i, p in enumerate(prompts) for k in range(K)]


def drawn(engine: Engine, policy: Policy) -> list[SampledAnswer]:
    options = Options(temperature=0.9, stop_ids=stop_ids(policy))
    return engine.generate([*requests_of(policy), Request(LONG, 5, 3)], options, lambda n: None)


def assert_answers_of(model: Any, policy: Policy, answers: list[SampledAnswer]) -> None:
    """The answers' log-probabilities are those of a plain pass through a trainer's model."""
    for request, answer in zip([*requests_of(policy), Request(LONG, 5, 3)], answers, strict=True):
        prompt = list(request.prompt_tokens)
        with torch.no_grad():
            logps = model(torch.tensor([prompt + answer.tokens])).logits[0].log_softmax(-1)
        plain = logps[range(len(prompt) - 1, len(prompt) + len(answer.tokens) - 1), answer.tokens]
        assert answer.token_logps == pytest.approx(plain.tolist(), abs=1e-4)


class Case(NamedTuple):
    """One kind of engine: `answers[i]` are those of the i-th of ORDER, by one engine that was loaded `loads` times."""

    name: str
    policies: dict[str, Policy]
    answers: list[list[SampledAnswer]]
    loads: int
    after_update: list[SampledAnswer]
    after_whole_update: list[SampledAnswer]
    other: Policy
    """Whose weights the last update sent."""


@pytest.fixture(scope="module")
def policies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Policy]:
    base = tiny_policy(tmp_path_factory.mktemp("base") / "policy", seed=4, positions=512)
    folder = tmp_path_factory.mktemp("adapters")
    return {
        "base": base,
        "first": adapter_policy(base, folder / "first", 1),
        "second": adapter_policy(base, folder / "second", 2, targets=("q_proj", "down_proj")),
        "wide": adapter_policy(base, folder / "wide", 3, rank=7),
    }


def misfits(policies: dict[str, Policy], folder: Path) -> list[tuple[Policy, str]]:
    """Adapters that do not fit the base, and what a message says of them."""

    def damaged(name: str, change: Any) -> Policy:
        to = folder / name
        shutil.copytree(policies["first"].path, to)
        change(to)
        return Policy(to, digest=name, base=policies["base"])

    def weights(change: Any) -> Any:
        def changed(to: Path) -> None:
            stored = {n: t.clone() for n, t in load_file(to / "adapter.safetensors").items()}  # not the file's memory
            save_file(change(stored), to / "adapter.safetensors")

        return changed

    def targets(to: Path) -> None:
        (to / "adapter.json").write_text(
            json.dumps({**json.loads((to / "adapter.json").read_text()), "targets": ["nowhere"]})
        )

    first = "model.layers.0.mlp.down_proj.lora_A.weight"
    return [
        (damaged("lacking", weights(lambda w: {n: t for n, t in w.items() if n != first})), f"{first} is missing"),
        (damaged("narrow", weights(lambda w: w | {first: w[first][:, 1:].contiguous()})), r"is \(4, 63\).*\(4, 64\)"),
        (damaged("elsewhere", targets), "no linear layer 'nowhere'"),
    ]


@pytest.fixture(scope="module", params=ENGINES)
def case(request: pytest.FixtureRequest, policies: dict[str, Policy], tmp_path_factory: Any) -> Iterator[Case]:
    name: str = request.param
    if name == "vllm" and not importlib.util.find_spec("vllm"):
        pytest.skip("vLLM is not installed")
    chosen = Chosen("engines", name, {}, execution={"lora_rank": 8} if name == "vllm" else {})
    kind: Any = TransformersEngine if name == "transformers" else vllm_module.VllmEngine
    loader = "__init__" if name == "transformers" else "_load"
    real, loads = getattr(kind, loader), []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(kind, loader, lambda self, *given: [loads.append(given), real(self, *given)][1])
        engine: Any = chosen(policies["base"])
        if name == "vllm":  # what keeps adapters apart is not that every call begins with an empty cache
            patched.setattr(engine.llm, "reset_prefix_cache", lambda: True)
        answers = [drawn(chosen(policies[which]), policies[which]) for which in ORDER]
        if name == "vllm":
            assert engine.llm.llm_engine.list_loras() == {4}, "vLLM keeps adapters that others have replaced"
        for misfit, message in misfits(policies, tmp_path_factory.mktemp("misfits")):
            with pytest.raises((SpecError, DataError), match=message):
                chosen(misfit)
        trained = adapted_model(policies["base"], 9)
        engine.update(learning_parameters(trained).items(), adapter_in(trained))
        after_update = drawn(engine, policies["base"])
        with torch.no_grad():
            for parameter in trained.parameters():
                parameter += 1
        assert drawn(engine, policies["base"]) == after_update, "the engine has the trainer's memory"
        assert drawn(chosen(policies["first"]), policies["base"]) == answers[1]
    other = tiny_policy(tmp_path_factory.mktemp("other") / "policy", seed=5, positions=512)
    engine.update(open_model(other, torch.float32).state_dict().items())
    yield Case(name, policies, answers, len(loads), after_update, drawn(engine, other), other)
    close_engine()


def test_the_base_and_three_adapters_need_one_load(case: Case) -> None:
    assert case.loads == 1


def test_the_log_probabilities_of_answers_are_the_trainers(case: Case) -> None:
    for which, answers in zip(ORDER, case.answers, strict=True):
        policy = case.policies[which]
        assert_answers_of(open_model(policy, torch.float32), policy, answers)


def test_answers_are_those_of_an_engine_of_its_own(case: Case) -> None:
    """Of one without any adapter for the base: bit for bit by the same kind of engine."""
    for which, answers in zip(ORDER[1:5], case.answers[1:5], strict=True):
        alone = TransformersEngine(case.policies["base"], 512, 4.0, "auto")
        alone.use(case.policies[which])
        expected = drawn(alone, case.policies[which])
        assert [a.tokens for a in answers] == [a.tokens for a in expected]
        assert case.name == "vllm" or answers == expected


def test_every_policy_has_answers_of_its_own_and_keeps_them(case: Case) -> None:
    tokens = [[a.tokens for a in answers] for answers in case.answers]
    assert tokens[0] == tokens[3]
    assert tokens[1] == tokens[5]
    for one, other in ((0, 1), (1, 2), (2, 4), (0, 4)):
        same = sum(a == b for a, b in zip(tokens[one], tokens[other], strict=True))
        assert same < len(tokens[0]) // 4


def test_an_engine_answers_with_adapter_weights_that_a_trainer_sent(case: Case) -> None:
    assert_answers_of(adapted_model(case.policies["base"], 9), case.policies["base"], case.after_update)


def test_new_weights_of_the_base_answer_without_an_adapter(case: Case) -> None:
    assert_answers_of(open_model(case.other, torch.float32), case.other, case.after_whole_update)


def test_an_adapter_whose_base_is_not_given_is_refused(policies: dict[str, Policy]) -> None:
    for name in ENGINES:
        with pytest.raises(DataError, match=r"is an adapter, and the model .* is not given"):
            Chosen("engines", name, {})(Policy(policies["first"].path))


def test_only_ranks_that_vllm_knows_get_room() -> None:
    from tasks.sampling.vllm_lora import lora_settings

    assert lora_settings(0) == {}
    assert [lora_settings(r)["max_lora_rank"] for r in (1, 2, 8, 9, 200, 512)] == [1, 8, 8, 16, 256, 512]
    with pytest.raises(SpecError, match="up to rank 512, not 513: use engine=transformers"):
        lora_settings(513)


class FakeVllm:
    """What `VllmEngine` does to vLLM, in order."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.llm_engine = self.engine_core = self

    def __getattr__(self, name: str) -> Any:
        return lambda *given, **named: self.calls.append((name, *given, *named.values()))

    def load(self, **settings: Any) -> Any:
        self.calls.append(("load", settings.get("max_lora_rank", 0), settings["enable_sleep_mode"]))
        return self


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeVllm:
    pytest.importorskip("vllm")
    made = FakeVllm()
    monkeypatch.setattr(vllm_module, "_load", made.load)
    monkeypatch.setattr("vllm.distributed.parallel_state.cleanup_dist_env_and_memory", lambda: None)
    return made


def test_room_for_adapters_is_made_when_the_first_comes_and_grows_with_a_wider_one(
    policies: dict[str, Policy], fake: FakeVllm
) -> None:
    chosen = Chosen("engines", "vllm", {})
    engines = [chosen(policies[name]) for name in ("base", "first", "second", "base", "first", "first")]
    wider = Adapter(12, 24.0, ("all-linear",))
    trained = meta_model(policies["base"])
    add_layers(trained, wider)
    engines[0].update([(name, torch.ones(p.shape)) for name, p in learning_parameters(trained).items()], wider)
    close_engine()
    assert [call[0] if call[0] != "load" else call[:2] for call in fake.calls] == [
        ("load", 0), "shutdown", ("load", 8), "add_lora", "add_lora", "add_lora", "shutdown", ("load", 16), "add_lora",
        "shutdown",
    ]  # fmt: skip
    names = [call[1].lora_name for call in fake.calls if call[0] == "add_lora"]
    assert names == ["adapter-1", "adapter-2", "adapter-3", "adapter-1"]  # the last one is another engine's
    assert len({id(engine) for engine in engines}) == 1


def test_a_vllm_engine_on_a_gpu_sleeps_while_it_rests_and_wakes_up_by_itself(
    policies: dict[str, Policy], fake: FakeVllm, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks.sampling.requests import rest

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    engine = Chosen("engines", "vllm", {}, execution={"lora_rank": 8})(policies["base"])
    rest()
    rest()
    engine.generate([], Options(), lambda n: None)
    rest()
    Chosen("engines", "vllm", {}, execution={"lora_rank": 8})(policies["first"])
    calls = [call[:2] if call[0] == "sleep" else call[0] for call in fake.calls]
    assert calls[:3] == ["load", ("sleep", 1), "wake_up"]
    assert calls[-3:] == [("sleep", 1), "wake_up", "add_lora"]
    assert calls.count(("sleep", 1)) == 2
    assert fake.calls[0] == ("load", 8, True)
    monkeypatch.undo()
    close_engine()


def test_a_vllm_engine_whose_weights_are_renewed_sleeps_without_them_until_an_update(
    policies: dict[str, Policy], fake: FakeVllm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    emptied: list[int] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(len(fake.calls)))
    engine = Chosen("engines", "vllm", {})(policies["base"])
    engine.rest(renewed=True)
    with pytest.raises(RuntimeError, match="rests without weights: `update` must bring all"):
        engine.generate([], Options(), lambda n: None)
    weights = open_model(policies["base"], torch.float32).state_dict()
    engine.update(weights.items())
    calls = [call[:2] if call[0] in ("sleep", "collective_rpc") else call[0] for call in fake.calls]
    assert calls == [
        "load", ("sleep", 2), "wake_up", ("collective_rpc", "reload_weights"), "apply_model", "reset_prefix_cache",
    ]  # fmt: skip
    assert emptied == [2], "torch keeps memory that vLLM needs when it wakes up"
    sent = {name: tensor.data_ptr() for name, tensor in fake.calls[3][2]["weights_iterator"]}
    assert sent == {name: weights[name].data_ptr() for name in sent}, "weights were copied on their way to vLLM"
    assert Chosen("engines", "vllm", {})(policies["base"]) is not engine
    monkeypatch.undo()
    close_engine()


def test_an_engine_on_a_cpu_has_nothing_to_free(policies: dict[str, Policy], fake: FakeVllm) -> None:
    for name in ENGINES:
        engine = Chosen("engines", name, {})(policies["base"])
        engine.rest()
    assert [call[0] for call in fake.calls] == ["load"]
    close_engine()


def test_a_transformers_engine_on_a_gpu_moves_its_weights_away_while_it_rests(
    policies: dict[str, Policy], monkeypatch: pytest.MonkeyPatch
) -> None:
    moves: list[str] = []

    class Placed:
        device = torch.device("cuda:0")

        def to(self, device: Any) -> None:
            self.device = torch.device(device)
            moves.append(self.device.type)

    engine = TransformersEngine(policies["base"], 8, 1.0, "auto")
    engine._device, engine.model = torch.device("cuda"), Placed()
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: moves.append("emptied"))
    engine._wake()
    engine.rest()
    engine._wake()
    assert moves == ["cpu", "emptied", "cuda"]


def test_a_transformers_engine_whose_weights_are_renewed_rests_without_them_until_an_update(
    policies: dict[str, Policy], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    other = open_model(tiny_policy(policies["base"].path.parent / "renewed", seed=6, positions=512), torch.float32)
    engines = [TransformersEngine(policies["base"], 8, 1.0, "auto") for _ in range(2)]
    engines[0]._device = torch.device("cuda")
    engines[0].rest(renewed=True)
    engines[0].rest()
    engines[0]._device = torch.device("cpu")
    assert sum(parameter.numel() for parameter in engines[0].model.parameters()) == 0
    with pytest.raises(RuntimeError, match="rests without weights"):
        drawn(engines[0], policies["base"])
    for engine in engines:
        engine.update(other.state_dict().items())
    first, second = (drawn(engine, policies["base"]) for engine in engines)
    assert first == second
    assert_answers_of(other, policies["base"], first)


def test_an_update_of_a_transformers_engine_takes_no_weight_through_the_host(policies: dict[str, Policy]) -> None:
    """The meta device stands for a GPU: a tensor that were to leave it would raise an error."""
    engine = TransformersEngine(policies["base"], 8, 1.0, "auto")
    engine._device = torch.device("meta")
    engine.model.to("meta")
    trained = adapted_model(policies["base"], 9).to("meta")
    engine.update(learning_parameters(trained).items(), adapter_in(trained))
    engine.update(meta_model(policies["base"]).state_dict().items())
    assert {parameter.device.type for parameter in engine.model.parameters()} == {"meta"}
