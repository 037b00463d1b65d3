"""What was answered once is never asked again."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from shared.context import FolderScratch
from shared.contracts import TeacherRecipe
from shared.teachers import Journal, Reply, Request, TeacherError, Usage


class Answer(BaseModel):
    reasoning: str
    answer: int


class Counting:
    """A teacher that counts, and fails with `kind` where one is set."""

    def __init__(self, kind: Any = None) -> None:
        self.asked = 0
        self.kind = kind

    async def ask(self, request: Request, clip: Path | None) -> Reply:
        self.asked += 1
        await asyncio.sleep(0)
        if self.kind:
            raise TeacherError(self.kind, "no")
        return Reply({"reasoning": "", "answer": self.asked}, Usage(10, 2, 1), "model-1")

    async def release(self, clip: str) -> None: ...

    async def aclose(self) -> None: ...


def request(**changes: Any) -> Request:
    fields = {"teacher": TeacherRecipe(), "prompt_id": "p.v1", "prompt": "?", "answer": Answer, "clip": "0" * 64}
    return Request(**(fields | changes))


def ask(folder: Path, teacher: Counting, *requests: Request) -> tuple[Journal, list[Any]]:
    async def run() -> tuple[Journal, list[Any]]:
        journal = Journal(FolderScratch(folder), teacher)
        return journal, list(await asyncio.gather(*(journal.ask(item, None) for item in requests)))

    return asyncio.run(run())


def test_another_process_asks_nothing_again(tmp_path: Path) -> None:
    first, (entry,) = ask(tmp_path, Counting(), request())
    second, (again,) = ask(tmp_path, teacher := Counting(), request())
    assert entry == again
    assert teacher.asked == 0
    assert (first.replayed, second.replayed) == (0, 1)
    assert second.usage == Usage()


def test_the_same_request_twice_at_once_is_asked_once(tmp_path: Path) -> None:
    _, entries = ask(tmp_path, teacher := Counting(), request(), request())
    assert teacher.asked == 1
    assert entries[0] == entries[1]


@pytest.mark.parametrize(
    "changes",
    [
        {"prompt": "Another?"}, {"prompt_id": "p.v2"}, {"clip": "1" * 64}, {"order": (1, 0)}, {"slot": 1},
        {"round": 1}, {"seed": 1}, {"teacher": TeacherRecipe(temperature=0)}, {"teacher": TeacherRecipe(model="m")},
    ],
)  # fmt: skip
def test_whatever_decides_the_answer_is_in_the_key(changes: dict[str, Any]) -> None:
    assert request(**changes).key != request().key


@pytest.mark.parametrize("kind", ["blocked", "empty", "malformed"])
def test_an_unusable_answer_is_final_and_kept(tmp_path: Path, kind: str) -> None:
    _, (entry,) = ask(tmp_path, Counting(kind), request())
    assert (entry.problem, entry.data) == (kind, None)
    ask(tmp_path, teacher := Counting(), request())
    assert teacher.asked == 0


@pytest.mark.parametrize("kind", ["rate limited", "server", "timeout", "connection", "rejected"])
def test_a_service_that_failed_is_asked_again_later(tmp_path: Path, kind: str) -> None:
    with pytest.raises(TeacherError):
        ask(tmp_path, Counting(kind), request())
    _, (entry,) = ask(tmp_path, Counting(), request())
    assert entry.data == {"reasoning": "", "answer": 1}
