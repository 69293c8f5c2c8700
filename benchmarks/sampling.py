"""Sampling beside raw vLLM: tokens per second for 8 completions of each of the toy world's 640 training prompts.

Each variant runs in a process of its own, in several rounds that alternate between the variants. Loading and a warm-up
are not counted. `raw` is `LLM.generate` with `n` = 8 at vLLM's defaults, which also makes the texts; `engine` is one
call of our engine, whose answers have text and log-probabilities; `task` is the whole `sample` step, which renders the
prompts, works in shards and writes tables. The result is a JSON file in `benchmarks/results/` (`benchmarks/record.py`);
its table is printed, with medians over the rounds and ratios to raw vLLM with log-probabilities. Tokens per CPU second
suffer less from other work on the machine than tokens per second do, on one thread least of all.

    python -m benchmarks.sampling [--rounds 3] [--seeds 0,1] [--threads 1]
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from math import nan
from pathlib import Path
from typing import Any

from benchmarks.processes import Stopwatch, in_process
from benchmarks.record import Row, load_average, now, write_results
from benchmarks.table import table_of_file

K, MAX_TOKENS = 8, 48
LIMIT = 300.0
RAW = "raw vLLM with log-probabilities"
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "raw vLLM": ("raw", {"logprobs": False}),
    RAW: ("raw", {"logprobs": True}),
    "engine vllm": ("engine", {"name": "vllm"}),
    "task sample with vllm": ("task", {"name": "vllm"}),
    "engine transformers": ("engine", {"name": "transformers"}),
}


def make_policy(folder: str, steps: int = 300) -> dict[str, Any]:
    """The toy world's base policy: a Llama of 0.65M parameters, trained on answers of mixed quality."""
    from tasks.contract import Chosen
    from tasks.load import init_policy, load_demonstrations
    from tasks.train import fit, tokenize
    from tasks.training.settings import OptimConfig
    from tasks.workspace import LocalWorkspace

    work = LocalWorkspace(Path(folder, "data"))
    answers = load_demonstrations(work, source=Chosen("sources", "toy", {}), split="policy")
    base = init_policy(answers, LocalWorkspace(Path(folder, "random")))
    adam = Chosen("optimizers", "adamw", {"betas": [0.9, 0.95]})
    optim = OptimConfig(steps=steps, batch=32, optimizer=adam, schedule="cosine", max_grad_norm=15.0)
    loss = Chosen("losses/pointwise", "sft", {"average": "answer"})
    trained = fit(
        base, tokenize(base, answers, work), LocalWorkspace(Path(folder, "fit")), loss=loss, lr=3e-3, optim=optim
    )
    return {"policy": str(trained.path)}


def raw(policy: str, folder: str, seeds: Sequence[int], logprobs: bool) -> dict[str, Any]:
    """vLLM alone."""
    from tasks.engines.vllm import ENVIRONMENT

    os.environ.update(ENVIRONMENT)
    from vllm import LLM, SamplingParams, TokensPrompt

    llm = LLM(policy, dtype="float32", gpu_memory_utilization=0.3, enforce_eager=True)
    how = SamplingParams(n=K, temperature=1.0, max_tokens=MAX_TOKENS, logprobs=0 if logprobs else None)

    def sampled(prompts: list[list[int]], seed: int) -> int:
        found = llm.generate([TokensPrompt(prompt_token_ids=p) for p in prompts], how, use_tqdm=False)
        return sum(len(answer.token_ids) for output in found for answer in output.outputs)

    return _timed(sampled, _prompts(policy), seeds)


def engine(policy: str, folder: str, seeds: Sequence[int], name: str) -> dict[str, Any]:
    """One call of an engine for all prompts."""
    from tasks.contract import Chosen
    from tasks.kinds import Policy
    from tasks.sampling.plan import Draws
    from tasks.sampling.requests import Options, Request
    from tasks.template import stop_ids

    loaded = Chosen("engines", name, {})(Policy(Path(policy)))
    options = Options(stop_ids=stop_ids(Policy(Path(policy))))

    def sampled(prompts: list[list[int]], seed: int) -> int:
        draws = Draws(K, seed, 0)
        requests = [Request(p, draws.seed_of(str(i), k), MAX_TOKENS) for i, p in enumerate(prompts) for k in range(K)]
        return sum(len(answer.tokens) for answer in loaded.generate(requests, options, lambda n: None))

    return _timed(sampled, _prompts(policy), seeds)


