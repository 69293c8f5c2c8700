"""The house itself: modules import, pipelines compile, parameters are read, the README tells the truth."""

import ast
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted(p for room in ("flows", "tasks") for p in (ROOT / room).rglob("*.py") if "starter" not in p.parts)
CHOICES = ("adapters", "responses", "engines", "kl_controllers", "optimizers", "oracles", "pair_rules", "sources")
SIGNED = [p for p in SOURCES if p.parts[-2] == "tasks" or {"losses", *CHOICES} & set(p.parts)]
HEAVY = {"torch", "transformers", "vllm", "prefect", "mlflow"}


def _module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def _python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_every_module_imports() -> None:
    needs = {"tasks.sampling.vllm_processor": "vllm", "tasks.sampling.noise_kernel": "triton"}
    absent = {module for module, package in needs.items() if importlib.util.find_spec(package) is None}
    modules = [name for p in SOURCES if (name := _module(p)) not in absent]
    _python(f"import importlib\nfor m in {modules!r}: importlib.import_module(m)")


def test_no_two_files_of_tests_have_one_name() -> None:
    """pytest imports a file by its name alone, and refuses a second one of that name."""
    names = [p.name for p in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))


def test_the_schema_that_editors_read_is_the_one_the_code_generates() -> None:
    from flows.wiring.catalogue import Catalogue
    from flows.wiring.schema import json_schema

    assert json.loads((ROOT / "pipelines.schema.json").read_text()) == json_schema(Catalogue()), "run `make schema`"


def _functions(path: Path) -> list[ast.FunctionDef]:
    return [n for n in ast.parse(path.read_text()).body if isinstance(n, ast.FunctionDef)]


@pytest.mark.parametrize("path", SIGNED, ids=_module)
def test_every_parameter_is_read(path: Path) -> None:
    for function in _functions(path):
        read = {n.id for n in ast.walk(function) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
        arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
        answers_a_contract = function.name == "identity" or function.name.startswith("_")
        unread = [
            a.arg for a in arguments if a.arg not in read and not a.arg.startswith("_") and not answers_a_contract
        ]
        assert not unread, f"{path}:{function.lineno} {function.name} never reads {unread}"


@pytest.mark.parametrize("command", ["list", "check", "graph sppo", "plan sppo"])
def test_light_commands_import_nothing_heavy(command: str, tmp_path: Path) -> None:
    loaded = _python(
        "import sys\nfrom flows.cli import main\n"
        f"sys.argv = ['alignflow', *{command.split()!r}, '--artifacts', {str(tmp_path)!r}]\n"
        "try: main()\nexcept SystemExit as e: assert not e.code, e.code\n"
        f"print('LOADED', sorted({HEAVY!r} & set(sys.modules)))"
    )
    assert "LOADED []" in loaded


def _tree() -> list[str]:
    """Paths in the README's tree, folders with a trailing slash."""
    block = re.search(r"## The tree\n+```\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert block, "README.md has no '## The tree' block"
    paths: list[str] = []
    folders: list[str] = []
    for line in block.group(1).splitlines():
        entry = line[: len(line) - len(line.lstrip())], line.split()[0] if line.strip() else ""
        if not entry[1]:
            continue
        depth = len(entry[0]) // 2
        del folders[depth:]
        paths.append("/".join([*folders, entry[1].rstrip("/")]) + ("/" if entry[1].endswith("/") else ""))
        if entry[1].endswith("/"):
            folders.append(entry[1].rstrip("/"))
    return paths


def test_the_readmes_tree_is_the_tree_on_disk() -> None:
    told = _tree()
    missing = [p for p in told if not (ROOT / p).exists()]
    assert not missing, f"README names what is not there: {missing}"
    listed_whole = {p for p in told if p.endswith("/") and any(q != p and q.startswith(p) for q in told)}
    for source in SOURCES:
        place = str(source.relative_to(ROOT))
        if source.name == "__init__.py":
            continue
        folder = place.rsplit("/", 1)[0] + "/"
        whole = folder not in listed_whole and any(p.endswith("/") and place.startswith(p) for p in told)
        covered = place in told or whole
        assert covered, f"README's tree does not show {place}"


def test_no_file_is_longer_than_a_reader_stands() -> None:
    long = {_module(p): n for p in SOURCES if (n := len(p.read_text().splitlines())) > 420}
    assert not long, f"split these: {long}"


def test_no_public_name_of_a_class_or_function_has_two_meanings() -> None:
    places: dict[str, list[str]] = {}
    for source in SOURCES:
        for node in ast.parse(source.read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                choice = node.name == source.stem and bool({"losses", *CHOICES} & set(source.parts))
                name = f"{source.parent.name}/{node.name}" if choice else node.name  # the folder says of what
                places.setdefault(name, []).append(_module(source))
    by_convention = {
        "identity",
        "reward_scale",
        "state_bytes",
        "steps_by_element",
    }  # functions that may stand beside any choice
    several = {name: where for name, where in places.items() if len(where) > 1 and name not in by_convention}
    assert not several, f"one name, one meaning: {several}"
