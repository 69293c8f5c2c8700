"""A user's program as an oracle: what it is made of, and that no fault of it reaches another answer or the run."""

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from examples.rewards import exact_match, last_number, passes_tests, toy_facts
from tasks.contract import Chosen, DataError, SpecError
from tasks.judging.opening import open_oracle, session_of
from tasks.judging.program_files import program_files
from tasks.judging.programs import Limits, ProgramPool, Verdict
from tasks.kinds import Scorer
from tasks.load import load_oracle, load_prompts
from tasks.worlds.toy import ToyWorld
from tasks.worlds.toy_writers import golden
from tests.workspace import Workspace

FAULTS = """
import ctypes, os, subprocess, sys, threading, time

calls = 0

def judged(prompt, completion, truth):
    global calls
    calls += 1
    print('{"value": 99}', flush=True)
    return {name: f for name, f in globals().items() if callable(f)}[completion]()

def is_fine(): return True
def has_no_answer(): return None
def counts_calls(): return calls
def ends_at_once(): os._exit(0)
def exits(): sys.exit(3)
def hangs(): time.sleep(100)
def hangs_in_c(): ctypes.CDLL(None).sleep(100)
def floods():
    while True: print("x" * 1000)
def takes_memory(): return len(bytearray(10**11))
def takes_memory_bit_by_bit():
    every = []
    while True: every.append(bytearray(10**7))
def goes_deep(): return goes_deep() + 1
def overflows_the_stack():
    sys.setrecursionlimit(10**9)
    def deeper(n): return [*map(deeper, [n])]
    return deeper(0)
def crashes(): ctypes.string_at(0)
def gives_nan(): return float("nan")
def gives_infinity(): return 10**400
def gives_a_text(): return "1.0"
def raises(): raise ValueError("no such animal")
def leaves_a_thread(): threading.Thread(target=time.sleep, args=(100,)).start(); return 2
def leaves_a_process(): subprocess.Popen(["sleep", "98765"]); return 3
def leaves_a_daemon():
    subprocess.Popen("setsid sleep 98765 & sleep 98765", shell=True, start_new_session=True)
    return 4
def forks(): os.fork(); return 5
def ends_its_parent(): os.kill(os.getppid(), 9); time.sleep(5)
def closes_everything(): os.closerange(0, 1000)
def sees_keys(): return sum("KEY" in name for name in os.environ)
def counts_open_files(): return len(os.listdir("/proc/self/fd"))
def sees_files(): return len(os.listdir("."))
def writes_a_file(): open("left.txt", "w").write("x"); return len(os.listdir("."))
"""

VALUES = {
    "is_fine": 1.0, "has_no_answer": None, "counts_calls": 1.0, "leaves_a_thread": 2.0, "leaves_a_process": 3.0,
    "leaves_a_daemon": 4.0, "forks": 5.0, "sees_keys": 0.0, "sees_files": 0.0, "writes_a_file": 1.0,
    "counts_open_files": 5.0,  # three streams, that of its result, and the folder that it lists
}  # fmt: skip
FAILURES = {
    "ends_at_once": "its process ended with exit code 0 before it returned", "exits": "SystemExit: 3",
    "hangs": "it took longer than 2 s", "hangs_in_c": "it took longer than 2 s", "floods": "it took longer than 2 s",
    "takes_memory": "MemoryError", "takes_memory_bit_by_bit": "MemoryError", "goes_deep": "RecursionError",
    "overflows_the_stack": "signal SIGSEGV", "crashes": "signal SIGSEGV", "gives_nan": "it returned nan",
    "gives_infinity": "OverflowError", "gives_a_text": "it returned a str, not a number", "raises": "no such animal",
    "ends_its_parent": "it ended the process that watches it", "closes_everything": "before it returned",
    "is_unknown": "KeyError",
}  # fmt: skip


def question(completion: str, truth: str | None = None) -> dict[str, object]:
    return {"prompt": [{"role": "user", "content": "?"}], "completion": completion, "truth": truth}


def written(folder: Path, text: str, name: str = "rewards.py") -> str:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text)
    return name


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Verdict]]:
    """What came of all faults, and of answers between them, in two processes."""
    folder = tmp_path_factory.mktemp("faults")
    files = program_files(f"{written(folder, FAULTS)}::judged", [], folder)
    os.environ["SOME_API_KEY"] = "secret"
    pool = ProgramPool(files, Limits(seconds=2.0, memory=0.2), 2)
    names = [name for fault in FAILURES for name in (fault, "is_fine")] + [*VALUES]
    file = os.open(folder / "open.txt", os.O_CREAT)
    os.set_inheritable(file, True)
    try:
        came = dict(pool.verdicts([question(name) for name in names]))
        assert all(came[i].value == 1 for i, name in enumerate(names) if name == "is_fine")
        yield {name: came[i] for i, name in enumerate(names)}
    finally:
        pool.close()
        os.close(file)
        del os.environ["SOME_API_KEY"]


