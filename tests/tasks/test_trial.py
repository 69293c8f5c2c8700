"""Trial calls of choices: every shipped one passes, wrong results are named."""

import sys
from types import ModuleType

import pytest

from flows.wiring.catalogue import Catalogue
from flows.wiring.choices import PYTHON
from tasks.contract import JSON, Chosen, SpecError
from tasks.trial import try_choice
from tests.losses import PLACKETT_LUCE, loss_of

WITHOUT_DEFAULT: dict[str, dict[str, JSON]] = {"length_dpo": {"alpha": 0.01}, "ipo": {"norm": "sum"}}
FOLDERS = ("losses", "pair_rules", "kl_controllers", "responses")


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_shipped_choice_passes(folder: str) -> None:
    catalogue = Catalogue()
    assert catalogue.choices(folder)
    for name in catalogue.choices(folder):
        signature = catalogue.choice(folder, name, PYTHON, name)
        defaults = {p.name: p.default for p in signature.params.values()}
        try_choice(Chosen(signature.folder, name, {**defaults, **WITHOUT_DEFAULT.get(name, {})}))


WRONG = {
    "one number for the batch": (
        "losses/pairwise", "lambda policy_chosen_logps, policy_rejected_logps: "
        "(policy_rejected_logps - policy_chosen_logps).mean()", r"returned \(\) for 5 rows; .* \(5,\)"),
    "one number per answer": (
        "losses/listwise", "lambda policy_logps, mask: policy_logps", r"returned \(5, 3\) for 5 rows"),
    "no gradient": ("losses/pointwise", "lambda policy_logps, lengths: lengths", r"has no gradient"),
    "not finite": ("losses/pointwise", "lambda policy_logps: policy_logps.log()", r"is not finite on synthetic inputs"),
    "an exception": ("losses/pointwise", "lambda policy_logps: policy_logps + ''", r"fails on synthetic .*: TypeError"),
    "columns": ("pair_rules", "lambda pairs: pairs.select('a', 'b')", r"returned \['a', 'b'\]; .* columns a, b and p"),
    "a column that is not there": ("pair_rules", "lambda pairs: pairs.select('c')", r"fails on synthetic .*: Column"),
    "a negative price": ("kl_controllers", "lambda coefficient, kl, samples: -kl", r"returned -5\.0 for a coefficient"),
    "one text": ("responses", "lambda text: text", r"returned str; it must return a list of texts"),
}  # fmt: skip


def test_a_k_wise_reward_loss_passes_and_a_reward_scale_of_0_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    try_choice(loss_of(monkeypatch, "reward", "plackett_luce", PLACKETT_LUCE))
    text = "def mine(policy_logps): return -policy_logps\ndef reward_scale(): return 0\n"
    with pytest.raises(SpecError, match=r"reward_scale of .* is 0\.0; it must be a number above 0"):
        try_choice(loss_of(monkeypatch, "pointwise", "mine", text))


@pytest.mark.parametrize("case", WRONG)
def test_a_choice_with_a_wrong_result_is_named(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, code, message = WRONG[case]
    choice = Chosen(folder, "mine", {})
    module = ModuleType(choice.module)
    module.mine = eval(code)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, choice.module, module)
    with pytest.raises(SpecError, match=message):
        try_choice(choice)
