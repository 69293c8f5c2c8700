"""Measured work in processes of its own."""

import time

from benchmarks.processes import in_process


def test_the_result_of_the_function_comes_back_with_what_the_process_used() -> None:
    result = in_process("builtins:dict", {"answer": 42}, limit=60)
    assert result["answer"] == 42
    assert 0 < result["peak_memory_gb"] < 1
    assert result["process_seconds"] > 0


def test_a_failure_is_a_result_with_the_exception() -> None:
    result = in_process("json:loads", {"s": "{"}, limit=60)
    assert result == {"error": "json.decoder.JSONDecodeError: " + result["error"].split(": ", 1)[1]}
    assert "property name" in result["error"]


def test_a_process_and_its_children_are_killed_at_the_limit() -> None:
    begun = time.perf_counter()
    assert in_process("subprocess:run", {"args": ["sleep", "300"]}, limit=0.5) == {"error": "stopped after 0 s"}
    assert time.perf_counter() - begun < 100
