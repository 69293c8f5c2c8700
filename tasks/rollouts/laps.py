"""Where the time of an iteration goes."""

import time


class Laps:
    """Seconds between consecutive ends, by name, from the creation on."""

    def __init__(self) -> None:
        self._last = time.perf_counter()
        self._seconds: dict[str, float] = {}

    def ended(self, name: str) -> None:
        """Count the time since the last end as that of `name`."""
        now = time.perf_counter()
        self._seconds[name] = self._seconds.get(name, 0.0) + now - self._last
        self._last = now

    @property
    def seconds(self) -> float:
        """All of them."""
        return sum(self._seconds.values())

    @property
    def shares(self) -> dict[str, float]:
        """`time/<name>` of each: its part of all seconds."""
        whole = self.seconds or 1.0
        return {f"time/{name}": seconds / whole for name, seconds in self._seconds.items()}
