"""The proof that the cache is sound: a thousand automatic, seeded edits of code, parameters, inputs and environment.

A *comparison* is one edit and one step of `proof.yaml`: did the step's key change, and could its result?

**Could change** is known without the index that makes the keys. Each step runs once for real, in a process that has
loaded nothing of `tasks/`, under a trace of its lines. An edit of a statement that the step ran could change its
result; so could one of the decorators or defaults of a function that it ran. A statement that ran only while its file
was imported (a constant, an attribute of a class) could, where the step, run again with the edited code, gives another
content. So could always: parameters that are keyed, contents of inputs and of files that identities name, packages
that a line which ran names, Python's version.
**Could not change**: a statement that did not run, of a top-level name that the step's bytecode cannot reach from the
task, its choices, the classes of its handles and all that ran; and what changes no result by construction: docstrings,
comments, layout, annotations, order of functions, functions moved to another file, files renamed or split.
What lies between (within reach, did not run: an error, a branch for a GPU) is compared and counts as neither.

**Stale hit**: the result could change and the key did not. None is allowed. Code that is refused, or that fails while
it is imported, gives no result and so no stale one.
**Needless miss**: the result could not change and the key did. At most 5% of all misses.
"""

import random
import shutil
from collections.abc import Iterator
from itertools import islice, zip_longest
from pathlib import Path

import pyarrow as pa
import pytest

from flows.store.identities import choices_of
from flows.wiring.catalogue import Catalogue
from flows.wiring.graph import compile_pipeline
from flows.wiring.where import Where
from tasks.contract import COMPANIONS
from tasks.kinds import Completions
from tasks.sources.toy import toy
from tests.flows.store.proof import edits as e
from tests.flows.store.proof.moves import Move, renamed
from tests.flows.store.proof.scenario import FAILED, HERE, ROOT, Scenario, write_answers
from tests.flows.store.proof.surroundings import of_environment, of_inputs, of_parameters
from tests.flows.store.proof.table import Table

SEED = 20
LIGHT = [
    "questions", "prompts", "gold", "length", "duels_length", "scores", "targets", "best", "pairs_all", "pairs_best",
    "pairs_drawn", "made_up", "field", "accepted", "duels_scored", "ranks_of_pairs",
]  # fmt: skip
"""Steps that need no torch, on answers that nobody sampled."""


