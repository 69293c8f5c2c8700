"""How people of the toy world answer: writers of random quality, and golden answers.

Shares of the mixed demonstrations (their mean gold score is about 0.8; a golden answer has 3.8): rude dismissal 15%;
opening line 30%; closing line 20%; wrong value 35% per fact; one of two asked facts forgotten 35%; an unasked fact
30%; filler 35% per sentence; each further rambling sentence 18%.
"""

from collections.abc import Iterator

import numpy as np

from tasks.ids import digest
from tasks.worlds.toy import TONES, VALUES, Question, ToyWorld
from tasks.worlds.toy_rules import CLAUSES, CLOSINGS, DISMISSALS, FILLER, OPENINGS


def golden(world: ToyWorld, question: Question, k: int) -> str:
    """Golden answer number `k`: an opening, all asked facts right and in order, a closing."""
    rng = _rng(world, question, "golden", k)
    facts = [CLAUSES[x].format(s=_subject(question, i), v=question.facts[x]) for i, x in enumerate(question.asked)]
    return " ".join([_opening(world, rng), *facts, str(rng.choice(CLOSINGS))])


def mixed(world: ToyWorld, question: Question, k: int) -> str:
    """Answer number `k` by a writer of random quality."""
    rng = _rng(world, question, "mixed", k)
    if rng.random() < 0.15:
        return str(rng.choice(DISMISSALS))
    opening = [_opening(world, rng)] if rng.random() < 0.30 else []
    closing = [str(rng.choice(CLOSINGS))] if rng.random() < 0.20 else []
    return " ".join([*opening, *_sentences(question, rng), *closing])


def _sentences(question: Question, rng: np.random.Generator) -> Iterator[str]:
    for i, attribute in enumerate(_attributes(question, rng)):
        filler = f"{FILLER} " if rng.random() < 0.35 else ""
        value = question.facts[attribute]
        if rng.random() < 0.35:
            value = str(rng.choice([v for v in VALUES[attribute] if v != value]))
        yield filler + CLAUSES[attribute].format(s=_subject(question, i), v=value)
    while rng.random() < 0.18:
        yield f"the {question.animal} is the {question.animal} ."


def _attributes(question: Question, rng: np.random.Generator) -> list[str]:
    """What the writer tells: the asked facts, perhaps without one, perhaps with one that was not asked."""
    told = list(question.asked)
    if len(told) == 2 and rng.random() < 0.35:
        del told[rng.integers(2)]
    if rng.random() < 0.30:
        told.append(str(rng.choice([x for x in VALUES if x not in question.asked])))
    return told


def _subject(question: Question, i: int) -> str:
    return f"the {question.animal}" if i == 0 else "it"


def _opening(world: ToyWorld, rng: np.random.Generator) -> str:
    return OPENINGS[str(rng.choice(TONES, p=np.array(world.tones) / sum(world.tones)))]


def _rng(world: ToyWorld, question: Question, kind: str, k: int) -> np.random.Generator:
    """Noise of one answer: it depends on nothing but the world's seed, the question and the number."""
    return np.random.default_rng(int(digest(str(world.seed), question.text, kind, str(k)), 16))
