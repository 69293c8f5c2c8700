"""Checks from source alone: that a choice can be called as its folder's choices are (`tasks.families`, `tasks.calls`),
and that no declaration beside a task (`tasks.declarations`) is misspelt."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches

from flows.wiring.catalogue import Catalogue
from flows.wiring.signatures import Signature
from flows.wiring.tree import fail
from flows.wiring.where import Where
from tasks.calls import CALLS, PAIR_COLUMNS, CallContract
from tasks.contract import SpecError
from tasks.declarations import DECLARATIONS
from tasks.families import LOSSES

_NEAR = 0.7
"""Likeness, by difflib's ratio, from which a name counts as a misspelt declaration: `cots` and `cost` have 0.75."""


def check_contract(choice: Signature) -> None:
    """Raise SpecError, with its place in the choice's own file, for what does not fit its folder."""
    if choice.folder.split("/")[0] == "losses":
        _check_loss(choice)
    elif choice.folder in CALLS:
        _check_call(choice, CALLS[choice.folder])
    if choice.folder == "pair_rules":
        _check_columns(choice)


def broken_files(catalogue: Catalogue) -> Iterator[tuple[str, str]]:
    """Files of choices that do not fit their folders, also where no pipeline names them, and of misspelt declarations,
    with what is wrong."""
    for folder in ("losses", *CALLS):
        for name, module in catalogue.choices(folder).items():
            try:
                check_contract(catalogue.choice(folder, name, Where(module), name))
            except SpecError as e:
                yield catalogue.codebase.shown(module), str(e)
    for name, module in catalogue.declared.names().items():
        try:
            _check_declaration(catalogue, name, module)
        except SpecError as e:
            yield catalogue.codebase.shown(module), str(e)


def _check_declaration(catalogue: Catalogue, name: str, module: str) -> None:
    """Refuse `mine_cots` in the file of the task `mine`, which nothing would read."""
    owners = [t for t, task in catalogue.tasks.items() if task.module == module and name.startswith(f"{t}_")]
    if not owners or name in catalogue.tasks:
        return
    task = max(owners, key=len)
    what = name.removeprefix(f"{task}_")
    if what not in DECLARATIONS and get_close_matches(what, DECLARATIONS, 1, _NEAR):
        where = Where(catalogue.file(module), catalogue.codebase.units(module).units[name].line, 1)
        text = f"nothing reads '{name}', which is named as the declarations of the task {task} are"
        fail(where, text, name, [f"{task}_{declaration}" for declaration in DECLARATIONS])


def _check_loss(loss: Signature) -> None:
    family = LOSSES.get(loss.folder)
    if family is None:
        fail(loss.where, f"the loss {loss.name} is in tasks/{loss.folder}/; losses belong in one of", allowed=LOSSES)
    error, name = family.misnamed(loss.arguments)
    if error:
        what = f"the loss {loss.name} {error}; a loss of tasks/{loss.folder}/ names arguments of its family"
        fail(loss.places.get(name, loss.where), what, name, family.arguments)
    _check_returns(loss, ("Tensor",))
    for companion, arguments in loss.companions.items():
        for name in arguments:
            if name not in loss.params:
                what = f"{companion} beside the loss {loss.name} needs '{name}', which is not a parameter of the loss"
                fail(loss.where, what, name, loss.params)


def _check_call(choice: Signature, call: CallContract) -> None:
    names, expected = tuple(name.removeprefix("_") for name in choice.arguments), tuple(call.arguments)
    if names != expected:
        wrong = next((n for n, wanted in zip(names, (*expected, ""), strict=False) if n != wanted), "")
        wanted = ", ".join(expected) or "none: its parameters are keyword-only"
        given = ", ".join(choice.arguments) or "none"
        place = choice.places.get(wrong, choice.places.get(f"_{wrong}", choice.where))
        what = f"{choice.name} has the positional arguments ({given}); those of tasks/{choice.folder}/ are ({wanted})"
        fail(place, what, wrong, expected if wrong else ())
    _check_returns(choice, call.returns)


def _check_returns(choice: Signature, allowed: tuple[str, ...]) -> None:
    if choice.returns not in allowed:
        given = f"'{choice.returns}'" if choice.returns else "nothing"
        what = f"{choice.name} returns {given} by its annotation, but not what choices of tasks/{choice.folder}/ return"
        fail(choice.where, what, choice.returns, allowed)


def _check_columns(rule: Signature) -> None:
    for name, where in rule.columns:
        if name not in PAIR_COLUMNS:
            fail(where, f"{rule.name} reads the column '{name}', which the frame of pairs lacks", name, PAIR_COLUMNS)
