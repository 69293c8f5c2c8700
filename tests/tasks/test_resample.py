"""Rows drawn with replacement."""

import pytest

from tasks.contract import DataError
from tasks.kinds import Preferences
from tasks.resample import bootstrap
from tests.answers import rows
from tests.tasks.training.tables import preferences


def test_a_bootstrap_has_the_tables_rows_as_often_as_the_seed_says() -> None:
    table = Preferences.of(preferences(400).table, {"template": "t"})
    known = [row["chosen_id"] for row in rows(table)]
    one, same, other = ([row["chosen_id"] for row in rows(bootstrap(table, seed=seed))] for seed in (1, 1, 2))
    assert one == same != other
    assert len(one) == 400
    assert one == sorted(one, key=known.index)
    assert len(set(one)) / 400 == pytest.approx(1 - 1 / 2.718281828, abs=0.06)
    assert bootstrap(table).metadata == {"template": "t"}


def test_an_empty_table_has_no_rows_to_draw() -> None:
    with pytest.raises(DataError, match="the Preferences has no rows to draw from"):
        bootstrap(Preferences.of(preferences(1).table.slice(1)))
