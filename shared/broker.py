"""The Celery application. A message is only an offer: it may be lost or doubled, and nothing breaks."""

import logging
from typing import Any

from celery import Celery

from shared.bootsteps import HeartbeatFile, NextAtOnce, OneShot
from shared.settings import settings

log = logging.getLogger(__name__)


def make_app(queue: str | None = None, include: tuple[str, ...] = ()) -> Celery:
    """A worker's application (its queue and task modules), or the conductor's client side (no queue).

    Early acknowledgement and no prefetch: the lease alone says what is under way.
    """
    config = settings()
    app = Celery("roadqa", broker=config.redis_url.get_secret_value(), include=list(include))
    app.conf.update(_CONF)
    if queue:
        app.conf.task_default_queue = queue
        app.steps["consumer"].add(NextAtOnce)
    if config.heartbeat_file:
        app.steps["consumer"].add(HeartbeatFile)
    if config.one_shot_seconds:
        app.steps["consumer"].add(OneShot)
    return app


_CONF: dict[str, Any] = {
    "accept_content": ["json"],
    "task_serializer": "json",
    "task_ignore_result": True,
    "task_acks_late": False,
    "worker_prefetch_multiplier": 1,
    "worker_disable_prefetch": True,
    "worker_pool": "threads",
    "worker_concurrency": 1,
    "worker_hijack_root_logger": False,
    "worker_redirect_stdouts": False,  # a child's stderr has its own form
    "worker_cancel_long_running_tasks_on_connection_loss": False,
    "worker_enable_remote_control": False,
    "worker_send_task_events": False,
    "broker_connection_retry_on_startup": True,
    "broker_connection_max_retries": None,
    "broker_transport_options": {
        "visibility_timeout": 3600,  # nothing is unacknowledged for longer than a moment
        "socket_timeout": 30,
        "socket_connect_timeout": 5,
        "socket_keepalive": True,
        "health_check_interval": 10,
    },
}
