"""What other programs open: a policy in transformers, a table in pandas and polars, an oracle as it was specified."""

from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest

from flows.commands.export import export_to
from flows.commands.options import Dtype
from flows.store.records import Record
from flows.store.store import Store
from tasks.contract import SpecError
from tasks.kinds import Policy
from tests.adapters import adapter_policy
from tests.flows.fabricated import fabricate
from tests.flows.store.made import key_of, publish, put
from tests.models import tiny_policy


def test_transformers_opens_an_exported_policy_and_its_logits_are_those_of_the_stored_one(
    store: Store, tmp_path: Path
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    made = tiny_policy(tmp_path / "made")
    (made.path / "state").mkdir()
    (made.path / "state" / "optimizer.safetensors").write_bytes(b"0" * 1000)
    record = put(store, Policy(made.path), "ppo")
    files = export_to(store, record.content[:8], tmp_path / "model")
    assert {f.name for f in files} >= {"config.json", "model.safetensors", "tokenizer.json"}
    assert not (tmp_path / "model" / "state").exists()
    assert not any(f.is_symlink() for f in files)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    ids = torch.tensor([tokenizer.encode("the fox is tiny .")])
    logits = []
    for path in (tmp_path / "model", store.root / record.path):
        with torch.inference_mode():
            logits.append(AutoModelForCausalLM.from_pretrained(path)(ids).logits)
    assert torch.equal(*logits)


def _adapter(store: Store, folder: Path) -> Record:
    """An adapter in the store, of a base in a folder of the user."""
    base = put(store, Policy(tiny_policy(folder / "base").path), "read")
    opened: Any = store.open(base)
    key = key_of("fit", {"policy": [base.content]})
    made = adapter_policy(opened, store.partial(key.digest) / "output", seed=1)
    return publish(store, key, made, parents={"policy": [base]})


def test_an_exported_adapter_is_one_model_for_transformers_and_with_peft_the_same_on_its_base(
    store: Store, tmp_path: Path
) -> None:
    import torch
    from peft import AutoPeftModelForCausalLM, PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    adapter = _adapter(store, tmp_path)
    whole = export_to(store, adapter.content, tmp_path / "whole")
    layers = export_to(store, adapter.content, tmp_path / "layers", layers=True)
    export_to(store, adapter.content, tmp_path / "half", dtype=Dtype.BFLOAT16)
    assert "adapter.json" not in {f.name for f in (*whole, *layers)}
    assert {"adapter_config.json", "adapter_model.safetensors"} <= {f.name for f in layers}
    assert len({f.stat().st_mode for f in (*whole, *layers)}) == 1
    ids = torch.tensor([AutoTokenizer.from_pretrained(tmp_path / "whole").encode("the fox is tiny .")])
    start = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    with torch.inference_mode():
        of_base = start(ids).logits
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / "whole")(ids).logits
        half = AutoModelForCausalLM.from_pretrained(tmp_path / "half")
        with_peft = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "layers")(ids).logits
        on_base = PeftModel.from_pretrained(start, str(tmp_path / "layers"))(ids).logits
    assert (merged - with_peft).abs().max() < 1e-4
    assert torch.equal(with_peft, on_base)
    assert (merged - of_base).abs().max() > 0.1
    assert half.dtype == torch.bfloat16
    (tmp_path / "base" / "config.json").unlink()
    with pytest.raises(
        SpecError, match=r"its base is Policy \w+ \(made by `read` .* and that folder has changed: put it"
    ):
        export_to(store, adapter.content, tmp_path / "late")


@pytest.mark.parametrize("options", [{"layers": True}, {"dtype": Dtype.BFLOAT16}])
def test_what_is_no_adapter_has_no_layers_and_no_other_type(options: dict[str, Any], tmp_path: Path) -> None:
    made = fabricate(tmp_path, rounds=1)
    with pytest.raises(
        SpecError, match="last:policy is a Policy and no adapter: --adapter and --dtype are for adapters"
    ):
        export_to(made.store, "last:policy", tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_table_becomes_parquet_with_the_same_rows_and_a_report_brings_its_prompts(tmp_path: Path) -> None:
    made = fabricate(tmp_path, rounds=1)
    (file,) = export_to(made.store, "sppo/report/sample", tmp_path / "answers")
    table = made.store.open(made.records["report/sample@1"]).table  # type: ignore[attr-defined]
    assert file.name == "table.parquet"
    assert pq.read_table(file).equals(table)
    with pytest.raises(SpecError, match="not empty"):
        export_to(made.store, "sppo/report/sample", tmp_path / "answers")
    (message,) = pl.read_parquet(file)["prompt"].to_list()[0]
    assert (message["role"], message["content"]) == ("user", "where does the swan live ?")


def test_what_is_damaged_is_not_exported(tmp_path: Path) -> None:
    made = fabricate(tmp_path, rounds=1)
    (made.store.root / made.records["heldout"].path / "table.arrow").write_bytes(b"noise")
    with pytest.raises(SpecError, match=r"cannot be exported: .* was damaged"):
        export_to(made.store, "last:heldout", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("ref", "message"), [("last", "last:STEP"), ("sppo", "sppo/STEP"), ("zz", "names nothing")])
def test_the_refusal_of_a_reference_to_no_artifact_shows_how_to_name_one(
    tmp_path: Path, ref: str, message: str
) -> None:
    made = fabricate(tmp_path, rounds=1)
    with pytest.raises(SpecError, match=message):
        export_to(made.store, ref, tmp_path / "out")
