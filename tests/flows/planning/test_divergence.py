"""Where two runs, or two results, part: by key and, under one key, by content."""

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from flows.commands.explain import explain_json, explain_text
from flows.planning.content_diff import first_difference
from flows.store.keys import Key, digest_of
from flows.store.records import Record
from flows.store.runs import Run, Runs, RunStep
from flows.store.store import HowMade, Store
from tasks.contract import JSON, SpecError
from tasks.kinds import Completions, Prompts
from tests.flows.store.made import completions, prompts

PARTS: dict[str, JSON] = {"code": [], "wiring": "", "params": {}, "packages": {}, "identities": {}, "inputs": {}}


class Made:
    """One run in a store of its own: prompts, then answers to them."""

    def __init__(self, root: Path) -> None:
        self.store = Store(root)
        self.runs = Runs(self.store)
        self.run: Run = self.runs.begin("sppo", {})

    def step(
        self, id: str, handle: Prompts | Completions, prompts: Record | None = None, policy: Record | None = None,
        threads: int = 2, code: Mapping[str, str] | None = None, **parts: JSON,
    ) -> Record:  # fmt: skip
        """Publish a result and enter it as a step of the run."""
        fed = {port: [record] for port, record in (("policy", policy), ("prompts", prompts)) if record}
        inputs: JSON = {port: [r.content for r in several] for port, several in fed.items()}
        whole = {**PARTS, "task": id, "inputs": inputs, **parts}
        key = Key(digest_of(whole), whole, code or {})
        made = HowMade(hardware={"threads": threads})
        with self.store.lock(key.digest):
            record = self.store.publish(key, handle, parents=fed, made=made)
        self.run.steps[id] = RunStep(id, (id,), id, id, key=record.key, content=record.content, kind=record.kind)
        self.runs.save(self.run)
        return record


@pytest.fixture
def here(tmp_path: Path) -> Made:
    return Made(tmp_path / "here")


@pytest.fixture
def there(tmp_path: Path) -> Made:
    return Made(tmp_path / "there")


def test_equal_runs_are_said_to_be_the_same(here: Made, there: Made) -> None:
    for made in (here, there):
        made.step("load", prompts("a", "b"))
    assert explain_text(here.store, "last", there.store, "last").startswith("They are the same")
    assert explain_json(here.store, "last", there.store, "last") == {"step": None}


def test_the_first_step_in_graph_order_whose_key_differs_is_named_with_what_differs_in_it(
    here: Made, there: Made
) -> None:
    for made, temperature in ((here, 1.0), (there, 0.5)):
        loaded = made.step("load", prompts("a", "b"))
        sampled = made.step("sample", completions("a", str(temperature)), loaded, params={"temperature": temperature})
        made.step("judge", completions("a"), sampled, params={"order": temperature})
    runs = explain_text(here.store, "last", there.store, "last")
    assert "They part at `sample`" in runs
    assert "because `temperature` changed 1.0 → 0.5" in runs
    steps = explain_json(here.store, "last:judge", there.store, "last:judge")
    assert isinstance(steps, dict)
    assert steps["step"] == "judge ← prompts"
    assert steps["because"] == [
        {"part": "params", "name": "temperature", "text": "`temperature` changed 1.0 → 0.5"}
    ]  # fmt: skip


def test_of_two_steps_in_other_places_it_says_so_first_and_compares_what_is_in_one_place(here: Made) -> None:
    policy = here.step("init", completions("a"), params={"layers": 2})
    for number in (1, 2, 3):
        batch = here.step(f"batch@{number}", prompts(str(number)), task="take_batch", params={"index": number})
        policy = here.step(f"policy@{number}", completions(f"{number}"), task="fit", prompts=batch, policy=policy)
    first, *others = explain_text(here.store, "last:policy@1", here.store, "last:policy@2").splitlines()
    assert first == "They are wired differently: `policy@1` and `policy@2` are two steps"
    unlike = "They are wired differently: `policy@1 ← policy` is a result of `init` here, of `fit` there"
    assert others == [unlike], "nothing of unlike steps is compared"
    _, wired, alike, reason = explain_text(here.store, "last:policy@2", here.store, "last:policy@3").splitlines()
    assert wired == unlike.replace("policy@1 ← policy", "policy@2 ← policy ← policy")
    assert alike.startswith("Among the steps that both have in the same place, they part at `policy@2 ← prompts`: ")
    assert reason == "  because `index` changed 2 → 3"


def test_of_two_runs_with_other_tasks_in_one_place_nothing_but_the_tasks_is_named(here: Made, there: Made) -> None:
    for made, task in ((here, "score"), (there, "rank")):
        made.step("judged", completions(task), task=task, params={task: 1})
    text = explain_text(here.store, "last", there.store, "last")
    assert text == "They are wired differently: `judged` is a result of `score` here, of `rank` there"


def test_where_another_key_gave_the_same_content_the_first_step_that_did_not_is_named(here: Made, there: Made) -> None:
    for made, factor in ((here, 1), (there, 2)):
        loaded = made.step("load", prompts("a"), params={"factor": factor})
        made.step("sample", completions("a", str(factor)), loaded, params={"factor": factor})
    found = explain_text(here.store, "last", there.store, "last")
    assert "They part at `load`" in found
    assert "the contents are equal nevertheless; the first that differ are those of `sample`" in found


