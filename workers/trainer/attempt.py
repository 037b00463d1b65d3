"""One attempt at a training, seen from the verb: what the ranks tell is passed on, checkpoints go to scratch, a stop
costs no more than the grace period."""

import json
import logging
import time
from pathlib import Path
from typing import Any, NamedTuple

from shared.context import Context
from shared.errors import RoadQAError, Stopped
from shared.settings import settings
from workers.trainer import channel, skipped, troubles
from workers.trainer.checkpoints import Cut, step_of
from workers.trainer.keeper import Best, Keeper, Waiting
from workers.trainer.nodes import Nodes, announced
from workers.trainer.ranks import Ranks
from workers.trainer.request import HISTORY, SKIPPED, RankRequest

log = logging.getLogger(__name__)


class Told(NamedTuple):
    """What the verb knows of the rows."""

    clips: int
    visual_tokens: str  #: in words


def run(
    request: RankRequest, cut: Cut, environment: dict[str, str], told: Told, ctx: Context, nodes: Nodes
) -> dict[str, Any]:
    """Train on from `request.resume` to the end; returns what the ranks tell of it.

    Raises:
        Stopped: asked to stop; what is in scratch is said.
        MediaError: too many clips cannot be decoded.
        RoadQAError: a rank failed.
    """
    keeper = Keeper(ctx.scratch, request.work, cut)
    attempt = _Attempt(request, keeper, told, ctx)
    with announced(request, cut, ctx.scratch, nodes) as launch:
        try:
            with Ranks(request, cut.processes // cut.nodes, environment, nodes) as ranks:
                for event in ranks.events():
                    attempt.look_round(event)
        except RoadQAError as error:
            keeper.close()  # what is on its way is whole, and the next attempt's
            if (why := launch.failure()) is not None:
                raise troubles.of(*why.split(": ", 1)) from error
            raise
    if attempt.outcome == "stopped":
        raise Stopped(attempt.farewell())
    if attempt.outcome != "trained":
        raise RoadQAError("the training processes ended without a result; their stderr says why")
    keeper.close()
    if keeper.failure is not None:
        raise keeper.failure
    found: dict[str, Any] = json.loads((request.work / HISTORY).read_text(encoding="utf-8"))
    found["skipped_clips"] = attempt.skipped()
    return found


class _Attempt:
    def __init__(self, request: RankRequest, keeper: Keeper, told: Told, ctx: Context) -> None:
        self._request, self._keeper, self._told, self._ctx = request, keeper, told, ctx
        self._noted = skipped.Skipped(request.work / SKIPPED)
        self._known: set[str] = set()
        self._asked: float | None = None  # when it was asked to stop
        self._stepped, self._step_seconds = time.monotonic(), 0.0
        self._judged: dict[str, float] = {}  # the newest validation
        self.outcome = "nothing"

    def look_round(self, event: dict[str, Any] | None) -> None:
        """Take one event of the ranks, or none; several times a second."""
        if self._ctx.stopping and self._asked is None:
            self._asked = time.monotonic()
            last = self._keeper.fits(self._step_seconds, settings().grace_seconds)
            log.info("stopping with%s a last checkpoint: %s", "" if last else "out", self._keeper.cost())
            channel.ask_to_stop(self._request.work, keep=last)
        if self._keeper.failure is not None:
            raise self._keeper.failure
        self._check_skipped()
        match event:
            case {"event": "begin", "checkpoint_bytes": int(size)}:
                self._keeper.size = size
                cost = self._keeper.cost()
                log.info("a stop costs a checkpoint: %s", cost)
                at = step_of(self._request.resume)
                self._stepped = time.monotonic()
                self._ctx.progress(
                    at, self._request.steps, "steps", visual_tokens=self._told.visual_tokens, stop_costs=cost
                )
            case {"event": "log", "step": step, **facts}:
                now = time.monotonic()
                self._stepped, self._step_seconds = now, now - self._stepped
                self._ctx.progress(
                    step, self._request.steps, "steps", **facts, **self._judged, stop_costs=self._keeper.cost()
                )
            case {"event": "validation", "step": _, **facts}:
                self._judged = facts
            case {"event": "best", "step": step, "folder": folder}:
                self._keeper.take(Best(Path(folder), step))
            case {"event": "checkpoint", "step": step, "folder": folder, "seconds": seconds}:
                self._keeper.take(Waiting(Path(folder), step, seconds))
            case {"event": "end", "outcome": str(outcome)}:
                self.outcome = outcome

    def _check_skipped(self) -> None:
        for digest, why in self._noted.found().items():
            if digest not in self._known:
                self._known.add(digest)
                self._ctx.scratch.put(f"skipped/{digest}", why.encode())  # met before a resume counts too
                log.warning("clip skipped: %s", why)
                skipped.judge(self.skipped(), self._told.clips)

    def skipped(self) -> dict[str, str]:
        """Digest → why, over all attempts."""
        keys = list(self._ctx.scratch.keys("skipped/"))
        return {key.removeprefix("skipped/"): (self._ctx.scratch.get(key) or b"").decode() for key in keys}

    def farewell(self) -> str:
        """Wait for the last checkpoint while there is time; what stands then."""
        assert self._asked is not None
        left = settings().grace_seconds - (time.monotonic() - self._asked)
        whole = self._keeper.close(max(0.0, left))
        stands = "no checkpoint" if self._keeper.kept is None else f"the checkpoint of step {self._keeper.kept}"
        late = "" if whole else "; a later one was not uploaded in time"
        return f"training stopped; {stands} of this attempt is kept{late}, and the next attempt goes on from the newest"
