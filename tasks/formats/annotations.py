"""Files of AlpacaEval: its annotations of two answers, and the anchors of its length-controlled win rate."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tasks.contract import DataError
from tasks.formats.tables import open_file
from tasks.ids import digest, prompt_id
from tasks.judging.length_control import LengthRows

_COLUMNS = ("instruction", "output_1", "output_2", "preference")
_ANCHORS = ("index", "preference", "std_delta_len", "instruction_difficulty", "not_gamed_baseline")
_FALSE = ("false", "0", "0.0")


class Annotation(NamedTuple):
    """One row: a baseline's and a model's answer to an instruction."""

    prompt_id: str
    """Of the instruction as a user's message; rows that repeat it have ids of their own."""
    baseline: str
    answer: str
    p: float | None
    """P(the answer beats the baseline's); None: the annotator gave no answer."""


class Annotations(NamedTuple):
    """The rows of a file."""

    rows: Sequence[Annotation]
    itself: bool
    """Whether the model is its own baseline, by name."""


def read_annotations(path: Path) -> Annotations:
    """The annotations of one model. Raises DataError for other rows, and for several models."""
    rows: list[Annotation] = []
    names: set[tuple[Any, Any]] = set()
    repeated: dict[str, int] = {}
    for where, row in open_file(path).read():
        _check_columns(row, _COLUMNS, where, "an annotation of AlpacaEval")
        names.add((row.get("generator_1"), row.get("generator_2")))
        name = prompt_id([{"role": "user", "content": str(row["instruction"])}])
        repeated[name] = repeated.get(name, 0) + 1
        name = name if repeated[name] == 1 else digest(name, str(repeated[name]))
        rows.append(Annotation(name, str(row["output_1"]), str(row["output_2"]), _probability(row, where)))
    if not rows:
        raise DataError(f"{path} has no rows")
    models = sorted({str(model) for _, model in names})
    if len(models) > 1:
        raise DataError(f"{path} has answers of {len(models)} models ({', '.join(models[:3])}): one file for each")
    itself = all(one is not None and one == other for one, other in names)
    return Annotations(rows, itself)


def read_anchors(path: Path, instructions: int) -> tuple[list[float], list[LengthRows]]:
    """The difficulty of each instruction in order, and the rows of the gamed baselines, all as one table.

    Raises DataError where the file has other columns, or is of another number of instructions.
    """
    difficulty: dict[int, float] = {}
    gamed: list[tuple[str, float, float, float]] = []
    for where, row in open_file(path).read():
        _check_columns(row, _ANCHORS, where, "an anchor of AlpacaEval (df_gamed.csv)")
        index, hard = int(float(row["index"])), float(row["instruction_difficulty"])
        difficulty.setdefault(index, hard)
        if str(row["not_gamed_baseline"]).strip().lower() in _FALSE and not _is_missing(row["preference"]):
            gamed.append((str(index), float(row["preference"]), float(row["std_delta_len"]), hard))
    if sorted(difficulty) != list(range(instructions)):
        raise DataError(
            f"{path} has the difficulty of {len(difficulty)} instructions, and there are {instructions} annotations: "
            "they belong together by their order, so all instructions must be there"
        )
    prompts, *columns = zip(*gamed, strict=True) if gamed else ((), (), (), ())
    p, lengths, hards = (np.array(column, np.float64) for column in columns)
    if len(p) and not (p.min() >= 0 and p.max() <= 1):
        raise DataError(f"{path}: the preferences lie between {p.min():g} and {p.max():g}, and not in [0, 1]")
    rows = LengthRows(prompts, p, lengths, hards)
    return [difficulty[i] for i in range(instructions)], [rows] if gamed else []


def _check_columns(row: Mapping[str, Any], columns: Sequence[str], where: str, what: str) -> None:
    if missing := [name for name in columns if name not in row]:
        raise DataError(f"{where} is not {what}: it lacks {', '.join(missing)}")


def _is_missing(value: Any) -> bool:
    return value is None or str(value).strip().lower() in ("", "nan", "none") or math.isnan(float(value))


def _probability(row: Mapping[str, Any], where: str) -> float | None:
    """Preference − 1; 0, which AlpacaEval writes for a tie, is ½."""
    if _is_missing(row["preference"]):
        return None
    value = float(row["preference"]) or 1.5
    if not 1 <= value <= 2:
        raise DataError(f"{where}: the preference {value:g} is neither in [1, 2] nor 0")
    return value - 1
