"""From a service's words to a reply: valid by the request's own answer, or a failure of a named kind."""

import json
from typing import NoReturn

from pydantic import ValidationError

from shared.teachers.language import spoken
from shared.teachers.teacher import Final, Reply, Request, TeacherError, Usage

#: pydantic's names for a value that is well formed and not among those allowed.
_OUTSIDE = {"literal_error", "enum", "greater_than", "greater_than_equal", "less_than", "less_than_equal"}
_SHOWN = 200  #: characters of a useless answer that its error quotes


def read(text: str, request: Request, usage: Usage, model: str, *, cut: bool = False) -> Reply:
    """The reply in `text`, strictly by the schema: what it holds besides is left out.

    Args:
        cut: the service says that it ended before the answer did.

    Raises:
        TeacherError: empty, malformed, cut off, outside the choices, or in another language, with what it cost.
    """
    if not text.strip():
        fail("cut off" if cut else "empty", "no text", usage)
    try:
        # Line breaks as they are inside a string are no JSON, but some servers' grammars let them pass.
        answer = request.answer.model_validate_json(json.dumps(json.loads(text, strict=False)), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        kind: Final = "outside" if first["type"] in _OUTSIDE else "malformed"
        fail("cut off" if cut else kind, f"{first['loc']}: {first['msg']}: {text[:_SHOWN]!r}", usage)
    except (ValueError, RecursionError) as error:
        fail("cut off" if cut else "malformed", f"{error}: {text[:_SHOWN]!r}", usage)
    reply = Reply(answer.model_dump(mode="json"), usage, model)
    if not spoken(reply.data, request.language):
        fail("wrong language", f"not in {request.language}: {text[:_SHOWN]!r}", usage, reply)
    return reply


def fail(kind: Final, message: str, usage: Usage, reply: Reply | None = None) -> NoReturn:
    """Raise a `TeacherError` that was paid for."""
    failure = TeacherError(kind, message)
    failure.usage, failure.reply = usage, reply
    raise failure from None
