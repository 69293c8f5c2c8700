# ruff: noqa: E501
"""Random edits of the real file give a graph or one line that says where, never a traceback and never a hang."""

import random
import re
import time
from pathlib import Path

from flows.wiring.catalogue import Catalogue
from flows.wiring.graph import compile_from
from flows.wiring.text import PipelineFile
from tasks.contract import SpecError

FILE = Path(__file__).resolve().parents[3] / "pipelines.yaml"
EDITS = 60
SLOWEST = 5.0
"""Seconds of one file, on a machine that others use as well."""
TOKEN = re.compile(r"[\w.$+-]+|[{}\[\]:,#\"']|\s+")
VALUES = (
    "", "null", "~", "true", "-1", "0", "1.5", "1e400", ".nan", "-.inf", "9" * 30, "1" * 5000, "[]", "{}", "[1, 2]",
    "{a: 1}", "{sppo: {eta: 0}}", "$", "$$", "$round", "$nothing", "$$x", "prev.policy", "prev.", "every.policy", "last.x",
    "base", "policy", "toy", "dpo", "sppo", "train", "!!python/name:os.system", "&a", "*a", "x" * 300, "a\u0301é東🙂",
    "\u202e", "\\ud800", '"\\e[31m"', "'", '"', "# x", "- a", "? a", "---", "...", "%YAML 1.1", "\t", "\u0000", "\ufeff",
    "100000000", "2001", "0x10", "0o777", "2026-01-01", "on", "./x", "../pipelines.yaml#sppo", "pipelines.yaml#sppo", "#",
    "{" * 50, "[" * 50, "task", "extends", "repeat", "start", "_x",
)  # fmt: skip


def edited(text: str, chance: random.Random) -> str:
    """One to three edits: a token replaced, inserted, removed or doubled, two tokens or lines exchanged."""
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        if chance.random() < 0.2:
            lines = text.splitlines(keepends=True)
            i, j = (chance.randrange(len(lines)) for _ in range(2))
            change = chance.choice(("swap", "drop", "double", "indent"))
            if change == "swap":
                lines[i], lines[j] = lines[j], lines[i]
            lines[i] = {"drop": "", "double": lines[i] * 2, "indent": "  " + lines[i]}.get(change, lines[i])
            text = "".join(lines)
            continue
        found = [m for m in TOKEN.finditer(text) if not m[0].isspace()]
        one, other = chance.choice(found), chance.choice(found)
        new = chance.choice((*VALUES, *([other[0]] * 20), one[0] * 2, one[0] + chance.choice(VALUES)))
        text = text[: one.start()] + new + text[one.end() :]
    return text


def pipelines_of(text: str) -> str:
    """A part of the file that is quick to judge: the headline, a variant of it, one with `each` and the smallest one."""
    blocks = re.split(r"(?m)^(?=  [\w-]+:$)", text)
    wanted = ("sppo", "sppo-paper", "offline-dpo", "reward-model")
    return blocks[0] + "".join(b for b in blocks[1:] if b.split(":")[0].strip() in wanted)


def errors_of(file: Path, catalogue: Catalogue) -> list[str]:
    """The error of each pipeline that does not compile; of the file itself where it cannot be read."""
    try:
        source = PipelineFile(file)
    except SpecError as e:
        return [str(e)]
    errors = []
    for name in source.names:
        try:
            compile_from(source, catalogue, name, {}, lenient=True)
            for deployment in source.pipeline(name).deployments:
                compile_from(source, catalogue, name, {}, deployment=deployment, lenient=True)
        except SpecError as e:
            errors.append(str(e))
    return errors


def test_random_edits_of_the_file_are_compiled_or_refused_in_one_line(tmp_path: Path) -> None:
    chance, catalogue, refused = random.Random(0), Catalogue(), 0
    text, file = pipelines_of(FILE.read_text()), tmp_path / "pipelines.yaml"
    for number in range(EDITS):
        file.write_bytes(edited(text, chance).encode("utf-8", "surrogatepass"))
        begin = time.monotonic()
        errors = errors_of(file, catalogue)
        assert time.monotonic() - begin < SLOWEST, f"edit {number}"
        refused += bool(errors)
        for error in errors:
            assert "\n" not in error, error
            assert len(error) < 2000, error
            assert re.match(r"\S+(:\d+:\d+)?: ", error), error
    assert refused > EDITS // 4
