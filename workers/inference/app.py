"""`celery -A workers.inference.app worker`"""

from shared.broker import make_app

app = make_app("inference", include=("workers.inference.tasks",))
