"""A one-shot worker's gate, which kombu asks before it asks Redis for a message, and before it reads the answer."""

import select
import time
from types import SimpleNamespace

import pytest
from celery import signals
from celery.worker import state

from shared import bootsteps
from shared.settings import Settings


def connection() -> SimpleNamespace:
    """A consumer with as much of a channel as the step sees."""
    channel = SimpleNamespace(_in_poll=None, qos=SimpleNamespace(can_consume=lambda: True))
    return SimpleNamespace(task_consumer=SimpleNamespace(channel=channel))


def test_the_loop_turns_when_a_task_has_ended() -> None:
    readers: dict[object, object] = {}
    later: list[float] = []
    hub = SimpleNamespace(add_reader=readers.__setitem__, remove=readers.pop, call_later=lambda s, _: later.append(s))
    consumer = SimpleNamespace(hub=hub)
    step = bootsteps.NextAtOnce(consumer)
    step.start(consumer)
    ((told, turn),) = readers.items()
    assert not select.select([told], [], [], 0)[0]
    signals.task_postrun.send(sender=None)
    signals.task_postrun.send(sender=None)
    assert select.select([told], [], [], 0)[0] == [told]
    turn()  # type: ignore[operator]
    assert later
    assert max(later) < 1, "the loop turns by itself every second"
    assert not select.select([told], [], [], 0)[0], "it does not turn for ever"
    step.stop(consumer)
    assert not readers


def test_after_an_offer_nothing_is_asked_for_but_what_was_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootsteps, "settings", lambda: Settings(one_shot_seconds=60))
    monkeypatch.setattr(state, "should_stop", None)
    consumer = connection()
    step = bootsteps.OneShot(consumer)
    step.start(consumer)
    channel = consumer.task_consumer.channel
    assert channel.qos.can_consume()
    channel._in_poll = "a question is out"
    signals.task_received.send(sender=None)
    assert channel.qos.can_consume(), "else what Redis popped for it would be lost"
    channel._in_poll = None
    assert not channel.qos.can_consume()
    step.stop(consumer)
    again = connection()
    step.start(again)
    assert not again.task_consumer.channel.qos.can_consume(), "nor on another connection"
    deadline = time.monotonic() + 10
    while state.should_stop is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert state.should_stop == 0