@pytest.mark.parametrize("name", VALUES)
def test_an_answer_is_what_the_program_returns_whatever_came_before_and_whatever_it_leaves_behind(
    verdicts: dict[str, Verdict], name: str
) -> None:
    assert (verdicts[name].value, verdicts[name].failure) == (VALUES[name], "")


@pytest.mark.parametrize("name", FAILURES)
def test_a_fault_costs_one_answer_and_has_a_reason(verdicts: dict[str, Verdict], name: str) -> None:
    assert verdicts[name].value is None
    assert FAILURES[name] in verdicts[name].failure


def test_a_failure_comes_with_the_end_of_what_the_program_printed_and_the_line_that_raised(
    verdicts: dict[str, Verdict],
) -> None:
    line = FAULTS.splitlines().index('def raises(): raise ValueError("no such animal")') + 1
    assert verdicts["raises"].failure == f"ValueError: no such animal (rewards.py, line {line})"
    assert '{"value": 99}' in verdicts["raises"].output
    assert "Traceback" in verdicts["raises"].output
    assert len(verdicts["floods"].output) == 2000


def test_no_process_is_left(verdicts: dict[str, Verdict]) -> None:
    assert verdicts["leaves_a_daemon"].value == 4
    left = [p for p in psutil.process_iter(["cmdline"]) if "98765" in (p.info["cmdline"] or [])]
    assert not left


def test_the_processes_end_with_the_pool(tmp_path: Path) -> None:
    others = set(psutil.Process().children(recursive=True))
    pool = ProgramPool(program_files(f"{written(tmp_path, FAULTS)}::judged", [], tmp_path), Limits(100, 1), 1)
    assert [verdict.value for _, verdict in pool.verdicts([question("is_fine")])] == [1]
    assert (children := set(psutil.Process().children(recursive=True)) - others)
    pool.close()
    assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]


def test_the_processes_end_when_the_run_is_killed(tmp_path: Path) -> None:
    written(tmp_path, "import time\ndef hangs(prompt, completion, truth): time.sleep(98764)")
    code = (
        "from pathlib import Path\nfrom tasks.judging.program_files import program_files\n"
        "from tasks.judging.programs import Limits, ProgramPool\n"
        f"pool = ProgramPool(program_files('rewards.py::hangs', [], Path({str(tmp_path)!r})), Limits(1000, 1), 1)\n"
        f"print(list(pool.verdicts([{question('x')!r}])))\n"
    )
    run = subprocess.Popen([os.sys.executable, "-c", code])  # type: ignore[attr-defined]
    try:
        until = time.monotonic() + 60
        while len(below := psutil.Process(run.pid).children(recursive=True)) < 2 and time.monotonic() < until:
            time.sleep(0.05)
        assert len(below) == 2, "the process that watches, and that of the answer"
        run.kill()
        run.wait()
        assert not psutil.wait_procs(below, timeout=30)[1]
    finally:
        run.kill()
        run.wait()


# What it is made of


def test_only_the_modules_that_it_imports_and_the_files_that_are_named_are_there(tmp_path: Path) -> None:
    written(tmp_path, "limit = 3", "helper.py")
    written(tmp_path, "secret = 3", "other.py")
    written(tmp_path / "package", "from .inner import two")
    (tmp_path / "package" / "__init__.py").write_text("from .inner import two")
    (tmp_path / "package" / "inner.py").write_text("import helper\ntwo = helper.limit - 1")
    (tmp_path / "words.txt").write_text("a b")
    written(tmp_path, (
        "import importlib\nfrom pathlib import Path\nfrom package import two\n"
        "def f(prompt, completion, truth):\n"
        "    if completion == 'other': return importlib.import_module('other').secret\n"
        "    return two + len((Path(__file__).parent / 'words.txt').read_text().split())\n"
    ))  # fmt: skip
    files = program_files("rewards.py::f", ["words.txt"], tmp_path)
    assert [*files.all] == ["rewards.py", "helper.py", "package/__init__.py", "package/inner.py", "words.txt"]
    pool = ProgramPool(files, Limits(10, 1), 1)
    verdicts = [verdict for _, verdict in pool.verdicts([question("x"), question("other")])]
    pool.close()
    assert sorted((v.value, v.failure[:19]) for v in verdicts if v.value) == [(4.0, "")]
    assert "No module named 'other'" in "".join(v.failure for v in verdicts)


