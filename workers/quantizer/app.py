"""`celery -A workers.quantizer.app worker`"""

from shared.broker import make_app

app = make_app("quantizer", include=("workers.quantizer.tasks",))
