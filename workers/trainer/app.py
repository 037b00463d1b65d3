"""`celery -A workers.trainer.app worker`"""

from shared.broker import make_app

app = make_app("trainer", include=("workers.trainer.tasks",))
