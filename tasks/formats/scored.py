"""Answers with numbers beside them, as HelpSteer has them: helpfulness, correctness, coherence, …"""

from collections.abc import Sequence
from difflib import get_close_matches

from tasks.contract import DataError, SpecError
from tasks.formats.answers import Example, number
from tasks.formats.columns import Columns, Row, possible_scores
from tasks.formats.prompts import UnusableRow
from tasks.formats.rows import Format


def scored_answers(form: Format, columns: Columns, wanted: Sequence[str] | None, names: list[str]) -> Format:
    """The format `form` of single answers, whose rows need at least one of the numbers; `names` receives their columns.

    wanted: the columns; None: all that hold numbers alone. Raises SpecError for one that is not there or holds other
    values, DataError where there is none.
    """
    if "demonstrations" not in form.provides or "preferences" in form.provides:
        return form
    there = [name for name in possible_scores(columns) if name not in form.uses]
    for name in wanted or ():
        if name not in columns:
            near = get_close_matches(name, there, 1)
            hint = f" (did you mean '{near[0]}'?)" if near else ""
            raise SpecError(f"attributes: no row has the column '{name}'{hint}; columns of numbers: {', '.join(there)}")
        if columns[name].numbers + columns[name].empty < columns[name].filled:
            raise SpecError(f"attributes: the column '{name}' holds values that are not numbers")
    names[:] = wanted or there
    if not names:
        raise DataError(f"none of the columns {sorted(columns)} holds the answers' scores as numbers")

    def parse(row: Row) -> Example:
        if all(number(row, name) is None for name in names):
            raise UnusableRow(f"it has none of the scores {', '.join(names)}")
        return form.parse(row)

    shown = f"{form.name.removesuffix(')')}, scored by {', '.join(names)})"
    return form._replace(name=shown, uses=form.uses | {*names}, parse=parse, provides=(*form.provides, "scores"))
