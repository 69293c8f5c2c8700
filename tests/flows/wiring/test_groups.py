"""Groups: a dataclass in a signature is its fields in a wiring, and one object for the task and the composite."""

from collections.abc import Callable
from pathlib import Path

import pytest

from flows.wiring.graph import compile_pipeline
from flows.wiring.model import Graph, Group
from tasks.contract import Bounds, SpecError
from tasks.training import settings
from tests.flows.codebases import catalogue_of, write_files

SETTINGS = '''
    from dataclasses import dataclass

    @dataclass(frozen=True)
    class Adam:
        warmup: Annotated[float, Bounds(min=0, max=1)] = 0.1
        """Share of the steps."""
        betas: Annotated[tuple[float, float], Bounds(min=0, below=1)] = (0.9, 0.999)
        """Decay
        rates."""

    @dataclass(frozen=True)
    class Optim(Adam):
        batch: Annotated[int, Bounds(min=1)] = 32
        every: Execution[int] = 50
'''
TREE = {
    "kinds.py": "class Artifact: ...\nclass Policy(Artifact): ...\nclass Report(Artifact): ...",
    "settings.py": SETTINGS,
    "training/settings.py": Path(settings.__file__).read_text(),
    "optimizers/adamw.py": "def adamw(groups) -> Optimizer: ...",
    "work.py": """
        from tasks.settings import Optim
        from tasks.training.settings import ComputeConfig, OptimConfig

        def fit(policy: Policy | None = None, *, optim: Optim = Optim(batch=64, warmup=0.0),
                seed: Seed = 0) -> Policy: ...
        def tune(policy: Policy, *, optim: OptimConfig = OptimConfig(),
                 compute: ComputeConfig = ComputeConfig()) -> Policy: ...
        def rate(policy: Policy) -> Report: ...
    """,
    "composites.py": """
        from __future__ import annotations
        from dataclasses import replace
        from tasks.training.settings import ComputeConfig, OptimConfig

        def train(add: Add, policy: Policy, *, optim: OptimConfig = OptimConfig(epochs=2),
                  compute: ComputeConfig = ComputeConfig(), halve: bool = False) -> Policy:
            optim = replace(optim, batch=optim.batch // 2) if halve else optim
            return add("tune", policy=policy, optim=optim, compute=compute)
    """,
}  # fmt: skip
FIT = "policy: {task: fit, %s}"
Compile = Callable[..., Graph]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return write_files(tmp_path / "tasks", TREE)


@pytest.fixture
def compiled(tree: Path) -> Compile:
    def compile(steps: str, params: str = "{}", **overrides: str) -> Graph:
        file = tree.parent / "pipelines.yaml"
        lines = "".join(f"      {line}\n" for line in [*steps.splitlines(), "rated: {task: rate, policy: policy}"])
        file.write_text(f"pipelines:\n  p:\n    params: {params}\n    steps:\n{lines}")
        return compile_pipeline(file, "p", overrides, tasks_root=tree)

    return compile


def test_the_fields_are_parameters_with_the_defaults_of_the_signature(tree: Path) -> None:
    fit = catalogue_of(tree).tasks["fit"]
    assert {name: p.default for name, p in fit.params.items()} == {
        "warmup": 0.0, "betas": [0.9, 0.999], "batch": 64, "every": 50, "seed": 0,
    }  # fmt: skip
    assert fit.params["betas"].help == "Decay rates."
    assert fit.params["warmup"].type.bounds == Bounds(min=0, max=1)
    assert fit.groups == {"optim": Group("tasks.settings", "Optim", ("warmup", "betas", "batch", "every"))}


def test_a_group_is_written_flat_or_as_a_mapping_or_as_a_parameter(compiled: Compile) -> None:
    made = [
        compiled(FIT % "batch: 8, every: 5").nodes["policy"],
        compiled(FIT % "optim: {batch: 8}, every: 5").nodes["policy"],
        compiled(FIT % "optim: $how", "{how: {batch: 16, every: 5}}", how="{batch: 8, every: 5}").nodes["policy"],
    ]
    for node in made:
        assert node.params == {"warmup": 0.0, "betas": [0.9, 0.999], "batch": 8, "seed": 0}
        assert node.execution == {"every": 5}
        assert node.groups["optim"].name == "Optim"


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("optim: {batch: 8}, batch: 9", r"5:\d+: p\.policy\.optim\.batch: 'batch' is given a second time, first at"),
        ("optim: {batches: 8}", r"optim has no parameter 'batches'; choose one of .* \(did you mean 'batch'\?\)"),
        ("optim: 3", r"p\.policy\.optim must be a mapping, not 3"),
        ("optim: {batch: 0}", r"p\.policy\.batch = 0; it must be at least 1"),
        ("betas: [0.9]", r"betas = \[0\.9\]; it must be a list of 2, each a number, at least 0 and below 1"),
        ("betas: [0.9, 1.0]", r"betas\[1\] = 1\.0; it must be at least 0 and below 1"),
        ("optims: {}", r"has no port or parameter 'optims'.*did you mean 'optim'"),
    ],
)
def test_what_a_group_cannot_be_is_refused_at_its_place(given: str, text: str, compiled: Compile) -> None:
    with pytest.raises(SpecError, match=text):
        compiled(FIT % given)


def test_a_composite_gets_the_object_and_hands_it_on_whole(compiled: Compile) -> None:
    how = "batch: 10, compute: {max_tokens_per_microbatch: 7}"
    text = f"base: {{task: fit}}\npolicy: {{task: train, policy: base, {how}, halve: %s}}"
    for halve, batch in (("false", 10), ("true", 5)):
        node = compiled(text % halve).nodes["policy"]
        given = {n: v for n, v in node.params.items() if n in ("epochs", "batch", "steps")}
        assert given == {"epochs": 2, "batch": batch, "steps": None}
        assert node.execution == {"max_tokens_per_microbatch": 7}


@pytest.mark.parametrize(
    ("signature", "text"),
    [
        ("optim: Optim = Optim(size=1)", r"f\(optim\): Optim has no field 'size'"),
        ("optim: Optim = Optim(batch=SIZE)", r"its default must be Optim\(field=literal, …\), not Optim\(batch=SIZE\)"),
        ("optim: Optim = None", r"its default must be Optim\(field=literal, …\), not None"),
        ("batch: int, optim: Optim = Optim()", r"f\(optim\): 'batch' is the name of another parameter"),
        ("optim: Nothing = Nothing()", r"'Nothing' is outside the vocabulary|must be a literal"),
    ],
)
def test_a_group_that_cannot_be_read_is_refused_where_it_stands(signature: str, text: str, tree: Path) -> None:
    source = f"from tasks.settings import Optim\ndef f(*, {signature}) -> Policy: ..."
    (tree / "other.py").write_text(source)
    with pytest.raises(SpecError, match=text):
        _ = catalogue_of(tree).tasks
