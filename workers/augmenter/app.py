"""`celery -A workers.augmenter.app worker`"""

from shared.broker import make_app

app = make_app("augmenter", include=("workers.augmenter.tasks",))
