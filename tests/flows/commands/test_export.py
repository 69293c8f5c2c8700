"""What other programs open: a policy in transformers, a table in pandas and polars, an oracle as it was specified."""

from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest

from flows.commands.export import export_to
from flows.store.store import Store
from tasks.contract import SpecError
from tasks.kinds import Policy
from tests.flows.fabricated import fabricate
from tests.flows.store.made import put
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
