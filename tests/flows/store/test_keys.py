import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

from flows.planning.key_diff import differences
from flows.store.content import Contents
from flows.store.keys import Choices, Key, fixed_digest
from flows.wiring.model import ChoiceValue, Node
from flows.wiring.where import Where
from tasks.contract import SpecError
from tests.flows.codebases import code_index

Tree = Callable[..., Path]

FILES = {
    "train": """
        def fit(policy, data, *, loss, lr):
            '''Fit.'''
            return loss(lr)
    """,
    "losses__dpo": "import torch\n\ndef dpo(x, *, beta):\n    return torch.log(x) * beta\n",
    "losses__ipo": "def ipo(x, *, beta):\n    return x * beta\n",
    "sources__file": """
        from pathlib import Path

        def file(*, path):
            return open(path)

        def identity(*, online, base, path):
            return {"content": base / path, "seen": "online" if online else "offline"}
    """,
}


def node(**changes: Any) -> Node:
    loss = ChoiceValue("losses", "dpo", {"beta": 0.1})
    made = Node(
        id="policy@1", addresses=("policy@1",), task="fit", module="tasks.train", kind="Policy",
        params={"loss": loss, "lr": 1e-3}, execution={"micro_batch": 8},
        inputs={"policy": ("base",), "data": ("x", "y")}, lists=frozenset({"data"}), work=True, round=1,
        where=Where("pipelines.yaml", 3, 5),
    )  # fmt: skip
    return replace(made, **changes)


def choices(root: Path, **options: Any) -> Choices:
    return Choices(code_index(root), Contents(), root, **options)


def key(root: Path, inputs: Mapping[str, list[str]] | None = None, **changes: Any) -> Key:
    return choices(root).prepare(node(**changes)).key(inputs or {"policy": ["p"], "data": ["1", "2"]})


def test_the_parts_of_a_key_are_what_the_result_depends_on(tree: Tree) -> None:
    parts = key(tree(**FILES)).parts
    assert parts["task"] == "fit"
    assert [name for name, _ in parts["code"]] == ["dpo", "fit"]  # type: ignore[union-attr, misc]
    assert list(key(tree(**FILES)).code) == ["tasks/losses/dpo.py::dpo", "tasks/train.py::fit"]
    assert parts["params"] == {"loss": {"choice": "losses/dpo", "params": {"beta": 0.1}}, "lr": 1e-3}
    assert parts["inputs"] == {"data": ["1", "2"], "policy": ["p"]}
    assert parts["packages"] == {"python": f"{sys.version_info.major}.{sys.version_info.minor}", "torch": "2.13.0"}
    assert parts["identities"] == {}


def test_the_reward_scale_beside_a_loss_is_in_the_key_and_other_functions_are_not(tree: Tree) -> None:
    def digest(beside: str) -> str:
        return key(tree(**{**FILES, "losses__dpo": f"{FILES['losses__dpo']}\n{beside}\n"})).digest

    scales = [digest(f"def reward_scale(*, beta):\n    return {scale}") for scale in ("beta", "1 / beta")]
    plain = key(tree(**FILES)).digest
    assert len({plain, *scales}) == 3
    assert digest("def other(beta):\n    return beta") == plain


def test_the_digest_is_that_of_the_canonical_parts(tree: Tree) -> None:
    made = key(tree(**FILES))
    canonical = json.dumps(made.parts, sort_keys=True, separators=(",", ":"))
    assert made.digest == blake3(canonical.encode()).hexdigest(16)


@pytest.mark.parametrize(
    "changes",
    [{"id": "other", "addresses": ("other",)}, {"execution": {"micro_batch": 1}}, {"round": 2},
     {"where": Where("elsewhere.yaml")}, {"params": {"lr": 1e-3, "loss": ChoiceValue("losses", "dpo", {"beta": 0.1})}},
     {"params": {"loss": ChoiceValue("losses", "dpo", {"beta": 0.1}, {"device": "cuda"}), "lr": 1e-3}}],
    ids=["name", "execution", "round", "place", "order", "execution of a choice"],
)  # fmt: skip
def test_what_does_not_change_the_result_is_in_no_key(tree: Tree, changes: dict[str, Any]) -> None:
    root = tree(**FILES)
    assert key(root, **changes).digest == key(root).digest


def test_the_code_that_asks_a_reward_model_is_that_of_the_step_which_asks(tree: Tree) -> None:
    scorer = {"training__reward_scorer": "import torch\n\ndef reward_scorer(*, path):\n    return torch.load(path)\n"}
    asking = {"params": {"loss": ChoiceValue("losses", "ipo", {"beta": 0.1}), "lr": 1e-3}}
    root = tree(**FILES, **scorer)
    opened = key(root, **asking, opens=frozenset({"RewardModel"}))
    assert "tasks/training/reward_scorer.py::reward_scorer" in opened.code
    assert "torch" in opened.parts["packages"]
    assert "torch" not in key(root, **asking).parts["packages"]


def test_the_handles_that_a_step_takes_and_gives_are_in_its_key(tree: Tree) -> None:
    kinds = """
        class Table:
            def frame(self):
                return 1

        class Prompts(Table):
            pass

        class Policy:
            pass
    """
    root = tree(**FILES, kinds=kinds)
    reads = {"kinds": frozenset({"Prompts"})}
    before, other = key(root, **reads), key(root)
    assert {"tasks/kinds.py::Table", "tasks/kinds.py::Prompts", "tasks/kinds.py::Policy"} <= set(before.code)
    tree(kinds=kinds.replace("return 1", "return 2"))
    assert key(root, **reads).digest != before.digest
    assert key(root).digest == other.digest


