"""Checkpoints go to scratch behind the ranks' back: what stands, what a stop costs, when a last one is worth it."""

import threading
from pathlib import Path

import pytest
import torch

from shared.context import FolderScratch
from shared.errors import RoadQAError, StoreError
from tests.waiting import wait_for
from workers.trainer import checkpoints, tensors
from workers.trainer.channel import GO_ON, KEEP, KEEP_AND_STOP, STOP, ask_to_stop, wanted
from workers.trainer.checkpoints import Cut
from workers.trainer.keeper import Keeper, Waiting

CUT = Cut(2)


def _written(work: Path, step: int, size: int = 1000) -> Waiting:
    folder = work / f"checkpoint-{step}"
    folder.mkdir()
    (folder / "shard").write_bytes(bytes(size))
    return Waiting(folder, step, write_seconds=0.5)


class Slow(FolderScratch):
    """Takes a folder when it is told to."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.may = threading.Event()

    def put_folder(self, name: str, folder: Path) -> None:
        assert self.may.wait(10)
        super().put_folder(name, folder)


def test_the_newest_two_stand(tmp_path: Path) -> None:
    scratch = FolderScratch(tmp_path / "scratch")
    for step in (3, 6, 9):
        checkpoints.keep(scratch, _written(tmp_path, step).folder, step, CUT)
        checkpoints.keep(scratch, tmp_path / f"checkpoint-{step}", step, Cut(4))  # another number of processes
    assert checkpoints.kept_steps(scratch, CUT) == checkpoints.kept_steps(scratch, Cut(4)) == [6, 9]
    found = checkpoints.newest(scratch, CUT, tmp_path / "next")
    assert found is not None
    assert (checkpoints.step_of(found), (found / "shard").stat().st_size) == (9, 1000)
    assert checkpoints.newest(scratch, Cut(8), tmp_path) is None


def test_a_checkpoint_of_several_nodes_is_whole_once_all_parts_are_there(tmp_path: Path) -> None:
    scratch, cut = FolderScratch(tmp_path / "scratch"), Cut(4, nodes=2)
    for step in (1, 2, 3):
        for node in (0, 1):
            part = tmp_path / f"{step}-{node}"
            part.mkdir()
            (part / f"rank-{node}").write_text(str(step))
            checkpoints.keep(scratch, part, step, cut, node)
    checkpoints.keep(scratch, tmp_path / "3-0", 4, cut, 0)
    assert checkpoints.kept_steps(scratch, cut) == [2, 3]
    found = checkpoints.newest(scratch, cut, tmp_path / "next")
    assert found is not None
    assert {path.name: path.read_text() for path in found.iterdir()} == {"rank-0": "3", "rank-1": "3"}


def test_an_upload_holds_nobody_up_and_no_other_is_written_meanwhile(tmp_path: Path) -> None:
    scratch = Slow(tmp_path / "scratch")
    keeper = Keeper(scratch, tmp_path, CUT)
    keeper.take(_written(tmp_path, 1))  # comes back at once
    assert wanted(tmp_path, keep_now=True) == GO_ON
    scratch.may.set()
    wait_for(lambda: wanted(tmp_path, keep_now=True) == KEEP)
    assert (keeper.kept, scratch.folders()) == (1, [checkpoints.name(1, CUT)])
    assert not (tmp_path / "checkpoint-1").exists()
    assert keeper.close(10)


def test_a_stop_costs_what_was_measured(tmp_path: Path) -> None:
    keeper = Keeper(FolderScratch(tmp_path / "scratch"), tmp_path, CUT)
    keeper.size = 120_000_000_000
    assert keeper.cost() == "120 GB, upload not measured yet"
    assert keeper.fits(step_seconds=5, grace_seconds=60)  # nothing stands: it is tried
    keeper.rate, keeper.write_seconds = 500e6, 60.0
    assert keeper.cost() == "120 GB, 300 s"
    assert not keeper.fits(step_seconds=5, grace_seconds=300)
    assert keeper.fits(step_seconds=5, grace_seconds=400)
    assert keeper.close(10)


def test_an_upload_under_way_counts(tmp_path: Path) -> None:
    scratch = Slow(tmp_path / "scratch")
    keeper = Keeper(scratch, tmp_path, CUT)
    keeper.rate = 100.0  # bytes a second: 10 s for the one under way, 10 s for another
    keeper.take(_written(tmp_path, 1))
    wait_for(lambda: keeper.size == 1000)
    assert not keeper.fits(step_seconds=1, grace_seconds=20)
    assert keeper.fits(step_seconds=1, grace_seconds=30)
    assert not keeper.close(0.01)
    scratch.may.set()
    assert keeper.close(10)


def test_an_upload_that_fails_leaves_what_stood(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Away(FolderScratch):
        def put_folder(self, name: str, folder: Path) -> None:
            if "00000002" in name:
                raise StoreError("the object store does not answer")
            super().put_folder(name, folder)

    keeper = Keeper(Away(tmp_path / "scratch"), tmp_path, CUT)
    for step in (1, 2, 3):
        keeper.take(_written(tmp_path, step))
    assert keeper.close(10)
    assert checkpoints.kept_steps(Away(tmp_path / "scratch"), CUT) == [1, 3]
    assert "the checkpoint of step 2 is not kept: the object store does not answer" in caplog.text


def test_the_ranks_are_told_whether_a_last_checkpoint_is_worth_it(tmp_path: Path) -> None:
    assert wanted(tmp_path, keep_now=False) == GO_ON
    for keep, decision in ((True, KEEP_AND_STOP), (False, STOP)):
        ask_to_stop(tmp_path, keep=keep)
        assert wanted(tmp_path, keep_now=True) == decision


def test_a_checkpoint_of_other_tensors_is_not_loaded(tmp_path: Path) -> None:
    two = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 2))
    tensors.write(tmp_path, two)
    tensors.same(tmp_path, two)
    for other in (torch.nn.Sequential(torch.nn.Linear(2, 3)), torch.nn.Sequential(torch.nn.Linear(2, 3, bias=False))):
        with pytest.raises(RoadQAError, match="does not fit this model: its tensor"):
            tensors.same(tmp_path, other)
    two[0].requires_grad_(False)
    with pytest.raises(
        RoadQAError, match=r"\['0.weight', \[3, 2\], True\], the model has \['0.weight', \[3, 2\], False\]"
    ):
        tensors.same(tmp_path, two)


def test_a_checkpoints_size_is_reckoned_before_there_is_one() -> None:
    layer = torch.nn.Linear(1000, 1000, bias=False)
    assert tensors.checkpoint_bytes(layer, torch.bfloat16) == 14_000_000  # an 8B: 120 GB
    layer.requires_grad_(False)
    assert tensors.checkpoint_bytes(layer, torch.bfloat16) == 2_000_000
