"""How tests await what other processes do: by looking, never by sleeping for a guessed time."""

import time
from collections.abc import Callable


def wait_for(condition: Callable[[], object], what: str = "it", seconds: float = 10.0, every: float = 0.02) -> None:
    """Look again `every` so many seconds until `condition` holds.

    Raises:
        AssertionError: it did not within `seconds`.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds:g} s in vain for {what}"
        time.sleep(every)
