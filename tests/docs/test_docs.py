"""The documentation shows what there is: its pages build, its links, commands and paths exist, its files are tested."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from docs.generate.catalogue import type_text
from docs.generate.markdown import docstring, escaped
from docs.generate.methods import GROUPS
from docs.generate.pages import compiled_methods, navigation, shared_catalogue, with_links
from flows.cli import app
from flows.wiring.grammar import TICKS
from flows.wiring.graph import compile_pipeline
from flows.wiring.text import PipelineFile
from flows.wiring.types import parse_type
from tests.docs import markdown_pages as pages

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def artifacts_of_this_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    """By default the parses of Python files are kept beside the pipelines file."""
    monkeypatch.setenv("ALIGNFLOW_ARTIFACTS", str(ROOT / "artifacts"))


def test_every_task_choice_and_pipeline_has_its_place_in_the_generated_pages() -> None:
    catalogue, generated = shared_catalogue(), pages.generated()
    for s in [*catalogue.tasks.values(), *catalogue.composites.values()]:
        text = generated[f"docs/reference/tasks/{s.module.rpartition('.')[2]}.md"]
        assert f"## {s.name} {{ #{s.name} }}" in text
        assert all(f"| `{port}` |" in text for port in s.ports), s.name
    for s in (s for choice in catalogue.takers for s in catalogue.all_choices(choice.folder)):
        text = generated[f"docs/reference/choices/{s.folder.replace('/', '-')}.md"]
        assert f"## {s.name} {{ #{s.name} }}" in text
        assert all(f"| `{param}` |" in text for param in s.params), s.name
    for name in PipelineFile(ROOT / "pipelines.yaml").names:
        assert generated[f"docs/methods/{name}.md"].startswith(f"# {name}\n")


def test_the_page_of_a_method_has_paper_equation_wiring_values_and_numbers() -> None:
    page = pages.generated()["docs/methods/comal.md"]
    assert "[arXiv 2410.23223](https://arxiv.org/abs/2410.23223)" in page
    assert "(h − 1/(2η))²,   h = r·d_anchor + (1 − r)·d" in page
    assert "\n  comal:\n    extends: inpo\n" in page
    assert "new_pairs:   {task: pairs, completions: completions, win_probs: win_probs, rule: $rule}" in page
    assert "| `anchor_every` | <code>2</code> | rounds between renewals. |" in page
    assert "0.646 / 0.689 / 0.752 (0.725–0.777)" in page
    assert "[`sft`]" not in page, "the losses that make the base are not those of the method"


def test_a_parameter_is_shown_with_type_bounds_default_and_text() -> None:
    page = pages.generated()["docs/reference/choices/losses-pairwise.md"]
    section = page.partition("## dpo {")[2].partition("\n## ")[0]
    row = "| `beta` | a number, above 0 | <code>0.1</code> | temperature; large keeps the policy near the reference. |"
    assert row in section
    assert "−q·log σ(β·D) − (1 − q)·log σ(−β·D)" in section
    assert type_text(parse_type('Literal["a", "b"] | None')) == r"one of \[a, b\] or null"


def test_text_of_docstrings_is_not_taken_for_markup() -> None:
    assert escaped("a_b * c | `x|y` in [0, 1]") == r"a\_b \* c \| <code>x&#124;y</code> in \[0, 1\]"
    assert escaped("arXiv 2305.18290, eq. 7") == "[arXiv 2305.18290](https://arxiv.org/abs/2305.18290), eq. 7"
    blocks = list(docstring("First.\n\n    a < b\n\nArgs:\n    x: y\n\nSource: S.\nPaper: P."))
    assert blocks == ["First.", "```text\na < b\n```", "**Source:** S.", "**Paper:** P."]


def test_pipelines_in_tables_become_links_and_other_names_do_not() -> None:
    text = "`sppo` here\n| `sppo`, `train` | `x` |"
    linked = "`sppo` here\n| [`sppo`](../methods/sppo.md), `train` | `x` |"
    assert with_links(text, "methods/index.md", ["methods/sppo.md", "reference/keys.md"]) == linked
    assert "[`sppo`](methods/sppo.md)" in with_links(text, "numbers.md", ["methods/sppo.md"])


def test_methods_stand_in_the_navigation_once_by_group() -> None:
    found = {f"methods/{name}.md": "" for name in ("sppo", "sppo-cycle", "offline-dpo", "something-new")}
    [methods] = navigation([{"Methods": ["methods/index.md"]}], found)
    assert methods == {
        "Methods": [
            "methods/index.md",
            {"Offline": [{"offline-dpo": "methods/offline-dpo.md"}]},
            {"Self-play": [{"sppo": "methods/sppo.md"}]},
            {"Nash policies": [{"sppo-cycle": "methods/sppo-cycle.md"}]},
            {"Others": [{"something-new": "methods/something-new.md"}]},
        ]
    }
    names = PipelineFile(ROOT / "pipelines.yaml").names
    for title, pattern in GROUPS.items():
        assert any(re.match(pattern, name) for name in names), f"no pipeline is under '{title}'"


def test_every_internal_link_leads_to_a_page_an_image_or_an_anchor() -> None:
    every = pages.every_page()
    broken = []
    for place, text in every.items():
        for link in pages.links(text):
            target, _, anchor = link.partition("#")
            file = ((ROOT / place).parent / target).resolve().relative_to(ROOT) if target else Path(place)
            exists = str(file) in every or (ROOT / file).exists()
            if not exists or (anchor and anchor not in pages.anchors(every.get(str(file), ""))):
                broken.append(f"{place}: {link}")
    assert not broken, "\n".join(broken)


def test_every_file_that_a_page_shows_is_included_in_it() -> None:
    """A formatter of Python that reads Markdown once took `--8<--` for an expression."""
    shown = {place: text.count("8<") + len(re.findall(r"--8\s", text)) for place, text in pages.written().items()}
    assert {
        place: n for place, n in shown.items() if n != len(re.findall('^ *--8<-- "', pages.written()[place], re.M))
    } == {}
    whole = [block for text in pages.written().values() for _, block in pages.blocks(text)]
    for name in ("capped_dpo", "brief", "cards", "weigh_by_wins"):
        assert any(f"def {name}(" in block for block in whole), f"no page shows {name}"


def test_every_path_that_a_page_names_exists() -> None:
    missing = [
        f"{place}: {path}"
        for place, text in pages.written().items()
        for path in sorted(pages.paths(text))
        if not (ROOT / path).exists() and not (ROOT / f"{path}.py").exists()
    ]
    assert not missing, "\n".join(missing)


def test_every_command_on_a_page_has_only_options_and_values_that_exist() -> None:
    wrong, seen = [], set()
    for place, text in pages.written().items():
        for words in pages.commands(text):
            seen.add(words[0])
            try:
                _check_command(words)
            except Exception as e:  # of the command line, or SpecError: each is a line of the list
                wrong.append(f"{place}: alignflow {' '.join(words)}: {getattr(e, 'message', e)}")
    assert not wrong, "\n".join(wrong)
    assert {"run", "plan", "compare", "sweep", "show", "deploy", "new", "check", "rounds"} <= seen


def _check_command(words: list[str]) -> None:
    """Parse a command line; of a pipeline that is known here, also the names of its parameters."""
    group = get_command(app)
    assert words[0] in group.commands, f"there is no command {words[0]}"
    command = group.commands[words[0]]
    if len(words) > 1 and "--help" not in words:  # one word alone stands for the command
        context = command.make_context(words[0], list(words[1:]), resilient_parsing=False)
        _check_values(words[0], context.params)


def _check_values(command: str, params: dict[str, object]) -> None:
    if command not in ("run", "plan", "sweep", "graph"):
        return
    file = Path(str(params.get("file") or "pipelines.yaml"))
    known = PipelineFile(ROOT / file).names if (ROOT / file).exists() else []
    for name in str(params.get("names") or params.get("name")).split(","):
        pipeline = name.split("/")[0]
        if not known or pipeline in ("quick", "…") or pipeline.isupper():  # `alignflow new` makes `quick`
            continue
        assert pipeline in known, f"{file} has no pipeline {pipeline}"
        shipped = {m.name: m.graph for m in compiled_methods(ROOT)} if file == Path("pipelines.yaml") else {}
        graph = shipped.get(pipeline) or compile_pipeline(ROOT / file, pipeline, lenient=True)
        keys = {str(value).partition("=")[0] for value in params.get("values") or ()}
        allowed = {*graph.parameters, *shared_catalogue().execution, *TICKS}
        assert keys <= allowed, f"{pipeline} has no {sorted(keys - allowed)}"


def test_the_readme_lists_every_command() -> None:
    block = pages.written()["README.md"].partition("## Commands\n\n```\n")[2].partition("```")[0]
    listed = {
        re.findall("[a-z-]+", part)[0]
        for line in block.splitlines()
        for part in re.split(r"alignflow | \| ", line[:58])
        if part.strip()
    }
    assert set(get_command(app).commands) <= listed


def test_every_make_target_on_a_page_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    named = {t for text in pages.written().values() for t in re.findall(r"(?:^|`)make ([a-z]+)", text, re.M)}
    assert named - {"docs"} <= targets, named - targets
    assert {"run", "test", "proof", "bench"} <= named


def test_whole_wirings_on_pages_compile(tmp_path: Path) -> None:
    (tmp_path / "lab").symlink_to(ROOT / "examples" / "lab")
    (tmp_path / "pairs.jsonl.gz").touch()
    compiled = []
    for place, text in pages.written().items():
        whole = [b for language, b in pages.blocks(text) if language == "yaml" and re.search("^pipelines:\n", b, re.M)]
        for number, block in enumerate(b for b in whole if "…" not in b and "capped_dpo" not in b):
            file = tmp_path / f"{place.replace('/', '-')}-{number}.yaml"
            file.write_text(block)
            for name in PipelineFile(file).names:
                compile_pipeline(file, name, lenient=True)
                compiled.append(f"{Path(place).stem}:{name}")
    assert compiled == ["data:sft", "method:weighted", "source:cards"]


@pytest.mark.slow  # `make docs` builds it in CI
@pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="mkdocs is not installed")
def test_the_site_builds_without_a_warning_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    site = tmp_path / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(site)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert built.returncode == 0, built.stdout[-3000:] + built.stderr[-3000:]
    html = (site / "methods" / "comal.html").read_text()
    loaded = re.findall(
        r'<(?:script|img)[^>]* src="([^"]+)"|<link[^>]* rel="(?:stylesheet|preconnect)"[^>]* href="([^"]+)"', html
    )
    outside = [a or b for a, b in loaded if (a or b).startswith(("http", "//"))]
    assert not outside, outside
