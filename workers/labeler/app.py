"""`celery -A workers.labeler.app worker`"""

from shared.broker import make_app

app = make_app("labeler", include=("workers.labeler.tasks",))
