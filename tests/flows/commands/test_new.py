"""`alignflow new`: what it writes works at once."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli import app

ROOT = Path(__file__).parents[3]


def test_a_new_folder_compiles_lists_its_own_choices_and_passes_its_own_tests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made = CliRunner().invoke(app, ["new", "duelling-lab"])
    files = sorted(p.relative_to("duelling-lab").as_posix() for p in Path("duelling-lab").rglob("*.*"))
    assert files == [
        ".gitignore", "README.md", "duelling_lab/losses/pairwise/capped_dpo.py", "duelling_lab/oracles/brief.py",
        "pipelines.yaml", "test_duelling_lab.py",
    ]  # fmt: skip
    assert made.output.endswith("cd duelling-lab && alignflow check && alignflow run quick\n")
    monkeypatch.chdir("duelling-lab")
    checked = CliRunner().invoke(app, ["check"])
    assert (checked.exit_code, checked.output.splitlines()) == (0, ["✓ quick  28 steps"])
    listed = CliRunner().invoke(app, ["list", "--choices"]).output
    assert [line.split()[0] for line in listed.splitlines() if "(duelling_lab/" in line] == ["capped_dpo", "brief"]
    assert "sppo  " in CliRunner().invoke(app, ["list", "--shipped"]).output
    tests = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"], capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert "3 passed" in tests.stdout, tests.stdout


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("2labs", "'2labs' is an invalid name for a package; use letters, digits and _"),
        ("torch", "'torch' is the name of another package, which it would hide; choose another name"),
        ("full", "full exists already; choose another name, or remove it"),
    ],
)
def test_a_folder_that_cannot_be_made_is_refused(
    name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("full").mkdir()
    Path("full/notes.txt").write_text("mine")
    refused = CliRunner().invoke(app, ["new", name])
    assert message in str(refused.exception)
    assert [p.name for p in tmp_path.iterdir()] == ["full"]