def test_packages_count_by_their_versions(tmp_path: Path) -> None:
    import numpy

    written(tmp_path, "import json, numpy as np\ntry:\n    import none_such\nexcept ImportError: pass\n"
                      "def f(prompt, completion, truth): return np.float32(len(completion))")  # fmt: skip
    files = program_files("rewards.py::f", [], tmp_path)
    assert files.packages == {"numpy": numpy.__version__}
    pool = ProgramPool(files, Limits(10, 2), 1)
    assert [v.value for _, v in pool.verdicts([question("abc")])] == [3.0]
    pool.close()


WRONG = {
    "no function is named": ("rewards.py", "def f(a, b, c): ...", "write path/of/file.py::name"),
    "it is another kind of file": ("rewards.txt::f", "", "write path/of/file.py::name"),
    "the file is missing": ("other.py::f", "", "there is no file 'other.py'"),
    "the function is missing": ("rewards.py::g", "def f(a, b, c): ...", "has no function 'g'; its functions are: f"),
    "too few arguments": ("rewards.py::f", "def f(a, b): ...", r"f\(a, b\) cannot be called"),
    "too many arguments": ("rewards.py::f", "\ndef f(a, b, c, d): ...", r"rewards.py:2: f\(a, b, c, d\) cannot"),
    "a needed keyword": ("rewards.py::f", "def f(a, b, c, *, d): ...", "cannot be called"),
    "asynchronous": ("rewards.py::f", "async def f(a, b, c): ...", "asynchronous"),
    "a syntax error": ("rewards.py::f", "\n\ndef f(a, b, c: ...", "rewards.py:3: invalid Python"),
    "a missing package": ("rewards.py::f", "import none_such\ndef f(a, b, c): ...", "1: 'none_such' is neither"),
    "our own code": ("rewards.py::f", "from tasks.ids import digest\ndef f(a, b, c): ...", "would be in no key"),
}  # fmt: skip


@pytest.mark.parametrize(("function", "text", "message"), WRONG.values(), ids=WRONG)
def test_what_is_no_program_is_refused_without_running_it(
    tmp_path: Path, function: str, text: str, message: str
) -> None:
    written(tmp_path, text)
    with pytest.raises(SpecError, match=message):
        program_files(function, [], tmp_path)


@pytest.mark.parametrize("arguments", ["a, b, c", "a, b, c, d=1", "*all", "a, b, *rest", "a, /, b, c, *, d=2"])
def test_a_function_that_takes_three_arguments_is_a_program(tmp_path: Path, arguments: str) -> None:
    written(tmp_path, f"def f({arguments}): ...")
    assert program_files("rewards.py::f", [], tmp_path).name == "f"


def test_a_file_elsewhere_cannot_be_read(tmp_path: Path) -> None:
    written(tmp_path / "lab", "def f(a, b, c): ...")
    (tmp_path / "words.txt").write_text("x")
    with pytest.raises(SpecError, match=r"'words.txt' must lie in .*lab"):
        program_files("lab/rewards.py::f", ["words.txt"], tmp_path)


def test_a_program_that_cannot_be_imported_says_why(tmp_path: Path) -> None:
    written(tmp_path, "print('so far')\n1 / 0\ndef f(a, b, c): ...")
    pool = ProgramPool(program_files("rewards.py::f", [], tmp_path), Limits(10, 1), 1)
    with pytest.raises(DataError, match=r"ZeroDivisionError: division by zero \(rewards.py, line 2\)(.|\n)*so far"):
        list(pool.verdicts([question("x")]))
    pool.close()


# As an oracle


def opened(folder: Path, text: str, step: str = "step", **params: object) -> tuple[Scorer, Workspace]:
    file = folder / "rewards.py"
    file.write_text(text)
    choice = Chosen("oracles", "program", {"function": f"{file}::f", "workers": 2, **params})  # type: ignore[dict-item]
    work = Workspace(folder / step, folder / "answers")
    live = open_oracle(load_oracle(oracle=choice), "auto", work)
    assert isinstance(live, Scorer)
    return live, work