def test_a_unit_of_code_that_changed_is_named_with_its_line(here: Made, there: Made) -> None:
    for made, digest in ((here, "1"), (there, "2")):
        made.step("sample", completions("a"), code={"tasks/sample.py::sample": digest}, code_digest=digest)
    found = explain_text(here.store, "last", there.store, "last")
    lines = (Path(__file__).parents[3] / "tasks" / "sample.py").read_text().splitlines()
    line = next(i for i, text in enumerate(lines, 1) if text.startswith("def sample("))
    assert f"because `tasks/sample.py::sample` changed (tasks/sample.py:{line})" in found


def test_under_one_key_the_first_row_and_token_that_differ_are_named_and_what_the_machines_differ_in(
    here: Made, there: Made
) -> None:
    tables = [completions("a", "b", "c").table for _ in range(2)]
    at = tables[1].schema.get_field_index("token_logps")
    logps = pa.array([[-1.0, -2.0], [-1.0, -2.5, -3.0], [-4.0]], tables[1].schema.field(at).type)
    changed = pa.array([[-1.0, -2.0], [-1.0, -2.5, -3.25], [-5.0]], tables[1].schema.field(at).type)
    for made, column, table, threads in ((here, logps, tables[0], 1), (there, changed, tables[1], 2)):
        made.step("sample", Completions.of(table.set_column(at, table.schema.field(at), column)), threads=threads)
    found = explain_text(here.store, "last", there.store, "last")
    assert "under one key" in found
    assert "threads 1 here and 2 there" in found
    assert "table.arrow: row 1, token_logps[2] is -3.0 here and -3.25 there" in found


def test_a_step_that_one_run_lacks_and_names_of_two_sorts_are_said(here: Made, there: Made) -> None:
    here.step("load", prompts("a"))
    assert explain_text(here.store, "last", there.store, "last").endswith("the second has no result of it.")
    assert explain_text(there.store, "last", here.store, "last").endswith("the first has no result of it.")
    with pytest.raises(SpecError, match="name two runs, or a step of each"):
        explain_text(here.store, "last", here.store, "last:load")


def test_the_command_compares_with_another_folder_of_artifacts_and_loads_no_torch(here: Made, there: Made) -> None:
    for made, size in ((here, 4), (there, 5)):
        made.step("load", prompts(*"abcde"[:size]), params={"size": size})
    arguments = ["explain", "last", "last", "--artifacts", str(here.store.root), "--against", str(there.store.root)]
    script = (
        f"import sys; from flows.cli import main; sys.argv = ['alignflow', *{arguments!r}]\n"
        "try: main()\nexcept SystemExit: pass\nassert not {'torch', 'prefect', 'mlflow'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "They part at `load`" in done.stdout
    assert "because `size` changed 4 → 5" in done.stdout


def tensors(file: Path, **arrays: tuple[str, bytes, list[int]]) -> None:
    """A file as safetensors lays it out."""
    header, data = {}, b""
    for name, (dtype, body, shape) in arrays.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(body)]}
        data += body
    text = json.dumps(header).encode()
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(len(text).to_bytes(8, "little") + text + data)


def test_the_first_tensor_and_element_that_differ_are_found(tmp_path: Path) -> None:
    weights = np.arange(6, dtype="<f4")
    half = (weights.view("<u4") >> 16).astype("<u2")  # bfloat16 is the upper half of float32
    other = half.copy()
    other[4] = np.array([7.0], "<f4").view("<u4")[0] >> 16
    for side, body in (("one", half), ("two", other)):
        tensors(
            tmp_path / side / "model.safetensors",
            a=("F32", weights.tobytes(), [6]), b=("BF16", body.tobytes(), [2, 3]),
        )  # fmt: skip
    found = first_difference(tmp_path / "one", tmp_path / "two")
    assert found == ("model.safetensors", "b[1, 1]", 4.0, 7.0)
    assert first_difference(tmp_path / "one", tmp_path / "one") is None


def test_of_other_files_the_line_is_named_and_a_file_that_is_absent(tmp_path: Path) -> None:
    for side, text in (("one", "a\nb\n"), ("two", "a\nc\n")):
        (tmp_path / side).mkdir()
        (tmp_path / side / "config.json").write_text(text)
    assert first_difference(tmp_path / "one", tmp_path / "two") == ("config.json", "line 2", "b", "c")
    (tmp_path / "two" / "about.txt").touch()
    assert first_difference(tmp_path / "one", tmp_path / "two") == ("about.txt", "", "absent", "present")


def test_in_a_hundred_thousand_rows_the_difference_is_found_within_two_seconds(here: Made, there: Made) -> None:
    rows, width = 100_000, 20
    rng = np.random.default_rng(0)
    ids = [str(i) for i in range(rows)]
    logps = rng.normal(size=rows * width).astype("f4")
    logps[7] = np.nan  # equal to itself
    for made, changed in ((here, 0), (there, 1)):
        logps[(rows - 3) * width + 5] += changed
        offsets = pa.array(np.arange(0, rows * width + 1, width, dtype="i4"))
        table = completions(*ids).table
        at = table.schema.get_field_index("token_logps")
        column = pa.ListArray.from_arrays(offsets, pa.array(logps)).cast(table.schema.field(at).type)
        made.step("sample", Completions.of(table.set_column(at, table.schema.field(at), column)))
    start = time.perf_counter()
    found = explain_json(here.store, "last", there.store, "last")
    assert time.perf_counter() - start < 2
    assert isinstance(found, dict)
    assert isinstance(found["content"], dict)
    assert found["content"]["place"] == f"row {rows - 3}, token_logps[5]"
