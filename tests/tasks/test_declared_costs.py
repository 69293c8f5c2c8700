"""What the shipped tasks declare about sizes and costs, by hand."""

import json
from math import isnan, nan
from pathlib import Path
from typing import Any

import pytest

from flows.python.declared import Declarations
from flows.wiring.model import ChoiceValue
from flows.wiring.views import View
from tasks.contract import Chosen, SpecError
from tasks.declarations import AtMost, Size
from tasks.distillation import distill_cost
from tasks.exploit import responses_size
from tasks.grouped import grpo_cost
from tasks.judge import compare_cost, compare_size
from tasks.judged import labels_size
from tasks.online import nash_md_cost, nash_md_wiring, online_dpo_cost, xpo_cost
from tasks.reward import fit_reward_cost, fit_reward_work
from tasks.rl import ppo_cost
from tasks.sample import sample_cost
from tasks.sampling.longest import longest_answer
from tasks.scored import compare_scores_size, statistical_rejection_size, statistical_rejection_wiring
from tasks.select import best_size, concat_size, gold_pairs_size, rankings_size, take_batch_size, win_rates_size
from tasks.train import fit_work


class Seen:
    """A step of which everything is given."""

    task = kind = ""

    def __init__(self, rows: float = nan, k: float = nan, base: Path = Path(), **given: Any) -> None:
        self.rows, self.k, self.base = rows, k, base
        self.inputs = {n: v if isinstance(v, list) else [v] for n, v in given.items() if isinstance(v, Seen | list)}
        self.choices = {n: v for n, v in given.items() if isinstance(v, Chosen)}
        self.params = {"k": k} | {n: v for n, v in given.items() if n not in self.inputs and n not in self.choices}

    def first(self, port: str) -> Any:
        return next(iter(self.inputs.get(port, ())), None)

    def rows_of(self, port: str) -> float:
        return self.first(port).rows if port in self.inputs else nan


def test_answers_put_together_meet_all_others_of_their_prompt() -> None:
    both = concat_size(Seen(tables=[Seen(20, 2), Seen(40, 4)]))  # of 10 prompts
    assert both == Size(60, 6)
    assert compare_size(Seen(completions=Seen(60, 6))) == Size(60 * 5, 6)
    assert compare_size(Seen(completions=Seen(60, 6), others=Seen(40, 4))) == Size(60 * 4, 6)
    assert compare_cost(Seen(300)) == {"queries": 300}
    assert isnan(concat_size(Seen(tables=[Seen(20, 2), Seen()])).rows)
    assert isnan(responses_size.rows)


def test_a_piece_has_its_size_or_what_there_is() -> None:
    assert take_batch_size(Seen(table=Seen(100), size=40)).rows == 40
    assert take_batch_size(Seen(table=Seen(30), size=40)).rows == 30
    assert take_batch_size(Seen(table=Seen(), size=40)).rows == 40


def test_what_scored_answers_make_is_counted_by_prompt() -> None:
    ten = Seen(40, 4)  # of 10 prompts
    assert best_size(Seen(scores=ten, n=1)) == Size(10, 1)
    assert best_size(Seen(scores=ten, n=9)) == Size(40, 4)
    assert rankings_size(Seen(scores=ten)).rows == 10
    assert compare_scores_size(Seen(scores=ten)) == Size(10 * 6, 4)
    assert statistical_rejection_size(Seen(scores=Seen(640, 64), n=8)) == Size(80, 8)
    assert labels_size(Seen(pairs=Seen(30))).rows == 60
    with pytest.raises(SpecError, match="8 answers per prompt and n = 8 of them are to be accepted"):
        statistical_rejection_wiring(Seen(scores=Seen(80, 8), n=8))
    statistical_rejection_wiring(Seen(scores=Seen(), n=8))


def test_rates_and_golden_pairs_are_as_many_as_the_answers() -> None:
    step = Seen(win_probs=Seen(200, 4), demonstrations=Seen(7), completions=Seen(40, 4))
    assert win_rates_size(step) == Size(40, 4)
    assert gold_pairs_size(step).rows == 40


def test_optimizer_steps_are_those_of_all_passes_unless_a_number_is_given() -> None:
    passes = Seen(data=Seen(40), batch=16, epochs=3, steps=None)
    assert fit_reward_cost(passes) == {"steps": 9}  # ⌈40 / 16⌉ = 3 a pass
    assert fit_reward_work(passes) == 9 * 16
    assert fit_reward_cost(Seen(data=Seen(), batch=16, epochs=3, steps=300)) == {"steps": 300}
    assert isnan(float(str(fit_reward_cost(Seen(data=Seen(), batch=16, epochs=3, steps=None))["steps"])))


