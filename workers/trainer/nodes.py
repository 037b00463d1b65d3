"""A training on several machines: the first tells the others what to run, over a TCP store of torch's.

Node 0 is a worker like any other: its verb plans, and opens the store at ROADQA_TRAINER_RENDEZVOUS for as long as an
attempt lasts. The others (`workers.trainer.node`) wait there. The ranks meet at the next port. torchrun's static
rendezvous is used, not c10d: the first node must hold rank 0, which writes the result where the verb looks for it.
"""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from shared.context import FolderScratch, Scratch
from shared.errors import UsageError
from shared.settings import Settings
from shared.store import StoreScratch
from workers.trainer.checkpoints import Cut, step_of
from workers.trainer.request import RankRequest

if TYPE_CHECKING:
    from torch.distributed import TCPStore

_TRAINING, _FAILED = "training", "failed"
_ASK_AGAIN, _SAY_WHY = timedelta(seconds=10), timedelta(seconds=5)


class Nodes(NamedTuple):
    """Where this machine stands among those of a training."""

    count: int = 1
    rank: int = 0
    host: str = "127.0.0.1"
    port: int = 29400  #: of the announcement; the ranks meet at the next one

    @classmethod
    def of(cls, settings: Settings) -> Nodes:
        """As the settings say.

        Raises:
            UsageError: the rendezvous is not host:port, or the rank is none of the nodes'.
        """
        if settings.trainer_nodes == 1:
            return cls()
        host, _, port = settings.trainer_rendezvous.rpartition(":")
        if not host or not port.isdecimal():
            raise UsageError(
                "ROADQA_TRAINER_NODES wants ROADQA_TRAINER_RENDEZVOUS, host:port of the first node; the next port too"
            )
        if settings.trainer_node_rank >= settings.trainer_nodes:
            raise UsageError(
                f"ROADQA_TRAINER_NODE_RANK is {settings.trainer_node_rank}: the last of {settings.trainer_nodes} nodes"
                f" is {settings.trainer_nodes - 1}"
            )
        return cls(settings.trainer_nodes, settings.trainer_node_rank, host, int(port))

    @property
    def launcher(self) -> list[str]:
        """The arguments of torch.distributed.run."""
        if self.count == 1:
            return ["--standalone"]
        return [
            f"--nnodes={self.count}",
            f"--node-rank={self.rank}",
            f"--master-addr={self.host}",
            f"--master-port={self.port + 1}",
        ]


ALONE = Nodes()


class Announcement(NamedTuple):
    """What a node must know to take part in one attempt."""

    id: str
    request: RankRequest  #: with the first node's paths
    cut: Cut
    resume_step: int  #: 0: from the start
    scratch: dict[str, str]  #: the task, or a folder


class Launch:
    """The first node's end."""

    def __init__(self, store: TCPStore | None = None) -> None:
        self._store = store

    def failure(self) -> str | None:
        """Why another node failed, once this one's ranks have; None where none says so within a few seconds."""
        from torch.distributed import DistError

        if self._store is None:
            return None
        try:
            self._store.wait([_FAILED], _SAY_WHY)
        except DistError:
            return None
        return self._store.get(_FAILED).decode()


@contextlib.contextmanager
def announced(request: RankRequest, cut: Cut, scratch: Scratch, nodes: Nodes) -> Iterator[Launch]:
    """Tell the other nodes of this attempt, while it lasts."""
    if nodes.count == 1:
        yield Launch()
        return
    from torch.distributed import TCPStore  # costs seconds; most trainings have one node

    store = TCPStore(nodes.host, nodes.port, is_master=True, wait_for_workers=False)
    told = {
        "id": uuid.uuid4().hex,
        "request": request.model_dump(mode="json"),
        "cut": cut,
        "resume_step": step_of(request.resume),
        "scratch": _where(scratch),
    }
    store.set(_TRAINING, json.dumps(told))
    yield Launch(store)


def heard(nodes: Nodes, last: str) -> tuple[Announcement, TCPStore] | None:
    """The announcement of an attempt other than `last`, and where it was made; None where there is none yet."""
    from torch.distributed import DistError, TCPStore

    try:
        store = TCPStore(nodes.host, nodes.port, is_master=False, timeout=_ASK_AGAIN, wait_for_workers=False)
        found: dict[str, Any] = json.loads(store.get(_TRAINING))
    except DistError:  # nobody is there, or no longer
        return None
    if found["id"] == last:
        return None
    told = Announcement(
        found["id"],
        RankRequest.model_validate(found["request"]),
        Cut(*found["cut"]),
        found["resume_step"],
        found["scratch"],
    )
    return told, store


def failed(store: TCPStore, why: str) -> None:
    """Tell the first node why this one failed."""
    from torch.distributed import DistError

    with contextlib.suppress(DistError):  # it is gone
        store.set(_FAILED, why)


def _where(scratch: Scratch) -> dict[str, str]:
    if isinstance(scratch, StoreScratch):
        return {"task": scratch.task}
    assert isinstance(scratch, FolderScratch)
    return {"folder": str(scratch.root.absolute())}
