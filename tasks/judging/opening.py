"""The one way in which tasks open an oracle: live, and bound to a session through which it looks up and asks."""

from typing import TypeVar

from tasks.contract import Workspace
from tasks.judging.session import Session
from tasks.kinds import Oracle

AnyOracle = TypeVar("AnyOracle", bound=Oracle)


def open_oracle(oracle: AnyOracle, dtype: str, work: Workspace) -> AnyOracle:
    """The live oracle. What it asked and reused is in `session_of(live).usage`; a model computes in `dtype`."""
    live: AnyOracle = oracle.open(dtype)
    return live.bind(Session(work))


def session_of(oracle: Oracle) -> Session:
    """The session of an oracle that `open_oracle` opened."""
    assert isinstance(oracle.session, Session)
    return oracle.session
