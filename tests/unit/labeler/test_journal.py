"""What was answered once is never asked again."""

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from shared.context import FolderScratch, LocalPurse
from shared.contracts import TeacherRecipe
from shared.errors import InputError, LimitReachedError, Stopped
from shared.prices import prices
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

    troubles: Counter[str] = Counter()
    batched = False

    async def prepare(self, request: Request, clip: Path | None) -> None: ...

    async def release(self, clip: str) -> None: ...

    async def aclose(self) -> None: ...


def request(**changes: Any) -> Request:
    fields = {"teacher": TeacherRecipe(), "prompt_id": "p.v1", "prompt": "?", "answer": Answer, "clip": "0" * 64}
    return Request(**(fields | changes))


def ask(folder: Path, teacher: Counting, *requests: Request, **options: Any) -> tuple[Journal, list[Any]]:
    async def run() -> tuple[Journal, list[Any]]:
        journal = Journal(FolderScratch(folder), teacher, **options)
        return journal, list(await asyncio.gather(*(journal.ask(item, None) for item in requests)))

    return asyncio.run(run())


def test_another_process_asks_nothing_again(tmp_path: Path) -> None:
    first, (entry,) = ask(tmp_path, Counting(), request())
    second, (again,) = ask(tmp_path, teacher := Counting(), request())
    assert entry == again
    assert teacher.asked == 0
    assert (first.replayed, second.replayed) == (0, 1)
    assert first.usage == second.usage == Usage(10, 2, 1)
    assert (first.asked, second.asked) == (1, 0)


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


def test_a_request_holds_its_place_until_its_answer_is_kept(tmp_path: Path) -> None:
    """Else a kill could lose more paid answers than are in flight."""
    seen: list[tuple[int, int]] = []
    teacher = Counting()

    class Watching(FolderScratch):
        def put(self, key: str, data: bytes) -> None:
            seen.append((teacher.asked, sum(1 for _ in self.keys())))
            super().put(key, data)

    async def run() -> None:
        journal = Journal(Watching(tmp_path), teacher, in_flight=3)
        await asyncio.gather(*(journal.ask(request(slot=slot), None) for slot in range(20)))

    asyncio.run(run())
    assert len(seen) == 20
    assert max(asked - kept for asked, kept in seen) == 3


def test_what_waits_for_its_place_when_the_work_is_put_down_is_not_asked(tmp_path: Path) -> None:
    teacher = Counting()

    async def run() -> list[Any]:
        journal = Journal(FolderScratch(tmp_path), teacher, in_flight=2, stopping=lambda: teacher.asked >= 2)
        requests = (journal.ask(request(slot=slot), None) for slot in range(20))
        return list(await asyncio.gather(*requests, return_exceptions=True))

    results = asyncio.run(run())
    assert teacher.asked == 2
    assert sum(isinstance(result, Stopped) for result in results) == 18


def dear(slot: int = 0) -> Request:
    return request(slot=slot, teacher=TeacherRecipe(thinking_budget=0), seconds=10.0)


def test_the_limit_is_not_passed_by_requests_in_flight_together(tmp_path: Path) -> None:
    """Each is reserved at what it is expected to cost; the others wait until those have settled for less."""
    expected = prices().usd("gemini-2.5-pro", 20 * 258 + 1, 600)
    assert expected is not None
    purse = LocalPurse(limit=2.5 * expected)
    under_way: list[int] = []

    class Watched(Counting):
        async def ask(self, request: Request, clip: Path | None) -> Reply:
            under_way.append(1 + (under_way[-1] if under_way else 0))
            await asyncio.sleep(0.02)
            reply = await super().ask(request, clip)
            under_way.append(under_way[-1] - 1)
            return reply

    teacher = Watched()

    async def run() -> None:
        journal = Journal(FolderScratch(tmp_path), teacher, purse=purse)
        await asyncio.gather(*(journal.ask(dear(slot), None) for slot in range(9)))

    asyncio.run(asyncio.wait_for(run(), 30))
    assert (teacher.asked, max(under_way)) == (9, 2)
    paid = prices().usd("gemini-2.5-pro", 10, 2)
    assert paid is not None
    assert purse.spent == pytest.approx(9 * paid)


def test_what_is_paid_ends_it(tmp_path: Path) -> None:
    with pytest.raises(LimitReachedError):
        ask(tmp_path, teacher := Counting(), dear(), purse=LocalPurse(limit=0.001))
    assert teacher.asked == 0


def test_a_request_that_is_cancelled_on_its_way_is_taken_as_paid(tmp_path: Path) -> None:
    purse = LocalPurse(limit=1.0)

    class Silent(Counting):
        async def ask(self, request: Request, clip: Path | None) -> Reply:
            await asyncio.sleep(60)
            raise AssertionError

    async def run() -> None:
        journal = Journal(FolderScratch(tmp_path), Silent(), purse=purse)
        await asyncio.wait_for(journal.ask(dear(), None), 0.2)

    with pytest.raises(asyncio.TimeoutError):
        asyncio.run(run())
    assert purse.spent == pytest.approx(prices().usd("gemini-2.5-pro", 20 * 258 + 1, 600))


def test_a_damaged_entry_is_named(tmp_path: Path) -> None:
    FolderScratch(tmp_path).put(f"journal/{request().key}", b"{")
    with pytest.raises(InputError, match=f"journal/{request().key} is damaged: delete it"):
        ask(tmp_path, Counting(), request())


def test_a_replayed_answer_costs_nothing_again(tmp_path: Path) -> None:
    ask(tmp_path, Counting(), dear())
    journal, _ = ask(tmp_path, Counting(), dear(), purse=(purse := LocalPurse(limit=0.0)))
    assert purse.spent == 0
    assert journal.usd == prices().usd("gemini-2.5-pro", 10, 2), "what the answer cost is still known"


def test_a_failed_request_gives_its_reservation_back(tmp_path: Path) -> None:
    purse = LocalPurse(limit=1.0)
    with pytest.raises(TeacherError):
        ask(tmp_path, Counting("server"), dear(), purse=purse)
    assert purse.spent == 0
