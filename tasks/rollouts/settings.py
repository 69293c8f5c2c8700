"""Parameters that methods of reinforcement learning share, as groups, and all of them together for the loop."""

from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

from tasks.calls import Adapter
from tasks.contract import JSON, Bounds, Choice, Chosen, Execution, Seed, SpecError
from tasks.training.settings import GradientComputeConfig, StepConfig


class Correction(NamedTuple):
    """How the difference between engine and trainer is corrected (`tasks/rollouts/mismatch.py`)."""

    kind: Literal["none", "truncate", "mask"] = "none"
    level: Literal["token", "sequence"] = "token"
    smallest: float = 0.5
    """Ratio below which `mask` leaves a token or an answer out; `truncate` has no lower bound."""
    largest: float = 2.0
    """Ratio above which `mask` leaves it out, and to which `truncate` lowers it."""


@dataclass(frozen=True)
class RolloutConfig:
    """Which answers an iteration learns from."""

    prompts_per_iteration: Annotated[int, Bounds(min=1)] = 64
    """How many, in a seeded order through the table, again and again."""
    k: Annotated[int, Bounds(min=1)] = 4
    """Answers per prompt."""
    temperature: Annotated[float, Bounds(min=0.01)] = 1.0
    """Of the answers, and of every log-probability that is compared with them."""
    max_tokens: Annotated[int, Bounds(min=1)] | None = None
    """Longest answer; default: generation_config.json's max_new_tokens, else what the positions leave."""
    stream: Seed = 0
    """Another stream of noise for the same prompts; in rounds, `$round`, or a round that is tried again after a gate
    refused it would draw the very answers of the refused one."""
    engine: Annotated[Chosen, Choice("engines")] = "auto"  # type: ignore[assignment]
    """What generates; `auto`: vllm on a machine with a GPU, else transformers."""
    max_mismatch: Execution[Annotated[float, Bounds(above=0)] | None] = None
    """Nats per token by which log-probabilities of engine and trainer may differ in the mean; null: 0.05 in the first
    iteration, and later three times what it had then."""
    stale: Annotated[int, Bounds(min=0, max=1)] = 0
    """1: the answers of an iteration are sampled and scored while the one before is learnt from, by the policy that
    that one started from; the ratio of an update is one to that policy or, with a `correction`, to the newest, and each
    loss has the ratio between the two as its weight (Hilton et al., arXiv 2110.00641). 0: all answers are the newest
    policy's."""
    correction: Literal["none", "truncate", "mask"] = "none"
    """What is done about that difference: nothing; each token's loss is weighted by the ratio of trainer to engine, at
    most `ratio_cap`; or besides, tokens whose ratio is below `ratio_floor` or above `ratio_cap` are left out."""
    correction_level: Literal["token", "sequence"] = "token"
    """Whether that ratio is the token's own, or the product over its answer."""
    ratio_floor: Annotated[float, Bounds(min=0, max=1)] = 0.5
    """Smallest ratio that `mask` lets pass."""
    ratio_cap: Annotated[float, Bounds(min=1)] = 2.0
    """Largest ratio that counts."""

    @property
    def mismatch(self) -> Correction:
        """How the difference between engine and trainer is corrected."""
        return Correction(self.correction, self.correction_level, self.ratio_floor, self.ratio_cap)

    def __post_init__(self) -> None:
        if (self.correction != "none" or self.stale) and self.temperature != 1:
            name = f"stale = {self.stale}" if self.stale else f"correction = {self.correction}"
            raise SpecError(
                f"{name} needs temperature 1, not {self.temperature:g}: it takes the log-probabilities that engines "
                "record of their tokens for those of the policy that sampled, and they record them at temperature 1"
            )
        if self.prompts_per_iteration * self.k == 1:
            raise SpecError(
                "prompts_per_iteration 1 and k 1 give one answer per iteration, and its advantage means nothing "
                "without another"
            )


