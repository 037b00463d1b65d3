"""A verb's progress on stderr, for benchmarks that call one by hand."""

import sys
import time
from pathlib import Path

from services.cli import words
from shared.context import LocalContext

TELL_S = 5.0  #: between two lines of progress


class Telling(LocalContext):
    """Tells its progress, with rate and time left."""

    def __init__(self, scratch: Path, what: str) -> None:
        super().__init__(scratch)
        self._what, self._began, self._told = what, time.monotonic(), time.monotonic()

    def progress(self, done: float, total: float, unit: str, **facts: float | str) -> None:
        now = time.monotonic()
        if done and (now - self._told >= TELL_S or done == total):
            rate = done / (now - self._began)
            left = words.duration(round((total - done) / rate))
            sys.stderr.write(f"{self._what}: {done:.0f} of {total:.0f} {unit}, {rate:.1f}/s, {left} left\n")
            self._told = now
