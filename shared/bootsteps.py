"""What a worker's consumer can do besides: take the next offer at once, keep a heartbeat file fresh, take one only."""

import contextlib
import socket
import threading
import time
from typing import Any

from celery import bootsteps, signals
from celery.platforms import EX_OK
from celery.worker import state
from celery.worker.consumer.tasks import Tasks

from shared.settings import settings

_LOOK_SECONDS = 0.2
_TURN_AFTER = (0.01, 0.05, 0.2)  # seconds


class NextAtOnce(bootsteps.StartStopStep):  # type: ignore[misc]
    """Turns the consumer's event loop when a task has ended.

    Without prefetch the loop asks for the next message only when it turns, and after a task nothing turns it but its
    own clock, once a second.
    """

    requires = (Tasks,)

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        self._hub: Any = None
        self._ended, self._told = socket.socketpair()
        self._ended.setblocking(False)
        self._told.setblocking(False)
        signals.task_postrun.connect(self._on_end)

    def start(self, consumer: Any) -> None:
        """With each new connection."""
        self._hub = consumer.hub
        self._hub.add_reader(self._told, self._turn)

    def stop(self, consumer: Any) -> None:
        if self._hub is not None:
            self._hub.remove(self._told)
            self._hub = None

    def _on_end(self, **_: Any) -> None:
        """In the task's own thread."""
        with contextlib.suppress(BlockingIOError):  # full: the loop will turn
            self._ended.send(b".")

    def _turn(self) -> None:
        """In the loop's. Celery counts the task as ended a moment after it tells of its end."""
        with contextlib.suppress(BlockingIOError):
            self._told.recv(4096)
        for seconds in _TURN_AFTER:
            self._hub.call_later(seconds, _nothing)


def _nothing() -> None:
    """Only that the loop turns."""


class HeartbeatFile(bootsteps.StartStopStep):  # type: ignore[misc]
    """Touches `ROADQA_HEARTBEAT_FILE` from the consumer's event loop.

    The loop turns while a task is under way, however long that takes. One that is stuck, or waits for its broker,
    lets the file grow old. Celery itself cancels the timers of a connection that it lost.
    """

    requires = (Tasks,)

    def start(self, consumer: Any) -> None:
        file = settings().heartbeat_file
        assert file is not None
        file.touch()
        consumer.timer.call_repeatedly(settings().heartbeat_seconds, file.touch)


class OneShot(bootsteps.StartStopStep):  # type: ignore[misc]
    """Ends the worker after one offer, or after `ROADQA_ONE_SHOT_SECONDS` without any, by Celery's warm shutdown.

    Kombu asks `can_consume` before it asks Redis for a message, and again before it reads the answer. (Celery hooks
    in at the same place for `worker_disable_prefetch`.) A question that is out is let come back: what Redis has
    popped for it is in no queue any more.
    """

    requires = (Tasks,)

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        self._closed = threading.Event()  # no further offer is wanted
        self._channel: Any = None
        signals.task_received.connect(self._on_received)
        threading.Thread(target=self._end, name="one-shot", daemon=True).start()  # no loop turns without a broker

    def start(self, consumer: Any) -> None:
        """With each new connection."""
        self._channel = channel = consumer.task_consumer.channel
        allowed = channel.qos.can_consume
        channel.qos.can_consume = lambda: (channel._in_poll or not self._closed.is_set()) and allowed()

    def stop(self, consumer: Any) -> None:
        self._channel = None

    def _on_received(self, **_: Any) -> None:
        self._closed.set()

    def _end(self) -> None:
        self._closed.wait(settings().one_shot_seconds)
        self._closed.set()
        time.sleep(_LOOK_SECONDS)  # the loop may be at the point of asking, or of reserving what it received
        while self._busy():
            time.sleep(_LOOK_SECONDS)
        state.should_stop = EX_OK

    def _busy(self) -> bool:
        channel = self._channel
        return bool(state.reserved_requests or (channel and channel._in_poll))
