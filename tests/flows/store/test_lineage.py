from pathlib import Path

import pytest

from flows.store import lineage
from flows.store.lineage import SeenPrompts, seen_prompts, training_tables
from flows.store.records import Record
from flows.store.store import Store
from flows.store.views import RecordViews
from tasks.contract import DataError
from tasks.judging.evaluated import policies_of
from tasks.kinds import Logps, Oracle, Policy, Report, RewardModel, WinProbs
from tests.flows.store.made import completions, model, pairs, prompts, put, refuse_seen


class World:
    """base ← sft table; reward ← rm table; policy ← base, a tokenized table of sampled answers that reward judged."""

    def __init__(self, store: Store, folder: Path) -> None:
        self.sft = put(store, prompts("s1", "s2"), "load", split="sft")
        self.rm = put(store, prompts("r1"), "load", split="rm")
        self.sampled = put(store, completions("p1", "p2"), "sample")
        self.base = put(store, Policy(model(folder / "base", "base")), "fit", {"data": [self.sft]})
        self.reward = put(store, RewardModel(model(folder / "reward", "rm")), "train_reward", {"data": [self.rm]})
        questions = {"completions": [self.sampled], "oracle": [self.reward]}
        self.judged = put(store, WinProbs.of(iter([])), "compare", questions)
        chosen = {"win_probs": [self.judged], "completions": [self.sampled]}
        self.kept = put(store, completions("p1", "p2"), "win_rates", chosen)
        self.rows = put(store, completions("p1", "p2"), "tokenize", {"policy": [self.base], "data": [self.kept]})
        self.ref = put(store, Logps.of(iter([])), "logps", {"policy": [self.base], "data": [self.rows]})
        self.policy = put(
            store, Policy(model(folder / "policy", "policy")), "fit",
            {"policy": [self.base], "data": [self.rows], "ref_logps": [self.ref]},
        )  # fmt: skip


@pytest.fixture
def world(store: Store, tmp_path: Path) -> World:
    return World(store, tmp_path)


def sampled(store: Store, policy: Record, *ids: str) -> Record:
    table = put(store, prompts(*ids), "load", split=",".join(ids))
    return put(store, completions(*ids), "sample", {"policy": [policy], "prompts": [table]})


def seen_of(store: Store, completions: Record) -> SeenPrompts:
    policies = policies_of(RecordViews(store).of(completions))
    return seen_prompts(store, completions, [p.origin.content for p in policies])


def oracle_also_trained(store: Store, report: Record) -> bool:
    evaluation = RecordViews(store).of(report).evaluation
    assert evaluation
    return lineage.oracle_also_trained(store, evaluation)


def test_what_trained_a_policy_is_the_tables_of_all_models_behind_it(store: Store, world: World) -> None:
    assert {e.key for e in training_tables(store, world.policy.content)} == {
        world.rows.key, world.sft.key, world.rm.key
    }  # fmt: skip
    assert [e.key for e in training_tables(store, world.base.content)] == [world.sft.key]


def test_prompts_that_trained_are_counted_by_prompt_id(store: Store, world: World) -> None:
    seen = seen_of(store, sampled(store, world.policy, "h1", "p2", "s1", "h2"))
    assert (sorted(seen.prompt_ids), seen.checked) == (["p2", "s1"], 4)
    assert {e.key for e in seen.tables} == {world.rows.key, world.sft.key}
    assert seen_of(store, sampled(store, world.base, "h1", "p2", "r1")).prompt_ids == frozenset()


def test_prompts_are_seen_whatever_was_written_into_them(store: Store, world: World, tmp_path: Path) -> None:
    """`write_weights` gives prompts other ids, on the side of the training, of the evaluation, or of both."""
    plain = put(store, prompts("x", "y"), "load", split="x")
    written = put(store, prompts("x-written", "y-written"), "write_weights", {"table": [plain]})
    rows = put(store, completions("x-written", "y-written"), "sample", {"policy": [world.base], "prompts": [written]})
    trained = put(store, Policy(model(tmp_path / "conditioned", "C")), "fit", {"policy": [world.base], "data": [rows]})
    assert seen_of(store, sampled(store, trained, "x", "h")).prompt_ids == {"x"}
    assert seen_of(store, sampled(store, trained, "h1", "h2")).prompt_ids == frozenset()

    def asked(policy: Record, *ids: str) -> Record:
        table = put(store, prompts(*ids), "load", split=",".join(ids))
        other = put(store, prompts(*(f"{i}-other" for i in ids)), "write_weights", {"table": [table]}, seed=1)
        return put(store, completions(*(f"{i}-other" for i in ids)), "sample", {"policy": [policy], "prompts": [other]})

    seen = seen_of(store, asked(trained, "x", "h"))
    assert (seen.prompt_ids, seen.checked) == ({"x"}, 2)
    assert seen_of(store, asked(world.base, "s1", "h")).prompt_ids == {"s1"}
    assert seen_of(store, asked(trained, "h1", "h2")).prompt_ids == frozenset()


