import pytest

from tasks.kinds import Policy
from tests.models import tiny_policy


@pytest.fixture(scope="session")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    """A tiny policy that no test changes."""
    return tiny_policy(tmp_path_factory.mktemp("policy"), generation={"max_new_tokens": 9})
