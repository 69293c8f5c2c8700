"""Every kind of artifact: its schema, one line of documentation per column, and the handle that opens it.

A handle refers to a directory of data. Tables are Arrow IPC files, memory-mapped; models are Hugging Face
directories; an oracle is a specification. The flow saves the handles that a task makes (`Prompts.of(table)`).
Column names are tensor names are metric stems. Token ids are int32, log-probabilities are nats.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self, TypeVar, cast

import pyarrow as pa

from tasks.arrow import open_table, write_table
from tasks.artifact import Artifact as Artifact
from tasks.artifact import Member as Member
from tasks.artifact import Table as Table
from tasks.attributes import Measuring
from tasks.columns import BINS, COMPLETION, LABEL, PROMPT, PROMPT_TOKENS, SAMPLED, STRINGS, TOKENS, TRAIN, TRUTH, field
from tasks.composed import Composed
from tasks.contract import JSON, Chosen, DataError, SpecError
from tasks.queried import Comparing

UNKEYED = {
    "tasks.contract.Chosen": "a specification contains the digest of its code, and the code that opens a "
    "reward model is in the key of every step with one as its oracle",
}

ATTRIBUTES = "attributes.json"
"""File of a reward model whose outputs have names."""
ADAPTER = "adapter.json"
"""File that makes a model's directory an adapter."""


class Prompts(Table):
    """One row = one prompt."""

    SCHEMA = pa.schema([*PROMPT, TRUTH, *TRAIN])


class Demonstrations(Prompts):
    """One row = one gold answer."""

    SCHEMA = pa.schema([*PROMPT, TRUTH, *TRAIN, *COMPLETION])


class Completions(Table):
    """One row = one sampled answer."""

    SCHEMA = pa.schema(SAMPLED)


class Scores(Completions):
    """One row = one scored answer."""

    SCHEMA = pa.schema([
        *SAMPLED, field("score", pa.float64(), "the oracle's score; null: it gave no answer", True),
        field("attributes", pa.list_(pa.field("item", pa.float64(), True)),
              "numbers of which the score is made, with the names in the metadata `attributes`; null: one is missing",
              True),
    ])  # fmt: skip

    @property
    def attributes(self) -> tuple[str, ...]:
        """Names of the numbers in the column `attributes`; empty where it has none."""
        return tuple(json.loads(self.metadata.get("attributes", "[]")))


class WinRates(Completions):
    """One row = one answer and how often it wins against the answers to its prompt."""

    SCHEMA = pa.schema([
        *SAMPLED,
        field("win_rate", pa.float64(), "mean P(this answer beats an opponent), in [0, 1]"),
        field("opponents", pa.int32(), "number of opponents behind win_rate (the answer itself, where it counts)"),
        field("prompt_win_rates", pa.list_(pa.field("item", pa.float64(), False)),
               "win rates of all K answers to the prompt, by k, or of extra samples: what log Z is estimated from"),
    ])  # fmt: skip


class WinProbs(Table):
    """One row = one question to an oracle."""

    SCHEMA = pa.schema([
        field("prompt_id", pa.string(), "the prompt that both answer"),
        field("a_id", pa.string(), "completion_id of the first answer"),
        field("b_id", pa.string(), "completion_id of the second answer"),
        field("p", pa.float64(), "P(a beats b) in [0, 1]; null: the oracle gave no answer", True),
        field("first", pa.string(), "'a' or 'b': which was shown first; null where the oracle has no order", True),
        field("uncertainty", pa.float64(), "how uncertain the oracle is of p; null: it does not know", True),
        field("annotator", pa.string(), "who answered, where several people or judges did; null: one oracle", True),
    ])  # fmt: skip


