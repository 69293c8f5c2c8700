import pytest

from tasks.kinds import Policy, RewardModel
from tests.models import tiny_policy
from tests.tasks.rollouts.small import value_from


@pytest.fixture(scope="session")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    """A tiny policy whose answers end often, and which no test changes."""
    return tiny_policy(tmp_path_factory.mktemp("policy"), generation={"max_new_tokens": 9}, ending=3.5)


@pytest.fixture(scope="session")
def value(policy: Policy, tmp_path_factory: pytest.TempPathFactory) -> RewardModel:
    return value_from(policy, tmp_path_factory.mktemp("value") / "made")


@pytest.fixture(scope="session")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    """Another policy with the same tokenizer."""
    return tiny_policy(tmp_path_factory.mktemp("teacher"), seed=1, generation={"max_new_tokens": 9}, ending=3.5)
