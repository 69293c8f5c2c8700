"""Perplexity, KL to the round before, and Reports joined into one."""

from math import exp, log
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from tasks.contract import DataError
from tasks.joined import join_reports
from tasks.kinds import Demonstrations, Logps, Report
from tasks.likelihoods import kl_to_previous, perplexity
from tasks.measure import measure
from tests.answers import completions, named, win_probs
from tests.workspace import Workspace


def _logps(values: dict[str, tuple[float, int]]) -> Logps:
    rows = [
        {"prompt_id": i[0], "completion_id": i, "logps": v, "lengths": n} for i, (v, n) in values.items()
    ]  # fmt: skip
    return Logps.of(pa.Table.from_pylist(rows, Logps.SCHEMA))


def _texts(texts: dict[str, str]) -> Demonstrations:
    rows = [
        {"prompt_id": i[0], "prompt": [{"role": "user", "content": "go"}], "completion_id": i, "completion": text}
        for i, text in texts.items()
    ]  # fmt: skip
    return Demonstrations.of(pa.Table.from_pylist(rows))


def test_perplexity_is_that_of_all_tokens_as_one_text(tmp_path: Path) -> None:
    # x: 6 nats over 3 tokens and 4 bytes (é has two); y: 1 nat over 1 token and 2 bytes
    report = perplexity(
        _texts({"x/0": "abé", "y/0": "cd"}), _logps({"y/0": (-1, 1), "x/0": (-6, 3)}), Workspace(tmp_path)
    )
    rows = named(report)
    assert rows["eval/perplexity"]["value"] == pytest.approx(exp(7 / 4))
    assert rows["eval/byte_perplexity"]["value"] == pytest.approx(exp(7 / 6))
    assert rows["eval/nats_per_token"]["value"] == pytest.approx((2 + 1) / 2)
    assert rows["eval/bits_per_byte"]["value"] == pytest.approx((6 / 4 + 1 / 2) / 2 / log(2))
    assert (rows["eval/perplexity"]["n"], rows["eval/perplexity"]["unit"]) == (2, "per token")
    assert rows["eval/perplexity"]["ci_low"] < exp(7 / 4) < rows["eval/perplexity"]["ci_high"]
    assert report.per_prompt is not None
    assert report.per_prompt.column("nats_per_token").to_pylist() == pytest.approx([2.0, 1.0])


def test_a_uniform_policy_has_the_perplexity_of_its_vocabulary(tmp_path: Path) -> None:
    texts = {f"{p}/0": "abcd" for p in "uvwxyz"}
    logps = _logps({i: (-n * log(50), n) for n, i in enumerate(texts, 1)})
    row = named(perplexity(_texts(texts), logps, Workspace(tmp_path)))["eval/perplexity"]
    assert [row["value"], row["ci_low"], row["ci_high"]] == pytest.approx([50, 50, 50])


def test_log_probabilities_of_other_texts_and_empty_texts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="`logps` has 1 rows, of which 0 belong to the 1 texts"):
        perplexity(_texts({"x/0": "a"}), _logps({"x/1": (-1, 1)}), Workspace(tmp_path))
    with pytest.raises(DataError, match="all texts are empty"):
        perplexity(_texts({"x/0": ""}), _logps({"x/0": (0, 0)}), Workspace(tmp_path))


def test_kl_to_the_round_before_is_zero_where_nothing_moved(tmp_path: Path) -> None:
    # −0.5 nats per token under the policy: −1.5 and −2
    answers = completions({"x": ["one"], "y": ["four"]})
    same = {"x/0/0": (-1.5, 3), "y/0/0": (-2.0, 4)}
    still = named(kl_to_previous(answers, _logps(same), Workspace(tmp_path)))["eval/kl_previous"]
    assert (still["value"], still["unit"], still["n"]) == (0.0, "nats", 2)
    work = Workspace(tmp_path)
    moved = kl_to_previous(answers, _logps(same | {"x/0/0": (-2.5, 3)}), work, temperature=0.5)
    assert named(moved)["eval/kl_previous"]["value"] == pytest.approx(0.5)
    assert work.notices == ["the answers were sampled at temperature 0.5: eval/kl_previous is biased, as it assumes 1"]


def _report(name: str, values: dict[str, float]) -> Report:
    row = {"name": f"eval/{name}", "value": 1.0, "ci_low": None, "ci_high": None, "n": len(values), "unit": "share"}
    table = pl.DataFrame([row], schema_overrides={"ci_low": pl.Float64, "ci_high": pl.Float64})
    by_prompt = pl.DataFrame({"prompt_id": [*values], name: [*values.values()]})
    return Report.of(table).with_per_prompt(by_prompt)


def test_joined_reports_keep_all_rows_and_values_by_prompt() -> None:
    joined = join_reports([_report("a", {"x": 1.0, "y": 2.0}), _report("b", {"y": 3.0, "z": 4.0})])
    assert [*named(joined)] == ["eval/a", "eval/b"]
    assert joined.per_prompt is not None
    assert joined.per_prompt.to_pylist() == [
        {"prompt_id": "x", "a": 1.0, "b": None}, {"prompt_id": "y", "a": 2.0, "b": 3.0},
        {"prompt_id": "z", "a": None, "b": 4.0},
    ]  # fmt: skip
    assert joined.bins is None


def test_a_metric_that_two_reports_have_is_refused() -> None:
    with pytest.raises(DataError, match="eval/a occur in several of the Reports: a metric has one value"):
        join_reports([_report("a", {"x": 1.0}), _report("a", {"x": 1.0})])
    with pytest.raises(DataError, match="`reports` is empty"):
        join_reports([])


def test_one_report_joined_is_itself_and_bins_stay(tmp_path: Path) -> None:
    ours, theirs = completions({"x": ["a"], "y": ["b"]}), completions({"x": ["c"], "y": ["d"]}, stream=1)
    judged = win_probs([("x", "x/0/0", "x/1/0", 0.9), ("y", "y/0/0", "y/1/0", 0.4)])
    one = measure(judged, ours, theirs, Workspace(tmp_path))
    bin_: dict[str, Any] = {"name": "margin", "low": 0.0, "high": 1.0, "count": 3}
    joined = join_reports([one.with_bins([bin_])])
    assert joined.table.to_pylist() == one.table.to_pylist()
    assert joined.bins is not None
    assert joined.bins.column("count").to_pylist() == [3]
