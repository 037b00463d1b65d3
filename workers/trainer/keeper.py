"""Takes finished checkpoints to scratch in a thread of its own, while the ranks train on."""

import logging
import queue
import shutil
import threading
import time
from pathlib import Path
from typing import NamedTuple

from shared.context import Scratch
from shared.errors import RoadQAError
from workers.trainer import best, checkpoints
from workers.trainer.channel import BUSY_FILE
from workers.trainer.checkpoints import Cut

log = logging.getLogger(__name__)

_MARGIN = 0.9  # of the grace period: the rest is for ending the processes


class Best(NamedTuple):
    """The best weights so far, on disk, where they stay."""

    folder: Path
    step: int


class Waiting(NamedTuple):
    """A checkpoint on disk."""

    folder: Path
    step: int
    write_seconds: float  #: what the ranks took to write it


class Keeper:
    """One upload at a time, in the order of `take`; while one goes on the ranks write no other checkpoint.

    So a disk holds two at most. A failed upload of a checkpoint is told and leaves those before it: the training goes
    on. Best weights that are not kept end it (`failure`), since later checkpoints go with them.
    """

    def __init__(self, scratch: Scratch, work: Path, cut: Cut, node: int = 0) -> None:
        self._scratch, self._busy, self._cut, self._node = scratch, work / BUSY_FILE, cut, node
        self._queue: queue.Queue[Waiting | Best | None] = queue.Queue()
        self._uploading_since: float | None = None
        self.failure: Exception | None = None
        self.kept: int | None = None  #: step of the newest checkpoint in scratch, by this keeper
        self.size = 0  #: bytes of a checkpoint: reckoned at first, then as found
        self.rate: float | None = None  #: bytes a second, of the last upload
        self.write_seconds = 0.0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def take(self, waiting: Waiting | Best) -> None:
        """Upload what the ranks have written; a checkpoint is then removed from disk."""
        self._busy.touch()
        self._queue.put(waiting)

    def _run(self) -> None:
        while (waiting := self._queue.get()) is not None:
            if self.failure is None:
                self._keep(waiting)
            if self._queue.empty():
                self._busy.unlink(missing_ok=True)

    def _keep(self, waiting: Waiting | Best) -> None:
        try:
            if isinstance(waiting, Best):
                best.keep(self._scratch, waiting.folder, waiting.step, self._cut)
            else:
                self._keep_checkpoint(waiting)
        except Exception as error:  # noqa: BLE001 - told by `failure` where it matters; a thread's own would be lost
            if isinstance(waiting, Best) or not isinstance(error, RoadQAError):
                self.failure = error
            else:
                log.warning("the checkpoint of step %d is not kept: %s", waiting.step, error)

    def _keep_checkpoint(self, waiting: Waiting) -> None:
        self._uploading_since = began = time.monotonic()
        self.write_seconds = waiting.write_seconds
        self.size = sum(path.stat().st_size for path in waiting.folder.rglob("*") if path.is_file())
        try:
            checkpoints.keep(self._scratch, waiting.folder, waiting.step, self._cut, self._node)
        finally:
            shutil.rmtree(waiting.folder, ignore_errors=True)
            self._uploading_since = None
        self.rate = self.size / max(time.monotonic() - began, 1e-6)
        self.kept = waiting.step
        best.drop_spare(self._scratch, self._cut, checkpoints.kept_steps(self._scratch, self._cut))
        log.info("checkpoint of step %d kept: %s", waiting.step, self.cost())

    def seconds(self) -> float | None:
        """What a last checkpoint would take from the end of a step on; None before one was measured."""
        if self.rate is None:
            return None
        upload = self.size / self.rate
        rest = 0.0
        if (since := self._uploading_since) is not None:
            rest = max(0.0, upload - (time.monotonic() - since))
        return self.write_seconds + rest + upload

    def cost(self) -> str:
        """What a stop would cost, in words."""
        seconds = self.seconds()
        size = f"{self.size / 1e9:.3g} GB" if self.size >= 1e8 else f"{self.size / 1e6:.3g} MB"
        if seconds is None:
            return f"{size}, upload not measured yet"
        return f"{size}, {seconds:.1f} s" if seconds < 10 else f"{size}, {seconds:.0f} s"

    def fits(self, step_seconds: float, grace_seconds: float) -> bool:
        """Whether a last checkpoint can be committed within the grace period; where none stands it is tried anyhow."""
        seconds = self.seconds()
        return seconds is None or step_seconds + seconds <= _MARGIN * grace_seconds

    def close(self, timeout: float | None = None) -> bool:
        """Wait for what is being uploaded; False where that took too long."""
        self._queue.put(None)
        self._thread.join(timeout)
        return not self._thread.is_alive()