class Preferences(Table):
    """One row = one pair."""

    SCHEMA = pa.schema([
        *PROMPT, TRUTH, *TRAIN,
        field("chosen_id", pa.string(), "completion_id of the preferred answer"),
        field("rejected_id", pa.string(), "completion_id of the other"),
        field("chosen", pa.string(), "text of the preferred answer"),
        field("rejected", pa.string(), "text of the other"),
        PROMPT_TOKENS,
        field("chosen_tokens", TOKENS, "ids of the preferred answer", True),
        field("rejected_tokens", TOKENS, "ids of the other", True),
        field("chosen_ended", pa.bool_(), "False: cut by its length, so it gets no end of turn; null: it ended", True),
        field("rejected_ended", pa.bool_(), "the same of the other", True),
        field("p", pa.float64(), "P(chosen beats rejected) by the oracle that labelled the pair; null: unknown", True),
        field("margin", pa.float64(), "how much better chosen is, in the labeller's units; null means 0", True),
        field("source", pa.string(), "where the pair comes from", True),
    ])  # fmt: skip


class Rankings(Table):
    """One row = one prompt with K ranked answers."""

    SCHEMA = pa.schema([
        *PROMPT, TRUTH, *TRAIN,
        field("completion_ids", STRINGS, "the K draws"),
        field("completions", STRINGS, "their texts"),
        PROMPT_TOKENS,
        field("completions_tokens", pa.list_(pa.field("item", TOKENS, False)), "their ids", True),
        field("completions_ended", pa.list_(pa.field("item", pa.bool_(), False)),
               "False: cut by its length, so it gets no end of turn; null: all ended", True),
        field("scores", pa.list_(pa.field("item", pa.float64(), False)), "their scores; higher is better"),
    ])  # fmt: skip


class Labels(Table):
    """One row = one answer, desirable or not."""

    SCHEMA = pa.schema([*PROMPT, TRUTH, *TRAIN, *COMPLETION, *LABEL])


class Logps(Table):
    """One row = one answer of a row of the table it belongs to (a pair has two, a ranking K)."""

    SCHEMA = pa.schema([
        field("prompt_id", pa.string(), "the prompt"),
        field("completion_id", pa.string(), "the answer"),
        field("logps", pa.float64(), "log-probability of the completion, summed over its tokens, nats"),
        field("lengths", pa.int32(), "number of completion tokens in the sum"),
        field("common_logps", pa.float64(), "of a pair's answer: the sum over common_lengths tokens", True),
        field("common_lengths", pa.int32(), "tokens of the shorter answer of the pair", True),
    ])  # fmt: skip


class Report(Table):
    """One row = one measured quantity.

    For figures, `per_prompt.arrow` contains the values by prompt, `bins.arrow` histograms: one row = one bin.
    """

    SCHEMA = pa.schema([
        field("name", pa.string(), "metric name, equal across pipelines: eval/win_rate, eval/gold, eval/kl, …"),
        field("value", pa.float64(), "the estimate", True),
        field("ci_low", pa.float64(), "lower end of the 95% interval over prompts", True),
        field("ci_high", pa.float64(), "upper end", True),
        field("n", pa.int64(), "number of independent units (prompts) behind it"),
        field("unit", pa.string(), "unit: probability, nats, tokens, …"),
    ])  # fmt: skip

    _per_prompt: pa.Table | None = None
    _bins: pa.Table | None = None

    def with_bins(self, rows: Sequence[Mapping[str, Any]]) -> Self:
        """The report with histograms: one mapping for each bin, by the names of `tasks.columns.BINS`."""
        self._bins = pa.Table.from_pylist([dict(row) for row in rows], BINS)
        return self

    @property
    def bins(self) -> pa.Table | None:
        if self._bins is None and self._path is not None and (self.path / "bins.arrow").exists():
            with open_table(self.path / "bins.arrow") as reader:
                self._bins = reader.read_all()
        return self._bins

    def with_per_prompt(self, table: Any) -> Self:
        """The report with a table of one row per prompt (polars or Arrow)."""
        table = table.to_arrow() if hasattr(table, "to_arrow") else table
        self._per_prompt = pa.table(
            [c.cast(pa.string()) if pa.types.is_large_string(c.type) else c for c in table.columns], table.column_names
        )
        return self

    @property
    def per_prompt(self) -> pa.Table | None:
        if self._per_prompt is None and self._path is not None and (self.path / "per_prompt.arrow").exists():
            with open_table(self.path / "per_prompt.arrow") as reader:
                self._per_prompt = reader.read_all()
        return self._per_prompt

    def save(self, directory: Path) -> None:
        super().save(directory)
        if self._per_prompt is not None:
            write_table(directory / "per_prompt.arrow", self._per_prompt.schema, [self._per_prompt])
        if self._bins is not None:
            write_table(directory / "bins.arrow", self._bins.schema, [self._bins])


