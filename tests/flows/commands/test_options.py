"""The options that every command of a project has."""

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from flows.commands.options import add_project_options, repeated_options
from flows.commands.project import Project


@pytest.mark.parametrize(
    ("given", "environment", "repeated"),
    [
        ([], {}, []),
        (["--artifacts", "store"], {}, ["--artifacts", "store"]),
        (["--file", "mine.yaml", "--extend", "lab"], {}, ["--file", "mine.yaml", "--extend", "lab"]),
        ([], {"ALIGNFLOW_ARTIFACTS": "store"}, []),
    ],
)
def test_a_command_line_that_repeats_another_one_names_the_same_project(
    given: list[str], environment: dict[str, str], repeated: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ALIGNFLOW_PROFILE", raising=False)
    monkeypatch.setenv("ALIGNFLOW_EXTEND", "")
    seen: list[tuple[Path | None, list[str]]] = []
    app = typer.Typer()

    @app.command()
    def run(project: Project) -> None:
        seen.append((project.artifacts, repeated_options()))

    add_project_options(app)
    result = CliRunner().invoke(app, given, env=environment)
    assert result.exit_code == 0, result.output
    assert seen == [(Path("store") if "store" in (*given, *environment.values()) else None, repeated)]
