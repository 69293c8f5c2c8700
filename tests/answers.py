"""Small tables of completions and judgements for tests, and oracles that write down what they are asked."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.kinds import Artifact, Completions, Oracle, Report, Scorer, WinProbs


def saved(handle: Any, folder: Path) -> Any:
    """The same table, written and opened from disk, as a task gets it."""
    folder.mkdir(parents=True)
    handle.save(folder)
    return type(handle)(folder)


def completions(
    texts: Mapping[str, Sequence[str]],
    *,
    stream: int = 0,
    truth: str | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Completions:
    """Answers to prompts, by prompt_id. The draw `x` / stream 0 / k 2 has the completion_id `x/0/2`."""
    rows = [
        {
            "prompt_id": prompt, "prompt": [{"role": "user", "content": f"ask {prompt}"}], "truth": truth,
            "group": None, "weight": None, "completion_id": f"{prompt}/{stream}/{k}", "completion": text,
            "prompt_tokens": [1, 2], "completion_tokens": [3] * len(text), "stream": stream, "k": k,
            "token_logps": [-0.5] * len(text), "finish_reason": "stop" if k % 2 == 0 else "length",
        }
        for prompt, answers in texts.items()
        for k, text in enumerate(answers)
    ]  # fmt: skip
    import pyarrow as pa

    return Completions.of(pa.Table.from_pylist(rows, Completions.SCHEMA), metadata)


def win_probs(rows: Sequence[tuple[str, str, str, float | None]], first: str | None = None) -> WinProbs:
    """Questions as (prompt, a, b, p)."""
    import pyarrow as pa

    names = ("prompt_id", "a_id", "b_id", "p")
    return WinProbs.of(
        pa.Table.from_pylist([dict(zip(names, r, strict=True), first=first) for r in rows], WinProbs.SCHEMA)
    )


class Asked(Scorer):
    """A live oracle made of Python functions; `questions` holds what it was asked, one entry per question."""

    def __init__(self) -> None:
        super().__init__()
        self.questions: list[Any] = []

    def opened(self) -> Any:
        return self


def scorer(scores: Mapping[str, float | None], *, scale: float = 1.0, fail_after: int | None = None) -> Asked:
    """Scores a text by a table. `fail_after`: raises KeyboardInterrupt when that many questions have been answered."""
    made = Asked()

    def score(prompts: Sequence[Any], texts: Sequence[str], truths: Sequence[str | None]) -> list[float | None]:
        if fail_after is not None and len(made.questions) + len(texts) > fail_after:
            raise KeyboardInterrupt
        made.questions += [(p[-1]["content"], t, truth) for p, t, truth in zip(prompts, texts, truths, strict=True)]
        return [scores[t] for t in texts]

    made._score, made.scale = score, scale
    return made


class Judge(Oracle):
    """A live oracle that only compares; `questions` as (prompt, a, b)."""

    def __init__(self, table: Mapping[tuple[str, str], float | None], antisymmetric: bool) -> None:
        super().__init__()
        self.questions: list[tuple[str, str, str]] = []
        self._table = table
        self._compare, self.antisymmetric = self._answer, antisymmetric

    def _answer(
        self, prompts: Sequence[Any], a: Sequence[str], b: Sequence[str], _truths: Sequence[str | None]
    ) -> list[float | None]:
        self.questions += [(p[-1]["content"], x, y) for p, x, y in zip(prompts, a, b, strict=True)]
        return [self._probability(x, y) for x, y in zip(a, b, strict=True)]

    def _probability(self, a: str, b: str) -> float | None:
        if (a, b) in self._table or not self.antisymmetric:
            return self._table[a, b]
        p = self._table[b, a]
        return None if p is None else 1 - p

    def opened(self) -> Any:
        return self


def named(report: Report) -> dict[str, dict[str, Any]]:
    """The rows of a report by metric."""
    return {row["name"]: row for row in rows(report)}


def rows(handle: Artifact) -> list[dict[str, Any]]:
    """All rows of a table as dictionaries."""
    found: list[dict[str, Any]] = handle.table.to_pylist()  # type: ignore[attr-defined]
    return found
