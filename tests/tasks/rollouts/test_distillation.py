"""distill: costs worked by hand, its gradient against the KL between whole answers, kills, refusals."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.contract import Chosen, DataError, SpecError
from tasks.kinds import Policy
from tasks.rollouts.methods.distillation import Distillation, discounted_costs
from tests.flat import distill
from tests.models import tiny_policy
from tests.tasks.rollouts.small import CLIPPED, TRANSFORMERS, files_of, plain_curves, prompts
from tests.workspace import Killed, Mortal, Workspace

SETTINGS: dict[str, Any] = {
    "iterations": 4, "prompts_per_iteration": 4, "k": 2, "lr": 3e-3, "schedule": "constant", "objective": CLIPPED,
    "engine": TRANSFORMERS,
}  # fmt: skip
ESTIMATORS: tuple[dict[str, Any], ...] = ({"estimator": "sampled"}, {"estimator": "full", "discount": 0.5})


def run(policy: Policy, teacher: Policy, work: Workspace, **options: Any) -> Policy:
    made: Policy = distill(policy, teacher, options.pop("prompts", prompts()), work, **{**SETTINGS, **options})
    return made


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    """Larger than the student, with its tokenizer."""
    folder = tmp_path_factory.mktemp("teacher")
    return tiny_policy(folder, seed=5, hidden=48, layers=3, generation={"max_new_tokens": 9}, ending=3.5)


def test_a_tokens_cost_has_what_follows_it_in_the_same_answer() -> None:
    """Answers of 3 and 2 tokens, prices 1, 2, 4 and 8, 16: γ ½ gives 1 + 1 + 1, 2 + 2, 4 and 8 + 8, 16."""
    prices, lengths = torch.tensor([1.0, 2, 4, 8, 16]), torch.tensor([3, 2])
    assert discounted_costs(prices, lengths, 0.5).tolist() == [3, 4, 4, 16, 16]
    assert discounted_costs(prices, lengths, 0.0).tolist() == prices.tolist()
    assert discounted_costs(prices, lengths, 1.0).tolist() == [7, 6, 4, 24, 16]


@pytest.mark.parametrize("estimator", ["sampled", "full"])
@pytest.mark.parametrize("discount", [0.0, 1.0])
def test_the_mean_gradient_is_that_of_the_kl_it_names(estimator: str, discount: float) -> None:
    """Two tokens of a two-letter alphabet, all four answers weighted by their probability: with discount 1 the gradient
    of Σ_y π(y)·log(π(y)/π_T(y)), with 0 that of the distances at prefixes that are taken as given."""
    torch.manual_seed(0)
    first, second = (torch.randn(n, 2, dtype=torch.float64) for n in (1, 2))  # logits at the empty prefix, at a and b
    teachers = [torch.randn(n, 2, dtype=torch.float64).log_softmax(1) for n in (1, 2)]
    leaves = [x.requires_grad_() for x in (first, second)]

    def distances() -> tuple[torch.Tensor, torch.Tensor]:
        p, q = (x.log_softmax(1) for x in leaves)
        return p, torch.cat([(x.exp() * (x - t)).sum(1) for x, t in zip((p, q), teachers, strict=True)])

    p, d = distances()
    given = p[0].exp().detach() if discount == 0 else p[0].exp()
    exact = torch.autograd.grad(d[0] + (given * d[1:]).sum(), leaves)
    method = Distillation(estimator, discount, CLIPPED, "sum")  # type: ignore[arg-type]
    total = torch.zeros((), dtype=torch.float64)
    for x in (0, 1):
        for y in (0, 1):
            p, d = distances()
            q = second.log_softmax(1)
            logps = torch.stack([p[0, x], q[x, y]])
            theirs = torch.stack([teachers[0][0, x], teachers[1][x, y]])
            here = d[[0, 1 + x]]
            prices = (logps - theirs if estimator == "sampled" else here).detach()
            costs = discounted_costs(prices, torch.tensor([2]), discount)
            costs = costs if estimator == "sampled" else costs - prices
            tokens = {"old_logps": logps.detach(), "advantages": -costs, "divergences": here}
            losses = method.losses(logps, tokens, torch.zeros(2, dtype=torch.int64))
            total = total + logps.sum().exp().detach() * losses.sum()
    for found, wanted in zip(torch.autograd.grad(total, leaves), exact, strict=True):
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("options", ESTIMATORS, ids=["sampled", "full"])
def test_the_student_comes_nearer_and_a_kill_changes_no_byte(
    options: dict[str, Any], policy: Policy, teacher: Policy, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {**options, "iterations": 7, "checkpoint_every": 2, "minibatches": 2, "k": 4}
    straight = Workspace(tmp_path / "straight")
    expected = run(policy, teacher, straight, **settings)
    distances = [row["objective/reverse_kl"] for _, row in straight.curves]
    assert distances[-1] < 0.8 * distances[0]
    for at in (3, 6):
        with pytest.raises(Killed):
            run(policy, teacher, Mortal(tmp_path / "killed", at), **settings)
    work = Workspace(tmp_path / "killed")
    found = run(policy, teacher, work, **settings)
    assert files_of(found.path) == files_of(expected.path)
    assert plain_curves(work) == plain_curves(straight)[4:]
    assert work.totals == straight.totals
    assert "queries" not in work.totals


def test_both_estimators_read_the_same_distance_and_a_student_is_at_none_from_itself(
    policy: Policy, teacher: Policy, tmp_path: Path
) -> None:
    """The price of a sampled token is unbiased for the distance: 256 answers, within four standard errors."""
    found = {}
    for estimator in ("sampled", "full"):
        work = Workspace(tmp_path / estimator)
        run(policy, teacher, work, estimator=estimator, iterations=1, prompts_per_iteration=6, k=64)
        found[estimator] = work.curves[0][1]["objective/reverse_kl"]
    assert found["sampled"] == pytest.approx(found["full"], abs=0.2)
    assert found["full"] > 0.5
    work = Workspace(tmp_path / "itself")
    run(policy, policy, work, estimator="full", iterations=1)
    assert work.curves[0][1]["objective/reverse_kl"] == pytest.approx(0, abs=1e-5)
    assert work.curves[0][1]["grad_norm"] == pytest.approx(0, abs=1e-4)


def test_an_adapter_learns_and_a_teacher_may_be_one(policy: Policy, teacher: Policy, tmp_path: Path) -> None:
    lora = Chosen("adapters", "lora", {"rank": 4, "alpha": 8.0, "targets": ["all-linear"]})
    work = Workspace(tmp_path / "student")
    student = run(policy, teacher, work, adapter=lora, estimator="full", lr=1e-2, iterations=6, k=4)
    distances = [row["objective/reverse_kl"] for _, row in work.curves]
    assert student.adapter
    assert distances[-1] < distances[0]
    again = Workspace(tmp_path / "again")
    run(policy, student, again, adapter=lora, estimator="full", lr=1e-2, iterations=4, k=4)
    apart = [row["objective/reverse_kl"] for _, row in again.curves]
    assert apart[0] == pytest.approx(distances[0] - distances[-1], abs=1.0)
    assert apart[-1] < apart[0]


def test_teachers_that_read_other_tokens_are_refused(policy: Policy, teacher: Policy, tmp_path: Path) -> None:
    other = tiny_policy(tmp_path / "other", vocab=300)
    with pytest.raises(DataError, match=r"`teacher` at .* has tokenizer and template"):
        run(policy, other, Workspace(tmp_path / "a"))
    with pytest.raises(DataError, match="there are no prompts"):
        run(policy, teacher, Workspace(tmp_path / "b"), prompts=prompts(0))


def test_a_teacher_with_fewer_ids_than_the_student_can_sample_is_refused(policy: Policy, tmp_path: Path) -> None:
    from tasks.training.model import open_model

    wide = open_model(policy, torch.float32)
    rows = wide.config.vocab_size
    wide.resize_token_embeddings(rows + 8)
    for file in policy.path.iterdir():
        if file.is_file() and not file.name.endswith(".safetensors"):
            (tmp_path / file.name).write_bytes(file.read_bytes())
    wide.save_pretrained(tmp_path)
    with pytest.raises(DataError, match=f"reads {rows} ids, and the student samples {rows + 8}"):
        run(Policy(tmp_path), policy, Workspace(tmp_path / "run"))
    made = run(policy, Policy(tmp_path), Workspace(tmp_path / "padded"), estimator="full", iterations=1)
    assert made.path.is_dir()


def test_a_single_answer_per_iteration_is_refused(policy: Policy, teacher: Policy, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="prompts_per_iteration 1 and k 1"):
        run(policy, teacher, Workspace(tmp_path), prompts_per_iteration=1, k=1)
