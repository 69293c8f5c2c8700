"""Verdicts of several annotators beside the two answers of a row: people's, or those of other judges."""

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from tasks.contract import DataError, SpecError
from tasks.formats.answers import COMPARED, Example
from tasks.formats.columns import Columns, Row
from tasks.formats.rows import Format

_FIRST = frozenset(["1", "a", "first", "left", "model_a", "response_1", "output_1", "answer_1", "response1", "output1",
                    "chosen"])  # fmt: skip
_SECOND = frozenset(["2", "b", "second", "right", "model_b", "response_2", "output_2", "answer_2", "response2",
                     "output2", "rejected"])  # fmt: skip
_TIE = frozenset(["0", "tie", "tied", "equal", "same", "both", "neither", "draw", "tie (bothbad)"])


def verdict_columns(form: Format, columns: Columns, wanted: Sequence[str] | None, names: list[str]) -> Format:
    """The format `form` of pairs with columns of verdicts; `names` receives them, empty for a pair's own label.

    wanted: the columns; None: those of the format, where it has some. Raises SpecError for one that is not there.
    """
    if "preferences" not in form.provides:
        return form
    layout = next((a for a in COMPARED if set(a.columns) <= columns.keys()), None)
    for name in wanted or ():
        if name not in columns:
            near = get_close_matches(name, list(columns), 1)
            hint = f" (did you mean '{near[0]}'?)" if near else ""
            raise SpecError(f"annotators: no row has the column '{name}'{hint}; its columns are {sorted(columns)}")
    names[:] = wanted if wanted is not None else (layout.annotators if layout else ())
    shown = f", with the verdicts of {', '.join(names)}" if names else ", with their labels"
    return form._replace(name=form.name + shown, uses=form.uses | {*names}, provides=(*form.provides, "judgements"))


def verdicts_in(row: Row, example: Example, names: Sequence[str]) -> Iterator[tuple[str | None, float | None]]:
    """Annotator and P(the chosen answer beats the rejected one) of each verdict in a row: 1, 0, ½ or None.

    Without names it is the pair's own label, and its p where that is known.
    """
    if not names:
        yield None, 1.0 if example.p is None else example.p
    for name in names:
        first = verdict_of(row.get(name))
        yield name, None if first is None else 1 - first if example.turned else first


def verdict_of(value: Any) -> float | None:
    """1: the first answer is better, 0: the second, ½: a tie; None for what is not a verdict.

    Numbers: 1 and 2 are the answers and 0 is a tie, as PandaLM has them; words such as A, B, tie, model_a, response_2.
    """
    word = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip().lower()
    word = word.removesuffix(".0")
    return 1.0 if word in _FIRST else 0.0 if word in _SECOND else 0.5 if word in _TIE else None


def check_verdicts(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> int:
    """Raise DataError for an annotator without any verdict; the number of values that are no verdict otherwise."""
    known = {row["annotator"] for row in rows if row["p"] is not None}
    if missing := [name for name in names if name not in known]:
        raise DataError(
            f"annotators: none of the {len(rows) // len(names):,} values of '{missing[0]}' is a verdict: 1, 2 and 0 or "
            "A, B and tie are (or model_a, response_1, chosen, …)"
        )
    return sum(row["p"] is None for row in rows)
