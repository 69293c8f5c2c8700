"""The toy world: 36 animals with a place, a food and a size, 1,296 questions about them, in disjoint splits.

Everything is a pure function of the world's parameters: facts and splits of `seed`, demonstrations of `seed` and
`tones`. How writers answer: `toy_writers`; how an answer is judged: `toy_rules`.
"""

import json
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product

import numpy as np

from tasks.contract import SpecError
from tasks.worlds import SPLITS

ANIMALS = (
    "swan", "fox", "bear", "wolf", "deer", "hare", "mole", "newt", "toad", "crow", "duck", "goose",
    "hawk", "heron", "otter", "badger", "beaver", "lynx", "seal", "whale", "shark", "crab", "eel", "trout",
    "mouse", "rat", "bat", "goat", "sheep", "horse", "camel", "lion", "tiger", "zebra", "hippo", "panda",
)  # fmt: skip
VALUES = {
    "place": ["swamp", "forest", "desert", "river", "meadow", "cave", "valley", "lake"],
    "food": ["mice", "roots", "fish", "grass", "seeds", "bugs", "eggs", "fruit"],
    "size": ["tiny", "small", "big", "huge"],
}
"""Attribute → the values it may have."""
ASKED = [("place",), ("food",), ("size",), ("place", "food"), ("food", "size"), ("size", "place")]
"""The asked sets; the order is that of the question."""
TONES = ("warm", "formal", "playful")

_DIRECT = {"place": "where does {s} live", "food": "what does {s} eat", "size": "how big is {s}"}
_INDIRECT = {"place": "where {s} lives", "food": "what {s} eats", "size": "how big {s} is"}
_PHRASINGS = (
    (_DIRECT, "the {a}", "{q} ?"),
    (_INDIRECT, "the {a}", "tell me {q} ."),
    (_INDIRECT, "the {a}", "i want to know {q} ."),
    (_INDIRECT, "the {a}", "can you say {q} ?"),
    (_INDIRECT, "the {a}", "please explain {q} ."),
    (_DIRECT, "it", "about the {a} : {q} ?"),
)


@dataclass(frozen=True)
class Question:
    """One prompt of the world, and what a rule needs to judge an answer to it."""

    text: str
    animal: str
    asked: tuple[str, ...]
    facts: dict[str, str]

    @property
    def truth(self) -> str:
        """JSON: the animal, what was asked (in order), and all its facts."""
        return json.dumps({"animal": self.animal, "asked": list(self.asked), "facts": self.facts}, sort_keys=True)


def ask(animal: str, asked: tuple[str, ...], phrasing: int) -> str:
    """The question's text, e.g. `where does the swan live and what does it eat ?`; the animal is named once."""
    clauses, subject, frame = _PHRASINGS[phrasing]
    subjects = [subject, *["it"] * (len(asked) - 1)]
    question = " and ".join(clauses[x].format(s=s) for x, s in zip(asked, subjects, strict=True))
    return frame.format(q=question, a=animal).format(a=animal)


@dataclass(frozen=True)
class ToyWorld:
    """The world for given parameters. `tones`: shares of the warm, formal and playful openings, in that order."""

    seed: int = 0
    tones: tuple[float, ...] = field(default=(0.5, 0.3, 0.2))

    def __post_init__(self) -> None:
        if len(self.tones) != len(TONES) or min(self.tones) < 0 or sum(self.tones) <= 0:
            raise SpecError(f"toy.tones = {list(self.tones)}: give three shares, none negative, for {', '.join(TONES)}")

    @cached_property
    def facts(self) -> dict[str, dict[str, str]]:
        """Animal → attribute → value."""
        rng = np.random.default_rng([self.seed, 1])
        return {a: {x: str(rng.choice(values)) for x, values in VALUES.items()} for a in ANIMALS}

    @cached_property
    def _questions(self) -> list[Question]:
        """All questions, shuffled: the splits are consecutive pieces of it."""
        every = [
            Question(ask(animal, asked, phrasing), animal, asked, self.facts[animal])
            for animal, asked, phrasing in product(ANIMALS, ASKED, range(len(_PHRASINGS)))
        ]
        return [every[i] for i in np.random.default_rng([self.seed, 2]).permutation(len(every))]

    def questions(self, split: str) -> list[Question]:
        """The questions of a split, in its fixed (shuffled) order. Raises SpecError for a split it does not have."""
        if split == "sft":
            return self.questions("rm") + self.questions("policy")
        if split not in SPLITS:
            raise SpecError(f"the toy world has no split '{split}'; choose one of {['sft', *SPLITS]}")
        names = list(SPLITS)
        start = sum(SPLITS[n] for n in names[: names.index(split)])
        return self._questions[start : start + SPLITS[split]]
