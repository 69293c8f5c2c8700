"""The one way in which tasks open an oracle: live, and bound to a session through which it looks up and asks."""

import json
from typing import TypeVar

from tasks.composed import Composed
from tasks.contract import Workspace
from tasks.ids import digest
from tasks.judging.session import Session
from tasks.kinds import Ensemble, Model, Oracle

AnyOracle = TypeVar("AnyOracle", bound=Oracle)


def open_oracle(oracle: AnyOracle, dtype: str, work: Workspace, *, stored: bool = True) -> AnyOracle:
    """The live oracle, bound to a session of the step. A model computes in `dtype`.

    stored: look up the answers of local oracles too. Where every text was sampled just now, none would be there.
    """
    return open_unbound(oracle, dtype).bind(Session(work), stored=stored)


def session_of(oracle: Oracle) -> Session:
    """The session of an oracle that `open_oracle` opened."""
    assert isinstance(oracle.session, Session)
    return oracle.session


def open_unbound(oracle: AnyOracle, dtype: str) -> AnyOracle:
    """The live oracle, with the identity under which its answers are stored."""
    live: AnyOracle = oracle.open(dtype)
    if live.asks:
        return live
    if isinstance(oracle, Model | Composed):
        live.stored_as = _of_model(oracle, dtype)
    elif live.stored_as and live is not oracle:
        live.stored_as = _of_choice(oracle, live.stored_as)
    return live


def _of_model(oracle: Oracle, dtype: str) -> str:
    """Identity of an oracle that code opens: its content, that code, and how it computes. Empty: it has none.

    An ensemble has none, because its members' answers are stored, and the rest is arithmetic. Nor has one that was
    opened outside of a store: its content or its code is not known there.
    """
    from tasks.training.device import this_device

    unknown_base = isinstance(oracle, Model) and oracle.adapter is not None and not oracle.base_digest
    unknown = unknown_base or not oracle.digest or not oracle.opened_by
    if unknown or isinstance(oracle, Ensemble):
        return ""
    device = this_device()
    return digest("model", oracle.digest, oracle.opened_by, str(device.dtype(dtype)), device.kind)


def _of_choice(oracle: Oracle, name: str) -> str:
    """Identity of an oracle that a choice makes: the choice's code, parameters, and what it reads outside."""
    choice = oracle.choice
    return digest(
        "choice",
        name,
        choice.name,
        choice.code,
        json.dumps([dict(choice.params), dict(choice.identity)], sort_keys=True),
    )
