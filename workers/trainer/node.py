"""One more machine of a training on several: `python -m workers.trainer.node`.

It waits for what the first node announces (`nodes.py`), fetches the same inputs and the same checkpoint from the store,
runs its ranks, and takes its own part of each checkpoint to scratch; then it waits for the next.
"""

import logging
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shared.context import FolderScratch, Scratch
from shared.errors import RoadQAError, UsageError
from shared.run import Task
from shared.settings import settings
from shared.store import StoreScratch, store
from workers.trainer import checkpoints
from workers.trainer.keeper import Keeper, Waiting
from workers.trainer.nodes import Announcement, Nodes, failed, heard
from workers.trainer.ranks import Ranks
from workers.trainer.request import RankRequest
from workers.trainer.train import environment, gpus

log = logging.getLogger(__name__)

_LOOK_AGAIN = 1.0  # seconds, while the last attempt is still announced


def take_part(nodes: Nodes, last: str = "") -> str:
    """Wait for an attempt other than `last`, run this node's ranks in it to its end; returns its id."""
    while (found := heard(nodes, last)) is None:
        time.sleep(_LOOK_AGAIN)
    told, first = found
    log.info("taking part in attempt %s as node %d of %d", told.id, nodes.rank, nodes.count)
    try:
        with _laid_out(told) as (request, scratch):
            _run(told, request, scratch, nodes)
    except RoadQAError as error:
        log.error("attempt %s failed here: %s", told.id, error)
        failed(first, f"{type(error).__name__}: {error}")
    return told.id


def _run(told: Announcement, request: RankRequest, scratch: Scratch, nodes: Nodes) -> None:
    keeper = Keeper(scratch, request.work, told.cut, nodes.rank)
    processes = told.cut.processes // told.cut.nodes
    try:
        with Ranks(request, processes, environment(processes, gpus()), nodes) as ranks:
            for event in ranks.events():
                match event:
                    case {"event": "checkpoint", "step": step, "folder": folder, "seconds": seconds}:
                        keeper.take(Waiting(Path(folder), step, seconds))
    finally:
        keeper.close(settings().grace_seconds)


@contextmanager
def _laid_out(told: Announcement) -> Iterator[tuple[RankRequest, Scratch]]:
    """The request with this machine's paths, and the task's scratch."""
    if "folder" in told.scratch:  # without a store: the nodes see the same folders
        with tempfile.TemporaryDirectory(prefix="node-") as space:
            scratch = FolderScratch(Path(told.scratch["folder"]))
            here = told.request
            yield _own(told, Path(space), here.model, here.data, here.validation, scratch), scratch
        return
    kept = store()
    task = Task.model_validate_json(kept.read(f"requests/{told.scratch['task']}"))
    with kept.workspace() as space:
        folders: dict[str, list[Path]] = {}
        for name, artifacts in task.inputs.items():
            for number, artifact in enumerate(artifacts):
                folder = space / name / f"{number:05d}"
                folder.mkdir(parents=True)
                kept.get_artifact(artifact, folder)
                folders.setdefault(name, []).append(folder)
        durable = StoreScratch(kept, task.key)
        judged = tuple(folders.get("validation", ()))
        yield _own(told, space, folders["model"][0], tuple(folders["data"]), judged, durable), durable


def _own(
    told: Announcement,
    space: Path,
    model: Path,
    data: tuple[Path, ...],
    validation: tuple[Path, ...],
    scratch: Scratch,
) -> RankRequest:
    work = space / "work"
    work.mkdir()
    resume = None
    if told.resume_step:
        resume = checkpoints.fetch(scratch, told.cut, told.resume_step, work / "checkpoints")
        if resume is None:
            raise RoadQAError(f"the checkpoint of step {told.resume_step} is gone from scratch")
    own = {
        "model": model,
        "data": data,
        "validation": validation,
        "out": space / "out",
        "work": work,
        "cache": settings().cache_dir.absolute() / "frames",
        "resume": resume,
        "best": None,  # the first node writes the result
    }
    return told.request.model_copy(update=own)


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    nodes = Nodes.of(settings())
    if nodes.rank == 0:
        raise UsageError("the first node is the worker itself; ROADQA_TRAINER_NODE_RANK of the others starts at 1")
    last = ""
    while True:
        last = take_part(nodes, last)


if __name__ == "__main__":
    main()
