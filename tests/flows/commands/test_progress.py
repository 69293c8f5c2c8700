"""Times as people read them."""

import pytest

from flows.system.durations import seconds


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.42, "0.4 s"), (12.3, "12 s"), (99.4, "99 s"), (119.6, "2 min 0 s"), (200.0, "3 min 20 s"),
        (3599.9, "60 min 0 s"),
    ],
)  # fmt: skip
def test_a_time_is_rounded_once(value: float, text: str) -> None:
    assert seconds(value) == text
