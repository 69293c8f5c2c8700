# ruff: noqa: E501
"""Every refusal of the grammar: its place, what was allowed, what came near."""

import re
from pathlib import Path
from typing import Any

import pytest

from tasks.contract import SpecError
from tests.flows.wiring.conftest import Compile

BASE = """
p:
  params: {model: toy, rounds: 2, lr: 1.0e-3}
  steps:
    base: {task: load_policy, source: $model}
    prompts: {task: load_prompts, source: toy}
    held: {task: load_prompts, source: toy, split: heldout}
    judge: {task: load_oracle, oracle: toy_gold}
  repeat:
    times: $rounds
    start: {policy: base}
    steps:
      answers: {task: sample, policy: prev.policy, prompts: prompts}
      probs: {task: compare, completions: answers, oracle: judge}
      rates: {task: win_rates, win_probs: probs, completions: answers}
      policy: {task: train, policy: prev.policy, ref: prev.policy, data: rates, loss: sppo, lr: $lr}
      report: {task: evaluate, policy: policy, baseline: base, prompts: held, oracle: judge}
"""

# (what stands in the base, what is written instead, the text that the refusal points at, parts of the message)
WRONG = {
    "unknown task": ("task: compare", "task: compara", "compara", ["p.probs.task = 'compara'", "(did you mean 'compare'?)"]),
    "unknown choice": ("loss: sppo", "loss: spo", "spo,", ["p.policy.loss = 'spo'", "choose one of [bradley_terry, dpo,",
                       "(did you mean 'sppo'?)", "step at pipelines.yaml:16:9"]),
    "unknown port or parameter": ("oracle: judge}\n      rates", "orakle: judge}\n      rates", "orakle", [
        "p.probs (compare) has no port or parameter 'orakle'", "completions, oracle, others", "did you mean 'oracle'"]),
    "unknown parameter of a choice": ("loss: sppo", "loss: {sppo: {etha: 1}}", "etha", ["has no parameter 'etha'", "[eta]"]),
    "unknown parameter": ("lr: $lr", "lr: $lrr", "$lrr", ["p has no parameter 'lrr'", "did you mean 'lr'?"]),
    "unknown step": ("completions: answers, oracle", "completions: answer, oracle", "answer,", [
        "p.probs.completions = 'answer'; there is no such step", "did you mean 'answers'?"]),
    "unknown key of repeat": ("times: $rounds", "time: $rounds", "time:", ["p.repeat has no key 'time'", "did you mean 'times'?"]),
    "unknown key of a pipeline": ("  params:", "  parms:", "parms", ["pipeline 'p' has no key 'parms'", "did you mean 'params'?"]),
    "duplicate name": ("      probs:", "      judge: {task: load_oracle, oracle: toy_gold}\n      probs:", "judge: {", [
        "p.judge: the name is taken by the step at pipelines.yaml:8:7"]),
    "duplicate parameter": ("    start:", "    each: {lr: [1]}\n    start:", "lr: [1]", ["the name is taken by the parameter"]),
    "reserved name": ("held:", "last:", "last:", ["the name 'last' is reserved"]),
    "reserved parameter": ("params: {model", "params: {round: 1, model", "round: 1", ["$round is the number of the round"]),
    "bad step name": ("held:", "h@ld:", "h@ld", ["'h@ld' is an invalid name for a step"]),
    "bad parameter name": ("params: {model", "params: {a-b: 1, model", "a-b", ["'a-b' is an invalid name for a parameter"]),
    "wrong kind": ("oracle: judge}\n      rates", "oracle: base}\n      rates", "probs: {", [
        "p.probs.oracle takes Oracle, and base is Policy"]),
    "missing port": (", oracle: judge}\n      rates", "}\n      rates", "probs: {", ["needs its port 'oracle' (Oracle)"]),
    "missing parameter": (", lr: $lr", "", "policy: {", ["p.policy.lr has no default: give it a value (a number, above 0)"]),
    "missing task": ("{task: compare, ", "{", "probs: {", ["p.probs has no task"]),
    "bounds": ("prompts: prompts}", "prompts: prompts, k: 0}", "0}", ["p.answers.k = 0; it must be at least 1",
               "step at pipelines.yaml:13:9"]),
    "open bound": ("lr: 1.0e-3", "lr: 0.0", "0.0", ["p.policy.lr = 0.0; it must be above 0", "step at pipelines.yaml:16:9"]),
    "type": ("prompts: prompts}", "prompts: prompts, k: 2.5}", "2.5", ["k = 2.5; it must be a whole number, at least 1"]),
    "bool is no int": ("prompts: prompts}", "prompts: prompts, k: true}", "true", ["k = True; it must be a whole number"]),
    "no number": ("prompts: prompts}", "prompts: prompts, temperature: .nan}", ".nan", ["temperature = nan"]),
    "list": ("prompts: prompts}", "prompts: prompts, stop: x}", "x}", ["stop = 'x'; it must be a list, each text"]),
    "item of a list": ("prompts: prompts}", "prompts: prompts, stop: [x, 3]}", "3]", ["stop[1] = 3; it must be text"]),
    "literal": ("completions: answers}\n      policy", "completions: answers, keep: al}\n      policy", "al}", [
        "p.rates.keep = 'al'; choose one of [all, best_and_worst] (did you mean 'all'?)"]),
    "two choices": ("loss: sppo", "loss: {sppo: , dpo: }", "{sppo", ["a choice is a name or {name: {parameter: value}}"]),
    "circle of steps": ("policy: prev.policy, prompts", "policy: policy, prompts", None, [
        "a circle of steps: answers → policy → rates → probs → answers"]),
    "circle of parameters": ("model: toy", "a: $b, b: $a, model: $a", None, ["a circle of parameters: a → b → a"]),
    "prev without start": ("data: rates", "data: prev.rates", "prev.rates", [
        "prev.rates has no meaning in the first round", "repeat.start"]),
    "start that nothing reads": ("start: {policy: base}", "start: {policy: base, rates: null}", "rates: null", [
        "the start of 'rates', which nothing reads as prev.rates"]),
    "start of no step": ("start: {policy: base}", "start: {polcy: base}", "polcy", [
        "the loop has no step 'polcy'", "did you mean 'policy'?"]),
    "start from the loop": ("start: {policy: base}", "start: {policy: rates}", "rates}", ["must be a step before the loop"]),
    "prev outside the loop": ("held: {task: load_prompts, source: toy, split: heldout}",
        "held: {task: take_batch, table: prev.rates, index: 1, size: 1}", "prev.rates", ["prev.rates can be used only inside `repeat`"]),
    "last inside the loop": ("data: rates", "data: last.rates", "last.rates", ["last.rates can be used only in `after`"]),
    "every inside the loop": ("data: rates", "data: every.rates", "every.rates", ["every.rates can be used only in `after`"]),
    "a loop's step before the loop": ("split: heldout}", "split: heldout}\n    early: {task: take_batch, table: rates, index: 1, "
        "size: 1}", "rates,", ["'rates', which is a step inside `repeat` and cannot be used here"]),
    "prev of a step before the loop": ("data: rates", "data: prev.held", "prev.held", ["the loop has no such step"]),
    "round before the loop": ("split: heldout", "split: $round", "$round", ["$round is known only inside `repeat`"]),
    "a negative seed": ("prompts: prompts}", "prompts: prompts, seed: -1}", "-1}", [
        "p.answers.seed = -1; it must be at least 0 and at most 9223372036854775807"]),
    "half a surrogate pair": ("split: heldout", 'split: "\\ud800"', None, ["invalid YAML"]),
    "an escape sequence in a name": ("held:", '"h\\e[31m":', '"h', ["'h\\x1b[31m' is an invalid key"]),
    "a name of 300 letters": ("held:", f"{'h' * 300}:", "hhh", ["is an invalid key: at most 200 printable letters"]),
    "a step's name of 100 letters": ("held:", f"{'h' * 100}:", "hhh", ["is an invalid name for a step (letters, digits, _ and -; at most 80)"]),
    "a hundred million rounds": ("times: $rounds", "times: 100000000", "1000", [
        "p.repeat.times = 100000000; it must be at least 1 and at most 2000"]),
    "times below 1": ("times: $rounds", "times: 0", "0", ["p.repeat.times = 0; it must be at least 1 and at most 2000"]),
    "no times": ("    times: $rounds\n", "", "repeat:", ["p.repeat needs `times`, or `each`"]),
    "unread parameter": ("params: {model", "params: {size: 3, model", "size: 3", ["the parameter 'size', which nothing reads"]),
    "a parameter as a port": ("oracle: judge}\n      rates", "oracle: $model}\n      rates", "$model", [
        "a port is fed by a step", "variant"]),
    "no reference": ("oracle: judge}\n      rates", "oracle: next.judge}\n      rates", "next.judge", ["prev.x, last.x or every.x"]),
    "dollar": ("split: heldout", "split: $1", "$1", ["'$1' is an invalid parameter", "$$ is a literal dollar"]),
    "a list for one": ("data: rates", "data: [rates, rates]", "[rates,", ["p.policy.data = ['rates', 'rates']; it takes one Table"]),
    "loss of other data": ("loss: sppo", "loss: dpo", "policy: {", ["dpo (losses/pairwise) trains on Preferences, not on "
                           "WinRates"]),
    "reward loss": ("loss: sppo", "loss: bradley_terry", "policy: {", ["bradley_terry (losses/reward) trains a RewardModel, not a Policy"]),
    "loss without its reference": ("ref: prev.policy, ", "", "policy: {", ["the loss sppo (losses/pointwise) needs a reference"]),
    "comparison with itself": ("oracle: judge}\n      rates", "oracle: judge, others: answers}\n      rates", "probs: {", [
        "'completions' and 'others' are the same step, answers@1"]),
    "evaluation on what trained": ("prompts: held", "prompts: prompts", "report: {", ["prompts, on which this measures, also "
                                   "trained what is measured", "allow_seen: true"]),
    "agreement with pairs that trained": (
        "      report:", "      chosen: {task: pairs, completions: answers, win_probs: probs}\n"
        "      tuned: {task: train, policy: prev.policy, ref: prev.policy, data: chosen, loss: dpo, lr: $lr}\n"
        "      tuned_logps: {task: logps, policy: tuned, data: chosen}\n"
        "      agrees: {task: agreement, pairs: chosen, logps: tuned_logps}\n      report:", "agrees:",
        ["chosen@1, on which this measures, also trained"]),
    "a step that is a number": ("held: {task: load_prompts, source: toy, split: heldout}", "held: 3", "3", [
        "a step is a mapping with a task, or a step's name"]),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_wiring_is_refused_where_it_is_wrong(case: str, compiled: Compile) -> None:
    old, new, at, parts = WRONG[case]
    assert BASE.count(old) == 1, f"{old!r} must stand once in the base"
    with pytest.raises(SpecError) as caught:
        compiled(BASE.replace(old, new))
    message = str(caught.value)
    place = re.match(r"pipelines\.yaml:(\d+):(\d+): ", message)
    assert place, message
    line = Path("pipelines.yaml").read_text().splitlines()[int(place[1]) - 1]
    assert line[int(place[2]) - 1 :].startswith(at or ""), message
    for part in parts:
        assert part in message


COMMAND_LINE: dict[str, tuple[dict[str, Any], list[str]]] = {
    "bounds": ({"lr": "-1"}, ["p.policy.lr = -1; it must be above 0", "step at pipelines.yaml:16:9"]),
    "type": ({"rounds": "two"}, ["p.repeat.times = 'two'; it must be a whole number, at least 1"]),
    "unknown": ({"rouns": "2"}, ["p has no parameter 'rouns'", "variant", "(did you mean 'rounds'?)"]),
    "choice": ({"model": "toi"}, ["p.base.source = 'toi'", "./toi if it is a path", "(did you mean 'toy'?)"]),
    "engine": ({"engine": "vlm"}, ["engine = 'vlm'", "[auto, transformers, vllm]"]),
    "no YAML": ({"model": "{toy: "}, ["invalid YAML", "in '{toy: '"]),
    "circle": ({"model": "$model"}, ["a circle of parameters: model → model"]),
    "missing": ({"model": ""}, ["p.base.source = None"]),
    "a lone surrogate": ({"model": "./\udcff"}, ["'./\\udcff' holds a NUL or half of a surrogate pair"]),
    "NUL": ({"model": "./a\0"}, ["holds a NUL"]),
    "5,000 digits": ({"seed": "1" * 5000}, ["is a number of 5000 digits"]),
    "beyond 64 bits": ({"seed": 10**20}, ["seed = 100000000000000000000; it must be at least 0 and at most 92"]),
    "a name of 300 letters": ({"x" * 300: 1}, ["p has no parameter 'xxx", "x…"]),
}


@pytest.mark.parametrize("case", COMMAND_LINE)
def test_a_wrong_value_on_the_command_line_is_refused_as_such(case: str, compiled: Compile) -> None:
    overrides, parts = COMMAND_LINE[case]
    with pytest.raises(SpecError) as caught:
        compiled(BASE, overrides=overrides)
    assert str(caught.value).startswith("command line: ")
    for part in parts:
        assert part in str(caught.value)


def test_the_base_of_these_tests_compiles(compiled: Compile) -> None:
    assert compiled(BASE).rounds == 2


def test_a_real_model_with_the_toys_learning_rate_is_refused_with_the_papers(compiled: Compile) -> None:
    with pytest.raises(SpecError) as caught:
        compiled(BASE, overrides={"model": "./ckpt"})
    assert "model = './ckpt' is not the world 'toy', which these values were chosen for" in str(caught.value)
    assert "lr = 0.001 (pipelines.yaml:3:41); the paper: lr 5e-7, eta 1000, three rounds." in str(caught.value)
    assert compiled(BASE, overrides={"model": "./ckpt", "lr": "0.001"}).nodes["base"].task == "read_policy"
    assert compiled(BASE, overrides={"model": "{toy: {seed: 1}}"}).rounds == 2


def test_a_real_model_with_a_literal_learning_rate_is_refused(compiled: Compile) -> None:
    text = BASE.replace("lr: $lr", "lr: 0.001").replace(", lr: 1.0e-3", "")
    with pytest.raises(SpecError, match="make it a parameter"):
        compiled(text, overrides={"model": "./ckpt"})


def test_a_pipeline_written_for_a_real_model_keeps_its_learning_rate(compiled: Compile) -> None:
    assert compiled(BASE.replace("model: toy", "model: ./a"), overrides={"model": "./b"}).rounds == 2
    assert compiled(BASE.replace("model: toy", "model: ./a")).rounds == 2


def test_a_variant_with_a_real_model_must_have_a_rate_of_its_own(compiled: Compile) -> None:
    mine = BASE + "mine:\n  extends: p\n  params: {model: ./a}\n"
    with pytest.raises(SpecError, match=r"^pipelines\.yaml:20:21: mine\.base\.source = './a' is not the world 'toy', "):
        compiled(mine, "mine")
    assert compiled(mine.replace("./a}", "./a, lr: 2.0e-5}"), "mine").rounds == 2
    assert compiled(mine, "mine", {"lr": "0.001"}).rounds == 2, "who gives it on the command line means it"


def test_a_variant_of_the_toy_with_its_papers_rate_is_for_real_models(compiled: Compile) -> None:
    paper = BASE + "paper:\n  extends: p\n  params: {lr: 5.0e-7}\n"
    assert compiled(paper, "paper", {"model": "./ckpt"}).nodes["policy@1"].params["lr"] == 5e-7
    with pytest.raises(SpecError, match="is not the world 'toy', which these values were chosen for"):
        compiled(paper.replace("5.0e-7", "5.0e-4"), "paper", {"model": "./ckpt"})


def test_what_trained_may_be_evaluated_on_if_the_step_says_so(compiled: Compile) -> None:
    graph = compiled(BASE.replace("prompts: held", "prompts: prompts, allow_seen: true").replace(
        "    held: {task: load_prompts, source: toy, split: heldout}\n", ""))  # fmt: skip
    assert graph.nodes["report@1"].params["allow_seen"] is True


@pytest.mark.parametrize(
    ("name", "part"),
    [("q", "is not a pipeline of this file; choose one of [p]"), ("_x", "is only for `extends`")],
)
def test_a_pipeline_that_cannot_run_is_refused(name: str, part: str, compiled: Compile) -> None:
    with pytest.raises(SpecError, match=re.escape(part)):
        compiled(BASE + "_x: {}\n", name)