def test_an_empty_optional_port_is_as_if_it_were_not_there(tree: Tree) -> None:
    root = tree(**FILES)
    assert key(root, {"policy": ["p"], "ref": []}).digest == key(root, {"policy": ["p"]}).digest


def test_only_the_chosen_file_is_in_the_key(tree: Tree) -> None:
    before = key(tree(**FILES)).digest
    assert key(tree(losses__ipo="def ipo(x, *, beta):\n    return x\n")).digest == before
    assert key(tree(losses__dpo="def dpo(x, *, beta):\n    return x\n")).digest != before


def source(path: str) -> dict[str, Any]:
    return {"params": {"source": ChoiceValue("sources", "file", {"path": path})}}


def test_an_identity_counts_by_the_content_of_the_path_it_names(tree: Tree) -> None:
    root = tree(**FILES)
    (root / "pairs.jsonl").write_text("one")
    before = key(root, **source("pairs.jsonl"))
    content = blake3(b"one").hexdigest(16)
    assert before.parts["identities"] == {"source": {"content": content, "seen": "offline"}}
    (root / "pairs.jsonl").write_text("two")
    after = key(root, **source("pairs.jsonl"))
    assert [d.name for d in differences(before, after)] == ["source.content"]
    assert after.digest != before.digest


def test_an_identity_that_names_a_missing_path_is_an_error(tree: Tree) -> None:
    with pytest.raises(SpecError, match="there is no file or directory"):
        key(tree(**FILES), **source("nothing.jsonl"))


def test_a_task_receives_its_choices_with_code_identity_and_execution_parameters(tree: Tree) -> None:
    root = tree(**FILES)
    (root / "pairs.jsonl").write_text("one")
    made = choices(root, online=True)
    loss = ChoiceValue("losses", "dpo", {"beta": 0.1}, {"device": "cpu"})
    several = [ChoiceValue("sources", "file", {"path": "pairs.jsonl"})]
    arguments = made.prepare(node(params={"loss": loss, "lr": 1e-3, "sources": several})).arguments
    assert arguments["lr"] == 1e-3
    assert arguments["micro_batch"] == 8
    chosen: Any = arguments["loss"]
    assert (chosen.folder, chosen.name, chosen.params, chosen.execution) == (
        "losses", "dpo", {"beta": 0.1}, {"device": "cpu"}
    )  # fmt: skip
    assert chosen.code == made.code.reach("tasks.losses.dpo", "dpo").digest
    file: Any = arguments["sources"]
    assert file[0].identity == {"content": blake3(b"one").hexdigest(16), "seen": "online"}


def test_a_value_that_has_no_canonical_form_is_an_error_and_never_a_silent_key(tree: Tree) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        key(tree(**FILES), params={"lr": float("nan")})


def test_the_fixed_digest_leaves_out_the_inputs_alone(tree: Tree) -> None:
    root = tree(**FILES)
    first, second = key(root), key(root, {"policy": ["q"]})
    other = key(root, params={"lr": 1.0})
    assert fixed_digest(first.parts) == fixed_digest(second.parts) != fixed_digest(other.parts)


def test_differences_are_said_in_words() -> None:
    old: dict[str, Any] = {
        "params": {"k": 4, "loss": {"choice": "losses/dpo", "params": {"beta": 0.1}}, "gone": True},
        "code": [["f", "1"], ["g", "1"], ["moved", "1"]], "inputs": {"data": ["1"], "ref": ["r"]},
        "packages": {"torch": "2.12.0"}, "identities": {"source": {"content": "aa"}},
    }  # fmt: skip
    new: dict[str, Any] = {
        "params": {"k": 5, "loss": {"choice": "losses/dpo", "params": {"beta": 0.5}}, "stop": ["\n"]},
        "code": [["f", "2"], ["h", "1"], ["moved", "1"]], "inputs": {"data": ["2"]},
        "packages": {"torch": "2.13.0"}, "identities": {"source": {"content": "bb"}},
    }  # fmt: skip
    before = Key("", old, {"tasks/a.py::f": "1", "tasks/a.py::g": "1", "tasks/a.py::moved": "1"})
    after = Key("", new, {"tasks/a.py::f": "2", "tasks/a.py::h": "1", "tasks/b.py::moved": "1"})
    assert [d.text for d in differences(before, after)] == [
        "`gone` changed true → null", "`k` changed 4 → 5", "`loss.beta` changed 0.1 → 0.5",
        '`stop` changed null → ["\\n"]',
        "`tasks/a.py::f` changed", "`tasks/a.py::g` is no longer used", "`tasks/a.py::h` is used now",
        "what `source.content` reads changed aa → bb", "torch 2.12.0 → 2.13.0",
        "`data` came out different", "`ref` is no longer fed",
    ]  # fmt: skip
    without = replace(before, parts={k: v for k, v in old.items() if k != "inputs"})
    assert differences(before, without) == []
    [wired] = differences(before, replace(before, parts={**old, "wiring": "other"}))
    assert (wired.part, wired.text) == ("code", "what its code means by a name changed")
