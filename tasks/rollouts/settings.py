"""Parameters of `ppo`, by what they decide."""

from dataclasses import dataclass
from typing import Annotated, Literal

from tasks.calls import Adapter
from tasks.contract import JSON, Bounds, Choice, Chosen, Seed, SpecError
from tasks.training.settings import GradientComputeConfig, StepConfig


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

    def __post_init__(self) -> None:
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


@dataclass(frozen=True)
class RewardConfig:
    """How scores become advantages."""

    gamma: Annotated[float, Bounds(above=0, max=1)] = 1.0
    """Discount per token."""
    lam: Annotated[float, Bounds(min=0, max=1)] = 0.95
    """GAE's λ: 1 trusts the scores alone, 0 the value network alone."""
    missing_eos_penalty: Annotated[float, Bounds(min=0)] = 1.0
    """Subtracted from the score of an answer that was cut."""


@dataclass(frozen=True)
class UpdateConfig:
    """How an iteration's answers are learnt from."""

    objective: Annotated[Chosen, Choice("losses/rl")] = "clipped"  # type: ignore[assignment]
    """What a step minimises."""
    epochs: Annotated[int, Bounds(min=1)] = 4
    """Passes over an iteration's answers."""
    minibatches: Annotated[int, Bounds(min=1)] = 1
    """Optimizer steps per pass; the answers to a prompt stay together."""
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
class PpoConfig:
    """The parameters of `ppo`."""

    iterations: int
    lr: float
    value_lr: float
    rollout: RolloutConfig
    kl: KlConfig
    reward: RewardConfig
    update: UpdateConfig
    mix: SftConfig
    optim: StepConfig
    adapter: Adapter | None
    compute: GradientComputeConfig
    checkpoints: tuple[int, ...]
    keep_optimizer: bool
    checkpoint_every: int | None
    checkpoint_minutes: float
    seed: int

    def __post_init__(self) -> None:
        if beyond := [c for c in self.checkpoints if not 1 <= c <= self.iterations]:
            raise SpecError(
                f"checkpoints = {list(self.checkpoints)}: {beyond} lie outside the iterations 1 to {self.iterations}"
            )

    def rates(self, iteration: int) -> tuple[float, float]:
        """Learning rates of policy and value network."""
        share = self.optim.lr_at(iteration, self.iterations, 1.0)
        return self.lr * share, self.value_lr * share