def of_code(scenario: Scenario, table: Table, rng: random.Random, most: int) -> None:
    """Edits of statements and expressions, of every file of `tasks/` that a step loaded: as many of each kind."""
    loaded = sorted({f for t in scenario.made.values() for f in (*t.executed, *t.loading)})
    by_kind: dict[str, dict[str, list[e.Edit]]] = {}
    for edit in (x for f in loaded for x in e.edits(f, scenario.files[f])):
        by_kind.setdefault(edit.kind, {}).setdefault(edit.file, []).append(edit)
    for _, by_file in sorted(by_kind.items()):
        shuffled = [rng.sample(several, len(several)) for several in rng.sample([*by_file.values()], len(by_file))]
        one_of_each_file = (x for several in zip_longest(*shuffled) for x in several if x)
        for edit in islice(one_of_each_file, most // len(by_kind)):
            _judge(scenario, table, rng, edit)


def _judge(scenario: Scenario, table: Table, rng: random.Random, edit: e.Edit) -> None:
    states: dict[str, list[str]] = {}
    for id in scenario.nodes:
        states.setdefault(_state(scenario, edit, id), []).append(id)
    most = {"ran": 2, "unreachable": 2}
    chosen = {s: rng.sample(ids, min(most.get(s, 1), len(ids))) for s, ids in sorted(states.items())}
    table.counts[edit.kind].mutants += 1
    with scenario.edited({edit.file: e.edited(edit, scenario.files[edit.file])}):
        keys = scenario.keys_of([id for ids in chosen.values() for id in ids])
        for state, ids in chosen.items():
            for id in ids:
                changed = keys[id] != scenario.keys[id]
                could = {"ran": True, "unreachable": False}.get(state)
                if state.startswith("loaded") and not changed:
                    could = scenario.result(id) not in (scenario.made[id].content, FAILED)
                elif state == "loaded, unreachable":
                    could = False
                what = f"{edit.file}:{edit.spot.lines[0]} {edit.spot.unit} in {id} ({state})"
                table.add(edit.kind, what, changed=changed, could=could)


def _state(scenario: Scenario, edit: e.Edit, id: str) -> str:
    """What a step has to do with the statement that was edited."""
    step = scenario.made[id]
    spot = edit.spot
    first, last = spot.lines
    ran = step.executed.get(edit.file, frozenset())
    if spot.header and any(last <= line <= spot.last for line in ran):
        return "ran"
    if spot.inside and any(first <= line <= last for line in ran):
        return "ran"
    reachable = not spot.unit or (e.module_of(edit.file), spot.unit) in step.reachable
    if not spot.inside and any(first <= line <= last for line in step.loading.get(edit.file, ())):
        return "loaded" if reachable else "loaded, unreachable"
    return "reachable" if reachable and edit.file in step.loading else "unreachable"


def of_loading(scenario: Scenario, table: Table, rng: random.Random, most: int) -> None:
    """A statement at the end of a file; an import of a file that does something; a data file that a function reads."""
    loaded = sorted({f for t in scenario.made.values() for f in t.loading} - {"tasks/contract.py", "tasks/__init__.py"})
    for file in rng.sample(loaded, min(most, len(loaded))):
        text = scenario.files[file]
        effect = {file: text + "\n[].append(1)\nprint('loaded')\n"}
        imported = {file: text + "\nimport tasks.added\n", "tasks/added.py": "print('added')\n"}
        for kind, files in (("effect of loading", effect), ("import for its effect", imported)):
            _compare(scenario, table, rng, kind, files, file)
        _of_data(scenario, table, rng, file)


def _of_data(scenario: Scenario, table: Table, rng: random.Random, file: str) -> None:
    ran = frozenset(line for t in scenario.made.values() for line in t.executed.get(file, ()))
    reading = e.with_data(scenario.files[file], rng, ran)
    if reading is None:
        return
    text, lines = reading
    data = "tasks/data/proof.txt"
    ids = [id for id, t in scenario.made.items() if id in scenario.nodes and lines & t.executed.get(file, frozenset())]
    with scenario.edited({file: text, data: "one"}):
        before = scenario.keys_of(ids[:2])
    with scenario.edited({file: text, data: "two"}):
        after = scenario.keys_of(ids[:2])
    table.counts["data file"].mutants += 1
    for id in before:
        table.add("data file", f"{file} in {id}", changed=before[id] != after[id], could=True)


def _compare(scenario: Scenario, table: Table, rng: random.Random, kind: str, files: dict[str, str], file: str) -> None:
    """Compare two steps that load the file, whose result could change, and two others."""
    sides = ([id for id in scenario.nodes if (file in scenario.made[id].loading) is side] for side in (True, False))
    ids = [id for side in sides for id in rng.sample(side, min(2, len(side)))]
    table.counts[kind].mutants += 1
    with scenario.edited(files):
        for id, key in scenario.keys_of(ids).items():
            loads = file in scenario.made[id].loading
            table.add(kind, f"{file} in {id}", changed=key != scenario.keys[id], could=loads)


def of_nothing(scenario: Scenario, table: Table, rng: random.Random, files: int, moves: int) -> None:
    """Edits that change no result: what stands in `tasks/` otherwise, and elsewhere."""
    loaded = sorted({f for t in scenario.made.values() for f in t.loading})
    ways = {
        "docstrings": e.without_docstrings, "layout and comments": e.reformatted, "annotations": e.reannotated,
        "order of functions": lambda text: e.reordered(text, rng),
    }  # fmt: skip
    for kind, way in ways.items():
        for file in rng.sample(loaded, min(files, len(loaded))):
            _compare_unchanged(scenario, table, rng, f"no-op: {kind}", {file: way(scenario.files[file])}, file)
    for file in rng.sample(named := [f for f in loaded if _may_be_renamed(f, scenario)], min(files, len(named))):
        _compare_unchanged(scenario, table, rng, "no-op: file renamed", renamed(scenario.files, file), file)
    for kind, file, name, changed in _moves(scenario, rng, moves):
        _compare_unchanged(scenario, table, rng, f"no-op: {kind}", changed, f"{file} {name}")


def _compare_unchanged(
    scenario: Scenario, table: Table, rng: random.Random, kind: str, files: dict[str, str], what: str
) -> None:
    file = what.split()[0]
    using = [id for id in scenario.nodes if file in scenario.made[id].loading]
    table.counts[kind].mutants += 1
    with scenario.edited(files):
        for id, key in scenario.keys_of(rng.sample(using, min(3, len(using)))).items():
            table.add(kind, f"{what} in {id}", changed=key != scenario.keys[id], could=False)


IN_THIS_PROCESS = {"tasks/formats/hub.py", "tasks/asking/template_files.py", "tasks/people/survey.py"}
"""What the identities of choices call. They run here, where only the files of the checkout can be imported."""


def _may_be_renamed(file: str, scenario: Scenario) -> bool:
    """Not a file of tasks, a choice, or one that keys know by its name."""
    fixed = {"tasks/kinds.py", "tasks/contract.py", "tasks/training/reward_scorer.py", *IN_THIS_PROCESS}
    name = Path(file).stem
    tasks = {m for node in scenario.nodes.values() for m in (node.module, *(g.module for g in node.groups.values()))}
    is_choice = f"def {name}(" in scenario.files[file]
    return not (is_choice or file in fixed or e.module_of(file) in tasks or name == "__init__")


def _moves(scenario: Scenario, rng: random.Random, most: int) -> Iterator[tuple[str, str, str, dict[str, str]]]:
    """Functions moved to a file of their own, with what they need of their file."""
    fixed = {"tasks/contract.py", *IN_THIS_PROCESS}
    files = sorted({f for t in scenario.made.values() for f in t.executed} - fixed)
    names = [
        (f, n)
        for f in files
        for n in e.functions(scenario.files[f])
        if n not in (Path(f).stem, "identity", *COMPANIONS)
    ]
    tasks = {(node.module, node.task) for node in scenario.nodes.values()}
    tasks |= {(group.module, group.name) for node in scenario.nodes.values() for group in node.groups.values()}
    done = 0
    for file, name in rng.sample(names, len(names)):
        if done < most and (e.module_of(file), name) not in tasks:
            try:
                move = Move(scenario.files, file, name, f"tasks/moved_{name.strip('_')}.py")
            except ValueError:
                continue
            done += 1
            yield "function moved" if len(move.moved) == 1 else "file split", file, name, move.files


def _proof(scenario: Scenario, table: Table, rng: random.Random) -> None:
    of_code(scenario, table, rng, most=450)
    of_loading(scenario, table, rng, 30)
    of_parameters(scenario, table, rng)
    of_inputs(scenario, table)
    of_environment(scenario, table)
    of_nothing(scenario, table, rng, files=25, moves=70)


def test_no_result_of_sixty_edits_is_stale(tmp_path: Path) -> None:
    scenario = Scenario(tmp_path, light=LIGHT, given={"answers": answers_to_prompts()})
    table, rng = Table(), random.Random(SEED)
    try:
        of_code(scenario, table, rng, most=30)
        of_loading(scenario, table, rng, 2)
        of_parameters(scenario, table, rng)
        of_inputs(scenario, table)
        of_nothing(scenario, table, rng, files=1, moves=3)
    finally:
        scenario.close()
    assert table.mutants >= 60
    assert table.stale == []
    assert table.needless <= 0.05, table.examples


def test_every_task_and_choice_has_a_step(tmp_path: Path) -> None:
    write_answers(tmp_path)
    nodes = compile_pipeline(Path(shutil.copy(HERE / "proof.yaml", tmp_path)), "proof").nodes.values()
    used = {(choice.folder, choice.name) for node in nodes for _, choice in choices_of(node.params)}
    catalogue = Catalogue()
    choices = {(folder, name) for folder, _ in used for name in _choices_in(folder)}
    missing = {choice for choice in choices - used if not _same_code(catalogue, *choice) & used}
    harnesses = {"lm_eval_harness", "inspect_evals"}  # which need a package, and run in a process that is not traced
    assert catalogue.tasks.keys() - harnesses == {node.task for node in nodes}
    others = {("engines", "vllm"), ("optimizers", "adamw_8bit")}  # a GPU's; one that needs a package
    outside = {("oracles", name) for name in ("reward_model", "preference_model", "pair_rm", "templated_reward_model")}
    assert missing == others | outside


def _choices_in(folder: str) -> Iterator[str]:
    files = (ROOT / "tasks" / folder).glob("*.py")
    return (file.stem for file in files if f"def {file.stem}(" in file.read_text())


def _same_code(catalogue: Catalogue, folder: str, name: str) -> set[tuple[str, str]]:
    """The losses of a folder that name the same arguments and companions as this one: a step with either reaches the
    same code but for the loss's own file. Of other choices the choice alone."""
    if not folder.startswith("losses/"):
        return {(folder, name)}
    losses = {n: catalogue.choice(folder, n, Where(folder), folder) for n in _choices_in(folder)}
    traits = {n: (set(loss.arguments), loss.companions.keys()) for n, loss in losses.items()}
    return {(folder, n) for n in losses if traits[n] == traits[name]}


def test_losses_with_the_same_arguments_and_companions_share_a_step() -> None:
    catalogue, folder = Catalogue(), "losses/pairwise"
    alike = {name for _, name in _same_code(catalogue, folder, "hinge")}
    assert {"hinge", "nca"} <= alike
    assert not alike & {"aot", "dpo_two_betas", "ipo"}  # a companion more, a companion less, other arguments
    assert _same_code(catalogue, "optimizers", "adamw") == {("optimizers", "adamw")}


def answers_to_prompts() -> Completions:
    """What the writers of the toy world answer to its first prompts, as if a policy had sampled it."""
    rows = toy().demonstrations("rm", "mixed", None).table.slice(0, 12).to_pylist()  # type: ignore[arg-type]
    sampled = {"stream": 0, "token_logps": [-1.0], "finish_reason": "stop"}
    return Completions.of(pa.Table.from_pylist([{**row, **sampled, "k": i % 3} for i, row in enumerate(rows)]))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_no_result_of_a_thousand_edits_is_stale_and_few_misses_are_needless(tmp_path: Path) -> None:
    scenario, table = Scenario(tmp_path), Table()
    try:
        _proof(scenario, table, random.Random(SEED))
    finally:
        scenario.close()
        print(table, *table.stale, *table.examples, sep="\n")
    assert table.mutants >= 1000
    assert table.stale == []
    assert table.needless <= 0.05
    assert not any(c.needless for kind, c in table.counts.items() if kind.startswith("no-op"))
