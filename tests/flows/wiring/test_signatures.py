"""Signatures read from source are those that Python sees; the vocabulary of parameters is closed."""

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from dataclasses import MISSING, fields
from pathlib import Path

import pytest

from flows.wiring.catalogue import Catalogue
from flows.wiring.signatures import Signature
from flows.wiring.types import parse_type
from flows.wiring.where import Where
from tasks.contract import Bounds, Choice, SpecError
from tests.flows.codebases import catalogue_of, write_files

KINDS = "class Artifact: ...\nclass Policy(Artifact): ...\n"
REAL = Catalogue()
CHOICES = [(choice.folder, name) for choice in REAL.takers for name in REAL.choices(choice.folder)]


def _same_annotation(read: str, seen: object, module: str) -> bool:
    """Whether they are equal; Python has a text where the module defers its annotations, and else the value."""
    if isinstance(seen, str):
        return ast.unparse(ast.parse(seen, mode="eval")) == ast.unparse(ast.parse(read, mode="eval"))
    return bool(eval(read, vars(importlib.import_module(module))) == seen)


def _name_of(annotation: object) -> str:
    return annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "")


def _agrees(read: Signature, seen: inspect.Signature) -> None:
    arguments = list(seen.parameters.values())[1 if read.composite else 0 :]
    keywords = [a for a in arguments if a.kind is a.KEYWORD_ONLY and _name_of(a.annotation) != "Workspace"]
    expected = {name: rest for a in keywords for name, *rest in _flat(a, read)}
    assert list(expected) == list(read.params)
    for name, (annotation, written, module) in expected.items():
        param = read.params[name]
        assert param.required == (written is inspect.Parameter.empty), name
        if not param.required:
            default = list(written) if isinstance(written, tuple) else written
            assert param.default == default, name
            assert type(param.default) is type(default), name
        assert _same_annotation(param.annotation, annotation, module), name
    positional = [a.name for a in arguments if a.kind is not a.KEYWORD_ONLY]
    assert positional == list(read.arguments)[1 if read.composite else 0 :]


def _flat(argument: inspect.Parameter, read: Signature) -> Iterator[tuple[str, object, object, str]]:
    """Name, annotation, default and module of an argument, or of every field of its dataclass."""
    if argument.name not in read.groups:
        yield argument.name, argument.annotation, argument.default, read.module
        return
    group = read.groups[argument.name]
    assert group.name == _name_of(argument.annotation)
    for f in fields(getattr(importlib.import_module(group.module), group.name)):
        default = f.default if argument.default is argument.empty else getattr(argument.default, f.name)
        yield f.name, f.type, argument.empty if default is MISSING else default, group.module


@pytest.mark.parametrize("name", [*REAL.tasks, *REAL.composites])
def test_a_signature_read_from_source_is_the_one_that_python_sees(name: str) -> None:
    read = {**REAL.tasks, **REAL.composites}[name]
    function = getattr(importlib.import_module(read.module), name)
    _agrees(read, inspect.signature(function))
    ports = [p for p in inspect.signature(function).parameters.values() if p.kind is not p.KEYWORD_ONLY]
    wanted = [p.name for p in ports if _name_of(p.annotation) not in ("Workspace", "Add")]
    assert wanted == list(read.ports)


@pytest.mark.parametrize(("folder", "name"), CHOICES)
def test_a_choices_signature_read_from_source_is_the_one_that_python_sees(folder: str, name: str) -> None:
    read = REAL.choice(folder, name, Where("test"), "test")
    function = getattr(importlib.import_module(read.module), name)
    _agrees(read, inspect.signature(function))


def test_the_kinds_read_from_source_are_those_of_the_module() -> None:
    import tasks.kinds

    for name, above in REAL.kinds.items():
        seen = [c.__name__ for c in getattr(tasks.kinds, name).__mro__]
        assert set(above) <= set(seen)
        assert {c for c in seen if c in REAL.kinds} <= set(above)
    assert set(tasks.kinds.KINDS) <= set(REAL.kinds)
    assert REAL.is_a("RewardModel", "Scorer")
    assert REAL.is_a("WinRates", "Completions")
    assert not REAL.is_a("Oracle", "Scorer")


def test_every_parameter_of_a_task_has_a_text() -> None:
    silent = [f"{s.name}.{p.name}" for s in (*REAL.tasks.values(), *REAL.composites.values())
              for p in s.params.values() if not p.help]  # fmt: skip
    assert not silent


