"""What a policy writes besides answers: new prompts, and demonstrations from which it learns to write and to rate."""

from __future__ import annotations

from typing import Annotated, Any

from tasks.contract import Bounds, Choice, Chosen, DataError, Seed, Workspace
from tasks.declarations import AtMost, Cost, Resources, Size, StepView
from tasks.kinds import Completions, Demonstrations, Policy, Prompts, Scores
from tasks.message import Message

write_prompts_resources = Resources(exclusive=True, gpus=1, ranks=True)
write_prompts_excludes = ("others",)


def write_prompts_size(step: StepView) -> Size:
    return Size(step.params["size"], 1)


def write_prompts_cost(step: StepView) -> Cost:
    from tasks.sampling.longest import longest_answer

    size = step.params["size"]
    longest, outside = longest_answer(step)
    return {"samples": size, "tokens": AtMost(size * longest, typical=not outside)}


def write_prompts(
    policy: Policy,
    prompts: Prompts,
    work: Workspace,
    others: list[Prompts] | None = None,
    *,
    size: Annotated[int, Bounds(min=1)],
    shots: Annotated[int, Bounds(min=1)] = 8,
    instruction: str = "",
    max_similarity: Annotated[float, Bounds(above=0, max=1)] = 0.7,
    temperature: Annotated[float, Bounds(min=0)] = 0.6,
    top_p: Annotated[float, Bounds(above=0, max=1)] = 0.9,
    max_tokens: Annotated[int, Bounds(min=1)] | None = None,
    seed: Seed = 0,
    stream: Seed = 0,
    shard: Annotated[int, Bounds(min=1)] = 256,
    engine: Annotated[Chosen, Choice("engines")] = "auto",  # type: ignore[assignment]
) -> Prompts:
    """New prompts by a policy, which is shown a few existing ones and writes a further one of their kind.

    Left out are texts that are empty or were cut, and those that resemble an existing prompt, one of `others`, or one
    written before: by F1 of ROUGE-L, as Self-Instruct filters (Wang et al., arXiv 2212.10560, section 2.2).
    Self-rewarding policies train on such prompts (Yuan et al., arXiv 2401.10020, section 2.2). A new prompt has no
    truth and no group, so no rule of a world can judge answers to it: a judge must, and reports need held-out prompts,
    which `others` keeps away. Which prompts are shown, and the noise, belong to (seed, stream, number): a larger size
    begins with the same. Totals: `samples`, `tokens`, `prompts_empty`, `prompts_cut`, `prompts_similar`, `prompts_new`.
    Raises DataError if none is left.

    Args:
        others: prompts that none may resemble, as those that are held out.
        size: texts that the policy writes, of which the new prompts are what is left.
        shots: existing prompts that it is shown.
        instruction: a template in Jinja's language with the value prompts, a list of texts.
        max_similarity: F1 from which a text resembles another; 1: only equal words in the same order do.
        temperature: of the texts.
        top_p: of the texts.
        max_tokens: of a text; default: max_new_tokens of generation_config.json, else the remaining positions.
        seed: of all texts.
        stream: another stream of noise, for another round.
        shard: texts per shard; a kill loses at most one of each rank, with vllm two.
        engine: that samples; `auto`: vllm on a machine with a GPU, else transformers.
    """
    from tasks.judging.writing import Writing, new_prompts
    from tasks.ranks import this_rank
    from tasks.sampling.plan import Draws, sampling_plan
    from tasks.sampling.requests import Options
    from tasks.sampling.shards import completions_of
    from tasks.template import stop_ids

    asked = Writing(prompts, shots, instruction, f"{seed} {stream}").requests(size)
    options = Options(temperature, top_p, stop_ids=stop_ids(policy))
    plan = sampling_plan(policy, asked, max_tokens, work)
    texts = completions_of(policy, plan, Draws(1, seed, stream), options, engine, shard, work)
    if not this_rank().is_first:
        return Prompts.of(Prompts.SCHEMA.empty_table())
    folder = work.path / "texts"
    folder.mkdir(exist_ok=True)
    texts.save(folder)
    return new_prompts(Completions(folder), [prompts, *(others or [])], max_similarity, work)


