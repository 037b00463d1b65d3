"""Heavy verbs in processes of their own: what they say arrives, and nothing of them is left."""

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from shared import child
from shared.context import LocalContext
from shared.contracts import EvaluateRecipe
from shared.errors import InputError, RoadQAError, Stopped
from shared.settings import settings
from tests.waiting import wait_for

MODULE = "tests.integration.sample_verb"


@pytest.fixture
def give(tmp_path: Path) -> Callable[..., dict[str, object]]:
    out = tmp_path / "out"
    out.mkdir()

    def call(order: str, verb: Callable[..., dict[str, object]], ctx: LocalContext | None = None) -> dict[str, object]:
        (tmp_path / "order").write_text(order)
        return verb({"order": [tmp_path]}, EvaluateRecipe(seed=5), out, ctx or LocalContext(tmp_path / "scratch"))

    return call


def test_facts_files_and_progress_come_back(give: Callable[..., dict[str, object]], tmp_path: Path) -> None:
    ctx = LocalContext(tmp_path / "scratch")
    assert give("work", child.once(MODULE), ctx)["seed"] == 5
    assert (tmp_path / "out" / "done").read_text() == "yes"
    assert ctx.reports == [(1, 2, "halves", {"loss": 0.5})]


def test_an_error_keeps_its_kind_and_words(give: Callable[..., dict[str, object]]) -> None:
    with pytest.raises(InputError, match="row 3: no choices"):
        give("refuse", child.once(MODULE))


def test_a_crash_is_told_with_exit_code_and_last_words(give: Callable[..., dict[str, object]]) -> None:
    with pytest.raises(RoadQAError, match=r"exit code 7.*the last words"):
        give("crash", child.once(MODULE))


def test_a_resident_stays_and_is_replaced_when_it_died(give: Callable[..., dict[str, object]]) -> None:
    verb = child.resident(MODULE)
    first = give("work", verb)["pid"]
    assert give("work", verb)["pid"] == first
    with pytest.raises(RoadQAError):
        give("crash", verb)
    assert give("work", verb)["pid"] != first


def test_a_resident_stays_after_a_refusal_but_not_after_a_failure(give: Callable[..., dict[str, object]]) -> None:
    verb = child.resident(MODULE)
    first = give("work", verb)["pid"]
    with pytest.raises(InputError):
        give("refuse", verb)
    assert give("work", verb)["pid"] == first
    with pytest.raises(RoadQAError, match="failed to map"):
        give("break", verb)
    assert give("work", verb)["pid"] != first


@pytest.mark.parametrize("order", ["wait", "deaf"])
def test_nothing_of_a_stopped_child_is_left(
    give: Callable[..., dict[str, object]], tmp_path: Path, order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROADQA_GRACE_SECONDS", "1.5")
    settings.cache_clear()
    ctx = LocalContext(tmp_path / "scratch")
    threading.Thread(target=lambda: (wait_for(lambda: ctx.reports, seconds=30), ctx.stop())).start()
    with pytest.raises(Stopped):
        give(order, child.once(MODULE), ctx)
    settings.cache_clear()
    pids = json.loads((tmp_path / "out" / "pids").read_text())
    wait_for(lambda: not any(alive(pid) for pid in pids), seconds=30)


def test_a_stop_on_the_heels_of_the_request_is_heard(give: Callable[..., dict[str, object]], tmp_path: Path) -> None:
    class Impatient(LocalContext):
        """Asked to stop between its first and its second look."""

        looks = 0

        @property
        def stopping(self) -> bool:
            self.looks += 1
            return self.looks > 1

        @stopping.setter
        def stopping(self, _: bool) -> None:
            self.looks = 0

    began = time.monotonic()
    with pytest.raises(Stopped, match="put down"):
        give("wait", child.once(MODULE), Impatient(tmp_path / "scratch"))
    assert time.monotonic() - began < settings().grace_seconds


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
