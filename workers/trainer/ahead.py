"""Works ahead of a rank that has no loader processes: a thread decodes and encodes the rows that come next."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, NamedTuple, TypeVar

Made = TypeVar("Made")


class Share(NamedTuple):
    """Which positions are a rank's own: micro-batches are dealt to the ranks in turn."""

    rank: int
    ranks: int
    micro_batch: int

    def after(self, position: int) -> Iterator[int]:
        """The rank's positions after this one, without end."""
        while True:
            position += 1
            if position % self.micro_batch == 0:
                position += (self.ranks - 1) * self.micro_batch
            yield position


class Ahead(Generic[Made]):
    """`make(position)`, by a thread for positions that were announced, and kept until it is fetched."""

    def __init__(self, make: Callable[[int], Made]) -> None:
        self._make = make
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="ahead")
        self._coming: dict[int, Future[Made]] = {}

    def announce(self, position: int) -> None:
        if position not in self._coming:
            self._coming[position] = self._pool.submit(self._make, position)

    def fetch(self, position: int) -> Made:
        """Raises what `make` raises."""
        coming = self._coming.pop(position, None)
        return coming.result() if coming is not None else self._make(position)
