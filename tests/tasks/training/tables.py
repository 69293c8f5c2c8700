"""Small tables to train on, made of the toy world's words."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from tasks.contract import Chosen
from tasks.kinds import Demonstrations, Labels, Policy, Preferences, Rankings, Scores, Table, WinRates
from tasks.train import tokenize
from tests.workspace import Workspace

WORDS = np.array("where does the swan live and what it eat ? fox bear swamp roots fish .".split())  # noqa: SIM905
SFT = Chosen("losses/pointwise", "sft", {})
SPPO = Chosen("losses/pointwise", "sppo", {"eta": 10.0})
RRHF = Chosen("losses/listwise", "rrhf", {})
DPO = Chosen("losses/pairwise", "dpo", {"beta": 0.5})
AOT = Chosen("losses/pairwise", "aot", {"beta": 0.5, "label_smoothing": 0.1})
NASH = Chosen("losses/pairwise", "nash", {"eta": 0.5, "r": 0.25})
SLIC = Chosen("losses/pairwise", "slic", {"delta": 3.0, "lam": 0.5})
XPO = Chosen("losses/pairwise", "xpo", {"beta": 0.5, "alpha": 0.1})
KTO = Chosen("losses/pointwise", "kto", {"beta": 0.5, "lambda_d": 1.3, "balance": True})
APO_ZERO_UNPAIRED = Chosen("losses/pointwise", "apo_zero_unpaired", {"beta": 0.5})


def text(rng: np.random.Generator, longest: int) -> str:
    return " ".join(rng.choice(WORDS, int(rng.integers(1, longest + 1))))


def message(content: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": content}]


def demonstrations(n: int = 24, seed: int = 0, prompts: int = 8) -> Demonstrations:
    """n answers of 1 to 12 words, several to each of the prompts."""
    rng = np.random.default_rng(seed)
    asked = [text(rng, 9) for _ in range(prompts)]
    rows = [
        {"prompt_id": f"p{i % prompts}", "prompt": message(asked[i % prompts]), "completion_id": f"c{i}",
         "completion": text(rng, 12)}
        for i in range(n)
    ]  # fmt: skip
    return Demonstrations.of(pa.Table.from_pylist(rows))


def preferences(n: int = 16, seed: int = 0) -> Preferences:
    rng = np.random.default_rng(seed)
    rows = [
        {"prompt_id": f"p{i}", "prompt": message(text(rng, 9)), "chosen_id": f"w{i}", "rejected_id": f"l{i}",
         "chosen": text(rng, 12) + " good", "rejected": text(rng, 12) + " bad", "p": float(rng.uniform())}
        for i in range(n)
    ]  # fmt: skip
    return Preferences.of(pa.Table.from_pylist(rows))


def win_rates(n: int = 20, k: int = 5, seed: int = 0) -> WinRates:
    """k answers to each of n/k prompts."""
    rng = np.random.default_rng(seed)
    rates = rng.uniform(size=(n // k, k))
    rows = [
        {**_sampled(i, j, text(rng, 12)), "win_rate": rates[i, j], "opponents": k,
         "prompt_win_rates": rates[i].tolist()}
        for i in range(n // k) for j in range(k)
    ]  # fmt: skip
    return WinRates.of(pa.Table.from_pylist(rows))


def scores(values: Sequence[float | None], seed: int = 0) -> Scores:
    """One answer to each prompt per value."""
    rng = np.random.default_rng(seed)
    rows = [{**_sampled(i, 0, text(rng, 12)), "score": value} for i, value in enumerate(values)]
    return Scores.of(pa.Table.from_pylist(rows, Scores.SCHEMA))


def labels(values: Sequence[bool]) -> Labels:
    """One demonstration per label."""
    return Labels.of(demonstrations(len(values)).table.append_column("label", pa.array(values)))


def targets(pairs: Preferences, seed: int = 5) -> Demonstrations:
    """One more answer to each prompt of the pairs, in another order."""
    rng = np.random.default_rng(seed)
    rows = [{**row, "completion_id": f"t{i}", "completion": text(rng, 12)}
            for i, row in enumerate(pairs.table.select(["prompt_id", "prompt"]).to_pylist())]  # fmt: skip
    return Demonstrations.of(pa.Table.from_pylist(rows[::-1]))


def _sampled(prompt: int, k: int, completion: str) -> dict[str, object]:
    return {
        "prompt_id": f"p{prompt}", "prompt": message(f"where does the swan live {prompt} ?"),
        "completion_id": f"c{prompt}-{k}", "completion": completion, "stream": 0, "k": k, "token_logps": [-1.0],
        "finish_reason": "stop",
    }  # fmt: skip


def rankings(sizes: tuple[int, ...] = (3, 2, 4, 3), seed: int = 0) -> Rankings:
    """One prompt per size, with that many answers; the scores fall, but for the last two, which are equal."""
    rng = np.random.default_rng(seed)
    rows = [
        {"prompt_id": f"p{i}", "prompt": message(text(rng, 9)), "completion_ids": [f"c{i}-{j}" for j in range(k)],
         "completions": [text(rng, 12) for _ in range(k)], "scores": [*(float(k - j) for j in range(k - 1)), 2.0]}
        for i, k in enumerate(sizes)
    ]  # fmt: skip
    return Rankings.of(pa.Table.from_pylist(rows))


def tokenized(table: Table, policy: Policy, folder: Path) -> Table:
    return tokenize(policy, table, Workspace(folder / "tokenize"))
