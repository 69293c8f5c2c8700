"""Measurements made of steps. Composites, as in `tasks/composites.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

if TYPE_CHECKING:
    from tasks.contract import Add, Bounds, Seed
    from tasks.kinds import Oracle, Policy, Prompts, Report, Scorer


def accuracy_on_samples(
    add: Add,
    policy: Policy,
    prompts: Prompts,
    oracle: Oracle,
    gold: Oracle,
    *,
    k: Annotated[int, Bounds(min=2)] = 4,
    max_tokens: Annotated[int, Bounds(min=1)] | None = None,
    seed: Seed = 0,
    allow_seen: bool = False,
) -> Report:
    """Accuracy of an oracle on a policy's own answers: every two of k answers to a prompt, labelled by a better oracle.

    The label is the answer that `gold` finds likelier to win; pairs that it finds equal are left out. Next to the KL of
    several policies it gives the farthest accurate KL (`accuracy_at_kl`).

    Args:
        k: answers to each prompt.
        max_tokens: longest answer; default: that of the policy's generation_config.json.
        seed: the answers.
        allow_seen: the prompts may have trained the oracle; shown beside the numbers.
    """
    answers = add(
        "sample", policy=policy, prompts=prompts, k=k, max_tokens=max_tokens, seed=seed, stream=_LABELLED_STREAM
    )
    labelled = add(
        "pairs", completions=answers, win_probs=add("compare", completions=answers, oracle=gold), rule="all_pairs"
    )
    return add("reward_accuracy", pairs=labelled, oracle=oracle, allow_seen=allow_seen)


def mt_bench(
    add: Add,
    policy: Policy,
    prompts: Prompts,
    rater: Scorer,
    *,
    turns: Annotated[int, Bounds(min=1)] = 2,
    temperature: Annotated[float, Bounds(min=0)] = 0.7,
    temperatures: dict[str, float] = {},
    max_tokens: Annotated[int, Bounds(min=1)] | None = None,
    seed: Seed = 0,
) -> Report:
    """Rate a policy's answers over several turns, as MT-bench does: answer, go on with the next question, answer again.

    Prompts are questions in MT-bench's layout; the rater is any oracle that scores single answers, such as `llm_rater`,
    which is shown the conversation, and the reference answer where the file has one. (FastChat shows those of math,
    reasoning and coding alone; the published file has some for other categories, too.)

    Source: Zheng et al., arXiv 2306.05685, section 3; FastChat's `gen_model_answer.py` and `common.py`.

    Args:
        turns: questions of each conversation that are answered.
        temperature: of all answers.
        temperatures: of the answers to the prompts of each group instead; must have all groups. MT-bench's: writing and
            roleplay 0.7, extraction, math, coding and reasoning 0, stem and humanities 0.1.
        max_tokens: longest answer; default: that of the policy's generation_config.json. FastChat's is 1024.
        seed: the answers.
    """
    scores, asked = [], prompts
    for turn in range(1, turns + 1):
        settings: dict[str, Any] = {
            "policy": policy,
            "max_tokens": max_tokens,
            "seed": seed,
            "stream": _TURNS_STREAM + turn,
        }
        answers = _answers(add, asked, turn, temperature, temperatures, settings)
        scores.append(add("score", f"ratings_{turn}", completions=answers, oracle=rater))
        if turn < turns:
            asked = add("next_turn", f"turn_{turn + 1}", completions=answers)
    return add("turn_ratings", scores=scores)


def _answers(
    add: Add, prompts: Any, turn: int, temperature: float, temperatures: dict[str, float], settings: dict[str, Any]
) -> Any:
    """One answer to each prompt, sampled at the temperature of its group."""
    if not temperatures:
        return add("sample", f"answers_{turn}", prompts=prompts, temperature=temperature, **settings)
    parts = []
    for i, value in enumerate(sorted(set(temperatures.values())), 1):
        groups = [group for group, at in temperatures.items() if at == value]
        others = [group for group in temperatures if group not in groups]
        part = add("take_groups", f"questions_{turn}_{i}", table=prompts, groups=groups, others=others)
        parts.append(add("sample", f"answers_{turn}_{i}", prompts=part, temperature=value, **settings))
    return parts[0] if len(parts) == 1 else add("concat", f"answers_{turn}", tables=parts)


_TURNS_STREAM, _LABELLED_STREAM = 7100, 7200
"""Streams of their own, of turns one for each, so that these answers are draws of no other step."""