@dataclass(frozen=True)
class KlConfig:
    """The price of a nat away from the reference."""

    kl_coef: Annotated[float, Bounds(min=0)] = 0.05
    """Price of a nat, in units of the score; where a controller moves it, its start."""
    kl_controller: Annotated[Chosen, Choice("kl_controllers")] = "fixed"  # type: ignore[assignment]
    """How the price changes after each iteration."""
    max_kl: Execution[Annotated[float, Bounds(above=0)] | None] = 3.0
    """Nats per token away from the reference at which the training stops as broken, answers counting as ten tokens at
    least; null: never. At 3 a token is e³ = 20 times as likely as under the reference, in the (geometric) mean."""

    @property
    def moves(self) -> bool:
        return self.kl_controller.name != "fixed"

    @property
    def spec(self) -> dict[str, JSON]:
        """What a later round must have in common with this one to continue with its last price."""
        return {
            "controller": self.kl_controller.name, "with": dict(self.kl_controller.params), "start": self.kl_coef,
        }  # fmt: skip

    def after(self, coefficient: float, kl: float, samples: int) -> float:
        """The price after an iteration that cost `kl` nats per answer."""
        return float(self.kl_controller(coefficient, kl, samples))

    def check(self, samples: int) -> None:
        """Raise SpecError for a price of 0 that no iteration could move."""
        if self.kl_coef == 0 and self.moves and self.after(0.0, 1e6, samples) == 0:
            raise SpecError(
                f"kl_coef = 0 stays 0 under `{self.kl_controller.name}`, which multiplies it: start above 0, or say "
                "`kl_controller: fixed` if nats are to be free"
            )


KL_FORMS: dict[str, tuple[Literal["k2", "k3"], Literal["token", "sequence"]]] = {
    "token_k2": ("k2", "token"), "sequence_k2": ("k2", "sequence"),
    "token_k3": ("k3", "token"), "sequence_k3": ("k3", "sequence"),
}  # fmt: skip


@dataclass(frozen=True)
class GroupKlConfig(KlConfig):
    """The price of a nat away from the reference, and where it is paid."""

    kl_form: Literal["reward", "token_k2", "sequence_k2", "token_k3", "sequence_k3"] = "reward"
    """`reward`: the answer's log-ratio (k1), subtracted from its score, whose optimum is π_ref·exp(r/β)/Z; the others
    add an estimate to the loss, of each token or of the whole answer, and each has an optimum of its own: a table in
    `tasks/advantages/kl.py`. GRPO's paper has `token_k3`."""

    @property
    def estimator(self) -> tuple[Literal["k2", "k3"], Literal["token", "sequence"]] | None:
        """What is added to the loss, and of what; None: nothing."""
        return KL_FORMS.get(self.kl_form)


@dataclass(frozen=True)
class FreeKl(KlConfig):
    """For a method without a price of its own: its loss keeps the policy near the reference, or leads to it."""

    kl_coef: float = 0.0

    @property
    def moves(self) -> bool:
        return False

    @property
    def spec(self) -> dict[str, JSON]:
        return {"controller": "none", "with": {}, "start": 0.0}

    def after(self, coefficient: float, kl: float, samples: int) -> float:
        return 0.0


@dataclass(frozen=True)
class ScoreConfig:
    """What the oracle's scores become before anything is made of them."""

    missing_eos_penalty: Annotated[float, Bounds(min=0)] = 1.0
    """Subtracted from the score of an answer that was cut."""
    best_of: Annotated[int, Bounds(min=1)] = 1
    """Of each so many answers that are sampled and scored, the one with the highest score alone is learnt from: `k`
    times so many samples and queries per prompt. More than 1 no longer raises the mean score: to the mean gradient an
    answer contributes n·F^(n − 1) times, F the share of the policy's answers that score below it, so that the best
    count and what is rarely good is sought. The optimum is not π_ref·exp(score/kl_coef) any more, the price of a nat is
    paid on the best answers alone, and `objective/kl` is their mean log-ratio, no estimate of KL(π ‖ π_ref)."""


