"""A Python function of the user's as an oracle: a verifiable reward."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tasks.contract import Bounds, Execution
from tasks.judging.program_files import program_files
from tasks.kinds import Scorer

if TYPE_CHECKING:
    from tasks.judging.session import Session

QUESTIONS_PER_CALL = 1024
"""So that no process waits for another one's answer every few questions."""


def program(
    *,
    function: str,
    reads: list[str] = [],
    scale: Annotated[float, Bounds(above=0)] = 1.0,
    timeout: Annotated[float, Bounds(above=0)] = 10.0,
    max_memory: Annotated[float, Bounds(above=0)] = 2.0,
    max_failed: Execution[Annotated[float, Bounds(min=0, max=1)]] = 0.1,
    stored: Execution[bool] = False,
    workers: Execution[Annotated[int, Bounds(min=0)]] = 0,
) -> Scorer:
    """A Python function of the user's, `(prompt, completion, truth) -> float | bool | None`: a verifiable reward.

    `prompt` is a list of messages, each with `role` and `content`; `completion` the answer's text; `truth` the text of
    the prompt's column `truth` (JSON where the source has more than a text), or None. True counts 1, False 0; None is
    no answer. P(a beats b) = σ(scale·(score(a) − score(b))).

    Every answer is a process of its own, in an empty folder, that begins in the state right after the file's import: it
    sees no environment variable but PATH and the language, no open file of alignflow, and only the files named here.
    What it prints is captured. Where it crashes, hangs, needs too much memory, raises an exception, or returns anything
    else (NaN, a text), that answer is null and counts as failed; the step's log has each one with its reason and
    the end of its output. Processes that it leaves behind are ended. This guards against faults of a program, not
    against one that means harm: it has the rights of the user.

    The file, the modules beside it that it imports, `reads`, and the versions of the packages that it imports are in
    the key. The function must depend on nothing else: not on the clock, random numbers, or a network.

    Args:
        function: path/of/file.py::name.
        reads: further files or folders beside the program that it reads, by `Path(__file__).parent`.
        scale: units of the score: how sure a difference of 1 makes that an answer is better.
        timeout: wall time of an answer, seconds.
        max_memory: address space of an answer, GiB; what it starts has as much.
        max_failed: largest share of answers that may fail; above it the step fails and says which.
        stored: keep the answers in the store of answers, so that other steps and runs do not ask again; worth it for
            programs that take longer than a few milliseconds.
        workers: processes; 0: one per core.
    """
    from tasks.judging.program_scorer import ProgramAnswers
    from tasks.judging.programs import Limits

    source = program_files(function, reads, Path.cwd())
    answers = ProgramAnswers(source, Limits(timeout, max_memory), workers, max_failed, stored=stored)

    def score(
        prompts: Sequence[Any], completions: Sequence[str], truths: Sequence[str | None], session: Session
    ) -> list[float | None]:
        return answers.of(prompts, completions, truths, session)

    scorer = Scorer.asking(score=score, scale=scale)
    scorer.questions_per_call = QUESTIONS_PER_CALL
    return scorer


def identity(
    *, online: bool, base: Path, function: str, reads: Sequence[str] = (), **_: object
) -> dict[str, str | Path]:
    """The content of its files and the versions of the packages that it imports. Raises SpecError where it is not a
    function that can be called as a program is."""
    source = program_files(function, reads, base)
    packages = [f"{name} {version}" for name, version in source.packages.items()]
    return {**{f"file {name}": path for name, path in source.all.items()}, "packages": ", ".join(packages)}
