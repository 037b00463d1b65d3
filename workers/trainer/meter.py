"""What the steps cost: seconds, of them waiting for data; rows, tokens, padding; memory."""

import time
from typing import Any

import psutil
import torch
import torch.distributed as dist

from workers.trainer.channel import GO_ON
from workers.trainer.packing import rows_in

_FIELDS = ("waited", "rows", "sequences", "tokens", "padded")


class Meter:
    """One rank counts its own; `step` adds all ranks' up."""

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        self._own = dict.fromkeys(_FIELDS, 0.0)
        self._began = self._last = time.monotonic()
        self.group = group
        self.whole = dict.fromkeys((*_FIELDS, "seconds"), 0.0)  #: of all ranks since the start, but `seconds`
        self.data_wait = 0.0  #: share of the last step that the ranks waited for data, their mean

    def start(self, group: dist.ProcessGroup) -> None:
        self.group = group
        self._began = self._last = time.monotonic()

    def met(self, batches: list[dict[str, torch.Tensor]], seconds: float) -> None:
        """Batches that were waited for so long."""
        self._own["waited"] += seconds
        for batch in batches:
            self._own["rows"] += rows_in(batch)
            self._own["sequences"] += len(batch["input_ids"])
            self._own["tokens"] += int(batch["attention_mask"].sum())
            self._own["padded"] += batch["attention_mask"].numel()

    def step(self, decision: int) -> int:
        """At the end of a step, in every rank: add up what all counted; returns rank 0's `decision`."""
        decision = decision if dist.get_rank(self.group) == 0 else GO_ON
        told = torch.tensor([decision, *self._own.values()], dtype=torch.float64)
        dist.all_reduce(told, group=self.group)
        decided, *sums = told.tolist()
        now = time.monotonic()
        seconds, self._last = now - self._last, now
        found = dict(zip(_FIELDS, sums, strict=True))
        self.data_wait = found["waited"] / dist.get_world_size(self.group) / seconds
        for name, value in {**found, "seconds": seconds}.items():
            self.whole[name] += value
        self._own = dict.fromkeys(_FIELDS, 0.0)
        return int(decided)

    def rates(self) -> dict[str, float]:
        """For each step's report: since the start, but `data_wait`."""
        seconds = max(self.whole["seconds"], 1e-9)
        return {
            "samples_per_second": round(self.whole["rows"] / seconds, 2),
            "tokens_per_second": round(self.whole["tokens"] / seconds, 1),
            "memory_bytes": memory(),
            "data_wait": round(self.data_wait, 4),
        }

    def summary(self) -> dict[str, Any]:
        """For the card: this attempt's steps."""
        seconds, world = max(self.whole["seconds"], 1e-9), dist.get_world_size(self.group)
        return {
            "samples_per_second": round(self.whole["rows"] / seconds, 2),
            "tokens_per_second": round(self.whole["tokens"] / seconds, 1),
            "data_wait": round(self.whole["waited"] / world / seconds, 4),
            "rows_per_sequence": round(self.whole["rows"] / max(self.whole["sequences"], 1), 2),
            "padding": round(1 - self.whole["tokens"] / max(self.whole["padded"], 1), 4),
            "memory_bytes": memory(),
        }


def memory() -> int:
    """Bytes: what torch holds of the GPU at most, or what this process holds of the host."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_reserved())
    return int(psutil.Process().memory_info().rss)