def test_scores_keep_the_order_of_the_questions_and_failed_ones_are_null_and_listed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    live, work = opened(tmp_path, "def f(p, c, t): print('hm'); return int(c) / 2 + (p[0]['content'] == t)")
    prompts = [[{"role": "user", "content": "x"}]] * 12
    texts = [str(n) if n != 7 else "seven" for n in range(12)]
    scores = live.score(prompts, texts, ["x"] + [None] * 11)
    assert list(scores) == [1.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, None, 4.0, 4.5, 5.0, 5.5]
    assert (session_of(live).usage.asked, session_of(live).usage.failed) == (11, 1)
    printed = capfd.readouterr().out
    assert '"completion": "seven"' in printed
    assert "ValueError: invalid literal" in printed
    assert [n.partition(" (")[0] for n in work.notices] == ["rewards.py::f failed for 1 of 12 answers"]


def test_too_many_failures_end_the_step(tmp_path: Path) -> None:
    live, _ = opened(tmp_path, "def f(p, c, t): return 1 / int(c)", max_failed=0.25)
    with pytest.raises(DataError, match=r"f failed for 2 of 4 answers \(50.0%\): 2 × ZeroDivisionError: division"):
        live.score([[]] * 4, ["0", "1", "0", "2"], [None] * 4)


def test_stored_answers_are_not_asked_again_and_failed_ones_are(tmp_path: Path) -> None:
    text = "def f(p, c, t): return 1 / int(c)"
    first, _ = opened(tmp_path, text, stored=True, max_failed=0.5)
    assert list(first.score([[]] * 3, ["1", "0", "2"], [None] * 3)) == [1.0, None, 0.5]
    again, _ = opened(tmp_path, text, "another step", stored=True, max_failed=0.5)
    assert list(again.score([[]] * 3, ["1", "0", "2"], [None] * 3)) == [1.0, None, 0.5]
    usage = session_of(again).usage
    assert (usage.reused, usage.asked, usage.failed) == (2, 0, 1)
    other, _ = opened(tmp_path, text.replace("1 /", "2 /"), "a third", stored=True)
    assert list(other.score([[]], ["1"], [None])) == [2.0], "another file is another oracle"


def test_a_truth_of_a_file_is_its_text_or_json(tmp_path: Path) -> None:
    truths = ["42", 42, {"b": [1, 2], "a": None}, None]
    lines = [json.dumps({"prompt": f"question {i}", "truth": truth}) for i, truth in enumerate(truths)]
    (tmp_path / "prompts.jsonl").write_text("\n".join(lines))
    source = Chosen("sources", "path", {"path": str(tmp_path / "prompts.jsonl")})
    prompts = load_prompts(Workspace(tmp_path / "step"), source=source, split="all")
    assert prompts.table.column("truth").to_pylist() == ["42", "42", '{"a": null, "b": [1, 2]}', None]


# Ready examples


def test_exact_match_ignores_white_space_around() -> None:
    assert exact_match([], " 42\n", "42") is True
    assert exact_match([], "42.", "42") is False
    assert exact_match([], "42", None) is None


def test_the_last_number_counts() -> None:
    assert last_number([], "3 boxes of 4 make 1,200.", "so 3 times 400\n#### 1200") is True
    assert last_number([], "1200, no: 7", "#### 1200") is False
    assert last_number([], "none", "#### 1200") is False
    assert last_number([], "1200", "unknown") is None


@pytest.mark.parametrize(("code", "passes"), [
    ("def double(x):\n    return 2 * x", True), ("def double(x):\n    return x", False), ("def double(x:", False),
    ("import sys\nsys.exit(0)", False), ("import os\nprint('all tests have passed')\nos._exit(1)", False),
])  # fmt: skip
def test_code_passes_only_if_all_tests_ran(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, passes: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    assert passes_tests([], f"Here:\n```python\n{code}\n```\n", "assert double(2) == 4") is passes


def test_the_toys_reward_counts_facts() -> None:
    world = ToyWorld()
    question = next(q for q in world.questions("rm") if len(q.asked) == 2)
    assert toy_facts([], golden(world, question, 0), question.truth) == 2
    assert toy_facts([], "certainly .", question.truth) == 0
    assert toy_facts([], "certainly", question.truth) == -1
    place = next(q for q in world.questions("rm") if q.asked == ("place",))
    right, wrong = place.facts["place"], next(v for v in ("swamp", "forest") if v != place.facts["place"])
    assert toy_facts([], f"it lives in the {right} .", place.truth) == 1
    assert toy_facts([], f"it lives in the {wrong} .", place.truth) == -1
    assert toy_facts([], f"it lives in the {right} . it is big .", place.truth) == 0.5
