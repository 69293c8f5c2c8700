"""Sampling of a method's opponent, without a second copy of the reference."""

from dataclasses import dataclass

from tasks.contract import SpecError
from tasks.kinds import Policy
from tasks.rollouts.method import Opponent
from tasks.rollouts.networks import Networks
from tasks.rollouts.sampler import OpponentSampler
from tasks.sampling.decoding import DecodingModel, cache_shapes
from tasks.sampling.mixture import MixingEngine, MixtureSampler
from tasks.sampling.requests import Engine, check_mixture
from tasks.training.adapters import adapter_in
from tasks.training.model import is_same


@dataclass(frozen=True)
class TrainersReference:
    """The reference among a trainer's networks."""

    networks: Networks
    policy: Policy
    ref: Policy

    def decoding(self) -> DecodingModel:
        """The trainer's own copy, with the layers that it computes with."""
        network = self.networks.ref
        assert network is not None
        if network.select_layers is not None:
            network.select_layers()
        with self.networks.computing():
            return DecodingModel(network.model, cache_shapes(network.model), computing=self.networks.computing)

    def answer_on(self, engine: Engine) -> None:
        """An adapter beside the policy's base is switched off or replaced; else all weights are."""
        assert self.networks.ref is not None
        if adapter_in(self.networks.policy.model):
            engine.use(self.ref)
        else:
            engine.update(self.networks.ref.model.state_dict().items())

    def restore(self, engine: Engine) -> None:
        engine.update(*self.networks.weights)

    def check(self) -> None:
        """Raise SpecError for a reference whose weights an engine of the policy cannot take."""
        assert self.networks.ref is not None
        if adapter_in(self.networks.policy.model):
            if not is_same(self.ref.whole, self.policy.whole):
                raise SpecError(
                    "the engine answers as the policy's base with an adapter, and `ref` has another base: set "
                    "`engine: transformers`, which can sample from both"
                )
        elif adapter_in(self.networks.ref.model):
            raise SpecError(
                "the engine takes all weights of `ref`, which is an adapter: `merge` it, or set `engine: transformers`"
            )


def opponent_sampler(
    opponent: Opponent | None, engine: Engine, networks: Networks, policy: Policy, ref: Policy | None
) -> OpponentSampler | None:
    """What samples the opponent's answers; None where there is no opponent. Raises SpecError where it cannot."""
    if opponent is None:
        return None
    if ref is None:
        raise SpecError("the opponent is made of policy and reference: feed `ref`")
    reference = TrainersReference(networks, policy, ref)
    if opponent.mixture and not isinstance(engine, MixingEngine):
        check_mixture(type(engine).__name__, opponent.mixture)
        reference.check()
    return OpponentSampler(MixtureSampler(engine, reference, opponent.mixture), opponent.k)
