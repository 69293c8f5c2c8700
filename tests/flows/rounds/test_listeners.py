"""What the command line says of a tick: its own steps, not what earlier ticks left."""

from __future__ import annotations

import io

from rich.console import Console

from flows.commands.outcome import print_outcome
from tests.flows.rounds.conftest import Loop


def test_what_an_earlier_tick_left_is_no_cached_step(loop: Loop) -> None:
    """Round 2 finds base, prompts, heldout and gate_prompts; makes batch, seen, policy, report, gate_batch, better."""
    loop.tick()
    execution = loop.tick().heard.executions[0]
    assert [s.id for s in execution.run.steps.values() if s.carried]
    stream = io.StringIO()
    print_outcome(Console(file=stream, width=160), loop.store, execution)
    assert "6 steps run, 4 cached\n" in stream.getvalue()
