"""Benchmarks of others: lm-evaluation-harness and Inspect, and what training costs a policy by them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from tasks.contract import Bounds, Choice, Chosen, DataError, Execution, Seed, SpecError, Workspace
from tasks.declarations import ACCELERATED, Evaluation, Metric, StepView
from tasks.kinds import Policy, Report

if TYPE_CHECKING:
    from pathlib import Path

lm_eval_harness_resources = ACCELERATED
inspect_evals_resources = ACCELERATED
lm_eval_harness_metrics = {
    "eval/lm_eval": Metric("lm-eval\n(95% CI)", ".3f", interval=True, ranks=True, axis="mean over tasks")
}
inspect_evals_metrics = {
    "eval/inspect_evals": Metric("Inspect\n(95% CI)", ".3f", interval=True, ranks=True, axis="mean over tasks")
}
alignment_tax_metrics = {"eval/alignment_tax": Metric("change of benchmarks\n(95% CI)", "+.3f", interval=True)}


def lm_eval_harness_evaluation(step: StepView) -> Evaluation:
    settings = {
        name: step.params.get(name) for name in ("benchmarks", "num_fewshot", "max_samples", "chat_template", "system")
    }
    return Evaluation("lm-evaluation-harness", [], step.first("policy"), settings=settings)


def inspect_evals_evaluation(step: StepView) -> Evaluation:
    settings = {name: step.params.get(name) for name in ("benchmarks", "max_samples", "temperature", "max_tokens")}
    return Evaluation("Inspect", [], step.first("policy"), settings=settings)


def alignment_tax_evaluation(step: StepView) -> Evaluation:
    from tasks.judging.evaluated import behind

    return Evaluation(
        "change of benchmarks", [], behind(step, "report", "policy"), baseline=behind(step, "before", "policy")
    )


def lm_eval_harness(
    policy: Policy,
    work: Workspace,
    *,
    benchmarks: list[str],
    include: Annotated[Chosen, Choice("sources", other="path")] | None = None,
    num_fewshot: Annotated[int, Bounds(min=0)] | None = None,
    max_samples: Annotated[int, Bounds(min=1)] | None = None,
    chat_template: bool = True,
    system: str | None = None,
    batch_size: Annotated[int, Bounds(min=1)] = 8,
    dtype: Literal["auto", "float32", "bfloat16"] = "auto",
    seed: Seed = 0,
    pass_env: Execution[list[str]] = [],
    timeout: Execution[Annotated[float, Bounds(above=0)] | None] = None,
) -> Report:
    """Evaluate a policy with EleutherAI's lm-evaluation-harness (lm-eval), in a process of its own.

    eval/lm_eval/<task>/<metric> for all metrics of all tasks and groups (with a filter: …/<metric>/<filter>) ·
    eval/lm_eval: mean over tasks of the first metric of each, where that is a share of samples that should be high.
    Intervals are 95%: over samples where the harness gives a value of each (then also in `per_prompt`, one row per
    sample, so that runs are compared sample by sample), else by its standard error. What training costs is
    `alignment_tax` of this Report and the base's.

    The package is no dependency of this project: `pip install 'alignflow[lm-eval]'`. The process sees no environment
    variables but those that name caches, proxies, devices and offline modes; a token only where `pass_env` names it.
    Data sets that tasks load from the hub are in no key, as the harness takes the newest: pin them in a YAML file of
    your own. Code of a model or of a data set is not run, nor are tasks that execute a policy's code. Raises SpecError
    where the package is missing, DataError where the harness fails, with the end of its output.

    Source: Gao et al., The language model evaluation harness, v0.4.

    Args:
        benchmarks: names of tasks or groups, e.g. [gsm8k, ifeval].
        include: a folder of tasks of your own, as YAML files; files that they name lie relative to it.
        num_fewshot: examples before each question; default: those of the task.
        max_samples: samples of each task, the first ones; default: all.
        chat_template: questions are rendered with the policy's chat template.
        system: text of the system turn.
        batch_size: samples that are computed together, which may change the last digits.
        dtype: of the policy; auto: that of its files.
        seed: of the examples that are drawn, and of sampling.
        pass_env: names of further environment variables that the process may see, such as HF_TOKEN.
        timeout: seconds after which the process is ended; default: never.
    """
    from tasks.harnesses.lm_eval_child import run_lm_eval
    from tasks.harnesses.process import check_installed, run_harness
    from tasks.harnesses.results import harness_report
    from tasks.training.device import this_device

    folder = _folder(include)
    check_installed("lm_eval", "lm_eval_harness", "lm-eval")
    request = {
        "model": str(_whole(policy)), "tasks": benchmarks, "include": str(folder) if folder else None,
        "limit": max_samples, "num_fewshot": num_fewshot, "chat_template": chat_template, "system": system,
        "batch_size": batch_size, "dtype": dtype, "device": this_device().kind, "seed": seed,
    }  # fmt: skip
    result = run_harness(run_lm_eval, request, work, folder=folder, pass_env=pass_env, timeout=timeout)
    _report_versions(result["versions"], work)
    return harness_report(result, "lm_eval")


def inspect_evals(
    policy: Policy,
    work: Workspace,
    *,
    benchmarks: list[str],
    include: Annotated[Chosen, Choice("sources", other="path")] | None = None,
    max_samples: Annotated[int, Bounds(min=1)] | None = None,
    temperature: Annotated[float, Bounds(min=0)] = 0.0,
    max_tokens: Annotated[int, Bounds(min=1)] = 512,
    batch_size: Annotated[int, Bounds(min=1)] = 8,
    dtype: Literal["auto", "float32", "bfloat16"] = "auto",
    seed: Seed = 0,
    pass_env: Execution[list[str]] = [],
    timeout: Execution[Annotated[float, Bounds(above=0)] | None] = None,
) -> Report:
    """Evaluate a policy with the UK AI Security Institute's Inspect (inspect-ai), in a process of its own.

    eval/inspect_evals/<task>/<scorer>/<metric> for all metrics · eval/inspect_evals: mean over tasks of the first
    metric of each, where that is the mean of its samples' grades (correct 1, partial ½, else 0). Intervals,
    `per_prompt`, the process and its environment are as in `lm_eval_harness`. The policy answers through Inspect's
    provider `hf`, with its chat template.

    The package is no dependency of this project: `pip install 'alignflow[inspect]'`, and `inspect_evals` for the
    collection of that name. Tasks are Python code, which runs with your rights. Raises SpecError where the package is
    missing, DataError where a task fails, with the end of the output.

    Source: UK AI Security Institute, Inspect AI, https://inspect.aisi.org.uk.

    Args:
        benchmarks: tasks as Inspect names them: inspect_evals/gsm8k, or a file, mine.py or mine.py@my_task.
        include: the folder of your files, to which their names are relative.
        max_samples: samples of each task, the first ones; default: all.
        temperature: of the answers; 0 takes the likeliest token.
        max_tokens: longest answer.
        batch_size: answers that are generated together.
        dtype: of the policy; auto: that of its files.
        seed: of sampling.
        pass_env: names of further environment variables that the process may see, such as the key of a grader.
        timeout: seconds after which the process is ended; default: never.
    """
    from tasks.harnesses.inspect_child import run_inspect
    from tasks.harnesses.process import check_installed, run_harness
    from tasks.harnesses.results import harness_report
    from tasks.training.device import this_device

    check_installed("inspect_ai", "inspect_evals", "inspect")
    request = {
        "model": str(_whole(policy)), "tasks": benchmarks, "limit": max_samples, "temperature": temperature,
        "seed": seed, "max_tokens": max_tokens, "batch_size": batch_size, "dtype": dtype, "device": this_device().kind,
        "logs": str(work.path / "logs"),
    }  # fmt: skip
    result = run_harness(run_inspect, request, work, folder=_folder(include), pass_env=pass_env, timeout=timeout)
    _report_versions(result["versions"], work)
    return harness_report(result, "inspect_evals")


def alignment_tax(report: Report, before: Report) -> Report:
    """What a policy lost, or gained, on benchmarks by its training: its Report minus that of the policy before.

    eval/alignment_tax/<metric>, for each metric that both have (lm_eval/gsm8k/exact_match, …): the difference, negative
    where training cost something that should be high · eval/alignment_tax: that of the Report's first metric, the mean
    over tasks. Where both have values of the same samples, d = value − value before is taken sample by sample, and the
    95% interval is Student's of the mean of d; else it is null. `per_prompt` has the differences by sample. Raises
    DataError if the Reports have no metric in common.

    Source: the alignment tax of Askell et al., arXiv 2112.00861, and Ouyang et al., arXiv 2203.02155, section 4.2.

    Args:
        report: of the trained policy, from `lm_eval_harness`, `inspect_evals` or any other task with values by prompt.
        before: the same of the policy that the training began with.
    """
    import polars as pl

    from tasks.harnesses.results import changes_by_sample, metric_changes

    found = metric_changes(report, before)
    if not found:
        names = [sorted(row["name"] for row in r.table.to_pylist()) for r in (report, before)]
        raise DataError(f"`report` and `before` have no metric in common: {names[0]} and {names[1]}")
    table = pl.DataFrame([{**found[0], "name": "eval/alignment_tax"}, *found], infer_schema_length=None)
    by_sample = changes_by_sample(report, before)
    return Report.of(table) if by_sample is None else Report.of(table).with_per_prompt(by_sample)


def _whole(policy: Policy) -> Path:
    if policy.adapter is not None:
        raise DataError(f"{policy.path} is an adapter, which the harness does not read: `merge` it first")
    return policy.path.resolve()


def _folder(include: Chosen | None) -> Path | None:
    """The folder of a user's own tasks. Raises SpecError where the source is none."""
    from pathlib import Path

    if include is None:
        return None
    folder = Path(str(include.params.get("path", ""))).expanduser()
    if "path" not in include.params or not folder.is_dir():
        raise SpecError(
            f"`include` must be a folder with tasks, and {include.params.get('path', include.name)} is none"
        )
    return folder.resolve()


def _report_versions(versions: dict[str, object], work: Workspace) -> None:
    """Show which versions of the tasks were run, as numbers of several versions are not comparable."""
    shown = ", ".join(f"{task} {version}" for task, version in versions.items())
    work.notice(f"versions of the tasks: {shown}")
