"""Control characters in texts of files and models never reach the terminal."""

import json
from pathlib import Path

import pytest
from rich.markup import escape
from rich.table import Table
from rich.tree import Tree

from flows import cli
from flows.commands.errors import with_plain_errors
from flows.commands.printing import console, escape_control_characters, json_text
from flows.commands.project import Project
from tasks.contract import SpecError

RED = "\x1b[31mred\x1b[0m"
C1 = "\x9b31m"
TURNED = "\u202eevil"


def test_control_characters_are_shown_as_python_writes_them() -> None:
    assert escape_control_characters(f"a{RED}\tb\nc\r{C1}") == "a\\x1b[31mred\\x1b[0m\tb\nc\\r\\x9b31m"
    assert escape_control_characters(TURNED) == "\\u202eevil"
    assert escape_control_characters("Ümläut 東京 🙂 – ok") == "Ümläut 東京 🙂 – ok"


@pytest.mark.parametrize("markup", [True, False])
def test_the_console_escapes_them_in_lines_tables_and_trees(markup: bool, capsys: pytest.CaptureFixture[str]) -> None:
    table, tree = Table("column"), Tree(f"root {C1}")
    table.add_row(escape(f"[x] {RED}"))
    tree.add(RED)
    out = console()
    for shown in (f"line {RED}{C1}", table, tree):
        out.print(shown, markup=markup)
    text = capsys.readouterr().out
    assert "\x1b" not in text
    assert "\x9b" not in text
    assert text.count("\\x1b[31mred") == 3
    assert "[x]" in text


def test_json_keeps_the_text_and_escapes_it(capsys: pytest.CaptureFixture[str]) -> None:
    text = json_text({"about": RED + C1 + TURNED})
    assert json.loads(text) == {"about": RED + C1 + TURNED}
    assert not set("\x1b\x9b\u202e") & set(text)


def test_errors_and_abouts_are_escaped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused() -> None:
        raise SpecError(f"no {RED}")

    with pytest.raises(SystemExit):
        with_plain_errors(refused)
    assert capsys.readouterr().err == "alignflow: no \\x1b[31mred\\x1b[0m\n"
    file = tmp_path / "pipelines.yaml"
    file.write_text('pipelines:\n  p: {about: "is \\e[31mred"}\n')
    cli.list_(Project(file), choices=False, shipped=False)
    assert capsys.readouterr().out == "p  is \\x1b[31mred\n"
