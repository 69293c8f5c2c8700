"""Ranks of a step as a task sees them; processes are real, and talk over gloo."""

import pytest

from tasks.ranks import Ranks, barrier, broadcast, gather, gather_all, join, leave, this_rank


def test_a_process_alone_is_rank_0_of_1_and_connects_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert this_rank() == join() == Ranks(0, 1)
    barrier()
    assert gather("a") == gather_all("a") == ["a"]
    assert broadcast("a") == "a"
    leave()


def test_the_environment_says_which_rank_a_process_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert this_rank() == (1, 2)
    assert not this_rank().is_first
    monkeypatch.setenv("RANK", "2")
    with pytest.raises(ValueError, match="RANK=2 and WORLD_SIZE=2"):
        this_rank()


def test_a_process_group_of_somebody_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM makes one for itself alone: a barrier in it would wait for nobody."""
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 1)
    with pytest.raises(RuntimeError, match="connected to 1 ranks, not to the 2 of its step"):
        barrier()
