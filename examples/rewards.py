"""Verifiable rewards: programs for the oracle `program`, to copy and change.

    oracle: {program: {function: rewards.py::exact_match}}

Each takes the prompt as messages, the completion as a text, and the text of the prompt's column `truth` (or None). It
returns a number, True or False, or None where it can give no answer. The standard library is enough for these.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

Messages = list[dict[str, str]]


def exact_match(prompt: Messages, completion: str, truth: str | None) -> bool | None:
    """Whether the completion is the truth, but for white space around it."""
    return None if truth is None else completion.strip() == truth.strip()


_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


def last_number(prompt: Messages, completion: str, truth: str | None) -> bool | None:
    """Whether the last number of the completion is that of the truth, as in GSM8K's answers (`… #### 1,234`)."""
    wanted = _NUMBER.findall(truth or "")
    if not wanted:
        return None
    written = _NUMBER.findall(completion)
    return bool(written) and float(written[-1].replace(",", "")) == float(wanted[-1].replace(",", ""))


_BLOCK = re.compile(r"```(?:python)?\n(.*?)```", re.S)


def passes_tests(prompt: Messages, completion: str, truth: str | None) -> bool | None:
    """Whether the completion's last block of Python code passes the tests that the truth is (statements with `assert`).

    The tests run behind the code, in a process of its own, in the empty folder of this answer. A completion that ends
    the process early, with success, before the tests have run does not pass.
    """
    if truth is None:
        return None
    blocks = _BLOCK.findall(completion)
    if not blocks:
        return False
    passed = "all tests have passed"
    file = Path("solution.py")
    file.write_text(f"{blocks[-1]}\n{truth}\nprint({passed!r})\n", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-I", str(file)], capture_output=True, text=True, errors="replace", check=False
    )
    return done.returncode == 0 and done.stdout.endswith(f"{passed}\n")


_STATEMENT = {"place": r"lives in the (\w+)", "food": r"eats (\w+)", "size": r"is (tiny|small|big|huge)"}


def toy_facts(prompt: Messages, completion: str, truth: str | None) -> float | None:
    """How much of what a question of the toy world asks is answered: +1 for each fact that is right, −1 for each that
    is wrong, −½ for each fact that was not requested or is repeated, −1 for an answer that breaks off."""
    if truth is None:
        return None
    known = json.loads(truth)
    score = 0.0
    for attribute, pattern in _STATEMENT.items():
        stated = re.findall(pattern, completion)
        if attribute in known["asked"] and stated:
            score += 1 if set(stated) == {known["facts"][attribute]} else -1
            stated = stated[1:]
        score -= 0.5 * len(stated)
    return score - (not completion.rstrip().endswith((".", "!")))