class Oracle(Comparing, Artifact):
    """A judge of which of two answers is better: a specification in `oracle.json`, opened by calling its choice."""

    execution: Mapping[str, JSON] = MappingProxyType({})
    """Execution parameters of its choice in this run, which are in no specification."""
    _choice: Chosen | None = None

    def with_choice(self, choice: Chosen) -> Self:
        """The same oracle with its choice as the specification."""
        self._choice = choice
        return self

    @property
    def choice(self) -> Chosen:
        if self._choice is None:
            spec = json.loads((self.path / "oracle.json").read_text())
            stored = (spec["folder"], spec["name"], spec["params"], spec["code"], spec["identity"])
            self._choice = Chosen(*stored, self.execution)
        return self._choice

    def open(self, dtype: str = "auto") -> Self:
        """The live oracle of the specification, which answers `compare` and `score`; a model computes in `dtype`."""
        return self if self._path is None else cast(Self, self.choice())

    def save(self, directory: Path) -> None:
        c = self.choice
        spec: dict[str, JSON] = {
            "folder": c.folder, "name": c.name, "params": dict(c.params), "code": c.code, "identity": dict(c.identity),
        }  # fmt: skip
        (directory / "oracle.json").write_text(json.dumps(spec, sort_keys=True, indent=1) + "\n")


class Scorer(Measuring, Oracle):
    """An oracle that can also score single answers; it compares them by Bradley-Terry unless it defines `compare`."""

    scale = 1.0
    """P(a beats b) = σ(scale · (score(a) − score(b)))."""
    _score: Callable[..., Sequence[float | None]] | None = None

    @classmethod
    def scoring(cls, score: Callable[..., Sequence[float | None]], *, scale: float = 1.0, stored_as: str = "") -> Self:
        """A scorer: `score(prompts, completions, truths)` → one score per row, None: no answer.

        stored_as: see `Queried`.
        """
        scorer = cls()
        scorer._score, scorer.scale, scorer.stored_as = score, scale, stored_as
        return scorer

    @classmethod
    def asking(cls, *, score: Callable[..., Sequence[float | None]], scale: float = 1.0) -> Self:  # type: ignore[override]
        """A scorer that looks up and asks by itself: `score(prompts, completions, truths, session)`, else as in
        `scoring`. The session is a `tasks.judging.session.Session`."""
        scorer = cls.scoring(score, scale=scale)
        scorer.asks = True
        return scorer

    def score(
        self, prompts: Sequence[Any], completions: Sequence[str], truths: Sequence[str | None]
    ) -> Sequence[float | None]:
        """One score per row; see `scoring`."""
        if self.attributes:
            return self.weighted_sums(self.measure(prompts, completions, truths))
        if self._score is None:
            raise SpecError("open the scorer first with `open()`")
        return self.query("score", self._score, prompts, completions, truths)


class ComposedScorer(Composed, Scorer):
    """A scorer made of other artifacts. Its subclasses are kinds."""


class ImplicitReward(ComposedScorer):
    """β·log π/π_ref of two policies as a scorer."""

    noun = "an implicit reward"
    opener = ("training", "implicit_scorer")


class PolicyJudge(ComposedScorer):
    """A policy that rates answers by a rubric, as a scorer."""

    noun = "a policy as judge"
    opener = ("judging", "policy_judge")


class Ensemble(ComposedScorer):
    """Several scorers as one, which may know how far they disagree."""

    noun = "an ensemble"
    opener = ("judging", "ensemble_scorer")

    @property
    def files(self) -> Mapping[str, Path]:
        return {"path": self.path}


