"""Teachers: multimodal models behind a network service, asked once and remembered."""

from shared.context import Scratch
from shared.contracts import TeacherRecipe
from shared.errors import UsageError
from shared.settings import settings
from shared.teachers.batch import BatchTeacher
from shared.teachers.gemini import GeminiTeacher
from shared.teachers.gemini_service import INLINE
from shared.teachers.jobs import BatchPatience
from shared.teachers.journal import Entry, Journal
from shared.teachers.limit import SharedLimit
from shared.teachers.openai_compatible import OpenAITeacher
from shared.teachers.pace import Limit, Pace
from shared.teachers.teacher import Reply, Request, Teacher, TeacherError, Usage
from shared.teachers.tries import Patience

__all__ = [
    "BatchPatience", "BatchTeacher", "Entry", "Journal", "Limit", "Pace", "Patience", "Reply", "Request", "SharedLimit",
    "Teacher", "TeacherError", "Usage", "connect", "connect_batches", "from_settings",
]  # fmt: skip


def connect(
    recipe: TeacherRecipe,
    *,
    api_key: str | None,
    base_url: str | None = None,
    in_flight: int = 32,
    limit: Limit | None = None,
    patience: Patience = Patience(),
    inline_limit: int = INLINE,
) -> Teacher:
    """The teacher a recipe names. Call it inside the event loop that will ask.

    Raises:
        UsageError: no key, or no address.
    """
    pace = Pace(in_flight, limit)
    if recipe.provider == "openai":
        if not base_url:
            raise UsageError("no address of the teacher; set ROADQA_OPENAI_BASE_URL, such as http://host:8000/v1")
        return OpenAITeacher(api_key or "", base_url=base_url, pace=pace, patience=patience)
    if not api_key:
        raise UsageError("no key for the teacher; set ROADQA_GEMINI_API_KEY, or mount it as a file")
    return GeminiTeacher(api_key, base_url=base_url, pace=pace, patience=patience, inline_limit=inline_limit)


def connect_batches(
    recipe: TeacherRecipe,
    scratch: Scratch,
    *,
    api_key: str | None,
    base_url: str | None = None,
    patience: BatchPatience = BatchPatience(),
) -> Teacher:
    """The same teacher, asked in batch jobs. `scratch` keeps which requests are in which job.

    Raises:
        UsageError: no key, or a provider that has no batches.
    """
    if recipe.provider != "gemini":
        raise UsageError(f"provider {recipe.provider} is not asked in batches; unset ROADQA_TEACHER_BATCH")
    if not api_key:
        raise UsageError("no key for the teacher; set ROADQA_GEMINI_API_KEY, or mount it as a file")
    return BatchTeacher(api_key, scratch, base_url=base_url, patience=patience)


def from_settings(recipe: TeacherRecipe, scratch: Scratch) -> Teacher:
    """The teacher at the server, with the key, at the pace, and in the way that the settings name.

    Raises:
        UsageError: no key, or no address.
    """
    now = settings()
    openai = recipe.provider == "openai"
    key = (now.openai_api_key if openai else now.gemini_api_key).get_secret_value()
    url = (now.openai_base_url if openai else now.gemini_base_url) or None
    if now.teacher_batch:
        return connect_batches(recipe, scratch, api_key=key, base_url=url)
    limit = SharedLimit(
        now.redis_url.get_secret_value(), f"{recipe.provider} {url or ''}",
        now.teacher_requests_per_minute, now.teacher_tokens_per_minute,
    )  # fmt: skip
    return connect(recipe, api_key=key, base_url=url, in_flight=now.teacher_in_flight, limit=limit)
