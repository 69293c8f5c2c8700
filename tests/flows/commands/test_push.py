"""What is pushed to a hub: the files of `export`, a card made from the lineage, and nothing twice."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import DatasetCard, ModelCard

from flows.commands.push import push_to
from flows.store.records import Record
from flows.store.store import Store
from tasks.contract import DataError, SpecError
from tasks.kinds import Policy
from tests.adapters import adapter_policy
from tests.flows.fabricated import Fabricated, fabricate
from tests.flows.store.made import key_of, publish, put
from tests.hub_server import TOKEN, Hub, hub
from tests.models import tiny_policy


@pytest.fixture
def standin(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with hub() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Fabricated:
    return fabricate(tmp_path_factory.mktemp("pushed"))


def test_a_policys_card_has_its_method_results_with_intervals_and_data_with_digests(
    made: Fabricated, standin: Hub
) -> None:
    url = push_to(made.store, "last:policy@2", "org/better", private=True)
    assert url == f"{standin.url}/org/better"
    repository = standin.repositories["org/better"]
    assert (repository.kind, repository.private) == ("model", True)
    assert {*repository.files} == {"README.md", "model.safetensors"}
    assert repository.files["model.safetensors"] == b"round 2"
    card = ModelCard(repository.files["README.md"].decode())
    assert (card.data.library_name, card.data.license) == ("transformers", None)
    assert card.data.tags[0] == "alignflow"
    [win_rate] = [r for r in card.data.eval_results if r.metric_type == "eval/win_rate"]
    assert win_rate.metric_value == 0.71
    text = card.text
    assert "| win rate vs. base | 0.710 | 0.680 to 0.740 | 2 | probability |" in text
    assert "only 2 prompts (fewer than 30)" in text
    assert made.records["heldout"].content[:12] in text
    assert f"Content digest: `{made.records['policy@2'].content}`" in text
    assert "| `loss` | `sppo(eta=10.0)` |" in text
    assert "None was chosen" in text
    assert str(made.store.root) not in text


def test_pushing_the_same_again_makes_no_commit(made: Fabricated, standin: Hub) -> None:
    for _ in range(2):
        push_to(made.store, "last:policy@2", "org/better")
    assert standin.repositories["org/better"].commits == [f"alignflow: Policy {made.records['policy@2'].content}"]


def test_a_tables_card_explains_its_columns_and_how_it_was_made(made: Fabricated, standin: Hub) -> None:
    assert push_to(made.store, "last:report/sample@1", "org/answers") == f"{standin.url}/datasets/org/answers"
    repository = standin.repositories["org/answers"]
    assert (repository.kind, repository.private) == ("dataset", False)
    assert {*repository.files} == {"README.md", "table.parquet"}
    card = DatasetCard(repository.files["README.md"].decode())
    assert card.data.tags == ["alignflow", "completions"]
    assert "2 rows of Completions, made by the step `round 1 · report/sample` of `sppo`" in card.text
    assert "| `finish_reason` | `string` | 'stop': ended by" in card.text
    assert f"`{made.records['policy@1'].content[:12]}`" in card.text


def _adapter(store: Store, folder: Path) -> Record:
    """An adapter in the store, of a base that was read from the hub as `org/base`."""
    path = {"choice": "sources/path", "params": {"path": "org/base"}}
    base = put(store, Policy(tiny_policy(folder / "base").path), "read_policy", source=path)
    opened: Any = store.open(base)
    key = key_of("fit", {"policy": [base.content]})
    return publish(store, key, adapter_policy(opened, store.partial(key.digest) / "output", seed=1),
                   parents={"policy": [base]})  # fmt: skip


def test_an_adapter_goes_there_as_peft_stores_it_with_its_base_named(
    store: Store, tmp_path: Path, standin: Hub
) -> None:
    import json

    adapter = _adapter(store, tmp_path)
    push_to(store, adapter.content, "org/adapter")
    files = standin.repositories["org/adapter"].files
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "README.md"} <= {*files}
    assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == "org/base"
    card = ModelCard(files["README.md"].decode())
    assert (card.data.base_model, card.data.base_model_relation) == ("org/base", "adapter")
    assert card.data.library_name == "peft"
    assert 'AutoPeftModelForCausalLM.from_pretrained("org/adapter")' in card.text
    assert len(standin.large) > 0, "large files go by LFS"


def test_an_adapter_of_a_base_that_no_hub_has_needs_its_name(store: Store, tmp_path: Path, standin: Hub) -> None:
    base = put(store, Policy(tiny_policy(tmp_path / "base").path), "fit")
    opened: Any = store.open(base)
    key = key_of("fit", {"policy": [base.content]})
    made = publish(store, key, adapter_policy(opened, store.partial(key.digest) / "output", seed=1),
                   parents={"policy": [base]})  # fmt: skip
    with pytest.raises(SpecError, match=r"is an adapter, and its base Policy \w+ \(made by `fit`\) .* --base ORG/NAME"):
        push_to(store, made.content, "org/adapter")
    assert standin.repositories == {}
    push_to(store, made.content, "org/adapter", base="org/first")
    assert b'"org/first"' in standin.repositories["org/adapter"].files["adapter_config.json"]


def test_what_cannot_be_pushed_is_refused_with_what_to_do(
    made: Fabricated, standin: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SpecError, match="is no name of a repository"):
        push_to(made.store, "last:policy@2", "org/--better--")
    monkeypatch.setenv("HF_TOKEN", "wrong")
    with pytest.raises(DataError, match=r"the hub refused org/better: .*401.*hf auth login"):
        push_to(made.store, "last:policy@2", "org/better")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(DataError, match=r"the hub at http://127.0.0.1:1 does not answer"):
        push_to(made.store, "last:policy@2", "org/better")
