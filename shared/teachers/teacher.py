"""What a teacher is: a clip and a prompt go in, a reply bound to an answer's schema comes out."""

import hashlib
import json
import math
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

from pydantic import BaseModel

from shared.contracts import TeacherRecipe
from shared.errors import RoadQAError

#: The service could not answer: these say nothing about the clip or the question.
#: `stuck`: an uploaded clip did not become usable in time; `lost`: a batch job ended without this answer.
Transient = Literal["rate limited", "server", "timeout", "connection", "stuck", "lost"]
#: The service answered, but not with something that can be used. `cut off`: it ended before the answer did;
#: `outside`: well formed, but not one of the choices.
Final = Literal["blocked", "empty", "malformed", "cut off", "outside", "wrong language", "rejected"]
TRANSIENT: frozenset[str] = frozenset(("rate limited", "server", "timeout", "connection", "stuck", "lost"))
#: Cost nothing, and another time the service may answer: not kept.
UNPAID: frozenset[str] = TRANSIENT | {"rejected"}


class Usage(NamedTuple):
    """Tokens of one or more calls. Thinking counts as output, as it is billed."""

    tokens_in: int = 0  #: those from the service's cache included
    tokens_out: int = 0
    calls: int = 0
    tokens_cached: int = 0

    def plus(self, other: "Usage") -> "Usage":
        return Usage(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))


class Reply(NamedTuple):
    """A usable answer: `data` has been validated against the request's answer."""

    data: dict[str, Any]
    usage: Usage
    model: str  #: version the service says has answered


class TeacherError(RoadQAError):
    """The teacher gave no usable answer after all tries; `kind` says why, `usage` what it cost."""

    def __init__(self, kind: Transient | Final, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(f"the teacher gave no answer ({kind}): {message}")
        self.kind = kind
        self.message = message
        #: Seconds the service asked to wait; None where it said none, or nothing that is a wait.
        self.retry_after = retry_after if retry_after is not None and 0 < retry_after < math.inf else None
        self.usage = Usage()
        self.reply: Reply | None = None  #: an answer that fits, though something about it is wrong

    @property
    def transient(self) -> bool:
        return self.kind in TRANSIENT


@dataclass(frozen=True)
class Request:
    """One question to a teacher, with everything that decides its answer."""

    teacher: TeacherRecipe
    prompt_id: str  #: name and version of the prompt's file
    prompt: str
    answer: type[BaseModel]  #: what the reply must look like
    clip: str | None = None  #: digest; None for a request without a video
    seconds: float = 0.0  #: length of the clip; decides what is expected to be paid, not the answer
    order: tuple[int, ...] = ()  #: the choice shown at each place
    slot: int = 0
    round: int = 0
    seed: int = 0
    language: str | None = None  #: ISO code of the language the prose is to be in; None: not looked at

    @cached_property
    def schema(self) -> dict[str, Any]:
        return self.answer.model_json_schema()

    @cached_property
    def key(self) -> str:
        """SHA-256 over all of it: two requests share a key only where they are the same request."""
        parts = {
            "teacher": self.teacher.model_dump(mode="json"),
            "prompt_id": self.prompt_id,
            "prompt": self.prompt,
            "schema": self.schema,
            "clip": self.clip,
            "order": self.order,
            "slot": self.slot,
            "round": self.round,
            "seed": self.seed,
            "language": self.language,
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


class Teacher(Protocol):
    """A multimodal model behind a network service."""

    #: Every failed try by kind, those that another try made good included.
    troubles: Counter[str]
    #: Whether requests go in jobs, at the price of those, and those that wait at the same time together.
    batched: bool

    async def prepare(self, request: Request, clip: Path | None) -> None:
        """Do what needs no turn, such as sending the clip. What goes wrong here is met again, and told, by `ask`."""
        ...

    async def ask(self, request: Request, clip: Path | None) -> Reply:
        """Ask, and ask again within bounds where that may help.

        Raises:
            TeacherError: no usable answer after all tries.
            UsageError: the service refuses the key or does not know the model.
        """
        ...

    async def release(self, clip: str) -> None:
        """Give up what the service holds for the clip with this digest."""
        ...

    async def aclose(self) -> None: ...