class Model(Artifact):
    """A Hugging Face directory: config.json, safetensors, tokenizer files, chat template.

    Or an adapter, that is low-rank layers beside the weights of `base`: `adapter.json`, `adapter.safetensors` and, as
    the base has them, the other files of such a directory. A base is never an adapter.
    """

    noun = "an adapter"

    def __init__(self, path: Path | None = None, digest: str = "", base: Model | None = None) -> None:
        super().__init__(path, digest)
        self.base = base

    @property
    def refers_to(self) -> Mapping[str, Sequence[Member]]:
        return {} if self.adapter is None else {"base": [Member(self.base_digest)]}

    def attach(self, members: Mapping[str, Sequence[Artifact]]) -> None:
        for base in members.get("base", ()):
            self.base = cast(Model, base)

    @property
    def adapter(self) -> Mapping[str, Any] | None:
        """The content of `adapter.json`: type, rank, alpha, targets, base; None for a whole model."""
        file = self.path / ADAPTER
        if not file.exists():
            return None
        try:
            return dict(json.loads(file.read_text()))
        except (ValueError, TypeError):
            raise DataError(f"{file} is not a mapping in JSON, so it describes no adapter") from None

    @property
    def base_digest(self) -> str:
        """Of an adapter: the content digest of its base, empty where that was not in a store. Of others: empty."""
        return str((self.adapter or {}).get("base", ""))

    @property
    def whole(self) -> Model:
        """The model that has all weights: this one, or the base of an adapter.

        Raises DataError where the base is missing, is another one than the adapter was made for, or is an adapter.
        """
        if self.adapter is None:
            return self
        digest = self.base_digest
        if self.base is None:
            raise DataError(f"{self.path} is an adapter, and the model {digest[:12]} that it belongs to is not given: "
                            "open it with `base=`")  # fmt: skip
        if digest and self.base.digest and digest != self.base.digest:
            raise DataError(f"{self.path} is an adapter of the model {digest[:12]}, not of {self.base.digest[:12]} "
                            f"({self.base.path})")  # fmt: skip
        if self.base.adapter is not None:
            raise DataError(f"{self.base.path} is itself an adapter, no base of {self.path}: `merge` it first")
        return self.base


class Policy(Model):
    """A causal language model. May also contain `value/`, `checkpoints/<n>/` and `state/`."""


class RewardModel(Model, Scorer):
    """A sequence-classification model that scores answers: by one output, or by several with names."""

    def open(self, dtype: str = "auto") -> Scorer:  # type: ignore[override]
        """The live scorer: `tasks/training/reward_scorer.py`, whose code is in the key of each step that queries it."""
        base = {} if self.adapter is None else {"base": str(self.whole.path)}
        scorer: Scorer = Chosen("training", "reward_scorer", {"path": str(self.path), **base, "dtype": dtype})()
        return scorer


class PreferenceModel(Model, Oracle):
    """A model that reads two answers to a prompt at once and compares them; config.json states how it answers."""

    antisymmetric = False

    def open(self, dtype: str = "auto") -> Oracle:  # type: ignore[override]
        """The live oracle: `tasks/training/preference_oracle.py`, whose code is in the key of each step that queries
        it."""
        base = {} if self.adapter is None else {"base": str(self.whole.path)}
        params = {"path": str(self.path), **base, "dtype": dtype}
        oracle: Oracle = Chosen("training", "preference_oracle", params)()
        return oracle


AnyTable = TypeVar("AnyTable", bound=Table)
"""Type variable over tables: a task `(table: AnyTable) -> AnyTable` keeps the kind."""

AnyModel = TypeVar("AnyModel", Policy, RewardModel)
"""Type variable over models: a task `(policy: AnyModel) -> AnyModel` keeps the kind."""

KINDS: dict[str, type[Artifact]] = {
    k.__name__: k
    for k in (
        Prompts, Demonstrations, Completions, Scores, WinRates, WinProbs, Preferences, Rankings, Labels, Logps, Report,
        Oracle, Scorer, ImplicitReward, PolicyJudge, Ensemble, Policy, RewardModel, PreferenceModel,
    )
}  # fmt: skip
"""Every kind by name."""
