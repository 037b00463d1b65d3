"""What the tests of a teacher ask it about, and a context that stops them."""

from services.sandbox.taught import ROOT, sandbox_teacher, write_scene_rows, write_short_clip
from shared.context import LocalPurse, Purse, Scratch

__all__ = ["ROOT", "LazyContext", "sandbox_teacher", "write_scene_rows", "write_short_clip"]


class LazyContext:
    """A context whose `stopping` turns true after `enough` journal entries."""

    def __init__(self, scratch: Scratch, enough: int | None = None) -> None:
        self.scratch, self._enough = scratch, enough
        self.purse: Purse = LocalPurse()
        self.reports: list[dict[str, float | str]] = []

    @property
    def stopping(self) -> bool:
        return self._enough is not None and sum(1 for _ in self.scratch.keys("journal/")) >= self._enough

    def progress(self, done: float, total: float, unit: str, **facts: float | str) -> None:
        self.reports.append({"done": done, "total": total, **facts})
