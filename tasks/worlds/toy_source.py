"""The toy world as a source: its questions and its writers' answers as tables."""

import pyarrow as pa

from tasks.ids import digest, prompt_id
from tasks.kinds import Demonstrations, Prompts
from tasks.skipped import RowLog
from tasks.source import Answers, World
from tasks.worlds.toy import Question, ToyWorld
from tasks.worlds.toy_writers import golden, mixed

_PER_PROMPT = 3


class ToySource(World):
    """Prompts of every split; demonstrations of rm and policy, three to a prompt."""

    def __init__(self, world: ToyWorld) -> None:
        super().__init__("toy")
        self._world = world

    def prompts(self, split: str, log: RowLog) -> Prompts:
        return Prompts.of(pa.Table.from_pylist([_prompt(q) for q in self._world.questions(split)]))

    def demonstrations(self, split: str, answers: Answers, log: RowLog) -> Demonstrations:
        write = {"mixed": mixed, "golden": golden}[answers]
        return Demonstrations.of(pa.Table.from_pylist([
            {
                **_prompt(q),
                "completion_id": digest("toy", str(self._world), answers, q.text, str(k)),
                "completion": write(self._world, q, k),
            }
            for q in self._world.questions(split)
            for k in range(_PER_PROMPT)
        ]))  # fmt: skip


def _prompt(question: Question) -> dict[str, object]:
    messages = [{"role": "user", "content": question.text}]
    return {
        "prompt_id": prompt_id(messages), "prompt": messages, "truth": question.truth, "group": "+".join(question.asked)
    }  # fmt: skip
