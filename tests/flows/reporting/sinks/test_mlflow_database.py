"""MLflow's database: a kill in its first migration breaks nothing, and a damaged one makes room for a new one."""

import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest

from flows.reporting.sinks.mlflow_database import database_of, make_ready


@pytest.fixture(autouse=True)
def _no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def test_a_half_migrated_database_makes_room_and_a_whole_one_stays(tmp_path: Path) -> None:
    with closing(sqlite3.connect(database_of(tmp_path))) as half:
        half.execute("create table experiments (id)")
        half.execute("create table alembic_version (version_num)")
        half.commit()
    text = make_ready(tmp_path)
    assert "first migration was cut off" in text
    (aside,) = (tmp_path / "damaged").iterdir()
    assert str(aside) in text
    with closing(sqlite3.connect(database_of(tmp_path))) as database:
        assert database.execute("select name from experiments").fetchall() == [("Default",)]
    before = database_of(tmp_path).read_bytes()
    assert make_ready(tmp_path) == ""
    assert database_of(tmp_path).read_bytes() == before
    assert [p.name for p in tmp_path.glob(".mlflow*")] == []


def _schema(database: Path) -> list[tuple[str, ...]]:
    """Table and column of every column, and the migration it is at; the order of constraints differs between runs."""
    columns = "select m.name, c.name, c.type from sqlite_master m, pragma_table_info(m.name) c order by 1, 2"
    with closing(sqlite3.connect(database)) as connection:
        version = connection.execute("select version_num from alembic_version").fetchall()
        return version + connection.execute(columns).fetchall()


def _experiments(database: Path) -> list[tuple[str, ...]]:
    with closing(sqlite3.connect(database)) as connection:
        rows = connection.execute("select experiment_id, name, artifact_location, lifecycle_stage from experiments")
        return rows.fetchall()


def test_a_copy_of_the_environments_template_is_what_a_migration_makes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.reporting.sinks.mlflow_database.empty_database", lambda: tmp_path / "template.db")
    store = tmp_path / "store"
    store.mkdir()
    make_ready(store)
    migrated = _schema(database_of(store)), _experiments(database_of(store))
    make_ready(tmp_path)
    database_of(tmp_path).rename(tmp_path / "template.db")
    database_of(store).unlink()
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "mlflow.store.tracking.sqlalchemy_store", None)
        make_ready(store)
    assert (_schema(database_of(store)), _experiments(database_of(store))) == migrated
    assert migrated[1] == [(0, "Default", f"{store.as_uri()}/mlruns/0", "active")]


def test_a_migration_that_is_cut_off_is_not_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.reporting.sinks.mlflow_database.empty_database", lambda: tmp_path / "none.db")

    def cut(uri: str, _: str) -> None:
        Path(uri.removeprefix("sqlite:///")).write_text("half")
        raise KeyboardInterrupt

    monkeypatch.setattr("mlflow.store.tracking.sqlalchemy_store.SqlAlchemyStore", cut)
    with pytest.raises(KeyboardInterrupt):
        make_ready(tmp_path)
    assert not database_of(tmp_path).exists()


def test_bytes_that_are_no_database_are_set_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.reporting.sinks.mlflow_database._migrate", lambda database: database.write_text("new"))
    database_of(tmp_path).write_bytes(b"\xff" * 5000)
    assert "damaged (file is not a database)" in make_ready(tmp_path)
    assert database_of(tmp_path).read_text() == "new"
