"""A rare answer that is worth much, and PPO and RLOO written by hand to learn it: what loses it, and what does not.

In the world of letters with the rewards drawn by seed 3, the answer "b c" to the first prompt has 0.7% under the
reference and 32% under the optimum π_ref·exp(r/β). A training that drives it below what its samples find has lost it
for good: an answer that is never drawn has no gradient.

The trainings here know all answers and share nothing with `tasks/` but the reference's weights. Policies of four kinds
differ in what one answer's update does to another: a table has logits of its own for every context, the network shares
all its weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from tasks.kinds import Policy
from tests.enumerable import Matrix, kl, normalised
from tests.flat import ppo
from tests.tasks.rollouts.letters import (
    ANSWERS,
    PROMPTS,
    TEXTS,
    WORDS,
    letters_distribution,
    letters_oracle,
    letters_policy,
    letters_prompts,
    letters_value,
)
from tests.tasks.rollouts.small import CLIPPED, FIXED, TRANSFORMERS
from tests.workspace import Workspace

BETA = 0.5
RARE = (0, TEXTS.index("b c"))
"""Prompt and answer."""
GAIN = 20.0
"""Logits of a table move so many times as fast as a weight of the network: AdamW's steps are of one size for all."""
LETTERS = (1, 2, 3)
CONTEXTS = [(), *((a,) for a in LETTERS), *((a, b) for a in LETTERS for b in LETTERS)]
"""The beginnings of answers behind which a token is drawn."""


class RareWorld(NamedTuple):
    ref: Policy
    log_ref: Matrix
    """`(prompts, answers)`."""
    rewards: Matrix
    target: Matrix


def rare_world(folder: Path) -> RareWorld:
    ref = letters_policy(folder / "ref")
    log_ref = letters_distribution(ref, folder)
    rewards = np.random.default_rng(3).normal(size=log_ref.shape)
    return RareWorld(ref, log_ref, rewards, normalised(log_ref + rewards / BETA))


class Course(NamedTuple):
    """What a training did with the rare answer."""

    probabilities: list[float]
    """Of the rare answer, before each iteration and behind the last."""
    drawn: list[int]
    """How often each iteration drew it."""
    missed: float
    """KL(trained ‖ optimum), nats."""

    def lost(self, world: RareWorld) -> bool:
        """Whether it ends below a tenth of its probability under the optimum."""
        return self.probabilities[-1] < float(np.exp(world.target[RARE])) / 10


@dataclass(frozen=True)
class Settings:
    """Of a training by hand. The defaults are those of the real `ppo` in `test_ppo_closed_form.py`, with 16 samples."""

    method: Literal["ppo", "rloo"] = "ppo"
    policy: Literal["table", "network", "network per prompt", "network and table"] = "network"
    critic: bool = True
    """Whether values are learnt; else they are 0."""
    k: int = 16
    iterations: int = 200
    lr: float = 1e-3
    epochs: int = 2
    minibatches: int = 2
    clip: float = 0.2
    """Bound of the ratio; infinite: none."""
    whiten: bool = True
    lam: float = 0.95


class Table(nn.Module):
    """Outputs of every context, each a parameter of its own: `(runs, prompts, contexts, outputs)`."""

    def __init__(self, start: Tensor, gain: float = 1.0) -> None:
        """gain: factor of all outputs behind the start, so that a network's learning rate moves a table too."""
        super().__init__()
        self._start, self._gain = start.clone(), gain
        self.moved = nn.Parameter(torch.zeros_like(start))

    def forward(self) -> Tensor:
        return self._start + self._gain * self.moved


class Network(nn.Module):
    """A Llama for each run, side by side: its outputs at every context, `(runs, prompts, contexts, outputs)`.

    The contexts of a prompt are read as one row, in which each sees the prompt and its own beginning alone.
    """

    def __init__(self, policy: Policy, runs: int, prompts: range, *, values: bool = False) -> None:
        from transformers import AutoModelForCausalLM

        super().__init__()
        model = AutoModelForCausalLM.from_pretrained(policy.path, dtype=torch.float32, attn_implementation="eager")
        if values:
            model.lm_head = nn.Linear(model.config.hidden_size, 1, bias=False)
            nn.init.zeros_(model.lm_head.weight)
        weights = {name: p.detach() for name, p in model.named_parameters()}
        self.names = list(weights)
        self.stacked = nn.ParameterList(nn.Parameter(w.expand(runs, *w.shape).clone()) for w in weights.values())
        self._model = [model.requires_grad_(False)]  # in a list: its own weights are no parameters of this module
        asked = [[WORDS.index(word) for word in PROMPTS[x].split()] for x in prompts]
        self._rows = torch.tensor([[*prompt, *(context[-1] for context in CONTEXTS[1:])] for prompt in asked])
        beginnings = [None, *CONTEXTS]
        seen = [[_sees(b, a) for a in beginnings] for b in beginnings]
        self._mask = torch.where(torch.tensor(seen), 0.0, -torch.inf)[None, None]
        self._positions = torch.tensor([[0, *(1 + len(context) for context in CONTEXTS)]])

    def forward(self) -> Tensor:
        def outputs(weights: dict[str, Tensor]) -> Tensor:
            given = {"attention_mask": self._mask, "position_ids": self._positions, "use_cache": False}
            return torch.func.functional_call(self._model[0], weights, (self._rows,), given).logits[:, 1:]

        return torch.vmap(outputs)(dict(zip(self.names, self.stacked, strict=True)))