@dataclass(frozen=True)
class GroupConfig(ScoreConfig):
    """What the scores of the answers to a prompt become, and which answers train."""

    overlong_cache: Annotated[int, Bounds(min=1)] | None = None
    """Over the last so many tokens before `max_tokens`, an answer loses up to 1 of its score in proportion (DAPO's soft
    penalty); null: nothing."""
    mask_cut: bool = False
    """Whether answers that were cut train nothing; they stay part of the others' baseline."""
    draw_again: Annotated[int, Bounds(min=0)] = 0
    """How often an iteration replaces prompts whose answers all have one score by other prompts (DAPO's dynamic
    sampling); a group without variance shows no answer to be better."""


@dataclass(frozen=True)
class RewardConfig(ScoreConfig):
    """How scores become advantages by a value network."""

    gamma: Annotated[float, Bounds(above=0, max=1)] = 1.0
    """Discount per token."""
    lam: Annotated[float, Bounds(min=0, max=1)] = 0.95
    """GAE's λ: 1 trusts the scores alone, 0 the value network alone."""


@dataclass(frozen=True)
class PassConfig:
    """How often an iteration's answers are learnt from."""

    epochs: Annotated[int, Bounds(min=1)] = 1
    """Passes over an iteration's answers."""
    minibatches: Annotated[int, Bounds(min=1)] = 1
    """Optimizer steps per pass; the answers to a prompt stay together."""


@dataclass(frozen=True)
class UpdateConfig(PassConfig):
    """How policy and value network learn from an iteration's answers."""

    objective: Annotated[Chosen, Choice("losses/rl")] = "clipped"  # type: ignore[assignment]
    """What a step minimises."""
    value_clip: Annotated[float, Bounds(above=0)] = 0.2
    """How far a value may move in one iteration before its gradient ends, in units of the score."""


@dataclass(frozen=True)
class SftConfig:
    """Demonstrations in every step's loss."""

    sft: Annotated[float, Bounds(min=0)] = 0.0
    """Coefficient of the demonstrations' mean negative log-likelihood."""
    sft_batch: Annotated[int, Bounds(min=1)] = 32
    """Demonstrations per step."""
    sft_average: Literal["token", "sequence"] = "token"
    """Mean over their tokens, or over whole answers."""


@dataclass(frozen=True)
class KeepConfig:
    """What of a training is kept: for resuming it, for a next round, and for whoever looks at it."""

    checkpoints: list[int] | None = None
    """Iterations after which the whole policy is kept in `checkpoints/<n>/`; null: none."""
    keep_optimizer: bool = True
    """The optimizer's state in `state/`: AdamW's is twice the size of what learns. That of adamw_8bit is never kept."""
    checkpoint_every: Execution[Annotated[int, Bounds(min=1)] | None] = None
    """Iterations between two checkpoints; null: 10 where a checkpoint is below 1 GiB, else time alone decides."""
    checkpoint_minutes: Execution[Annotated[float, Bounds(above=0)]] = 15.0
    """Longest time between two checkpoints."""


@dataclass(frozen=True)
class LoopConfig:
    """What the loop has to know, whatever the method."""

    iterations: int
    lr: tuple[float, ...]
    """Peak learning rate of the policy, and of the value network if there is one."""
    rollout: RolloutConfig
    kl: KlConfig
    passes: PassConfig
    mix: SftConfig
    optim: StepConfig
    adapter: Adapter | None
    compute: GradientComputeConfig
    keep: KeepConfig
    seed: int

    def __post_init__(self) -> None:
        if beyond := [c for c in self.checkpoints if not 1 <= c <= self.iterations]:
            raise SpecError(
                f"checkpoints = {list(self.checkpoints)}: {beyond} lie outside the iterations 1 to {self.iterations}"
            )

    @property
    def checkpoints(self) -> tuple[int, ...]:
        """Iterations after which the policy is kept."""
        return tuple(self.keep.checkpoints or ())

    def rates(self, iteration: int) -> tuple[float, ...]:
        """Learning rates of policy and value network."""
        share = self.optim.lr_at(iteration, self.iterations, 1.0)
        return tuple(lr * share for lr in self.lr)
