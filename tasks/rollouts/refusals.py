"""What a training by rollouts refuses before anything is read."""

from tasks.contract import Chosen, SpecError
from tasks.ranks import join
from tasks.rollouts.method import Method
from tasks.rollouts.settings import RolloutConfig


def check_off_policy(method: Method, rollout: RolloutConfig) -> None:
    """Refuse what a method cannot do about answers of another policy than the one that learns. Raises SpecError."""
    if method.couples and (rollout.stale or rollout.correction != "none"):
        raise SpecError(
            f"`{method.name}` learns from pairs of answers, whose losses have no weight per token: leave out `stale` "
            "and `correction`; the curves sampler/* show the difference between engine and trainer"
        )
    if rollout.stale and rollout.correction == "none" and (method.clip is None or method.reads_divergences):
        raise SpecError(
            f"the loss of `{method.name}` has no ratio to the policy that sampled, so stale = {rollout.stale} needs a "
            "`correction`, which weights it: `truncate` or `mask`"
        )
    if rollout.stale and join().world > 1:
        raise SpecError(
            f"stale = {rollout.stale} is for a process alone: several ranks would exchange answers in a thread beside "
            "the exchange of gradients. Leave out `stale`, or train with one rank"
        )


def check_ranks(engine: Chosen) -> None:
    """Refuse an engine that several ranks cannot have. Raises SpecError."""
    if join().world > 1 and engine.name == "vllm":
        raise SpecError(
            "rollouts on several ranks sample with `engine: transformers`: vLLM, in the process of a rank, would take "
            "its process group for its own"
        )
