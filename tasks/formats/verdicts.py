"""Verdicts of several annotators beside the two answers of a row: people's, or those of other judges."""

from collections import Counter
from collections.abc import Iterator, Sequence
from difflib import get_close_matches

from tasks.contract import DataError, SpecError
from tasks.formats.answers import Example, compared_columns
from tasks.formats.columns import Columns, Row
from tasks.formats.rows import Format
from tasks.formats.verdict_words import written_verdict

_WRITTEN = ": the first answer is 1, A, model_a, response_1 or chosen, the second 2, B, … or rejected, a tie 0 or tie"


def verdict_columns(form: Format, columns: Columns, wanted: Sequence[str] | None, names: list[str]) -> Format:
    """The format `form` of pairs with columns of verdicts; `names` receives them, empty for a pair's own label.

    wanted: the columns; None: those of the format, where it has some. Raises SpecError for one that is not there.
    """
    if "preferences" not in form.provides:
        return form
    layout = compared_columns(columns)
    _check_columns("annotators", wanted or (), columns)
    names[:] = wanted if wanted is not None else (layout.annotators if layout else ())
    shown = f", with the verdicts of {', '.join(names)}" if names else ", with their labels"
    return form._replace(name=form.name + shown, uses=form.uses | {*names}, provides=(*form.provides, "judgements"))


def player_columns(form: Format, columns: Columns, players: Sequence[str] | None) -> Format:
    """The format with the columns that name the writers of both answers. Raises SpecError for wrong ones."""
    if not players:
        return form
    _check_columns("players", players, columns)
    if len(players) > 2:
        raise SpecError(f"players: {[*players]} are {len(players)} columns; there must be two, or one that names both")
    return form._replace(name=f"{form.name}, of the players in {', '.join(players)}", uses=form.uses | {*players})


def players_in(row: Row, players: Sequence[str]) -> tuple[str, str]:
    """The writers of a row's first and second answer. Raises DataError where two are not named."""
    written = [str(row.get(name) or "") for name in players]
    named = written[0].split("_") if len(players) == 1 else written
    if len(named) != 2 or not all(named):
        raise DataError(f"players: {written} in {', '.join(players)} do not name two; with one column, it must be "
                        "written first_second")  # fmt: skip
    return named[0], named[1]


def _check_columns(parameter: str, names: Sequence[str], columns: Columns) -> None:
    for name in names:
        if name not in columns:
            near = get_close_matches(name, list(columns), 1)
            hint = f" (did you mean '{near[0]}'?)" if near else ""
            raise SpecError(f"{parameter}: no row has the column '{name}'{hint}; its columns are {sorted(columns)}")


def verdicts_in(row: Row, example: Example, names: Sequence[str]) -> Iterator[tuple[str | None, float | None]]:
    """Annotator and P(the row's first answer beats its second) of each verdict in a row: 1, 0, ½ or None.

    Without names it is the pair's own label, and its p where that is known.
    """
    if not names:
        p = 1.0 if example.p is None else example.p
        yield None, 1 - p if example.turned else p
    for name in names:
        yield name, written_verdict(row.get(name))


def check_verdicts(rows: Sequence[Row], names: Sequence[str]) -> int:
    """How many values in the columns of the annotators are no verdict.

    Raises DataError where a column holds none, or where they seem to number the answers 0 and 1.
    """
    found = {name: Counter(written_verdict(row.get(name)) for row in rows) for name in names}
    for name, counts in found.items():
        if counts.keys() <= {None}:
            raise DataError(f"annotators: none of the {len(rows):,} values of '{name}' is a verdict{_WRITTEN}")
    numbered = any(str(row.get(name)) == "0" for row in rows for name in names)
    if numbered and {0.5, 1.0} <= set().union(*found.values()) <= {None, 0.5, 1.0}:
        raise DataError(
            f"annotators: {', '.join(names)} have 0 and 1 and never 2, so they seem to number the answers from "
            f"0{_WRITTEN}"
        )
    return sum(counts[None] for counts in found.values())
