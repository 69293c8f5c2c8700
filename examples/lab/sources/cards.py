"""Flash cards: a text file with a question and its answer on each line, between them a tab."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from tasks.ids import digest, prompt_id
from tasks.kinds import Demonstrations, Prompts
from tasks.skipped import RowLog
from tasks.source import Answers, Source


def cards(*, path: str) -> Source:
    """A file of cards: every tenth is in the split `heldout`, the others are in `train`.

    Args:
        path: the file, relative to the pipelines file.
    """
    return Cards(path)


def identity(*, online: bool, base: Path, path: str) -> dict[str, str | Path]:
    """What the keys of steps depend on besides the code: the content of the file."""
    return {"cards": base / path}


class Cards(Source):
    """A source overrides what it can give: here prompts, and demonstrations of their answers."""

    def prompts(self, split: str, log: RowLog) -> Prompts:
        return Prompts.of(pa.Table.from_pylist([prompt for prompt, _ in self._cards(split, log)]))

    def demonstrations(self, split: str, answers: Answers, log: RowLog) -> Demonstrations:
        return Demonstrations.of(pa.Table.from_pylist([
            {**prompt, "completion_id": digest("cards", prompt["prompt_id"], answer), "completion": answer}
            for prompt, answer in self._cards(split, log)
        ]))  # fmt: skip

    def _cards(self, split: str, log: RowLog) -> list[tuple[dict, str]]:
        """The rows of a split, as prompt and answer. Lines without a tab are skipped, counted and listed."""
        found = []
        for number, line in enumerate(Path(self.name).read_text().splitlines(), start=1):
            if split not in ("all", "heldout" if number % 10 == 0 else "train"):
                continue
            log.read += 1
            question, tab, answer = line.partition("\t")
            if not tab:
                log.skip(number, "no tab between question and answer")
                continue
            messages = [{"role": "user", "content": question}]
            found.append(({"prompt_id": prompt_id(messages), "prompt": messages, "truth": answer}, answer))
        return found