def demonstrate_prompts(
    prompts: Prompts,
    *,
    size: Annotated[int, Bounds(min=1)],
    shots: Annotated[int, Bounds(min=1)] = 8,
    instruction: str = "",
    seed: Seed = 0,
) -> Demonstrations:
    """Demonstrations of writing a prompt: a few prompts as examples, as `write_prompts` shows them, and one more.

    A policy that has learned from them can write new prompts although it has never followed an instruction. Only
    prompts of a single plain message are used. Raises DataError where there are too few of them.

    Args:
        size: demonstrations.
        shots: existing prompts in each.
        instruction: as in `write_prompts`.
        seed: which prompts each shows.
    """
    from itertools import islice

    import pyarrow as pa

    from tasks.judging.writing import Writing

    pairs = Writing(prompts, shots, instruction, f"demonstrations {seed}").pairs()
    return Demonstrations.of(pa.Table.from_pylist([_demonstration(*pair) for pair in islice(pairs, size)]))


def demonstrate_ratings(
    scores: Scores,
    *,
    rubric: str = "",
    lead: str = "Score: ",
    lowest: int = 0,
    highest: int = 5,
    least: float | None = None,
    most: float | None = None,
) -> Demonstrations:
    """Demonstrations of rating an answer: the question that `as_judge` asks of each scored answer, and its rating.

    The evaluation fine-tuning data of self-rewarding language models (Yuan et al., arXiv 2401.10020, section 2.1), out
    of answers with scores of people or of a rule. The rating is the whole number that is nearest to

        lowest + (highest − lowest) · (score − least) / (most − least), from lowest to highest

    Answers without a score are left out, equal questions occur once, with the rating of the first. There is no
    justification: such a judge states a score and nothing else. Raises DataError where no scores differ.

    Args:
        rubric: as in `as_judge`; the default asks for a justification first, which these demonstrations do not have.
        lead: what a judgement writes before its score.
        lowest: the lowest rating.
        highest: the highest one.
        least: the score that is rated lowest; default: that of the 5% quantile.
        most: the score that is rated highest; default: that of the 95% quantile.
    """
    import numpy as np
    import pyarrow as pa

    from tasks.judging.rubric import ADDITIVE, Rubric

    asked = Rubric(rubric or ADDITIVE, lead, lowest, highest)
    rows = [
        row for row in scores.table.select(["prompt", "completion", "score"]).to_pylist() if row["score"] is not None
    ]
    values = np.array([row["score"] for row in rows])
    bounds = np.quantile(values, [0.05, 0.95]) if rows else np.zeros(2)
    bottom, top = (float(b) if given is None else given for given, b in zip((least, most), bounds, strict=True))
    if bottom >= top:
        raise DataError(f"{len(rows)} scores from {bottom:g} to {top:g} cannot be told apart: set `least` below `most`")
    shares = np.clip((values - bottom) / (top - bottom), 0, 1)
    ratings = np.floor(lowest + (highest - lowest) * shares + 0.5).astype(int).tolist()
    made: dict[str, dict[str, Any]] = {}
    for row, rating in zip(rows, ratings, strict=True):
        pair = _demonstration(asked.question(row["prompt"], row["completion"]), asked.judgement(rating))
        made.setdefault(pair["prompt_id"], pair)
    return Demonstrations.of(pa.Table.from_pylist([*made.values()]))


def _demonstration(message: list[Message], text: str) -> dict[str, Any]:
    from tasks.ids import digest, prompt_id

    id = prompt_id(message)
    return {"prompt_id": id, "prompt": message, "completion_id": digest("demonstration", id, text), "completion": text}
