"""Sampling of completions from a policy."""

from typing import Annotated

from tasks.contract import Bounds, Choice, Chosen, Seed, Workspace
from tasks.declarations import AtMost, Cost, Resources, Size, StepView
from tasks.kinds import Completions, Policy, Prompts

sample_resources = Resources(exclusive=True, gpus=1, ranks=True)


def sample_size(step: StepView) -> Size:
    return Size(step.rows_of("prompts") * step.params["k"], step.params["k"])


def sample_cost(step: StepView) -> Cost:
    from tasks.sampling.longest import longest_answer

    answers = step.rows_of("prompts") * step.params["k"]
    longest, outside = longest_answer(step)
    return {"samples": answers, "tokens": AtMost(answers * longest, typical=not outside)}


def sample(
    policy: Policy,
    prompts: Prompts,
    work: Workspace,
    *,
    k: Annotated[int, Bounds(min=1)] = 1,
    temperature: Annotated[float, Bounds(min=0)] = 1.0,
    top_p: Annotated[float, Bounds(above=0, max=1)] = 1.0,
    top_k: Annotated[int, Bounds(min=0)] = 0,
    max_tokens: Annotated[int, Bounds(min=1)] | None = None,
    stop: list[str] = [],
    seed: Seed = 0,
    stream: Seed = 0,
    shard: Annotated[int, Bounds(min=1)] = 256,
    engine: Annotated[Chosen, Choice("engines")] = "auto",  # type: ignore[assignment]
) -> Completions:
    """Sample `k` completions of every prompt, in the order of the prompts.

    The seed of a completion is a hash of (seed, stream, prompt_id, its number): more prompts, another order or a larger
    `k` do not change the others. Prompts that leave no room for an answer, or that the chat template rejects, are
    skipped. Ids without a text (a padded embedding) are never sampled; log-probabilities are those of the model's whole
    distribution, here as in training.

    Args:
        k: completions per prompt.
        temperature: 0 takes the likeliest token.
        top_p: keep the smallest set of likeliest tokens with at least this total probability.
        top_k: keep this many likeliest tokens; 0 keeps all.
        max_tokens: maximum length; default: max_new_tokens of generation_config.json, else the remaining positions.
        stop: texts that end an answer; its text ends before them.
        seed: of all completions.
        stream: another stream of noise for the same prompts.
        shard: prompts per shard; ranks share the shards. A kill loses at most one of each rank, with vllm two.
        engine: sampling engine; `auto`: vllm on a machine with a GPU, else transformers.

    Raises DataError if every prompt is skipped, or one occurs twice.
    """
    from tasks.sampling.plan import Draws, sampling_plan
    from tasks.sampling.requests import Options
    from tasks.sampling.shards import completions_of
    from tasks.template import stop_ids

    options = Options(temperature, top_p, top_k, tuple(stop), stop_ids(policy))
    draws = Draws(k, seed, stream)
    plan = sampling_plan(policy, prompts, max_tokens, work)
    return completions_of(policy, plan, draws, options, engine, shard, work)
