"""Teachers: multimodal models behind a network service, asked once and remembered."""

from urllib.parse import urlsplit

from shared.context import Scratch
from shared.contracts import TeacherRecipe
from shared.errors import UsageError
from shared.settings import Settings, settings
from shared.teachers.gemini import GeminiTeacher
from shared.teachers.journal import Entry, Journal
from shared.teachers.limit import SharedLimit
from shared.teachers.pace import Limit, Pace
from shared.teachers.teacher import Reply, Request, Teacher, TeacherError, Usage
from shared.teachers.tries import Patience

__all__ = [
    "Entry", "Journal", "Limit", "Pace", "Patience", "Reply", "Request", "SharedLimit", "Teacher", "TeacherError",
    "Usage", "connect", "from_settings",
]  # fmt: skip


def connect(
    recipe: TeacherRecipe,
    *,
    api_key: str | None,
    base_url: str | None = None,
    in_flight: int = 32,
    limit: Limit | None = None,
    patience: Patience = Patience(),  # noqa: B008 - frozen
    inline_limit: int = 4 * 2**20,
) -> Teacher:
    """The teacher a recipe names. Call it inside the event loop that will ask.

    Raises:
        UsageError: no key.
    """
    if not api_key:
        raise UsageError("no key for the teacher; set ROADQA_GEMINI_API_KEY, or mount it as a file")
    pace = Pace(in_flight, limit)
    return GeminiTeacher(api_key, base_url=base_url, pace=pace, patience=patience, inline_limit=inline_limit)