def _sees(context: tuple[int, ...] | None, other: tuple[int, ...] | None) -> bool:
    """Whether `other` is a beginning of `context`; None is the prompt's first token, () its second."""
    return other is None or (context is not None and context[: len(other)] == other)


class Several(nn.Module):
    """Outputs of several modules as one: one module for each prompt, or all added up."""

    def __init__(self, parts: Sequence[nn.Module], *, add: bool = False) -> None:
        super().__init__()
        self.parts, self.add = nn.ModuleList(parts), add

    def forward(self) -> Tensor:
        outputs = [part() for part in self.parts]
        return torch.stack(outputs).sum(0) if self.add else torch.cat(outputs, 1)


def _policy_of(settings: Settings, world: RareWorld, runs: int) -> nn.Module:
    everyone = range(len(PROMPTS))
    if settings.policy == "network per prompt":
        return Several([Network(world.ref, runs, range(x, x + 1)) for x in everyone])
    network = Network(world.ref, runs, everyone)
    if settings.policy == "network":
        return network
    start = network().detach()
    if settings.policy == "table":
        return Table(start, GAIN)
    return Several([network, Table(torch.zeros_like(start), GAIN)], add=True)


def _critic_of(settings: Settings, world: RareWorld, runs: int) -> nn.Module | None:
    if not settings.critic:
        return None
    if settings.policy == "table":
        return Table(torch.zeros(runs, len(PROMPTS), len(CONTEXTS), 1), GAIN)
    return Network(world.ref, runs, range(len(PROMPTS)), values=True)


_LENGTHS = torch.tensor([len(answer) for answer in ANSWERS])
_MASK = torch.arange(3) < _LENGTHS[:, None]
_TOKENS = torch.tensor([[*answer, 0, 0][:3] for answer in ANSWERS])
_STATES = torch.tensor([[CONTEXTS.index(answer[:t]) if t < len(answer) else 0 for t in range(3)] for answer in ANSWERS])


def token_logps(logits: Tensor) -> Tensor:
    """Of every answer's tokens, `(runs, prompts, answers, 3)`, 0 behind their ends."""
    return logits.log_softmax(-1)[..., _STATES, _TOKENS] * _MASK


def token_values(critic: nn.Module | None, like: Tensor) -> Tensor:
    """Of the context before every answer's tokens, in the shape of `like`; 0 without a critic."""
    return torch.zeros_like(like) if critic is None else critic()[..., _STATES, 0] * _MASK


class Batch(NamedTuple):
    """An iteration's draws `(runs, prompts, k, 3)` per token, the answer's number aside."""

    answer: Tensor
    """`(runs, prompts, k, 1)`."""
    mask: Tensor
    old: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor


def train_by_hand(world: RareWorld, settings: Settings, runs: int, seed: int = 0) -> list[Course]:
    """Train `runs` times from the reference, side by side. AdamW as in `ppo`; its rate falls linearly to 0."""
    torch.manual_seed(seed)
    policy, critic = _policy_of(settings, world, runs), _critic_of(settings, world, runs)
    learners = [learner for learner in (policy, critic) if learner is not None]
    learned = [p for learner in learners for p in learner.parameters()]
    optimizer = torch.optim.AdamW(learned, eps=1e-5, weight_decay=0.0, fused=True)
    log_ref, scores = token_logps(policy().detach()), torch.from_numpy(world.rewards).float()
    probabilities, drawn = [], []
    for iteration in range(settings.iterations):
        for group in optimizer.param_groups:
            group["lr"] = settings.lr * (1 - iteration / settings.iterations)
        with torch.no_grad():
            old = token_logps(policy())
            values = token_values(critic, old)
        likely = old.sum(-1).exp()
        probabilities.append(likely[:, *RARE])
        answer = torch.multinomial(likely.flatten(0, 1), settings.k, replacement=True)
        answer = answer.reshape(runs, len(PROMPTS), settings.k, 1)
        drawn.append((answer[:, RARE[0], :, 0] == RARE[1]).sum(1))
        batch = _credited(answer, old, old - log_ref, values, scores.expand(runs, -1, -1), settings)
        for part in _minibatches(settings):
            _update(policy, critic, optimizer, batch, part, settings)
    with torch.no_grad():
        logps = token_logps(policy()).double().sum(-1)
    probabilities.append(logps[:, *RARE].exp())
    rows = zip(torch.stack(probabilities, 1).tolist(), torch.stack(drawn, 1).tolist(), logps.numpy(), strict=True)
    return [Course(p, d, kl(trained, world.target)) for p, d, trained in rows]


