"""How a global batch is spread over processes."""

from typing import NamedTuple

from shared.errors import UsageError

GPU_MICRO_BATCH = 2  #: rows at once on one GPU, where ROADQA_TRAINER_MICRO_BATCH does not say: the reference recipe's


class Spread(NamedTuple):
    """processes · micro_batch · accumulation = global_batch."""

    processes: int
    micro_batch: int
    accumulation: int


def spread(global_batch: int, processes: int, micro_batch: int, nodes: int = 1) -> Spread:
    """At most `processes` on each node and at most `micro_batch` rows at once, both divisors of what they divide.

    Raises:
        UsageError: the batch cannot be dealt to so many nodes.
    """
    if global_batch % nodes:
        raise UsageError(f"global_batch {global_batch} cannot be dealt to {nodes} nodes; make it a multiple of {nodes}")
    used = nodes * _largest_divisor(global_batch // nodes, processes)
    micro = _largest_divisor(global_batch // used, micro_batch)
    return Spread(used, micro, global_batch // used // micro)


def halved(global_batch: int, before: Spread) -> Spread:
    """At most half as many rows at once, on the same processes."""
    micro = _largest_divisor(global_batch // before.processes, before.micro_batch // 2)
    return Spread(before.processes, micro, global_batch // before.processes // micro)


def _largest_divisor(number: int, limit: int) -> int:
    return next(d for d in range(min(number, limit), 0, -1) if number % d == 0)