def task(policy: str, folder: str, seeds: Sequence[int], name: str) -> dict[str, Any]:
    """The whole step."""
    import pyarrow.compute as pc

    from tasks.contract import Chosen
    from tasks.kinds import Policy
    from tasks.sample import sample
    from tasks.workspace import LocalWorkspace

    def sampled(prompts: Any, seed: int) -> int:
        with tempfile.TemporaryDirectory(dir=folder) as place:
            work, chosen = LocalWorkspace(Path(place)), Chosen("engines", name, {})
            made = sample(Policy(Path(policy)), prompts, work, k=K, seed=seed, engine=chosen)
            made.save(work.output)
            return int(pc.sum(pc.list_value_length(type(made)(work.output).table.column("completion_tokens"))).as_py())

    return _timed(sampled, _table(), seeds)


def _timed(sampled: Callable[[Any, int], int], prompts: Any, seeds: Sequence[int]) -> dict[str, Any]:
    """Tokens and seconds of one pass over the prompts per seed, after a warm-up of a few prompts."""
    sampled(prompts[:16] if isinstance(prompts, list) else type(prompts).of(prompts.table.slice(0, 16)), 10**6)
    watch = Stopwatch.start()
    tokens = sum(sampled(prompts, seed) for seed in seeds)
    wall, cpu = watch.seconds()
    return {"tokens": tokens, "seconds": wall, "cpu_seconds": cpu}


def _table() -> Any:
    from tasks.contract import Chosen
    from tasks.load import load_prompts
    from tasks.workspace import LocalWorkspace

    with tempfile.TemporaryDirectory() as folder:
        return load_prompts(LocalWorkspace(Path(folder)), source=Chosen("sources", "toy", {}), split="policy")


def _prompts(policy: str) -> list[list[int]]:
    from tasks.kinds import Policy
    from tasks.rendering import Template

    return Template(Policy(Path(policy))).prompts(_table().table.column("prompt").to_pylist())


def measured(folder: str, names: Sequence[str], rounds: int, seeds: Sequence[int], threads: int) -> Iterator[Row]:
    """One row per round and variant. A variant that failed has `error` instead of a speed."""
    made = in_process("benchmarks.sampling:make_policy", {"folder": folder}, limit=LIMIT)
    if "error" in made:
        raise RuntimeError(made["error"])
    environment = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": str(threads)} if threads else {}
    for turn, name in product(range(rounds), names):
        function, more = VARIANTS[name]
        given = {"policy": made["policy"], "folder": folder, "seeds": [seed + 1000 * turn for seed in seeds], **more}
        found = in_process(f"benchmarks.sampling:{function}", given, limit=LIMIT, environment=environment)
        if "error" not in found:
            found |= {f"tokens_per_{unit[:-1]}": found["tokens"] / found[unit] for unit in ("seconds", "cpu_seconds")}
        print(
            f"round {turn}  {name:32} {found.get('tokens_per_second', nan):8.0f} tokens/s  {found.get('error', '')}",
            flush=True,
        )
        yield {"case": {"prompts": 640, "answers": K}, "name": name, **found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--threads", type=int, default=0, help="0: all cores")
    parser.add_argument("--variants", default=",".join(VARIANTS), help="comma-separated")
    options = parser.parse_args()
    names, seeds = options.variants.split(","), [int(s) for s in options.seeds.split(",")]
    started, load = now(), load_average()
    settings = {
        "max_tokens": MAX_TOKENS, "rounds": options.rounds, "seeds": seeds, "threads": options.threads, "peer": RAW,
    }  # fmt: skip
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for row in measured(folder, names, options.rounds, seeds, options.threads):
            rows.append(row)  # written after each row, so that an interrupted run keeps what it measured
            file = write_results("sampling", rows, settings=settings, started=started, load=load)
    print(f"{table_of_file(file)}\n\n{file}")


if __name__ == "__main__":
    main()