def _minibatches(settings: Settings) -> list[Tensor]:
    """Prompts of each update, the same for all runs."""
    if settings.method == "rloo":
        return [torch.arange(len(PROMPTS))]
    shuffles = [torch.randperm(len(PROMPTS)) for _ in range(settings.epochs)]
    return [part for order in shuffles for part in order.chunk(settings.minibatches)]


def _credited(
    answer: Tensor, old: Tensor, log_ratios: Tensor, values: Tensor, scores: Tensor, settings: Settings
) -> Batch:
    """GAE with the price of nats at every token, or the whole answer's reward against the other answers' mean."""
    old, log_ratios, values = (x.gather(2, answer.expand(-1, -1, -1, 3)) for x in (old, log_ratios, values))
    score, mask = scores.gather(2, answer[..., 0]), _MASK[answer[..., 0]]
    if settings.method == "rloo":
        rewards = score - BETA * log_ratios.sum(-1)
        others = (rewards.sum(-1, keepdim=True) - rewards) / (settings.k - 1)
        return Batch(answer, mask, old, values, (rewards - others)[..., None] * mask, values)
    last = torch.arange(3) == _LENGTHS[answer] - 1
    rewards = -BETA * log_ratios + score[..., None] * last
    advantages, later, after = torch.zeros_like(rewards), torch.zeros_like(score), torch.zeros_like(score)
    for t in (2, 1, 0):
        later = (rewards[..., t] + after - values[..., t] + settings.lam * later) * mask[..., t]
        advantages[..., t], after = later, values[..., t]
    returns = advantages + values
    if settings.whiten:
        number = mask.sum((1, 2, 3), keepdim=True)
        centred = (advantages - advantages.sum((1, 2, 3), keepdim=True) / number) * mask
        advantages = centred / torch.sqrt((centred**2).sum((1, 2, 3), keepdim=True) / (number - 1) + 1e-8)
    return Batch(answer, mask, old, values, advantages, returns)


def _update(
    policy: nn.Module, critic: nn.Module | None, optimizer: Any, batch: Batch, part: Tensor, settings: Settings
) -> None:
    """One step of both networks on some of the prompts. Losses of runs are added up: no run's gradient is another's."""
    batch = Batch(*(x[:, part] for x in batch))
    tokens = batch.mask.sum((1, 2, 3))
    where = batch.answer.expand(-1, -1, -1, 3)
    logps = token_logps(policy())[:, part].gather(2, where)
    if settings.method == "rloo":  # REINFORCE: the mean over answers of A·log π(answer)
        (-(batch.advantages * logps).sum() / (len(part) * settings.k)).backward()
    else:
        ratio = torch.exp(logps - batch.old)
        near = ratio.clamp(1 - settings.clip, 1 + settings.clip)
        gains = torch.minimum(batch.advantages * ratio, batch.advantages * near) * batch.mask
        (-gains.sum((1, 2, 3)) / tokens).sum().backward()
    _clip_gradients(policy)
    if critic is not None:
        values = token_values(critic, batch.old)[:, part].gather(2, where)
        near = batch.values + (values - batch.values).clamp(-0.2, 0.2)
        errors = torch.maximum((values - batch.returns) ** 2, (near - batch.returns) ** 2) * batch.mask
        (0.5 * errors.sum((1, 2, 3)) / tokens).sum().backward()
        _clip_gradients(critic)
    optimizer.step()
    optimizer.zero_grad()


def _clip_gradients(module: nn.Module) -> None:
    """Scale each run's gradients down to a norm of 1."""
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    norms = torch.stack([g.flatten(1).norm(dim=1) for g in gradients]).norm(dim=0)
    for gradient in gradients:
        gradient *= (1 / (norms + 1e-6)).clamp(max=1.0).reshape(-1, *[1] * (gradient.dim() - 1))


def train_by_task(world: RareWorld, settings: Settings, runs: int) -> list[Course]:
    """The real `ppo`, one run after the other; it shows the end alone."""
    folder = Path(mkdtemp(dir=world.ref.path.parent))  # of its own: a training continues what its folder has
    value = letters_value(world.ref, folder / "value")
    courses = []
    for seed in range(runs):
        trained = ppo(
            world.ref, world.ref, letters_prompts(), letters_oracle(world.rewards), Workspace(folder / f"run{seed}"),
            value, iterations=settings.iterations, prompts_per_iteration=len(PROMPTS), k=settings.k, lr=settings.lr,
            kl_coef=BETA, objective=CLIPPED, kl_controller=FIXED, engine=TRANSFORMERS, epochs=settings.epochs,
            minibatches=settings.minibatches, missing_eos_penalty=0.0, max_tokens=3, checkpoint_every=10**6, seed=seed,
        )  # fmt: skip
        logps = letters_distribution(trained, folder / f"run{seed}")
        courses.append(Course([float(np.exp(logps[RARE]))], [], kl(logps, world.target)))
    return courses