def test_a_fit_takes_as_long_as_the_answers_that_it_reads() -> None:
    """32 rows of a forward and a backward pass, 3 each; targets make three answers of two."""
    declared = Declarations()

    def work(loss: str, folder: str = "pairwise", **ports: View) -> float:
        data = View(declared, "tokenize", "Preferences", {}, dict, origin=None, rows=32)
        params = {"batch": 16, "epochs": 1, "steps": None, "loss": ChoiceValue(f"losses/{folder}", loss, {})}
        inputs = {port: [view] for port, view in {"data": data, **ports}.items()}
        step = View(declared, "fit", "Policy", params, lambda: inputs, origin=None)
        return fit_work(step)

    other = View(declared, "tokenize", "Labels", {}, dict, origin=None, rows=32)
    assert work("dpo") == 32 * 3
    assert work("slic", targets=other) == 32 * 4.5
    assert work("aot") == 32 * 4
    assert work("kto", "pointwise", mismatched=other) == 32 * 4


def test_the_longest_answer_is_what_the_step_says_else_what_its_model_says(tmp_path: Path) -> None:
    (tmp_path / "ckpt").mkdir()
    (tmp_path / "ckpt" / "config.json").write_text(json.dumps({"max_position_embeddings": 4096}))

    def longest(max_tokens: int | None, path: str = "ckpt", **of_model: Any) -> tuple[float, bool]:
        source = {} if of_model else {"source": Chosen("sources", "path", {"path": path})}
        trained = Seen(policy=Seen(base=tmp_path, **source, **of_model))
        return longest_answer(Seen(policy=trained, max_tokens=max_tokens))

    assert longest(None) == (4096, True)
    (tmp_path / "ckpt" / "generation_config.json").write_text('{"max_new_tokens": 256}')
    assert longest(None) == (256, True)
    assert longest(32) == (32, True)
    assert longest(None, max_new_tokens=48) == (48, False)
    assert isnan(longest(None, path="org/never-downloaded")[0])


def test_sampling_and_ppo_cost_their_answers_and_at_most_their_longest() -> None:
    policy = Seen(max_new_tokens=48)
    assert sample_cost(Seen(prompts=Seen(10), policy=policy, k=5, max_tokens=None)) == {
        "samples": 50, "tokens": AtMost(2400, typical=True),
    }  # fmt: skip
    assert ppo_cost(Seen(policy=policy, iterations=3, prompts_per_iteration=10, k=2, max_tokens=8)) == {
        "samples": 60, "queries": 60, "tokens": AtMost(480, typical=False),
    }  # fmt: skip
    best = Seen(policy=policy, iterations=3, prompts_per_iteration=10, k=2, max_tokens=8, best_of=4)
    assert ppo_cost(best) == {"samples": 240, "queries": 240, "tokens": AtMost(1920, typical=False)}
    assert distill_cost(Seen(policy=policy, iterations=3, prompts_per_iteration=10, k=2, max_tokens=8)) == {
        "samples": 60, "tokens": AtMost(480, typical=False),
    }  # fmt: skip
    again = Seen(policy=policy, iterations=3, prompts_per_iteration=10, k=2, max_tokens=8, draw_again=2)
    assert grpo_cost(again) == {
        "samples": AtMost(180), "queries": AtMost(180), "tokens": AtMost(1440, typical=False),
    }  # fmt: skip


def test_comparing_methods_cost_the_answers_of_their_opponents_and_every_pair() -> None:
    """30 prompts: 4 answers and 6 pairs; 2 and 3 answers with 6 pairs; 4 and 2 answers with 8."""
    given: dict[str, Any] = {"policy": Seen(max_new_tokens=48), "iterations": 3, "prompts_per_iteration": 10,
                             "max_tokens": 8}  # fmt: skip
    assert online_dpo_cost(Seen(k=4, **given)) == {
        "samples": 120, "queries": 180, "tokens": AtMost(960, typical=False),
    }  # fmt: skip
    assert xpo_cost(Seen(k=2, k_ref=3, **given)) == {
        "samples": 150, "queries": 180, "tokens": AtMost(1200, typical=False),
    }  # fmt: skip
    assert nash_md_cost(Seen(k=4, k_opponent=2, **given)) == {
        "samples": 180, "queries": 240, "tokens": AtMost(1440, typical=False),
    }  # fmt: skip


def test_a_mixture_that_the_engine_cannot_sample_is_refused_by_the_wiring() -> None:
    given: dict[str, Any] = {"policy": Seen(), "mixture": 0.125, "adapter": None}
    for engine in ("transformers", "auto"):
        nash_md_wiring(Seen(engine=Chosen("engines", engine, {}), **given))
    with pytest.raises(SpecError, match=r"mixture = 0\.125 .* engine vllm cannot do: set `engine: transformers`"):
        nash_md_wiring(Seen(engine=Chosen("engines", "vllm", {}), **given))


def test_a_model_has_no_rows_so_the_table_beside_it_counts() -> None:
    declared = Declarations()
    demonstrations = View(declared, "load_demonstrations", "Demonstrations", {}, dict, origin=None, rows=3136)
    policy = View(declared, "fit", "Policy", {}, lambda: {"data": [demonstrations]}, origin=None)
    batch = View(declared, "take_batch", "Prompts", {"size": 100}, dict, origin=None, rows=100)
    rows = View(declared, "tokenize", "Prompts", {}, lambda: {"policy": [policy], "data": [batch]}, origin=None)
    assert isnan(policy.rows)
    assert rows.rows == 100
