"""MLflow's database: a kill in its first migration breaks nothing, and a damaged one makes room for a new one."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from flows.reporting.sinks.mlflow_database import database_of, make_ready


@pytest.fixture(autouse=True)
def _no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def test_a_half_migrated_database_of_before_makes_room_and_a_whole_one_stays(tmp_path: Path) -> None:
    with closing(sqlite3.connect(database_of(tmp_path))) as half:
        half.execute("create table experiments (id)")
        half.execute("create table alembic_version (version_num)")
        half.commit()
    told = make_ready(tmp_path)
    assert "first migration was cut off" in told
    (aside,) = (tmp_path / "damaged").iterdir()
    assert str(aside) in told
    with closing(sqlite3.connect(database_of(tmp_path))) as database:
        assert database.execute("select name from experiments").fetchall() == [("Default",)]
    before = database_of(tmp_path).read_bytes()
    assert make_ready(tmp_path) == ""
    assert database_of(tmp_path).read_bytes() == before
    assert [p.name for p in tmp_path.glob(".mlflow*")] == []


def test_a_migration_that_is_cut_off_is_not_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
