"""A language model from outside as judge through our own engines."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tasks.contract import Bounds, Execution, Seed, SpecError
from tasks.formats.checkpoint import check_files, model_directory
from tasks.formats.hub import content_or_commits
from tasks.kinds import Policy, Scorer

if TYPE_CHECKING:
    from tasks.judging.policy_judge import Sampling


def self_judge(
    *,
    path: str,
    revision: str | None = None,
    rubric: str | None = None,
    lead: str = "Score: ",
    lowest: int = 0,
    highest: int = 5,
    how: Literal["sampled", "expected"] = "sampled",
    n: Annotated[int, Bounds(min=1)] = 3,
    temperature: Annotated[float, Bounds(min=0)] = 1.0,
    top_p: Annotated[float, Bounds(above=0, max=1)] = 1.0,
    max_tokens: Annotated[int, Bounds(min=1)] | None = None,
    max_unparsed: Execution[Annotated[float, Bounds(min=0, max=1)]] = 0.5,
    scale: Annotated[float, Bounds(above=0)] = 1.0,
    seed: Seed = 0,
    sampler: Literal["transformers", "vllm"] = "transformers",
    dtype: Literal["auto", "float32", "bfloat16"] = "auto",
) -> Scorer:
    """A causal language model that rates answers by a rubric: `as_judge` for a model that no step of the graph makes.

    Judgements are sampled in the step that asks, without a server, and kept in the store of answers. Raises DataError
    if the checkpoint is not whole, SpecError for a rubric that is no template or does not show the answer.

    Args:
        path: a local directory in the Hugging Face layout, or a hub id (org/name).
        revision: a hub repository's branch, tag or commit; default: its main branch.
        rubric: a file with a template in Jinja's language, with the values prompt and answer; default: the additive
            one of five points, after figure 2 of arXiv 2401.10020.
        lead: what a judgement writes before its score; empty: it is a score and nothing else.
        lowest: the lowest score.
        highest: the highest one.
        how: sampled: the mean score of n judgements; expected: Σ score · P(the judgement begins with it), normalised.
        n: judgements of each answer.
        temperature: of judgements.
        top_p: of judgements.
        max_tokens: of a judgement; default: max_new_tokens of generation_config.json, else the remaining positions.
        max_unparsed: largest share of judgements without a score; above it the step that asks fails.
        scale: logits that one point is worth where answers are compared.
        seed: of the judgements.
        sampler: engine that samples them.
        dtype: of the model.
    """
    from tasks.judging.policy_judge import Judgements, expected_score, mean_judgement
    from tasks.judging.rubric import ADDITIVE, Rubric
    from tasks.training.device import this_device

    here = model_directory(path, revision)
    check_files(here)
    policy = Policy(here.resolve())
    made = Rubric(ADDITIVE if rubric is None else _read(Path(rubric).expanduser()), lead, lowest, highest)
    if how == "expected":
        scorer, device = expected_score(policy, made, scale, dtype), this_device()
        scorer.stored_as = f"expected score, {device.kind}, {device.dtype(dtype)}"
        return scorer
    judgements = Judgements(n, temperature, top_p, max_tokens, seed, max_unparsed)
    return mean_judgement(policy, made, judgements, _sampling(sampler, dtype), scale)


def _sampling(name: str, dtype: Literal["auto", "float32", "bfloat16"]) -> Sampling:
    from tasks.judging.policy_judge import Sampling

    identity = json.dumps({"name": name, "dtype": dtype})
    if name == "vllm":
        from tasks.engines.vllm import vllm

        return Sampling(partial(vllm, dtype=dtype), identity)
    from tasks.engines.transformers import transformers

    return Sampling(partial(transformers, dtype=dtype), identity)


def identity(
    *, online: bool, base: Path, path: str, revision: str | None = None, rubric: str | None = None, **_: object
) -> dict[str, str | Path]:
    """The checkpoint's content, or the hub's commit, and that of the rubric. Raises DataError if one is not whole."""
    content = content_or_commits(path, revision, online=online, base=base, kinds=("model",))
    if "model" not in content:
        check_files(Path(content["content"]))
    read: dict[str, str | Path] = {}
    if rubric is not None:
        file = base / Path(rubric).expanduser()
        _read(file)
        read["rubric"] = file
    return {"revision" if name == "model" else name: value for name, value in content.items()} | read


def _read(file: Path) -> str:
    try:
        return file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise SpecError(f"the rubric {file} cannot be read: {e}") from None