@pytest.mark.parametrize(
    ("annotation", "bounds", "optional", "execution"),
    [
        ("int", None, False, False), ("Annotated[float, Bounds(above=0)]", Bounds(above=0), False, False),
        ("Annotated[int, Bounds(min=2)] | None", Bounds(min=2), True, False),
        ("Annotated[int | None, Bounds(2, 8)]", Bounds(2, 8), True, False),
        ("Execution[Annotated[int, Bounds(min=1)] | None]", Bounds(min=1), True, True),
    ],
)  # fmt: skip
def test_the_vocabulary_nests(annotation: str, bounds: Bounds | None, optional: bool, execution: bool) -> None:
    found = parse_type(annotation)
    assert (found.bounds, found.optional, found.execution) == (bounds, optional, execution)


def test_choices_lists_and_literals_are_parameters() -> None:
    assert parse_type('Annotated[Chosen, Choice("sources", other="path")]').choice == Choice("sources", "path")
    assert parse_type("Literal['a', 2]").options == ("a", 2)
    inner = parse_type("list[list[float]]").item
    assert inner is not None
    assert inner.base == "list"
    mapping = parse_type("Annotated[dict[str, float], Bounds(min=0)] | None")
    assert (mapping.base, mapping.optional, mapping.item and mapping.item.bounds) == ("mapping", True, Bounds(min=0))


@pytest.mark.parametrize("annotation", ["dict[int, str]", "dict[str]", "int | str", "Policy", "Annotated[int, max(1)]",
                                        "Annotated[Chosen, Bounds(1)]", "Any", "", "tuple[int]"])  # fmt: skip
def test_what_is_outside_the_vocabulary_is_refused(annotation: str) -> None:
    with pytest.raises(ValueError, match="outside the vocabulary"):
        parse_type(annotation)


@pytest.mark.parametrize(
    ("source", "part"),
    [
        ("def f(*, x: dict) -> Policy: ...", r"f\(x\): 'dict' is outside the vocabulary"),
        ("def f(x: int) -> Policy: ...", r"f\(x\): 'int' is not a kind; parameters are keyword-only"),
        ("def f(*, x: int = LIMIT) -> Policy: ...", r"f\(x\): its default must be a literal, not LIMIT"),
        ("def f( -> Policy: ...", "invalid Python"),
    ],
)
def test_a_signature_that_cannot_be_read_is_refused_at_its_place(source: str, part: str, tmp_path: Path) -> None:
    write_files(tmp_path, {"kinds.py": KINDS, "verbs.py": f"\n{source}"})
    with pytest.raises(SpecError, match=part) as caught:
        _ = catalogue_of(tmp_path).tasks
    assert re.match(r"(.*/|tasks/)verbs\.py:2:", str(caught.value))


def test_names_are_unique(tmp_path: Path) -> None:
    write_files(tmp_path, {"kinds.py": KINDS, **dict.fromkeys(["a.py", "b.py"], "def f() -> Policy: ...")})
    with pytest.raises(SpecError, match=r"tasks/a\.py and tasks/b\.py both define the task or composite 'f'"):
        _ = catalogue_of(tmp_path).tasks
    write_files(tmp_path, dict.fromkeys(["losses/dpo.py", "losses/x/dpo.py"], "def dpo() -> Tensor: ..."))
    with pytest.raises(SpecError, match=r"losses/dpo\.py and tasks/losses/x/dpo\.py both define the choice 'dpo'"):
        catalogue_of(tmp_path).choices("losses")


def test_a_choice_bears_its_files_name(tmp_path: Path) -> None:
    write_files(tmp_path, {"kinds.py": KINDS, "losses/dpo.py": "def ipo() -> Tensor: ..."})
    with pytest.raises(SpecError, match=re.escape("has no function 'dpo'; a choice bears its file's name")):
        catalogue_of(tmp_path).choice("losses", "dpo", Where("x"), "loss")


def test_the_docstring_gives_help_and_the_papers_values(tree: Path) -> None:
    catalogue = catalogue_of(tree)
    sppo = catalogue.choice("losses", "sppo", Where("x"), "loss")
    assert (sppo.about, sppo.paper) == ("SPPO.", "lr 5e-7, eta 1000, three rounds.")
    assert sppo.arguments == ("policy_logps", "ref_logps", "win_rate")
    dpo = catalogue.choice("losses", "dpo", Where("x"), "loss")
    assert (dpo.params["beta"].help, dpo.paper) == ("temperature.", "lr 1e-6, beta 0.1, batch 64.")
    assert catalogue.tasks["sample"].params["k"].help == "answers per prompt."


def test_every_loss_says_what_its_paper_used() -> None:
    silent = {n for n in REAL.choices("losses") if not REAL.choice("losses", n, Where("x"), n).paper}
    without_a_paper = {"soft_sft", "cross_entropy", "dpo_two_betas", "dpo_reference_free"}
    without_constants_that_we_read = {"pl_dpo", "plackett_luce", "aot", "gpo", "length_dpo", "apo_zero_unpaired"}
    assert silent == without_a_paper | without_constants_that_we_read
