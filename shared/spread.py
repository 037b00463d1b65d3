"""How a global batch is spread over processes."""

from typing import NamedTuple

GPU_MICRO_BATCH = 2  #: rows at once on one GPU, where ROADQA_TRAINER_MICRO_BATCH does not say: the reference recipe's


class Spread(NamedTuple):
    """processes · micro_batch · accumulation = global_batch."""

    processes: int
    micro_batch: int
    accumulation: int


def spread(global_batch: int, processes: int, micro_batch: int) -> Spread:
    """At most `processes` and at most `micro_batch` rows at once, both divisors of what they divide."""
    used = _largest_divisor(global_batch, processes)
    micro = _largest_divisor(global_batch // used, micro_batch)
    return Spread(used, micro, global_batch // used // micro)


def _largest_divisor(number: int, limit: int) -> int:
    return next(d for d in range(min(number, limit), 0, -1) if number % d == 0)
