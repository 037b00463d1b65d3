"""A training on two nodes: here two torchrun agents on loopback, one process each, which share scratch alone."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from shared.context import LocalContext
from shared.errors import UsageError
from shared.settings import Settings
from shared.spread import halved, spread
from tests.unit.trainer.conftest import RECIPE, Undisturbed
from workers.trainer.nodes import Nodes
from workers.trainer.train import train

ROOT = Path(__file__).parents[3]


def _two_ports() -> int:
    """A free port whose next one is free too."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port: int = first.getsockname()[1]
            try:
                second.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port


def test_two_nodes_of_one_process_train_what_one_node_of_two_does(
    undisturbed: Undisturbed, base: Path, labelled: Path, tmp_path: Path, runtime: Callable[..., None]
) -> None:
    runtime(nodes=2, processes=1, rendezvous=f"127.0.0.1:{_two_ports()}", checkpoint_seconds=0.5)
    own = {"ROADQA_TRAINER_NODE_RANK": "1", "ROADQA_CACHE_DIR": str(tmp_path / "cache"), "TMPDIR": str(tmp_path)}
    other = {**os.environ, "PYTHONPATH": str(ROOT), **own}
    out = tmp_path / "out"
    out.mkdir()
    ctx = LocalContext(tmp_path / "scratch")
    with subprocess.Popen([sys.executable, "-m", "workers.trainer.node"], env=other) as node:
        try:
            facts = train({"model": [base], "data": [labelled]}, RECIPE, out, ctx)
        finally:
            node.terminate()
    assert (facts["processes"], facts["steps"]) == (2, 12)
    one_node = undisturbed.training["losses"]
    assert max(abs(a - b) for a, b in zip(_losses(out), one_node, strict=True)) < 1e-6
    parts = {(folder[:13], folder[-11:]) for folder in ctx.scratch.folders()}
    assert {node for _, node in parts} == {"node-0-of-2", "node-1-of-2"}
    assert len(parts) == 2 * len({step for step, _ in parts})


def _losses(out: Path) -> list[float]:
    losses: list[float] = json.loads((out / "card.json").read_text())["training"]["losses"]
    return losses


def test_a_batch_is_dealt_to_nodes_alike() -> None:
    assert spread(16, 8, 2, nodes=2) == (16, 1, 1)
    assert spread(16, 3, 8, nodes=2) == (4, 4, 1)
    assert halved(16, spread(16, 3, 8, nodes=2)) == (4, 2, 2)
    with pytest.raises(UsageError, match="global_batch 15 cannot be dealt to 2 nodes"):
        spread(15, 2, 2, nodes=2)


@pytest.mark.parametrize(
    ("rendezvous", "rank", "words"), [("", 0, "ROADQA_TRAINER_RENDEZVOUS"), ("a:1", 2, "the last of 2 nodes is 1")]
)
def test_what_the_nodes_lack_is_said(rendezvous: str, rank: int, words: str) -> None:
    settings = Settings(trainer_nodes=2, trainer_rendezvous=rendezvous, trainer_node_rank=rank)
    with pytest.raises(UsageError, match=words):
        Nodes.of(settings)