def test_what_trained_an_adapter_is_what_trained_it_and_its_base(store: Store, world: World, tmp_path: Path) -> None:
    folder = model(tmp_path / "adapter", "A")
    (folder / "adapter.json").write_text(f'{{"base": "{world.base.content}"}}')
    rows = put(store, prompts("a1"), "load", split="a")
    adapter = put(store, Policy(folder), "fit", {"policy": [world.base], "data": [rows]})
    assert {e.key for e in training_tables(store, adapter.content)} == {rows.key, world.sft.key}
    (folder / "adapter.safetensors").write_text("of somebody else")
    loaded = put(store, Policy(folder), "read")
    assert [e.key for e in training_tables(store, loaded.content)] == [world.sft.key]
    assert seen_of(store, sampled(store, loaded, "s2", "h1")).prompt_ids == {"s2"}


def test_measuring_on_prompts_that_trained_is_refused_unless_allowed(store: Store, world: World) -> None:
    clean, mixed = sampled(store, world.policy, "h1"), sampled(store, world.policy, "h1", "p1", "r1")
    assert refuse_seen(store, {"completions": [clean]}, allow=False) == ""
    with pytest.raises(DataError, match=r"2 of 3 evaluation prompts also trained what is measured .*allow_seen"):
        refuse_seen(store, {"completions": [clean, mixed]}, allow=False)
    notice = refuse_seen(store, {"completions": [mixed]}, allow=True)
    assert notice.startswith("2 of 3 evaluation prompts also trained what is measured")


def test_agreement_with_pairs_that_trained_is_refused_for_the_policy_that_learned_them(
    store: Store, world: World
) -> None:
    known, fresh = put(store, pairs("h1", "p2"), "known"), put(store, pairs("h1", "h2"), "fresh")

    def inputs(table: Record, policy: Record) -> dict[str, list[Record]]:
        logps = put(store, Logps.of(iter([])), "logps", {"policy": [policy], "data": [table]})
        ref = put(store, Logps.of(iter([])), "logps", {"policy": [world.policy], "data": [table]}, who="ref")
        return {"pairs": [table], "logps": [logps], "ref_logps": [ref]}

    assert refuse_seen(store, inputs(fresh, world.policy), allow=False) == ""
    assert refuse_seen(store, inputs(known, world.base), allow=False) == ""
    with pytest.raises(DataError, match="1 of 2 evaluation prompts also trained"):
        refuse_seen(store, inputs(known, world.policy), allow=False)
    assert refuse_seen(store, inputs(known, world.policy), allow=True).startswith("1 of 2")


def test_a_reward_model_is_not_measured_on_the_pairs_that_trained_it(store: Store, world: World) -> None:
    known = put(store, pairs("h1", "r1"), "known")
    for port in ("oracle", "before"):
        with pytest.raises(DataError, match="1 of 2 evaluation prompts also trained"):
            refuse_seen(store, {"pairs": [known], port: [world.reward]}, allow=False)


def test_a_training_table_that_is_gone_is_an_error_and_no_clean_bill(store: Store, world: World) -> None:
    file = store.root / world.sft.path / "table.arrow"
    file.unlink()
    with pytest.raises(DataError, match="is gone"):
        seen_of(store, sampled(store, world.policy, "h1"))


def test_a_policy_found_only_by_its_content_has_the_lineage_of_every_key_that_made_it(
    store: Store, world: World, tmp_path: Path
) -> None:
    put(store, Policy(tmp_path / "base"), "fit", {"data": [world.rm]})
    assert {e.key for e in training_tables(store, world.base.content)} == {world.sft.key, world.rm.key}


def report(store: Store, policy: Record, judge: Record, proxy: Record | None = None) -> Record:
    mine = sampled(store, policy, "h1")
    table = WinProbs.of(iter([]))
    inputs = {"win_probs": [put(store, table, "compare", {"completions": [mine], "oracle": [judge]})]}
    if proxy:
        inputs["proxy_scores"] = [put(store, table, "score", {"completions": [mine], "oracle": [proxy]})]
    return put(store, Report.of(iter([])), "measure", {**inputs, "completions": [mine]})


def oracle(store: Store, folder: Path, name: str) -> Record:
    folder.mkdir(exist_ok=True)
    (folder / "oracle.json").write_text(name)
    return put(store, Oracle(folder), "load_oracle", oracle=name)


def test_a_report_says_whether_its_oracle_also_trained(store: Store, world: World, tmp_path: Path) -> None:
    gold, judge = oracle(store, tmp_path / "gold", "gold"), oracle(store, tmp_path / "judge", "judge")
    questions = put(store, WinProbs.of(iter([])), "compare", {"completions": [world.sampled], "oracle": [judge]})
    trained = put(store, Policy(model(tmp_path / "t", "t")), "fit", {"policy": [world.base], "data": [questions]})
    assert oracle_also_trained(store, report(store, trained, judge))
    assert not oracle_also_trained(store, report(store, trained, gold))
    assert not oracle_also_trained(store, report(store, trained, gold, proxy=judge))
    assert not oracle_also_trained(store, report(store, world.base, judge))
